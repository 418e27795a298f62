//! What System makes anew, by Jobs: like the pods of its own workloads, once for a run, watched to their end.

mod fails;

use std::time::Duration;

use keepsake_coordinator::platform::Platform;
use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::topology::kubernetes::ResyncTask;
use keepsake_core::Kind;
use keepsake_core::id::{Epoch, RunKey};
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::kubelet::{Fate, Kubelet};
use keepsake_tests::cluster::openshift::{self, ConfigController};
use keepsake_tests::cluster::skeleton::{self, Form, LEAN};
use keepsake_tests::cluster::{ControlPlane, Raw};
use keepsake_tests::poll::wait_for;
use kube::Client;
use serde_json::{Value, json};

use super::{run, settings, start, stop};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn kube_a_resync_is_a_job_like_the_pods_of_sidekiq() {
    let Some(plane) = ControlPlane::start("kube_a_resync_is_a_job_like_the_pods_of_sidekiq").await else { return };
    let client = plane.client().await;
    made_of_a_template(&plane, &client, Form::Deployments, "deployments").await;
    openshift::define(&client).await;
    made_of_a_template(&plane, &client, Form::DeploymentConfigs, "configs").await;
    by_the_release(&plane, &client).await;
    takes_applications(&plane, &client).await;
}

#[tokio::test]
async fn kube_a_resync_is_done_once_whoever_asks() {
    let Some(mut plane) = ControlPlane::start("kube_a_resync_is_done_once_whoever_asks").await else { return };
    let client = plane.client().await;
    asked_twice(&plane, &client).await;
    taken_over(&plane, &client).await;
    dies(&plane, &client).await;
    loses_answers(&plane, &client).await;
    ended_by_a_stop(&plane, &client).await;
    without_an_api_server(&mut plane, &client).await;
}

async fn build(client: &Client, form: Form, namespace: &str) {
    skeleton::namespace(client, namespace).await;
    skeleton::build(client, form, namespace, LEAN).await;
}

fn over(plane: &ControlPlane, client: &Client, namespace: &str) -> Kubernetes {
    Kubernetes::over(settings(namespace, plane.kubeconfig()), client.clone())
}

fn at(namespace: &str) -> String {
    format!("/apis/batch/v1/namespaces/{namespace}/jobs")
}

fn later(key: &RunKey, epoch: u64) -> RunKey {
    RunKey { epoch: Epoch(epoch), ..key.clone() }
}

/// The only Job of the namespace, once it is there.
async fn the_job(client: &Client, namespace: &str) -> Value {
    wait_for("a Job", PATIENCE, async || {
        let found = client.at(&at(namespace)).await.expect("jobs");
        match found["items"].as_array().map(Vec::as_slice) {
            Some([job]) => Ok(job.clone()),
            _ => Err(found["items"].to_string()),
        }
    })
    .await
}

async fn no_job_is_left(client: &Client, namespace: &str) {
    let found = client.at(&at(namespace)).await.expect("jobs");
    assert_eq!(found["items"], json!([]), "in {namespace}");
}

async fn is_gone(client: &Client, namespace: &str) {
    wait_for("the Job to be gone", PATIENCE, async || {
        let found = client.at(&at(namespace)).await.expect("jobs");
        if found["items"] == json!([]) { Ok(()) } else { Err(found["items"].to_string()) }
    })
    .await;
}

/// A pod's template with all that a Job takes of it, and with what it must not take.
fn rich() -> Value {
    let container = json!({
        "name": "system-sidekiq", "image": "porta:1", "imagePullPolicy": "IfNotPresent", "args": ["rake", "sidekiq:worker"],
        "env": [{ "name": "DATABASE_URL", "valueFrom": { "secretKeyRef": { "name": "system-database", "key": "URL" } } }],
        "envFrom": [{ "configMapRef": { "name": "system-environment" } }],
        "volumeMounts": [{ "name": "system-storage", "mountPath": "/opt/system/public/system" }],
        "resources": { "requests": { "cpu": "100m", "memory": "500Mi" } },
        "livenessProbe": { "tcpSocket": { "port": 9394 } }, "readinessProbe": { "tcpSocket": { "port": 9394 } },
        "ports": [{ "name": "metrics", "containerPort": 9394, "protocol": "TCP" }],
    });
    json!({
        "serviceAccountName": "amp", "imagePullSecrets": [{ "name": "registry" }],
        "tolerations": [{ "key": "dedicated", "operator": "Exists" }],
        "volumes": [{ "name": "system-storage", "persistentVolumeClaim": { "claimName": "system-storage" } }],
        "initContainers": [{ "name": "check-svc", "image": "porta:1", "command": ["bash", "-c", "true"] }],
        "containers": [container, { "name": "logs", "image": "fluentd:1" }],
    })
}

