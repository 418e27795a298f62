//! Watching an operation: progress as it comes, at the end the report.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::ArtifactName;
use keepsake_proto::convert;
use keepsake_proto::status::to_status;
use keepsake_proto::v1::{self, watch_response::Event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Inner;
use crate::engine::{CommitReport, Progress};
use crate::operation::{Done, Outcome, Watcher};

/// Progress is sent no more often than this.
const EVERY: Duration = Duration::from_millis(100);

type Answer = std::result::Result<v1::WatchResponse, Status>;

impl Inner {
    pub(super) fn watch(&self, key: Option<v1::OperationKey>) -> Result<ReceiverStream<Answer>> {
        let (run, step) = self.key(key)?;
        let operation = self.table.find(&run, &step).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!(
                    "step {step} of run {run} is not known here: it was never started, or the agent was restarted since"
                ),
            )
        })?;
        let watcher = Watcher::new(operation);
        let (sender, receiver) = mpsc::channel(8);
        self.tracker.spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = tell(&watcher, &sender) => {}
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// Ends when everything is told. A caller that hangs up ends it from outside.
async fn tell(watcher: &Watcher, sender: &mpsc::Sender<Answer>) {
    let operation = watcher.operation();
    let mut changes = operation.progress.clone();
    let ended = operation.ended();
    tokio::pin!(ended);
    let outcome = loop {
        let now = progress(&changes.borrow_and_update());
        let _hung_up = sender.send(Ok(v1::WatchResponse { event: Some(Event::Progress(now)) })).await;
        tokio::select! {
            biased;
            outcome = &mut ended => break outcome,
            () = next_change(&mut changes) => {}
        }
    };
    for answer in answers(&outcome) {
        let _hung_up = sender.send(answer).await;
    }
}

async fn next_change(changes: &mut tokio::sync::watch::Receiver<Progress>) {
    // Writers may be waiting for this one word, so it is told at once. On a receiver of its own, which does not mark other changes as seen.
    let mut opening = changes.clone();
    let opens = async {
        if opening.borrow().snapshot_open {
            return std::future::pending().await;
        }
        opening.wait_for(|p| p.snapshot_open).await.is_ok()
    };
    if tokio::time::timeout(EVERY, opens).await == Ok(true) {
        return;
    }
    if changes.changed().await.is_err() {
        // No more progress will come; the outcome will.
        std::future::pending::<()>().await;
    }
}

fn answers(outcome: &Outcome) -> Vec<Answer> {
    let event = |event| Ok(v1::WatchResponse { event: Some(event) });
    match outcome.as_ref() {
        Err(failure) => vec![event(Event::Failed(convert::failure_to_wire(failure)))],
        Ok(Done::Staged(report)) => vec![event(Event::Staged(v1::StageReport {
            bytes: report.bytes,
            counts: report.counts.clone().into_iter().collect(),
            warnings: report.warnings.clone(),
        }))],
        Ok(Done::Committed(report)) => vec![event(Event::Committed(commit_report(report)))],
        Ok(Done::RolledBack) => vec![event(Event::RolledBack(v1::Nothing {}))],
        Ok(Done::Finalized) => vec![event(Event::Finalized(v1::Nothing {}))],
        Ok(Done::Dumped { place, report, artifacts, .. }) => {
            let mut all = Vec::new();
            let mut heads = Vec::new();
            for artifact in artifacts {
                match convert::batches(place, artifact) {
                    Ok((head, batches)) => {
                        heads.push(head);
                        all.extend(batches.into_iter().map(|b| event(Event::Segments(b))));
                    }
                    Err(e) => return vec![Err(to_status(&e.context("tell of a dump")))],
                }
            }
            let done = v1::DumpDone { report: Some(convert::dump_report_to_wire(report)), artifacts: heads };
            all.push(event(Event::Dumped(done)));
            all
        }
    }
}

pub(super) fn progress(p: &Progress) -> v1::Progress {
    let of_artifact =
        |(name, bytes): (&ArtifactName, &u64)| v1::ArtifactProgress { artifact: name.to_string(), bytes: *bytes };
    v1::Progress {
        phase: p.phase.clone(),
        bytes: p.bytes,
        expected_bytes: p.expected,
        snapshot_open: p.snapshot_open,
        artifacts: p.artifacts.iter().map(of_artifact).collect(),
    }
}

pub(super) fn commit_report(report: &CommitReport) -> v1::CommitReport {
    v1::CommitReport { counts: report.counts.clone().into_iter().collect(), warnings: report.warnings.clone() }
}
