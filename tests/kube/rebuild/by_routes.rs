//! A rebuild where the topology says `by: routes`, and another word by and by: refused where there can be no Routes, before anything is built; else all that are
//! closed are opened.

use super::*;

/// All weights of each Route, and whether it remembers any.
async fn routes(client: &Client) -> Vec<(String, Value, bool)> {
    let found = client.at(&openshift::routes(NAMESPACE)).await.expect("the Routes");
    let of = |route: &Value| {
        let name = route["metadata"]["name"].as_str().expect("a name").to_owned();
        (name, route["spec"]["to"]["weight"].clone(), route["metadata"]["annotations"][ANNOTATION] != Value::Null)
    };
    found["items"].as_array().into_iter().flatten().map(of).collect()
}

/// Writes a topology that says so.
fn says(house: &mut House, settings: &str, by: &str) {
    house.consistency = settings.replace("by: routes", &format!("by: {by}"));
    house.write_topology();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_a_rebuild_opens_the_routes_that_it_closes_whatever_the_topology_says() {
    let name = "kube_a_rebuild_opens_the_routes_that_it_closes_whatever_the_topology_says";
    let Some(plane) = ControlPlane::start(name).await else { return };
    let client = plane.client().await;
    let mut house = built(&plane, &client, "routes").await;
    let settings = house.consistency.clone();
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    let running = skeleton::replicas(&client, Form::Deployments, NAMESPACE).await;
    house.installations[0].wreck().await;
    lose(&client).await;
    let identity = house.path("identity-1");

    // Where no Routes are served nothing is built.
    let refused = house.keepsake(&["rebuild", "--yes", "prod", "--identity", &identity]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    for word in ["`route.openshift.io/v1` is not served", "`by: scale`", "--objects-only"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(client.at(&objects::path(NAMESPACE, "apimanager")).await.expect("a list")["items"] == json!([]));
    assert_eq!(house.must_json(&["runs"]).as_array().map(Vec::len), Some(1), "only the backup");

    // Up to the end of the first plan, which closes none.
    openshift::define_routes(&client).await;
    let _kubelet = Kubelet::start(client.clone(), NAMESPACE, &[]);
    let mut rebuild = house.command();
    rebuild.args(["rebuild", "--yes", "prod", "--identity", &identity]);
    let dies = dies_when(rebuild, "quiesce done");
    operates(&client).await;
    openshift::build_route(&client, NAMESPACE, "backend", &[("backend-listener", None)]).await;
    openshift::build_route(&client, NAMESPACE, "zync-3scale-api", &[("apicast-production", Some(7))]).await;
    let open = routes(&client).await;
    has_died(dies).await;
    let now = skeleton::replicas(&client, Form::Deployments, NAMESPACE).await;
    assert_eq!((now["system-app"], now["backend-listener"], now["apicast-production"]), (0, 0, 5), "{now:?}");
    assert_eq!(routes(&client).await, open);

    // Nobody would start what the first plan has stopped.
    says(&mut house, &settings, "none");
    let halted = run(&mut resume(&house));
    let told = String::from_utf8_lossy(&halted.stdout).into_owned();
    assert_eq!(halted.status.code(), Some(3), "{told}{}", String::from_utf8_lossy(&halted.stderr));
    assert!(told.contains("`by: none`") && told.contains("keepsake resume"), "{told}");
    assert_eq!(routes(&client).await, open, "another plan might not open them");

    // In the second plan, which is made by what the topology says then, and carried out whatever it says later.
    says(&mut house, &settings, "routes");
    killed_when(resume(&house), "close-routes done");
    let closed = routes(&client).await;
    assert!(closed.iter().all(|(_, weight, remembers)| *weight == json!(0) && *remembers), "{closed:?}");
    says(&mut house, &settings, "scale");
    let told = house.keepsake(&["doctor"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("route/backend in namespace threescale for threescale/prod"), "{told}");
    let done = run(&mut resume(&house));
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{told}");
    assert_eq!(routes(&client).await, open, "as they were");
    assert_eq!(skeleton::replicas(&client, Form::Deployments, NAMESPACE).await, running, "as they were");
    State::of(&house.installations[0]).await.assert_is(&before, "built anew and restored");
}
