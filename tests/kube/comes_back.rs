//! What is stopped comes back as it was: operator-based and template-based, Deployments and DeploymentConfigs.

use std::collections::BTreeMap;

use keepsake_coordinator::platform::kubernetes::{ANNOTATION, Kubernetes};
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::openshift::{self, ConfigController};
use keepsake_tests::cluster::skeleton::{self, Form, LEAN, OPERATOR, WHOLE};
use keepsake_tests::cluster::{ControlPlane, Raw};
use keepsake_tests::poll::wait_for;
use kube::Client;
use serde_json::{Value, json};
use std::time::Duration;

use super::{settings, start, stop, with_operator_in};

const PATIENCE: Duration = Duration::from_secs(120);
const STORES: [&str; 4] = ["system-mysql", "backend-redis", "system-redis", "zync-database"];

#[tokio::test]
async fn kube_what_is_stopped_comes_back_as_it_was() {
    let Some(plane) = ControlPlane::start("kube_what_is_stopped_comes_back_as_it_was").await else { return };
    let client = plane.client().await;
    // First where neither group of resources is known.
    template_based(&plane, &client).await;
    openshift::define(&client).await;
    openshift::define_apimanager(&client).await;
    deployment_configs(&plane, &client).await;
    operator_based(&plane, &client).await;
    an_operator_of_two(&plane, &client).await;
}

/// The names and identities of the pods of the stores.
async fn pods_of_stores(client: &Client, namespace: &str) -> BTreeMap<String, Value> {
    let found = client.at(&format!("/api/v1/namespaces/{namespace}/pods")).await.expect("pods");
    let pods = found["items"].as_array().into_iter().flatten();
    let of = |pod: &Value| Some((pod["metadata"]["name"].as_str()?.to_owned(), pod["metadata"]["uid"].clone()));
    pods.filter_map(of).filter(|(name, _)| STORES.iter().any(|s| name.starts_with(s))).collect()
}

/// The workloads in the order in which they were last written to.
fn order(writes: &[String]) -> Vec<String> {
    let mut last: Vec<String> = Vec::new();
    for name in writes.iter().filter_map(|w| w.rsplit('/').next()) {
        last.retain(|n| n != name);
        last.push(name.to_owned());
    }
    last
}

async fn is_all_at_nothing(client: &Client, form: Form, namespace: &str) {
    for (name, replicas) in skeleton::replicas(client, form, namespace).await {
        let wanted = u64::from(STORES.contains(&name.as_str()));
        assert_eq!(replicas, wanted, "{name} in {namespace}");
    }
}

