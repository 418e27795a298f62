//! The last look after a restore: what is not as it was is told, and what was stopped and is not ready again is a failure.

use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::platform::{Looked, Platform, Stopped};
use keepsake_coordinator::topology::KubernetesSettings;
use keepsake_core::Kind;
use keepsake_core::id::RunKey;
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::openshift;
use keepsake_tests::cluster::skeleton::{self, Form, LEAN, OPERATOR};
use keepsake_tests::cluster::{ControlPlane, Raw};
use kube::Client;
use serde_json::json;

use super::{run, settings, start};

const NAMESPACE: &str = "threescale";

#[tokio::test]
async fn kube_what_is_not_as_it_was_is_told() {
    let Some(plane) = ControlPlane::start("kube_what_is_not_as_it_was_is_told").await else { return };
    let client = plane.client().await;
    openshift::define_apimanager(&client).await;
    skeleton::namespace(&client, NAMESPACE).await;
    let kubelet = Kubelet::start(client.clone(), NAMESPACE, &[]);
    skeleton::build(&client, Form::Deployments, NAMESPACE, LEAN).await;
    skeleton::build_operator(&client, NAMESPACE).await;
    skeleton::build_apimanager(&client, NAMESPACE).await;
    for (name, replicas) in LEAN {
        skeleton::ready(&client, NAMESPACE, name, *replicas).await;
    }
    skeleton::ready(&client, NAMESPACE, OPERATOR, 1).await;
    let kubernetes = Kubernetes::new(settings(NAMESPACE, plane.kubeconfig()));
    let key = run(1);
    let had = kubernetes.quiesce(&key).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let app = |s: &&Stopped| s.workload == "deployment/system-app";
    assert_eq!(had.len(), LEAN.len() + 1);
    assert_eq!(had.iter().find(app).map(|s| (s.replicas, s.ready)), Some((3, 3)));
    // Asked again it is still known.
    assert_eq!(kubernetes.quiesce(&key).await.unwrap_or_else(|e| panic!("{}", e.chain())), had);
    start(&kubernetes, 1).await;
    all_is_well(&client, &kubernetes, &key, &had).await;
    something_is_not(&plane, &client, &key, &had).await;
    drop(kubelet);
    is_not_ready(&plane, &client, &key, &had).await;
}

async fn looks(kubernetes: &Kubernetes, key: &RunKey, had: &[Stopped]) -> Vec<Looked> {
    kubernetes.check(key, had).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

fn of<'l>(looks: &'l [Looked], check: &str) -> &'l Looked {
    looks.iter().find(|l| l.check == check).unwrap_or_else(|| panic!("{check}: {looks:?}"))
}

async fn says(client: &Client, status: &str) {
    let path = format!("/apis/apps.3scale.net/v1alpha1/namespaces/{NAMESPACE}/apimanagers/apimanager-sample/status");
    let condition = json!({ "type": "Available", "status": status, "reason": "Reconciling", "message": "zync" });
    client.merge(&path, json!({ "status": { "conditions": [condition] } })).await;
}

fn short(plane: &ControlPlane) -> Kubernetes {
    Kubernetes::new(KubernetesSettings { deadline: 3, ..settings(NAMESPACE, plane.kubeconfig()) })
}

async fn all_is_well(client: &Client, kubernetes: &Kubernetes, key: &RunKey, had: &[Stopped]) {
    let told = looks(kubernetes, key, had).await;
    let silent = of(&told, "APIManager");
    assert!(silent.warning && silent.found.contains("does not say"), "{told:?}");
    says(client, "True").await;
    let told = looks(kubernetes, key, had).await;
    assert!(told.iter().all(|l| !l.warning), "{told:?}");
    let checks: Vec<_> = told.iter().map(|l| l.check.as_str()).collect();
    assert_eq!(checks, ["workloads", "jobs of the operator", "APIManager"]);
    assert_eq!(told[0].found, format!("{} are as they were", had.len()));
}

async fn something_is_not(plane: &ControlPlane, client: &Client, key: &RunKey, had: &[Stopped]) {
    says(client, "False").await;
    let app = format!("{}/system-app", Form::Deployments.path(NAMESPACE));
    client.merge(&app, json!({ "spec": { "replicas": 4 } })).await;
    skeleton::ready(client, NAMESPACE, "system-app", 4).await;
    let jobs = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs");
    let template =
        json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "a", "image": "nothing:1" }] } });
    let job = json!({ "metadata": { "name": "system-app-post" }, "spec": { "activeDeadlineSeconds": 1, "template": template } });
    client.create(&jobs, job).await;
    let failed = async || {
        let found = client.at(&format!("{jobs}/system-app-post")).await.expect("the Job");
        let told = found["status"].to_string();
        if told.contains("DeadlineExceeded") { Ok(()) } else { Err(told) }
    };
    keepsake_tests::poll::wait_for("the Job to fail", std::time::Duration::from_secs(60), failed).await;
    let told = looks(&short(plane), key, had).await;
    for (check, words) in [
        ("workloads", ["deployment/system-app", "has 4 replicas, and had 3"]),
        ("jobs of the operator", ["job/system-app-post", "delete the Job"]),
        ("APIManager", ["is not Available", "Reconciling: zync"]),
    ] {
        let look = of(&told, check);
        assert!(look.warning && words.iter().all(|word| look.found.contains(word)), "{look:?}");
    }
    // Where nobody knows what was there, what is there counts.
    let told = looks(&short(plane), key, &[]).await;
    let unknown = of(&told, "workloads");
    assert!(
        unknown.found.contains("deployment/backend-cron") && unknown.found.contains("has no replicas"),
        "{unknown:?}"
    );
}

async fn is_not_ready(plane: &ControlPlane, client: &Client, key: &RunKey, had: &[Stopped]) {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=deployment%3Dbackend-listener");
    client.remove(&pods).await;
    skeleton::ready(client, NAMESPACE, "backend-listener", 0).await;
    let told = short(plane).check(key, had).await.expect_err("it is not ready");
    assert_eq!(told.kind(), Kind::Timeout, "{}", told.chain());
    assert!(told.chain().contains("deployment/backend-listener"), "{}", told.chain());
    // The same is a warning where nobody has stopped it.
    let told = looks(&short(plane), key, &[]).await;
    assert!(of(&told, "workloads").found.contains("0 of 2 replicas ready"), "{told:?}");
    let sidekiq = format!("{}/system-sidekiq", Form::Deployments.path(NAMESPACE));
    client.remove(&sidekiq).await;
    let mut gone = had.to_vec();
    gone.retain(|s| s.workload == "deployment/system-sidekiq");
    let told = short(plane).check(key, &gone).await.expect_err("it is gone").chain();
    assert!(told.contains("deployment/system-sidekiq in namespace threescale was stopped and is gone"), "{told}");
}
