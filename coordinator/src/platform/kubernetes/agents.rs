//! Where in the cluster the agents are that the topology gives no address: their pods are known by the labels that the manifests and the webhook give them.
//!
//! What is dialled is the Service `keepsake-<component>` where it leads to the agent's pod, because its name outlives the pod, else the pod's own address. Neither is
//! trusted: the certificate must carry `<component>.<installation>`. A component whose agent is not found is an error and never left out (`judge`).

#[cfg(test)]
mod cases;
mod judge;

use k8s_openapi::api::core::v1::{Pod, Service};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::objects;
use keepsake_core::id::{Component, EngineName};
use kube::Api;
use kube::api::ListParams;

use super::api::{self, Cluster};
use super::names::DATABASES;
use super::{BEFORE, Kubernetes, access, discovery};
use crate::topology::component::{STORAGE, engine_of};
use crate::topology::{ComponentSettings, InstallationSettings};

/// Whose agents must be there.
#[derive(Debug, Clone, Copy)]
pub enum Expect<'a> {
    /// Those of all components that the topology names or, if it names none, of all stores of the 3scale; and no others.
    All,
    /// Where the topology names none: those of a run that was begun.
    Those(&'a [Component]),
    /// The same of a set that an installation is built of. Its agents may come with its stores: one that is not there yet will be where the manifests put it.
    Later(&'a [Component]),
}

/// What was found.
#[derive(Debug)]
pub struct Agents {
    /// Every component whose agent was looked for.
    pub sought: Vec<Sought>,
    /// What is wrong beside them: agents that nobody expects, stores that nobody names.
    pub problems: Vec<Error>,
}

/// The agent of one component.
#[derive(Debug)]
pub struct Sought {
    /// Whose.
    pub component: Component,
    /// Its engine, by the topology or by the component's name.
    pub engine: EngineName,
    /// Where it is, or why that is not known.
    pub found: Result<Place>,
}

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What is dialled: `https://host:port`.
    pub address: String,
    /// Pod and Service, in words.
    pub told: String,
    /// Why its pod is not ready, if it is not. It is dialled all the same: an agent whose store is down says so itself.
    pub not_ready: Option<String>,
}

impl Agents {
    /// The settings with every agent's address.
    ///
    /// # Errors
    /// Everything that is wrong, as one error of the first one's kind.
    pub fn complete(self, settings: &InstallationSettings) -> Result<InstallationSettings> {
        let mut problems = self.problems;
        let mut found = Vec::new();
        for Sought { component, engine, found: place } in self.sought {
            match place {
                Ok(place) => found.push((component, engine, place.address)),
                Err(e) => problems.push(e),
            }
        }
        if let Some(first) = problems.first() {
            let told: Vec<_> = problems.iter().map(Error::chain).collect();
            let text = format!("find the agents of {}: {}", settings.name, told.join("; "));
            return Err(Error::new(first.kind(), text));
        }
        Ok(settings.with_agents(found))
    }
}

impl Kubernetes {
    /// Whether this runs in a pod of the very cluster, from where pods and Services are reached: the API server that is asked is the one whose address every pod
    /// is given.
    ///
    /// # Errors
    /// `Invalid` when there is no usable kubeconfig, and this is no pod either.
    pub async fn is_inside(&self) -> Result<bool> {
        api::is_inside(&self.settings).await
    }

    /// Looks for the agents of an installation.
    ///
    /// # Errors
    /// `Denied` with what is to be granted; `Unavailable` when the API server does not answer.
    pub async fn find_agents(&self, installation: &InstallationSettings, expect: Expect<'_>) -> Result<Agents> {
        let namespace = &self.settings.namespace;
        let cluster = self.cluster(BEFORE).await?;
        let looks_at_stores = installation.all_of_cluster && matches!(expect, Expect::All);
        let served = if looks_at_stores { Some(discovery::served(&cluster).await?) } else { None };
        access::ensure(&cluster, access::needs_of_agents(namespace, served.as_ref())).await?;
        let stores = match &served {
            Some(served) => Some(stores(&cluster, served, namespace).await?),
            None => None,
        };
        let expected = expected(installation, expect, stores.as_deref())?;
        let look = judge::Look {
            namespace: namespace.clone(),
            pods: pods(&cluster, namespace).await?,
            services: services(&cluster, namespace).await?,
        };
        let mut agents = judge::judge(&look, &expected, expect);
        agents.problems.extend(unnamed(installation, stores.as_deref()));
        Ok(agents)
    }
}

/// The stores of the 3scale that have a workload here.
async fn stores(cluster: &Cluster, served: &discovery::Served, namespace: &str) -> Result<Vec<String>> {
    let workloads = discovery::workloads(cluster, served, namespace).await?;
    let parts = workloads.into_iter().map(|w| w.part.unwrap_or(w.name));
    Ok(parts.filter(|part| DATABASES.contains(&part.as_str())).collect())
}

async fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let params = ListParams::default();
    let what = format!("list pods in namespace {namespace}");
    Ok(cluster.ask(&what, || api.list(&params)).await?.items)
}

async fn services(cluster: &Cluster, namespace: &str) -> Result<Vec<Service>> {
    let api: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
    let params = ListParams::default();
    let what = format!("list services in namespace {namespace}");
    Ok(cluster.ask(&what, || api.list(&params)).await?.items)
}

/// Who must have an agent, with the engine, and whether the topology has its address already.
fn expected(
    installation: &InstallationSettings,
    expect: Expect<'_>,
    stores: Option<&[String]>,
) -> Result<Vec<judge::Expected>> {
    if !installation.all_of_cluster {
        let named = installation.components.iter().filter(|c| !c.is_of_the_cluster());
        let of = |c: &ComponentSettings| judge::Expected {
            component: c.name.clone(),
            engine: c.engine.clone(),
            has_address: c.agent.is_some(),
        };
        return Ok(named.map(of).collect());
    }
    let names: Vec<Component> = match expect {
        Expect::Those(names) | Expect::Later(names) => names.to_vec(),
        Expect::All => {
            let has = |name: &&str| stores.is_some_and(|all| all.iter().any(|s| s == name));
            let files = Some(STORAGE).filter(|_| !installation.files_external);
            DATABASES.iter().copied().filter(has).chain(files).map(Component::new).collect::<Result<_>>()?
        }
    };
    let of =
        |component: Component| Ok(judge::Expected { engine: engine_of(&component)?, component, has_address: false });
    names.into_iter().filter(|n| n.as_str() != objects::COMPONENT).map(of).collect()
}

/// Every 3scale has these. One that has no workload is somewhere else, and its agent's absence could not be told from its own.
fn unnamed(installation: &InstallationSettings, stores: Option<&[String]>) -> Option<Error> {
    let stores = stores?;
    let has = |name: &str| stores.iter().any(|s| s == name);
    let mut missing: Vec<_> =
        ["backend-redis", "system-redis", "zync-database"].into_iter().filter(|n| !has(n)).collect();
    if !has("system-mysql") && !has("system-postgresql") {
        missing.insert(0, "system-mysql or system-postgresql");
    }
    if missing.is_empty() {
        return None;
    }
    let text = format!(
        "there is no workload {}, so that store is elsewhere, or this is not the 3scale's namespace. What must be in a set is not guessed: name all components of {}, as \
         in `components: [{{ name: system-mysql }}, {{ name: backend-redis }}, …]`; where their agents are may be left out",
        missing.join(", nor "),
        installation.name
    );
    Some(Error::new(Kind::Invalid, text))
}
