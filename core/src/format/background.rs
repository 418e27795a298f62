//! A checker that reads on a thread of its own while the bytes pass on the async side.

use std::io::Read;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::tar::Input;
use crate::error::{Error, Kind, Result, ResultExt};

/// Chunks that may wait for the checker.
const WAITING: usize = 2;

/// A checker that runs. Dropped before [`Checking::finish`], it ends, and what it found is not told.
#[derive(Debug)]
pub struct Checking<T> {
    sender: mpsc::Sender<Bytes>,
    checker: JoinHandle<Result<T>>,
}

impl<T: Send + 'static> Checking<T> {
    /// Starts it. It must read to the end of what it gets, or fail.
    pub fn start(check: impl FnOnce(Passing) -> Result<T> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let passing = Passing { receiver, chunk: Bytes::new() };
        Self { sender, checker: tokio::task::spawn_blocking(move || check(passing)) }
    }

    /// Hands on the next bytes; waits while the checker is busy.
    ///
    /// # Errors
    /// What the checker found wrong with the bytes before.
    pub async fn feed(&mut self, bytes: Bytes) -> Result<()> {
        if self.sender.send(bytes).await.is_ok() {
            return Ok(());
        }
        match (&mut self.checker).await.or_kind(Kind::Internal, "the checker's thread")? {
            Err(e) => Err(e),
            Ok(_) => Err(Error::new(Kind::Corrupt, "there are bytes after its end")),
        }
    }

    /// Says that there are no more bytes, and gives what was found.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub async fn finish(self) -> Result<T> {
        drop(self.sender);
        self.checker.await.or_kind(Kind::Internal, "the checker's thread")?
    }
}

/// The bytes as the checker sees them.
#[derive(Debug)]
pub struct Passing {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Passing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        self.chunk.split_to(n).copy_to_slice(buffer.get_mut(..n).unwrap_or_default());
        Ok(n)
    }
}

impl Input for Passing {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.receiver.blocking_recv())
    }
}
