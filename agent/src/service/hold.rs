//! The call `Hold`: its stream is the hold.

use std::sync::Arc;
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::Failure;
use keepsake_proto::convert;
use keepsake_proto::status::from_status;
use keepsake_proto::v1::{self, hold_request::Ask, hold_response::Told};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Inner;
use crate::hold::{READY_FOR, Session};

/// One word for each stage of a hold, for the audit log.
fn word(told: &Told) -> &'static str {
    match told {
        Told::Ready(_) => "ready to hold",
        Told::Taken(_) => "writes are held",
        Told::Unbroken(_) => "the hold is unbroken",
        Told::Released(_) => "writes go on",
        Told::Failed(_) => "the hold failed",
    }
}

type Answer = std::result::Result<v1::HoldResponse, Status>;

impl Inner {
    pub(super) fn hold(self: &Arc<Self>, mut requests: Streaming<v1::HoldRequest>) -> ReceiverStream<Answer> {
        let (answers, receiver) = mpsc::channel(4);
        let inner = self.clone();
        self.tracker.spawn(async move {
            let mut session = None;
            let end = tokio::select! {
                end = inner.converse(&mut requests, &answers, &mut session) => end,
                () = inner.stop.cancelled() => Err(Error::new(Kind::Cancelled, "the agent is stopping")),
                () = answers.closed() => Err(Error::new(Kind::Cancelled, "the caller hung up")),
            };
            // However it ended: nobody is left waiting.
            if let Some(session) = &mut session
                && let Err(e) = session.release().await
            {
                tracing::warn!("release a hold: {}; it ends by itself when its lease is over", e.chain());
            }
            if let Err(e) = end {
                tracing::warn!("a hold ended early: {}", e.chain());
                let failed = Told::Failed(convert::failure_to_wire(&Failure::from(&e)));
                let _hung_up = answers.send(Ok(v1::HoldResponse { told: Some(failed) })).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Answers one request after the other until the hold was released or the caller is done.
    async fn converse(
        &self,
        requests: &mut Streaming<v1::HoldRequest>,
        answers: &mpsc::Sender<Answer>,
        session: &mut Option<Session>,
    ) -> Result<()> {
        let mut since = Instant::now();
        loop {
            let ends = session.as_ref().map_or(since + READY_FOR, |s| s.ends(since));
            let next = match tokio::time::timeout_at(ends, requests.message()).await {
                Err(_) => {
                    return Err(Error::new(Kind::Timeout, "the lease is over: nothing was heard from the caller"));
                }
                Ok(Err(status)) => return Err(from_status(&status).context("listen to the caller")),
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(request))) => request.ask,
            };
            since = Instant::now();
            let told = match (next, session.as_mut()) {
                (Some(Ask::Prepare(ask)), None) => {
                    *session = Some(self.prepare_hold(ask).await?);
                    Told::Ready(v1::Nothing {})
                }
                (Some(Ask::Take(ask)), Some(session)) => {
                    let millis = |n: u32| Duration::from_millis(n.into());
                    let token = session.take(millis(ask.budget_ms), millis(ask.lease_ms)).await?;
                    Told::Taken(v1::HoldTaken { token })
                }
                (Some(Ask::Renew(_)), Some(session)) => {
                    session.renew().await?;
                    Told::Unbroken(v1::Nothing {})
                }
                (Some(Ask::Release(_)), Some(session)) => {
                    let held = session.release().await?;
                    Told::Released(v1::HoldReleased { held_us: u64::try_from(held.as_micros()).unwrap_or(u64::MAX) })
                }
                (Some(_) | None, _) => {
                    return Err(Error::new(Kind::Invalid, "a hold is prepared once, then taken, renewed, released"));
                }
            };
            if let Some(session) = session.as_ref() {
                tracing::info!(target: "audit", call = "Hold", run = %session.run(), "{}", word(&told));
            }
            let released = matches!(told, Told::Released(_));
            let _hung_up = answers.send(Ok(v1::HoldResponse { told: Some(told) })).await;
            if released {
                return Ok(());
            }
        }
    }

    async fn prepare_hold(&self, ask: v1::HoldPrepare) -> Result<Session> {
        let (run, _) = self.key(ask.key)?;
        self.own(&ask.component)?;
        // Nothing else is going on here, and no higher run has been.
        self.table.admit(&run).await?;
        let claim = self.holds.claim(run)?;
        Session::prepare(claim, self.engine.as_ref()).await
    }
}
