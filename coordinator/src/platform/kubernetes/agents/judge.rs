//! Which pod is whose agent, and what is wrong with it: pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, EngineName};

use super::{Agents, Expect, Place, Sought};
use crate::platform::kubernetes::pod::{Seen, State};
use crate::webhook::SIDECAR;

/// The labels of agents in pods of their own (`manifests/agents`).
const NAMED: (&str, &str) = ("app.kubernetes.io/name", "keepsake-agent");
pub(super) const COMPONENT: &str = "keepsake/component";
/// Where the manifests' agents and Services listen.
const PORT: i32 = 9090;
/// What an agent's port is called in a pod of its own, and beside a store.
const PORTS: [&str; 2] = ["agent", "keepsake-agent"];

/// All that was seen.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) namespace: String,
    pub(super) pods: Vec<Pod>,
    pub(super) services: Vec<Service>,
}

/// Who must have an agent.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) component: Component,
    pub(super) engine: EngineName,
    /// The topology says where it is.
    pub(super) has_address: bool,
}

/// A pod with an agent.
struct Agent {
    /// Of which component, by its labels.
    component: String,
    seen: Seen,
    ip: Option<String>,
    port: Option<(String, i32)>,
    labels: BTreeMap<String, String>,
    owner: Owner,
}

/// Who has made a pod.
#[derive(PartialEq, Eq)]
struct Owner {
    /// `deployment/keepsake-system-mysql`, or what else there is.
    workload: String,
    /// Its ReplicaSet: another one before a rollout than after.
    set: String,
}

/// Finds an agent for each, or says why there is none.
pub(super) fn judge(look: &Look, expected: &[Expected], expect: Expect<'_>) -> Agents {
    let all: Vec<_> = look.pods.iter().filter_map(agent).collect();
    let sought = expected.iter().filter(|e| !e.has_address).map(|e| Sought {
        component: e.component.clone(),
        engine: e.engine.clone(),
        found: find(look, &all, &e.component, expect),
    });
    let mut agents = Agents { sought: sought.collect(), problems: Vec::new() };
    // A run that was begun has its components. A set that is to be made must not lack one of which somebody has made an agent.
    if matches!(expect, Expect::All) {
        let is_expected = |agent: &&Agent| expected.iter().any(|e| e.component.as_str() == agent.component);
        let others = all.iter().filter(|a| a.seen.is_there() && !is_expected(a));
        agents.problems.extend(others.map(unexpected));
    }
    agents
}

fn unexpected(agent: &Agent) -> Error {
    let Agent { component, seen, .. } = agent;
    let text = if component.is_empty() {
        format!(
            "pod {} is an agent by its labels and does not say of which component: give it the label {COMPONENT}",
            seen.name
        )
    } else {
        format!(
            "pod {} is an agent of {component}, which is none of the components that are expected: if the installation has it, name it in `components` together with all \
             others (of System's files `files: external` says that there are none); else take that agent away",
            seen.name
        )
    };
    Error::new(Kind::Conflict, text)
}

fn agent(pod: &Pod) -> Option<Agent> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let component = match (labels.get(SIDECAR), labels.get(NAMED.0)) {
        (Some(beside), _) => beside.clone(),
        (None, Some(name)) if name == NAMED.1 => labels.get(COMPONENT).cloned().unwrap_or_default(),
        (None, _) => return None,
    };
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
    let port = ports.find_map(|p| {
        let name = p.name.as_deref().filter(|name| PORTS.contains(name))?;
        Some((name.to_owned(), p.container_port))
    });
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty());
    Some(Agent { component, seen: Seen::of(pod.clone()), ip, port, owner: owner(pod, &labels), labels })
}

fn owner(pod: &Pod, labels: &BTreeMap<String, String>) -> Owner {
    let metadata = &pod.metadata;
    let of = metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let Some(of) = of else {
        let name = format!("pod/{}", metadata.name.as_deref().unwrap_or_default());
        return Owner { workload: name.clone(), set: name };
    };
    let set = format!("{}/{}", of.kind.to_lowercase(), of.name);
    let workload = match of.kind.as_str() {
        // Its name is the Deployment's with the hash of the template.
        "ReplicaSet" => {
            let hash = labels.get("pod-template-hash").map(|hash| format!("-{hash}"));
            let name = hash.and_then(|hash| of.name.strip_suffix(hash.as_str()));
            name.map(|name| format!("deployment/{name}"))
        }
        "ReplicationController" => {
            let name = metadata.annotations.as_ref().and_then(|a| a.get("openshift.io/deployment-config.name"));
            name.map(|name| format!("deploymentconfig/{name}"))
        }
        _ => None,
    };
    Owner { workload: workload.unwrap_or_else(|| set.clone()), set }
}

fn find(look: &Look, all: &[Agent], component: &Component, expect: Expect<'_>) -> Result<Place> {
    let ours: Vec<_> = all.iter().filter(|a| a.component == component.as_str()).collect();
    let (there, ended): (Vec<_>, Vec<_>) = ours.into_iter().partition(|a| a.seen.is_there());
    let (leaving, live): (Vec<_>, Vec<_>) = there.into_iter().partition(|a| a.seen.state == State::Terminating);
    // One that goes is followed by another.
    let candidates = if live.is_empty() { leaving } else { live };
    if candidates.is_empty() {
        if matches!(expect, Expect::Later(_)) {
            return Ok(to_come(look, component));
        }
        return Err(missing(component, &ended));
    }
    let agent = the_one(component, candidates)?;
    place(look, all, component, agent)
}

