//! A namespace that is gone: built anew from a set's objects by a coordinator that dies meanwhile, then the data brought back.

use keepsake_tests::child::{killed_when, run};
use keepsake_tests::cluster::kubelet::Kubelet;
use keepsake_tests::cluster::skeleton::{self, Form, WHOLE};
use keepsake_tests::cluster::{ControlPlane, Raw, objects, openshift};
use keepsake_tests::house::{House, State};
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

#[tokio::test]
async fn kube_a_namespace_that_is_gone_is_built_anew_and_restored() {
    let Some(plane) = ControlPlane::start("kube_a_namespace_that_is_gone_is_built_anew_and_restored").await else {
        return;
    };
    let client = plane.client().await;
    openshift::define_apimanager(&client).await;
    openshift::define_capabilities(&client).await;
    skeleton::namespace(&client, NAMESPACE).await;
    skeleton::namespace(&client, "operators").await;
    skeleton::build(&client, Form::Deployments, NAMESPACE, WHOLE).await;
    skeleton::build_operator(&client, "operators").await;
    objects::build(&client, NAMESPACE).await;
    let mut house = House::new(&["prod"], Size::TINY).await;
    house.consistency.push_str(&format!(
        "    platform: kubernetes\n    kubernetes: {{ namespace: {NAMESPACE}, operator: {{ namespace: operators }}, resync: [], kubeconfig: {} }}\n",
        plane.kubeconfig().display()
    ));
    house.write_topology();
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    let mut whole = picture(&client).await;
    // The first two are nobody's business; the last stands for something in System, and is made by hand.
    whole.retain(|(name, _)| !["secret/a-stranger", "secret/amp-token", "product/my-product"].contains(&name.as_str()));
    let identity = house.path("identity-1");

    let refused = house.keepsake(&["rebuild", "--yes", "prod", "--identity", &identity]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("has a 3scale already") && told.contains("zync-que"), "{told}");

    house.installations[0].wreck().await;
    lose(&client).await;
    let mut rebuild = house.command();
    rebuild.args(["rebuild", "--yes", "prod", "--identity", &identity]);
    killed_when(rebuild, "commit-objects done");
    let busy = house.keepsake(&["restore", "--yes", "prod", "--identity", &identity]);
    assert!(!busy.status.success(), "a rebuild is not over");
    let mut resume = house.command();
    resume.args(["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", &identity]);
    let resumed = tokio::task::spawn_blocking(move || run(&mut resume));
    // What the operator makes of an APIManager.
    let _kubelet = Kubelet::start(client.clone(), NAMESPACE, &[]);
    let manager = format!("{}/apimanager-sample", objects::path(NAMESPACE, "apimanager"));
    wait_for("the APIManager", PATIENCE, async || client.at(&manager).await.map(drop).ok_or("there is none")).await;
    skeleton::build(&client, Form::Deployments, NAMESPACE, WHOLE).await;
    let done = resumed.await.expect("it is waited for");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(picture(&client).await, whole, "built anew");

    let mut restore = house.command();
    restore.args(["restore", "--yes", "prod", "--identity", &identity]);
    let restored = tokio::task::spawn_blocking(move || run(&mut restore)).await.expect("it is waited for");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    State::of(&house.installations[0]).await.assert_is(&before, "built anew and restored");
    assert_eq!(picture(&client).await, whole, "built anew and restored");
}
