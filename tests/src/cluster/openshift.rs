//! OpenShift's DeploymentConfigs as far as the API server can tell: a resource definition, and a controller that makes and takes pods.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Raw;
use crate::poll::wait_for;

const BEAT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the API server serve `apps.openshift.io/v1`.
pub async fn define(client: &Client) {
    define_resource(client, "apps.openshift.io", "v1", "DeploymentConfig", "deploymentconfigs").await;
}

/// Makes the API server serve `route.openshift.io/v1`.
pub async fn define_routes(client: &Client) {
    define_resource(client, "route.openshift.io", "v1", "Route", "routes").await;
}

/// The Routes of a namespace.
pub fn routes(namespace: &str) -> String {
    format!("/apis/route.openshift.io/v1/namespaces/{namespace}/routes")
}

/// Makes a Route with these backends: the first is `spec.to`.
pub async fn build_route(client: &Client, namespace: &str, name: &str, backends: &[(&str, Option<u32>)]) {
    let mut backends = backends.iter().map(|(service, weight)| {
        let mut backend = json!({ "kind": "Service", "name": service });
        if let Some(weight) = weight {
            backend["weight"] = (*weight).into();
        }
        backend
    });
    let to = backends.next().expect("a backend");
    let mut spec = json!({ "host": format!("{name}.example.com"), "port": { "targetPort": "http" }, "to": to });
    let alternates: Vec<_> = backends.collect();
    if !alternates.is_empty() {
        spec["alternateBackends"] = alternates.into();
    }
    let route = json!({
        "apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": { "name": name, "labels": { "3scale.created-by": "zync" } }, "spec": spec,
    });
    client.create(&routes(namespace), route).await;
}

/// Makes the API server serve the operator's `APIManager`.
pub async fn define_apimanager(client: &Client) {
    define_resource(client, "apps.3scale.net", "v1alpha1", "APIManager", "apimanagers").await;
}

/// Makes the API server serve one of the operator's capabilities, and an order to do something once.
pub async fn define_capabilities(client: &Client) {
    define_resource(client, "capabilities.3scale.net", "v1beta1", "Product", "products").await;
    define_resource(client, "capabilities.3scale.net", "v1beta1", "ProxyConfigPromote", "proxyconfigpromotes").await;
}

/// Kinds of 3scale's own, by group, version, kind and plural, as operator 2.15 defines them. `APIManager` is not among them.
pub const KINDS: [(&str, &str, &str, &str); 10] = [
    ("apps.3scale.net", "v1alpha1", "APIcast", "apicasts"),
    ("capabilities.3scale.net", "v1beta1", "ActiveDoc", "activedocs"),
    ("capabilities.3scale.net", "v1beta1", "Application", "applications"),
    ("capabilities.3scale.net", "v1beta1", "Backend", "backends"),
    ("capabilities.3scale.net", "v1beta1", "CustomPolicyDefinition", "custompolicydefinitions"),
    ("capabilities.3scale.net", "v1beta1", "DeveloperAccount", "developeraccounts"),
    ("capabilities.3scale.net", "v1beta1", "DeveloperUser", "developerusers"),
    ("capabilities.3scale.net", "v1beta1", "OpenAPI", "openapis"),
    ("capabilities.3scale.net", "v1beta1", "Product", "products"),
    ("capabilities.3scale.net", "v1alpha1", "Tenant", "tenants"),
];

/// Makes the API server serve [`KINDS`] and an order to do something once.
pub async fn define_all(client: &Client) {
    for (group, version, kind, plural) in KINDS {
        define_resource(client, group, version, kind, plural).await;
    }
    define_resource(client, "capabilities.3scale.net", "v1beta1", "ProxyConfigPromote", "proxyconfigpromotes").await;
}

async fn define_resource(client: &Client, group: &str, version: &str, kind: &str, plural: &str) {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    });
    client.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let path = format!("/apis/{group}/{version}/namespaces/default/{plural}");
    wait_for(&format!("{plural} to be served"), PATIENCE, async || client.at(&path).await.ok_or("they are not")).await;
}

/// A controller of DeploymentConfigs; ends when it is dropped.
#[derive(Debug)]
pub struct ConfigController {
    _stop: DropGuard,
}

impl ConfigController {
    /// For those of this namespace.
    pub fn start(client: Client, namespace: &str) -> Self {
        let stop = CancellationToken::new();
        let (stopped, namespace) = (stop.clone(), namespace.to_owned());
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                beat.tick().await;
                let path = format!("/apis/apps.openshift.io/v1/namespaces/{namespace}/deploymentconfigs");
                let Some(configs) = client.at(&path).await else { continue };
                for config in configs["items"].as_array().into_iter().flatten() {
                    reconcile(&client, &namespace, config).await;
                }
            }
        }));
        Self { _stop: stop.drop_guard() }
    }
}

async fn reconcile(client: &Client, namespace: &str, config: &Value) {
    let name = config["metadata"]["name"].as_str().expect("a name");
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let found = client.at(&format!("{pods}?labelSelector=deploymentConfig%3D{name}")).await.expect("pods");
    let template = &config["spec"]["template"];
    let mut there = Vec::new();
    for pod in found["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        // One of a template of before gives way.
        if pod["metadata"]["annotations"] == template["metadata"]["annotations"] {
            there.push(name);
        } else {
            client.remove(&format!("{pods}/{name}")).await;
        }
    }
    let wanted = usize::try_from(config["spec"]["replicas"].as_u64().unwrap_or(1)).expect("a number of replicas");
    for pod in there.iter().skip(wanted) {
        client.remove(&format!("{pods}/{pod}")).await;
    }
    for _ in there.len()..wanted {
        let (labels, annotations) = (&template["metadata"]["labels"], &template["metadata"]["annotations"]);
        let body = json!({
            "metadata": { "generateName": format!("{name}-1-"), "labels": labels, "annotations": annotations },
            "spec": template["spec"],
        });
        client.create(&pods, body).await;
    }
    let status = json!({
        "observedGeneration": config["metadata"]["generation"],
        "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": wanted,
    });
    if config["status"] != status {
        let path = format!("/apis/apps.openshift.io/v1/namespaces/{namespace}/deploymentconfigs/{name}/status");
        client.merge(&path, json!({ "status": status })).await;
    }
}
