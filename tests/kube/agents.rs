//! Agents that the topology gives no address are found by their pods' labels; what is missing, doubled, not ready, unexpected or denied is told, and no set is made without it.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::platform::kubernetes::agents::{Agents, Expect};
use keepsake_coordinator::topology::{InstallationSettings, Topology};
use keepsake_core::error::Result;
use keepsake_tests::child::{killed_when, run, tool_command};
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::skeleton::{self, Form, WHOLE};
use keepsake_tests::cluster::{ControlPlane, Raw};
use keepsake_tests::house::{Agent, COMPONENTS, House, State, programs};
use keepsake_tests::poll::wait_for;
use keepsake_tests::threescale::Size;
use kube::Client;
use serde_json::{Value, json};

const NAMESPACE: &str = "3scale";
const PATIENCE: Duration = Duration::from_secs(60);

/// A Deployment as `manifests/agents` has it, with its agent's port; its controller makes the pod.
async fn deploy(client: &Client, name: &str, component: &str, port: u16) {
    let labels = json!({ "app.kubernetes.io/name": "keepsake-agent", "keepsake/component": component, "by": name });
    let container =
        json!({ "name": "agent", "image": "nothing:1", "ports": [{ "name": "agent", "containerPort": port }] });
    let deployment = json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    });
    client.create(&Form::Deployments.path(NAMESPACE), deployment).await;
    until_pods(client, name, 1).await;
}

/// The Service of `manifests/agents`.
async fn serve(client: &Client, component: &str) {
    let selector = json!({ "app.kubernetes.io/name": "keepsake-agent", "keepsake/component": component });
    let service = json!({
        "metadata": { "name": format!("keepsake-{component}") },
        "spec": { "selector": selector, "publishNotReadyAddresses": true, "ports": [{ "name": "agent", "port": 9090, "targetPort": "agent" }] },
    });
    client.create(&format!("/api/v1/namespaces/{NAMESPACE}/services"), service).await;
}

