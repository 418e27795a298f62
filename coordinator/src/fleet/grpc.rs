//! The agents over gRPC.
//!
//! A lost connection is not a failed operation: starting again attaches, watching again goes on. Only an agent that cannot be reached for a
//! while, or that has forgotten the operation because it was restarted, fails a step.

mod config;
mod hold;
mod operation;
mod paths;

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Component, EngineName, Installation, RunId, RunKey, SetId};
use keepsake_core::queues::Waiting;
use keepsake_core::record::DumpRecord;
use keepsake_core::repository::writer::Place;
use keepsake_proto::client::Dialer;
use keepsake_proto::convert;
use keepsake_proto::tls::peer_certificate;
use keepsake_proto::v1::{self, watch_response::Event};

use self::operation::{Start, Told};
use super::config::{ConfigChanges, ConfigCompared, ConfigOrder, Differences};
use super::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey, Opening, Paths};
use crate::inventory::{Found, Staged};
use crate::topology::{InstallationSettings, TlsFiles};

/// The agents of one installation.
#[derive(Debug)]
pub struct GrpcFleet {
    installation: Installation,
    agents: BTreeMap<Component, Dialer>,
}

/// What `doctor` wants to know.
#[derive(Debug)]
pub struct Seen {
    /// What the agent says of its component.
    pub found: Found,
    /// The agent's clock.
    pub clock: Option<Timestamp>,
    /// Why the agent cannot write to its repository, if so.
    pub cannot_store: Option<String>,
    /// When the certificate that the agent showed expires.
    pub certificate_expires: Option<Timestamp>,
}

impl GrpcFleet {
    /// Dials nobody yet.
    ///
    /// # Errors
    /// An address is refused: in the clear outside loopback, or TLS without certificates.
    pub fn new(settings: &InstallationSettings, tls: Option<&TlsFiles>) -> Result<Self> {
        let files =
            tls.map(|t| keepsake_proto::tls::TlsFiles { ca: t.ca.clone(), cert: t.cert.clone(), key: t.key.clone() });
        let mut agents = BTreeMap::new();
        for component in &settings.components {
            let Some(agent) = &component.agent else { continue };
            // The name in the certificate tells component and installation, so no address, however wrong, reaches another store.
            let name = format!("{}.{}", component.name, settings.name);
            let dialer = Dialer::new(agent, &name, files.clone())
                .with_context(|| format!("component {} of {}", component.name, settings.name))?;
            agents.insert(component.name.clone(), dialer);
        }
        Ok(Self { installation: settings.name.clone(), agents })
    }

    fn dialer(&self, component: &Component) -> Result<&Dialer> {
        self.agents
            .get(component)
            .ok_or_else(|| Error::new(Kind::Internal, format!("component {component} is not in the topology")))
    }

    fn place(&self, component: &Component, set: SetId) -> Place {
        Place { installation: self.installation.clone(), set, component: component.clone() }
    }

    async fn ask(&self, component: &Component, what: v1::DescribeRequest) -> Result<v1::DescribeResponse> {
        let dialer = self.dialer(component)?;
        let mut client = dialer.client()?;
        let mut request = tonic::Request::new(what);
        request.set_timeout(keepsake_proto::client::CALL);
        let answer = operation::answered(client.describe(request)).await;
        let answer = answer.with_context(|| format!("ask the agent of {component} at {}", dialer.host_and_port()))?;
        let answer = answer.into_inner();
        if answer.component != component.as_str() || answer.installation != self.installation.as_str() {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "at {} is the agent of {} of {}, not of {component} of {}: correct the topology or, where agents are found by labels, the labels or KEEPSAKE_COMPONENT and \
                     KEEPSAKE_INSTALLATION of that pod",
                    dialer.host_and_port(),
                    answer.component,
                    answer.installation,
                    self.installation
                ),
            ));
        }
        Ok(answer)
    }

    /// Asks an agent everything that `doctor` wants to know.
    ///
    /// # Errors
    /// The agent cannot be reached or refuses.
    pub async fn examine(&self, component: &Component) -> Result<Seen> {
        let answer = self.ask(component, v1::DescribeRequest { probe_repository: true, ready_to_hold: false }).await?;
        let clock = answer.now.as_ref().map(convert::timestamp_from_wire).transpose()?;
        let cannot_store = (!answer.cannot_store.is_empty()).then(|| answer.cannot_store.clone());
        let dialer = self.dialer(component)?;
        let certificate_expires = match dialer.tls() {
            None => None,
            Some(files) => {
                let der = peer_certificate(files, dialer.host_and_port(), dialer.name()).await?;
                let (_, certificate) = x509_parser::parse_x509_certificate(&der)
                    .map_err(|e| Error::caused(Kind::Internal, "read the agent's certificate", e))?;
                Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
            }
        };
        Ok(Seen { found: found(answer)?, clock, cannot_store, certificate_expires })
    }
}

