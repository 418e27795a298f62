//! What objects say of the 3scale's release and of where its files are: pure.

use keepsake_core::record::Facts;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::plan::files::{FILES_IN, VOLUME};
use crate::plan::restore::preflight::RELEASE;

/// The container's variables by which System finds its files. They come from the ConfigMap `system-environment`, the bucket with the operator from a Secret
/// (3scale-operator, `pkg/3scale/amp/component/s3.go` and `system.go`).
const STORAGE: &str = "FILE_UPLOAD_STORAGE";
const BUCKET: &str = "AWS_BUCKET";
/// The operator writes versions into annotations of this group.
const ANNOTATIONS: &str = "apps.3scale.net/";

/// Where values of variables stand.
#[derive(Debug, Default)]
pub(super) struct Settings<'a> {
    pub(super) secrets: Vec<&'a DynamicObject>,
    pub(super) config_maps: Vec<&'a DynamicObject>,
}

/// The facts.
pub(super) fn facts(managers: &[&DynamicObject], workloads: &[DynamicObject], settings: &Settings<'_>) -> Facts {
    let mut facts = Facts::new();
    for manager in managers {
        for (name, value) in manager.metadata.annotations.iter().flatten() {
            if let Some(word) = name.strip_prefix(ANNOTATIONS).filter(|w| w.ends_with("version")) {
                facts.insert(format!("{RELEASE}{word}"), value.clone());
            }
        }
    }
    for workload in workloads {
        let name = workload.metadata.name.as_deref().unwrap_or_default();
        if let Some(image) = containers(workload).find_map(|c| c.get("image")?.as_str()) {
            facts.insert(format!("{RELEASE}image:{name}"), image.to_owned());
        }
    }
    let app = workloads.iter().find(|w| w.metadata.name.as_deref() == Some("system-app"));
    if let Some(app) = app {
        facts.insert(FILES_IN.to_owned(), files_in(app, settings));
    }
    facts
}

/// Where System has its files.
fn files_in(app: &DynamicObject, settings: &Settings<'_>) -> String {
    let variables: Vec<_> = containers(app).filter_map(|c| c.get("env")?.as_array()).flatten().collect();
    let of = |name: &str| {
        let variable = variables.iter().find(|v| v.get("name").and_then(Value::as_str) == Some(name))?;
        settings.value(variable)
    };
    match of(STORAGE).as_deref() {
        Some("s3") => format!("S3 bucket {}", of(BUCKET).unwrap_or_else(|| "whose name is not known".to_owned())),
        _ => VOLUME.to_owned(),
    }
}

impl Settings<'_> {
    fn value(&self, variable: &Value) -> Option<String> {
        if let Some(value) = variable.get("value") {
            return value.as_str().map(str::to_owned);
        }
        let from = variable.get("valueFrom")?;
        if let Some(at) = from.get("configMapKeyRef") {
            return datum(&self.config_maps, at).map(str::to_owned);
        }
        let text = datum(&self.secrets, from.get("secretKeyRef")?)?;
        String::from_utf8(data_encoding::BASE64.decode(text.as_bytes()).ok()?).ok()
    }
}

fn datum<'a>(objects: &[&'a DynamicObject], at: &Value) -> Option<&'a str> {
    let (name, key) = (at.get("name")?.as_str()?, at.get("key")?.as_str()?);
    let object = objects.iter().find(|o| o.metadata.name.as_deref() == Some(name))?;
    object.data.get("data")?.get(key)?.as_str()
}

fn containers(workload: &DynamicObject) -> impl Iterator<Item = &Value> {
    workload.data.pointer("/spec/template/spec/containers").and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn app(env: &Value) -> DynamicObject {
        object(json!({
            "metadata": { "name": "system-app" },
            "spec": { "template": { "spec": { "containers": [{ "name": "system-master", "image": "porta:2.15", "env": env }] } } },
        }))
    }

    #[test]
    fn files_are_on_the_volume_unless_the_application_says_otherwise() {
        let secret = object(json!({ "metadata": { "name": "aws-auth" }, "data": { "AWS_BUCKET": "ZmlsZXM=" } }));
        let environment = object(json!({
            "metadata": { "name": "system-environment" }, "data": { "FILE_UPLOAD_STORAGE": "s3", "AWS_BUCKET": "of-a-template" },
        }));
        let at = |env: &Value, settings: &Settings<'_>| facts(&[], &[app(env)], settings).remove(FILES_IN);
        let none = Settings::default();
        let all = Settings { secrets: vec![&secret], config_maps: vec![&environment] };
        let storage = json!({ "name": "FILE_UPLOAD_STORAGE", "valueFrom": { "configMapKeyRef": { "name": "system-environment", "key": "FILE_UPLOAD_STORAGE" } } });
        let by_operator = json!({ "name": "AWS_BUCKET", "valueFrom": { "secretKeyRef": { "name": "aws-auth", "key": "AWS_BUCKET" } } });
        let by_template = json!({ "name": "AWS_BUCKET", "valueFrom": { "configMapKeyRef": { "name": "system-environment", "key": "AWS_BUCKET" } } });
        let plain = json!([{ "name": "FILE_UPLOAD_STORAGE", "value": "s3" }]);
        assert_eq!(at(&json!([]), &all).as_deref(), Some("volume"));
        assert_eq!(at(&json!([storage, by_operator]), &all).as_deref(), Some("S3 bucket files"));
        assert_eq!(at(&json!([storage, by_template]), &all).as_deref(), Some("S3 bucket of-a-template"));
        assert_eq!(at(&json!([storage]), &none).as_deref(), Some("volume"), "it says nothing");
        assert_eq!(at(&plain, &none).as_deref(), Some("S3 bucket whose name is not known"));
        assert!(!facts(&[], &[], &all).contains_key(FILES_IN), "nobody says it");
    }

    #[test]
    fn the_release_is_told() {
        let manager = object(
            json!({ "metadata": { "name": "a", "annotations": { "apps.3scale.net/apimanager-threescale-version": "2.15", "other": "x" } } }),
        );
        let facts = facts(&[&manager], &[app(&json!([]))], &Settings::default());
        assert_eq!(facts.get("release:apimanager-threescale-version").map(String::as_str), Some("2.15"));
        assert_eq!(facts.get("release:image:system-app").map(String::as_str), Some("porta:2.15"));
    }
}
