//! Agents in the databases' own pods, put there by the webhook; the others in Deployments of their own.

use std::time::Duration;

use keepsake_tests::house::State;
use keepsake_tests::node::Node;
use keepsake_tests::node::keepsake::{Administrator, Agents};
use keepsake_tests::node::threescale::InPods;
use keepsake_tests::poll::wait_for;
use keepsake_tests::threescale::Size;

const NAMESPACE: &str = "threescale";
/// The kubelet looks after Secrets once in a minute or so.
const PATIENCE: Duration = Duration::from_secs(200);
/// Those that have their agent with them.
const BESIDE: [&str; 3] = ["system-mysql", "backend-redis", "system-redis"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn node_agents_in_the_databases_pods_keep_none_waiting_and_back_up_and_restore() {
    let test = "node_agents_in_the_databases_pods_keep_none_waiting_and_back_up_and_restore";
    let Some(node) = Node::start(test).await else { return };
    if !node.load_images(test) {
        return;
    }
    InPods::prepare(&node).await;
    let mut threescale = InPods::of(NAMESPACE);
    (threescale.may_replicate, threescale.asks) = (false, true);
    threescale.make_namespace(&node);
    let administrator = Administrator::of(&node, NAMESPACE);
    let tree = administrator.manifests(Agents::Beside, false, true);
    administrator.secret(&node, "keepsake-webhook-tls", "webhook");
    administrator.apply(&node, &tree);
    node.must(&["-n", NAMESPACE, "rollout", "status", "deployment", "keepsake-webhook", "--timeout=120s"]);
    administrator.register(&node, &tree);

    // There is no Secret of the agents yet, and no database waits for one.
    threescale.build(&node).await;
    for name in BESIDE {
        node.must(&["-n", NAMESPACE, "rollout", "status", "deployment", name, "--timeout=120s"]);
        let pods = node.must(&["-n", NAMESPACE, "get", "pods", "-l", &format!("deployment={name}")]);
        assert!(pods.contains("2/2"), "{pods}");
    }
    let said = node.must(&["-n", NAMESPACE, "logs", "deployment/system-mysql", "-c", "keepsake-agent"]);
    assert!(said.contains("not started, tried again"), "{said}");

    let installation = threescale.installation(&node).await;
    installation.fill(1, Size::TINY).await;
    threescale.own_storage(&node);
    administrator.give_secrets(&node);
    node.rolled_out(NAMESPACE).await;
    for name in BESIDE {
        wait_for(&format!("the agent of {name}"), PATIENCE, async || {
            let deployment = format!("deployment/{name}");
            let said = node.must(&["-n", NAMESPACE, "logs", &deployment, "-c", "keepsake-agent", "--tail=20"]);
            if said.contains("listening") { Ok(()) } else { Err(said) }
        })
        .await;
    }

    let before = State::of(&installation).await;
    administrator.must_job(&node, "first", &["backup", "--all"], false).await;
    installation.wreck().await;
    threescale.own_storage(&node);
    // What makes a restore possible is a Secret, which comes into pods that run.
    administrator.secret(&node, "keepsake-agents-s3-read", "agents-s3-read");
    administrator.apply(&node, &administrator.manifests(Agents::Beside, true, true));
    for name in BESIDE {
        wait_for(&format!("the Secret in the pod of {name}"), PATIENCE, async || {
            let deployment = format!("deployment/{name}");
            let list =
                ["-n", NAMESPACE, "exec", &deployment, "-c", "keepsake-agent", "--", "ls", "/etc/keepsake/s3-read"];
            let listed = String::from_utf8_lossy(&node.kubectl(&list).stdout).into_owned();
            if listed.contains("credentials") { Ok(()) } else { Err(listed) }
        })
        .await;
    }
    let args = ["restore", "--yes", "prod", "--identity", "/etc/keepsake/identity/identity"];
    let said = administrator.must_job(&node, "restore", &args, true).await;
    eprintln!("{said}");
    node.rolled_out(NAMESPACE).await;
    State::of(&installation).await.assert_is(&before, "restored by agents in the databases' pods");
}
