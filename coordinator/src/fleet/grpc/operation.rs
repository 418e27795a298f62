//! One operation at one agent: start it, watch it to its end, through lost connections.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::record::Failure;
use keepsake_core::retry::Retry;
use keepsake_proto::client::CALL;
use keepsake_proto::convert;
use keepsake_proto::status::from_status;
use keepsake_proto::v1::{self, watch_response::Event};
use tokio::time::Instant;

use super::GrpcFleet;
use crate::fleet::{OnProgress, OpKey, Progress};

/// An agent that was reached and then cannot be for so long has failed the step.
const OUT_OF_REACH: Duration = Duration::from_mins(2);
/// An agent that was never reached fails it sooner: nothing is going on there that could be lost.
const NEVER_REACHED: Duration = Duration::from_secs(15);

/// What is started.
#[derive(Debug)]
pub(super) enum Start {
    Dump(v1::StartDumpRequest),
    Load(Box<v1::StartLoadRequest>),
    Commit,
    Rollback,
    Finalize,
}

/// What an operation said at its end.
#[derive(Debug)]
pub(super) struct Told {
    pub segments: Vec<v1::SegmentBatch>,
    pub last: Event,
}

impl GrpcFleet {
    /// Starts, or attaches to, an operation and watches it to its end.
    pub(super) async fn operate(
        &self,
        component: &Component,
        key: &OpKey,
        start: &Start,
        progress: OnProgress<'_>,
    ) -> Result<Told> {
        let retry =
            Retry { tries: u32::MAX, first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(5) };
        let mut last_word = Instant::now();
        let mut tries = 0;
        let mut begun = false;
        let mut asked = false;
        let mut forgotten: Option<Error> = None;
        loop {
            let heard = || Instant::now();
            let attempt = async {
                // Begun before, it attaches; at an agent that was started again it begins anew, and goes on from what it finds.
                let attached = self.start(component, key, start).await?;
                if asked && !attached && forgotten.is_none() {
                    forgotten = Some(Error::new(Kind::NotFound, "the agent does not know of what was begun there"));
                }
                (asked, begun) = (true, true);
                last_word = heard();
                self.watch(component, key, progress, &mut last_word).await
            };
            let error = match attempt.await {
                Ok(told) => return Ok(told),
                Err(Ended::Failed(failure)) => {
                    let error = Error::from(failure);
                    return Err(match forgotten {
                        // It was begun at an agent that is gone; what the new one says is not how that ended.
                        // That it is not known yet is to be asked again.
                        Some(before) if matches!(start, Start::Commit) && error.kind() != Kind::Busy => {
                            Error::caused(before.kind(), "the agent was started again while it loaded", error)
                        }
                        _ => error,
                    });
                }
                Err(Ended::Lost(e)) => e,
            };
            // It may have been begun, though no answer came.
            asked = true;
            let lost = matches!(error.kind(), Kind::Unavailable | Kind::Timeout);
            let anew = error.kind() == Kind::NotFound && tries < 5;
            if !(lost || anew) {
                return Err(error);
            }
            let limit = if begun { OUT_OF_REACH } else { NEVER_REACHED };
            if last_word.elapsed() >= limit {
                return Err(error.context(format!("the agent of {component} cannot be reached for {limit:?}")));
            }
            tries += 1;
            tracing::warn!("{component}: {}; trying again", error.chain());
            if anew {
                forgotten = Some(error);
            }
            retry.pause(tries).await;
        }
    }

    /// Says whether it attached to what had been begun before.
    async fn start(&self, component: &Component, key: &OpKey, start: &Start) -> std::result::Result<bool, Ended> {
        let mut client = self.dialer(component)?.client()?;
        let key = Some(convert::key_to_wire(&key.run, &key.step));
        let started = async {
            match start {
                Start::Dump(request) => {
                    client.start_dump(limited(request.clone())).await.map(|a| (a.into_inner().attached, None))
                }
                Start::Load(request) => {
                    let answer = client.start_load(limited((**request).clone())).await?.into_inner();
                    Ok((answer.attached, Some((request.queues, answer.queues))))
                }
                Start::Commit => {
                    client.commit(limited(v1::CommitRequest { key })).await.map(|a| (a.into_inner().attached, None))
                }
                Start::Rollback => {
                    client.rollback(limited(v1::RollbackRequest { key })).await.map(|a| (a.into_inner().attached, None))
                }
                Start::Finalize => {
                    client.finalize(limited(v1::FinalizeRequest { key })).await.map(|a| (a.into_inner().attached, None))
                }
            }
        };
        let (attached, queues) = answered(started).await.map_err(Ended::Lost)?;
        if let Some((asked, answer)) = queues {
            understood(component, asked, answer)?;
        }
        Ok(attached)
    }

