//! `keepsake --in-cluster`: the coordinator is a Job, played by the real program, and the command outside follows it.

pub(crate) mod fails;
mod late;
pub(crate) mod played;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keepsake_tests::child::{run, tool_command};
use keepsake_tests::cluster::{ControlPlane, Raw, skeleton};
use keepsake_tests::house::{House, State, programs};
use keepsake_tests::poll::wait_for;
use keepsake_tests::threescale::Size;
use kube::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use self::played::{How, Stage, cron_job, jobs, name, secrets};
use super::access::{applied, must_be_all, used};

const NAMESPACE: &str = "3scale";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Lets the clerk do what the Role of the manifests says.
async fn let_the_clerk(client: &Client, namespace: &str) {
    let binding = json!({
        "metadata": { "name": "keepsake-in-cluster" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keepsake-in-cluster" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "clerk" }],
    });
    client.create(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"), binding).await;
}

/// The account of restores.
async fn account(client: &Client, namespace: &str) {
    let account = json!({ "metadata": { "name": "keepsake-restore" } });
    client.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await;
}

/// The topology of the person outside: the same repository, and where the cluster is.
fn outside(house: &House, plane: &ControlPlane) -> PathBuf {
    let inside = std::fs::read_to_string(house.path("keepsake.yaml")).expect("the topology");
    let cluster = format!(
        "  - name: prod\n    platform: kubernetes\n    kubernetes: {{ namespace: {NAMESPACE}, kubeconfig: {} }}\n",
        plane.kubeconfig_of_the_clerk().display()
    );
    assert!(inside.contains("  - name: prod\n"));
    let path = PathBuf::from(house.path("outside.yaml"));
    std::fs::write(&path, inside.replace("  - name: prod\n", &cluster)).expect("write a topology");
    std::fs::copy(house.path("keepsake.trust.json"), house.path("outside.trust.json")).expect("trust it");
    path
}

/// The command outside.
fn in_cluster(topology: &Path, args: &[&str]) -> Command {
    let mut command = tool_command(programs().join("keepsake"));
    command.arg("--topology").arg(topology).arg("--in-cluster").args(args);
    command
}

/// The same at work beside the test.
fn at_work(topology: &Path, args: &[&str]) -> tokio::task::JoinHandle<Output> {
    let mut command = in_cluster(topology, args);
    tokio::task::spawn_blocking(move || run(&mut command))
}

fn stderr(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn stdout(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_in_cluster_a_coordinator_is_a_job_that_is_followed() {
    let test = "kube_in_cluster_a_coordinator_is_a_job_that_is_followed";
    let Some(plane) = ControlPlane::start_audited(test).await else { return };
    let client = plane.client().await;
    skeleton::namespace(&client, NAMESPACE).await;
    cron_job(&client, NAMESPACE).await;
    account(&client, NAMESPACE).await;
    let granted = applied(&client, "in-cluster.yaml").await;
    let_the_clerk(&client, NAMESPACE).await;
    let house = House::new(&["prod"], Size::TINY).await;
    let topology = outside(&house, &plane);
    let mut stage = Stage::new(client.clone(), NAMESPACE, house.path("keepsake.yaml").into());
    let identity = house.path("identity-1");

    is_backed_up(&house, &topology, &client, &mut stage).await;
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    is_taken_back_by_ctrl_c(&topology, &client, &identity, &mut stage).await;
    let restore = ["restore", "--yes", "prod", "--identity", &identity];
    late::begins_nothing(&house, &topology, &client, &restore, &mut stage).await;
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after restores that nobody began");
    is_killed_and_resumed(&house, &topology, &client, &identity, &mut stage).await;
    State::of(&house.installations[0]).await.assert_is(&before, "after a restore in the cluster");
    assert!(secrets(&client, NAMESPACE).await.is_empty(), "an identity is left");
    is_followed_from_afar(&topology, &mut stage).await;
    must_be_all(&granted, &used(&plane.asked_by("clerk")), "in the cluster");
}

async fn is_backed_up(house: &House, topology: &Path, client: &Client, stage: &mut Stage) {
    let outside = at_work(topology, &["--output", "json", "backup"]);
    let played = stage.play(How::ToTheEnd).await;
    let done = outside.await.expect("it is waited for");
    let told = stderr(&done);
    assert!(done.status.success(), "{told}");
    for word in [
        "is made from the template of cronjob/keepsake-backup",
        "prod: dump-system-mysql done",
        "commit-set done: the set is complete",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let result: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((&result[0]["outcome"], &result[0]["epoch"]), (&json!("completed"), &json!(1)));
    let set = result[0]["set"].as_str().expect("a set");
    assert!(house.must(&["sets"]).contains(set), "the set that is told is there");
    assert!(played.secret.is_none(), "a backup takes no identity");
    let spec = &played.job["spec"];
    assert_eq!((&spec["backoffLimit"], &spec["template"]["spec"]["restartPolicy"]), (&json!(0), &json!("Never")));
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["command"]), (&json!("keepsake:0.1.0"), &json!(["keepsake"])));
    assert_eq!(&played.arguments[..3], ["backup", "--installation", "prod"]);
    assert_eq!(spec["template"]["metadata"]["labels"]["app.kubernetes.io/name"], "keepsake-coordinator");
    assert!(played.job["metadata"]["annotations"]["keepsake/made-by"].is_string());
    // A pod that is made a second time begins nothing.
    let again = house.keepsake(&played.arguments);
    assert!(again.status.code() == Some(1) && stderr(&again).contains("was begun already"), "{}", stderr(&again));
    assert_eq!(jobs(client, NAMESPACE).await.len(), 1, "it is left to be looked at");
}

/// Nobody has read the identity: neither it nor the Job stays.
async fn is_taken_back_by_ctrl_c(topology: &Path, client: &Client, identity: &str, stage: &mut Stage) {
    let known = jobs(client, NAMESPACE).await.len();
    let mut command = in_cluster(topology, &["restore", "--yes", "prod", "--identity", identity]);
    command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let child = command.spawn().expect("start keepsake");
    wait_for("a Secret and a pod", PATIENCE, async || match secrets(client, NAMESPACE).await.len() {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    stage.pass_over().await;
    kill_process(Pid::from_child(&child), Signal::INT).expect("Ctrl-C");
    let done = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("it is waited for");
    let done = done.expect("its output");
    assert_eq!(done.status.code(), Some(130), "{}", stderr(&done));
    assert!(stderr(&done).contains("nothing was begun"), "{}", stderr(&done));
    assert!(secrets(client, NAMESPACE).await.is_empty(), "the identity is left");
    assert_eq!(jobs(client, NAMESPACE).await.len(), known, "a Job that can never begin is left");
}

async fn is_killed_and_resumed(house: &House, topology: &Path, client: &Client, identity: &str, stage: &mut Stage) {
    // The coordinator takes no identity but that of the very set.
    let other = std::fs::read_to_string(identity).expect("an identity");
    let other = other.lines().find(|l| l.starts_with("AGE-")).expect("a key").to_owned();
    std::fs::write(house.path("other"), other).expect("write an identity");
    let denied = house.keepsake(&["restore", "--yes", "prod", "--set-identity", &house.path("other")]);
    assert!(stderr(&denied).contains("it opens another one"), "{}", stderr(&denied));
    let outside = at_work(topology, &["restore", "--yes", "prod", "--identity", identity]);
    let played = stage.play(How::Killed("stage-system-mysql started")).await;
    let done = outside.await.expect("it is waited for");
    let told = stderr(&done);
    assert_eq!(done.status.code(), Some(3), "an unfinished restore is halted: {told}");
    for word in [
        "stage-system-mysql started",
        "exit code 137",
        "keepsake --in-cluster resume --installation prod --coordinator-is-gone",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert_eq!(played.job["spec"]["template"]["spec"]["serviceAccountName"], "keepsake-restore");
    must_hold_the_sets_identity_alone(house, &played);
    // The identity is needed again, and is again the set's alone.
    let refused = run(&mut in_cluster(topology, &["resume", "--yes", "prod", "--coordinator-is-gone"]));
    assert!(stderr(&refused).contains("--identity"), "{}", stderr(&refused));
    let resume = ["resume", "--yes", "prod", "--coordinator-is-gone", "--identity", identity];
    late::begins_nothing(house, topology, client, &resume, stage).await;
    late::gives_nothing_up(house);
    let outside = at_work(topology, &resume);
    let resumed = stage.play(How::ToTheEnd).await;
    let done = outside.await.expect("it is waited for");
    assert!(done.status.success(), "{}", stderr(&done));
    must_hold_the_sets_identity_alone(house, &resumed);
    assert!(
        stdout(&done).contains("restore 2 of prod from set") && stdout(&done).contains(": completed"),
        "{}",
        stdout(&done)
    );
    assert!(!stderr(&done).contains("quiesce started"), "what was told before is not told again: {}", stderr(&done));
    assert!(house.must(&["runs"]).contains("completed"));
    assert!(secrets(client, NAMESPACE).await.is_empty(), "an identity is left");
}

fn must_hold_the_sets_identity_alone(house: &House, played: &played::Played) {
    let secret = played.secret.as_ref().expect("a Secret");
    let data = secret["data"].as_object().expect("data");
    assert_eq!(data.keys().collect::<Vec<_>>(), ["identity"]);
    assert_eq!(secret["immutable"], true);
    let owner = &secret["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Job"), &played.job["metadata"]["uid"]));
    let text = data["identity"].as_str().expect("a text").as_bytes();
    let text = String::from_utf8(data_encoding::BASE64.decode(text).expect("base64")).expect("UTF-8");
    assert!(text.starts_with("AGE-SECRET-KEY-1") && text.lines().count() == 1);
    for file in ["identity-1", "identity-2"] {
        let own = std::fs::read_to_string(house.path(file)).expect("an identity");
        assert!(!own.contains(text.trim()), "the administrator's own identity was handed over");
    }
    assert!(!played.job.to_string().contains("AGE-SECRET-KEY-"), "the Job shows it");
    assert!(!name(secret).is_empty());
}

/// A backup whose repository is not reached from outside is followed by its log, which is empty without a node, and by its status.
async fn is_followed_from_afar(topology: &Path, stage: &mut Stage) {
    let text = std::fs::read_to_string(topology).expect("the topology");
    let url = text.lines().find(|l| l.contains("url: ")).expect("a repository");
    let far = topology.with_file_name("far.yaml");
    std::fs::write(&far, text.replace(url, "  url: file:///nowhere/on-a-claim")).expect("write a topology");
    std::fs::copy(topology.with_file_name("outside.trust.json"), topology.with_file_name("far.trust.json"))
        .expect("copy");
    let outside = at_work(&far, &["backup"]);
    stage.play(How::ToTheEnd).await;
    let done = outside.await.expect("it is waited for");
    let told = stderr(&done);
    assert!(done.status.success(), "{told}");
    assert!(told.contains("the repository cannot be reached from here"), "{told}");
}
