//! What each call does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use keepsake_core::clock;
use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt as _};
use keepsake_core::id::{ArtifactName, RunId, SetId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::Failure;
use keepsake_core::repository::probe_put;
use keepsake_core::repository::writer::Place;
use keepsake_proto::convert;
use keepsake_proto::status::to_status;
use keepsake_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Inner;
use crate::config::Role;
use crate::engine::{Context, Staged};
use crate::operation::{Done, Operation};
use crate::storage::{RepositorySink, RepositorySource};
use crate::stream::{WireSink, receive};

/// The datastore is asked for so long; longer is a problem to tell, not a call to fail.
const DESCRIBE: Duration = Duration::from_secs(10);
/// Whether a commit can be undone, when the datastore could not be asked.
const UNKNOWN: &str = "not known: the datastore does not answer";

impl Inner {
    /// `cannot_load`: why the caller may not restore, if so.
    pub(super) async fn describe(
        &self,
        request: v1::DescribeRequest,
        cannot_load: Option<String>,
    ) -> v1::DescribeResponse {
        let mut response = v1::DescribeResponse {
            installation: self.installation.to_string(),
            component: self.component.to_string(),
            engine: self.engine_name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            now: Some(convert::timestamp_to_wire(clock::now())),
            operations: self.table.running().iter().map(|o| status_of(o)).collect(),
            epoch: self.table.epoch().0,
            cannot_load: cannot_load.unwrap_or_default(),
            ..v1::DescribeResponse::default()
        };
        match tokio::time::timeout(DESCRIBE, self.engine.describe()).await {
            Ok(Ok(d)) => {
                response.server = d.server;
                response.tools = d.tools.into_iter().map(|(tool, version)| v1::ToolVersion { tool, version }).collect();
                response.size_bytes = d.size;
                response.position = d.position.unwrap_or_default();
                response.facts = d.facts.into_iter().collect();
                response.problems = d.problems;
                response.cannot_hold = d.hold.err().unwrap_or_default();
                response.cannot_undo = d.undo.err().unwrap_or_default();
                response.in_place_is_whole = d.in_place_is_whole;
                response.in_place_is_told = d.in_place_is_told;
                response.staging_free_bytes = d.staging_free;
                response.loads = d.loads.iter().map(|(run, state)| load_state(*run, *state)).collect();
            }
            Ok(Err(e)) => {
                UNKNOWN.clone_into(&mut response.cannot_undo);
                response.problems.push(e.chain());
            }
            Err(_) => {
                UNKNOWN.clone_into(&mut response.cannot_undo);
                response.problems.push(format!("the datastore did not answer in {DESCRIBE:?}"));
            }
        }
        if request.ready_to_hold {
            let ready = tokio::time::timeout(DESCRIBE, self.engine.ready_to_hold()).await;
            response.not_ready_to_hold = match ready {
                Ok(Ok(why)) => why.unwrap_or_default(),
                Ok(Err(e)) => e.chain(),
                Err(_) => format!("the datastore did not answer in {DESCRIBE:?}"),
            };
        }
        if request.probe_repository {
            let probe = async { probe_put(&self.stores()?.put, &self.installation, &self.component).await };
            response.cannot_store = probe.await.err().map(|e| e.chain()).unwrap_or_default();
        }
        response
    }

    pub(super) async fn waiting_jobs(&self, request: v1::WaitingJobsRequest) -> Result<v1::WaitingJobsResponse> {
        self.own(&request.component)?;
        let asked = tokio::time::timeout(DESCRIBE, self.engine.waiting_jobs()).await;
        let waiting = asked.or_kind(Kind::Timeout, format!("the datastore did not answer in {DESCRIBE:?}"))??;
        Ok(v1::WaitingJobsResponse { waiting: waiting.queues.into_iter().collect(), failed: waiting.failed })
    }

    pub(super) async fn start_dump(&self, request: v1::StartDumpRequest) -> Result<bool> {
        let key = self.key(request.key)?;
        self.own(&request.component)?;
        let place = self.place(&request.set)?;
        let sealer = convert::sealer_from_wire(request.sealing)?;
        let (store, engine, budget) = (self.stores()?.put, self.engine.clone(), self.budget.clone());
        let mut what = format!("dump into set {}", place.set);
        if !request.hold.is_empty() {
            what.push_str(" under hold ");
            what.push_str(&request.hold);
        }
        let (holds, run, scratch) = (self.holds.clone(), key.0.clone(), self.scratch.clone());
        let work = move |cx: Context| {
            // Only when it is begun, not when it is attached to.
            let held = (!request.hold.is_empty()).then(|| holds.prepared(&request.hold, &run)).transpose();
            async move {
                let (held, cx) = match held? {
                    Some((prepared, released)) => (Some(prepared), cx.under_hold(released)),
                    None => (None, cx),
                };
                let cx = cx.keeping_paths(&scratch);
                let sink = RepositorySink::new(store, budget, sealer, place.clone());
                // Dropped when cancelled: tools are killed, segments stop, what was stored is a stray.
                let report = cx.unless_cancelled(engine.dump(held, &sink, &cx)).await?;
                let artifacts = sink.records();
                if artifacts.is_empty() {
                    return Err(Error::new(Kind::Internal, "the engine finished no artifact"));
                }
                let paths = cx.paths.finish().map_err(|e| Failure::from(&e));
                Ok(Done::Dumped { place, report: Box::new(report), artifacts, paths })
            }
        };
        self.table.start(key, what, work).await
    }

    pub(super) async fn start_load(&self, request: v1::StartLoadRequest) -> Result<v1::StartLoadResponse> {
        let key = self.key(request.key)?;
        self.own(&request.component)?;
        let place = self.place(&request.set)?;
        let unsealer = convert::unsealer_from_wire(request.unsealing)?;
        let report = convert::dump_report_from_wire(convert::required(request.report, "report")?)?;
        let artifacts = request
            .artifacts
            .into_iter()
            .map(|a| convert::artifact_from_parts(&place, a, Vec::new()))
            .collect::<Result<Vec<_>>>()
            .context("field `artifacts`")?;
        let queues = convert::queues_from_wire(request.queues)?;
        let mut what = match queues {
            QueuePolicy::Restore => format!("stage of set {}", place.set),
            other => format!("stage of set {}, queues: {other}", place.set),
        };
        if request.in_place {
            what.push_str(", in place");
        }
        let source =
            RepositorySource::new(self.stores()?.read, self.budget.clone(), unsealer, place, report, artifacts)
                .with_queues(queues)
                .in_place(request.in_place);
        let (engine, run, streamed) = (self.engine.clone(), key.0.clone(), self.streamed());
        let work = move |cx: Context| async move {
            // Nobody else can, and it would be in the way.
            streamed.settle(engine.as_ref()).await?;
            let stage = engine.stage(&run, Arc::new(source), &cx);
            cx.unless_cancelled(stage).await.map(Done::Staged)
        };
        let attached = self.table.start(key, what, work).await?;
        Ok(v1::StartLoadResponse { attached, queues: convert::queues_to_wire(queues) })
    }

    pub(super) async fn start_commit(&self, key: Option<v1::OperationKey>) -> Result<bool> {
        let key = self.key(key)?;
        let (engine, run) = (self.engine.clone(), key.0.clone());
        // Not dropped half way when cancelled: the engine watches the token itself and decides where it may stop.
        let work = move |cx: Context| async move { engine.commit(&run, &cx).await.map(Done::Committed) };
        self.table.start(key, "commit".to_owned(), work).await
    }

    pub(super) async fn start_rollback(&self, key: Option<v1::OperationKey>) -> Result<bool> {
        let key = self.key(key)?;
        let (engine, run) = (self.engine.clone(), key.0.clone());
        let work = move |cx: Context| async move { engine.rollback(&run, &cx).await.map(|()| Done::RolledBack) };
        self.table.start(key, "rollback".to_owned(), work).await
    }

    pub(super) async fn start_finalize(&self, key: Option<v1::OperationKey>) -> Result<bool> {
        let key = self.key(key)?;
        let (engine, run) = (self.engine.clone(), key.0.clone());
        let work = move |cx: Context| async move { engine.finalize(&run, &cx).await.map(|()| Done::Finalized) };
        self.table.start(key, "finalize".to_owned(), work).await
    }

    /// The role that an operation needed.
    pub(super) fn role_of(&self, key: Option<&v1::OperationKey>) -> Role {
        let operation = self.key(key.cloned()).ok().and_then(|(run, step)| self.table.find(&run, &step));
        match operation {
            Some(o) if o.what.starts_with("dump") => Role::Backup,
            Some(_) => Role::Restore,
            None => Role::Read,
        }
    }

    pub(super) fn cancel(&self, key: Option<v1::OperationKey>) -> Result<v1::CancelResponse> {
        let (run, step) = self.key(key)?;
        let operation = self.table.find(&run, &step).filter(|o| o.is_running());
        if let Some(operation) = &operation {
            operation.cancel();
        }
        Ok(v1::CancelResponse { running: operation.is_some() })
    }

    pub(super) async fn dump(
        &self,
        request: v1::DumpRequest,
    ) -> Result<ReceiverStream<std::result::Result<v1::DumpResponse, tonic::Status>>> {
        let only: Option<ArtifactName> =
            (!request.artifact.is_empty()).then(|| request.artifact.parse()).transpose().context("field `artifact`")?;
        let turn = self.table.turn(None).await?;
        let (parts, receiver) = mpsc::channel(8);
        let (engine, stop) = (self.engine.clone(), self.stop.child_token());
        self.tracker.spawn(async move {
            let _turn = turn;
            let (cx, _progress) = Context::new(stop);
            let sink = WireSink::new(parts.clone(), only);
            let dump = AssertUnwindSafe(cx.unless_cancelled(engine.dump(None, &sink, &cx))).catch_unwind();
            let done = tokio::select! {
                // The caller hung up: the engine is dropped where it is, which kills its tools.
                () = parts.closed() => return,
                // A panic must be told: a stream that merely ends looks like success to tooling that knows only gRPC.
                done = dump => done.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the engine panicked"))),
            };
            let last = match done {
                Ok(report) => {
                    let report = convert::dump_report_to_wire(&report);
                    Ok(v1::DumpResponse { part: Some(v1::dump_response::Part::Report(report)) })
                }
                Err(e) => Err(to_status(&e)),
            };
            let _hung_up = parts.send(last).await;
        });
        Ok(ReceiverStream::new(receiver))
    }

    pub(super) async fn load(&self, stream: Streaming<v1::LoadRequest>) -> Result<v1::LoadResponse> {
        let turn = self.table.turn(None).await?;
        let spool = receive(stream, &self.scratch).await?;
        let (streamed, engine, stop) = (self.streamed(), self.engine.clone(), self.stop.child_token());
        // On a task of its own: a caller that hangs up must not cut a load over live data in half.
        let task = self.tracker.spawn(async move {
            let _turn = turn;
            streamed.load(engine.as_ref(), Arc::new(spool), stop).await
        });
        let report = task.await.map_err(|e| Error::caused(Kind::Internal, "the load ended early", e))??;
        Ok(v1::LoadResponse { report: Some(super::watch::commit_report(&report)) })
    }

    fn place(&self, set: &str) -> Result<Place> {
        let set: SetId = set.parse().context("field `set`")?;
        Ok(Place { installation: self.installation.clone(), set, component: self.component.clone() })
    }
}

fn load_state(run: RunId, staged: Staged) -> v1::LoadState {
    let staged = match staged {
        Staged::Absent => v1::Staged::Unspecified,
        Staged::Partial => v1::Staged::Partial,
        Staged::Staged => v1::Staged::Staged,
        Staged::Committing => v1::Staged::Committing,
        Staged::Committed => v1::Staged::Committed,
    };
    v1::LoadState { run: run.to_string(), staged: staged.into() }
}

fn status_of(operation: &Operation) -> v1::OperationStatus {
    v1::OperationStatus {
        key: Some(convert::key_to_wire(&operation.run, &operation.step)),
        what: operation.what.clone(),
        progress: Some(super::watch::progress(&operation.progress.borrow())),
    }
}