async fn template_based(plane: &ControlPlane, client: &Client) {
    let namespace = "template";
    skeleton::namespace(client, namespace).await;
    skeleton::build(client, Form::Deployments, namespace, WHOLE).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    stop(&kubernetes, 1).await;
    is_all_at_nothing(client, Form::Deployments, namespace).await;
    start(&kubernetes, 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
    // Whoever starts what is not stopped does nothing.
    start(&kubernetes, 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
}

async fn deployment_configs(plane: &ControlPlane, client: &Client) {
    let namespace = "configs";
    skeleton::namespace(client, namespace).await;
    let _controller = ConfigController::start(client.clone(), namespace);
    skeleton::build(client, Form::DeploymentConfigs, namespace, WHOLE).await;
    let before = skeleton::picture(client, &[namespace]).await;
    let stores = pods_of_stores(client, namespace).await;
    assert_eq!(stores.len(), STORES.len());
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    stop(&kubernetes, 1).await;
    is_all_at_nothing(client, Form::DeploymentConfigs, namespace).await;
    let left = client.at(&format!("/api/v1/namespaces/{namespace}/pods")).await.expect("pods");
    assert_eq!(left["items"].as_array().map(Vec::len), Some(STORES.len()), "only stores have pods");
    start(&kubernetes, 1).await;
    assert_eq!(skeleton::picture(client, &[namespace]).await, before);
    assert_eq!(pods_of_stores(client, namespace).await, stores, "a store was restarted");
}

/// With an operator elsewhere, an autoscaler, Jobs of the operator, and pods that become ready.
async fn operator_based(plane: &ControlPlane, client: &Client) {
    let (namespace, at) = ("operated", "operators");
    for name in [namespace, at] {
        skeleton::namespace(client, name).await;
    }
    let _kubelets = [Kubelet::start(client.clone(), namespace, &[]), Kubelet::start(client.clone(), at, &[])];
    skeleton::build(client, Form::Deployments, namespace, WHOLE).await;
    skeleton::build_operator(client, at).await;
    skeleton::build_apimanager(client, namespace).await;
    autoscaler(client, namespace).await;
    failed_job(client, namespace, "system-app-pre").await;
    everybody_is_ready(client, namespace).await;
    let before = skeleton::picture(client, &[namespace, at]).await;
    let stores = pods_of_stores(client, namespace).await;
    let settings = with_operator_in(at, settings(namespace, plane.kubeconfig()));

    let faulty = Faulty::new(client, Rule::Pass);
    let watched = Kubernetes::over(settings.clone(), faulty.client.clone());
    stop(&watched, 1).await;
    let stopped = order(&faulty.writes());
    let expected = [
        OPERATOR,
        "zync-que",
        "zync",
        "apicast-staging",
        "apicast-production",
        "system-sidekiq",
        "backend-cron",
        "system-app",
        "backend-listener",
        "backend-worker",
        "system-memcache",
        "system-searchd",
    ];
    let step = |name: &str| stopped.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name}: {stopped:?}"));
    for (earlier, later) in [
        (OPERATOR, "zync-que"),
        (OPERATOR, "system-app"),
        ("apicast-staging", "backend-listener"),
        ("apicast-production", "backend-listener"),
        ("system-sidekiq", "backend-listener"),
        ("system-app", "backend-listener"),
        ("backend-cron", "backend-worker"),
        ("backend-listener", "backend-worker"),
        ("backend-listener", "system-searchd"),
    ] {
        assert!(step(earlier) < step(later), "{earlier} comes before {later}: {stopped:?}");
    }
    assert_eq!(stopped.len(), expected.len(), "{stopped:?}");
    is_all_at_nothing(client, Form::Deployments, namespace).await;
    assert_eq!(skeleton::replicas(client, Form::Deployments, at).await[OPERATOR], 0);
    the_autoscaler_rests(client, namespace).await;
    // Asked again, by another coordinator that has taken over: what was remembered stays.
    stop(&Kubernetes::new(settings.clone()), 2).await;
    let told = watched.examine().await.into_iter().find(|e| e.check == "applications").expect("a word of it");
    assert!(told.found.as_ref().unwrap_err().chain().contains("epoch 2"), "{told:?}");

    let faulty = Faulty::new(client, Rule::Pass);
    start(&Kubernetes::over(settings.clone(), faulty.client.clone()), 2).await;
    let writes = faulty.writes();
    assert_eq!(order(&writes).last().map(String::as_str), Some(OPERATOR), "the operator comes last");
    // A workload is written to once more when it is ready: whatever needs it is started only then.
    let is_of = |write: &String, name: &str| write.ends_with(&format!("/{name}"));
    let last = |name: &str| writes.iter().rposition(|w| is_of(w, name)).unwrap_or_else(|| panic!("{name}: {writes:?}"));
    let first = |name: &str| writes.iter().position(|w| is_of(w, name)).unwrap_or_else(|| panic!("{name}: {writes:?}"));
    for (earlier, later) in [
        ("backend-listener", "system-app"),
        ("backend-listener", "system-sidekiq"),
        ("system-app", "apicast-staging"),
        ("system-app", "apicast-production"),
        ("apicast-production", OPERATOR),
    ] {
        assert!(last(earlier) < first(later), "{earlier} is ready before {later} starts: {writes:?}");
    }
    assert_eq!(skeleton::picture(client, &[namespace, at]).await, before);
    assert_eq!(pods_of_stores(client, namespace).await, stores, "a store was restarted");
    let job = client.at(&format!("/apis/batch/v1/namespaces/{namespace}/jobs/system-app-pre")).await;
    assert!(job.is_none_or(|j| j["metadata"]["deletionTimestamp"] != Value::Null), "the failed Job is in the way");
    // As many are ready as were, without further waiting.
    for (name, replicas) in WHOLE {
        let path = format!("{}/{name}", Form::Deployments.path(namespace));
        let found = client.at(&path).await.expect("a workload");
        assert_eq!(found["status"]["readyReplicas"].as_u64().unwrap_or(0), u64::from(*replicas), "{name}");
    }
    let examined = watched.examine().await;
    assert_eq!(examined.iter().map(|e| e.check).collect::<Vec<_>>(), ["cluster", "permissions", "workloads"]);
    for e in &examined {
        e.found.as_ref().unwrap_or_else(|bad| panic!("{}: {}", e.check, bad.chain()));
    }
    let told = examined[2].found.as_ref().expect("workloads");
    assert!(told.contains("system-app (3)") && told.contains("zync-database") && told.contains(OPERATOR), "{told}");
}

/// Two installations, one operator: it comes back with the last.
async fn an_operator_of_two(plane: &ControlPlane, client: &Client) {
    let (east, west, at) = ("east", "west", "shared");
    for name in [east, west, at] {
        skeleton::namespace(client, name).await;
    }
    for name in [east, west] {
        skeleton::build(client, Form::Deployments, name, LEAN).await;
        skeleton::build_apimanager(client, name).await;
    }
    skeleton::build_operator(client, at).await;
    let before = skeleton::picture(client, &[east, west, at]).await;
    let of = |namespace| Kubernetes::new(with_operator_in(at, settings(namespace, plane.kubeconfig())));
    let operator = async || skeleton::replicas(client, Form::Deployments, at).await[OPERATOR];
    stop(&of(east), 1).await;
    stop(&of(west), 7).await;
    start(&of(east), 1).await;
    assert_eq!(operator().await, 0, "west is in the middle of its restore");
    is_all_at_nothing(client, Form::Deployments, west).await;
    start(&of(west), 7).await;
    assert_eq!(operator().await, 1);
    assert_eq!(skeleton::picture(client, &[east, west, at]).await, before);
}

async fn autoscaler(client: &Client, namespace: &str) {
    let scaler = json!({
        "metadata": { "name": "listener" },
        "spec": {
            "minReplicas": 2, "maxReplicas": 8, "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "backend-listener" },
        },
    });
    client.create(&format!("/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers"), scaler).await;
}

/// The controller has seen that its target is stopped, and says that it does nothing.
async fn the_autoscaler_rests(client: &Client, namespace: &str) {
    let path = format!("/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers/listener");
    wait_for("the autoscaler to see it", PATIENCE, async || {
        let found = client.at(&path).await.expect("the autoscaler");
        let told = found["metadata"]["annotations"].to_string();
        if told.contains("ScalingDisabled") { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(skeleton::replicas(client, Form::Deployments, namespace).await["backend-listener"], 0);
}

/// A Job that has used up its attempts.
async fn failed_job(client: &Client, namespace: &str, name: &str) {
    let jobs = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    let job = json!({
        "metadata": { "name": name },
        "spec": {
            "activeDeadlineSeconds": 1,
            "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "pre", "image": "nothing:1" }] } },
        },
    });
    client.create(&jobs, job).await;
    wait_for("the Job to fail", PATIENCE, async || {
        let found = client.at(&format!("{jobs}/{name}")).await.expect("the Job");
        let told = found["status"].to_string();
        if told.contains("DeadlineExceeded") { Ok(()) } else { Err(told) }
    })
    .await;
}

async fn everybody_is_ready(client: &Client, namespace: &str) {
    for (name, replicas) in WHOLE {
        skeleton::ready(client, namespace, name, *replicas).await;
        let found = client.at(&format!("{}/{name}", Form::Deployments.path(namespace))).await.expect("a workload");
        assert_eq!(found["metadata"]["annotations"][ANNOTATION], Value::Null);
    }
}
