//! The paths that a dump has told, batch by batch.

use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_proto::status::to_status;
use keepsake_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Inner;
use crate::operation::{Done, Outcome};

/// How many bytes of paths are sent together, about.
const BATCH: usize = 256 * 1024;

type Answer = std::result::Result<v1::PathsResponse, Status>;

impl Inner {
    pub(super) fn paths(&self, key: Option<v1::OperationKey>) -> Result<ReceiverStream<Answer>> {
        let (run, step) = self.key(key)?;
        let unknown = || {
            let text = format!(
                "of step {step} of run {run} no paths are known here: it is no dump that tells them, or the agent was started since"
            );
            Error::new(Kind::NotFound, text)
        };
        let operation = self.table.find(&run, &step).ok_or_else(unknown)?;
        let outcome = operation.outcome.borrow().clone().ok_or_else(unknown)?;
        match outcome.as_ref() {
            Ok(Done::Dumped { paths: Ok(Some(_)), .. }) => {}
            Ok(Done::Dumped { paths: Err(failure), .. }) => return Err(Error::from(failure.clone())),
            _ => return Err(unknown()),
        }
        let (sender, receiver) = mpsc::channel(2);
        self.tracker.spawn_blocking(move || tell(&outcome, &sender));
        Ok(ReceiverStream::new(receiver))
    }
}

/// Ends when everything is told, or when the caller hangs up.
fn tell(outcome: &Outcome, sender: &mpsc::Sender<Answer>) {
    let outcome = Arc::clone(outcome);
    let Ok(Done::Dumped { paths: Ok(Some(kept)), .. }) = outcome.as_ref() else { return };
    let mut at = 0;
    loop {
        let answer = match kept.read(&mut at, BATCH) {
            Ok(some) if some.is_empty() => return,
            Ok(some) => Ok(v1::PathsResponse {
                paths: some.into_iter().map(|(path, row)| v1::NamedPath { path: path.into(), row }).collect(),
            }),
            Err(e) => Err(to_status(&e)),
        };
        let last = answer.is_err();
        if sender.blocking_send(answer).is_err() || last {
            return;
        }
    }
}
