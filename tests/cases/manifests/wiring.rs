//! Who finds whom: the topology's agents are Services, those are pods of the right engine, with the right names in their certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keepsake_coordinator::platform::kubernetes::coordinator::{Order, job};
use keepsake_coordinator::topology::component::STORES;
use keepsake_coordinator::topology::{Told, Topology};
use keepsake_coordinator::webhook::SIDECAR;
use serde_json::Value;

use super::flags::{environment, repository};
use super::objects::Objects;
use keepsake_tests::kustomize::text;

/// The Deployment of the webhook.
const WEBHOOK: &str = "keepsake-webhook";
/// The name in the coordinator's certificate.
const COORDINATOR: &str = "coordinator.keepsake";

/// An agent as its Deployment makes it, or the webhook.
struct Agent<'a> {
    name: String,
    /// None of one beside its store.
    deployment: Option<&'a Deployment>,
    labels: BTreeMap<String, String>,
    container: &'a Container,
    environment: BTreeMap<String, String>,
}

impl Agent<'_> {
    fn told(&self, variable: &str) -> &str {
        self.environment.get(variable).map(String::as_str).unwrap_or_default()
    }

    fn engine(&self) -> Option<&str> {
        self.container.args.as_ref()?.first().map(String::as_str)
    }

    /// The names of its ports.
    fn ports(&self) -> [&'static str; 2] {
        if self.deployment.is_some() { ["agent", "admin"] } else { ["keepsake-agent", "keepsake-admin"] }
    }

    /// The number of the port of this name.
    fn port(&self, name: &str) -> Option<i32> {
        self.container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
    }
}

fn agents(objects: &Objects) -> Result<Vec<Agent<'_>>, String> {
    let deployments = objects.deployments.iter().filter(|d| d.metadata.name.as_deref() != Some(WEBHOOK));
    let agents = deployments.map(|deployment| {
        let name = deployment.metadata.name.clone().unwrap_or_default();
        let template = deployment.spec.as_ref().map(|s| &s.template);
        let labels = template.and_then(|t| t.metadata.as_ref()?.labels.clone()).unwrap_or_default();
        let container = template.and_then(|t| t.spec.as_ref()?.containers.first());
        let container = container.ok_or_else(|| format!("{name} has no container"))?;
        Ok(Agent {
            name,
            deployment: Some(deployment),
            labels,
            container,
            environment: environment(container, objects)?,
        })
    });
    let beside = objects.sidecars.iter().map(|sidecar| {
        let container = sidecar.agent();
        Ok(Agent {
            name: format!("keepsake-{}", sidecar.component),
            deployment: None,
            labels: BTreeMap::from([(SIDECAR.to_owned(), sidecar.component.clone())]),
            container,
            environment: environment(container, objects)?,
        })
    });
    agents.chain(beside).collect()
}

/// The topology as the coordinator's CronJob has it: the file, and what the Job's variables say of the repository.
pub(super) fn topology(objects: &Objects) -> Result<Topology, String> {
    let text = objects.config_maps.get("keepsake-topology").and_then(|m| m.get("keepsake.yaml"));
    let pods = objects.pods();
    let coordinator = pods.iter().find(|p| p.owner.starts_with("CronJob")).and_then(|p| p.spec.containers.first());
    let told = repository(coordinator.ok_or("there is no CronJob")?, objects)?;
    if in_cluster(objects)? != told {
        return Err("a Job of `--in-cluster` is told of another repository than the CronJob".to_owned());
    }
    let folder = Path::new("/etc/keepsake/topology");
    Topology::parse_with(text.ok_or("there is none")?, folder, &told).map_err(|e| e.chain())
}

