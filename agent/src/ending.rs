//! The signals that ask the agent to end: listened for from before it says anything until it has ended, by one listener that is handed on, so that none comes
//! between two that listen.

use std::time::Duration;

use keepsake_core::error::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whoever listens.
#[derive(Debug)]
pub struct Ending {
    term: Signal,
    int: Signal,
}

impl Ending {
    /// Listens from now on; to be called in a runtime. What comes before it is waited for is kept.
    ///
    /// # Errors
    /// The system does not let signals be listened for.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::io("listen for signals", e));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    /// Waits until SIGTERM or SIGINT comes; at once if one has come since it was waited for last.
    pub async fn comes(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Whether one comes in this time, or has come since it was waited for last.
    pub async fn comes_within(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.comes()).await.is_ok()
    }
}
