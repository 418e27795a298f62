//! The Secrets, ConfigMaps and other objects of a 3scale, and some that are not its own.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use kube::Client;
use serde_json::{Value, json};

use super::Raw;

/// Secrets of an installation, each with one of its keys.
const SECRETS: [(&str, &str, &str); 14] = [
    ("system-smtp", "address", ""),
    ("system-seed", "ADMIN_PASSWORD", "pa'ss \"word\" $HOME \\ #1"),
    ("system-database", "URL", "mysql2://root:geheim@system-mysql/system"),
    ("backend-internal-api", "username", "3scale_api_user"),
    ("system-events-hook", "PASSWORD", "events"),
    ("system-app", "SECRET_KEY_BASE", "0123456789abcdef"),
    ("system-recaptcha", "PUBLIC_KEY", ""),
    ("system-redis", "URL", "redis://system-redis:6379/1"),
    ("zync", "SECRET_KEY_BASE", "zync"),
    ("system-master-apicast", "ACCESS_TOKEN", "token"),
    ("backend-redis", "REDIS_STORAGE_URL", "redis://backend-redis:6379/0"),
    ("backend-listener", "route_endpoint", "https://backend.example.com"),
    ("system-memcache", "SERVERS", "system-memcache:11211"),
    // Only a reference tells that it belongs to the installation.
    ("my-custom-policy", "init.lua", "return {}"),
];

const CONFIG_MAPS: [&str; 6] =
    ["system-environment", "apicast-environment", "backend-environment", "mysql-main-conf", "redis-config", "system"];

/// What must be in a set of it, and nothing else.
pub fn names() -> Vec<String> {
    let secrets = SECRETS.iter().map(|(name, ..)| format!("secret/{name}"));
    let maps = CONFIG_MAPS.iter().map(|name| format!("configmap/{name}"));
    let others = ["apimanager/apimanager-sample", "product/my-product"].map(str::to_owned);
    let mut names: Vec<_> = secrets.chain(maps).chain(others).collect();
    names.sort();
    names
}

/// The collection of a kind.
pub fn path(namespace: &str, kind: &str) -> String {
    let (base, plural) = match kind {
        "secret" => ("api/v1", "secrets"),
        "configmap" => ("api/v1", "configmaps"),
        "apimanager" => ("apis/apps.3scale.net/v1alpha1", "apimanagers"),
        "product" => ("apis/capabilities.3scale.net/v1beta1", "products"),
        other => panic!("{other} is not known here"),
    };
    format!("/{base}/namespaces/{namespace}/{plural}")
}

/// Makes them, and strangers; the definitions of the operator's kinds must be there.
pub async fn build(client: &Client, namespace: &str) {
    for (name, key, value) in SECRETS {
        let labels = if name == "my-custom-policy" { json!({}) } else { json!({ "app": "3scale-api-management" }) };
        let secret = json!({ "metadata": { "name": name, "labels": labels }, "type": "Opaque", "data": { key: BASE64.encode(value.as_bytes()) } });
        client.create(&path(namespace, "secret"), secret).await;
    }
    for name in CONFIG_MAPS {
        let map = json!({ "metadata": { "name": name }, "data": { "key": format!("of {name}") } });
        client.create(&path(namespace, "configmap"), map).await;
    }
    let manager = json!({
        "apiVersion": "apps.3scale.net/v1alpha1", "kind": "APIManager",
        "metadata": { "name": "apimanager-sample", "annotations": { "apps.3scale.net/apimanager-threescale-version": "2.15" } },
        "spec": { "wildcardDomain": "example.com", "apicast": { "customPolicies": [{ "name": "mine", "secretRef": { "name": "my-custom-policy" } }] } },
    });
    let manager = client.create(&path(namespace, "apimanager"), manager).await;
    let at = format!("{}/apimanager-sample/status", path(namespace, "apimanager"));
    client.merge(&at, json!({ "status": { "conditions": [{ "type": "Available", "status": "True" }] } })).await;
    let product = json!({
        "apiVersion": "capabilities.3scale.net/v1beta1", "kind": "Product",
        "metadata": {
            "name": "my-product", "finalizers": ["product.capabilities.3scale.net/finalizer"],
            "ownerReferences": [{ "apiVersion": "apps.3scale.net/v1alpha1", "kind": "APIManager", "name": "apimanager-sample", "uid": manager["metadata"]["uid"] }],
        },
        "spec": { "name": "My product" },
    });
    client.create(&path(namespace, "product"), product).await;
    let promote = json!({
        "apiVersion": "capabilities.3scale.net/v1beta1", "kind": "ProxyConfigPromote",
        "metadata": { "name": "promote" }, "spec": { "productCRName": "my-product" },
    });
    let promotes = format!("/apis/capabilities.3scale.net/v1beta1/namespaces/{namespace}/proxyconfigpromotes");
    client.create(&promotes, promote).await;
    let stranger = json!({ "metadata": { "name": "a-stranger" }, "data": { "a": "Yg==" } });
    client.create(&path(namespace, "secret"), stranger).await;
    let token = json!({
        "metadata": { "name": "amp-token", "labels": { "app": "3scale-api-management" }, "annotations": { "kubernetes.io/service-account.name": "amp" } },
        "type": "Opaque", "data": { "token": "Yg==" },
    });
    client.create(&path(namespace, "secret"), token).await;
}

/// Every Secret, ConfigMap and object of 3scale's own kinds in a namespace, without what the API server writes by itself.
pub async fn picture(client: &Client, namespace: &str) -> BTreeMap<String, Value> {
    let mut picture = BTreeMap::new();
    for kind in ["secret", "configmap", "apimanager", "product"] {
        let Some(mut found) = client.at(&path(namespace, kind)).await else { continue };
        for item in found["items"].as_array_mut().into_iter().flatten() {
            let object = item.as_object_mut().expect("an object");
            let meta = object["metadata"].as_object_mut().expect("metadata");
            for written in ["resourceVersion", "generation", "managedFields", "uid", "creationTimestamp"] {
                meta.remove(written);
            }
            let name = meta["name"].as_str().expect("a name").to_owned();
            picture.insert(format!("{kind}/{name}"), Value::Object(object.clone()));
        }
    }
    picture
}
