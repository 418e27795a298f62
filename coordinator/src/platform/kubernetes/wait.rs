//! Waiting: until nothing of some workloads runs any more, or as much of them is ready as was. Each wait has a deadline and ends with reasons.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use keepsake_core::error::{Error, Kind, Result};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use tokio::time::Instant;

use super::api::{Cluster, Pace};
use super::names::HOOK_JOBS;
use super::pod::Seen;
use super::record::Me;
use super::rollout;
use super::workload::Workload;

impl Cluster {
    /// The workload as it is now; none when it is gone.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn again(&self, workload: &Workload) -> Result<Option<Workload>> {
        let found = self.get(&workload.sort.resource(), &workload.namespace, &workload.name).await?;
        found.map(|o| Workload::read(workload.sort, o)).transpose()
    }

    /// Waits until none of these has a pod; all of them together at most `limit`.
    ///
    /// # Errors
    /// `Timeout` with each that has pods still, and why; `Conflict` with each that somebody starts meanwhile.
    pub(super) async fn until_stopped(&self, workloads: &[Workload], limit: Duration) -> Result<()> {
        let mut pace = Pace::new(limit);
        let mut pending: Vec<_> = workloads.iter().collect();
        loop {
            let (mut reasons, mut still, mut started) = (Vec::new(), Vec::new(), Vec::new());
            for workload in pending {
                let Some(now) = self.again(workload).await? else {
                    // Its pods may outlive it, and write.
                    let pods = self.pods(&workload.namespace, &workload.selector).await?;
                    if !pods.is_empty() {
                        reasons.push(format!("{workload} was deleted, and there is {}", pods.join(", ")));
                        still.push(workload);
                    }
                    continue;
                };
                if now.replicas != 0 {
                    started.push(now);
                    continue;
                }
                if let Err(why) = rollout::stopped(&now, self.pods(&now.namespace, &now.selector).await?) {
                    reasons.push(format!("{now}: {why}"));
                    still.push(workload);
                }
            }
            if !started.is_empty() {
                return Err(not_left_alone(&started));
            }
            if still.is_empty() {
                return Ok(());
            }
            pending = still;
            if !pace.go_on().await {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "not stopped after {} s: {}. Look at it with `kubectl describe`; a pod whose node is gone has to be deleted by force",
                        limit.as_secs(),
                        reasons.join("; ")
                    ),
                ));
            }
        }
    }

    /// Waits until so many replicas of each are ready. Some of them wait for others of them, so the limit begins anew whenever one is. Gives back all, those that
    /// are not ready with the reason.
    pub(super) async fn until_started(
        &self,
        workloads: Vec<(Workload, i32)>,
        me: &Me,
        limit: Duration,
    ) -> Vec<(Workload, Result<()>)> {
        let (mut pace, since) = (Pace::new(limit), Instant::now());
        let mut done = Vec::new();
        let mut pending = workloads;
        loop {
            let (mut still, before) = (Vec::new(), done.len());
            for (workload, wanted) in pending {
                match self.started(&workload, wanted, me).await {
                    Ok(None) => done.push((workload, Ok(()))),
                    Ok(Some(why)) => still.push((workload, wanted, why)),
                    Err(e) => done.push((workload, Err(e))),
                }
            }
            if still.is_empty() {
                return done;
            }
            if done.len() > before {
                pace.begin_anew();
            }
            if !pace.go_on().await {
                done.extend(still.into_iter().map(|(workload, _, why)| {
                    let seconds = since.elapsed().as_secs();
                    let told = format!("{workload} was started and is not ready after {seconds} s: {why}");
                    (workload, Err(Error::new(Kind::Timeout, told)))
                }));
                return done;
            }
            pending = still.into_iter().map(|(workload, wanted, _)| (workload, wanted)).collect();
        }
    }

    /// Why it is not ready yet, if it is not.
    async fn started(&self, workload: &Workload, wanted: i32, me: &Me) -> Result<Option<rollout::Unfinished>> {
        let Some(now) = self.again(workload).await? else {
            return Err(Error::new(Kind::NotFound, format!("{workload} was started and is gone")));
        };
        if now.replicas == 0 {
            // Another run needs the operator stopped, and will start it.
            return match now.record.as_ref().and_then(|r| me.leave(r)) {
                Some(_) => Ok(None),
                None => {
                    Err(Error::new(Kind::Conflict, format!("{now} was started, and somebody has stopped it again")))
                }
            };
        }
        Ok(rollout::started(&now, wanted.min(now.replicas)).err())
    }

    /// The pods with these labels that run or may run, each with its state. What has ended and lies about, as after an eviction, is nothing.
    pub(super) async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<String>> {
        Ok(self.list_pods(namespace, labels).await?.into_iter().filter_map(running).collect())
    }

    /// The same of those that have this label, each with its value.
    pub(super) async fn labelled(&self, namespace: &str, label: &str) -> Result<Vec<(String, String)>> {
        let pods = self.list_pods(namespace, label).await?;
        let value = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|l| l.get(label)).cloned().unwrap_or_default();
        Ok(pods.into_iter().filter_map(|pod| Some((value(&pod), running(pod)?))).collect())
    }

    /// All pods with these labels, as they are.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn seen(&self, namespace: &str, labels: &str) -> Result<Vec<Seen>> {
        Ok(self.list_pods(namespace, labels).await?.into_iter().map(Seen::of).collect())
    }

    async fn list_pods(&self, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(labels);
        let what = format!("list pods with {labels} in namespace {namespace}");
        Ok(self.ask(&what, || api.list(&params)).await?.items)
    }

    /// Waits until no Job of the operator works on the system database.
    ///
    /// # Errors
    /// `Timeout`, with what to do.
    pub(super) async fn until_no_hook_runs(&self, namespace: &str, limit: Duration) -> Result<()> {
        let mut pace = Pace::new(limit);
        loop {
            let mut running = Vec::new();
            for name in HOOK_JOBS {
                // Between two attempts, and before the first, none of its pods is active.
                if self.get(&jobs(), namespace, name).await?.is_some_and(|job| !has_ended(&job.data)) {
                    running.push(format!("job/{name} has neither completed nor failed"));
                }
                running.extend(self.pods(namespace, &format!("job-name={name}")).await?);
            }
            if running.is_empty() {
                return Ok(());
            }
            if !pace.go_on().await {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "jobs of the operator work on the system database for {} s now in namespace {namespace}: {}. Look at their logs; delete a job \
                         that never ends",
                        limit.as_secs(),
                        running.join(", ")
                    ),
                ));
            }
        }
    }

    /// Deletes the operator's Jobs that have failed: it would not touch system-app as long as they are there.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn drop_failed_hooks(&self, namespace: &str) -> Result<()> {
        for name in HOOK_JOBS {
            let Some(job) = self.get(&jobs(), namespace, name).await? else { continue };
            if !is_so(&job.data, "Failed") {
                continue;
            }
            tracing::warn!(
                "job/{name} in namespace {namespace} has failed: deleted, so that the operator makes it anew"
            );
            let api = self.objects(&jobs(), namespace);
            let what = format!("delete job {name} in namespace {namespace}");
            let params = DeleteParams::background();
            match self.ask(&what, || api.delete(name, &params)).await {
                Err(e) if e.kind() != Kind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A pod that runs or may run, with its state.
fn running(pod: Pod) -> Option<String> {
    let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
    let name = pod.metadata.name.unwrap_or_default();
    match (phase.as_str(), pod.metadata.deletion_timestamp) {
        ("Succeeded" | "Failed", _) => None,
        (_, Some(since)) => Some(format!("{name} (terminating since {})", since.0)),
        (phase, None) => Some(format!("{name} ({})", phase.to_lowercase())),
    }
}

/// Whether a Job will make no more pods.
pub(super) fn has_ended(job: &Value) -> bool {
    let is_suspended = job.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true);
    is_suspended || is_so(job, "Complete") || is_so(job, "Failed")
}

/// Whether a condition of this type is true of an object.
pub(super) fn is_so(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let is = |c: &Value, key: &str, value: &str| c.get(key).and_then(Value::as_str) == Some(value);
    conditions.into_iter().flatten().any(|c| is(c, "type", kind) && is(c, "status", "True"))
}

/// Somebody scales what we have stopped.
fn not_left_alone(started: &[Workload]) -> Error {
    let each: Vec<_> = started
        .iter()
        .map(|now| format!("{now} was stopped, and somebody has given it {} replicas again", now.replicas))
        .collect();
    Error::new(
        Kind::Conflict,
        format!(
            "{}: look for an autoscaler, a pipeline or another operator that does, and keep it from it",
            each.join("; ")
        ),
    )
}

/// Jobs, as the API server knows them.
pub(super) fn jobs() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("batch", "v1", "Job"), "jobs")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Request, Response};
    use keepsake_core::id::{Epoch, RunId, RunKey};
    use kube::client::Body;
    use serde_json::json;

    use super::super::workload::Sort;
    use super::*;

    fn deployment(name: &str, ready: bool) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": "threescale", "generation": 1 },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "deployment": name } } },
            "status": { "observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": i32::from(ready) },
        })
    }

    /// Of what starts together some wait for others, so that all in all it takes longer than each may.
    #[tokio::test(start_paused = true)]
    async fn the_limit_of_a_start_begins_anew_when_one_is_ready() {
        let ready_after = [("system-app", 50), ("system-sidekiq", 100), ("zync", 300)];
        let began = Instant::now();
        let server = tower::service_fn(move |request: Request<Body>| {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let after = ready_after.iter().find(|(n, _)| *n == name).unwrap().1;
            let body = deployment(&name, began.elapsed() >= Duration::from_secs(after)).to_string();
            async move { Ok::<_, Infallible>(Response::new(Body::from(body.into_bytes()))) }
        });
        let cluster = Cluster { client: kube::Client::new(server, "threescale"), patience: Duration::ZERO };
        let installation = "prod".parse().unwrap();
        let me = Me::new(&RunKey { run: RunId::generate(), installation, epoch: Epoch(1) }, "threescale");
        let started = ready_after.map(|(name, _)| {
            let object = serde_json::from_value(deployment(name, false)).unwrap();
            (Workload::read(Sort::Deployment, object).unwrap(), 1)
        });
        let ended = cluster.until_started(started.to_vec(), &me, Duration::from_mins(1)).await;
        let told: Vec<_> = ended.iter().map(|(w, ready)| (w.name.as_str(), ready.as_ref().err())).collect();
        let [("system-app", None), ("system-sidekiq", None), ("zync", Some(late))] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(late.kind(), Kind::Timeout);
        let late = late.chain();
        assert!(late.contains("deployment/zync") && late.contains("0 of 1 replicas ready"), "{late}");
        let seconds = began.elapsed().as_secs();
        assert!((160..=162).contains(&seconds) && late.contains(&format!("{seconds} s")), "{seconds}: {late}");
    }
}
