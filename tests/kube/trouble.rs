//! What cannot be done is said, with what to do; and nothing is changed, or all can be brought back.

use std::time::Duration;

use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::platform::{Extent, Platform};
use keepsake_coordinator::topology::KubernetesSettings;
use keepsake_core::Kind;
use keepsake_core::error::Error;
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::skeleton::{self, Form, LEAN};
use keepsake_tests::cluster::{ControlPlane, Raw};
use keepsake_tests::poll::wait_for;
use kube::Client;
use serde_json::{Value, json};

use super::{run, settings, start, stop};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn kube_what_cannot_be_done_is_said() {
    let Some(mut plane) = ControlPlane::start("kube_what_cannot_be_done_is_said").await else { return };
    let client = plane.client().await;
    not_allowed(&plane, &client).await;
    not_there(&plane, &client).await;
    never_ends(&plane, &client).await;
    never_ready(&plane, &client).await;
    started_by_somebody(&plane, &client).await;
    a_job_is_at_work(&plane, &client).await;
    runs_again(&plane, &client).await;
    without_an_api_server(&mut plane, &client).await;
}

fn short(namespace: &str, plane: &ControlPlane) -> Kubernetes {
    Kubernetes::new(KubernetesSettings { deadline: 3, ..settings(namespace, plane.kubeconfig()) })
}

async fn build(client: &Client, namespace: &str) {
    skeleton::namespace(client, namespace).await;
    skeleton::build(client, Form::Deployments, namespace, LEAN).await;
}

async fn refused(kubernetes: &Kubernetes) -> Error {
    kubernetes.quiesce(&run(1)).await.expect_err("it cannot be stopped")
}

async fn allow(client: &Client, namespace: &str, verbs: &[&str]) {
    let base = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let rules = json!([
        { "apiGroups": ["apps"], "resources": ["deployments"], "verbs": verbs },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] },
        { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"] },
        { "apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "delete"] },
        { "apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list"] },
    ]);
    if client.at(&format!("{base}/roles/clerk")).await.is_some() {
        client.merge(&format!("{base}/roles/clerk"), json!({ "rules": rules })).await;
        return;
    }
    client.create(&format!("{base}/roles"), json!({ "metadata": { "name": "clerk" }, "rules": rules })).await;
    let binding = json!({
        "metadata": { "name": "clerk" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "clerk" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "clerk" }],
    });
    client.create(&format!("{base}/rolebindings"), binding).await;
}

