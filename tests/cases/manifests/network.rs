//! Network policies: the coordinator alone reaches agents, an agent reaches its own store, names and the repository; and selectors mean pods that there are.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::objects::{Objects, Pod};

/// Ports of names: the service's, and that of OpenShift's pods.
const NAMES: [i32; 2] = [53, 5353];
/// The S3 server's.
const HTTPS: i32 = 443;
/// The API server's, which the coordinator alone may ask.
const API: i32 = 6443;

/// The webhook's: the API server's addresses are nobody's to know.
const WEBHOOK: i32 = 8443;

/// What is wrong.
pub(super) fn problems(objects: &Objects) -> Vec<String> {
    let pods = objects.pods();
    let mut wrong = Vec::new();
    for policy in &objects.policies {
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        if !pods.iter().any(|pod| selects(policy, pod)) {
            wrong.push(format!("policy {name} selects no pod that there is"));
        }
    }
    for pod in &pods {
        let mine: Vec<_> =
            objects.policies.iter().filter(|p| selects(p, pod)).filter_map(|p| p.spec.as_ref()).collect();
        for direction in ["Ingress", "Egress"] {
            if !mine.iter().any(|s| s.policy_types.iter().flatten().any(|t| t == direction)) {
                wrong.push(format!("{}: {direction} is open to everybody", pod.owner));
            }
        }
        let mut say = |what: String| wrong.push(format!("{}: {what}", pod.owner));
        let mut by_coordinator = false;
        for rule in mine.iter().flat_map(|s| s.ingress.iter().flatten()) {
            let peers = rule.from.as_deref().unwrap_or_default();
            if peers.is_empty() && !(is_webhook(pod) && only(rule.ports.as_deref(), &[WEBHOOK])) {
                say("everybody may come in".to_owned());
            }
            for peer in peers {
                match who(peer, pod, objects) {
                    Peer::Coordinator if only(rule.ports.as_deref(), &[9090]) => by_coordinator = true,
                    Peer::Store if engine(pod) == Some("redis") => {}
                    other => say(format!("may be called by {other:?} at {:?}", rule.ports)),
                }
            }
        }
        if engine(pod).is_some() && !by_coordinator {
            say("is reached by no coordinator".to_owned());
        }
        for rule in mine.iter().flat_map(|s| s.egress.iter().flatten()) {
            let peers = rule.to.as_deref().unwrap_or_default();
            if peers.is_empty() {
                say("may call everybody".to_owned());
            }
            for peer in peers {
                let ports = rule.ports.as_deref();
                let allowed = match who(peer, pod, objects) {
                    Peer::Pods => only(ports, &NAMES),
                    Peer::Store | Peer::Outside => {
                        only(ports, &[HTTPS])
                            || store_port(pod).is_some_and(|p| only(ports, &[p]))
                            || (engine(pod).is_none() && only(ports, &[API]))
                    }
                    Peer::Agent => engine(pod).is_none() && only(ports, &[9090]),
                    Peer::Coordinator | Peer::Nobody => false,
                };
                if !allowed {
                    say(format!("may call {:?} at {ports:?}", who(peer, pod, objects)));
                }
            }
        }
        if let (Some(port), false) = (store_port(pod), objects.policies.is_empty()) {
            let reaches =
                mine.iter().flat_map(|s| s.egress.iter().flatten()).any(|r| only(r.ports.as_deref(), &[port]));
            if !reaches {
                say("does not reach its store".to_owned());
            }
        }
    }
    wrong
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Coordinator,
    Agent,
    /// The pod's own store, by 3scale's labels.
    Store,
    /// Any pod of any namespace.
    Pods,
    /// One address.
    Outside,
    /// Nobody that there is, or too many.
    Nobody,
}

fn who(peer: &NetworkPolicyPeer, pod: &Pod<'_>, objects: &Objects) -> Peer {
    match (&peer.pod_selector, &peer.namespace_selector, &peer.ip_block) {
        (None, Some(any), None) if *any == LabelSelector::default() => Peer::Pods,
        (None, None, Some(block)) if block.cidr.ends_with("/32") || block.cidr.ends_with("/128") => Peer::Outside,
        (Some(selector), None, None) if is_of_sidecars(selector) => Peer::Agent,
        (Some(selector), None, None) => {
            let labels = selector.match_labels.clone().unwrap_or_default();
            let name = labels.get("app.kubernetes.io/name").map(String::as_str);
            let ours = objects.pods().iter().any(|p| within(&labels, &p.labels));
            match name {
                Some("keepsake-coordinator") if labels.len() == 1 => Peer::Coordinator,
                Some("keepsake-agent") if ours => Peer::Agent,
                None if labels.len() == 1 => {
                    let own = pod.labels.get("keepsake/component");
                    let store = labels.get("deployment").or_else(|| labels.get("deploymentConfig"));
                    if store.is_some() && store == own { Peer::Store } else { Peer::Nobody }
                }
                _ => Peer::Nobody,
            }
        }
        _ => Peer::Nobody,
    }
}

/// Pods that have an agent put into them.
fn is_of_sidecars(selector: &LabelSelector) -> bool {
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    matches!(expressions, [e] if e.key == "keepsake/sidecar" && e.operator == "Exists")
        && selector.match_labels.is_none()
}

fn selects(policy: &NetworkPolicy, pod: &Pod<'_>) -> bool {
    let selector = policy.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
    let labels = selector.and_then(|s| s.match_labels.as_ref());
    labels.is_some_and(|labels| within(labels, &pod.labels))
}

fn within(some: &BTreeMap<String, String>, all: &BTreeMap<String, String>) -> bool {
    !some.is_empty() && some.iter().all(|(key, value)| all.get(key) == Some(value))
}

/// Whether there is a port, and each is one of these.
fn only(ports: Option<&[NetworkPolicyPort]>, these: &[i32]) -> bool {
    let ports = ports.unwrap_or_default();
    let named = |p: &NetworkPolicyPort| {
        matches!(p.port, Some(IntOrString::Int(n)) if these.contains(&n)) && p.end_port.is_none()
    };
    !ports.is_empty() && ports.iter().all(named)
}

fn is_webhook(pod: &Pod<'_>) -> bool {
    pod.spec.containers.first().and_then(|c| c.args.as_ref()).is_some_and(|args| args == &["webhook"])
}

/// The engine of an agent's pod.
fn engine<'a>(pod: &Pod<'a>) -> Option<&'a str> {
    let container = pod.spec.containers.first()?;
    let program = container.command.as_ref()?.first()?;
    program.ends_with("keepsake-agent").then(|| container.args.as_ref()?.first().map(String::as_str)).flatten()
}

fn store_port(pod: &Pod<'_>) -> Option<i32> {
    match engine(pod)? {
        "redis" => Some(6379),
        "mysql" => Some(3306),
        "postgres" => Some(5432),
        _ => None,
    }
}
