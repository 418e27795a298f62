//! A last look at the applications after a restore. What is not as it was is told; only what was stopped and is not ready again is a failure.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use kube::core::DynamicObject;
use serde_json::Value;

use super::api::{Cluster, Pace};
use super::discovery::{self, Served};
use super::names::{self, HOOK_JOBS};
use super::record::Me;
use super::wait::{is_so, jobs};
use super::workload::Workload;
use crate::platform::{Looked, Stopped};
use crate::topology::KubernetesSettings;

/// What an operator says of a 3scale that is whole.
const AVAILABLE: &str = "Available";

/// Looks at workloads, Jobs and the APIManager.
///
/// # Errors
/// Something that was stopped is not as ready as it was; or the cluster cannot be asked.
pub(super) async fn look(
    cluster: &Cluster,
    settings: &KubernetesSettings,
    run: &RunKey,
    had: &[Stopped],
) -> Result<Vec<Looked>> {
    let served = discovery::served(cluster).await?;
    let mut looks = vec![workloads(cluster, &served, settings, run, had).await?];
    looks.push(hook_jobs(cluster, &settings.namespace).await?);
    looks.extend(managers(cluster, &served, settings).await?);
    looks.extend(own_jobs(cluster, &settings.namespace, run).await?);
    Ok(looks)
}

fn looked(check: &str, wrong: &[String], good: String) -> Looked {
    let found = if wrong.is_empty() { good } else { wrong.join("; ") };
    Looked { check: check.to_owned(), found, warning: !wrong.is_empty() }
}

async fn workloads(
    cluster: &Cluster,
    served: &Served,
    settings: &KubernetesSettings,
    run: &RunKey,
    had: &[Stopped],
) -> Result<Looked> {
    let mut all = discovery::workloads(cluster, served, &settings.namespace).await?;
    let operator = discovery::operator(cluster, settings).await?;
    all.extend(operator.filter(|o| o.namespace != settings.namespace));
    let had_of = |w: &Workload| had.iter().find(|h| h.namespace == w.namespace && h.workload == w.told());
    let gone = had.iter().filter(|h| all.iter().all(|w| h.namespace != w.namespace || h.workload != w.told()));
    let told = |h: &Stopped| format!("{} in namespace {} was stopped and is gone", h.workload, h.namespace);
    let mut failed: Vec<_> = gone.map(|h| Error::new(Kind::NotFound, told(h))).collect();
    let (mut awaited, mut wrong, mut good) = (Vec::new(), Vec::new(), 0);
    for workload in all {
        let ready = workload.status.ready_replicas;
        match had_of(&workload) {
            Some(had) if had.replicas > 0 => {
                if workload.replicas != had.replicas {
                    wrong.push(format!("{workload} has {} replicas, and had {}", workload.replicas, had.replicas));
                }
                awaited.push((workload, had.ready));
            }
            Some(_) => good += 1,
            None if is_application(&workload) && workload.replicas == 0 => {
                wrong.push(format!("{workload} has no replicas: start it, unless it never had any"));
            }
            None if is_application(&workload) && ready < workload.replicas => {
                wrong.push(format!("{workload}: {ready} of {} replicas ready", workload.replicas));
            }
            None => good += usize::from(is_application(&workload)),
        }
    }
    let limit = Duration::from_secs(settings.deadline.into());
    let me = Me::new(run, &settings.namespace);
    let ended = cluster.until_started(awaited, &me, limit).await;
    good += ended.len();
    failed.extend(ended.into_iter().filter_map(|(_, ready)| ready.err()));
    if let Some(first) = failed.first() {
        let told: Vec<_> = failed.iter().map(Error::chain).collect();
        return Err(Error::new(first.kind(), told.join("; ")));
    }
    let good = if had.is_empty() { format!("{good} are ready") } else { format!("{good} are as they were") };
    Ok(looked("workloads", &wrong, good))
}

fn is_application(workload: &Workload) -> bool {
    workload.part.as_deref().is_some_and(|part| names::stop_step(part).is_some())
}

/// The operator's Jobs: one that has failed keeps it from system-app.
async fn hook_jobs(cluster: &Cluster, namespace: &str) -> Result<Looked> {
    let mut wrong = Vec::new();
    for name in HOOK_JOBS {
        let job = cluster.get(&jobs(), namespace, name).await?;
        if job.is_some_and(|job| is_so(&job.data, "Failed")) {
            wrong.push(format!(
                "job/{name} in namespace {namespace} has failed: look at its log, mend what it names, and delete the Job, so that the operator makes it anew"
            ));
        }
    }
    Ok(looked("jobs of the operator", &wrong, "none has failed".to_owned()))
}

/// What the operator says, if there is one; it is given time to see what has come back.
async fn managers(cluster: &Cluster, served: &Served, settings: &KubernetesSettings) -> Result<Option<Looked>> {
    let Some(resource) = &served.managers else { return Ok(None) };
    let mut pace = Pace::new(Duration::from_secs(settings.deadline.into()));
    loop {
        let found = cluster.list(resource, &settings.namespace).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let is_pending = found.iter().any(|m| available(m).is_some_and(|(is_so, _)| !is_so));
        if is_pending && pace.go_on().await {
            continue;
        }
        let name = |m: &DynamicObject| m.metadata.name.clone().unwrap_or_default();
        let wrong: Vec<_> = found
            .iter()
            .filter_map(|m| match available(m) {
                Some((true, _)) => None,
                Some((false, why)) => Some(format!("{} is not {AVAILABLE}{why}", name(m))),
                None => Some(format!("{} does not say whether it is {AVAILABLE}: does its operator run?", name(m))),
            })
            .collect();
        return Ok(Some(looked("APIManager", &wrong, AVAILABLE.to_owned())));
    }
}

/// Whether it says that it is available, and its words if it says that it is not.
fn available(manager: &DynamicObject) -> Option<(bool, String)> {
    let conditions = manager.data.pointer("/status/conditions").and_then(Value::as_array)?;
    let condition = conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(AVAILABLE))?;
    let word = |key| condition.get(key).and_then(Value::as_str).filter(|w| !w.is_empty());
    let words: Vec<_> = [word("reason"), word("message")].into_iter().flatten().collect();
    let why = if words.is_empty() { String::new() } else { format!(": {}", words.join(": ")) };
    Some((word("status") == Some("True"), why))
}

/// Jobs of runs before that were left to be looked at; nothing is said when there are none.
async fn own_jobs(cluster: &Cluster, namespace: &str, run: &RunKey) -> Result<Option<Looked>> {
    let found = cluster.own_jobs(namespace, run).await?;
    let failed = found.into_iter().filter(|(job, _)| is_so(&job.data, "Failed"));
    let wrong: Vec<_> = failed
        .filter_map(|(job, _)| {
            Some(format!("job/{} has failed: delete it once you have looked at it", job.metadata.name?))
        })
        .collect();
    Ok((!wrong.is_empty()).then(|| looked("jobs of Keepsake", &wrong, String::new())))
}
