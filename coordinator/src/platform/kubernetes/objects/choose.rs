//! Which of a namespace's Secrets and ConfigMaps belong to the 3scale in it: pure.

use std::collections::{BTreeMap, BTreeSet};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::objects::Object;
use kube::core::DynamicObject;
use serde_json::Value;

use super::kept::LABEL;

/// What the documented procedure names (2.7, steps 6.5.6), as kind and name. Every 3scale has these.
const DOCUMENTED: [(&str, &str); 12] = [
    ("Secret", "system-smtp"),
    ("Secret", "system-seed"),
    ("Secret", "system-database"),
    ("Secret", "backend-internal-api"),
    ("Secret", "system-events-hook"),
    ("Secret", "system-app"),
    ("Secret", "system-recaptcha"),
    ("Secret", "system-redis"),
    ("Secret", "zync"),
    ("Secret", "system-master-apicast"),
    ("ConfigMap", "system-environment"),
    ("ConfigMap", "apicast-environment"),
];

/// What that list omits, and the registry's credentials.
const OMITTED: [(&str, &str); 9] = [
    ("Secret", "backend-redis"),
    ("Secret", "backend-listener"),
    ("Secret", "system-memcache"),
    ("Secret", "threescale-registry-auth"),
    ("ConfigMap", "backend-environment"),
    ("ConfigMap", "mysql-extra-conf"),
    ("ConfigMap", "mysql-main-conf"),
    ("ConfigMap", "redis-config"),
    ("ConfigMap", "system"),
];

/// 3scale's own labels.
const COMPONENT: &str = "threescale_component";
const APP: (&str, &str) = ("app", "3scale-api-management");
/// What a cluster makes by itself, for itself.
const TYPES_OF_THE_CLUSTER: [&str; 2] = ["kubernetes.io/service-account-token", "kubernetes.io/dockercfg"];
const OF_AN_ACCOUNT: &str = "kubernetes.io/service-account.name";

/// Whether it belongs to the 3scale: by its name, by 3scale's labels, or because something of the 3scale refers to it.
pub(super) fn belongs(kind: &str, object: &DynamicObject, referred: &BTreeSet<String>) -> bool {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let empty = BTreeMap::new();
    let labels = object.metadata.labels.as_ref().unwrap_or(&empty);
    let is_of_an_account = object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OF_AN_ACCOUNT));
    let of_the_cluster =
        object.data.get("type").and_then(Value::as_str).is_some_and(|t| TYPES_OF_THE_CLUSTER.contains(&t));
    if is_of_an_account || of_the_cluster || labels.contains_key(LABEL) {
        return false;
    }
    DOCUMENTED.iter().chain(&OMITTED).any(|(k, n)| *k == kind && *n == name)
        || labels.contains_key(COMPONENT)
        || labels.get(APP.0).is_some_and(|app| app == APP.1)
        || referred.contains(name)
}

/// The names of Secrets and ConfigMaps that this refers to, and some more: whatever stands where such a name does.
pub(super) fn referred(value: &Value, into: &mut BTreeSet<String>) {
    below("", value, into);
}

fn below(key: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let refers = key.ends_with("Ref") || ["imagePullSecrets", "configMap", "secret"].contains(&key);
            for (field, value) in fields {
                let is_name = field == "secretName" || (refers && field == "name");
                if let (true, Some(name)) = (is_name, value.as_str()) {
                    into.insert(name.to_owned());
                }
                below(field, value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| below(key, item, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What of the documented list is not there, in words.
pub(super) fn lacks(objects: &[Object], namespace: &str) -> Option<String> {
    let lacking: Vec<_> = DOCUMENTED.iter().filter(|d| !has(objects, d)).map(|(k, n)| format!("{k} {n}")).collect();
    (!lacking.is_empty()).then(|| format!("namespace {namespace} has no {}", lacking.join(", no ")))
}

/// Where nothing of the list is there is no 3scale.
///
/// # Errors
/// `NotFound`.
pub(super) fn ensure_some(objects: &[Object], namespace: &str) -> Result<()> {
    if DOCUMENTED.iter().any(|d| has(objects, d)) {
        return Ok(());
    }
    let text = format!(
        "namespace {namespace} has none of the Secrets and ConfigMaps of a 3scale: name the namespace that it runs in, or say `objects: false`"
    );
    Err(Error::new(Kind::NotFound, text))
}

fn has(objects: &[Object], (kind, name): &(&str, &str)) -> bool {
    objects.iter().any(|o| o.kind() == *kind && o.name() == *name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_belongs_is_known_by_name_label_or_reference() {
        let mut referred_to = BTreeSet::new();
        let workload = json!({
            "spec": { "template": { "spec": {
                "imagePullSecrets": [{ "name": "pull" }],
                "containers": [{ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "aws-auth", "key": "k" } } }], "envFrom": [{ "configMapRef": { "name": "env" } }] }],
                "volumes": [{ "name": "v", "secret": { "secretName": "certs" } }, { "name": "w", "configMap": { "name": "extra" } }],
            } } },
        });
        referred(&workload, &mut referred_to);
        let names: Vec<_> = referred_to.iter().map(String::as_str).collect();
        assert_eq!(names, ["aws-auth", "certs", "env", "extra", "pull"]);
        let manager = json!({ "spec": { "system": { "fileStorage": { "simpleStorageService": { "configurationSecretRef": { "name": "bucket" } } } } } });
        referred(&manager, &mut referred_to);
        assert!(referred_to.contains("bucket"));
        let is = |kind, value| belongs(kind, &object(value), &referred_to);
        assert!(is("Secret", json!({ "metadata": { "name": "backend-redis" } })));
        assert!(!is("ConfigMap", json!({ "metadata": { "name": "backend-redis" } })));
        assert!(is("Secret", json!({ "metadata": { "name": "aws-auth" } })));
        assert!(is(
            "ConfigMap",
            json!({ "metadata": { "name": "x", "labels": { "threescale_component": "system" } } })
        ));
        assert!(is("Secret", json!({ "metadata": { "name": "x", "labels": { "app": "3scale-api-management" } } })));
        assert!(!is("Secret", json!({ "metadata": { "name": "x", "labels": { "app": "another" } } })));
        // What the cluster makes for its accounts is worth nothing elsewhere, and what we keep is not 3scale's.
        let token = json!({ "type": "kubernetes.io/service-account-token", "metadata": { "name": "pull" } });
        assert!(!is("Secret", token));
        let pull =
            json!({ "metadata": { "name": "pull", "annotations": { "kubernetes.io/service-account.name": "amp" } } });
        assert!(!is("Secret", pull));
        assert!(!is("Secret", json!({ "metadata": { "name": "zync", "labels": { LABEL: "run" } } })));
    }

    #[test]
    fn what_is_missing_is_named() {
        let one = Object::new(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "zync" } })).unwrap();
        let told = lacks(std::slice::from_ref(&one), "threescale").unwrap();
        assert!(told.contains("no Secret system-seed") && !told.contains("Secret zync"), "{told}");
        assert!(ensure_some(&[one], "threescale").is_ok());
        assert!(ensure_some(&[], "threescale").unwrap_err().chain().contains("threescale"));
    }
}
