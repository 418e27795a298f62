//! What a start has to know: which workloads remember that they were stopped, whatever else cannot be read.

use keepsake_core::error::{Error, Kind, Result};

use super::ANNOTATION;
use super::api::Cluster;
use super::discovery::Served;
use super::workload::{Sort, Workload};
use crate::topology::KubernetesSettings;

/// The workloads of the namespace on which something is remembered. One that cannot be read keeps no other from being started: it is added to the problems.
pub(super) async fn workloads(
    cluster: &Cluster,
    served: &Served,
    namespace: &str,
    problems: &mut Vec<Error>,
) -> Vec<Workload> {
    let mut found = Vec::new();
    for sort in [Sort::Deployment, Sort::DeploymentConfig] {
        if sort == Sort::DeploymentConfig && !served.configs {
            continue;
        }
        let objects = cluster.list(&sort.resource(), namespace).await.unwrap_or_else(|e| {
            problems.push(e);
            Vec::new()
        });
        let annotated =
            objects.into_iter().filter(|o| o.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(ANNOTATION)));
        for read in annotated.map(|object| Workload::read(sort, object)) {
            match read {
                Ok(workload) => found.push(workload),
                Err(e) => problems.push(e),
            }
        }
    }
    found
}

/// When no operator is found: whether there is one all the same, stopped perhaps and forgotten.
///
/// # Errors
/// `NotFound`, with what to do.
pub(super) async fn no_operator(cluster: &Cluster, served: &Served, settings: &KubernetesSettings) -> Result<()> {
    let Some(resource) = &served.managers else { return Ok(()) };
    if cluster.list(resource, &settings.namespace).await?.is_empty() {
        return Ok(());
    }
    let (at, name) = settings.operator();
    Err(Error::new(
        Kind::NotFound,
        format!(
            "there is an APIManager in namespace {}, and no deployment/{name} in namespace {at}: if its operator was stopped it stays so. Say where it is with \
             `operator: {{ namespace: NAME, deployment: NAME }}`, as it was when it was stopped, and resume",
            settings.namespace
        ),
    ))
}
