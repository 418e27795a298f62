//! Closing and opening the Routes of a 3scale, so that callers from outside the cluster are answered by 503.

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::RunKey;
use serde_json::Value;

use super::api::{Cluster, Pace};
use super::discovery::{self, Served};
use super::record::{self, ANNOTATION, Me};
use super::route::{Route, routes};
use crate::topology::KubernetesSettings;

/// The Services of a 3scale to which callers from outside are led: those of the operator (3scale-facts, section 2.3), and what Zync makes Routes to
/// (github.com/3scale/zync, `kubernetes_service.rb`).
const SERVICES: [&str; 6] = [
    "system-master",
    "system-provider",
    "system-developer",
    "backend-listener",
    "apicast-staging",
    "apicast-production",
];

/// There may be Routes at all.
///
/// # Errors
/// `Unsupported`, with the way out.
pub(super) fn ensure_served(served: &Served) -> Result<()> {
    if served.routes {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        "this cluster has no Routes (`route.openshift.io/v1` is not served), so there is none to close: write `by: scale` into the topology",
    ))
}

/// The Routes that would be closed, of which there must be one.
///
/// # Errors
/// As [`closable`]; `NotFound` when none leads to this 3scale.
pub(super) async fn found(cluster: &Cluster, settings: &KubernetesSettings) -> Result<Vec<Route>> {
    let found = closable(cluster, settings).await?;
    if found.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            format!(
                "{}: if its callers come by an Ingress or a load balancer, write `by: scale` into the topology",
                none_leads(settings)
            ),
        ));
    }
    Ok(found)
}

/// Whether Routes could be closed. Where the 3scale was just built there need be none: Zync makes them, and is stopped by then.
///
/// # Errors
/// As [`found`].
pub(super) async fn ensure_may_close(cluster: &Cluster, settings: &KubernetesSettings, rebuilt: bool) -> Result<()> {
    if rebuilt {
        return closable(cluster, settings).await.map(drop);
    }
    found(cluster, settings).await.map(drop)
}

fn none_leads(settings: &KubernetesSettings) -> String {
    let services = SERVICES.join(", ");
    format!("no Route in namespace {} leads to a Service of 3scale ({services})", settings.namespace)
}

/// The Routes that are closed: those that lead to a Service of 3scale, but for one whose workload the topology leaves running.
///
/// # Errors
/// `Unsupported` where there can be none, or an Ingress would open one again.
async fn closable(cluster: &Cluster, settings: &KubernetesSettings) -> Result<Vec<Route>> {
    ensure_served(&discovery::served(cluster).await?)?;
    let found = ours(cluster, settings).await?;
    let made: Vec<_> = found.iter().filter_map(|r| Some(format!("{r} of Ingress {}", r.ingress.as_ref()?))).collect();
    if !made.is_empty() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{} is made of an Ingress, from which OpenShift would make it anew as it was: write `by: scale` into the topology",
                made.join(", ")
            ),
        ));
    }
    Ok(found)
}

async fn ours(cluster: &Cluster, settings: &KubernetesSettings) -> Result<Vec<Route>> {
    let services: Vec<_> = SERVICES.into_iter().filter(|s| !settings.leave.iter().any(|l| l == s)).collect();
    let all = cluster.list(&routes(), &settings.namespace).await?.into_iter().map(Route::read);
    let all = all.collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|r| r.leads_to(&services)).collect())
}

/// Closes them all; gives back how many there are. None is closed before all of them are known.
///
/// # Errors
/// As [`closable`]; `Conflict` when a later epoch has one in its hands; whatever keeps one from being written.
pub(super) async fn close(cluster: &Cluster, settings: &KubernetesSettings, run: &RunKey) -> Result<usize> {
    let me = Me::new(run, &settings.namespace);
    let found = closable(cluster, settings).await?;
    if found.is_empty() {
        tracing::warn!("{}: there is nothing to close, and what writes is stopped", none_leads(settings));
    }
    for route in &found {
        if cluster.write(route, |now| now.close(&me)).await?.is_none() {
            tracing::info!("{route} is gone: nobody is led by it");
        }
    }
    ensure_closed(cluster, settings).await?;
    tracing::info!("{} Routes are closed in namespace {}", found.len(), settings.namespace);
    Ok(found.len())
}

/// Opens every Route that remembers that it was closed for us; as many as can be. What the topology says of Routes does not matter: it may be another by now.
///
/// # Errors
/// All that went wrong.
pub(super) async fn open(cluster: &Cluster, settings: &KubernetesSettings, run: &RunKey) -> Result<()> {
    let me = Me::new(run, &settings.namespace);
    if !discovery::served(cluster).await?.routes {
        return Ok(());
    }
    let mut problems = Vec::new();
    for object in cluster.list(&routes(), &settings.namespace).await? {
        // Whatever it leads to by now.
        if object.metadata.annotations.as_ref().is_none_or(|a| !a.contains_key(ANNOTATION)) {
            continue;
        }
        let opened = match Route::read(object) {
            Ok(route) => cluster.write(&route, |now| now.open(&me)).await.map(drop),
            Err(e) => Err(e),
        };
        problems.extend(opened.err());
    }
    let Some(first) = problems.first() else { return Ok(()) };
    let told: Vec<_> = problems.iter().map(Error::chain).collect();
    Err(Error::new(first.kind(), told.join("; ")))
}

/// Whether all of them are closed now.
///
/// # Errors
/// `Conflict`, naming those that are open.
pub(super) async fn ensure_closed(cluster: &Cluster, settings: &KubernetesSettings) -> Result<()> {
    let open: Vec<_> =
        ours(cluster, settings).await?.iter().filter(|r| !r.is_closed()).map(ToString::to_string).collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        format!(
            "{} should be closed and is open: look for who writes it or has made it (a person, a pipeline, another operator), and keep it from that",
            open.join(", ")
        ),
    ))
}

/// Those that are closed, each with for whom.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn closed(cluster: &Cluster, namespace: &str) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for object in cluster.list(&routes(), namespace).await? {
        let route = Route::read(object)?;
        told.extend(route.record.as_ref().map(|r| format!("{route} for {}", record::told(&r.by))));
    }
    Ok(told)
}

impl Cluster {
    /// Makes the write that is wished for of the Route as it is now, as [`Cluster::change`] does; none when it is gone.
    async fn write(
        &self,
        route: &Route,
        wish: impl Fn(&Route) -> Result<Option<Value>> + Sync,
    ) -> Result<Option<Route>> {
        let mut pace = Pace::new(self.patience);
        let mut now = route.clone();
        loop {
            let Some(patch) = wish(&now).with_context(|| route.to_string())? else { return Ok(Some(now)) };
            match self.patch(&routes(), &now.namespace, &now.name, &patch).await {
                Ok(changed) => return Route::read(changed).map(Some),
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Unavailable) => {
                    tracing::debug!("{}", e.chain());
                    if !pace.go_on().await {
                        return Err(e);
                    }
                }
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            }
            // To list is allowed already; it is seldom that somebody else writes to one.
            let all = self.list(&routes(), &now.namespace).await?;
            let found = all.into_iter().find(|o| o.metadata.name.as_ref() == Some(&now.name));
            let Some(found) = found else { return Ok(None) };
            now = Route::read(found)?;
        }
    }
}
