//! Whole restores by the command line: real stores with real agents, and the applications on a genuine control plane.

use std::os::unix::fs::PermissionsExt as _;

use keepsake_tests::child::{killed_when, run};
use keepsake_tests::cluster::kubelet::{Fate, Kubelet};
use keepsake_tests::cluster::skeleton::{self, Form, OPERATOR, WHOLE};
use keepsake_tests::cluster::{ControlPlane, Raw, objects, openshift};
use keepsake_tests::house::{House, State};
use keepsake_tests::threescale::Size;
use serde_json::json;

/// On threads of its own a kubelet goes on while a command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_a_restore_stops_the_applications_and_starts_them_whoever_ends_it() {
    let name = "kube_a_restore_stops_the_applications_and_starts_them_whoever_ends_it";
    let Some(plane) = ControlPlane::start(name).await else { return };
    let client = plane.client().await;
    openshift::define_apimanager(&client).await;
    openshift::define_capabilities(&client).await;
    skeleton::namespace(&client, "threescale").await;
    skeleton::build(&client, Form::Deployments, "threescale", WHOLE).await;
    skeleton::build_operator(&client, "threescale").await;
    objects::build(&client, "threescale").await;
    let running = skeleton::picture(&client, &["threescale"]).await;

    let mut house = House::new(&["prod"], Size::TINY).await;
    house.consistency.push_str(&format!(
        "    platform: kubernetes\n    kubernetes: {{ namespace: threescale, kubeconfig: {} }}\n",
        plane.kubeconfig().display()
    ));
    house.write_topology();
    let told = house.must(&["doctor"]);
    for word in ["prod/kubernetes", "Kubernetes v1.", "all 12 that a restore", "system-app (3)", OPERATOR] {
        assert!(told.contains(word), "{word}: {told}");
    }
    house.must(&["backup"]);
    assert_eq!(skeleton::picture(&client, &["threescale"]).await, running, "a backup stops nobody");
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    let whole = objects::picture(&client, "threescale").await;
    for gone in ["system-seed", "my-custom-policy"] {
        client.remove(&format!("{}/{gone}", objects::path("threescale", "secret"))).await;
    }
    let environment = format!("{}/system-environment", objects::path("threescale", "configmap"));
    client.merge(&environment, json!({ "data": { "key": "another" } })).await;
    let spoilt = objects::picture(&client, "threescale").await;
    let identity = house.path("identity-1");
    let is_stopped = async || {
        let replicas = skeleton::replicas(&client, Form::Deployments, "threescale").await;
        let stores = ["system-mysql", "backend-redis", "system-redis", "zync-database"];
        assert!(replicas.iter().all(|(name, r)| (*r > 0) == stores.contains(&name.as_str())), "{replicas:?}");
    };

    // Whoever may not stop the applications begins nothing.
    let (good, bad) = (plane.kubeconfig(), plane.kubeconfig_of_the_clerk());
    let settings = house.consistency.clone();
    house.consistency = settings.replace(&good.display().to_string(), &bad.display().to_string());
    house.write_topology();
    let refused = house.keepsake(&["restore", "--yes", "prod", "--identity", &identity]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("grant it with a Role"), "{told}");
    let runs = house.must(&["runs"]);
    assert!(!runs.contains("restore"), "{runs}");
    house.consistency = settings;
    house.write_topology();
    let restore = || {
        let mut command = house.command();
        command.args(["restore", "--yes", "prod", "--identity", &identity, "--objects", "replace"]);
        command
    };

    killed_when(restore(), "stage-system-mysql done");
    is_stopped().await;
    let told = house.keepsake(&["doctor"]);
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("deployment/system-app in namespace threescale for threescale/prod"), "{told}");
    house.must(&["cancel", "--coordinator-is-gone"]);
    assert_eq!(skeleton::picture(&client, &["threescale"]).await, running, "after a restore that was cancelled");
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after a restore that was cancelled");
    assert_eq!(objects::picture(&client, "threescale").await, spoilt, "after a restore that was cancelled");

    killed_when(restore(), "commit-system-mysql done");
    is_stopped().await;
    house.must(&["cancel", "--coordinator-is-gone"]);
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after a restore that was taken back");
    assert_eq!(objects::picture(&client, "threescale").await, spoilt, "after a restore that was taken back");

    killed_when(restore(), "commit-objects done");
    is_stopped().await;
    // What follows on it is done by Jobs, and all is looked at in the end.
    let _kubelet = Kubelet::of_jobs(client.clone(), "threescale", Fate::Succeed);
    let mut resume = house.command();
    resume.args(["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", &identity]);
    // The kubelet is a task of this thread.
    let done = tokio::task::spawn_blocking(move || run(&mut resume)).await.expect("it is waited for");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    let epoch = told.split_whitespace().nth(1).expect("an epoch").to_owned();
    let story = house.must(&["runs", &epoch]);
    assert!(told.contains("good: agent of system-mysql: answers"), "{told}");
    for word in ["good: workloads: 12 are as they were", "good: APIManager"] {
        assert!(told.contains(word) && story.contains(word), "{word}: {told}\n{story}");
    }
    for rake in ["zync:resync:domains", "searchd:optimal_index", "cache:flush"] {
        assert!(story.contains(&format!("rake {rake} is done")), "{rake}: {story}");
    }
    assert_eq!(skeleton::picture(&client, &["threescale"]).await, running, "after a restore that was resumed");
    State::of(&house.installations[0]).await.assert_is(&before, "after a restore that was resumed");
    assert_eq!(objects::picture(&client, "threescale").await, whole, "after a restore that was resumed");
    let told = house.must(&["show"]);
    assert!(told.contains("artifact  secret/system-seed"), "{told}");
    house.must(&["verify"]);
    house.must(&["inspect", "--identity", &identity]);
    let into = house.path("objects");
    let told = house.must(&["objects", "--identity", &identity, "--into", &into]);
    assert!(told.contains("secret/system-seed.json") && !told.contains("new-app.env"), "{told}");
    let seed = std::fs::metadata(format!("{into}/secret/system-seed.json")).expect("a file");
    assert_eq!(seed.permissions().mode() & 0o777, 0o600);
    let again = house.keepsake(&["objects", "--identity", &identity, "--into", &into]);
    assert!(!again.status.success(), "it wrote over what was there");
}
