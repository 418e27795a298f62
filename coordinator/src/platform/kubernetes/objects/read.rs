//! Reading what belongs to the 3scale of a namespace.

use std::collections::BTreeSet;

use keepsake_core::error::{Context, Result};
use keepsake_core::format::objects::Object;
use keepsake_core::record::Facts;
use kube::core::{ApiResource, DynamicObject};

use super::super::api::Cluster;
use super::super::discovery;
use super::super::workload::{Sort, Workload};
use super::release::Settings;
use super::{choose, release, strip};

/// What was read.
pub(super) struct Read {
    /// Sorted by kind, those that others need first, and by name.
    pub(super) objects: Vec<Object>,
    /// What is known of the release and of where files are.
    pub(super) facts: Facts,
    /// The versions of the lists that they were read from.
    pub(super) position: String,
}

/// Reads all of it. Each kind is read at one moment of its own; they change when somebody changes the installation, not by traffic.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn read(cluster: &Cluster, namespace: &str, kinds: Vec<ApiResource>) -> Result<Read> {
    let mut lists: Vec<(ApiResource, Vec<DynamicObject>)> = Vec::new();
    let mut position = Vec::new();
    for kind in kinds {
        let list = cluster.whole_list(&kind, namespace).await?;
        position.push(format!("{}@{}", kind.plural, list.metadata.resource_version.unwrap_or_default()));
        lists.push((kind, list.items));
    }
    let is_own = |kind: &ApiResource| kind.group.is_empty();
    let workloads = workloads(cluster, namespace).await?;
    let mut referred = BTreeSet::new();
    let custom = lists.iter().filter(|(kind, _)| !is_own(kind)).flat_map(|(_, items)| items);
    for object in custom.chain(&workloads) {
        choose::referred(&object.data, &mut referred);
    }
    let of = |name: &str| lists.iter().filter(|(kind, _)| kind.kind == name).flat_map(|(_, l)| l).collect::<Vec<_>>();
    let settings = Settings { secrets: of("Secret"), config_maps: of("ConfigMap") };
    let facts = release::facts(&of("APIManager"), &workloads, &settings);
    let mut objects = Vec::new();
    for (kind, mut items) in lists {
        items.retain(|o| !is_own(&kind) || choose::belongs(&kind.kind, o, &referred));
        items.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for item in items {
            objects.push(strip::stripped(&kind, item)?);
        }
    }
    Ok(Read { objects, facts, position: position.join(",") })
}

/// The workloads of the 3scale, whole.
async fn workloads(cluster: &Cluster, namespace: &str) -> Result<Vec<DynamicObject>> {
    let served = discovery::served(cluster).await?;
    let mut found = Vec::new();
    for sort in [Sort::Deployment, Sort::DeploymentConfig] {
        if sort == Sort::DeploymentConfig && !served.configs {
            continue;
        }
        for object in cluster.list(&sort.resource(), namespace).await? {
            let workload = Workload::read(sort, object.clone()).context("a workload of the namespace")?;
            if workload.part.is_some() || workload.is_labelled {
                found.push(object);
            }
        }
    }
    Ok(found)
}
