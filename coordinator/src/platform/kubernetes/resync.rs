//! Having System do something by a Job: made once however often it is asked for, watched to its end, deleted when it is done.
//!
//! A Job belongs to its run. Whoever goes on with the run finds it by its name and waits for it; one that has failed, or never got as far as to run, is made
//! anew by a later epoch, as what was in its way may be mended. One that has failed in this epoch is left for a person to look at.

use std::time::Duration;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::RunKey;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use serde_json::Value;
use tokio::time::Instant;

use super::api::{Cluster, Pace};
use super::discovery;
use super::job::{self, CONTAINER, Job, Purpose, State};
use super::pod::{self, Count, Seen};
use super::wait::{has_ended, jobs};
use super::workload::Workload;
use crate::topology::KubernetesSettings;
use crate::topology::kubernetes::ResyncTask;

/// The workload whose pods' template is taken: it has what every task of System needs, and writes.
const WORKER: &str = "system-sidekiq";
/// Who makes the routes.
const ZYNC: &str = "zync";
/// The newer search, and the one up to 2.13 with its rake task: it has no other.
const SEARCH: &str = "system-searchd";
const SPHINX: (&str, &str) = ("system-sphinx", "ts:index");

/// A Job that is over its time is waited for a little longer, as its controller says more than that.
const GRACE: Duration = Duration::from_secs(15);

/// Where and within what time.
struct Watch<'a> {
    cluster: &'a Cluster,
    settings: &'a KubernetesSettings,
    run: &'a RunKey,
    name: String,
}

/// Has System do this; when it returns, it is done.
///
/// # Errors
/// `Conflict` when an application that it takes does not run; `Timeout` and `Internal` with the reasons, and with what the Job said last.
pub(super) async fn resync(
    cluster: &Cluster,
    settings: &KubernetesSettings,
    run: &RunKey,
    task: ResyncTask,
) -> Result<String> {
    let namespace = &settings.namespace;
    // The way out when it can never be done.
    if settings.resync.as_ref().is_some_and(Vec::is_empty) {
        return Ok("it is not done, as the topology says now (`resync: []`)".to_owned());
    }
    let served = discovery::served(cluster).await?;
    let workloads = discovery::workloads(cluster, &served, namespace).await?;
    let find = |part: &str| workloads.iter().find(|w| w.part.as_deref() == Some(part));
    let rake = match task {
        ResyncTask::SearchIndex if find(SEARCH).is_some() => task.rake(),
        ResyncTask::SearchIndex if find(SPHINX.0).is_some() => SPHINX.1,
        ResyncTask::SearchIndex => {
            return Ok(format!("there is no {SEARCH} or {} in namespace {namespace}: nothing is indexed", SPHINX.0));
        }
        ResyncTask::ZyncDomains if find(ZYNC).is_none() => {
            return Ok(format!("there is no {ZYNC} in namespace {namespace}: nobody is told"));
        }
        ResyncTask::ZyncDomains | ResyncTask::CacheFlush | ResyncTask::BackendRewrite => task.rake(),
    };
    for part in takes(task) {
        runs(find(part), part, namespace)?;
    }
    if let Some(search) = find(SEARCH).or(find(SPHINX.0)).filter(|_| task == ResyncTask::SearchIndex) {
        runs(Some(search), &search.name, namespace)?;
    }
    let worker = find(WORKER).ok_or_else(|| missing(WORKER, namespace))?;
    let purpose = Purpose { run, task, rake, deadline: settings.resync_deadline };
    let body = body_from(cluster, worker, purpose).await?;
    let watch = Watch { cluster, settings, run, name: job::name(run.run, task) };
    Box::pin(watch.until_done(&body)).await?;
    Ok(format!("rake {rake} is done"))
}

/// What must run for it, beside the search itself: System's own pods wait for system-app.
fn takes(task: ResyncTask) -> &'static [&'static str] {
    match task {
        ResyncTask::ZyncDomains => &[WORKER, "system-app", ZYNC],
        ResyncTask::BackendRewrite => &[WORKER, "system-app", "backend-listener"],
        ResyncTask::SearchIndex | ResyncTask::CacheFlush => &[WORKER, "system-app"],
    }
}

