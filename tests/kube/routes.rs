//! Routes closed and opened again, exactly; what is left running behind them; and what stands in the way of stopping an installation of DeploymentConfigs.

use std::collections::BTreeMap;

use keepsake_coordinator::platform::kubernetes::{ANNOTATION, Kubernetes};
use keepsake_coordinator::platform::{Extent, Intent, Platform};
use keepsake_coordinator::topology::KubernetesSettings;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_core::Kind;
use keepsake_core::error::Result;
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::openshift::{self, ConfigController, build_route};
use keepsake_tests::cluster::skeleton::{self, Form, LEAN, WHOLE};
use keepsake_tests::cluster::{ControlPlane, Raw};
use kube::Client;
use serde_json::{Value, json};

use super::{run, settings, start};

const NAMESPACE: &str = "threescale";

/// To what a Route leads, with which weight.
type Backends = &'static [(&'static str, Option<u32>)];

/// All of them are closed.
const ROUTES: &[(&str, Backends)] = &[
    ("backend", &[("backend-listener", None)]),
    ("zync-3scale-provider-a", &[("system-provider", Some(100))]),
    ("zync-3scale-api-b", &[("apicast-production", Some(7)), ("canary", Some(31)), ("another", None)]),
    ("closed-before", &[("system-developer", Some(0))]),
];
/// It leads to nothing of 3scale.
const STRANGER: &str = "stranger";

fn routed(namespace: &str, plane: &ControlPlane) -> KubernetesSettings {
    KubernetesSettings { by: By::Routes, ..settings(namespace, plane.kubeconfig()) }
}

async fn build(client: &Client, namespace: &str) {
    skeleton::namespace(client, namespace).await;
    for (name, backends) in ROUTES {
        build_route(client, namespace, name, backends).await;
    }
    build_route(client, namespace, STRANGER, &[("a-shop", Some(3))]).await;
}

fn told<T>(done: Result<T>) -> T {
    done.unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// All weights of each Route, as they are.
async fn weights(client: &Client, namespace: &str) -> BTreeMap<String, Vec<Option<u64>>> {
    let found = client.at(&openshift::routes(namespace)).await.expect("the Routes");
    let of = |route: &Value| {
        let alternates = route["spec"]["alternateBackends"].as_array().into_iter().flatten();
        let all = std::iter::once(&route["spec"]["to"]).chain(alternates);
        (route["metadata"]["name"].as_str().expect("a name").to_owned(), all.map(|b| b["weight"].as_u64()).collect())
    };
    found["items"].as_array().into_iter().flatten().map(of).collect()
}

async fn must_be_closed(client: &Client, namespace: &str) {
    for (name, weights) in weights(client, namespace).await {
        assert_eq!(weights.iter().all(|w| *w == Some(0)), name != STRANGER, "{name}: {weights:?}");
    }
}

#[tokio::test]
async fn kube_routes_are_closed_and_opened_as_they_were() {
    let Some(plane) = ControlPlane::start("kube_routes_are_closed_and_opened_as_they_were").await else { return };
    let client = plane.client().await;
    where_there_are_none(&plane, &client).await;
    opens_as_it_was(&plane, &client).await;
    changes_meanwhile(&plane, &client).await;
    what_would_not_stay_closed(&plane, &client).await;
    left_running(&plane, &client).await;
    a_deployer_is_at_work(&plane, &client).await;
}

#[tokio::test]
async fn kube_routes_survive_whoever_closes_and_opens_them() {
    let Some(plane) = ControlPlane::start("kube_routes_survive_whoever_closes_and_opens_them").await else { return };
    let client = plane.client().await;
    openshift::define_routes(&client).await;
    build(&client, NAMESPACE).await;
    let over = |client: &Client| Kubernetes::over(routed(NAMESPACE, &plane), client.clone());
    dies_between_any_two_writes(&client, over).await;
    is_written_over(&client, over).await;
    is_late(&client, over).await;
}

/// Nothing is changed where it cannot be done.
async fn where_there_are_none(plane: &ControlPlane, client: &Client) {
    let namespace = "plain";
    skeleton::namespace(client, namespace).await;
    skeleton::build(client, Form::Deployments, namespace, LEAN).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let kubernetes = Kubernetes::new(routed(namespace, plane));
    let (usual, rebuilt) = (Intent::default(), Intent { rebuilt: true, ..Intent::default() });
    for intent in [usual, rebuilt] {
        let refused = kubernetes.preflight(intent).await.expect_err("there are no Routes");
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.chain().contains("`by: scale`"), "{}", refused.chain());
    }
    kubernetes.close_routes(&run(1)).await.expect_err("there are none");
    told(kubernetes.open_routes(&run(1)).await);

    openshift::define_routes(client).await;
    build_route(client, namespace, STRANGER, &[("a-shop", None)]).await;
    let refused = kubernetes.preflight(usual).await.expect_err("none leads to it");
    assert_eq!(refused.kind(), Kind::NotFound);
    assert!(refused.chain().contains("Ingress") && refused.chain().contains("`by: scale`"), "{}", refused.chain());
    // Whoever has made them was stopped before it had made any.
    told(kubernetes.preflight(rebuilt).await);
    assert_eq!(told(kubernetes.close_routes(&run(1)).await), 0);
    client.remove(&format!("{}/{STRANGER}", openshift::routes(namespace))).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
}