fn found(answer: v1::DescribeResponse) -> Result<Found> {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let loads = answer.loads.iter().map(load_state).collect::<Result<_>>()?;
    Ok(Found {
        engine: EngineName::new(answer.engine)?,
        server: answer.server,
        agent_version: answer.agent_version,
        size: answer.size_bytes,
        facts: answer.facts.into_iter().collect(),
        problems: answer.problems,
        cannot_undo: some(answer.cannot_undo),
        cannot_load: some(answer.cannot_load),
        in_place_is_whole: answer.in_place_is_whole,
        in_place_is_told: answer.in_place_is_told,
        cannot_hold: some(answer.cannot_hold),
        staging_free: answer.staging_free_bytes,
        loads,
    })
}

fn load_state(load: &v1::LoadState) -> Result<(RunId, Staged)> {
    let staged = match load.staged() {
        v1::Staged::Partial => Staged::Partial,
        v1::Staged::Staged => Staged::Staged,
        v1::Staged::Committing => Staged::Committing,
        v1::Staged::Committed => Staged::Committed,
        v1::Staged::Unspecified => Staged::Unknown,
    };
    Ok((load.run.parse()?, staged))
}

fn start_dump(order: &DumpOrder<'_>) -> Start {
    Start::Dump(v1::StartDumpRequest {
        key: Some(convert::key_to_wire(&order.key.run, &order.key.step)),
        component: order.component.to_string(),
        set: order.set.to_string(),
        sealing: Some(convert::sealing_to_wire(order.sealing)),
        hold: order.hold.unwrap_or_default().to_owned(),
    })
}

fn unexpected(what: &str) -> Error {
    Error::new(Kind::Internal, format!("the agent reported something else than {what}"))
}

#[async_trait]
impl Fleet for GrpcFleet {
    async fn describe(&self, component: &Component) -> Result<Found> {
        found(self.ask(component, v1::DescribeRequest::default()).await?)
    }

    async fn ready_to_hold(&self, component: &Component) -> Result<Option<String>> {
        let what = v1::DescribeRequest { probe_repository: false, ready_to_hold: true };
        let why = self.ask(component, what).await?.not_ready_to_hold;
        Ok((!why.is_empty()).then_some(why))
    }

    async fn prepare_hold(&self, component: &Component, run: &RunKey) -> Result<Box<dyn Hold>> {
        let held = hold::GrpcHold::prepare(self.dialer(component)?, component, run).await;
        Ok(Box::new(held.with_context(|| format!("prepare to hold {component}"))?))
    }

    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()> {
        let opened = self.start_and_await_snapshot(order.component, &order.key, &start_dump(order)).await;
        opened.with_context(|| format!("open the snapshot of {}", order.component))
    }