async fn pods(client: &Client, by: &str) -> Vec<String> {
    let found = client.at(&format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=by%3D{by}")).await.expect("pods");
    let name = |p: &Value| p["metadata"]["name"].as_str().expect("a name").to_owned();
    found["items"].as_array().into_iter().flatten().map(name).collect()
}

/// What a kubelet says of the pods of a Deployment.
async fn runs(client: &Client, by: &str, is_ready: bool) {
    let ready = if is_ready { "True" } else { "False" };
    let status = json!({ "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }], "conditions": [{ "type": "Ready", "status": ready }] });
    let api: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(client.clone(), NAMESPACE);
    for pod in pods(client, by).await {
        let patch = kube::api::Patch::Merge(json!({ "status": status }));
        api.patch_status(&pod, &kube::api::PatchParams::default(), &patch).await.expect("the pod's status");
    }
}

/// Gives a Deployment so many pods.
async fn scale(client: &Client, name: &str, replicas: usize) {
    let at = format!("{}/{name}", Form::Deployments.path(NAMESPACE));
    client.merge(&at, json!({ "spec": { "replicas": replicas } })).await;
    until_pods(client, name, replicas).await;
}

async fn until_pods(client: &Client, name: &str, wanted: usize) {
    wait_for("the agent's pods", PATIENCE, async || match pods(client, name).await.len() {
        n if n == wanted => Ok(()),
        n => Err(n),
    })
    .await;
}

fn settings(kubeconfig: &std::path::Path, rest: &str) -> InstallationSettings {
    let text = format!(
        "repository: {{ url: 'file:///backups' }}\ntls: {{ ca: a, cert: b, key: c }}\ninstallations:\n  - name: prod\n    platform: kubernetes\n    kubernetes: {{ namespace: \
         {NAMESPACE}, kubeconfig: {} }}\n{rest}",
        kubeconfig.display()
    );
    let topology = Topology::parse(&text, std::path::Path::new("/")).unwrap_or_else(|e| panic!("{}", e.chain()));
    topology.installations.into_iter().next().expect("an installation")
}

async fn found(settings: &InstallationSettings, expect: Expect<'_>) -> Result<Agents> {
    let cluster = Kubernetes::new(settings.kubernetes.clone().expect("a cluster"));
    cluster.find_agents(settings, expect).await
}

/// Component and address of all, when nothing is wrong.
async fn complete(settings: &InstallationSettings) -> Result<Vec<(String, String)>> {
    let whole = found(settings, Expect::All).await?.complete(settings)?;
    assert!(whole.is_complete());
    let agents = whole.components.iter().filter_map(|c| Some((c.name.to_string(), c.agent.clone()?)));
    Ok(agents.collect())
}

async fn refused(settings: &InstallationSettings) -> String {
    complete(settings).await.expect_err("something is wrong").chain()
}

fn must_say(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[tokio::test]
async fn kube_agents_are_found_by_their_labels() {
    let Some(plane) = ControlPlane::start("kube_agents_are_found_by_their_labels").await else { return };
    let client = plane.client().await;
    let all = deployed(&client, &plane, &COMPONENTS).await;
    is_not_ready(&client, &all).await;
    are_all_found(&client, &all).await;
    is_missing(&client, &all).await;
    is_doubled(&client, &all).await;
    is_unexpected(&client, &all).await;
    is_elsewhere(&client, &plane, &all).await;
    is_denied(&plane).await;
}

/// Workloads of a 3scale, and agents of these components, which do not run yet.
async fn deployed(client: &Client, plane: &ControlPlane, components: &[&str]) -> InstallationSettings {
    skeleton::namespace(client, NAMESPACE).await;
    skeleton::build(client, Form::Deployments, NAMESPACE, WHOLE).await;
    for component in components {
        deploy(client, &format!("a-{component}"), component, 9090).await;
    }
    settings(&plane.kubeconfig(), "")
}

/// Agents of these components run, and all that the installation has are found.
pub(super) async fn must_all_be_found(client: &Client, plane: &ControlPlane, components: &[&str]) {
    let all = deployed(client, plane, components).await;
    serve(client, "system-redis").await;
    for component in components {
        runs(client, &format!("a-{component}"), true).await;
    }
    are_all_found(client, &all).await;
}

/// Nothing runs yet.
async fn is_not_ready(client: &Client, all: &InstallationSettings) {
    must_say(&refused(all).await, &["agent of system-mysql", "no node has taken it", "agent of system-storage"]);
    // A Service has a name before its pod has an address.
    serve(client, "system-redis").await;
    let agents = found(all, Expect::All).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let redis = agents.sought.iter().find(|s| s.component.as_str() == "system-redis").expect("it was sought");
    let place = redis.found.as_ref().expect("a place");
    assert!(place.not_ready.as_ref().is_some_and(|why| why.contains("does not run")), "{place:?}");
    for component in COMPONENTS {
        runs(client, &format!("a-{component}"), component != "zync-database").await;
    }
}

async fn are_all_found(client: &Client, all: &InstallationSettings) {
    let pod = "https://127.0.0.1:9090";
    let expected = [
        ("system-mysql", pod),
        ("backend-redis", pod),
        ("system-redis", "https://keepsake-system-redis.3scale.svc:9090"),
        ("zync-database", pod),
        ("system-storage", pod),
    ];
    let expected = expected.map(|(name, address)| (name.to_owned(), address.to_owned()));
    assert_eq!(complete(all).await.unwrap_or_else(|e| panic!("{}", e.chain())), expected);
    // What has an address keeps it, and is not looked for; what is named is all that is expected.
    let rest = "    components: [{ name: system-redis }, { name: system-mysql, agent: 'https://a:1' }]\n";
    let some = settings(&all.kubernetes.as_ref().and_then(|k| k.kubeconfig.clone()).expect("a file"), rest);
    must_say(
        &refused(&some).await,
        &["agent of backend-redis", "agent of zync-database", "components that are expected"],
    );
    runs(client, "a-zync-database", true).await;
}

async fn is_missing(client: &Client, all: &InstallationSettings) {
    scale(client, "a-system-redis", 0).await;
    // Its Service is there, and leads to nobody.
    must_say(
        &refused(all).await,
        &["system-redis has no agent", "keepsake/component=system-redis", "manifests/agents"],
    );
    scale(client, "a-system-redis", 1).await;
    runs(client, "a-system-redis", true).await;
    complete(all).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}

async fn is_doubled(client: &Client, all: &InstallationSettings) {
    scale(client, "a-system-mysql", 2).await;
    must_say(&refused(all).await, &["system-mysql has 2 agents", "deployment/a-system-mysql", "scale it to 1 replica"]);
    scale(client, "a-system-mysql", 1).await;
    runs(client, "a-system-mysql", true).await;
    // Rolled out, it has a pod of its old template and one of its new for a while.
    let template = json!({ "spec": { "template": { "metadata": { "annotations": { "rolled": "out" } } } } });
    client.merge(&format!("{}/a-system-mysql", Form::Deployments.path(NAMESPACE)), template).await;
    until_pods(client, "a-system-mysql", 2).await;
    let found = complete(all).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(found[0], ("system-mysql".to_owned(), "https://127.0.0.1:9090".to_owned()), "the one that runs");
    runs(client, "a-system-mysql", true).await;
    until_pods(client, "a-system-mysql", 1).await;
    deploy(client, "b-system-mysql", "system-mysql", 9090).await;
    must_say(&refused(all).await, &["system-mysql has 2 agents", "deployment/b-system-mysql", "take the others away"]);
    scale(client, "b-system-mysql", 0).await;
}

async fn is_unexpected(client: &Client, all: &InstallationSettings) {
    deploy(client, "a-queues", "backend-queues", 9090).await;
    must_say(&refused(all).await, &["agent of backend-queues", "`components`"]);
    // A run that was begun is not kept from its end by it.
    let names: Vec<_> = ["objects", "system-redis"].iter().map(|n| n.parse().expect("a name")).collect();
    let found = found(all, Expect::Those(&names)).await.and_then(|agents| agents.complete(all));
    let found = found.unwrap_or_else(|e| panic!("{}", e.chain()));
    let names: Vec<_> = found.components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["system-redis", "objects"]);
    scale(client, "a-queues", 0).await;
}

/// A store without a workload is somewhere else: its name must be said.
async fn is_elsewhere(client: &Client, plane: &ControlPlane, all: &InstallationSettings) {
    client.remove(&format!("{}/system-mysql", Form::Deployments.path(NAMESPACE))).await;
    let told = refused(all).await;
    must_say(&told, &["no workload system-mysql or system-postgresql", "`components: [{ name: system-mysql }"]);
    let names: Vec<_> = COMPONENTS.iter().map(|c| format!("{{ name: {c} }}")).collect();
    let named = settings(&plane.kubeconfig(), &format!("    components: [{}]\n", names.join(", ")));
    assert_eq!(complete(&named).await.unwrap_or_else(|e| panic!("{}", e.chain())).len(), COMPONENTS.len());
    let external = settings(&plane.kubeconfig(), "    files: external\n");
    must_say(&refused(&external).await, &["agent of system-storage", "files: external"]);
}

async fn is_denied(plane: &ControlPlane) {
    let clerk = settings(&plane.kubeconfig_of_the_clerk(), "");
    let told = found(&clerk, Expect::All).await.expect_err("it may not").chain();
    must_say(&told, &["list pods in namespace 3scale", "list services", "list deployments.apps", "a Role"]);
}

/// The topology of a coordinator in the cluster, which names no component, and the command as a pod of it has it.
struct Inside {
    topology: PathBuf,
    server: (String, String),
}

impl Inside {
    fn new(house: &House, plane: &ControlPlane) -> Self {
        let text = std::fs::read_to_string(house.path("keepsake.yaml")).expect("the topology");
        let (before, _) = text.split_once("    components:").expect("components");
        let kubeconfig = plane.kubeconfig();
        let cluster = format!(
            "    platform: kubernetes\n    kubernetes: {{ namespace: {NAMESPACE}, by: none, objects: false, resync: [], kubeconfig: {} }}\n",
            kubeconfig.display()
        );
        let topology = PathBuf::from(house.path("inside.yaml"));
        std::fs::write(&topology, format!("{before}{cluster}")).expect("write a topology");
        std::fs::copy(house.path("keepsake.trust.json"), house.path("inside.trust.json")).expect("trust it");
        let text = std::fs::read_to_string(kubeconfig).expect("the kubeconfig");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("a server");
        let (host, port) = server.strip_prefix("https://").and_then(|s| s.split_once(':')).expect("host and port");
        Self { topology, server: (host.to_owned(), port.to_owned()) }
    }

    fn outside(&self) -> Command {
        let mut command = tool_command(programs().join("keepsake"));
        command.arg("--topology").arg(&self.topology);
        command
    }

    fn command(&self) -> Command {
        let mut command = self.outside();
        command.env("KUBERNETES_SERVICE_HOST", &self.server.0).env("KUBERNETES_SERVICE_PORT", &self.server.1);
        command
    }

    fn keepsake(&self, args: &[&str]) -> Output {
        run(self.command().args(args))
    }

    fn must(&self, args: &[&str]) -> String {
        let done = self.keepsake(args);
        assert!(done.status.success(), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_a_topology_without_components_is_backed_up_and_restored() {
    let test = "kube_a_topology_without_components_is_backed_up_and_restored";
    let Some(plane) = ControlPlane::start(test).await else { return };
    let client = plane.client().await;
    skeleton::namespace(&client, NAMESPACE).await;
    skeleton::build(&client, Form::Deployments, NAMESPACE, WHOLE).await;
    // The applications run: they are rolled out after a restore. Of agents' pods the test says itself how they are.
    let _kubelet = Kubelet::start(client.clone(), NAMESPACE, &["a-", "b-"]);
    let house = House::new(&["prod"], Size::TINY).await;
    for agent in &house.installations[0].agents {
        let name = format!("a-{}", agent.component);
        deploy(&client, &name, &agent.component, port(agent)).await;
        runs(&client, &name, true).await;
    }
    let inside = Inside::new(&house, &plane);
    outside_it_says_so(&inside);
    let before = State::of(&house.installations[0]).await;
    inside.must(&["backup"]);
    let record: Value = serde_json::from_str(&inside.must(&["--output", "json", "show"])).expect("JSON");
    let told = record.to_string();
    assert!(COMPONENTS.iter().all(|c| told.contains(&format!("\"{c}\""))), "{told}");
    let doctor = inside.keepsake(&["doctor"]);
    must_say(&text(&doctor.stdout), &["prod/system-mysql", "in pod a-system-mysql", "its writes can be held"]);
    one_is_missing(&client, &inside).await;
    house.installations[0].wreck().await;
    a_restore_is_gone_on_with(&client, &house, &inside).await;
    State::of(&house.installations[0]).await.assert_is(&before, "restored by agents that were found");
    another_is_at_its_place(&client, &house, &inside).await;
}

fn port(agent: &Agent) -> u16 {
    agent.address().rsplit(':').next().and_then(|p| p.parse().ok()).expect("a port")
}

fn outside_it_says_so(inside: &Inside) {
    let refused = run(inside.outside().arg("backup"));
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    must_say(&text(&refused.stderr), &["outside", "keepsake --in-cluster", "kubectl port-forward"]);
    let doctor = run(inside.outside().arg("doctor"));
    assert_eq!(doctor.status.code(), Some(5));
    must_say(&text(&doctor.stdout), &["in pod a-system-mysql", "kubectl port-forward"]);
}

/// No set is made without it: not even a run is begun.
async fn one_is_missing(client: &Client, inside: &Inside) {
    let runs_before = inside.must(&["runs"]);
    scale(client, "a-zync-database", 0).await;
    let refused = inside.keepsake(&["backup"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    must_say(&text(&refused.stderr), &["zync-database has no agent"]);
    assert_eq!(inside.must(&["runs"]), runs_before);
    let doctor = inside.keepsake(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(5));
    let told = text(&doctor.stdout);
    let line = told.lines().find(|l| l.contains("prod/zync-database")).expect("a line");
    assert!(line.starts_with("BAD") && line.contains("has no agent"), "{told}");
    must_say(&told, &["prod/system-redis"]);
    scale(client, "a-zync-database", 1).await;
    runs(client, "a-zync-database", true).await;
}

/// Whoever goes on with it finds the components of its plan, or does nothing.
async fn a_restore_is_gone_on_with(client: &Client, house: &House, inside: &Inside) {
    let identity = house.path("identity-1");
    let mut restore = inside.command();
    restore.args(["restore", "--yes", "prod", "--identity", &identity]);
    killed_when(restore, "stage-system-mysql done");
    scale(client, "a-system-mysql", 0).await;
    let resume = ["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", identity.as_str()];
    let refused = inside.keepsake(&resume);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    must_say(&text(&refused.stderr), &["system-mysql has no agent"]);
    scale(client, "a-system-mysql", 1).await;
    runs(client, "a-system-mysql", true).await;
    // Stores whose workloads are gone meanwhile are still those of the plan.
    client.remove(&format!("{}/system-mysql", Form::Deployments.path(NAMESPACE))).await;
    inside.must(&resume);
    skeleton::build(client, Form::Deployments, NAMESPACE, &[("system-mysql", 1)]).await;
}

/// An agent with the labels of another component is not taken for it.
async fn another_is_at_its_place(client: &Client, house: &House, inside: &Inside) {
    scale(client, "a-system-redis", 0).await;
    let other = house.installations[0].agents.iter().find(|a| a.component == "backend-redis").expect("an agent");
    deploy(client, "b-system-redis", "system-redis", port(other)).await;
    runs(client, "b-system-redis", true).await;
    let doctor = inside.keepsake(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(5));
    let told = text(&doctor.stdout);
    let line = told.lines().find(|l| l.starts_with("BAD") && l.contains("prod/system-redis")).unwrap_or_default();
    assert!(line.contains("system-redis.prod"), "{told}");
}
