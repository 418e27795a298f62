//! A hold over gRPC: one stream on a connection of its own. When it is dropped, the agent hears the caller hang up and lets writes go on.

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, RunKey, StepId};
use keepsake_proto::client::{CALL, Dialer};
use keepsake_proto::convert;
use keepsake_proto::status::from_status;
use keepsake_proto::v1::{self, hold_request::Ask, hold_response::Told};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::fleet::Hold;

/// The step that a hold belongs to at an agent; it is no operation and is never attached to.
const STEP: &str = "cut";
/// What an answer may take beside the work that was asked for.
const ON_THE_WAY: Duration = Duration::from_millis(300);

/// A hold at one agent.
pub(super) struct GrpcHold {
    asks: mpsc::Sender<v1::HoldRequest>,
    answers: Streaming<v1::HoldResponse>,
    lease: Duration,
}

impl GrpcHold {
    pub(super) async fn prepare(dialer: &Dialer, component: &Component, run: &RunKey) -> Result<Self> {
        let mut client = dialer.client_of_its_own()?;
        let (asks, requests) = mpsc::channel(1);
        let prepare = v1::HoldPrepare {
            key: Some(convert::key_to_wire(run, &StepId::new(STEP)?)),
            component: component.to_string(),
        };
        // Before the call: an agent answers with its head only when it has something to read.
        send(&asks, Ask::Prepare(prepare)).await?;
        let answers = tokio::time::timeout(CALL, client.hold(ReceiverStream::new(requests)))
            .await
            .map_err(|_| Error::new(Kind::Timeout, format!("the agent did not answer within {CALL:?}")))?
            .map_err(|s| from_status(&s))?
            .into_inner();
        let mut hold = Self { asks, answers, lease: Duration::ZERO };
        match hold.answer(CALL).await? {
            Told::Ready(_) => Ok(hold),
            other => Err(out_of_order(&other)),
        }
    }

    async fn ask(&mut self, ask: Ask, patience: Duration) -> Result<Told> {
        send(&self.asks, ask).await?;
        self.answer(patience).await
    }

    async fn answer(&mut self, patience: Duration) -> Result<Told> {
        let answer = tokio::time::timeout(patience, self.answers.message())
            .await
            .map_err(|_| Error::new(Kind::Timeout, format!("the agent did not answer within {patience:?}")))?
            .map_err(|s| from_status(&s))?
            .and_then(|a| a.told);
        match answer {
            Some(Told::Failed(failure)) => Err(Error::from(convert::failure_from_wire(failure))),
            Some(told) => Ok(told),
            None => Err(Error::new(Kind::Unavailable, "the agent ended the hold")),
        }
    }
}

async fn send(asks: &mpsc::Sender<v1::HoldRequest>, ask: Ask) -> Result<()> {
    let gone = |_| Error::new(Kind::Unavailable, "the agent ended the hold");
    asks.send(v1::HoldRequest { ask: Some(ask) }).await.map_err(gone)
}

fn out_of_order(told: &Told) -> Error {
    Error::new(Kind::Internal, format!("the agent answered out of order: {told:?}"))
}

#[async_trait]
impl Hold for GrpcHold {
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<String> {
        let millis = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        self.lease = lease;
        let ask = Ask::Take(v1::HoldTake { budget_ms: millis(budget), lease_ms: millis(lease) });
        match self.ask(ask, budget + ON_THE_WAY).await? {
            Told::Taken(taken) => Ok(taken.token),
            other => Err(out_of_order(&other)),
        }
    }

    async fn renew(&mut self) -> Result<()> {
        match self.ask(Ask::Renew(v1::HoldRenew {}), self.lease).await? {
            Told::Unbroken(_) => Ok(()),
            other => Err(out_of_order(&other)),
        }
    }

    async fn release(&mut self) -> Result<Duration> {
        match self.ask(Ask::Release(v1::HoldRelease {}), self.lease).await? {
            Told::Released(released) => Ok(Duration::from_micros(released.held_us)),
            other => Err(out_of_order(&other)),
        }
    }
}
