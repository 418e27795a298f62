//! Whether a backup would work: everything is asked, nothing is changed but a probe in the repository.

use futures_util::future::join_all;
use jiff::Timestamp;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::{Component, Installation};
use keepsake_core::repository::{Store, layout, probe_create_only};
use serde::Serialize;

use crate::app::App;
use crate::fleet::Fleet;
use crate::fleet::grpc::GrpcFleet;
use crate::fleet::whole::WholeFleet;
use crate::plan::backup::is_held;
use crate::platform::kubernetes::Kubernetes;
use crate::platform::kubernetes::agents::{Expect, Place, Sought};
use crate::topology::kubernetes::By;
use crate::topology::{ComponentSettings, Consistency, InstallationSettings};

/// A clock that differs by more is a finding: certificates and listings go by clocks.
const CLOCK_SECONDS: i64 = 30;
/// A certificate that expires sooner is a finding.
const CERTIFICATE_DAYS: i64 = 14;

/// One thing looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What: `repository`, or `installation/component`.
    pub what: String,
    /// What was looked at.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found, in words.
    pub found: String,
}

impl Finding {
    fn of(what: &str, check: &'static str, done: Result<String>) -> Self {
        let (good, found) = match done {
            Ok(found) => (true, found),
            Err(e) => (false, e.chain()),
        };
        Self { what: what.to_owned(), check, good, found }
    }

    fn bad(what: &str, check: &'static str, found: String) -> Self {
        Self { what: what.to_owned(), check, good: false, found }
    }

    fn good(what: &str, check: &'static str, found: String) -> Self {
        Self { what: what.to_owned(), check, good: true, found }
    }
}

/// Looks at the repository: trust, signing key, create-only.
pub async fn repository(app: &App) -> Vec<Finding> {
    let what = "repository";
    let mut findings = Vec::new();
    match app.repository().await {
        Ok(repository) => {
            findings.push(Finding::good(
                what,
                "trust",
                format!("{} is what is trusted", repository.config().repository),
            ));
            let signer = app.signing_key().map(|key| {
                let print = key.public().fingerprint();
                (repository.keys().signers.contains(&key.public()), print)
            });
            findings.push(match signer {
                Ok((true, print)) => Finding::good(what, "signing key", print),
                Ok((false, print)) => {
                    Finding::bad(what, "signing key", format!("{print} is not a signer of this repository"))
                }
                Err(e) => Finding::bad(what, "signing key", e.chain()),
            });
        }
        Err(e) => findings.push(Finding::bad(what, "trust", e.chain())),
    }
    let probe = async {
        let probe = probe_create_only(&app.store()?).await?;
        Ok(match probe.left {
            None => format!("of {} creates of one key at the same moment one won", probe.creates),
            Some(key) => format!("of {} creates one won; the probe {key} could not be removed", probe.creates),
        })
    };
    findings.push(Finding::of(what, "create-only", probe.await));
    findings
}

/// Looks at an installation: the cluster that it runs on, if there is one, and every agent.
pub async fn installation(app: &App, settings: &InstallationSettings) -> Vec<Finding> {
    let mut findings = cluster(settings).await;
    let known = match whereabouts(settings).await {
        Ok((known, told)) => {
            findings.extend(told);
            known
        }
        Err(e) => {
            findings.push(Finding::bad(settings.name.as_str(), "agents", e.chain()));
            // What has an address is looked at all the same.
            settings.with_agents(Vec::new())
        }
    };
    let settings = &known;
    match app.fleet(settings) {
        Ok(fleet) => {
            let served = settings.components.iter().filter(|c| c.agent.is_some());
            let store = app.store();
            let components = served.map(|c| component(fleet.agents(), &store, settings, c));
            findings.extend(join_all(components).await.concat());
            for alone in settings.components.iter().filter(|c| c.is_of_the_cluster()) {
                findings.extend(objects(&fleet, settings, alone).await);
            }
        }
        Err(e) => findings.push(Finding::bad(settings.name.as_str(), "certificates", e.chain())),
    }
    findings
}