async fn opens_as_it_was(plane: &ControlPlane, client: &Client) {
    build(client, NAMESPACE).await;
    let before = skeleton::picture(client, &[NAMESPACE]).await;
    let kubernetes = Kubernetes::new(routed(NAMESPACE, plane));
    // Asked again, and by whoever takes over.
    for epoch in [1, 1, 2] {
        assert_eq!(told(kubernetes.close_routes(&run(epoch)).await), ROUTES.len());
        must_be_closed(client, NAMESPACE).await;
    }
    for _ in 0..2 {
        told(kubernetes.open_routes(&run(2)).await);
        assert_eq!(skeleton::picture(client, &[NAMESPACE]).await, before);
    }
    // The topology is another when they are to be opened.
    for by in [By::Scale, By::None] {
        told(kubernetes.close_routes(&run(2)).await);
        let other = Kubernetes::new(KubernetesSettings { by, ..settings(NAMESPACE, plane.kubeconfig()) });
        told(other.open_routes(&run(3)).await);
        assert_eq!(skeleton::picture(client, &[NAMESPACE]).await, before, "{by:?}");
    }
    // One that the topology leaves alone.
    let left = KubernetesSettings { leave: vec!["apicast-production".to_owned()], ..routed(NAMESPACE, plane) };
    let kubernetes = Kubernetes::new(left);
    assert_eq!(told(kubernetes.close_routes(&run(3)).await), ROUTES.len() - 1);
    assert_eq!(weights(client, NAMESPACE).await["zync-3scale-api-b"], [Some(7), Some(31), None]);
    told(kubernetes.open_routes(&run(3)).await);
    assert_eq!(skeleton::picture(client, &[NAMESPACE]).await, before);
}

/// Somebody opens one, takes one away, makes one, spoils the annotation of one.
async fn changes_meanwhile(plane: &ControlPlane, client: &Client) {
    let namespace = "meanwhile";
    build(client, namespace).await;
    skeleton::build(client, Form::Deployments, namespace, &LEAN.iter().map(|(n, _)| (*n, 0)).collect::<Vec<_>>()).await;
    let kubernetes = Kubernetes::new(routed(namespace, plane));
    let extent = Extent { keeps: Vec::new(), routes: true };
    told(kubernetes.quiesce(&run(1)).await);
    told(kubernetes.close_routes(&run(1)).await);
    told(kubernetes.is_still_quiet(&run(1), &extent).await);
    let at = |name: &str| format!("{}/{name}", openshift::routes(namespace));
    client.merge(&at("backend"), json!({ "spec": { "to": { "weight": 9 } } })).await;
    let noticed = kubernetes.is_still_quiet(&run(1), &extent).await.expect_err("one is open");
    assert!(noticed.chain().contains("route/backend") && noticed.kind() == Kind::Conflict, "{}", noticed.chain());
    client.remove(&at("zync-3scale-api-b")).await;
    build_route(client, namespace, "new", &[("system-provider", Some(5))]).await;
    let noticed = kubernetes.is_still_quiet(&run(1), &extent).await.expect_err("one was made").chain();
    assert!(noticed.contains("route/new") && noticed.contains("route/backend"), "{noticed}");
    // Whoever opens them leaves what somebody wished; the others are what they were.
    told(kubernetes.open_routes(&run(1)).await);
    let now = weights(client, namespace).await;
    assert_eq!(now["backend"], [Some(9)]);
    assert_eq!(now["new"], [Some(5)]);
    assert_eq!(now["closed-before"], [Some(0)]);
    assert_eq!(now["zync-3scale-provider-a"], [Some(100)]);
    let left = client.at(&openshift::routes(namespace)).await.expect("the Routes").to_string();
    assert!(!left.contains(ANNOTATION), "{left}");
    // One that cannot be read keeps no other closed.
    told(kubernetes.close_routes(&run(2)).await);
    client.merge(&at("backend"), json!({ "metadata": { "annotations": { ANNOTATION: "open" } } })).await;
    let problem = kubernetes.open_routes(&run(2)).await.expect_err("one cannot be read").chain();
    assert!(problem.contains("route/backend") && problem.contains("route-backends"), "{problem}");
    assert_eq!(weights(client, namespace).await["new"], [Some(5)]);
    start(&kubernetes, 1).await;
}

