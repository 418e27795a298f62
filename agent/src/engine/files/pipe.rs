//! Between the async world, which has the network, and a blocking thread, which has the files.
//!
//! Both directions are bounded: one that is slow makes the other wait. When the async side is dropped, the thread notices at
//! its next step and ends; nothing of it is heard again.

use bytes::Bytes;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::Input;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes that are sent together.
const CHUNK: usize = 256 * 1024;
/// How many chunks may wait.
const WAITING: usize = 4;

/// Takes bytes in the thread and gives them to the async side.
#[derive(Debug)]
pub(super) struct Outlet {
    /// Zeros after `used`, so that files are read right into it.
    buffer: Vec<u8>,
    used: usize,
    sender: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    total: u64,
}

/// An outlet and what comes out of it.
pub(super) fn outlet(stop: CancellationToken) -> (Outlet, mpsc::Receiver<Bytes>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Outlet { buffer: vec![0; CHUNK], used: 0, sender, stop, total: 0 }, receiver)
}

impl Outlet {
    /// Fails when nobody wants the bytes any more.
    pub(super) fn check(&self) -> Result<()> {
        if self.stop.is_cancelled() || self.sender.is_closed() { Err(stopped()) } else { Ok(()) }
    }

    /// Takes these bytes.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let taken = self.fill(bytes.len(), |room| {
                let n = room.len().min(bytes.len());
                let (now, later) = bytes.split_at(n);
                room.copy_from_slice(now);
                bytes = later;
                Ok(n)
            })?;
            debug_assert!(taken > 0, "there is always room");
        }
        Ok(())
    }

    /// Takes so many zeros.
    pub(super) fn put_zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            let n = self.fill(most, |room| {
                room.fill(0);
                Ok(room.len())
            })?;
            count = count.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Lets `read` write at most so many bytes; it says how many it wrote.
    pub(super) fn fill(&mut self, most: usize, read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<usize> {
        if self.used == self.buffer.len() {
            self.flush()?;
        }
        let end = self.used.saturating_add(most).min(self.buffer.len());
        let room = self.buffer.get_mut(self.used..end).unwrap_or_default();
        let n = read(room)?.min(end - self.used);
        self.used += n;
        Ok(n)
    }

    /// Sends the rest; returns how many bytes there were in all.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.flush()?;
        Ok(self.total)
    }

    fn flush(&mut self) -> Result<()> {
        self.check()?;
        let mut chunk = std::mem::replace(&mut self.buffer, vec![0; CHUNK]);
        chunk.truncate(std::mem::take(&mut self.used));
        if chunk.is_empty() {
            return Ok(());
        }
        self.total = self.total.saturating_add(u64::try_from(chunk.len()).unwrap_or(0));
        self.sender.blocking_send(Bytes::from(chunk)).map_err(|_| stopped())
    }
}

/// Gives bytes from the async side to the thread. `None` in the channel is the checked end; a channel that closes without
/// it means that the async side failed, and that failure is the one to be told.
#[derive(Debug)]
pub(super) struct Inlet {
    receiver: mpsc::Receiver<Option<Bytes>>,
    stop: CancellationToken,
    ended: bool,
}

/// An inlet and what goes into it.
pub(super) fn inlet(stop: CancellationToken) -> (mpsc::Sender<Option<Bytes>>, Inlet) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (sender, Inlet { receiver, stop, ended: false })
}

impl Input for Inlet {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        let next = self.receiver.blocking_recv().ok_or_else(stopped)?;
        self.ended = next.is_none();
        Ok(next)
    }
}

/// The thread was told to end.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Cancelled, "the operation was cancelled")
}