async fn made_of_a_template(plane: &ControlPlane, client: &Client, form: Form, namespace: &str) {
    let _controller = (form == Form::DeploymentConfigs).then(|| ConfigController::start(client.clone(), namespace));
    build(client, form, namespace).await;
    let sidekiq = format!("{}/system-sidekiq", form.path(namespace));
    client.merge(&sidekiq, json!({ "spec": { "template": { "spec": rich() } } })).await;
    let faulty = Faulty::new(client, Rule::Pass);
    let kubernetes = over(plane, &faulty.client, namespace);
    let key = run(3);
    let (told, ()) = tokio::join!(kubernetes.resync(&key, ResyncTask::ZyncDomains), async {
        let job = the_job(client, namespace).await;
        assert_eq!(job["metadata"]["name"], format!("keepsake-zync-domains-{}", key.run));
        assert_eq!(job["metadata"]["ownerReferences"], Value::Null);
        assert_eq!((&job["spec"]["backoffLimit"], &job["spec"]["activeDeadlineSeconds"]), (&json!(2), &json!(120)));
        let (pod, rich) = (&job["spec"]["template"]["spec"], rich());
        for same in ["serviceAccountName", "imagePullSecrets", "tolerations", "volumes"] {
            assert_eq!(pod[same], rich[same], "{same}");
        }
        assert_eq!((&pod["restartPolicy"], &pod["initContainers"][0]["name"]), (&json!("Never"), &json!("check-svc")));
        assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1), "with a second one it would never end");
        let (container, like) = (&pod["containers"][0], &rich["containers"][0]);
        for same in ["image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "resources"] {
            assert_eq!(container[same], like[same], "{same}");
        }
        for left in ["livenessProbe", "readinessProbe", "ports", "command"] {
            assert_eq!(container[left], Value::Null, "{left}");
        }
        assert_eq!(container["args"], json!(["bash", "-c", "bundle exec rake zync:resync:domains"]));
        let labels = job["spec"]["template"]["metadata"]["labels"].as_object().expect("labels");
        let of_the_workload = ["app", "deployment", "deploymentConfig", "threescale_component"];
        assert!(of_the_workload.iter().all(|l| !labels.contains_key(*l)), "{labels:?}");
        assert_eq!(labels["keepsake/installation"], "prod");
        // Nothing changes while nobody runs it; then it is done.
        let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
        is_gone(client, namespace).await;
    });
    assert_eq!(told.unwrap_or_else(|e| panic!("{}", e.chain())), "rake zync:resync:domains is done");
    let (jobs, name) = (at(namespace), format!("keepsake-zync-domains-{}", key.run));
    assert_eq!(faulty.writes(), [jobs.clone(), format!("{jobs}/{name}")], "something else was written");
}

/// What is run follows from what searches.
async fn by_the_release(plane: &ControlPlane, client: &Client) {
    for (namespace, search, rake) in [
        ("newer", Some("system-searchd"), "rake searchd:optimal_index is done"),
        ("older", Some("system-sphinx"), "rake ts:index is done"),
        ("without", None, "nothing is indexed"),
    ] {
        build(client, Form::Deployments, namespace).await;
        if let Some(search) = search {
            skeleton::build(client, Form::Deployments, namespace, &[(search, 1)]).await;
        }
        let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
        let told = over(plane, client, namespace).resync(&run(1), ResyncTask::SearchIndex).await;
        let told = told.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert!(told.contains(rake), "{namespace}: {told}");
        no_job_is_left(client, namespace).await;
    }
}

