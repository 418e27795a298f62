//! Which kinds of objects belong to a 3scale: Secrets, ConfigMaps, and whatever of 3scale's own the cluster knows.

use keepsake_core::error::Result;
use keepsake_core::format::objects::Object;
use kube::core::{ApiResource, GroupVersionKind};

use super::super::api::Cluster;

/// What stands for tenants, products and the like in System, one by one (3scale-operator).
pub(in super::super) const CAPABILITIES: &str = "capabilities.3scale.net";
/// 3scale's own groups.
const GROUPS: [&str; 2] = ["apps.3scale.net", CAPABILITIES];
/// Objects that are an order to do something once: brought back, they would be carried out again. (`ApplicationAuth` makes new keys of an application.)
const ORDERS: [&str; 4] = ["APIManagerBackup", "APIManagerRestore", "ProxyConfigPromote", "ApplicationAuth"];

/// Secrets.
pub(in super::super) fn secrets() -> ApiResource {
    core("Secret", "secrets")
}

/// ConfigMaps.
pub(in super::super) fn config_maps() -> ApiResource {
    core("ConfigMap", "configmaps")
}

fn core(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", kind), plural)
}

/// All kinds that are served here, those that others need first.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn served(cluster: &Cluster) -> Result<Vec<ApiResource>> {
    let mut kinds = vec![secrets(), config_maps()];
    let groups = cluster.ask("list the API groups", || cluster.client.list_api_groups()).await?.groups;
    for name in GROUPS {
        let Some(group) = groups.iter().find(|g| g.name == name) else { continue };
        let mut seen = Vec::new();
        // A kind may be served in another version than the preferred one of its group alone.
        for version in group.preferred_version.iter().chain(&group.versions) {
            let what = format!("list the kinds of {}", version.group_version);
            let client = &cluster.client;
            let list = cluster.ask(&what, || client.list_api_group_resources(&version.group_version)).await?;
            for resource in list.resources {
                let is_object = resource.namespaced && !resource.name.contains('/');
                if !is_object || ORDERS.contains(&resource.kind.as_str()) || seen.contains(&resource.kind) {
                    continue;
                }
                let gvk = GroupVersionKind::gvk(name, &version.version, &resource.kind);
                kinds.push(ApiResource::from_gvk_with_plural(&gvk, &resource.name));
                seen.push(resource.kind);
            }
        }
    }
    Ok(kinds)
}

/// The kind of an object, if it is served in the version in which it is stored.
pub(super) fn of(object: &Object, served: &[ApiResource]) -> Option<ApiResource> {
    let (group, version) = object.group_and_version();
    served.iter().find(|k| k.group == group && k.kind == object.kind() && k.version == version).cloned()
}
