//! Pods of workloads that nobody has stopped are made anew: once for a run, waited for, and nothing else is written over.

use std::collections::BTreeSet;

use keepsake_coordinator::platform::kubernetes::{Kubernetes, ROLLED_OUT};
use keepsake_coordinator::platform::{Intent, Platform};
use keepsake_coordinator::topology::KubernetesSettings;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_core::Kind;
use keepsake_core::id::RunKey;
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::openshift::{self, ConfigController};
use keepsake_tests::cluster::skeleton::{self, Form, LEAN};
use keepsake_tests::cluster::{ControlPlane, Raw};
use kube::Client;
use serde_json::{Value, json};

use super::{run, settings};

/// Those that are rolled out; there is no search.
const NAMES: [&str; 3] = ["backend-worker", "system-app", "system-sidekiq"];

#[tokio::test]
async fn kube_a_rollout_makes_all_pods_anew_and_once() {
    let Some(plane) = ControlPlane::start("kube_a_rollout_makes_all_pods_anew_and_once").await else { return };
    let client = plane.client().await;
    rolls_out(&plane, &client, Form::Deployments, "deployments").await;
    openshift::define(&client).await;
    rolls_out(&plane, &client, Form::DeploymentConfigs, "configs").await;
    is_written_over(&plane, &client).await;
    dies(&plane, &client).await;
    never_ready(&plane, &client).await;
    held(&plane, &client).await;
    nobody_runs(&plane, &client).await;
}

fn by_hand(plane: &ControlPlane, client: &Client, namespace: &str, deadline: u32) -> Kubernetes {
    let settings = settings(namespace, plane.kubeconfig());
    Kubernetes::over(KubernetesSettings { by: By::None, deadline, ..settings }, client.clone())
}

/// As the plan names them.
fn names() -> Vec<String> {
    NAMES.into_iter().chain(["system-searchd", "system-sphinx"]).map(str::to_owned).collect()
}

async fn build(client: &Client, namespace: &str) -> Kubelet {
    skeleton::namespace(client, namespace).await;
    let kubelet = Kubelet::start(client.clone(), namespace, &[]);
    skeleton::build(client, Form::Deployments, namespace, LEAN).await;
    for name in NAMES {
        let replicas = LEAN.iter().find(|(n, _)| *n == name).map(|(_, r)| *r).expect("a workload");
        skeleton::ready(client, namespace, name, replicas).await;
    }
    kubelet
}

/// The pods that are there, with the run for which each was made.
async fn pods(client: &Client, namespace: &str) -> BTreeSet<(String, Option<String>)> {
    let found = client.at(&format!("/api/v1/namespaces/{namespace}/pods")).await.expect("pods");
    let of = |pod: &Value| {
        let run = pod["metadata"]["annotations"][ROLLED_OUT].as_str().map(str::to_owned);
        (pod["metadata"]["name"].as_str().expect("a name").to_owned(), run)
    };
    found["items"].as_array().into_iter().flatten().map(of).collect()
}

/// All pods of those that are rolled out are of this run, and all others are the same as before.
async fn are_new(client: &Client, namespace: &str, before: &BTreeSet<(String, Option<String>)>, key: &RunKey) {
    let now = pods(client, namespace).await;
    let is_meant = |name: &str| NAMES.iter().any(|n| name.starts_with(n));
    let new: Vec<_> = now.iter().filter(|(name, _)| is_meant(name)).collect();
    assert!(new.iter().all(|(_, run)| run.as_deref() == Some(key.run.to_string().as_str())), "{now:?}");
    let wanted: u32 = LEAN.iter().filter(|(name, _)| is_meant(name)).map(|(_, replicas)| replicas).sum();
    assert_eq!(u32::try_from(new.len()), Ok(wanted), "{now:?}");
    let others = |all: &BTreeSet<(String, Option<String>)>| -> BTreeSet<_> {
        all.iter().filter(|(name, _)| !is_meant(name)).cloned().collect()
    };
    assert_eq!(others(&now), others(before));
}

