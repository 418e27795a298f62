//! The workloads of a 3scale without what runs in them: as Deployments or as DeploymentConfigs, with odd numbers of replicas.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use super::Raw;
use crate::poll::wait_for;

/// Applications and stores of an installation with internal databases, each with the replicas that it has.
pub const WHOLE: &[(&str, u32)] = &[
    ("zync-que", 1),
    ("zync", 3),
    ("apicast-staging", 1),
    ("apicast-production", 5),
    ("system-sidekiq", 2),
    ("backend-cron", 0),
    ("system-searchd", 1),
    ("system-app", 3),
    ("backend-listener", 4),
    ("backend-worker", 2),
    ("system-memcache", 1),
    ("system-mysql", 1),
    ("backend-redis", 1),
    ("system-redis", 1),
    ("zync-database", 1),
];

/// What every 3scale has, with external databases: enough where the same is done many times.
pub const LEAN: &[(&str, u32)] = &[
    ("zync-que", 1),
    ("zync", 2),
    ("system-sidekiq", 1),
    ("backend-cron", 0),
    ("system-app", 3),
    ("backend-listener", 2),
    ("backend-worker", 1),
];

/// The operator's Deployment.
pub const OPERATOR: &str = "threescale-operator-controller-manager-v2";

const PATIENCE: Duration = Duration::from_secs(120);

/// As what workloads are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// From 2.15 on.
    Deployments,
    /// Up to 2.14.
    DeploymentConfigs,
}

impl Form {
    /// The collection in a namespace.
    pub fn path(self, namespace: &str) -> String {
        match self {
            Self::Deployments => format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            Self::DeploymentConfigs => {
                format!("/apis/apps.openshift.io/v1/namespaces/{namespace}/deploymentconfigs")
            }
        }
    }
}

/// Makes a namespace.
pub async fn namespace(client: &Client, name: &str) {
    client.create("/api/v1/namespaces", json!({ "metadata": { "name": name } })).await;
}

/// Makes the workloads, and waits until their controllers have made the pods.
pub async fn build(client: &Client, form: Form, namespace: &str, workloads: &[(&str, u32)]) {
    for (name, replicas) in workloads {
        let part = name.split('-').next();
        client.create(&form.path(namespace), workload(form, name, *replicas, part)).await;
    }
    settled(client, form, namespace).await;
}

/// Makes the operator's Deployment.
pub async fn build_operator(client: &Client, namespace: &str) {
    let form = Form::Deployments;
    client.create(&form.path(namespace), workload(form, OPERATOR, 1, None)).await;
    settled(client, form, namespace).await;
}

/// Makes an APIManager; its definition must be there.
pub async fn build_apimanager(client: &Client, namespace: &str) {
    let manager = json!({
        "apiVersion": "apps.3scale.net/v1alpha1", "kind": "APIManager",
        "metadata": { "name": "apimanager-sample" }, "spec": { "wildcardDomain": "example.com" },
    });
    client.create(&format!("/apis/apps.3scale.net/v1alpha1/namespaces/{namespace}/apimanagers"), manager).await;
}

/// One of them; its container has no image that there is.
pub fn workload(form: Form, name: &str, replicas: u32, part: Option<&str>) -> Value {
    let label = match form {
        Form::Deployments => "deployment",
        Form::DeploymentConfigs => "deploymentConfig",
    };
    let mut labels = json!({ "app": "3scale-api-management", label: name });
    if let Some(part) = part {
        labels["threescale_component"] = part.into();
    }
    let (api, kind, selector) = match form {
        Form::Deployments => ("apps/v1", "Deployment", json!({ "matchLabels": { label: name } })),
        Form::DeploymentConfigs => ("apps.openshift.io/v1", "DeploymentConfig", json!({ label: name })),
    };
    json!({
        "apiVersion": api, "kind": kind,
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "replicas": replicas, "selector": selector,
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": name, "image": "nothing:1" }] },
            },
        },
    })
}

/// Waits until every controller has done what it was asked for.
pub async fn settled(client: &Client, form: Form, namespace: &str) {
    wait_for(&format!("the workloads of {namespace}"), PATIENCE, async || {
        let found = client.at(&form.path(namespace)).await.expect("the workloads");
        for item in found["items"].as_array().into_iter().flatten() {
            let (status, name) = (&item["status"], &item["metadata"]["name"]);
            let number = |v: &Value| v.as_i64().unwrap_or(0);
            if number(&status["observedGeneration"]) != number(&item["metadata"]["generation"])
                || number(&status["replicas"]) != number(&item["spec"]["replicas"])
            {
                return Err(format!("{name}: {status}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Everything that whoever stops and starts must bring back: all of the objects but what the API server and controllers write by themselves.
pub async fn picture(client: &Client, namespaces: &[&str]) -> BTreeMap<String, Value> {
    let mut picture = BTreeMap::new();
    for namespace in namespaces {
        for path in [
            Form::Deployments.path(namespace),
            Form::DeploymentConfigs.path(namespace),
            super::openshift::routes(namespace),
            format!("/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers"),
            format!("/apis/apps.3scale.net/v1alpha1/namespaces/{namespace}/apimanagers"),
        ] {
            let Some(mut found) = client.at(&path).await else { continue };
            for item in found["items"].as_array_mut().into_iter().flatten() {
                let object = item.as_object_mut().expect("an object");
                object.remove("status");
                let meta = object["metadata"].as_object_mut().expect("metadata");
                for written in ["resourceVersion", "generation", "managedFields"] {
                    meta.remove(written);
                }
                // The controller of autoscalers keeps its conditions there.
                if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
                    annotations.retain(|key, _| !key.starts_with("autoscaling.alpha.kubernetes.io/"));
                    if annotations.is_empty() {
                        meta.remove("annotations");
                    }
                }
                let name = format!("{path}/{}", meta["name"].as_str().expect("a name"));
                picture.insert(name, Value::Object(object.clone()));
            }
        }
    }
    picture
}

/// So many replicas each workload is to have.
pub async fn replicas(client: &Client, form: Form, namespace: &str) -> BTreeMap<String, u64> {
    let found = client.at(&form.path(namespace)).await.expect("the workloads");
    let of = |item: &Value| Some((item["metadata"]["name"].as_str()?.to_owned(), item["spec"]["replicas"].as_u64()?));
    found["items"].as_array().into_iter().flatten().filter_map(of).collect()
}

/// Waits until so many replicas of a Deployment are ready.
pub async fn ready(client: &Client, namespace: &str, name: &str, wanted: u32) {
    let path = format!("{}/{name}", Form::Deployments.path(namespace));
    wait_for(&format!("{name} to be ready"), PATIENCE, async || {
        let found = client.at(&path).await.expect("a workload");
        let is = found["status"]["readyReplicas"].as_u64().unwrap_or(0);
        if is == u64::from(wanted) { Ok(()) } else { Err(found["status"].to_string()) }
    })
    .await;
}
