//! The gRPC service: admit, convert, delegate, answer. No logic of its own.

mod calls;
mod config;
mod expected;
mod hold;
mod paths;
mod streamed;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, Installation, RunKey, StepId};
use keepsake_core::repository::Budget;
use keepsake_proto::status::to_status;
use keepsake_proto::{convert, v1};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::audit::Gate;
use crate::config::{Role, Stores};
use crate::engine::Engine;
use crate::hold::Holds;
use crate::operation::Table;

/// Everything that answers.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) installation: Installation,
    pub(crate) component: Component,
    pub(crate) engine_name: String,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) gate: Gate,
    pub(crate) table: Arc<Table>,
    pub(crate) holds: Holds,
    pub(crate) stores: Option<Stores>,
    pub(crate) budget: Budget,
    pub(crate) scratch: PathBuf,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Inner {
    /// The key of a request, which must be about this agent's installation.
    fn key(&self, key: Option<v1::OperationKey>) -> Result<(RunKey, StepId)> {
        let (run, step) = convert::key_from_wire(key)?;
        if run.installation != self.installation {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "this agent belongs to installation {}, the call is about {}",
                    self.installation, run.installation
                ),
            ));
        }
        Ok((run, step))
    }

    /// A request must name this agent's component.
    fn own(&self, component: &str) -> Result<()> {
        if component == self.component.as_str() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Invalid,
            format!("this agent stands beside {}, the call is about {component:?}", self.component),
        ))
    }

    fn stores(&self) -> Result<Stores> {
        self.stores
            .clone()
            .ok_or_else(|| Error::new(Kind::Invalid, "this agent has no repository: start it with --repository"))
    }
}

/// What a request is about, for the audit log.
fn about(key: Option<&v1::OperationKey>) -> String {
    key.map_or_else(String::new, |k| format!("{}/{} {}", k.installation, k.epoch, k.step))
}

impl Service {
    /// One call: admit the caller, answer, write one line of audit.
    async fn answer<T, R>(
        &self,
        call: &str,
        role: Role,
        request: Request<T>,
        about: impl FnOnce(&T) -> String,
        work: impl AsyncFnOnce(&Inner, T) -> Result<R>,
    ) -> std::result::Result<Response<R>, Status> {
        let caller = self.0.gate.admit(&request, role, call).map_err(|e| to_status(&e))?;
        let request = request.into_inner();
        let about = about(&request);
        let done = work(&self.0, request).await;
        caller.log(call, &about, done.as_ref().map(|_| ()));
        done.map(Response::new).map_err(|e| to_status(&e))
    }
}

#[tonic::async_trait]
impl v1::agent_server::Agent for Service {
    type WatchStream = ReceiverStream<std::result::Result<v1::WatchResponse, Status>>;
    type PathsStream = ReceiverStream<std::result::Result<v1::PathsResponse, Status>>;
    type HoldStream = ReceiverStream<std::result::Result<v1::HoldResponse, Status>>;
    type DumpStream = ReceiverStream<std::result::Result<v1::DumpResponse, Status>>;
    type ConfigExpectedStream = ReceiverStream<std::result::Result<v1::ConfigExpectedResponse, Status>>;
    type ConfigCompareStream = ReceiverStream<std::result::Result<v1::ConfigCompareResponse, Status>>;
    type ConfigApplyStream = ReceiverStream<std::result::Result<v1::ConfigApplyResponse, Status>>;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> std::result::Result<Response<v1::DescribeResponse>, Status> {
        let cannot_load = self.0.gate.cannot_restore(&request);
        let work = async move |inner: &Inner, r| Ok(inner.describe(r, cannot_load).await);
        self.answer("Describe", Role::Read, request, |_| String::new(), work).await
    }

    async fn hold(
        &self,
        request: Request<Streaming<v1::HoldRequest>>,
    ) -> std::result::Result<Response<Self::HoldStream>, Status> {
        let inner = self.0.clone();
        self.answer("Hold", Role::Backup, request, |_| String::new(), async move |_, r| Ok(inner.hold(r))).await
    }

    async fn waiting_jobs(
        &self,
        request: Request<v1::WaitingJobsRequest>,
    ) -> std::result::Result<Response<v1::WaitingJobsResponse>, Status> {
        let about = |r: &v1::WaitingJobsRequest| r.component.clone();
        self.answer("WaitingJobs", Role::Read, request, about, async |inner, r| inner.waiting_jobs(r).await).await
    }