/// Where the agents are that the topology gives no address, and the installation with those that are found and reached.
async fn whereabouts(settings: &InstallationSettings) -> Result<(InstallationSettings, Vec<Finding>)> {
    let Some(kubernetes) = settings.kubernetes.as_ref().filter(|_| !settings.is_complete()) else {
        return Ok((settings.clone(), Vec::new()));
    };
    let cluster = Kubernetes::new(kubernetes.clone());
    let is_inside = cluster.is_inside().await?;
    let agents = Box::pin(cluster.find_agents(settings, Expect::All)).await?;
    let mut findings = Vec::new();
    let mut found = Vec::new();
    for Sought { component, engine, found: place } in agents.sought {
        let what = format!("{}/{component}", settings.name);
        match place {
            Ok(Place { told, not_ready: Some(why), address }) => {
                findings.push(Finding::bad(&what, "agent's pod", format!("{told}, which is not ready: {why}")));
                found.push((component, engine, address));
            }
            Ok(Place { told, not_ready: None, address }) => {
                findings.push(Finding::good(&what, "agent's pod", told));
                found.push((component, engine, address));
            }
            Err(e) => findings.push(Finding::bad(&what, "agent's pod", e.chain())),
        }
    }
    let name = settings.name.as_str();
    findings.extend(agents.problems.iter().map(|e| Finding::bad(name, "agents", e.chain())));
    if !is_inside {
        findings.push(Finding::bad(name, "agents", settings.not_reached_from_outside().chain()));
        found.clear();
    }
    Ok((settings.with_agents(found), findings))
}

async fn cluster(settings: &InstallationSettings) -> Vec<Finding> {
    let Some(kubernetes) = &settings.kubernetes else { return Vec::new() };
    let what = format!("{}/kubernetes", settings.name);
    let examined = Kubernetes::new(kubernetes.clone()).examine().await;
    examined.into_iter().map(|e| Finding::of(&what, e.check, e.found)).collect()
}

/// The cluster's objects, which no agent serves.
async fn objects(fleet: &WholeFleet, settings: &InstallationSettings, component: &ComponentSettings) -> Vec<Finding> {
    let what = format!("{}/{}", settings.name, component.name);
    match fleet.describe(&component.name).await {
        Ok(found) if found.problems.is_empty() => {
            let mut findings = vec![Finding::good(&what, "objects", found.server)];
            if settings.kubernetes.as_ref().is_some_and(|k| k.by != By::None) {
                let allowed = fleet.may_write_objects().await.map(|()| "a restore may write them".to_owned());
                findings.push(Finding::of(&what, "objects", allowed));
            }
            findings
        }
        Ok(found) => found.problems.into_iter().map(|p| Finding::bad(&what, "objects", p)).collect(),
        Err(e) => vec![Finding::bad(&what, "objects", e.chain())],
    }
}