/// What a Job that `keepsake --in-cluster` makes of the CronJob is told of the repository.
fn in_cluster(objects: &Objects) -> Result<Told, String> {
    let template = objects.cron_jobs.first().ok_or("there is no CronJob")?;
    let template = serde_json::from_value(serde_json::to_value(template).map_err(|e| e.to_string())?);
    let order = Order {
        cron_job: "keepsake-backup".to_owned(),
        account: Some("keepsake-restore".to_owned()),
        name: "keepsake-restore-1".to_owned(),
        installation: "prod".parse().map_err(|_| "a name")?,
        run: None,
        arguments: ["restore", "--yes", "prod"].map(str::to_owned).to_vec(),
        by: "somebody".to_owned(),
        with_identity: true,
    };
    let (made, _) = job(&template.map_err(|e| e.to_string())?, &order).map_err(|e| e.chain())?;
    let made: Job = serde_json::from_value(made).map_err(|e| e.to_string())?;
    let container = made.spec.and_then(|s| s.template.spec?.containers.into_iter().next());
    repository(&container.ok_or("its Job has no container")?, objects)
}

/// What is wrong.
pub(super) fn problems(objects: &Objects, admin: &str) -> Vec<String> {
    let agents = match agents(objects) {
        Ok(agents) => agents,
        Err(why) => return vec![why],
    };
    let mut wrong: Vec<String> = agents.iter().flat_map(|a| alone(a, objects, admin)).collect();
    if objects.config_maps.contains_key("keepsake-topology") {
        match topology(objects) {
            Ok(topology) => wrong.extend(topology_problems(&topology, &agents, objects)),
            Err(why) => wrong.push(format!("the topology: {why}")),
        }
    } else if !objects.cron_jobs.is_empty() {
        wrong.push("there is no topology".to_owned());
    }
    let accounts: BTreeSet<_> = objects.accounts.iter().filter_map(|a| a.metadata.name.as_deref()).collect();
    for pod in objects.pods() {
        if !accounts.contains(pod.spec.service_account_name.as_deref().unwrap_or_default()) {
            wrong.push(format!("{}: there is no account {:?}", pod.owner, pod.spec.service_account_name));
        }
    }
    wrong
}

fn alone(agent: &Agent<'_>, objects: &Objects, admin: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |what: String| wrong.push(format!("{}: {what}", agent.name));
    let component = agent.told("KEEPSAKE_COMPONENT");
    let label = if agent.deployment.is_some() { "keepsake/component" } else { SIDECAR };
    if agent.name != format!("keepsake-{component}") || agent.labels.get(label).is_none_or(|l| l != component) {
        say(format!("is of the component {component:?}"));
    }
    if let Some(spec) = agent.deployment.and_then(|d| d.spec.as_ref()) {
        if spec.replicas != Some(1) || spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("Recreate") {
            say("may be there twice".to_owned());
        }
        let selected = spec.selector.match_labels.clone().unwrap_or_default();
        if selected.is_empty() || !within(&selected, &agent.labels) {
            say("does not select its own pods".to_owned());
        }
    }
    let [service, probes] = agent.ports();
    for (variable, port) in [("KEEPSAKE_LISTEN", service), ("KEEPSAKE_ADMIN", probes)] {
        let listens = agent.port(port).map(|p| format!("0.0.0.0:{p}"));
        if listens.as_deref() != Some(agent.told(variable)) {
            say(format!("listens on {:?}, and its port {port} is {:?}", agent.told(variable), agent.port(port)));
        }
    }
    for (kind, probe, path) in [
        ("liveness", &agent.container.liveness_probe, "/healthz"),
        ("readiness", &agent.container.readiness_probe, "/readyz"),
    ] {
        let get = probe.as_ref().and_then(|p| p.http_get.as_ref());
        // Beside a store readiness would be the store's, too.
        if agent.deployment.is_none() && kind == "readiness" && probe.is_none() {
            continue;
        }
        let right = get.is_some_and(|g| {
            g.path.as_deref() == Some(path) && g.port == IntOrString::String(probes.to_owned()) && g.scheme.is_none()
        });
        if !right || !admin.contains(&format!("route(\"{path}\"")) {
            say(format!("its {kind} probe is not one that the agent answers"));
        }
    }
    let callers = agent.told("KEEPSAKE_ALLOW").split(',').filter_map(|a| a.split_once('='));
    if let Some((role, caller)) = callers.into_iter().find(|(_, caller)| *caller != COORDINATOR) {
        say(format!("lets {caller} {role}, and the coordinator is {COORDINATOR}"));
    }
    let services = objects.services.iter().filter_map(|s| s.spec.as_ref()?.selector.as_ref());
    if services.filter(|selector| within(selector, &agent.labels)).count() != 1 {
        say("is not behind exactly one Service".to_owned());
    }
    wrong
}

