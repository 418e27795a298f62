//! The webhook on a genuine API server: pods that are made through it get their agent, and nothing keeps a pod from being made.

use std::time::{Duration, Instant};

use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::topology::KubernetesSettings;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_coordinator::webhook::{CONTAINER, Config, Running, SIDECAR, Settings, start};
use keepsake_proto::tls::{ServerFiles, TlsFiles};
use keepsake_tests::certs::{Authority, Validity};
use keepsake_tests::cluster::skeleton;
use keepsake_tests::cluster::{ControlPlane, Raw};
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::{Scratch, free_port};
use keepsake_tests::webhook::{asking, containers, pod, shipped};
use kube::Client;
use serde_json::{Value, json};

use super::settings;

const PATIENCE: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "threescale";
const REGISTRATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

#[tokio::test]
async fn kube_a_webhook_puts_agents_into_pods_and_keeps_none_from_being_made() {
    let name = "kube_a_webhook_puts_agents_into_pods_and_keeps_none_from_being_made";
    let Some(plane) = ControlPlane::start(name).await else { return };
    let client = plane.client().await;
    let (scratch, authority) = (Scratch::new(), Authority::new("webhook"));
    let folder = scratch.path().join("webhook");
    let files = authority.issue(&folder, "127.0.0.1");
    let port = free_port();
    let running = started(port, &files).await;
    for namespace in [NAMESPACE, "elsewhere"] {
        skeleton::namespace(&client, namespace).await;
    }
    let allowed = json!({ "metadata": { "labels": { "keepsake/sidecars": "allowed" } } });
    client.merge(&format!("/api/v1/namespaces/{NAMESPACE}"), allowed).await;
    client.create(REGISTRATIONS, registration(port, &files)).await;
    // The API server takes a moment to know of it.
    until_attached(&client).await;

    whoever_asks_has_one(&client).await;
    through_a_deployment(&client).await;
    examined(&plane, &["system-mysql in", "system-redis in"], &[]).await;

    // A certificate of another authority, while it runs: first the API server does not believe it, which keeps no pod from being made.
    let renewed = Authority::new("another");
    let files = renewed.issue_with(&folder, "127.0.0.1", Validity::Good, &renewed);
    client
        .merge(&format!("{REGISTRATIONS}/keepsake"), json!({ "webhooks": registration(port, &files)["webhooks"] }))
        .await;
    until_attached(&client).await;

    let zync = made(&client, NAMESPACE, asking("zync-database")).await;
    assert_eq!(containers(&zync), ["postgresql"]);
    examined(&plane, &["zync-database-7d9c-", "do not delete it"], &["delete the pod once"]).await;
    running.stop(Duration::ZERO).await;
    is_away(&client).await;
    examined(
        &plane,
        &["backend-redis-7d9c-", "delete the pod once", "do not delete it"],
        &["no agent in system-mysql"],
    )
    .await;
    never_answers(&client, port).await;
    its_settings_are_told(&plane, &client).await;
}

