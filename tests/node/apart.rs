//! Agents in Deployments of their own: the coordinator's CronJob backs up, a Job restores.

use keepsake_tests::house::State;
use keepsake_tests::node::Node;
use keepsake_tests::node::keepsake::{Administrator, Agents};
use keepsake_tests::node::threescale::InPods;
use keepsake_tests::threescale::Size;

const NAMESPACE: &str = "threescale";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn node_a_coordinator_in_the_cluster_backs_up_and_restores() {
    backs_up_and_restores("node_a_coordinator_in_the_cluster_backs_up_and_restores", None).await;
}

/// `make prove-kube` runs it: the comparison must see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "broken on purpose"]
async fn node_broken_a_row_is_lost() {
    backs_up_and_restores("node_broken_a_row_is_lost", Some("DELETE FROM `system`.plans LIMIT 1")).await;
}

/// With what goes wrong after the restore.
async fn backs_up_and_restores(test: &str, broken: Option<&str>) {
    let Some(node) = Node::start(test).await else { return };
    if !node.load_images(test) {
        return;
    }
    InPods::prepare(&node).await;
    let mut threescale = InPods::of(NAMESPACE);
    threescale.make_namespace(&node);
    threescale.build(&node).await;
    let administrator = Administrator::of(&node, NAMESPACE);
    administrator.give_secrets(&node);
    administrator.secret(&node, "keepsake-agents-s3-read", "agents-s3-read");
    administrator.apply(&node, &administrator.manifests(Agents::Apart, true, true));
    node.rolled_out(NAMESPACE).await;
    let installation = threescale.installation(&node).await;
    installation.fill(1, Size::TINY).await;
    threescale.own_storage(&node);

    let before = State::of(&installation).await;
    administrator.must(&["--in-cluster", "backup"]);
    installation.wreck().await;
    threescale.own_storage(&node);
    // The identity is opened here, and what stops the applications is an account of its own.
    let restore = ["restore", "--yes", "prod", "--identity", "alice.identity"];
    let said = administrator.told(&[&["--in-cluster"], &restore[..]].concat());
    // The log of the Job's own Job is in what it says when that is done.
    assert!(said.contains("rake zync:resync:domains is done") && said.contains("9 workloads"), "{said}");
    node.rolled_out(NAMESPACE).await;
    if let Some(sql) = broken {
        installation.mysql.run(&[sql]).await;
    }
    State::of(&installation).await.assert_is(&before, "restored in the cluster");
}
