//! What is made of pods and Services, case by case.

use serde_json::{Value, json};

use super::judge::{self, Expected, Look};
use super::{Agents, Expect, Place};

const NAMESPACE: &str = "threescale";

/// A pod of `manifests/agents`, of a ReplicaSet.
fn own(component: &str, set: &str, phase: &str, ready: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("keepsake-{component}-{set}-x"), "creationTimestamp": format!("2026-01-01T00:00:0{}Z", set.len()),
            "labels": { "app.kubernetes.io/name": "keepsake-agent", "keepsake/component": component, "pod-template-hash": set },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("keepsake-{component}-{set}"), "uid": set, "controller": true }],
        },
        "spec": { "containers": [{ "name": "agent", "ports": [{ "name": "admin", "containerPort": 9091 }, { "name": "agent", "containerPort": 9090 }] }] },
        "status": { "phase": phase, "podIP": "10.0.0.7", "conditions": [{ "type": "Ready", "status": ready }] },
    })
}

/// A database's pod with an agent that the webhook has put there.
fn beside(component: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("{component}-1"), "labels": { "deployment": component, "keepsake/sidecar": component },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{component}-abc"), "uid": "u", "controller": true }],
        },
        "spec": { "containers": [{ "name": component }, { "name": "keepsake-agent", "ports": [{ "name": "keepsake-agent", "containerPort": 9090 }] }] },
        "status": { "phase": "Running", "podIP": "fd00::7", "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn service(component: &str, selector: &Value, target: &Value) -> Value {
    json!({
        "metadata": { "name": format!("keepsake-{component}") },
        "spec": { "selector": selector, "publishNotReadyAddresses": true, "ports": [{ "name": "agent", "port": 443, "targetPort": target }] },
    })
}

fn named(component: &str) -> Value {
    json!({ "app.kubernetes.io/name": "keepsake-agent", "keepsake/component": component })
}

fn judged(pods: &[Value], services: &[Value], expected: &[&str], expect: Expect<'_>) -> Agents {
    let of = |name: &&str| Expected {
        component: name.parse().unwrap(),
        engine: "redis".parse().unwrap(),
        has_address: false,
    };
    let expected: Vec<_> = expected.iter().map(of).collect();
    let look = Look {
        namespace: NAMESPACE.to_owned(),
        pods: pods.iter().map(|p| serde_json::from_value(p.clone()).unwrap()).collect(),
        services: services.iter().map(|s| serde_json::from_value(s.clone()).unwrap()).collect(),
    };
    judge::judge(&look, &expected, expect)
}

/// Of the only one that is expected.
fn one(pods: &[Value], services: &[Value], component: &str) -> Result<Place, String> {
    let mut agents = judged(pods, services, &[component], Expect::All);
    assert_eq!(agents.sought.len(), 1);
    agents.sought.remove(0).found.map_err(|e| e.chain())
}

const SERVICE: &str = "https://keepsake-system-redis.threescale.svc:443";
const POD: &str = "https://10.0.0.7:9090";

#[test]
fn a_service_that_leads_to_the_pod_is_dialled_and_else_the_pod() {
    let pod = own("system-redis", "a", "Running", "True");
    let address = |services: &[Value]| one(std::slice::from_ref(&pod), services, "system-redis").unwrap();
    let by = address(&[service("system-redis", &named("system-redis"), &json!("agent"))]);
    assert_eq!((by.address.as_str(), by.not_ready), (SERVICE, None));
    assert!(by.told.contains("keepsake-system-redis-a-x") && by.told.contains("Service"), "{}", by.told);
    assert_eq!(address(&[service("system-redis", &named("system-redis"), &json!(9090))]).address, SERVICE);
    for not in [
        service("system-redis", &named("backend-redis"), &json!("agent")),
        service("system-redis", &named("system-redis"), &json!("admin")),
        service("system-redis", &json!({}), &json!("agent")),
        service("another", &named("system-redis"), &json!("agent")),
    ] {
        assert_eq!(address(&[not]).address, POD);
    }
    let mut headless = service("system-redis", &named("system-redis"), &json!("agent"));
    headless["spec"]["clusterIP"] = "None".into();
    assert_eq!(address(&[headless]).address, SERVICE.replace("443", "9090"));
}

#[test]
fn a_service_that_leads_to_others_as_well_is_not_dialled() {
    let pods = [own("system-redis", "a", "Running", "True"), own("backend-redis", "b", "Running", "True")];
    let wide = service("system-redis", &json!({ "app.kubernetes.io/name": "keepsake-agent" }), &json!("agent"));
    let agents = judged(&pods, &[wide], &["system-redis", "backend-redis"], Expect::All);
    let place = agents.sought[0].found.as_ref().unwrap();
    assert_eq!(place.address, POD);
    assert!(place.told.contains("does not lead to alone"), "{}", place.told);
}

#[test]
fn an_agent_beside_its_store_is_found_by_the_webhooks_label() {
    let place = one(&[beside("system-redis")], &[], "system-redis").unwrap();
    assert_eq!(place.address, "https://[fd00::7]:9090");
    let by = service("system-redis", &json!({ "keepsake/sidecar": "system-redis" }), &json!("keepsake-agent"));
    assert_eq!(one(&[beside("system-redis")], &[by], "system-redis").unwrap().address, SERVICE);
}