/// A Route that OpenShift makes of an Ingress.
async fn what_would_not_stay_closed(plane: &ControlPlane, client: &Client) {
    let namespace = "ingress";
    build(client, namespace).await;
    let owner = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web", "uid": "u", "controller": true });
    let path = format!("{}/backend", openshift::routes(namespace));
    client.merge(&path, json!({ "metadata": { "ownerReferences": [owner] } })).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let refused =
        Kubernetes::new(routed(namespace, plane)).close_routes(&run(1)).await.expect_err("it is of an Ingress");
    assert!(refused.kind() == Kind::Unsupported && refused.chain().contains("Ingress web"), "{}", refused.chain());
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
}

/// What writes to no store that is restored runs on, the worker for as long as it is needed, and all comes back.
async fn left_running(plane: &ControlPlane, client: &Client) {
    let namespace = "running";
    build(client, namespace).await;
    skeleton::build(client, Form::Deployments, namespace, WHOLE).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let wanted = skeleton::replicas(client, Form::Deployments, namespace).await;
    let kubernetes = Kubernetes::new(routed(namespace, plane));
    let keeps = ["apicast-staging", "apicast-production", "system-app"].map(str::to_owned).to_vec();
    let with_worker = [keeps.clone(), vec!["backend-worker".to_owned()]].concat();
    let had = told(kubernetes.quiesce_but(&run(1), &with_worker).await);
    let now = skeleton::replicas(client, Form::Deployments, namespace).await;
    let others = ["system-memcache", "system-searchd", "system-mysql"];
    for name in with_worker.iter().map(String::as_str).chain(others) {
        assert_eq!(now[name], wanted[name], "{name}");
    }
    for name in ["zync-que", "zync", "system-sidekiq", "backend-listener"] {
        assert_eq!(now[name], 0, "{name}");
    }
    assert!(had.iter().any(|h| h.workload == "deployment/backend-worker" && h.replicas == 2), "{had:?}");
    assert!(had.iter().all(|h| h.workload != "deployment/system-app"), "{had:?}");
    let extent = Extent { keeps: keeps.clone(), routes: true };
    let noticed = kubernetes.is_still_quiet(&run(1), &extent).await.expect_err("the worker runs").chain();
    assert!(noticed.contains("backend-worker"), "{noticed}");
    assert_eq!(told(kubernetes.quiesce_but(&run(1), &keeps).await), had);
    let noticed = kubernetes.is_still_quiet(&run(1), &extent).await.expect_err("Routes are open").chain();
    assert!(noticed.contains("route/backend"), "{noticed}");
    told(kubernetes.close_routes(&run(1)).await);
    told(kubernetes.is_still_quiet(&run(1), &extent).await);
    let now = skeleton::replicas(client, Form::Deployments, namespace).await;
    assert_eq!((now["backend-worker"], now["system-memcache"], now["system-searchd"]), (0, 0, 0));
    assert_eq!(now["system-app"], 3);
    // Whatever the topology says by now.
    for by in [By::Routes, By::Scale] {
        let kubernetes = Kubernetes::new(KubernetesSettings { by, ..routed(namespace, plane) });
        let examined = kubernetes.examine().await;
        let closed = examined.iter().find(|e| e.check == "applications").expect("a word of what is stopped");
        let closed = closed.found.as_ref().expect_err("it is stopped").chain();
        assert!(closed.contains("route/backend") && closed.contains("backend-worker"), "{closed}");
    }
    // What was left running is not taken for the run's own.
    let told_of = kubernetes.is_still_quiet(&run(1), &Extent::default()).await.expect_err("it runs").chain();
    assert!(told_of.contains("apicast-production"), "{told_of}");
    start(&kubernetes, 1).await;
    told(kubernetes.open_routes(&run(1)).await);
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
}

