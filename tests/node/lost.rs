//! A namespace that is deleted with all its volumes: built anew from a set by a coordinator in the cluster that is killed meanwhile, then filled again.

use std::time::Duration;

use keepsake_tests::cluster::{Raw, objects};
use keepsake_tests::house::State;
use keepsake_tests::node::Node;
use keepsake_tests::node::keepsake::{Administrator, Agents};
use keepsake_tests::node::threescale::InPods;
use keepsake_tests::poll::wait_for;
use keepsake_tests::threescale::Size;

const NAMESPACE: &str = "threescale";
const PATIENCE: Duration = Duration::from_secs(120);
const IDENTITY: &str = "/etc/keepsake/identity/identity";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes: make prove-kube runs it"]
async fn node_a_namespace_that_is_deleted_comes_back_from_nothing() {
    let test = "node_a_namespace_that_is_deleted_comes_back_from_nothing";
    let Some(node) = Node::start(test).await else { return };
    if !node.load_images(test) {
        return;
    }
    InPods::prepare(&node).await;
    let client = node.client().await;
    let mut threescale = InPods::of(NAMESPACE);
    let administrator = Administrator::of(&node, NAMESPACE);
    threescale.make_namespace(&node);
    threescale.build(&node).await;
    install(&node, &administrator);
    node.rolled_out(NAMESPACE).await;
    let installation = threescale.installation(&node).await;
    installation.fill(1, Size::TINY).await;
    threescale.own_storage(&node);
    administrator.must_job(&node, "first", &["backup", "--all"], false).await;
    let before = State::of(&installation).await;
    let secret = |name: &str| format!("{}/{name}", objects::path(NAMESPACE, "secret"));
    let zync = client.at(&secret("zync")).await.expect("a Secret")["data"].clone();
    drop(installation);

    threescale.lose(&node);
    threescale.make_namespace(&node);
    for claim in ["mysql-storage", "backend-redis-storage", "system-redis-storage", "system-storage"] {
        threescale.make_volume(&node, claim);
    }
    install(&node, &administrator);
    let args = ["rebuild", "--yes", "prod", "--identity", IDENTITY];
    administrator.job(&client, "rebuild", &args, true).await;
    administrator.killed_when(&node, "rebuild", "commit-objects done").await;
    let args = ["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", IDENTITY];
    administrator.job(&client, "resume", &args, true).await;
    // What the operator makes of an APIManager.
    let manager = format!("{}/apimanager-sample", objects::path(NAMESPACE, "apimanager"));
    wait_for("the APIManager", PATIENCE, async || client.at(&manager).await.map(drop).ok_or("there is none")).await;
    assert_eq!(client.at(&secret("zync")).await.expect("a Secret")["data"], zync);
    threescale.build_stores(&node, &client).await;
    threescale.build_applications(&node);
    let (succeeded, log) = administrator.ended(&node, &client, "resume").await;
    assert!(succeeded, "{log}");
    node.rolled_out(NAMESPACE).await;
    let installation = threescale.installation(&node).await;
    State::of(&installation).await.assert_is(&before, "built anew and restored");
}

/// Keepsake, whose agents are ready when there is something to be ready for.
fn install(node: &Node, administrator: &Administrator) {
    administrator.give_secrets(node);
    administrator.secret(node, "keepsake-agents-s3-read", "agents-s3-read");
    administrator.apply(node, &administrator.manifests(Agents::Apart, true, true));
}
