//! An installation that is built anew: refused where there is one already, and waited for until it is whole.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use keepsake_core::error::{Error, Kind, Result};
use kube::Api;

use super::api::{Cluster, Pace};
use super::workload::Workload;
use super::{access, discovery, routes};
use crate::topology::KubernetesSettings;
use crate::topology::kubernetes::By;

/// The claim of a repository that is a volume (`manifests/components/repository-claim`).
const REPOSITORY_CLAIM: &str = "keepsake-repository";

/// There must be no workload of a 3scale, and no APIManager. What is Keepsake's own does not count: least of all its claim, where the backups may be.
///
/// # Errors
/// `Conflict`, naming those that there are.
pub(super) async fn ensure_none(cluster: &Cluster, namespace: &str) -> Result<()> {
    let served = discovery::served(cluster).await?;
    let found = discovery::workloads(cluster, &served, namespace).await?;
    let mut of_a_3scale: Vec<_> =
        found.iter().filter(|w| w.part.is_some() || w.is_labelled).map(|w| w.name.clone()).collect();
    if let Some(kind) = &served.managers {
        // One that is being deleted stays until its operator lets it go, and would be taken for one that is there.
        let managers = cluster.list(kind, namespace).await?;
        of_a_3scale.extend(managers.into_iter().filter_map(|m| m.metadata.name).map(|n| format!("APIManager {n}")));
    }
    if of_a_3scale.is_empty() {
        return Ok(());
    }
    let text = format!(
        "namespace {namespace} has a 3scale already, or a part of one: {}. To bring data back into it, say `keepsake restore`; to build it anew, delete these first, \
         with 3scale's own claims. Never delete the claim {REPOSITORY_CLAIM}, nor a namespace that has it: backups are on it",
        of_a_3scale.join(", ")
    );
    Err(Error::new(Kind::Conflict, text))
}

/// Whether all can be done that stopping and starting what is built takes, and what follows on its data. There is nothing yet that could be looked at.
///
/// # Errors
/// `Unsupported` where there will be no Routes to close; `Denied`, with what is to be granted.
pub(super) async fn ensure_may_follow(cluster: &Cluster, settings: &KubernetesSettings) -> Result<()> {
    let served = discovery::served(cluster).await?;
    if settings.by == By::Routes {
        routes::ensure_served(&served)?;
    }
    let mut needs = access::needs_of_place(&settings.namespace);
    needs.extend(access::needs(settings, &served, served.managers.is_some()));
    needs.extend(access::needs_after(settings, &served));
    access::ensure(cluster, needs).await
}

/// What the namespace is called in no other cluster, and not if it is made anew.
///
/// # Errors
/// `NotFound` when there is none of that name; `Denied` when it may not be looked at.
pub(super) async fn uid_of(cluster: &Cluster, namespace: &str) -> Result<String> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let what = format!("get namespace {namespace}");
    let found = cluster.ask(&what, || api.get(namespace)).await?;
    found.metadata.uid.ok_or_else(|| Error::new(Kind::Unsupported, format!("namespace {namespace} has no uid")))
}

/// Waits until all that a 3scale has is there and ready.
///
/// # Errors
/// `Timeout` with what is still missing.
pub(super) async fn until_whole(cluster: &Cluster, settings: &KubernetesSettings, limit: Duration) -> Result<()> {
    let mut pace = Pace::new(limit);
    loop {
        let lacking = lacking(cluster, settings).await?;
        if lacking.is_empty() {
            return cluster.until_no_hook_runs(&settings.namespace, limit).await;
        }
        if !pace.go_on().await {
            return Err(Error::new(
                Kind::Timeout,
                format!(
                    "not whole after {} s: {}. Mend what keeps it from that (is the operator there, can images be pulled, are claims bound?), then `keepsake resume`",
                    limit.as_secs(),
                    lacking.join("; ")
                ),
            ));
        }
    }
}

async fn lacking(cluster: &Cluster, settings: &KubernetesSettings) -> Result<Vec<String>> {
    let look = discovery::look(cluster, settings).await?;
    let mut lacking: Vec<_> = look.workloads.iter().filter(|w| w.part.is_some()).filter_map(unready).collect();
    // What is not there yet, and what the topology has to say more of.
    lacking.extend(look.judge(settings).err().map(|e| e.chain()));
    Ok(lacking)
}

/// Why it is not ready, if it is not.
fn unready(workload: &Workload) -> Option<String> {
    let status = &workload.status;
    if status.observed_generation < workload.generation {
        return Some(format!("{workload}: generation {} is not observed", workload.generation));
    }
    (status.ready_replicas < workload.replicas)
        .then(|| format!("{workload}: {} of {} replicas ready", status.ready_replicas, workload.replicas))
}
