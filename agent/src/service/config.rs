//! The calls that compare and change Backend's Config.
//!
//! A comparison changes nothing and waits for nobody's turn, so that it stands in no backup's way; a change has the turn as long as it lasts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::config::{ConfigEntry, Counters, Difference, Digest};
use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt as _};
use keepsake_core::id::RunKey;
use keepsake_proto::convert;
use keepsake_proto::status::{from_status, to_status};
use keepsake_proto::v1::{
    self, config_apply_request, config_apply_response, config_compare_request, config_compare_response,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Inner;
use crate::engine::config_target::{Applied, Changes, Compared, ConfigTarget, Differences, Expected, ExpectedEnd};
use crate::engine::{Context, Progress};

/// A caller that sends or takes nothing for so long is dropped.
const IDLE: Duration = Duration::from_mins(10);
/// How often progress is told.
const EVERY: Duration = Duration::from_millis(500);
/// Differences of one message, at most.
const TOGETHER: usize = 200;

type Answer<M> = std::result::Result<M, Status>;
type Answers<M> = mpsc::Sender<Answer<M>>;

impl Inner {
    pub(super) fn config_compare(
        self: &Arc<Self>,
        requests: Streaming<v1::ConfigCompareRequest>,
    ) -> ReceiverStream<Answer<v1::ConfigCompareResponse>> {
        let (answers, receiver) = mpsc::channel(4);
        let inner = self.clone();
        self.tracker.spawn(async move {
            let told =
                |progress| v1::ConfigCompareResponse { told: Some(config_compare_response::Told::Progress(progress)) };
            let (cx, progress) = Context::new(inner.stop.child_token());
            let work = inner.compare(requests, answers.clone(), &cx);
            let last = drive(work, progress, &answers, told).await;
            let last =
                last.map(|c| v1::ConfigCompareResponse { told: Some(config_compare_response::Told::Compared(c)) });
            end("ConfigCompare", &answers, last).await;
        });
        ReceiverStream::new(receiver)
    }

    pub(super) fn config_apply(
        self: &Arc<Self>,
        requests: Streaming<v1::ConfigApplyRequest>,
    ) -> ReceiverStream<Answer<v1::ConfigApplyResponse>> {
        let (answers, receiver) = mpsc::channel(4);
        let inner = self.clone();
        self.tracker.spawn(async move {
            let told =
                |progress| v1::ConfigApplyResponse { told: Some(config_apply_response::Told::Progress(progress)) };
            let (cx, progress) = Context::new(inner.stop.child_token());
            let last = drive(inner.apply(requests, &cx), progress, &answers, told).await;
            let last = last.map(|a| v1::ConfigApplyResponse { told: Some(config_apply_response::Told::Applied(a)) });
            end("ConfigApply", &answers, last).await;
        });
        ReceiverStream::new(receiver)
    }

    async fn compare(
        &self,
        mut requests: Streaming<v1::ConfigCompareRequest>,
        answers: Answers<v1::ConfigCompareResponse>,
        cx: &Context,
    ) -> Result<v1::ConfigCompared> {
        let Some(config_compare_request::Part::Begin(begin)) = next(&mut requests).await?.and_then(|r| r.part) else {
            return Err(Error::new(Kind::Invalid, "a comparison begins with its beginning"));
        };
        let (run, step) = self.key(begin.key)?;
        self.own(&begin.component)?;
        let target = self.target()?;
        // What is half loaded would be half of everything.
        if let Some(loads) = self.table.running().iter().find(|o| o.changes_live_data()) {
            return Err(Error::new(
                Kind::Busy,
                format!("{} of run {} is going on: compare after it", loads.what, loads.run),
            ));
        }
        if begin.of_a_run {
            self.table.is_not_fenced(&run)?;
        }
        tracing::info!(target: "audit", call = "ConfigCompare", run = %run, step = %step, "compares");
        let mut expected = WireExpected { requests, digest: Digest::default(), end: None };
        let mut told = WireDifferences { answers, batch: Vec::new() };
        let compared = target.compare(&mut expected, &mut told, begin.keys_per_second, cx).await?;
        told.flush().await?;
        let Compared { keys, scanned, differences, found } = compared;
        Ok(v1::ConfigCompared { keys, scanned, differences, found: Some(convert::counters_to_wire(found)) })
    }

    async fn apply(&self, mut requests: Streaming<v1::ConfigApplyRequest>, cx: &Context) -> Result<v1::ConfigApplied> {
        let Some(config_apply_request::Part::Begin(begin)) = next(&mut requests).await?.and_then(|r| r.part) else {
            return Err(Error::new(Kind::Invalid, "changes begin with their beginning"));
        };
        let (run, step) = self.key(begin.key)?;
        self.own(&begin.component)?;
        let target = self.target()?;
        let _turn = self.table.take_turn(&run).await?;
        tracing::info!(target: "audit", call = "ConfigApply", run = %run, step = %step, "changes the Config");
        let mut changes = WireChanges { inner: self, run: &run, requests, came: 0, at_least: None };
        let applied = target.apply(&mut changes, begin.keys_per_second, begin.durable, cx).await?;
        let Applied { made, overtaken, before, after } = applied;
        tracing::info!(target: "audit", call = "ConfigApply", run = %run, made, overtaken, "the Config is changed");
        let (before, after) = (convert::counters_to_wire(before), convert::counters_to_wire(after));
        Ok(v1::ConfigApplied { made, overtaken, before: Some(before), after: Some(after) })
    }

    fn target(&self) -> Result<&dyn ConfigTarget> {
        let none = || {
            Error::new(
                Kind::Unsupported,
                format!("{} keeps no Config of Backend: it is of engine {}", self.component, self.engine_name),
            )
        };
        self.engine.config_target().ok_or_else(none)
    }
}

/// Works, and tells meanwhile how far it is; ends early when the caller hangs up.
async fn drive<T, M>(
    work: impl Future<Output = Result<T>>,
    mut progress: watch::Receiver<Progress>,
    answers: &Answers<M>,
    told: impl Fn(v1::Progress) -> M,
) -> Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = answers.closed() => return Err(Error::new(Kind::Cancelled, "the caller hung up")),
            () = tokio::time::sleep(EVERY) => {}
        }
        if progress.has_changed().unwrap_or(false) {
            let now = super::watch::progress(&progress.borrow_and_update());
            // If there is no room there is something better to read.
            let _not_now = answers.try_send(Ok(told(now)));
        }
    }
}

