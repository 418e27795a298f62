//! A kubelet as far as the API server can tell: pods of a namespace run and are ready, though nothing runs.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Raw;

/// Looks so often for pods that are not ready.
const BEAT: Duration = Duration::from_millis(50);

/// Makes pods ready until it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    _stop: DropGuard,
}

impl Kubelet {
    /// For the pods of this namespace whose names begin with none of `never`.
    pub fn start(client: Client, namespace: &str, never: &'static [&'static str]) -> Self {
        let stop = CancellationToken::new();
        let (stopped, namespace) = (stop.clone(), namespace.to_owned());
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                beat.tick().await;
                make_ready(&client, &namespace, never).await;
            }
        }));
        Self { _stop: stop.drop_guard() }
    }
}

async fn make_ready(client: &Client, namespace: &str, never: &[&str]) {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let Some(pods) = client.at(&path).await else { return };
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let is_new = pod["status"]["phase"] == "Pending" && pod["metadata"]["deletionTimestamp"] == Value::Null;
        if !is_new || never.iter().any(|n| name.starts_with(n)) {
            continue;
        }
        let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        let patch = kube::api::Patch::Merge(status);
        let api: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(client.clone(), namespace);
        // It may be gone by now.
        let _gone = api.patch_status(name, &kube::api::PatchParams::default(), &patch).await;
    }
}