    async fn watch(
        &self,
        component: &Component,
        key: &OpKey,
        progress: OnProgress<'_>,
        last_word: &mut Instant,
    ) -> std::result::Result<Told, Ended> {
        let mut client = self.dialer(component)?.client()?;
        let request = v1::WatchRequest { key: Some(convert::key_to_wire(&key.run, &key.step)) };
        let lost = |s: tonic::Status| Ended::Lost(from_status(&s));
        let mut events = answered(client.watch(request)).await.map_err(Ended::Lost)?.into_inner();
        let mut segments = Vec::new();
        while let Some(message) = events.message().await.map_err(lost)? {
            *last_word = Instant::now();
            match message.event {
                Some(Event::Progress(p)) => {
                    let artifacts = p.artifacts.into_iter().map(|a| (a.artifact, a.bytes)).collect();
                    progress(Progress { phase: p.phase, bytes: p.bytes, expected: p.expected_bytes, artifacts });
                }
                Some(Event::Segments(batch)) => segments.push(batch),
                Some(Event::Failed(failure)) => return Err(Ended::Failed(convert::failure_from_wire(failure))),
                Some(last) => return Ok(Told { segments, last }),
                // A word from a newer agent.
                None => {}
            }
        }
        Err(Ended::Lost(Error::new(Kind::Unavailable, "the stream of events ended before the report")))
    }

    /// Starts a dump and waits until its snapshot is open. Nothing is tried again: writers are waiting.
    pub(super) async fn start_and_await_snapshot(
        &self,
        component: &Component,
        key: &OpKey,
        start: &Start,
    ) -> Result<()> {
        let told = |ended| match ended {
            Ended::Failed(failure) => Error::from(failure),
            Ended::Lost(e) => e,
        };
        self.start(component, key, start).await.map_err(told)?;
        let mut client = self.dialer(component)?.client()?;
        let request = v1::WatchRequest { key: Some(convert::key_to_wire(&key.run, &key.step)) };
        let mut events = answered(client.watch(request)).await?.into_inner();
        while let Some(message) = events.message().await.map_err(|s| from_status(&s))? {
            match message.event {
                Some(Event::Progress(p)) if p.snapshot_open => return Ok(()),
                Some(Event::Failed(failure)) => return Err(Error::from(convert::failure_from_wire(failure))),
                // A small dump may be done before it was first looked at.
                Some(Event::Dumped(_)) => return Ok(()),
                Some(_) | None => {}
            }
        }
        Err(Error::new(Kind::Unavailable, "the stream of events ended before the snapshot was open"))
    }

    /// Asks one operation to stop.
    pub(super) async fn cancel(&self, component: &Component, key: &OpKey) -> Result<()> {
        let mut client = self.dialer(component)?.client()?;
        let request = v1::CancelRequest { key: Some(convert::key_to_wire(&key.run, &key.step)) };
        answered(client.cancel(limited(request))).await.map(|_| ())
    }
}

/// The answer to a call that is answered at once by its nature. The limit that travels with a call begins when a connection stands; an agent that is
/// stopped lets one begin and never end.
pub(super) async fn answered<T>(call: impl Future<Output = std::result::Result<T, tonic::Status>>) -> Result<T> {
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => answer.map_err(|s| from_status(&s)),
        Err(e) => Err(Error::caused(Kind::Timeout, format!("the agent did not answer within {CALL:?}"), e)),
    }
}

/// An agent that does not know of policies for queues would restore them all, and say nothing.
fn understood(component: &Component, asked: i32, answered: i32) -> std::result::Result<(), Ended> {
    let (asked, answered) = (convert::queues_from_wire(asked)?, convert::queues_from_wire(answered)?);
    if asked == answered {
        return Ok(());
    }
    let text = format!(
        "the agent of {component} does not follow the policy `{asked}` for queues, it would `{answered}` them: update the agent"
    );
    Err(Ended::Failed(Failure { kind: Kind::Unsupported, text }))
}

fn limited<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL);
    request
}

/// Why a watch ended without a report.
#[derive(Debug)]
enum Ended {
    /// The operation failed at the agent.
    Failed(Failure),
    /// Its end is not known: the connection, or the agent, is gone.
    Lost(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

#[cfg(test)]
mod tests {
    use keepsake_core::queues::QueuePolicy;

    use super::*;

    #[test]
    fn an_agent_that_follows_another_policy_is_stopped() {
        let component: Component = "system-redis".parse().unwrap();
        let words = [QueuePolicy::Restore, QueuePolicy::Keep, QueuePolicy::Drop].map(convert::queues_to_wire);
        for asked in words {
            for answered in words {
                assert_eq!(understood(&component, asked, answered).is_ok(), asked == answered);
            }
        }
        // An older agent answers nothing, and restores everything.
        assert!(understood(&component, convert::queues_to_wire(QueuePolicy::Restore), 0).is_ok());
        match understood(&component, convert::queues_to_wire(QueuePolicy::Drop), 0) {
            Err(Ended::Failed(failure)) => {
                assert_eq!(failure.kind, Kind::Unsupported);
                assert!(failure.text.contains("update the agent"), "{}", failure.text);
            }
            other => panic!("{other:?}"),
        }
    }
}