    async fn dump(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord> {
        let told = self.operate(order.component, &order.key, &start_dump(order), progress).await?;
        self.dump_record(order.component, order.set, told)
    }

    async fn stage(&self, order: &LoadOrder<'_>, progress: OnProgress<'_>) -> Result<LoadReport> {
        let component = &order.entry.component;
        let dump = order
            .entry
            .dump
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Internal, format!("{component} has no dump in the set")))?;
        let place = self.place(component, order.set);
        let identity = match order.opening {
            Opening::Age(identity) => Some(identity),
            Opening::None => None,
        };
        let request = v1::StartLoadRequest {
            key: Some(convert::key_to_wire(&order.key.run, &order.key.step)),
            component: component.to_string(),
            set: order.set.to_string(),
            unsealing: Some(convert::unsealing_to_wire(identity)),
            report: Some(convert::dump_report_to_wire(&dump.report)),
            artifacts: dump.artifacts.iter().map(|a| convert::artifact_to_wire(&place, a)).collect::<Result<_>>()?,
            queues: convert::queues_to_wire(order.queues),
            in_place: order.in_place,
        };
        match self.operate(component, &order.key, &Start::Load(Box::new(request)), progress).await?.last {
            Event::Staged(report) => {
                Ok(LoadReport { counts: report.counts.into_iter().collect(), warnings: report.warnings })
            }
            _ => Err(unexpected("a stage")),
        }
    }

    async fn commit(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<LoadReport> {
        match self.operate(component, key, &Start::Commit, progress).await?.last {
            Event::Committed(report) => {
                Ok(LoadReport { counts: report.counts.into_iter().collect(), warnings: report.warnings })
            }
            _ => Err(unexpected("a commit")),
        }
    }

    async fn rollback(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()> {
        match self.operate(component, key, &Start::Rollback, progress).await?.last {
            Event::RolledBack(_) => Ok(()),
            _ => Err(unexpected("a rollback")),
        }
    }

    async fn finalize(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()> {
        match self.operate(component, key, &Start::Finalize, progress).await?.last {
            Event::Finalized(_) => Ok(()),
            _ => Err(unexpected("a finalize")),
        }
    }

    async fn paths(&self, component: &Component, key: &OpKey) -> Result<Box<dyn Paths>> {
        self.told_paths(component, key).await
    }

    async fn compare_config(&self, order: &ConfigOrder<'_>, found: &mut dyn Differences) -> Result<ConfigCompared> {
        self.compare(order, found).await
    }

    async fn change_config(&self, order: &ConfigOrder<'_>, durable: bool) -> Result<Box<dyn ConfigChanges>> {
        self.change(order, durable).await
    }

    async fn waiting_jobs(&self, component: &Component) -> Result<Waiting> {
        let dialer = self.dialer(component)?;
        let mut request = tonic::Request::new(v1::WaitingJobsRequest { component: component.to_string() });
        request.set_timeout(keepsake_proto::client::CALL);
        let answer = operation::answered(dialer.client()?.waiting_jobs(request)).await;
        let answer = answer.with_context(|| format!("ask the agent of {component} how many jobs wait"))?.into_inner();
        Ok(Waiting { queues: answer.waiting.into_iter().collect(), failed: answer.failed })
    }

    async fn cancel_run(&self, component: &Component, run: &RunKey) -> Result<usize> {
        let at_work = self.operations(component, run).await?;
        let cancelled = at_work.len();
        for (key, _) in at_work {
            self.cancel(component, &key).await?;
        }
        Ok(cancelled)
    }

    async fn at_work(&self, component: &Component, run: &RunKey) -> Result<Option<String>> {
        Ok(self.operations(component, run).await?.into_iter().next().map(|(_, what)| what))
    }
}

impl GrpcFleet {
    /// The operations of a run that are running at an agent. Whoever takes a run over asks for what was begun before, so epochs are not compared.
    async fn operations(&self, component: &Component, run: &RunKey) -> Result<Vec<(OpKey, String)>> {
        let answer = self.ask(component, v1::DescribeRequest::default()).await?;
        let ours = |operation: v1::OperationStatus| {
            let (theirs, step) = convert::key_from_wire(operation.key).ok()?;
            let ours = theirs.run == run.run && theirs.installation == run.installation;
            ours.then_some((OpKey { run: theirs, step }, operation.what))
        };
        Ok(answer.operations.into_iter().filter_map(ours).collect())
    }

    fn dump_record(&self, component: &Component, set: SetId, told: Told) -> Result<DumpRecord> {
        let Event::Dumped(done) = told.last else { return Err(unexpected("a dump")) };
        let place = self.place(component, set);
        let mut segments: BTreeMap<String, Vec<v1::Segment>> = BTreeMap::new();
        for batch in told.segments {
            let known = segments.entry(batch.artifact.clone()).or_default();
            if batch.first != known.len() as u64 {
                return Err(Error::new(Kind::Internal, format!("segments of {} came out of order", batch.artifact)));
            }
            known.extend(batch.segments);
        }
        let artifacts = done
            .artifacts
            .into_iter()
            .map(|artifact| {
                let segments = segments.remove(&artifact.artifact).unwrap_or_default();
                convert::artifact_from_parts(&place, artifact, segments)
            })
            .collect::<Result<_>>()?;
        let report = convert::dump_report_from_wire(convert::required(done.report, "report")?)?;
        Ok(DumpRecord { report, artifacts })
    }
}