/// Pods that roll out a DeploymentConfig, and those of its hooks, are waited for; those of others are not.
async fn a_deployer_is_at_work(plane: &ControlPlane, client: &Client) {
    let namespace = "rolls-out";
    openshift::define(client).await;
    skeleton::namespace(client, namespace).await;
    let _controller = ConfigController::start(client.clone(), namespace);
    skeleton::build(client, Form::DeploymentConfigs, namespace, LEAN).await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = |rollout: &str, suffix: &str| {
        json!({
            "metadata": { "name": format!("{rollout}-{suffix}"), "labels": { "openshift.io/deployer-pod-for.name": rollout } },
            "spec": { "containers": [{ "name": "lifecycle", "image": "nothing:1" }] },
        })
    };
    client.create(&pods, pod("a-shop-3", "deploy")).await;
    client.create(&pods, pod("system-app-2", "hook-pre")).await;
    let wanted = skeleton::replicas(client, Form::DeploymentConfigs, namespace).await;
    let short = KubernetesSettings { deadline: 2, ..settings(namespace, plane.kubeconfig()) };
    let late = Kubernetes::new(short).quiesce(&run(1)).await.expect_err("a hook runs");
    assert_eq!(late.kind(), Kind::Timeout);
    assert!(late.chain().contains("system-app-2-hook-pre (pending)"), "{}", late.chain());
    assert!(!late.chain().contains("a-shop"), "{}", late.chain());
    assert_eq!(
        skeleton::replicas(client, Form::DeploymentConfigs, namespace).await,
        wanted,
        "nothing is stopped below it"
    );
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    client.remove(&format!("{pods}/system-app-2-hook-pre")).await;
    told(kubernetes.quiesce(&run(1)).await);
    told(kubernetes.is_still_quiet(&run(1), &Extent::default()).await);
    client.create(&pods, pod("backend-worker-9", "deploy")).await;
    let noticed = kubernetes.is_still_quiet(&run(1), &Extent::default()).await.expect_err("it is rolled out").chain();
    assert!(noticed.contains("backend-worker-9-deploy"), "{noticed}");
    start(&kubernetes, 1).await;
    assert_eq!(skeleton::replicas(client, Form::DeploymentConfigs, namespace).await, wanted);
}

async fn dies_between_any_two_writes(client: &Client, over: impl Fn(&Client) -> Kubernetes) {
    let before = skeleton::picture(client, &[NAMESPACE]).await;
    for closes in [true, false] {
        for n in 1.. {
            let faulty = Faulty::new(client, Rule::DieBefore(n));
            let mortal = over(&faulty.client);
            let done = if closes {
                faulty.mortal(async { mortal.close_routes(&run(1)).await.map(drop) }).await
            } else {
                told(over(client).close_routes(&run(1)).await);
                faulty.mortal(mortal.open_routes(&run(2))).await
            };
            // Every other time the one that takes over closes them first.
            if n % 2 == 0 {
                told(over(client).close_routes(&run(3)).await);
                must_be_closed(client, NAMESPACE).await;
            }
            told(over(client).open_routes(&run(3)).await);
            assert_eq!(
                skeleton::picture(client, &[NAMESPACE]).await,
                before,
                "closes: {closes}, gone before write {n}"
            );
            if let Some(done) = done {
                told(done);
                assert_eq!(n, ROUTES.len() + 1, "{:?}", faulty.writes());
                break;
            }
        }
    }
}

async fn is_written_over(client: &Client, over: impl Fn(&Client) -> Kubernetes) {
    let before = skeleton::picture(client, &[NAMESPACE]).await;
    for rule in [Rule::LoseAnswers, Rule::Conflict] {
        let faulty = Faulty::new(client, rule);
        let kubernetes = over(&faulty.client);
        told(kubernetes.close_routes(&run(1)).await);
        must_be_closed(client, NAMESPACE).await;
        told(kubernetes.open_routes(&run(1)).await);
        // Whoever did not hear that it was done looks, and need not write again.
        let least = 2 * ROUTES.len() + usize::from(rule == Rule::Conflict);
        assert!(faulty.writes().len() >= least, "{rule:?}: {:?}", faulty.writes());
        let mut after = skeleton::picture(client, &[NAMESPACE]).await;
        let mut touched = 0;
        for object in after.values_mut() {
            let Some(meta) = object["metadata"].as_object_mut() else { continue };
            let annotations = meta.get_mut("annotations").and_then(Value::as_object_mut);
            let Some(annotations) = annotations else { continue };
            touched += usize::from(annotations.remove("somebody").is_some());
            if annotations.is_empty() {
                meta.remove("annotations");
            }
        }
        assert_eq!(touched, if rule == Rule::Conflict { ROUTES.len() } else { 0 }, "what somebody wrote is lost");
        assert_eq!(after, before, "{rule:?}");
    }
}

/// One that was taken over comes to itself.
async fn is_late(client: &Client, over: impl Fn(&Client) -> Kubernetes) {
    told(over(client).close_routes(&run(5)).await);
    let late = over(client).open_routes(&run(4)).await.expect_err("a later one has them");
    assert!(late.kind() == Kind::Conflict && late.chain().contains("epoch 5"), "{}", late.chain());
    let late = over(client).close_routes(&run(4)).await.expect_err("a later one has them");
    assert_eq!(late.kind(), Kind::Conflict, "{}", late.chain());
    must_be_closed(client, NAMESPACE).await;
    told(over(client).open_routes(&run(5)).await);
}