/// What `doctor` says where the steps were followed and the image was forgotten, or is another one.
async fn its_settings_are_told(plane: &ControlPlane, client: &Client) {
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let map = json!({ "metadata": { "name": "keepsake-webhook" }, "data": { "settings.yaml": keepsake_tests::webhook::bare() } });
    client.create(&maps, map).await;
    let told = async || {
        let settings = KubernetesSettings { by: By::None, ..settings(NAMESPACE, plane.kubeconfig()) };
        let mut all = Kubernetes::new(settings).examine().await;
        let last = all.pop().expect("something is looked at");
        assert_eq!(last.check, "webhook");
        last.found.map_err(|e| e.chain())
    };
    let forgotten = told().await.expect_err("no image is named");
    assert!(forgotten.contains("the overlay's `images`") && forgotten.contains("settings.yaml"), "{forgotten}");
    let labels = json!({ "app.kubernetes.io/name": "keepsake-webhook" });
    let pod = json!({ "containers": [{ "name": "webhook", "image": "registry.example/keepsake:0.1.0" }] });
    let spec = json!({
        "replicas": 0, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": pod },
    });
    let deployment = json!({ "metadata": { "name": "keepsake-webhook" }, "spec": spec });
    client.create(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments"), deployment).await;
    let write = async |text: String| {
        client.merge(&format!("{maps}/keepsake-webhook"), json!({ "data": { "settings.yaml": text } })).await;
    };
    write(shipped()).await;
    let another = told().await.expect_err("it is another image");
    assert!(
        another.contains("keepsake:0.1.0, and the webhook itself runs registry.example/keepsake:0.1.0"),
        "{another}"
    );
    write(shipped().replace("image: keepsake", "image: registry.example/keepsake")).await;
    let good = told().await.expect("the image is its own");
    assert!(good.contains("registry.example/keepsake:0.1.0"), "{good}");
}

async fn started(port: u16, files: &TlsFiles) -> Running {
    let tls = ServerFiles { cert: files.cert.clone(), key: files.key.clone() };
    let settings = Settings::parse(&shipped()).expect("settings");
    let at = |port: u16| ([127, 0, 0, 1], port).into();
    let config = Config { listen: at(port), admin: at(0), tls, settings };
    start(config).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// That of the manifests, but that it is called by an address.
fn registration(port: u16, files: &TlsFiles) -> Value {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root");
    let file = root.join("manifests/components/webhook/registration.yaml");
    let text = std::fs::read_to_string(file).expect("read a manifest");
    let mut registration: Value = serde_saphyr::from_str(&text).expect("YAML");
    let ca = data_encoding::BASE64.encode(&std::fs::read(&files.ca).expect("read the CA"));
    for webhook in registration["webhooks"].as_array_mut().expect("webhooks") {
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/mutate");
        webhook["clientConfig"] = json!({ "url": format!("https://127.0.0.1:{port}/mutate"), "caBundle": ca });
    }
    registration
}

/// The pod that the API server made of this one.
async fn made(client: &Client, namespace: &str, pod: Value) -> Value {
    client.create(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await
}

/// Makes pods until one gets its agent; the others are taken away.
async fn until_attached(client: &Client) {
    wait_for("a pod to get its agent", PATIENCE, async || {
        let pod = made(client, NAMESPACE, asking("system-mysql")).await;
        if containers(&pod).contains(&CONTAINER) {
            return Ok(());
        }
        client
            .remove(&format!(
                "/api/v1/namespaces/{NAMESPACE}/pods/{}",
                pod["metadata"]["name"].as_str().expect("a name")
            ))
            .await;
        Err("it has none")
    })
    .await;
}

pub(super) async fn whoever_asks_has_one(client: &Client) {
    for store in ["system-mysql", "system-postgresql", "backend-redis", "system-redis"] {
        let pod = made(client, NAMESPACE, asking(store)).await;
        assert_eq!(containers(&pod), [store, CONTAINER]);
        assert_eq!(pod["metadata"]["labels"][SIDECAR], store);
        assert_eq!(pod["spec"]["containers"][1]["image"], pod["spec"]["containers"][0]["image"]);
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "keepsake-copy-agent");
        let gone = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pod["metadata"]["name"].as_str().expect("a name"));
        client.remove(&gone).await;
    }
    let mut labelled = pod("system-redis");
    labelled["metadata"]["labels"]["keepsake/agent"] = json!("system-redis");
    assert_eq!(containers(&made(client, NAMESPACE, labelled).await), ["system-redis", CONTAINER]);
    // Who does not ask has none, and neither has who asks where it is not allowed.
    assert_eq!(containers(&made(client, NAMESPACE, pod("system-mysql")).await), ["system-mysql"]);
    assert_eq!(containers(&made(client, "elsewhere", asking("system-mysql")).await), ["system-mysql"]);
    assert_eq!(containers(&made(client, NAMESPACE, pod("system-app")).await).len(), 3);
}

/// As the operator makes them: its Deployment says nothing of an agent, so there is nothing to take back.
async fn through_a_deployment(client: &Client) {
    let mut template = asking("backend-redis");
    let template = template.as_object_mut().expect("an object");
    template.retain(|key, _| key == "metadata" || key == "spec");
    let metadata = template["metadata"].as_object_mut().expect("metadata");
    metadata.remove("generateName");
    metadata["labels"].as_object_mut().expect("labels").remove("pod-template-hash");
    let deployment = json!({
        "metadata": { "name": "backend-redis" },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "deployment": "backend-redis" } }, "template": template },
    });
    let deployments = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    client.create(&deployments, deployment).await;
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=keepsake%2Fsidecar%3Dbackend-redis");
    let pod = wait_for("the Deployment's pod", PATIENCE, async || {
        let found = client.at(&pods).await.expect("pods");
        if found["items"][0].is_null() { Err("there is none") } else { Ok(found["items"][0].clone()) }
    })
    .await;
    assert_eq!(containers(&pod), ["backend-redis", CONTAINER]);
    let now = client.at(&format!("{deployments}/backend-redis")).await.expect("the Deployment");
    assert_eq!(now["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(1));
    client.merge(&format!("{deployments}/backend-redis"), json!({ "spec": { "replicas": 0 } })).await;
    wait_for("it to go", PATIENCE, async || {
        let found = client.at(&pods).await.expect("pods");
        if found["items"][0].is_null() { Ok(()) } else { Err("it is there") }
    })
    .await;
}

async fn is_away(client: &Client) {
    let began = Instant::now();
    let pod = made(client, NAMESPACE, asking("backend-redis")).await;
    assert_eq!(containers(&pod), ["backend-redis"]);
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

/// Connections are taken and nothing comes of them.
async fn never_answers(client: &Client, port: u16) {
    let _silent = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
    let began = Instant::now();
    assert_eq!(containers(&made(client, NAMESPACE, asking("backend-redis")).await), ["backend-redis"]);
    assert!(began.elapsed() < Duration::from_secs(25), "it took {:?}", began.elapsed());
}

/// What `doctor` says of agents in pods, where nobody is stopped.
async fn examined(plane: &ControlPlane, words: &[&str], not: &[&str]) {
    let settings = KubernetesSettings { by: By::None, ..settings(NAMESPACE, plane.kubeconfig()) };
    let all = Kubernetes::new(settings).examine().await;
    assert_eq!(all.iter().map(|e| e.check).collect::<Vec<_>>(), ["cluster", "permissions", "agents in pods"]);
    let told = all[2].found.as_ref().map_or_else(keepsake_core::Error::chain, Clone::clone);
    assert!(words.iter().all(|w| told.contains(w)) && !not.iter().any(|w| told.contains(w)), "{told}");
    // Who may not look is told nothing.
    let settings = KubernetesSettings { by: By::None, ..super::settings(NAMESPACE, plane.kubeconfig_of_the_clerk()) };
    let all = Kubernetes::new(settings).examine().await;
    assert_eq!(all.iter().map(|e| e.check).collect::<Vec<_>>(), ["cluster", "permissions"]);
}
