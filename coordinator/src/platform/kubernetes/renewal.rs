//! Rollouts: the pods of workloads that nobody has stopped are made anew, once for a run however often it is asked for.
//!
//! An annotation on the pods' template names the run. To write it is the rollout, as the controller makes new pods when a template changes; whoever finds it
//! there only waits.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;

use super::api::{Cluster, Pace};
use super::change::Change;
use super::discovery;
use super::rollout;
use super::workload::Workload;
use crate::topology::KubernetesSettings;

/// Rolls out those of these that run, in their order, and waits for all together: an application that is new is better than none.
///
/// # Errors
/// `NotFound` when there is none of them; `Timeout` with the reasons; whatever keeps one from being written.
pub(super) async fn roll_out(
    cluster: &Cluster,
    settings: &KubernetesSettings,
    run: &RunKey,
    names: &[String],
) -> Result<()> {
    let namespace = &settings.namespace;
    let served = discovery::served(cluster).await?;
    let workloads = discovery::workloads(cluster, &served, namespace).await?;
    let mut found: Vec<&Workload> = Vec::new();
    for name in names {
        found.extend(workloads.iter().filter(|w| w.part.as_ref() == Some(name)));
    }
    if found.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            format!("there is no {} in namespace {namespace}: is it that of the 3scale?", names.join(", ")),
        ));
    }
    let mark = run.run.to_string();
    let (mut pending, mut problems) = (Vec::new(), Vec::new());
    for workload in found {
        // What has no pods gets new ones when it is started.
        if workload.replicas == 0 {
            tracing::info!("{workload} has no replicas, and so no pods of before");
            continue;
        }
        match cluster.renew(workload, &mark).await {
            Ok(renewed) => pending.push(renewed),
            Err(e) => problems.push(e),
        }
    }
    let limit = Duration::from_secs(settings.deadline.into());
    problems.extend(cluster.until_rolled_out(pending, &mark, limit).await);
    let Some(first) = problems.first() else { return Ok(()) };
    let told: Vec<_> = problems.iter().map(Error::chain).collect();
    Err(Error::new(first.kind(), told.join("; ")))
}

impl Cluster {
    /// Writes the mark, unless it is there.
    async fn renew(&self, workload: &Workload, mark: &str) -> Result<Workload> {
        let wish = |now: &Workload| {
            let is_new = now.rolled_out.as_deref() == Some(mark);
            let change =
                || Change { record: now.record.clone(), rolled_out: Some(mark.to_owned()), ..Change::default() };
            Ok((!is_new).then(change))
        };
        self.change(workload, wish).await
    }

    /// Waits until all pods of each are new and ready; gives back what became of the others.
    async fn until_rolled_out(&self, workloads: Vec<Workload>, mark: &str, limit: Duration) -> Vec<Error> {
        let mut pace = Pace::new(limit);
        let (mut pending, mut problems) = (workloads, Vec::new());
        loop {
            let (mut still, mut reasons) = (Vec::new(), Vec::new());
            for workload in pending {
                match self.rolled_out(&workload, mark).await {
                    Ok(None) => {}
                    Ok(Some(why)) => {
                        reasons.push(format!("{workload}: {why}"));
                        still.push(workload);
                    }
                    Err(e) => problems.push(e),
                }
            }
            if still.is_empty() {
                return problems;
            }
            if !pace.go_on().await {
                problems.push(Error::new(
                    Kind::Timeout,
                    format!(
                        "not rolled out after {} s: {}. Look at it with `kubectl describe`, mend it, then `keepsake resume`",
                        limit.as_secs(),
                        reasons.join("; ")
                    ),
                ));
                return problems;
            }
            pending = still;
        }
    }

    /// Why it is not yet, if it is not.
    async fn rolled_out(&self, workload: &Workload, mark: &str) -> Result<Option<rollout::Unfinished>> {
        let Some(now) = self.again(workload).await? else {
            return Err(Error::new(Kind::NotFound, format!("{workload} was rolled out and is gone")));
        };
        if now.rolled_out.as_deref() != Some(mark) {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "{workload} was rolled out, and somebody has put another template in its place: `keepsake resume` does it again"
                ),
            ));
        }
        let pods = self.seen(&now.namespace, &now.selector).await?;
        Ok(rollout::rolled_out(&now, &pods, mark).err())
    }
}