async fn not_allowed(plane: &ControlPlane, client: &Client) {
    let namespace = "guarded";
    build(client, namespace).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let clerk = Kubernetes::new(settings(namespace, plane.kubeconfig_of_the_clerk()));
    let told = refused(&clerk).await;
    assert_eq!(told.kind(), Kind::Denied, "{}", told.chain());
    assert!(told.chain().contains("list") && told.chain().contains("grant"), "{}", told.chain());
    let examined = clerk.examine().await;
    let permissions = examined.iter().find(|e| e.check == "permissions").expect("permissions");
    let told = permissions.found.as_ref().expect_err("nothing is allowed").chain();
    assert!(told.contains("patch deployments.apps in namespace guarded") && told.contains("list pods"), "{told}");
    // It may look, but not touch: that is found before anything is touched.
    allow(client, namespace, &["get", "list"]).await;
    let told = until_allowed_to_look(&clerk).await;
    assert_eq!(told.kind(), Kind::Denied, "{}", told.chain());
    assert!(told.chain().contains("may not patch deployments.apps in namespace guarded:"), "{}", told.chain());
    assert_eq!(skeleton::picture(client, &[namespace]).await, before, "it was found out too late");
    allow(client, namespace, &["get", "list", "patch"]).await;
    wait_for("the clerk to be allowed", PATIENCE, async || clerk.quiesce(&run(1)).await.map_err(|e| e.chain())).await;
    start(&clerk, 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
}

/// The API server takes a moment to know a new role.
async fn until_allowed_to_look(clerk: &Kubernetes) -> Error {
    wait_for("the clerk to be allowed to look", PATIENCE, async || {
        let told = refused(clerk).await;
        if told.chain().contains("may not patch") { Ok(told) } else { Err(told.chain()) }
    })
    .await
}

async fn not_there(plane: &ControlPlane, client: &Client) {
    skeleton::namespace(client, "nearly-empty").await;
    skeleton::build(client, Form::Deployments, "nearly-empty", &[("system-app", 1)]).await;
    let told = refused(&Kubernetes::new(settings("nearly-empty", plane.kubeconfig()))).await;
    assert_eq!(told.kind(), Kind::NotFound);
    assert!(told.chain().contains("backend-listener") && told.chain().contains("namespace"), "{}", told.chain());
    let replicas = skeleton::replicas(client, Form::Deployments, "nearly-empty").await;
    assert_eq!(replicas["system-app"], 1);
    let kubeconfig = plane.kubeconfig().with_file_name("none");
    let told = refused(&Kubernetes::new(settings("nearly-empty", kubeconfig))).await;
    assert_eq!(told.kind(), Kind::Invalid, "{}", told.chain());
}

/// Holds a pod of a workload, so that it does not go away when it is deleted.
async fn hold(client: &Client, namespace: &str, workload: &str) -> String {
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let found = client.at(&format!("{pods}?labelSelector=deployment%3D{workload}")).await.expect("pods");
    let name = found["items"][0]["metadata"]["name"].as_str().expect("a pod").to_owned();
    client.merge(&format!("{pods}/{name}"), json!({ "metadata": { "finalizers": ["keepsake/held"] } })).await;
    name
}

async fn never_ends(plane: &ControlPlane, client: &Client) {
    let namespace = "stubborn";
    build(client, namespace).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let (pod, other) = (hold(client, namespace, "system-sidekiq").await, hold(client, namespace, "zync").await);
    let told = refused(&short(namespace, plane)).await;
    assert_eq!(told.kind(), Kind::Timeout);
    // Each of those that stop together, with its reason.
    for word in [
        "deployment/system-sidekiq",
        &pod,
        "deployment/zync in",
        &other,
        "terminating since",
        "3 s",
        "kubectl describe",
    ] {
        assert!(told.chain().contains(word), "{word}: {}", told.chain());
    }
    assert!(!told.chain().contains("system-app"), "{}", told.chain());
    // What needs them gone was not stopped; all comes back.
    let replicas = skeleton::replicas(client, Form::Deployments, namespace).await;
    assert_eq!((replicas["zync"], replicas["system-sidekiq"], replicas["system-app"]), (0, 0, 0));
    assert_eq!((replicas["backend-listener"], replicas["backend-worker"]), (2, 1));
    start(&short(namespace, plane), 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
    let free = json!({ "metadata": { "finalizers": null } });
    for held in [&pod, &other] {
        client.merge(&format!("/api/v1/namespaces/{namespace}/pods/{held}"), free.clone()).await;
    }
    // A pod that has ended and lies about is in nobody's way.
    let ended = json!({
        "metadata": { "name": "evicted", "labels": { "deployment": "system-sidekiq" }, "finalizers": ["keepsake/held"] },
        "spec": { "containers": [{ "name": "a", "image": "nothing:1" }] },
    });
    client.create(&format!("/api/v1/namespaces/{namespace}/pods"), ended).await;
    let status = json!({ "status": { "phase": "Failed", "reason": "Evicted" } });
    client.merge(&format!("/api/v1/namespaces/{namespace}/pods/evicted/status"), status).await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    stop(&kubernetes, 2).await;
    start(&kubernetes, 2).await;
}

async fn never_ready(plane: &ControlPlane, client: &Client) {
    let namespace = "unready";
    skeleton::namespace(client, namespace).await;
    let kubelet = Kubelet::start(client.clone(), namespace, &[]);
    skeleton::build(client, Form::Deployments, namespace, LEAN).await;
    skeleton::ready(client, namespace, "backend-listener", 2).await;
    let before = skeleton::picture(client, &[namespace]).await;
    stop(&short(namespace, plane), 1).await;
    drop(kubelet);
    let _kubelet = Kubelet::start(client.clone(), namespace, &["backend-listener"]);
    let told = short(namespace, plane).resume(&run(1)).await.expect_err("it never becomes ready");
    assert_eq!(told.kind(), Kind::Timeout);
    let chain = told.chain();
    assert!(chain.contains("deployment/backend-listener") && chain.contains("0 of 2 replicas ready"), "{chain}");
    // All others were started all the same, and it is still known what is owed.
    let replicas = skeleton::replicas(client, Form::Deployments, namespace).await;
    assert!(LEAN.iter().all(|(name, wanted)| replicas[*name] == u64::from(*wanted)), "{replicas:?}");
    let again = short(namespace, plane).resume(&run(1)).await.expect_err("it is still not ready");
    assert!(again.chain().contains("0 of 2 replicas ready"), "{}", again.chain());
    let _better = Kubelet::start(client.clone(), namespace, &[]);
    start(&Kubernetes::new(settings(namespace, plane.kubeconfig())), 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
}

async fn started_by_somebody(plane: &ControlPlane, client: &Client) {
    let namespace = "contested";
    build(client, namespace).await;
    // While it waits for this one, somebody starts another one of the same step.
    let pod = hold(client, namespace, "zync-que").await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    let zync = format!("{}/zync", Form::Deployments.path(namespace));
    let (key, path) = (run(1), zync.clone());
    let (told, ()) = tokio::join!(kubernetes.quiesce(&key), async {
        wait_for("zync to be stopped", PATIENCE, async || {
            let found = client.at(&path).await.expect("zync");
            if found["spec"]["replicas"] == 0 { Ok(()) } else { Err(found["spec"]["replicas"].to_string()) }
        })
        .await;
        client.merge(&path, json!({ "spec": { "replicas": 4 } })).await;
        let free = json!({ "metadata": { "finalizers": null } });
        client.merge(&format!("/api/v1/namespaces/{namespace}/pods/{pod}"), free).await;
    });
    let told = told.expect_err("somebody started it");
    assert_eq!(told.kind(), Kind::Conflict, "{}", told.chain());
    assert!(told.chain().contains("deployment/zync") && told.chain().contains("4 replicas"), "{}", told.chain());
    start(&kubernetes, 1).await;
    let found = client.at(&zync).await.expect("zync");
    assert_eq!(found["spec"]["replicas"], 4, "somebody's wish is kept");
    assert_eq!(found["metadata"]["annotations"]["keepsake/stopped"], Value::Null);
}

async fn a_job_is_at_work(plane: &ControlPlane, client: &Client) {
    let namespace = "busy";
    build(client, namespace).await;
    let jobs = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    let job = json!({
        "metadata": { "name": "system-app-pre" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "pre", "image": "nothing:1" }] } } },
    });
    client.create(&jobs, job).await;
    wait_for("the Job to work", PATIENCE, async || {
        let found = client.at(&format!("{jobs}/system-app-pre")).await.expect("the Job");
        if found["status"]["active"] == 1 { Ok(()) } else { Err(found["status"].to_string()) }
    })
    .await;
    let told = refused(&short(namespace, plane)).await;
    assert_eq!(told.kind(), Kind::Timeout);
    assert!(told.chain().contains("job/system-app-pre has neither completed nor failed"), "{}", told.chain());
    let replicas = skeleton::replicas(client, Form::Deployments, namespace).await;
    assert_eq!(replicas["backend-listener"], 2, "the Job needs it");
    client.remove(&format!("{jobs}/system-app-pre?propagationPolicy=Background")).await;
    let told = refused(&short(namespace, plane)).await;
    assert!(told.chain().contains("system-app-pre-"), "a pod of it may run on: {}", told.chain());
    client.remove(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector=job-name%3Dsystem-app-pre")).await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    stop(&kubernetes, 1).await;
    start(&kubernetes, 1).await;
}

