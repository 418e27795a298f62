//! What the tests beside this must see: something is broken on purpose, and they fail. `make prove-kube` runs them.

use keepsake_coordinator::platform::Platform;
use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::topology::kubernetes::ResyncTask;
use keepsake_tests::cluster::faults::{Faulty, Rule};
use keepsake_tests::cluster::kubelet::{Fate, Kubelet};
use keepsake_tests::cluster::skeleton::{self, Form, LEAN};
use keepsake_tests::cluster::{ControlPlane, Raw, openshift};
use keepsake_tests::house::COMPONENTS;
use serde_json::{Value, json};

use super::access::must_be_what_is_used;
use super::agents;
use super::in_cluster;
use super::objects::{Ground, NAMESPACE, REPLACE_ALL, must_be, told};
use super::webhook::whoever_asks_has_one;
use super::{run, settings, start, stop};

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_a_write_is_lost() {
    let Some(ground) = Ground::open("kube_broken_a_write_is_lost").await else { return };
    let before = ground.picture().await;
    ground.wreck().await;
    let faulty = Faulty::new(&ground.client, Rule::Swallow("/secrets/system-app"));
    let it = ground.objects(NAMESPACE, &faulty.client);
    let first = run(2);
    told(ground.stage(&it, &first, REPLACE_ALL).await);
    told(ground.commit(&it, &first).await);
    told(ground.finalize(&it, &first).await);
    must_be(&ground.picture().await, &before, "replaced, and finalized");
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_a_number_is_forgotten() {
    let Some(plane) = ControlPlane::start("kube_broken_a_number_is_forgotten").await else { return };
    let client = plane.client().await;
    skeleton::namespace(&client, NAMESPACE).await;
    skeleton::build(&client, Form::Deployments, NAMESPACE, LEAN).await;
    let before = skeleton::picture(&client, &[NAMESPACE]).await;
    let it = Kubernetes::over(settings(NAMESPACE, plane.kubeconfig()), client.clone());
    stop(&it, 1).await;
    let zync = format!("{}/zync", Form::Deployments.path(NAMESPACE));
    client.merge(&zync, json!({ "metadata": { "annotations": { "keepsake/stopped": Value::Null } } })).await;
    start(&it, 1).await;
    assert_eq!(skeleton::picture(&client, &[NAMESPACE]).await, before, "it is not as it was");
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_a_weight_is_forgotten() {
    let Some(plane) = ControlPlane::start("kube_broken_a_weight_is_forgotten").await else { return };
    let client = plane.client().await;
    openshift::define_routes(&client).await;
    skeleton::namespace(&client, NAMESPACE).await;
    openshift::build_route(&client, NAMESPACE, "backend", &[("backend-listener", Some(7)), ("canary", Some(2))]).await;
    let before = skeleton::picture(&client, &[NAMESPACE]).await;
    let it = Kubernetes::over(settings(NAMESPACE, plane.kubeconfig()), client.clone());
    told(it.close_routes(&run(1)).await);
    let route = format!("{}/backend", openshift::routes(NAMESPACE));
    client.merge(&route, json!({ "metadata": { "annotations": { "keepsake/stopped": Value::Null } } })).await;
    told(it.open_routes(&run(1)).await);
    assert_eq!(skeleton::picture(&client, &[NAMESPACE]).await, before, "it leads nobody where it led");
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_a_job_fails() {
    let Some(plane) = ControlPlane::start("kube_broken_a_job_fails").await else { return };
    let client = plane.client().await;
    skeleton::namespace(&client, NAMESPACE).await;
    skeleton::build(&client, Form::Deployments, NAMESPACE, LEAN).await;
    let _kubelet = Kubelet::of_jobs(client.clone(), NAMESPACE, Fate::Fail("no"));
    let it = Kubernetes::over(settings(NAMESPACE, plane.kubeconfig()), client.clone());
    told(it.resync(&run(1), ResyncTask::CacheFlush).await);
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_a_right_too_many() {
    let words = ["patch", "", "secrets", "3scale"].map(str::to_owned);
    let [verb, group, resource, namespace] = words;
    must_be_what_is_used("kube_broken_a_right_too_many", Some((verb, group, resource, namespace))).await;
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_nobody_attaches() {
    let Some(plane) = ControlPlane::start("kube_broken_nobody_attaches").await else { return };
    let client = plane.client().await;
    skeleton::namespace(&client, NAMESPACE).await;
    whoever_asks_has_one(&client).await;
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_an_identity_stays() {
    let Some(plane) = ControlPlane::start("kube_broken_an_identity_stays").await else { return };
    let client = plane.client().await;
    // Of the namespace that these tests are about.
    skeleton::namespace(&client, "3scale").await;
    in_cluster::played::cron_job(&client, "3scale").await;
    let faulty = Faulty::new(&client, Rule::Swallow("/secrets/keepsake-broken"));
    in_cluster::fails::the_identity_goes(&client, &faulty.client, "keepsake-broken").await;
}

#[tokio::test]
#[ignore = "broken on purpose"]
async fn kube_broken_an_agent_is_missing() {
    let Some(plane) = ControlPlane::start("kube_broken_an_agent_is_missing").await else { return };
    let client = plane.client().await;
    let but_one: Vec<_> = COMPONENTS.into_iter().filter(|c| *c != "zync-database").collect();
    agents::must_all_be_found(&client, &plane, &but_one).await;
}