fn runs(workload: Option<&Workload>, part: &str, namespace: &str) -> Result<()> {
    match workload {
        Some(workload) if workload.replicas == 0 => Err(Error::new(
            Kind::Conflict,
            format!("{workload} has no replicas, and this takes it: start it, then `keepsake resume`"),
        )),
        Some(_) => Ok(()),
        None => Err(missing(part, namespace)),
    }
}

fn missing(part: &str, namespace: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no {part} in namespace {namespace}, and this takes it"))
}

/// Of the workload as it is now.
async fn body_from(cluster: &Cluster, worker: &Workload, purpose: Purpose<'_>) -> Result<Value> {
    let found = cluster.get(&worker.sort.resource(), &worker.namespace, &worker.name).await?;
    let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("{worker} is gone since it was looked at")))?;
    let template = found.data.pointer("/spec/template").unwrap_or(&Value::Null);
    job::body(template, WORKER, purpose).with_context(|| format!("make a Job like the pods of {worker}"))
}

impl Watch<'_> {
    fn told(&self) -> String {
        format!("job/{} in namespace {}", self.name, self.settings.namespace)
    }

    /// Makes the Job if there is none, and watches it to its end.
    async fn until_done(&self, body: &Value) -> Result<()> {
        let whole = Duration::from_secs(self.settings.resync_deadline.into()) + GRACE;
        let to_start = Duration::from_secs(self.settings.deadline.into());
        let mut since = Instant::now();
        let mut pace = Pace::new(whole);
        // Of which Job it is known that it is there, and of which that its pods have run.
        let mut seen: Option<String> = None;
        let mut has_run = false;
        let mut last = String::new();
        loop {
            let found = self.cluster.get(&jobs(), &self.settings.namespace, &self.name).await?;
            let found = found.map(|object| Job::read(&object)).transpose()?;
            let told = match found {
                None if seen.is_some() => {
                    return Err(Error::new(
                        Kind::Conflict,
                        format!(
                            "{} was deleted by somebody before it ended: `keepsake resume` makes it anew",
                            self.told()
                        ),
                    ));
                }
                None => {
                    self.make(body).await?;
                    "it is not there yet".to_owned()
                }
                Some(job) => {
                    let pods = self.pods_of(&job).await?;
                    has_run |= pods.iter().any(|p| !matches!(p.state, pod::State::Pending(_)));
                    if !pods.is_empty() {
                        last = Count::of(&pods).to_string();
                    }
                    if self.judge(&job, &pods, &last, has_run).await? {
                        return Ok(());
                    }
                    if self.is_overtaken(&job, has_run) {
                        tracing::info!("{} of epoch {} is made anew", self.told(), job.epoch);
                        self.delete(&job).await?;
                        (since, seen, has_run) = (Instant::now(), None, false);
                        pace = Pace::new(whole);
                        continue;
                    }
                    if job.state != State::Terminating {
                        seen = Some(job.uid);
                    }
                    Count::of(&pods).to_string()
                }
            };
            let late = !has_run && since.elapsed() >= to_start;
            if late || !pace.go_on().await {
                let limit = if late { to_start } else { whole };
                let what = if late { "has not begun" } else { "has not ended" };
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "{} {what} after {} s: {told}. It is left as it is: look at it with `kubectl describe`, mend what is in its way, then `keepsake resume` (with `resync: []` it goes on without)",
                        self.told(),
                        limit.as_secs()
                    ),
                ));
            }
        }
    }

    /// Whether it is done. A Job of this epoch that has failed is told, with how its pods were `last`: some are taken away with it.
    async fn judge(&self, job: &Job, pods: &[Seen], last: &str, has_run: bool) -> Result<bool> {
        if job.epoch > self.run.epoch {
            let text =
                format!("epoch {} has {} in its hands, and this is epoch {}", job.epoch, self.told(), self.run.epoch);
            return Err(Error::new(Kind::Conflict, text));
        }
        match &job.state {
            State::Complete => {
                // It is done, whatever becomes of the Job.
                if let Err(e) = self.delete(job).await {
                    tracing::warn!("{} is done and could not be deleted: {}", self.told(), e.chain());
                }
                Ok(true)
            }
            State::Failed { reason, message } if !self.is_overtaken(job, has_run) => {
                let kind = if reason == "DeadlineExceeded" { Kind::Timeout } else { Kind::Internal };
                Err(Error::new(
                    kind,
                    format!(
                        "{} has failed: {reason} ({message}); {last}; {}. It is left for you to look at; `keepsake resume` makes it anew (with `resync: []` it goes on without)",
                        self.told(),
                        self.cluster.last_words(&self.settings.namespace, pods, CONTAINER).await
                    ),
                ))
            }
            State::Going | State::Failed { .. } | State::Terminating => Ok(false),
        }
    }

    /// Whether it is of an epoch before and is not to be waited for.
    fn is_overtaken(&self, job: &Job, has_run: bool) -> bool {
        job.epoch < self.run.epoch
            && match job.state {
                State::Failed { .. } => true,
                State::Going => !has_run,
                State::Complete | State::Terminating => false,
            }
    }

    /// By the Job's uid: those of one before, of the same name, may still be there.
    async fn pods_of(&self, job: &Job) -> Result<Vec<Seen>> {
        self.cluster.seen(&self.settings.namespace, &format!("controller-uid={}", job.uid)).await
    }

    /// Makes it, unless it is there: by an answer that was lost, or by somebody of the same run.
    async fn make(&self, body: &Value) -> Result<()> {
        let job: DynamicObject = serde_json::from_value(body.clone())
            .map_err(|e| Error::caused(Kind::Internal, "a Job that was made here", e))?;
        let api = self.cluster.objects(&jobs(), &self.settings.namespace);
        let (params, what) = (PostParams::default(), format!("create {}", self.told()));
        match self.cluster.ask(&what, || api.create(&params, &job)).await {
            Err(e) if e.kind() != Kind::Exists => Err(e),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn delete(&self, job: &Job) -> Result<()> {
        self.cluster.delete_job(&self.settings.namespace, &job.name, &job.uid).await
    }
}

impl Cluster {
    /// Deletes that very Job and its pods, if it is there.
    pub(super) async fn delete_job(&self, namespace: &str, name: &str, uid: &str) -> Result<()> {
        let api = self.objects(&jobs(), namespace);
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let what = format!("delete job {name} in namespace {namespace}");
        match self.ask(&what, || api.delete(name, &params)).await {
            // One of that name and another uid is another Job.
            Err(e) if !matches!(e.kind(), Kind::NotFound | Kind::Conflict) => Err(e),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Jobs of an installation, each with whether it has ended.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn own_jobs(&self, namespace: &str, run: &RunKey) -> Result<Vec<(DynamicObject, bool)>> {
        let api = self.objects(&jobs(), namespace);
        let params = ListParams::default().labels(&job::of_installation(run));
        let what = format!("list jobs of installation {} in namespace {namespace}", run.installation);
        let found = self.ask(&what, || api.list(&params)).await?;
        Ok(found.items.into_iter().map(|job| (has_ended(&job.data), job)).map(|(ended, job)| (job, ended)).collect())
    }

    /// Ends the Jobs that a run before has left at work: they write to stores, too.
    ///
    /// # Errors
    /// `Timeout` when a pod of one remains.
    pub(super) async fn end_own_jobs(&self, namespace: &str, run: &RunKey, limit: Duration) -> Result<()> {
        for (job, has_ended) in self.own_jobs(namespace, run).await? {
            if let (false, Some(name), Some(uid)) = (has_ended, &job.metadata.name, &job.metadata.uid) {
                tracing::warn!("job/{name} in namespace {namespace} is still at work: deleted");
                self.delete_job(namespace, name, uid).await?;
            }
        }
        let mut pace = Pace::new(limit);
        loop {
            let pods = self.pods(namespace, &job::of_installation(run)).await?;
            if pods.is_empty() {
                return Ok(());
            }
            if !pace.go_on().await {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "pods of Jobs of a run before are still there after {} s in namespace {namespace}: {}. A pod whose node is gone has to be deleted by \
                         force",
                        limit.as_secs(),
                        pods.join(", ")
                    ),
                ));
            }
        }
    }
}
