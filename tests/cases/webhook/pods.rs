//! What becomes of pods: who gets an agent, how it is confined, and who gets none.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keepsake_coordinator::webhook::{CONTAINER, OPT_IN, SIDECAR, Settings};
use keepsake_tests::webhook::{answered, applied, asking, asking_for, containers, pod, shipped, typed};
use serde_json::{Value, json};

fn settings() -> Settings {
    Settings::parse(&shipped()).unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// The pod as it is made, when it gets an agent.
fn attached(settings: &Settings, pod: &Value) -> Pod {
    let response = answered(settings, pod);
    assert!(response["warnings"].is_null() && response["patch"].is_string(), "{response}");
    typed(&applied(&response, pod))
}

fn agent(pod: &Pod) -> &Container {
    pod.spec.as_ref().unwrap().containers.iter().find(|c| c.name == CONTAINER).expect("an agent")
}

fn told<'a>(container: &'a Container, variable: &str) -> Option<&'a str> {
    let found = container.env.iter().flatten().find(|e| e.name == variable)?;
    found.value.as_deref()
}

/// Why it gets none.
fn refused(settings: &Settings, pod: &Value) -> String {
    let response = answered(settings, pod);
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null), "{response}");
    let [one] = response["warnings"].as_array().expect("a warning").as_slice() else { panic!("{response}") };
    one.as_str().expect("text").to_owned()
}

fn is_untouched(settings: &Settings, pod: &Value) {
    let response = answered(settings, pod);
    assert!(response["allowed"] == true && response["patch"].is_null() && response["warnings"].is_null(), "{response}");
}

#[test]
fn webhook_databases_get_their_agent_in_their_own_image() {
    for (workload, engine, shared) in [
        ("system-mysql", "mysql", None),
        ("system-postgresql", "postgres", None),
        ("backend-redis", "redis", Some("backend-redis-storage")),
        ("system-redis", "redis", Some("system-redis-storage")),
    ] {
        let before = asking(workload);
        let pod = attached(&settings(), &before);
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.containers.len(), 2, "{workload}");
        let (database, agent) = (&spec.containers[0], agent(&pod));
        // What the operator made is as it was.
        let as_it_was: Container = serde_json::from_value(before["spec"]["containers"][0].clone()).unwrap();
        assert_eq!(database, &as_it_was);
        assert_eq!((&agent.image, &agent.image_pull_policy), (&database.image, &database.image_pull_policy));
        assert_eq!(agent.command.as_deref(), Some(&["/keepsake/keepsake-agent".to_owned()][..]));
        assert_eq!(agent.args.as_deref(), Some(&[engine.to_owned()][..]));
        assert_eq!(told(agent, "KEEPSAKE_COMPONENT"), Some(workload));
        // Everything goes to this pod's own server.
        let addresses = ["KEEPSAKE_MYSQL_HOST", "KEEPSAKE_POSTGRES_HOST", "KEEPSAKE_REDIS_URL"];
        let address = addresses.iter().find_map(|v| told(agent, v)).expect("an address");
        assert!(address.contains("127.0.0.1"), "{workload}: {address}");
        assert_eq!(pod.metadata.labels.as_ref().unwrap()[SIDECAR], workload);
        let mounts = agent.volume_mounts.as_ref().unwrap();
        let data: Vec<_> = mounts.iter().filter(|m| m.name.ends_with("-storage")).map(|m| m.name.as_str()).collect();
        assert_eq!(data, shared.into_iter().collect::<Vec<_>>(), "{workload}");
        // It comes from Keepsake's image, by a container that runs first.
        let [copy] = spec.init_containers.as_deref().unwrap() else { panic!("{workload}") };
        assert_eq!(copy.image.as_deref(), Some("keepsake:0.1.0"));
        let program = |c: &Container| c.volume_mounts.iter().flatten().find(|m| m.mount_path == "/keepsake").cloned();
        assert_eq!(program(copy).unwrap().name, program(agent).unwrap().name);
        assert_eq!((program(copy).unwrap().read_only, program(agent).unwrap().read_only), (None, Some(true)));
    }
}