fn missing(component: &Component, ended: &[&Agent]) -> Error {
    let failed = ended.iter().find_map(|a| match &a.seen.state {
        State::Failed(why) => Some(format!("; its pod {} has failed: {why}", a.seen.name)),
        _ => None,
    });
    let text = format!(
        "{component} has no agent: no pod that lives has the labels {}={} and {COMPONENT}={component}, nor {SIDECAR}={component}{}. Deploy it (manifests/agents/{component}, or \
         the webhook with manifests/sidecars/{component}), or name its address with `agent:`; if the installation has no {component}, name in `components` what it has",
        NAMED.0,
        NAMED.1,
        failed.unwrap_or_default()
    );
    Error::new(Kind::NotFound, text)
}

/// One agent serves a store, else two would hold and dump it by turns. During a rollout there are two pods for a while.
fn the_one<'a>(component: &Component, mut candidates: Vec<&'a Agent>) -> Result<&'a Agent> {
    let doubled = |remedy: &str| {
        let pods: Vec<_> = candidates.iter().map(|a| format!("{} of {}", a.seen.name, a.owner.workload)).collect();
        let text = format!("{component} has {} agents, in the pods {}: {remedy}", pods.len(), pods.join(", "));
        Error::new(Kind::Conflict, text)
    };
    let workloads = candidates.iter().any(|a| candidates.iter().any(|b| a.owner.workload != b.owner.workload));
    if workloads {
        return Err(doubled("a store has one; take the others away"));
    }
    let twice = |a: &&&Agent| candidates.iter().filter(|b| b.owner == a.owner).count() > 1;
    if candidates.iter().any(|a| twice(&a)) {
        return Err(doubled("a store has one; scale it to 1 replica"));
    }
    let age = |a: &&Agent| (a.seen.is_ready, a.seen.created.clone().map(|Time(at)| at));
    candidates.sort_by_key(age);
    candidates.last().copied().ok_or_else(|| Error::new(Kind::Internal, format!("no agent of {component} is left")))
}

fn place(look: &Look, all: &[Agent], component: &Component, agent: &Agent) -> Result<Place> {
    let pod = &agent.seen.name;
    let Some((port_name, port)) = &agent.port else {
        let text = format!(
            "pod {pod} is the agent of {component} by its labels, and none of its containers has a port named {}: deploy it as the manifests do",
            PORTS.join(" or ")
        );
        return Err(Error::new(Kind::Invalid, text));
    };
    let not_ready = match &agent.seen.state {
        State::Running if agent.seen.is_ready => None,
        State::Running => Some("it runs and is not ready".to_owned()),
        State::Pending(why) => Some(format!("it does not run yet: {why}")),
        State::Terminating => Some("it is being taken away".to_owned()),
        State::Succeeded | State::Failed(_) => Some("it has ended".to_owned()),
    };
    let name = service_of(component);
    let service = look.services.iter().find(|s| s.metadata.name.as_deref() == Some(name.as_str()));
    let leads = service.and_then(|s| leads(s, all, agent, port_name, *port));
    if let Some(port) = leads {
        let address = format!("https://{name}.{}.svc:{port}", look.namespace);
        return Ok(Place { address, told: format!("in pod {pod}, by Service {name}"), not_ready });
    }
    let other =
        if service.is_some() { format!(", which Service {name} does not lead to alone") } else { String::new() };
    let Some(ip) = &agent.ip else {
        let why = not_ready.unwrap_or_else(|| "it has no address".to_owned());
        let text = format!(
            "the agent of {component} is in pod {pod}{other}, and cannot be reached: {why}. Look at `kubectl describe pod {pod}`, and try again when it runs"
        );
        return Err(Error::new(Kind::Unavailable, text));
    };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    Ok(Place { address: format!("https://{host}:{port}"), told: format!("in pod {pod}{other}"), not_ready })
}

/// What the Service of a component is called in the manifests.
fn service_of(component: &Component) -> String {
    format!("keepsake-{component}")
}

/// The port by which a Service leads to this agent, and to no agent of another component.
fn leads(service: &Service, all: &[Agent], agent: &Agent, port_name: &str, port: i32) -> Option<i32> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    let selects =
        |labels: &BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    if !selects(&agent.labels) || all.iter().any(|a| a.component != agent.component && selects(&a.labels)) {
        return None;
    }
    if !agent.seen.is_ready && spec.publish_not_ready_addresses != Some(true) {
        return None;
    }
    let is_it = |p: &&ServicePort| match &p.target_port {
        Some(IntOrString::String(name)) => name == port_name,
        Some(IntOrString::Int(number)) => *number == port,
        None => p.port == port,
    };
    let found = spec.ports.iter().flatten().find(is_it)?;
    // Without an address of its own its name is the pods', and so are the ports.
    Some(if spec.cluster_ip.as_deref() == Some("None") { port } else { found.port })
}

/// Where an agent will be whose pod is not there yet: behind its Service, as it is or as the manifests will make it.
fn to_come(look: &Look, component: &Component) -> Place {
    let name = service_of(component);
    let service = look.services.iter().find(|s| s.metadata.name.as_deref() == Some(name.as_str()));
    let is_it = |p: &&ServicePort| match &p.target_port {
        Some(IntOrString::String(name)) => PORTS.contains(&name.as_str()),
        Some(IntOrString::Int(_)) | None => p.name.as_deref().is_some_and(|n| PORTS.contains(&n)),
    };
    let spec = service.and_then(|s| s.spec.as_ref()).filter(|s| s.cluster_ip.as_deref() != Some("None"));
    let port = spec.and_then(|s| s.ports.iter().flatten().find(is_it)).map_or(PORT, |p| p.port);
    let address = format!("https://{name}.{}.svc:{port}", look.namespace);
    let not_ready = Some("its pod is not there yet".to_owned());
    Place { address, told: format!("by Service {name}"), not_ready }
}