/// Somebody has not started it yet.
async fn takes_applications(plane: &ControlPlane, client: &Client) {
    let namespace = "newer";
    let zync = format!("{}/zync", Form::Deployments.path(namespace));
    client.merge(&zync, json!({ "spec": { "replicas": 0 } })).await;
    let kubernetes = over(plane, client, namespace);
    let told = kubernetes.resync(&run(1), ResyncTask::ZyncDomains).await.expect_err("zync does not run");
    assert_eq!(told.kind(), Kind::Conflict, "{}", told.chain());
    assert!(told.chain().contains("deployment/zync") && told.chain().contains("keepsake resume"), "{}", told.chain());
    no_job_is_left(client, namespace).await;
    client.remove(&format!("{}/system-sidekiq", Form::Deployments.path(namespace))).await;
    let told = kubernetes.resync(&run(1), ResyncTask::CacheFlush).await.expect_err("there is no template");
    assert_eq!(told.kind(), Kind::NotFound, "{}", told.chain());
}

async fn asked_twice(plane: &ControlPlane, client: &Client) {
    let namespace = "twice";
    build(client, Form::Deployments, namespace).await;
    let kubernetes = over(plane, client, namespace);
    let key = run(1);
    let (one, other, ()) = tokio::join!(
        kubernetes.resync(&key, ResyncTask::CacheFlush),
        kubernetes.resync(&key, ResyncTask::CacheFlush),
        async {
            let first = the_job(client, namespace).await;
            let kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Run);
            running(client, namespace).await;
            assert_eq!(the_job(client, namespace).await["metadata"]["uid"], first["metadata"]["uid"]);
            drop(kubelet);
            let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
            // Whoever sees it gone before it has seen it done says that somebody has deleted it.
            is_gone(client, namespace).await;
        }
    );
    assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
    for told in [one, other].into_iter().filter_map(Result::err) {
        assert!(told.chain().contains("was deleted by somebody"), "{}", told.chain());
    }
}

/// Waits until a pod of the Job runs.
async fn running(client: &Client, namespace: &str) {
    wait_for("a pod that runs", PATIENCE, async || {
        let found = client.at(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector=job-name")).await;
        let found = found.expect("pods");
        let is = found["items"].as_array().into_iter().flatten().any(|p| p["status"]["phase"] == "Running");
        if is { Ok(()) } else { Err(found["items"].to_string()) }
    })
    .await;
}

/// A Job that runs is waited for by whoever goes on with the run; one that never ran is made anew, and nobody who is late changes anything.
async fn taken_over(plane: &ControlPlane, client: &Client) {
    let namespace = "taken-over";
    build(client, Form::Deployments, namespace).await;
    let kubernetes = over(plane, client, namespace);
    let key = run(1);
    let task = ResyncTask::CacheFlush;
    let gone = async |key: &RunKey| {
        let asks = kubernetes.resync(key, task);
        tokio::select! {
            done = asks => panic!("nobody ends it: {done:?}"),
            job = async {
                let epoch = key.epoch.0.to_string();
                wait_for("its Job", PATIENCE, async || {
                    let job = the_job(client, namespace).await;
                    let is = job["metadata"]["annotations"]["keepsake/epoch"] == epoch;
                    if is { Ok(job["metadata"]["uid"].clone()) } else { Err(job["metadata"].to_string()) }
                })
                .await
            } => job,
        }
    };
    let first = gone(&key).await;
    let second = gone(&later(&key, 2)).await;
    assert_ne!(first, second, "what kept the first from running may be mended");
    let late = kubernetes.resync(&later(&key, 1), task).await.expect_err("a later one has it");
    assert_eq!(late.kind(), Kind::Conflict, "{}", late.chain());
    let kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Run);
    running(client, namespace).await;
    let third = later(&key, 3);
    let faulty = Faulty::new(client, Rule::Pass);
    let (takes_over, path) = (over(plane, &faulty.client, namespace), path_of(&key, namespace));
    let (told, ()) = tokio::join!(takes_over.resync(&third, task), async {
        has_looked(&faulty, &path, 2).await;
        assert_eq!(the_job(client, namespace).await["metadata"]["uid"], second, "it runs, and was made anew");
        drop(kubelet);
        let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
        is_gone(client, namespace).await;
    });
    told.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(faulty.writes(), [path], "it is only deleted, when it is done");
}