#[test]
fn a_missing_agent_is_told_with_what_to_do() {
    let told =
        one(&[], &[service("system-redis", &named("system-redis"), &json!("agent"))], "system-redis").unwrap_err();
    for word in ["no agent", "keepsake/component=system-redis", "manifests/agents/system-redis", "`agent:`"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let ended = own("system-redis", "a", "Failed", "False");
    assert!(one(&[ended], &[], "system-redis").unwrap_err().contains("has failed"));
    let mut portless = own("system-redis", "a", "Running", "True");
    portless["spec"]["containers"][0]["ports"] = json!([]);
    assert!(one(&[portless], &[], "system-redis").unwrap_err().contains("port named agent"));
}

#[test]
fn one_that_is_not_ready_is_dialled_where_it_can_be() {
    let services = [service("system-redis", &named("system-redis"), &json!("agent"))];
    let runs = own("system-redis", "a", "Running", "False");
    let place = one(std::slice::from_ref(&runs), &services, "system-redis").unwrap();
    assert_eq!((place.address.as_str(), place.not_ready.as_deref()), (SERVICE, Some("it runs and is not ready")));
    let mut hidden = services[0].clone();
    hidden["spec"]["publishNotReadyAddresses"] = false.into();
    assert_eq!(one(&[runs], &[hidden], "system-redis").unwrap().address, POD);
    let mut pending = own("system-redis", "a", "Pending", "False");
    pending["status"]["podIP"] = Value::Null;
    let told = one(std::slice::from_ref(&pending), &[], "system-redis").unwrap_err();
    assert!(told.contains("no node has taken it") && told.contains("kubectl describe pod"), "{told}");
    assert!(one(&[pending], &services, "system-redis").unwrap().not_ready.unwrap().contains("no node"));
    let mut leaves = own("system-redis", "a", "Running", "True");
    leaves["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(one(&[leaves], &services, "system-redis").unwrap().not_ready.unwrap().contains("taken away"));
}

#[test]
fn two_agents_are_refused_unless_one_workload_is_being_rolled_out() {
    let of = |set: &str| own("system-redis", set, "Running", "True");
    let told = one(&[of("a"), beside("system-redis")], &[], "system-redis").unwrap_err();
    for word in
        ["has 2 agents", "deployment/keepsake-system-redis", "replicaset/system-redis-abc", "take the others away"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    let mut twice = of("a");
    twice["metadata"]["name"] = "another".into();
    let told = one(&[of("a"), twice], &[], "system-redis").unwrap_err();
    assert!(told.contains("scale it to 1 replica"), "{told}");
    // The newer one, once it is ready.
    let name = |pods: &[Value]| one(pods, &[], "system-redis").unwrap().told;
    assert!(name(&[of("bb"), of("a")]).contains("-bb-x"));
    assert!(name(&[own("system-redis", "bb", "Running", "False"), of("a")]).contains("-a-x"));
    // One that is being taken away is none any more.
    let mut leaves = beside("system-redis");
    leaves["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(name(&[leaves, of("a")]).contains("-a-x"));
}

#[test]
fn what_nobody_expects_is_told_before_a_set_is_made_and_left_alone_afterwards() {
    let pods = [own("system-redis", "a", "Running", "True"), own("backend-queues", "b", "Running", "True")];
    let told = |expect| {
        let agents = judged(&pods, &[], &["system-redis"], expect);
        agents.problems.iter().map(keepsake_core::Error::chain).collect::<Vec<_>>()
    };
    let all = told(Expect::All);
    assert!(all.len() == 1 && all[0].contains("agent of backend-queues") && all[0].contains("`components`"), "{all:?}");
    assert!(told(Expect::Those(&[])).is_empty());
    let mut nameless = own("system-redis", "a", "Running", "True");
    nameless["metadata"]["labels"] = json!({ "app.kubernetes.io/name": "keepsake-agent" });
    let agents = judged(&[nameless], &[], &[], Expect::All);
    assert!(agents.problems[0].chain().contains("give it the label"), "{:?}", agents.problems);
}

#[test]
fn agents_that_come_with_their_stores_will_be_behind_their_services() {
    let later = |pods: &[Value], services: &[Value]| {
        let mut agents = judged(pods, services, &["system-redis"], Expect::Later(&[]));
        agents.sought.remove(0).found.unwrap()
    };
    let beside = service("system-redis", &json!({ "keepsake/sidecar": "system-redis" }), &json!("keepsake-agent"));
    for by in [beside, service("system-redis", &named("system-redis"), &json!("agent"))] {
        let place = later(&[], &[by]);
        assert!(place.address == SERVICE && place.not_ready.is_some(), "{place:?}");
    }
    assert_eq!(later(&[], &[]).address, SERVICE.replace("443", "9090"));
    assert_eq!(later(&[own("system-redis", "a", "Running", "True")], &[]).address, POD, "it is there");
}