fn within(some: &BTreeMap<String, String>, all: &BTreeMap<String, String>) -> bool {
    some.iter().all(|(key, value)| all.get(key) == Some(value))
}

fn topology_problems(topology: &Topology, agents: &[Agent<'_>], objects: &Objects) -> Vec<String> {
    let mut wrong = Vec::new();
    let [installation] = topology.installations.as_slice() else { return vec!["not one installation".to_owned()] };
    let mut left: BTreeSet<_> = agents.iter().map(|a| a.told("KEEPSAKE_COMPONENT")).collect();
    for component in &installation.components {
        left.remove(component.name.as_str());
        // The coordinator itself serves the cluster's objects.
        let Some(address) = &component.agent else { continue };
        let found = reached(address, agents, objects);
        let Some(agent) = found else {
            wrong.push(format!("at {address} is no agent of ours"));
            continue;
        };
        if agent.told("KEEPSAKE_COMPONENT") != component.name.as_str()
            || agent.engine() != Some(component.engine.as_str())
        {
            wrong.push(format!("at {address} is {}, not {} by {}", agent.name, component.name, component.engine));
        }
    }
    if asks(objects) != installation.kubernetes.is_some() {
        wrong.push("the coordinator has a token, or a cluster, and not both: another component's topology?".to_owned());
    }
    if installation.all_of_cluster {
        wrong.extend(found_problems(agents, objects));
        left.clear();
    }
    wrong.extend(left.iter().map(|component| format!("{component} has an agent and is not in the topology")));
    for agent in agents {
        if agent.told("KEEPSAKE_INSTALLATION") != installation.name.as_str() {
            wrong.push(format!("{} is of another installation", agent.name));
        }
        if agent.told("KEEPSAKE_REPOSITORY") != topology.repository.url {
            wrong.push(format!("{} has another repository than the topology", agent.name));
        }
        let s3 = &topology.repository.s3;
        let same = |name: &str, own: &Option<String>| agent.told(name) == own.as_deref().unwrap_or_default();
        if !same("KEEPSAKE_S3_ENDPOINT", &s3.endpoint) || !same("KEEPSAKE_S3_REGION", &s3.region) {
            wrong.push(format!("{} reaches the repository in another way than the topology says", agent.name));
        }
    }
    let tls = topology.tls.as_ref();
    let files =
        [tls.map(|t| &t.ca), tls.map(|t| &t.cert), tls.map(|t| &t.key), topology.repository.signing_key.as_ref()];
    let files = files.into_iter().flatten().chain(&topology.repository.s3.credentials);
    let mounts: Vec<_> = objects
        .pods()
        .iter()
        .filter(|p| p.owner.starts_with("CronJob"))
        .flat_map(|p| {
            p.spec
                .containers
                .iter()
                .flat_map(|c| c.volume_mounts.iter().flatten())
                .map(|m| m.mount_path.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    for file in files {
        if !mounts.iter().any(|m| file.starts_with(m)) {
            wrong.push(format!("the coordinator's {} is on none of its volumes", file.display()));
        }
    }
    wrong
}

/// What is wrong with agents that are to be found: each by its component's Service, each of the engine that goes by its name, and one for every store.
fn found_problems(agents: &[Agent<'_>], objects: &Objects) -> Vec<String> {
    let mut wrong = Vec::new();
    for agent in agents {
        let component = agent.told("KEEPSAKE_COMPONENT");
        let by_name = STORES.iter().find(|(name, _)| *name == component).map(|(_, engine)| *engine);
        if by_name.is_none() || by_name != agent.engine() {
            wrong.push(format!("{component} by {:?} would not be found: its name tells {by_name:?}", agent.engine()));
        }
        let address = format!("https://keepsake-{component}:9090");
        if reached(&address, agents, objects).is_none_or(|found| found.name != agent.name) {
            wrong.push(format!("{component} is not found by its Service"));
        }
    }
    let has = |name: &str| agents.iter().any(|a| a.told("KEEPSAKE_COMPONENT") == name);
    let system = STORES.iter().filter(|(name, _)| name.starts_with("system-") && has(name));
    let databases = system.filter(|(name, engine)| *engine != "files" && *name != "system-redis").count();
    let others = ["backend-redis", "system-redis", "zync-database", "system-storage"].iter().filter(|n| !has(n));
    wrong.extend(others.map(|name| format!("{name} is looked for, and has no agent")));
    if databases != 1 {
        wrong.push(format!("System has {databases} databases with an agent"));
    }
    if !asks(objects) {
        wrong.push("the coordinator cannot ask the API server where its agents are".to_owned());
    }
    wrong
}

/// Whether the coordinator has a token for the API server.
fn asks(objects: &Objects) -> bool {
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let pods = objects.pods();
    let mut coordinators = pods.iter().filter(|p| p.owner.starts_with("CronJob"));
    coordinators
        .all(|p| p.spec.containers.iter().flat_map(|c| c.volume_mounts.iter().flatten()).any(|m| m.mount_path == token))
}

/// The agent behind an address.
fn reached<'a, 'o>(address: &str, agents: &'a [Agent<'o>], objects: &Objects) -> Option<&'a Agent<'o>> {
    let (host, port) = address.strip_prefix("https://")?.split_once(':')?;
    let service = objects.services.iter().find(|s| s.metadata.name.as_deref() == Some(host))?.spec.as_ref()?;
    // An agent whose store is down must be reached: it says what is wrong.
    service.publish_not_ready_addresses.filter(|p| *p)?;
    let port = service.ports.iter().flatten().find(|p| p.port.to_string() == port)?;
    agents.iter().find(|agent| {
        let [name, _] = agent.ports();
        within(service.selector.as_ref().expect("a selector"), &agent.labels)
            && port.target_port == Some(IntOrString::String(name.to_owned()))
            && agent.port(name).is_some()
    })
}

/// The certificates of cert-manager are those that are mounted, with the names that are asked for.
pub(super) fn certificate_problems(objects: &Objects, certificates: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let made: BTreeMap<&str, &Value> = certificates
        .iter()
        .filter(|c| text(c, "/kind") == "Certificate")
        .map(|c| (text(c, "/spec/secretName"), c))
        .collect();
    let mut needed = Vec::new();
    for pod in objects.pods() {
        let secrets = pod.spec.volumes.iter().flatten().filter(|v| v.name == "tls").filter_map(|v| v.secret.as_ref());
        for name in secrets.filter_map(|s| s.secret_name.as_deref()) {
            let component = pod.labels.get("keepsake/component");
            let wanted = match pod.labels.get("app.kubernetes.io/name").map(String::as_str) {
                // The Service's own name, which is what an API server calls.
                Some(WEBHOOK) => format!("{WEBHOOK}.3scale.svc"),
                _ => component.map_or(COORDINATOR.to_owned(), |c| format!("{c}.prod")),
            };
            needed.push((pod.owner.clone(), name.to_owned(), wanted));
        }
    }
    needed.extend(
        objects
            .sidecars
            .iter()
            .map(|s| (format!("sidecar {}", s.component), s.certificate().to_owned(), format!("{}.prod", s.component))),
    );
    for (owner, name, wanted) in needed {
        let Some(certificate) = made.get(name.as_str()) else {
            wrong.push(format!("{owner}: nothing makes {name}"));
            continue;
        };
        let usages = ["server auth", "client auth"]
            .map(|u| certificate["spec"]["usages"].as_array().is_some_and(|all| all.iter().any(|one| one == u)));
        let right = [true, !wanted.starts_with(WEBHOOK)];
        if certificate["spec"]["dnsNames"] != serde_json::json!([wanted]) || usages != right {
            wrong.push(format!("{name} is not for {wanted}, to serve and to call"));
        }
    }
    wrong
}
