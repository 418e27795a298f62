//! A coordinator that is gone between any two writes, whose answers are lost, or into whose words somebody writes: another one brings all back exactly.

use keepsake_coordinator::platform::Platform;
use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_core::Kind;
use keepsake_tests::cluster::ControlPlane;
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::openshift;
use keepsake_tests::cluster::skeleton::{self, Form, LEAN, OPERATOR};
use kube::Client;
use serde_json::Value;

use super::{run, settings, start, stop, with_operator_in};

const NAMESPACE: &str = "threescale";
const OPERATORS: &str = "operators";

#[tokio::test]
async fn kube_a_coordinator_may_die_between_any_two_writes() {
    let Some(plane) = ControlPlane::start("kube_a_coordinator_may_die_between_any_two_writes").await else { return };
    let client = plane.client().await;
    openshift::define_apimanager(&client).await;
    build(&client, QUIET).await;
    dies_while_it_stops(&plane, &client).await;
    dies_while_it_starts(&plane, &client).await;
}

#[tokio::test]
async fn kube_nothing_is_written_over_and_no_answer_needed() {
    let Some(plane) = ControlPlane::start("kube_nothing_is_written_over_and_no_answer_needed").await else { return };
    let client = plane.client().await;
    openshift::define_apimanager(&client).await;
    build(&client, LEAN).await;
    is_written_over(&plane, &client).await;
    is_late(&plane, &client).await;
}

/// Most of it sleeps: a loop over every write has less to wait for.
const QUIET: &[(&str, u32)] = &[
    ("zync-que", 0),
    ("zync", 2),
    ("system-sidekiq", 0),
    ("backend-cron", 0),
    ("system-app", 3),
    ("backend-listener", 0),
    ("backend-worker", 0),
];

async fn build(client: &Client, workloads: &[(&str, u32)]) {
    for name in [NAMESPACE, OPERATORS] {
        skeleton::namespace(client, name).await;
    }
    skeleton::build(client, Form::Deployments, NAMESPACE, workloads).await;
    skeleton::build_operator(client, OPERATORS).await;
    skeleton::build_apimanager(client, NAMESPACE).await;
}

fn over(plane: &ControlPlane, client: &Client) -> Kubernetes {
    Kubernetes::over(with_operator_in(OPERATORS, settings(NAMESPACE, plane.kubeconfig())), client.clone())
}

/// What it takes to do one write for each workload, and another for each that has replicas. A controller that writes meanwhile costs another attempt.
fn writes_at_least() -> usize {
    2 * (QUIET.len() + 1) - QUIET.iter().filter(|(_, replicas)| *replicas == 0).count()
}

async fn dies_while_it_stops(plane: &ControlPlane, client: &Client) {
    let before = skeleton::picture(client, &[NAMESPACE, OPERATORS]).await;
    for n in 1.. {
        let faulty = Faulty::new(client, Rule::DieBefore(n));
        let done = faulty.mortal(over(plane, &faulty.client).quiesce(&run(1))).await;
        let stopped = skeleton::replicas(client, Form::Deployments, NAMESPACE).await;
        let other = over(plane, client);
        // Every other time the one that takes over goes on first.
        if n % 2 == 0 {
            stop(&other, 2).await;
            let stopped = skeleton::replicas(client, Form::Deployments, NAMESPACE).await;
            assert!(stopped.values().all(|r| *r == 0), "{n}: {stopped:?}");
        }
        start(&other, 2).await;
        assert_eq!(skeleton::picture(client, &[NAMESPACE, OPERATORS]).await, before, "gone before write {n}");
        if let Some(done) = done {
            done.expect("nobody died");
            assert!(stopped.values().all(|r| *r == 0), "{stopped:?}");
            assert!(n > writes_at_least(), "{:?}", faulty.writes());
            return;
        }
    }
}

/// Here pods become ready, and are waited for: what is started is forgotten only later.
async fn dies_while_it_starts(plane: &ControlPlane, client: &Client) {
    let _kubelets = [NAMESPACE, OPERATORS].map(|n| Kubelet::start(client.clone(), n, &[]));
    let all_ready = async || {
        for (name, replicas) in QUIET {
            skeleton::ready(client, NAMESPACE, name, *replicas).await;
        }
        skeleton::ready(client, OPERATORS, OPERATOR, 1).await;
    };
    all_ready().await;
    let before = skeleton::picture(client, &[NAMESPACE, OPERATORS]).await;
    for n in 1.. {
        stop(&over(plane, client), 1).await;
        let faulty = Faulty::new(client, Rule::DieBefore(n));
        let done = faulty.mortal(over(plane, &faulty.client).resume(&run(2))).await;
        // Going back may mean to stop again, too.
        if n % 3 == 0 {
            stop(&over(plane, client), 3).await;
        }
        start(&over(plane, client), 3).await;
        assert_eq!(skeleton::picture(client, &[NAMESPACE, OPERATORS]).await, before, "gone before write {n}");
        all_ready().await;
        if let Some(done) = done {
            done.expect("nobody died");
            assert!(n > writes_at_least(), "{:?}", faulty.writes());
            return;
        }
    }
}

async fn is_written_over(plane: &ControlPlane, client: &Client) {
    let before = skeleton::picture(client, &[NAMESPACE, OPERATORS]).await;
    for rule in [Rule::LoseAnswers, Rule::Conflict] {
        let faulty = Faulty::new(client, rule);
        let kubernetes = over(plane, &faulty.client);
        stop(&kubernetes, 1).await;
        let stopped = skeleton::replicas(client, Form::Deployments, NAMESPACE).await;
        assert!(stopped.values().all(|r| *r == 0), "{rule:?}: {stopped:?}");
        start(&kubernetes, 1).await;
        assert!(faulty.writes().len() > 2 * (LEAN.len() + 1), "{rule:?}: {:?}", faulty.writes());
        let mut after = skeleton::picture(client, &[NAMESPACE, OPERATORS]).await;
        let mut touched = 0;
        for object in after.values_mut() {
            let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
            touched += usize::from(annotations.is_some_and(|a| a.remove("somebody").is_some()));
        }
        assert_eq!(
            touched,
            if rule == Rule::Conflict { LEAN.len() + 1 } else { 0 },
            "what somebody else wrote is lost"
        );
        assert_eq!(after, before, "{rule:?}");
    }
}

/// One that was taken over comes to itself.
async fn is_late(plane: &ControlPlane, client: &Client) {
    let before = skeleton::picture(client, &[NAMESPACE, OPERATORS]).await;
    stop(&over(plane, client), 5).await;
    let late = over(plane, client).resume(&run(4)).await.expect_err("a later one has it");
    assert_eq!(late.kind(), Kind::Conflict, "{}", late.chain());
    let late = over(plane, client).quiesce(&run(4)).await.expect_err("a later one has it");
    assert!(late.chain().contains("epoch 5"), "{}", late.chain());
    let stopped = skeleton::replicas(client, Form::Deployments, NAMESPACE).await;
    assert!(stopped.values().all(|r| *r == 0), "{stopped:?}");
    assert_eq!(skeleton::replicas(client, Form::Deployments, OPERATORS).await[OPERATOR], 0);
    start(&over(plane, client), 5).await;
    assert_eq!(skeleton::picture(client, &[NAMESPACE, OPERATORS]).await, before);
}