/// Stopped, and started by somebody long afterwards; and one whose annotation cannot be read keeps no other from being started.
async fn runs_again(plane: &ControlPlane, client: &Client) {
    let namespace = "again";
    build(client, namespace).await;
    let before = skeleton::replicas(client, Form::Deployments, namespace).await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    stop(&kubernetes, 1).await;
    kubernetes.is_still_quiet(&run(1), &Extent::default()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let at = |name: &str| format!("{}/{name}", Form::Deployments.path(namespace));
    let again = ["system-app", "backend-worker"];
    for name in again {
        client.merge(&at(name), json!({ "spec": { "replicas": 1 } })).await;
    }
    let told = kubernetes.is_still_quiet(&run(1), &Extent::default()).await.expect_err("they run").chain();
    assert!(told.contains("may run again") && again.iter().all(|name| told.contains(name)), "{told}");
    for name in again {
        client.merge(&at(name), json!({ "spec": { "replicas": 0 } })).await;
        client.remove(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector=deployment%3D{name}")).await;
    }

    let what = json!({ "metadata": { "annotations": { "keepsake/stopped": "by hand" } } });
    client.merge(&at("zync"), what).await;
    let told = kubernetes.resume(&run(1)).await.expect_err("one cannot be read").chain();
    assert!(told.contains("keepsake/stopped cannot be read"), "{told}");
    let mut now = skeleton::replicas(client, Form::Deployments, namespace).await;
    assert_eq!(now.insert("zync".to_owned(), before["zync"]), Some(0));
    assert_eq!(now, before, "the others run");
}

/// The API server goes away in the middle and comes back.
async fn without_an_api_server(plane: &mut ControlPlane, client: &Client) {
    let namespace = "restarted";
    build(client, namespace).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let pod = hold(client, namespace, "system-sidekiq").await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    let key = run(1);
    let (stopped, ()) = tokio::join!(kubernetes.quiesce(&key), async {
        wait_for("sidekiq to be stopped", PATIENCE, async || {
            let found = client.at(&format!("{}/system-sidekiq", Form::Deployments.path(namespace))).await;
            let replicas = found.expect("sidekiq")["spec"]["replicas"].clone();
            if replicas == 0 { Ok(()) } else { Err(replicas.to_string()) }
        })
        .await;
        plane.stop_api();
        plane.start_api_again().await;
        let free = json!({ "metadata": { "finalizers": null } });
        client.merge(&format!("/api/v1/namespaces/{namespace}/pods/{pod}"), free).await;
    });
    stopped.unwrap_or_else(|e| panic!("{}", e.chain()));
    start(&kubernetes, 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
    plane.stop_api();
    let examined = short(namespace, plane).examine().await;
    let told = examined[0].found.as_ref().expect_err("nobody answers").chain();
    assert!(told.contains("the API server cannot be reached") && examined.len() == 1, "{told}");
}