#[test]
fn webhook_shared_data_is_the_part_that_the_database_has() {
    let mut before = asking("backend-redis");
    before["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = json!("redis");
    let pod = attached(&settings(), &before);
    let data = agent(&pod).volume_mounts.iter().flatten().find(|m| m.name == "backend-redis-storage").unwrap();
    assert_eq!((data.mount_path.as_str(), data.sub_path.as_deref()), ("/var/lib/redis/data", Some("redis")));
    let mount = &mut before["spec"]["containers"][0]["volumeMounts"][0];
    mount.as_object_mut().unwrap().remove("subPath");
    mount["subPathExpr"] = json!("$(POD_NAME)");
    assert!(refused(&settings(), &before).contains("variables of its own"));
}

#[test]
fn webhook_agents_are_confined_and_every_mount_is_a_volume() {
    for workload in ["system-mysql", "backend-redis"] {
        let pod = attached(&settings(), &asking(workload));
        let spec = pod.spec.as_ref().unwrap();
        assert!(spec.security_context.is_none(), "the pod's own is the database's business");
        let volumes = spec.volumes.as_ref().unwrap();
        for container in [agent(&pod), &spec.init_containers.as_ref().unwrap()[0]] {
            let context = serde_json::to_value(container.security_context.as_ref().unwrap()).unwrap();
            let confined = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
            });
            assert_eq!(context, confined, "and no user is named");
            assert_eq!(container.resources.as_ref().unwrap().limits.as_ref().unwrap()["memory"].0, "64Mi");
            let mounts = container.volume_mounts.as_ref().unwrap();
            for mount in mounts {
                let named: Vec<_> = volumes.iter().filter(|v| v.name == mount.name).collect();
                let [volume] = named.as_slice() else { panic!("{mount:?}: {named:?}") };
                if let Some(secret) = &volume.secret {
                    assert_eq!((secret.default_mode, mount.read_only), (Some(0o440), Some(true)), "{volume:?}");
                }
            }
            // The API server would put the token of 3scale's account there.
            assert!(mounts.iter().any(|m| m.mount_path == "/var/run/secrets/kubernetes.io/serviceaccount"));
        }
        let agent = agent(&pod);
        let probe = agent.liveness_probe.as_ref().and_then(|p| p.http_get.clone()).expect("a probe");
        let ports = agent.ports.as_ref().unwrap();
        assert!(ports.iter().any(|p| Some(&probe.port) == p.name.clone().map(IntOrString::String).as_ref()));
        assert!(agent.readiness_probe.is_none(), "an agent never takes its database away from others");
    }
    let settings = Settings::parse(&shipped().replace("seccomp: true", "seccomp: false\ncpu_limit: 500m")).unwrap();
    let pod = attached(&settings, &asking("system-mysql"));
    assert!(agent(&pod).security_context.as_ref().unwrap().seccomp_profile.is_none());
    assert_eq!(agent(&pod).resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0, "500m");
}

#[test]
fn webhook_a_pod_that_has_its_agent_is_left_alone() {
    let before = asking("system-mysql");
    let once = applied(&answered(&settings(), &before), &before);
    assert_eq!(containers(&once), ["system-mysql", CONTAINER]);
    // The API server asks again when somebody else has changed the pod since.
    is_untouched(&settings(), &once);
    let mut other = once;
    other["spec"]["containers"][0]["image"] = json!("mirror.example/mysql:1");
    is_untouched(&settings(), &other);
}

#[test]
fn webhook_only_who_asks_gets_an_agent() {
    is_untouched(&settings(), &pod("system-mysql"));
    is_untouched(&settings(), &pod("system-app"));
    // By a label, too.
    let mut labelled = pod("backend-redis");
    labelled["metadata"]["labels"][OPT_IN] = json!("backend-redis");
    attached(&settings(), &labelled);
    // Where the settings say so, by the labels of 3scale: Deployments, and DeploymentConfigs before.
    let everybody = Settings::parse(&shipped().replace("by_labels: false", "by_labels: true")).unwrap();
    attached(&everybody, &pod("system-redis"));
    let mut old = pod("system-redis");
    old["metadata"]["labels"] = json!({ "deployment": "system-redis-3", "deploymentConfig": "system-redis" });
    attached(&everybody, &old);
    is_untouched(&everybody, &pod("system-app"));
    old["metadata"]["labels"] = json!({ "deployment": "something-else" });
    is_untouched(&everybody, &old);
    // Without any labels there is a place for ours.
    old["metadata"] = json!({ "name": "by-hand", "annotations": { OPT_IN: "system-redis" } });
    assert_eq!(attached(&settings(), &old).metadata.labels.unwrap()[SIDECAR], "system-redis");
}

#[test]
fn webhook_what_cannot_have_an_agent_is_admitted_with_a_word_of_why() {
    let settings = settings();
    let told = refused(&settings, &asking("zync-database"));
    assert!(told.contains("zync-database-data") && told.contains("agents/zync-database"), "{told}");
    for component in ["system-app", "system-storage"] {
        let told = refused(&settings, &asking_for("system-app", component));
        assert!(told.contains("agents/system-storage"), "{told}");
    }
    let told = refused(&settings, &asking_for("system-mysql", "sytem-mysql"));
    assert!(told.contains("\"sytem-mysql\"") && told.contains("backend-redis"), "{told}");
    let told = refused(&settings, &asking_for("system-redis", "backend-redis"));
    assert!(told.contains("no container backend-redis"), "{told}");

    let broken = |change: &dyn Fn(&mut Value)| {
        let mut pod = asking("system-mysql");
        change(&mut pod);
        refused(&settings, &pod)
    };
    let disagree = |p: &mut Value| p["metadata"]["labels"][OPT_IN] = json!("system-redis");
    assert!(broken(&disagree).contains("make them one"));
    let empty = |p: &mut Value| p["spec"]["volumes"][0] = json!({ "name": "mysql-storage", "emptyDir": {} });
    assert!(broken(&empty).contains("gone with each pod"));
    let elsewhere = |p: &mut Value| p["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/data");
    assert!(broken(&elsewhere).contains("/var/lib/mysql/data"));
    let on_the_node = |p: &mut Value| p["spec"]["hostNetwork"] = json!(true);
    assert!(broken(&on_the_node).contains("network"));
    let port = |p: &mut Value| p["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    assert!(broken(&port).contains("port"));
    let name = |p: &mut Value| p["spec"]["volumes"][1]["name"] = json!("keepsake-tls");
    assert!(broken(&name).contains("keepsake-tls"));
    let no_image = |p: &mut Value| drop(p["spec"]["containers"][0].as_object_mut().unwrap().remove("image"));
    assert!(broken(&no_image).contains("no image"));
}
