//! Databases that were to get an agent from the webhook and have none: the webhook was away when their pod was made, or would not.

use k8s_openapi::api::core::v1::Pod;
use keepsake_core::error::{Error, Kind, Result};
use kube::Api;
use kube::api::ListParams;

use super::access::{self, Need};
use super::api::Cluster;
use super::names::DATABASES;
use crate::webhook::{CONTAINER, NAMED_BY, OPT_IN};

/// The store that loses its data with its pod.
const FLEETING: &str = "zync-database";

/// A pod that asks for an agent.
#[derive(Debug, PartialEq, Eq)]
struct Asking {
    /// What it is called.
    pod: String,
    /// For which component it asks.
    component: String,
    /// What it is by 3scale's labels, else what it asks for.
    store: String,
    /// Whether it has one.
    has: bool,
    /// Nothing of it outlives it, so neither does its data.
    is_fleeting: bool,
}

/// Looks at the databases' pods of the namespace. None when no pod asks for an agent, or pods may not be looked at.
///
/// # Errors
/// `NotFound` with the pods that have none and what to do; as [`Cluster::ask`].
pub(super) async fn look(cluster: &Cluster, namespace: &str) -> Result<Option<String>> {
    if !access::denied(cluster, vec![Need::list_pods(namespace)]).await?.is_empty() {
        return Ok(None);
    }
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let params = ListParams::default();
    let what = format!("list pods in namespace {namespace}");
    let pods = cluster.ask(&what, || api.list(&params)).await?.items;
    judge(&pods.iter().filter_map(asking).collect::<Vec<_>>())
}

fn asking(pod: &Pod) -> Option<Asking> {
    let value = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| map.as_ref()?.get(key).cloned();
    let (labels, annotations) = (&pod.metadata.labels, &pod.metadata.annotations);
    let component = value(labels, OPT_IN).or_else(|| value(annotations, OPT_IN))?;
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let named = NAMED_BY.iter().filter_map(|key| value(labels, key)).find(|name| DATABASES.contains(&name.as_str()));
    let store = named.unwrap_or_else(|| component.clone());
    let spec = pod.spec.as_ref();
    let has = spec
        .is_some_and(|s| s.containers.iter().chain(s.init_containers.iter().flatten()).any(|c| c.name == CONTAINER));
    let claims =
        spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten().filter(|v| v.persistent_volume_claim.is_some());
    let is_fleeting = store == FLEETING || claims.count() == 0;
    Some(Asking { pod: pod.metadata.name.clone().unwrap_or_default(), component, store, has, is_fleeting })
}

fn judge(asking: &[Asking]) -> Result<Option<String>> {
    let (with, without): (Vec<_>, Vec<_>) = asking.iter().partition(|a| a.has);
    let (never, mend): (Vec<_>, Vec<_>) = without.into_iter().partition(|a| a.is_fleeting);
    let mut wrong = Vec::new();
    if !mend.is_empty() {
        let pods: Vec<_> = mend.iter().map(|a| format!("{} (asks for {})", a.pod, a.component)).collect();
        wrong.push(format!(
            "no agent in {}: look whether the webhook runs and what it says of it, then delete the pod once, which stops its database for as long as a new \
             pod takes",
            pods.join(", ")
        ));
    }
    for one in never {
        wrong.push(format!(
            "no agent in {}, and it never gets one: {} loses its data with its pod, so do not delete it; take {OPT_IN} away, and use an agent of its \
             own beside it (agents/{})",
            one.pod, one.store, one.store
        ));
    }
    if !wrong.is_empty() {
        return Err(Error::new(Kind::NotFound, wrong.join("; ")));
    }
    if with.is_empty() {
        return Ok(None);
    }
    let names: Vec<_> = with.iter().map(|a| format!("{} in {}", a.component, a.pod)).collect();
    Ok(Some(format!("in the pod of its database: {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(labels: &Value, annotations: &Value, containers: &[&str], phase: &str) -> Option<Asking> {
        let containers: Vec<_> = containers.iter().map(|name| json!({ "name": name })).collect();
        let pod = json!({
            "metadata": { "name": "pod-1", "labels": labels, "annotations": annotations },
            "spec": { "containers": containers }, "status": { "phase": phase },
        });
        asking(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn only_who_asks_and_lives_is_looked_at() {
        let (asks, is) = (json!({ OPT_IN: "system-mysql" }), json!({ "deployment": "system-mysql" }));
        assert_eq!(of(&is, &json!({}), &["system-mysql"], "Running"), None, "nobody asked");
        assert_eq!(of(&is, &asks, &["system-mysql"], "Failed"), None, "it has ended");
        let without = of(&is, &asks, &["system-mysql"], "Running").unwrap();
        assert!(!without.has && without.store == "system-mysql", "{without:?}");
        assert!(of(&asks, &json!({}), &["system-mysql", CONTAINER], "Pending").unwrap().has);
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        assert_eq!(judge(&[]).unwrap(), None);
        let one = |store: &str, has| Asking {
            pod: format!("{store}-1"),
            component: store.to_owned(),
            store: store.to_owned(),
            has,
            is_fleeting: store == FLEETING,
        };
        let told = judge(&[one("backend-redis", true)]).unwrap().unwrap();
        assert!(told.contains("backend-redis in backend-redis-1"), "{told}");
        let told = judge(&[one("backend-redis", true), one("system-mysql", false)]).unwrap_err().chain();
        assert!(told.contains("system-mysql-1") && told.contains("delete the pod once"), "{told}");
        assert!(!told.contains("backend-redis"), "{told}");
        // By its labels it is what it says that it is not.
        let hidden = Asking { component: "system-mysql".to_owned(), ..one(FLEETING, false) };
        let told = judge(&[hidden]).unwrap_err().chain();
        assert!(told.contains("do not delete") && !told.contains("delete the pod once"), "{told}");
    }
}