    async fn start_dump(
        &self,
        request: Request<v1::StartDumpRequest>,
    ) -> std::result::Result<Response<v1::StartDumpResponse>, Status> {
        self.answer(
            "StartDump",
            Role::Backup,
            request,
            |r| about(r.key.as_ref()),
            async |inner, r| inner.start_dump(r).await.map(|attached| v1::StartDumpResponse { attached }),
        )
        .await
    }

    async fn start_load(
        &self,
        request: Request<v1::StartLoadRequest>,
    ) -> std::result::Result<Response<v1::StartLoadResponse>, Status> {
        self.answer(
            "StartLoad",
            Role::Restore,
            request,
            |r| about(r.key.as_ref()),
            async |inner, r| inner.start_load(r).await,
        )
        .await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> std::result::Result<Response<v1::CommitResponse>, Status> {
        self.answer(
            "Commit",
            Role::Restore,
            request,
            |r| about(r.key.as_ref()),
            async |inner, r| inner.start_commit(r.key).await.map(|attached| v1::CommitResponse { attached }),
        )
        .await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> std::result::Result<Response<v1::RollbackResponse>, Status> {
        self.answer(
            "Rollback",
            Role::Restore,
            request,
            |r| about(r.key.as_ref()),
            async |inner, r| inner.start_rollback(r.key).await.map(|attached| v1::RollbackResponse { attached }),
        )
        .await
    }

    async fn finalize(
        &self,
        request: Request<v1::FinalizeRequest>,
    ) -> std::result::Result<Response<v1::FinalizeResponse>, Status> {
        self.answer(
            "Finalize",
            Role::Restore,
            request,
            |r| about(r.key.as_ref()),
            async |inner, r| inner.start_finalize(r.key).await.map(|attached| v1::FinalizeResponse { attached }),
        )
        .await
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> std::result::Result<Response<Self::WatchStream>, Status> {
        // Whoever may start an operation may watch it; its report tells no data, so the lesser of the two roles is enough.
        self.answer("Watch", Role::Read, request, |r| about(r.key.as_ref()), async |inner, r| inner.watch(r.key)).await
    }

    async fn paths(
        &self,
        request: Request<v1::PathsRequest>,
    ) -> std::result::Result<Response<Self::PathsStream>, Status> {
        self.answer("Paths", Role::Backup, request, |r| about(r.key.as_ref()), async |inner, r| inner.paths(r.key))
            .await
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> std::result::Result<Response<v1::CancelResponse>, Status> {
        let role = self.0.role_of(request.get_ref().key.as_ref());
        self.answer("Cancel", role, request, |r| about(r.key.as_ref()), async |inner, r| inner.cancel(r.key)).await
    }

    async fn dump(&self, request: Request<v1::DumpRequest>) -> std::result::Result<Response<Self::DumpStream>, Status> {
        self.answer("Dump", Role::Restore, request, |r| r.artifact.clone(), async |inner, r| inner.dump(r).await).await
    }

    async fn load(
        &self,
        request: Request<Streaming<v1::LoadRequest>>,
    ) -> std::result::Result<Response<v1::LoadResponse>, Status> {
        self.answer("Load", Role::Restore, request, |_| String::new(), async |inner, r| inner.load(r).await).await
    }

    async fn config_expected(
        &self,
        request: Request<v1::ConfigExpectedRequest>,
    ) -> std::result::Result<Response<Self::ConfigExpectedStream>, Status> {
        let inner = self.0.clone();
        let work = async move |_: &Inner, r| inner.config_expected(r);
        self.answer("ConfigExpected", Role::Restore, request, |_| String::new(), work).await
    }

    async fn config_compare(
        &self,
        request: Request<Streaming<v1::ConfigCompareRequest>>,
    ) -> std::result::Result<Response<Self::ConfigCompareStream>, Status> {
        let inner = self.0.clone();
        let work = async move |_: &Inner, r| Ok(inner.config_compare(r));
        self.answer("ConfigCompare", Role::Restore, request, |_| String::new(), work).await
    }

    async fn config_apply(
        &self,
        request: Request<Streaming<v1::ConfigApplyRequest>>,
    ) -> std::result::Result<Response<Self::ConfigApplyStream>, Status> {
        let inner = self.0.clone();
        let work = async move |_: &Inner, r| Ok(inner.config_apply(r));
        self.answer("ConfigApply", Role::Restore, request, |_| String::new(), work).await
    }
}
