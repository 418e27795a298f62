//! What an object is without what the API server, controllers and we wrote into it: pure.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::objects::Object;
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Map, Value, json};

use super::super::record::ANNOTATION;

/// The object as it is stored. Of its metadata stay name, labels and annotations: uid, version, owners and the like are of the cluster that it was in. Its status
/// is its controller's.
///
/// # Errors
/// `Unsupported` when it is not of the form of an object.
pub(super) fn stripped(kind: &ApiResource, object: DynamicObject) -> Result<Object> {
    let DynamicObject { metadata, data, .. } = object;
    let Value::Object(mut body) = data else {
        return Err(Error::new(Kind::Unsupported, format!("a {} without fields", kind.kind)));
    };
    body.remove("status");
    let mut kept = Map::new();
    kept.insert("name".to_owned(), metadata.name.into());
    let labels = metadata.labels.unwrap_or_default();
    if !labels.is_empty() {
        kept.insert("labels".to_owned(), json!(labels));
    }
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.remove(ANNOTATION);
    if !annotations.is_empty() {
        kept.insert("annotations".to_owned(), json!(annotations));
    }
    body.insert("apiVersion".to_owned(), kind.api_version.clone().into());
    body.insert("kind".to_owned(), kind.kind.clone().into());
    body.insert("metadata".to_owned(), kept.into());
    Object::new(body.into())
}

/// Whether two objects are the same but for the version of their kind, in which the server may have stored them differently.
pub(super) fn are_same(a: &Object, b: &Object) -> bool {
    let of = |o: &Object| {
        let mut body = o.body().clone();
        body.remove("apiVersion");
        body
    };
    of(a) == of(b)
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;

    fn dynamic(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_of_one_cluster_stays_there() {
        let secret = dynamic(json!({
            "metadata": {
                "name": "system-seed", "namespace": "threescale", "uid": "u", "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-01-02T03:04:05Z",
                "selfLink": "/x", "managedFields": [{ "manager": "m" }], "finalizers": ["f"],
                "ownerReferences": [{ "apiVersion": "v1", "kind": "K", "name": "n", "uid": "u" }],
                "labels": { "app": "3scale-api-management" }, "annotations": { ANNOTATION: "{}", "mine": "1" },
            },
            "type": "Opaque", "data": { "ADMIN_USER": "YWRtaW4=" }, "status": { "is": "of a controller" },
        }));
        let object = stripped(&kinds::secrets(), secret).unwrap();
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": { "ADMIN_USER": "YWRtaW4=" },
            "metadata": { "name": "system-seed", "labels": { "app": "3scale-api-management" }, "annotations": { "mine": "1" } },
        });
        assert_eq!(Value::Object(object.clone().into_body()), expected);
        let again = dynamic(Value::Object(object.clone().into_body()));
        assert_eq!(stripped(&kinds::secrets(), again).unwrap(), object);
    }
}
