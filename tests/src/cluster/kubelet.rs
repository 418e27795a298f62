//! A kubelet as far as the API server can tell: pods of a namespace run and are ready, or end, though nothing runs.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Raw;

/// Looks so often for pods that are not ready.
const BEAT: Duration = Duration::from_millis(50);

/// What becomes of the pods of Jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They do their work.
    Succeed,
    /// They fail with these last words.
    Fail(&'static str),
    /// They run and do not end.
    Run,
    /// Their image cannot be had.
    NoImage,
}

/// Makes pods ready until it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    _stop: DropGuard,
}

impl Kubelet {
    /// For the pods of this namespace that are of no Job and whose names begin with none of `never`.
    pub fn start(client: Client, namespace: &str, never: &'static [&'static str]) -> Self {
        Self::with(client, namespace, move |name, pod| {
            let is_new = pod["status"]["phase"] == "Pending" && !is_of_a_job(pod);
            let is_for_us = is_new && !never.iter().any(|n| name.starts_with(n));
            is_for_us.then(|| json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] }))
        })
    }

    /// For the pods of Jobs.
    pub fn of_jobs(client: Client, namespace: &str, fate: Fate) -> Self {
        Self::with(client, namespace, move |_, pod| {
            let wanted = match fate {
                Fate::Succeed => json!({ "phase": "Succeeded" }),
                Fate::Fail(words) => {
                    let ended = json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": words } });
                    json!({ "phase": "Failed", "containerStatuses": [container(&ended)] })
                }
                Fate::Run => json!({ "phase": "Running" }),
                Fate::NoImage => {
                    let waits = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } });
                    json!({ "phase": "Pending", "containerStatuses": [container(&waits)] })
                }
            };
            let (phase, said) = (&pod["status"]["phase"], &pod["status"]["containerStatuses"]);
            let has_ended = phase == "Succeeded" || phase == "Failed";
            let is_so = *phase == wanted["phase"] && (fate != Fate::NoImage || *said != Value::Null);
            (is_of_a_job(pod) && !has_ended && !is_so).then_some(wanted)
        })
    }

    fn with(
        client: Client,
        namespace: &str,
        status: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let (stopped, namespace) = (stop.clone(), namespace.to_owned());
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                beat.tick().await;
                tell(&client, &namespace, &status).await;
            }
        }));
        Self { _stop: stop.drop_guard() }
    }
}

fn is_of_a_job(pod: &Value) -> bool {
    pod["metadata"]["labels"]["job-name"] != Value::Null
}

fn container(state: &Value) -> Value {
    json!({ "name": "rake", "image": "nothing:1", "imageID": "", "ready": false, "restartCount": 0, "state": state })
}

async fn tell(client: &Client, namespace: &str, status: impl Fn(&str, &Value) -> Option<Value>) {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let Some(pods) = client.at(&path).await else { return };
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if pod["metadata"]["deletionTimestamp"] != Value::Null {
            continue;
        }
        let Some(status) = status(name, pod) else { continue };
        let status = json!({ "status": status });
        let patch = kube::api::Patch::Merge(status);
        let api: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(client.clone(), namespace);
        // It may be gone by now.
        let _gone = api.patch_status(name, &kube::api::PatchParams::default(), &patch).await;
    }
}