async fn end<M>(call: &str, answers: &Answers<M>, last: Result<M>) {
    if let Err(e) = &last {
        tracing::warn!(target: "audit", call, kind = e.kind().as_str(), "failed: {}", e.chain());
    }
    let _hung_up = answers.send(last.map_err(|e| to_status(&e))).await;
}

async fn next<T>(requests: &mut Streaming<T>) -> Result<Option<T>> {
    let silent = || format!("the caller sent nothing for {IDLE:?}");
    let next = tokio::time::timeout(IDLE, requests.message()).await.or_kind(Kind::Timeout, silent())?;
    next.map_err(|status| from_status(&status)).context("listen to the caller")
}

/// What is expected, as it comes over the wire.
struct WireExpected {
    requests: Streaming<v1::ConfigCompareRequest>,
    digest: Digest,
    end: Option<ExpectedEnd>,
}

#[async_trait]
impl Expected for WireExpected {
    async fn next(&mut self) -> Result<Option<Vec<ConfigEntry>>> {
        if self.end.is_some() {
            return Ok(None);
        }
        match next(&mut self.requests).await?.map(|r| r.part) {
            Some(Some(config_compare_request::Part::Batch(batch))) => {
                let entries = convert::config_entries_from_wire(batch)?;
                for entry in &entries {
            self.digest.take(entry);
        }
                Ok(Some(entries))
            }
            Some(Some(config_compare_request::Part::End(end))) => {
                let end = convert::config_end_from_wire(end)?;
                self.digest.clone().check(&end)?;
                self.end = Some(ExpectedEnd { kinds: end.kinds, at_least: end.at_least });
                Ok(None)
            }
            Some(Some(config_compare_request::Part::Begin(_)) | None) => {
                Err(Error::new(Kind::Invalid, "entries, and then their end, were to come"))
            }
            None => Err(Error::new(
                Kind::Corrupt,
                "what is expected was cut short: it came without its end, and nothing is called surplus for it",
            )),
        }
    }

    fn end(&self) -> Result<&ExpectedEnd> {
        self.end.as_ref().ok_or_else(|| Error::new(Kind::Internal, "the end of what is expected has not come"))
    }
}

/// Tells differences over the wire.
struct WireDifferences {
    answers: Answers<v1::ConfigCompareResponse>,
    batch: Vec<v1::ConfigDifference>,
}

impl WireDifferences {
    async fn flush(&mut self) -> Result<()> {
        let differences = std::mem::take(&mut self.batch);
        if differences.is_empty() {
            return Ok(());
        }
        let told = config_compare_response::Told::Differences(v1::ConfigDifferences { differences });
        let sent = self.answers.send(Ok(v1::ConfigCompareResponse { told: Some(told) }));
        let sent = tokio::time::timeout(IDLE, sent)
            .await
            .or_kind(Kind::Timeout, format!("the caller took nothing for {IDLE:?}"))?;
        sent.map_err(|_| Error::new(Kind::Cancelled, "the caller hung up"))
    }
}

#[async_trait]
impl Differences for WireDifferences {
    async fn tell(&mut self, difference: Difference) -> Result<()> {
        self.batch.push(convert::difference_to_wire(difference));
        if self.batch.len() >= TOGETHER { self.flush().await } else { Ok(()) }
    }
}

/// Changes as they come over the wire.
struct WireChanges<'a> {
    inner: &'a Inner,
    run: &'a RunKey,
    requests: Streaming<v1::ConfigApplyRequest>,
    came: u64,
    at_least: Option<Counters>,
}

#[async_trait]
impl Changes for WireChanges<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Difference>>> {
        if self.at_least.is_some() {
            return Ok(None);
        }
        let part = next(&mut self.requests).await?.map(|r| r.part);
        // A run that has been taken over changes nothing more.
        self.inner.table.is_not_fenced(self.run)?;
        match part {
            Some(Some(config_apply_request::Part::Changes(some))) => {
                let some: Vec<_> =
                    some.differences.into_iter().map(convert::difference_from_wire).collect::<Result<_>>()?;
                self.came += some.len() as u64;
                Ok(Some(some))
            }
            Some(Some(config_apply_request::Part::End(end))) => {
                if end.changes != self.came {
                    let text = format!("{} changes came, and {} were sent", self.came, end.changes);
                    return Err(Error::new(Kind::Corrupt, text));
                }
                self.at_least = Some(convert::counters_from_wire(end.at_least, "end.at_least")?);
                Ok(None)
            }
            Some(Some(config_apply_request::Part::Begin(_)) | None) => {
                Err(Error::new(Kind::Invalid, "changes, and then their end, were to come"))
            }
            None => Err(Error::new(Kind::Cancelled, "the caller hung up before the end of its changes")),
        }
    }

    fn at_least(&self) -> Result<Counters> {
        self.at_least.ok_or_else(|| Error::new(Kind::Internal, "the end of the changes has not come"))
    }
}