async fn rolls_out(plane: &ControlPlane, client: &Client, form: Form, namespace: &str) {
    let mut parts: (Option<Kubelet>, Option<ConfigController>) = (None, None);
    if form == Form::Deployments {
        parts.0 = Some(build(client, namespace).await);
    } else {
        skeleton::namespace(client, namespace).await;
        parts = (
            Some(Kubelet::start(client.clone(), namespace, &[])),
            Some(ConfigController::start(client.clone(), namespace)),
        );
        skeleton::build(client, form, namespace, LEAN).await;
    }
    let before = pods(client, namespace).await;
    let faulty = Faulty::new(client, Rule::Pass);
    let kubernetes = by_hand(plane, &faulty.client, namespace, 120);
    kubernetes
        .preflight(Intent { follows: true, ..Intent::default() })
        .await
        .unwrap_or_else(|e| panic!("{}", e.chain()));
    let key = run(1);
    kubernetes.roll_out(&key, &names()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    are_new(client, namespace, &before, &key).await;
    let (done, writes) = (pods(client, namespace).await, faulty.writes());
    assert!(writes.len() >= NAMES.len(), "{writes:?}");
    // Asked again in the name of the run nothing happens; another run does it again.
    kubernetes.roll_out(&key, &names()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!((pods(client, namespace).await, faulty.writes()), (done.clone(), writes));
    let other = run(2);
    kubernetes.roll_out(&other, &names()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    are_new(client, namespace, &done, &other).await;
    // Whoever is to stop them may not, by these settings.
    let told = kubernetes.quiesce(&key).await.expect_err("a person does it");
    assert!(told.chain().contains("by: none"), "{}", told.chain());
    drop(parts);
}

async fn is_written_over(plane: &ControlPlane, client: &Client) {
    let namespace = "contested";
    let _kubelet = build(client, namespace).await;
    for rule in [Rule::LoseAnswers, Rule::Conflict] {
        let before = pods(client, namespace).await;
        let faulty = Faulty::new(client, rule);
        let key = run(1);
        let done = by_hand(plane, &faulty.client, namespace, 120).roll_out(&key, &names()).await;
        done.unwrap_or_else(|e| panic!("{rule:?}: {}", e.chain()));
        are_new(client, namespace, &before, &key).await;
        for name in NAMES {
            let found = client.at(&format!("{}/{name}", Form::Deployments.path(namespace))).await.expect("a workload");
            let somebody = &found["metadata"]["annotations"]["somebody"];
            assert_eq!(
                *somebody != Value::Null,
                rule == Rule::Conflict,
                "{rule:?}, {name}: what somebody wrote is lost"
            );
        }
    }
}

async fn dies(plane: &ControlPlane, client: &Client) {
    let namespace = "contested";
    let _kubelet = Kubelet::start(client.clone(), namespace, &[]);
    for n in 1.. {
        let before = pods(client, namespace).await;
        let faulty = Faulty::new(client, Rule::DieBefore(n));
        let (first, key) = (by_hand(plane, &faulty.client, namespace, 120), run(1));
        let done = faulty.mortal(first.roll_out(&key, &names())).await;
        let next = by_hand(plane, client, namespace, 120).roll_out(&key, &names()).await;
        next.unwrap_or_else(|e| panic!("gone before write {n}: {}", e.chain()));
        are_new(client, namespace, &before, &key).await;
        if let Some(done) = done {
            done.unwrap_or_else(|e| panic!("nobody died: {}", e.chain()));
            assert!(n > NAMES.len(), "{:?}", faulty.writes());
            return;
        }
    }
}

async fn never_ready(plane: &ControlPlane, client: &Client) {
    let namespace = "unready";
    drop(build(client, namespace).await);
    let before = pods(client, namespace).await;
    let bad = Kubelet::start(client.clone(), namespace, &["system-app", "backend-worker"]);
    let key = run(1);
    let told = by_hand(plane, client, namespace, 5).roll_out(&key, &names()).await.expect_err("two are not ready");
    assert_eq!(told.kind(), Kind::Timeout);
    // All were begun together, and each that is not done is named.
    for word in [
        "deployment/system-app",
        "0 of 3 new pods ready",
        "deployment/backend-worker",
        "0 of 1 new pods ready",
        "pending: no node has taken it",
        "5 s",
        "keepsake resume",
    ] {
        assert!(told.chain().contains(word), "{word}: {}", told.chain());
    }
    assert!(!told.chain().contains("system-sidekiq"), "the others are rolled out: {}", told.chain());
    drop(bad);
    let _kubelet = Kubelet::start(client.clone(), namespace, &[]);
    let done = by_hand(plane, client, namespace, 120).roll_out(&key, &names()).await;
    done.unwrap_or_else(|e| panic!("{}", e.chain()));
    are_new(client, namespace, &before, &key).await;
}

/// What follows no template is told with what to do.
async fn held(plane: &ControlPlane, client: &Client) {
    let namespace = "unready";
    let _kubelet = Kubelet::start(client.clone(), namespace, &[]);
    let app = format!("{}/system-app", Form::Deployments.path(namespace));
    client.merge(&app, json!({ "spec": { "paused": true } })).await;
    let key = run(1);
    let told = by_hand(plane, client, namespace, 3).roll_out(&key, &names()).await.expect_err("it is paused").chain();
    assert!(told.contains("deployment/system-app") && told.contains("kubectl rollout resume"), "{told}");
    client.merge(&app, json!({ "spec": { "paused": false } })).await;
    let done = by_hand(plane, client, namespace, 120).roll_out(&key, &names()).await;
    done.unwrap_or_else(|e| panic!("{}", e.chain()));

    let namespace = "configs";
    let _controller = ConfigController::start(client.clone(), namespace);
    let app = format!("{}/system-app", Form::DeploymentConfigs.path(namespace));
    client.merge(&app, json!({ "spec": { "triggers": [], "replicas": 4 } })).await;
    let stopped = Kubelet::start(client.clone(), namespace, &["system-app"]);
    let told = by_hand(plane, client, namespace, 3).roll_out(&run(1), &names()).await.expect_err("nothing follows");
    assert!(told.chain().contains("oc rollout latest"), "{}", told.chain());
    drop(stopped);
}

/// A person has stopped them: their pods are new when they are started.
async fn nobody_runs(plane: &ControlPlane, client: &Client) {
    let namespace = "asleep";
    skeleton::namespace(client, namespace).await;
    let workloads: Vec<_> = LEAN.iter().map(|(name, _)| (*name, 0)).collect();
    skeleton::build(client, Form::Deployments, namespace, &workloads).await;
    let before = skeleton::picture(client, &[namespace]).await;
    by_hand(plane, client, namespace, 3).roll_out(&run(1), &names()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
    let told = by_hand(plane, client, "default", 3).roll_out(&run(1), &names()).await.expect_err("there is none");
    assert_eq!(told.kind(), Kind::NotFound, "{}", told.chain());
}