async fn component(
    fleet: &GrpcFleet,
    store: &Result<Store>,
    settings: &InstallationSettings,
    component: &ComponentSettings,
) -> Vec<Finding> {
    let what = format!("{}/{}", settings.name, component.name);
    let seen = match fleet.examine(&component.name).await {
        Ok(seen) => seen,
        Err(e) => {
            let address = component.agent.as_deref().unwrap_or_default();
            let must = if address.starts_with("https://") {
                format!(" (at {address}; its certificate must carry {}.{})", component.name, settings.name)
            } else {
                String::new()
            };
            return vec![Finding::bad(&what, "agent", format!("{}{must}", e.chain()))];
        }
    };
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![if seen.found.agent_version == ours {
        Finding::good(&what, "agent", format!("version {ours} at {}", component.agent.as_deref().unwrap_or_default()))
    } else {
        Finding::bad(
            &what,
            "agent",
            format!("version {}, this coordinator has {ours}: use the same", seen.found.agent_version),
        )
    }];
    if seen.found.engine != component.engine {
        let found =
            format!("it serves {}; by the topology, or by its name, it is {}", seen.found.engine, component.engine);
        findings.push(Finding::bad(&what, "engine", found));
    }
    if seen.found.problems.is_empty() {
        findings.push(Finding::good(&what, "server", seen.found.server.clone()));
    }
    findings.extend(seen.found.problems.iter().map(|p| Finding::bad(&what, "server", p.clone())));
    if settings.consistency != Consistency::None && is_held(&component.engine) {
        findings.push(match (&seen.found.cannot_hold, settings.consistency) {
            (None, _) => Finding::good(&what, "cut", "its writes can be held".to_owned()),
            (Some(why), Consistency::Required) => {
                Finding::bad(&what, "cut", format!("no set without a cut, and {why}"))
            }
            (Some(why), _) => Finding::good(&what, "cut", format!("not possible, so sets have none: {why}")),
        });
    }
    if let Some(clock) = seen.clock {
        let seconds = clock::now().duration_since(clock).as_secs();
        let found = format!("{seconds} s behind this machine's");
        findings.push(if seconds.abs() <= CLOCK_SECONDS {
            Finding::good(&what, "clock", found)
        } else {
            Finding::bad(&what, "clock", found)
        });
    }
    // It is so on purpose, until somebody restores.
    findings.push(match &seen.found.cannot_load {
        None => Finding::good(&what, "restore", "may be asked for".to_owned()),
        Some(why) => Finding::good(&what, "restore", format!("not now: {why}")),
    });
    findings.push(match (&seen.cannot_store, store) {
        (Some(why), _) => Finding::bad(&what, "agent's repository", why.clone()),
        (None, Ok(store)) => {
            Finding::of(&what, "agent's repository", is_the_agents(store, &settings.name, &component.name).await)
        }
        // What is wrong with it is told already.
        (None, Err(_)) => Finding::good(&what, "agent's repository", "it can write".to_owned()),
    });
    if let Some(expires) = seen.certificate_expires {
        findings.push(term(&what, expires, "agents take it up without a restart"));
    }
    findings
}

/// What an agent has just stored to see whether it can must be here, too. A probe of an earlier day is taken for one of today: the next backup looks at its dumps.
async fn is_the_agents(store: &Store, installation: &Installation, component: &Component) -> Result<String> {
    let key = layout::agent_probe(installation, component);
    match store.find(&key).await? {
        Some(_) => Ok("it can write, and it is this one".to_owned()),
        None => Err(Error::new(
            Kind::NotFound,
            format!(
                "it can write, and {key} is not in {}: the agent has another repository than this coordinator. Say both the same (KEEPSAKE_REPOSITORY, \
                 KEEPSAKE_S3_ENDPOINT; in a cluster the ConfigMap keepsake-repository), and start the agent again",
                store.url()
            ),
        )),
    }
}

/// How long the coordinator's own certificate is good for; nothing where there is none.
pub fn own_certificate(app: &App) -> Vec<Finding> {
    let Some(tls) = &app.topology.tls else { return Vec::new() };
    let what = "coordinator";
    let read = || {
        let file = &tls.cert;
        let text = std::fs::read(file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
        let told = || format!("{} holds no certificate", file.display());
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).or_kind(Kind::Invalid, told())?;
        let certificate = pem.parse_x509().or_kind(Kind::Invalid, told())?;
        Timestamp::from_second(certificate.validity().not_after.timestamp()).or_kind(Kind::Invalid, told())
    };
    vec![match read() {
        Ok(expires) => term(what, expires, "whatever the coordinator runs as next reads it"),
        Err(e) => Finding::bad(what, "certificate", e.chain()),
    }]
}

/// Whether a certificate is good for a while.
fn term(what: &str, expires: Timestamp, then: &str) -> Finding {
    let days = expires.duration_since(clock::now()).as_hours() / 24;
    let found = format!("expires in {days} days ({expires})");
    if days >= CERTIFICATE_DAYS {
        Finding::good(what, "certificate", found)
    } else {
        Finding::bad(what, "certificate", format!("{found}: issue a new one (the runbook, \"Certificates\"); {then}"))
    }
}
