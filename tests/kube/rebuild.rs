//! A namespace that is gone: built anew from a set's objects, and its data brought back, by one command whose coordinators die meanwhile.

mod by_routes;

use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use keepsake_coordinator::platform::kubernetes::ANNOTATION;
use keepsake_tests::child::{killed_when, run};
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::skeleton::{self, Form, OPERATOR, WHOLE};
use keepsake_tests::cluster::{ControlPlane, Raw, objects, openshift};
use keepsake_tests::house::{House, State};
use keepsake_tests::kustomize::Tree;
use keepsake_tests::poll::wait_for;
use keepsake_tests::threescale::Size;
use kube::Client;
use serde_json::{Value, json};

const NAMESPACE: &str = "threescale";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// As it is without what ties it to the namespace that it was in.
async fn picture(client: &Client) -> Vec<(String, Value)> {
    let mut all: Vec<_> = objects::picture(client, NAMESPACE).await.into_iter().collect();
    for (_, object) in &mut all {
        let object = object.as_object_mut().expect("an object");
        object.remove("status");
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        for tied in ["ownerReferences", "finalizers"] {
            metadata.remove(tied);
        }
    }
    all
}

/// Deletes the namespace, and makes an empty one of its name.
async fn lose(client: &Client) {
    // Nobody is here who would take it away.
    let product = format!("{}/my-product", objects::path(NAMESPACE, "product"));
    client.merge(&product, json!({ "metadata": { "finalizers": [] } })).await;
    let at = format!("/api/v1/namespaces/{NAMESPACE}");
    client.remove(&at).await;
    wait_for("the namespace to be gone", PATIENCE, async || match client.at(&at).await {
        None => Ok(()),
        Some(found) => Err(found["status"].to_string()),
    })
    .await;
    skeleton::namespace(client, NAMESPACE).await;
}

/// What the operator makes of an APIManager, as soon as there is one.
async fn operates(client: &Client) {
    let manager = format!("{}/apimanager-sample", objects::path(NAMESPACE, "apimanager"));
    wait_for("the APIManager", PATIENCE, async || client.at(&manager).await.map(drop).ok_or("there is none")).await;
    skeleton::build(client, Form::Deployments, NAMESPACE, WHOLE).await;
}

/// Everything stands still but the stores, and remembers what it had.
async fn must_be_stopped(client: &Client) {
    let replicas = skeleton::replicas(client, Form::Deployments, NAMESPACE).await;
    let stores = ["system-mysql", "backend-redis", "system-redis", "zync-database"];
    assert!(replicas.iter().all(|(name, r)| (*r > 0) == stores.contains(&name.as_str())), "{replicas:?}");
    assert_eq!(skeleton::replicas(client, Form::Deployments, "operators").await[OPERATOR], 0);
}

/// A coordinator that is killed when it has said this, while others go on. Its thread lives as long as it does.
fn dies_when(command: Command, said: &'static str) -> JoinHandle<()> {
    std::thread::spawn(move || killed_when(command, said))
}

async fn has_died(dies: JoinHandle<()>) {
    tokio::task::spawn_blocking(|| dies.join()).await.expect("it is waited for").expect("it was killed");
}

fn resume(house: &House) -> Command {
    let mut command = house.command();
    command.args(["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", &house.path("identity-1")]);
    command
}

