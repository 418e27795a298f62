//! Pods that are killed while they are at work: of the coordinator, of agents, of databases. Whatever happens then, no set is a wrong one, and a restore
//! that is begun comes to its end.

use keepsake_tests::house::{Installation, State};
use keepsake_tests::node::Node;
use keepsake_tests::node::keepsake::{Administrator, Agents};
use keepsake_tests::node::threescale::InPods;
use keepsake_tests::threescale::Size;
use serde_json::Value;

const NAMESPACE: &str = "threescale";
const IDENTITY: &str = "/etc/keepsake/identity/identity";
/// How a pod ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// It is deleted, as somebody who drains its node does it: it is asked to end.
    Deleted,
    /// What runs in it is killed.
    Killed,
}
use End::{Deleted, Killed};

/// Of the Job itself.
const JOB: &str = "job-name";
/// Which pods end how, by a label, when the coordinator has said what. Redis and MariaDB come back with their data.
const DURING_A_RESTORE: [(&str, End, &str); 9] = [
    (JOB, Deleted, "stage-system-mysql started"),
    (JOB, Killed, "stage-system-mysql started"),
    (JOB, Killed, "commit-system-mysql started"),
    (JOB, Killed, "point-of-no-return done"),
    ("keepsake/component=system-mysql", Deleted, "stage-system-mysql started"),
    ("keepsake/component=backend-redis", Killed, "commit-backend-redis started"),
    ("keepsake/component=zync-database", Killed, "commit-system-mysql done"),
    ("deployment=backend-redis", Killed, "stage-backend-redis done"),
    ("deployment=system-mysql", Deleted, "stage-zync-database done"),
];
const DURING_A_BACKUP: [(&str, End, &str); 4] = [
    (JOB, Killed, "dump-system-mysql started"),
    ("keepsake/component=system-redis", Killed, "cut started"),
    ("deployment=system-mysql", Deleted, "dump-system-mysql started"),
    ("deployment=backend-redis", Killed, "begin-set done"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes: make prove-kube runs it"]
async fn node_pods_may_be_killed_in_the_middle() {
    let test = "node_pods_may_be_killed_in_the_middle";
    let Some(node) = Node::start(test).await else { return };
    if !node.load_images(test) {
        return;
    }
    let (administrator, mut threescale) = installed(&node).await;
    let installation = threescale.installation(&node).await;
    installation.fill(1, Size::TINY).await;
    threescale.own_storage(&node);
    let before = State::of(&installation).await;

    for (n, what) in DURING_A_BACKUP.into_iter().enumerate() {
        backed_up(&node, &administrator, &format!("backup-{n}"), what).await;
    }
    // What is called a set is one, to its last byte.
    let sets: Value = serde_json::from_str(&administrator.must(&["--output", "json", "sets"])).expect("JSON");
    let complete = sets.as_array().into_iter().flatten().filter(|set| set["status"] == "complete");
    let ids: Vec<&str> = complete.filter_map(|set| set["set"].as_str()).collect();
    assert!(!ids.is_empty(), "{sets}");
    for id in ids {
        administrator.must(&["inspect", id, "--identity", "alice.identity"]);
    }

    for (n, (pods, end, said)) in DURING_A_RESTORE.into_iter().enumerate() {
        installation.wreck().await;
        threescale.own_storage(&node);
        restored(&node, &administrator, n, (pods, end, said)).await;
        is_as_it_was(&installation, &before, &format!("{pods} {end:?} at {said:?}")).await;
    }
}

/// Stores and Keepsake, and of the applications one, which nobody stops.
async fn installed(node: &Node) -> (Administrator, InPods) {
    InPods::prepare(node).await;
    let threescale = InPods::of(NAMESPACE);
    threescale.make_namespace(node);
    threescale.build_with(node, &["backend-worker"]).await;
    let administrator = Administrator::of(node, NAMESPACE);
    administrator.give_secrets(node);
    administrator.secret(node, "keepsake-agents-s3-read", "agents-s3-read");
    administrator.apply(node, &administrator.manifests(Agents::Apart, true, false));
    node.rolled_out(NAMESPACE).await;
    (administrator, threescale)
}

/// Ends pods when the coordinator has said this.
async fn ended(node: &Node, administrator: &Administrator, job: &str, (pods, end, said): (&str, End, &str)) {
    assert!(administrator.has_said(node, job, said).await, "it has ended: {}", administrator.log(node, job));
    let label = if pods == JOB { format!("job-name={job}") } else { pods.to_owned() };
    match end {
        Deleted => node.delete_pods(NAMESPACE, &label),
        Killed => node.kill_pods(NAMESPACE, &label),
    }
    administrator.move_the_bucket(false);
}

/// Backs up, loses these pods meanwhile, and backs up again as the runbook says.
async fn backed_up(node: &Node, administrator: &Administrator, name: &str, what: (&str, End, &str)) {
    let client = node.client().await;
    administrator.move_the_bucket(true);
    administrator.job(&client, name, &["backup", "--all"], false).await;
    ended(node, administrator, name, what).await;
    let (succeeded, log) = administrator.ended(node, &client, name).await;
    eprintln!("{what:?}: {succeeded}: {}", log.lines().last().unwrap_or_default());
    assert!(!(succeeded && is_of_the_coordinator(what)), "a coordinator that was killed has succeeded: {log}");
    node.rolled_out(NAMESPACE).await;
    if what.0 == JOB {
        // Nobody else knows that it is gone, until its lease is over.
        administrator.must(&["--in-cluster", "cancel", "--coordinator-is-gone"]);
    }
    administrator.must_job(node, &format!("{name}-again"), &["backup", "--all"], false).await;
}

/// Restores, loses these pods meanwhile, and goes on as the runbook says.
async fn restored(node: &Node, administrator: &Administrator, n: usize, what: (&str, End, &str)) {
    let (pods, end, said) = what;
    let client = node.client().await;
    let restore = ["restore", "--yes", "prod", "--identity", IDENTITY];
    let resume = ["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", IDENTITY];
    let name = format!("restore-{n}");
    administrator.move_the_bucket(true);
    administrator.job(&client, &name, &restore, true).await;
    ended(node, administrator, &name, (pods, end, said)).await;
    let (succeeded, log) = administrator.ended(node, &client, &name).await;
    node.rolled_out(NAMESPACE).await;
    eprintln!("{what:?}: {succeeded}: {}", log.lines().last().unwrap_or_default());
    assert!(!(succeeded && is_of_the_coordinator(what)), "a coordinator that was killed has succeeded: {log}");
    if succeeded {
        return;
    }
    let name = format!("resume-{n}");
    administrator.job(&client, &name, &resume, true).await;
    let (succeeded, log) = administrator.ended(node, &client, &name).await;
    if !succeeded {
        // It was taken back and is over: all is as it was before.
        let is_over = ["is unfinished", "restore failed: ", "restore cancelled: ", "nothing to go on with"];
        assert!(is_over.iter().any(|words| log.contains(words)), "{log}");
        administrator.must_job(node, &format!("again-{n}"), &restore, true).await;
    }
}

fn is_of_the_coordinator((pods, end, _): (&str, End, &str)) -> bool {
    pods == JOB && matches!(end, Killed)
}

async fn is_as_it_was(installation: &Installation, before: &State, what: &str) {
    State::of(installation).await.assert_is(before, what);
}