/// The Job of this run that empties the cache.
fn path_of(key: &RunKey, namespace: &str) -> String {
    format!("{}/keepsake-cache-flush-{}", at(namespace), key.run)
}

/// Waits until whoever watches the Job has been answered so often.
async fn has_looked(faulty: &Faulty, path: &str, answers: usize) {
    wait_for("it to be looked at", PATIENCE, async || {
        let looks = faulty.looks(path);
        if looks > answers { Ok(()) } else { Err(looks) }
    })
    .await;
}

/// A coordinator is gone before each of its writes; the next one brings it to its end.
async fn dies(plane: &ControlPlane, client: &Client) {
    let namespace = "mortal";
    build(client, Form::Deployments, namespace).await;
    let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
    let key = run(1);
    for n in 1.. {
        let faulty = Faulty::new(client, Rule::DieBefore(n));
        let first = over(plane, &faulty.client, namespace);
        let done = faulty.mortal(first.resync(&key, ResyncTask::CacheFlush)).await;
        let next = over(plane, client, namespace).resync(&later(&key, 2), ResyncTask::CacheFlush).await;
        next.unwrap_or_else(|e| panic!("gone before write {n}: {}", e.chain()));
        no_job_is_left(client, namespace).await;
        if let Some(done) = done {
            done.unwrap_or_else(|e| panic!("nobody died: {}", e.chain()));
            assert_eq!(n, 3, "a Job is created and deleted: {:?}", faulty.writes());
            return;
        }
    }
}

async fn loses_answers(plane: &ControlPlane, client: &Client) {
    let namespace = "mortal";
    let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
    for rule in [Rule::LoseAnswers, Rule::Conflict] {
        let faulty = Faulty::new(client, rule);
        let told = over(plane, &faulty.client, namespace).resync(&run(1), ResyncTask::CacheFlush).await;
        told.unwrap_or_else(|e| panic!("{rule:?}: {}", e.chain()));
        no_job_is_left(client, namespace).await;
    }
}

/// A Job writes to stores: whoever stops the applications ends it, too.
async fn ended_by_a_stop(plane: &ControlPlane, client: &Client) {
    let namespace = "stopped";
    build(client, Form::Deployments, namespace).await;
    let kubernetes = over(plane, client, namespace);
    let key = run(1);
    let kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Run);
    tokio::select! {
        done = kubernetes.resync(&key, ResyncTask::CacheFlush) => panic!("nobody ends it: {done:?}"),
        () = running(client, namespace) => {}
    }
    drop(kubelet);
    tokio::join!(stop(&kubernetes, 2), async {
        is_gone(client, namespace).await;
        let replicas = skeleton::replicas(client, Form::Deployments, namespace).await;
        assert_eq!(replicas["system-app"], 3, "a pod of the Job is still there");
        // There is nobody here who takes away what its owner has left.
        client.remove(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector=job-name")).await;
    });
    start(&kubernetes, 2).await;
}

async fn without_an_api_server(plane: &mut ControlPlane, client: &Client) {
    let namespace = "restarted";
    build(client, Form::Deployments, namespace).await;
    let kubernetes = Kubernetes::new(settings(namespace, plane.kubeconfig()));
    let key = run(1);
    let (told, ()) = tokio::join!(kubernetes.resync(&key, ResyncTask::CacheFlush), async {
        the_job(client, namespace).await;
        plane.stop_api();
        plane.start_api_again().await;
        let _kubelet = Kubelet::of_jobs(client.clone(), namespace, Fate::Succeed);
        is_gone(client, namespace).await;
    });
    told.unwrap_or_else(|e| panic!("{}", e.chain()));
}