/// On threads of its own kubelet and operator go on while a command is waited for.
/// A whole 3scale with its objects, and an installation whose topology knows it.
async fn built(plane: &ControlPlane, client: &Client, by: &str) -> House {
    openshift::define_apimanager(client).await;
    openshift::define_capabilities(client).await;
    for namespace in [NAMESPACE, "operators"] {
        skeleton::namespace(client, namespace).await;
    }
    skeleton::build(client, Form::Deployments, NAMESPACE, WHOLE).await;
    skeleton::build_operator(client, "operators").await;
    objects::build(client, NAMESPACE).await;
    let mut house = House::new(&["prod"], Size::TINY).await;
    house.consistency.push_str(&format!(
        "    platform: kubernetes\n    kubernetes: {{ namespace: {NAMESPACE}, by: {by}, operator: {{ namespace: operators }}, resync: [], kubeconfig: {} }}\n",
        plane.kubeconfig().display()
    ));
    house.write_topology();
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_a_namespace_that_is_gone_is_built_anew_and_restored() {
    let Some(plane) = ControlPlane::start("kube_a_namespace_that_is_gone_is_built_anew_and_restored").await else {
        return;
    };
    let client = plane.client().await;
    skeleton::namespace(&client, "elsewhere").await;
    let mut house = built(&plane, &client, "scale").await;
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    let running = skeleton::replicas(&client, Form::Deployments, NAMESPACE).await;
    let operator = skeleton::picture(&client, &["operators"]).await;
    let mut whole = picture(&client).await;
    // The first two are nobody's business; the last stands for something in System, and is made by hand.
    whole.retain(|(name, _)| !["secret/a-stranger", "secret/amp-token", "product/my-product"].contains(&name.as_str()));
    let identity = house.path("identity-1");

    let refused = house.keepsake(&["rebuild", "--yes", "prod", "--identity", &identity]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("has a 3scale already") && told.contains("zync-que"), "{told}");
    // Whoever deletes what is in the way must not delete the backups.
    let claim: Value = Tree::of_the_project()
        .read(Path::new("components/repository-claim/claim.yaml"))
        .expect("the claim of a repository")
        .remove(0);
    let name = claim["metadata"]["name"].as_str().expect("a name");
    assert!(told.contains(&format!("Never delete the claim {name}")), "{told}");

    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    lose(&client).await;
    // It is Keepsake's own, and in no rebuild's way.
    client.create(&format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"), claim.clone()).await;
    let told = house.must(&["plan", "rebuild"]);
    for word in
        ["make the objects", "wait until the agents of system-mysql", "Then, under the same run", "stage zync-database"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    let alone = house.must(&["plan", "rebuild", "--objects-only"]);
    assert!(!alone.contains("stage zync-database") && alone.contains("keepsake restore"), "{alone}");

    // In the first plan, before there is an operator.
    let mut rebuild = house.command();
    rebuild.args(["rebuild", "--yes", "prod", "--identity", &identity]);
    killed_when(rebuild, "commit-objects done");
    let busy = house.keepsake(&["restore", "--yes", "prod", "--identity", &identity]);
    assert!(!busy.status.success(), "a rebuild is not over");

    // By a topology that leads elsewhere: nothing is taken over, and nothing built there.
    let settings = house.consistency.clone();
    house.consistency = settings.replace(&format!("namespace: {NAMESPACE},"), "namespace: elsewhere,");
    house.write_topology();
    let lost = run(&mut resume(&house));
    let told = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(!lost.status.success() && told.contains("was begun in a namespace with the uid"), "{told}");
    assert!(client.at(&objects::path("elsewhere", "apimanager")).await.expect("a list")["items"] == json!([]));
    house.consistency = settings;
    house.write_topology();
    let runs = house.must_json(&["runs"]);
    assert_eq!(runs.as_array().expect("runs").len(), 2, "{runs}");

    // In the first plan, past its point; then while it waits for an agent that was not deployed yet.
    let _kubelet = Kubelet::start(client.clone(), NAMESPACE, &[]);
    let dies = dies_when(resume(&house), "await-installation done");
    operates(&client).await;
    has_died(dies).await;
    assert_eq!(skeleton::replicas(&client, Form::Deployments, NAMESPACE).await, running, "nobody is stopped yet");
    house.installations[0].agent("backend-redis").kill9();
    let dies = dies_when(resume(&house), "quiesce done");
    wait_for("the agents to be waited for", PATIENCE, async || {
        let told = house.must(&["runs", "2"]);
        if told.contains("await-agents started") { Ok(()) } else { Err(told) }
    })
    .await;
    house.installations[0].agent("backend-redis").replace();
    has_died(dies).await;
    must_be_stopped(&client).await;

    // Between the plans: what cannot be planned is said, and planned again.
    house.installations[0].agent("zync-database").kill9();
    let halted = run(&mut resume(&house));
    let told = String::from_utf8_lossy(&halted.stdout).into_owned();
    assert_eq!(halted.status.code(), Some(3), "{told}{}", String::from_utf8_lossy(&halted.stderr));
    for word in ["its data cannot be planned", "zync-database", "keepsake resume", "keepsake cancel"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let listed = house.must_json(&["runs"]);
    let last = listed.as_array().and_then(|all| all.last()).expect("a run").clone();
    assert_eq!((&last["kind"], &last["status"]), (&json!("rebuild"), &json!("halted")), "{last}");
    must_be_stopped(&client).await;
    State::of(&house.installations[0]).await.assert_is(&wrecked, "nothing of the data is done yet");
    house.installations[0].agent("zync-database").replace();

    // In the second plan, twice.
    for said in ["stage-system-mysql done", "commit-system-mysql done"] {
        killed_when(resume(&house), said);
        must_be_stopped(&client).await;
    }
    let done = run(&mut resume(&house));
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{told}");
    assert!(told.contains("rebuild 2 of prod from set") && told.contains("completed"), "{told}");
    State::of(&house.installations[0]).await.assert_is(&before, "built anew and restored");
    assert_eq!(picture(&client).await, whole, "built anew and restored");
    assert_eq!(skeleton::replicas(&client, Form::Deployments, NAMESPACE).await, running, "built anew and restored");
    let workloads = skeleton::picture(&client, &[NAMESPACE]).await;
    assert!(workloads.values().all(|w| w["metadata"]["annotations"][ANNOTATION] == Value::Null), "{workloads:#?}");
    assert_eq!(skeleton::picture(&client, &["operators"]).await, operator, "the operator is back");
    let story = house.must_json(&["runs", "2"]);
    assert_eq!((&story["head"]["format"], &story["status"]), (&json!(2), &json!("completed")), "{story}");
    let told = house.must(&["runs", "2"]);
    for word in ["the installation is built; its second plan is", "restore of prod from set", "ended: completed"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}
