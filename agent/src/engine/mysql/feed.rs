//! Feeding the client: everything goes in, and success is its status 0 after all was taken.

use bytes::{Buf, Bytes, BytesMut};
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::sql::{Reader, SANDBOX, Summary};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use crate::engine::{ArtifactSource, Context};
use crate::process::{Running, Tool};

/// A client that is being fed.
pub(super) struct Client {
    running: Running,
    stdin: ChildStdin,
}

impl Client {
    /// Starts it.
    pub(super) fn start(tool: Tool) -> Result<Self> {
        let mut running = tool.start()?;
        let Some(stdin) = running.stdin.take() else {
            return Err(Error::new(Kind::Internal, "the client was started without a pipe"));
        };
        Ok(Self { running, stdin })
    }

    /// Gives it the next bytes; takes it back as long as it reads.
    pub(super) async fn write(mut self, bytes: &[u8]) -> Result<Self> {
        match self.stdin.write_all(bytes).await {
            Ok(()) => Ok(self),
            Err(e) => Err(self.stopped(e).await),
        }
    }

    /// Says that this was all, and waits for its end.
    pub(super) async fn finish(mut self) -> Result<()> {
        if let Err(e) = self.stdin.shutdown().await {
            return Err(self.stopped(e).await);
        }
        drop(self.stdin);
        self.running.finish().await
    }

    /// It stopped reading because it failed: its own words tell more than the pipe.
    async fn stopped(self, e: std::io::Error) -> Error {
        drop(self.stdin);
        match self.running.finish().await {
            Err(own) => own,
            Ok(()) => Error::io("the client stopped reading, but says that all went well", e),
        }
    }
}

/// Moves the whole artifact into the client.
pub(super) async fn whole(tool: Tool, artifact: &mut dyn ArtifactSource, cx: &Context) -> Result<Summary> {
    let mut client = Client::start(tool)?;
    let mut reader = Reader::new();
    let mut head = Head::default();
    while let Some(chunk) = artifact.read().await? {
        let read = chunk.len() as u64;
        reader.feed(&chunk).context("read the dump")?;
        if let Some(bytes) = head.pass(chunk) {
            client = client.write(&bytes).await?;
        }
        cx.advance(read);
    }
    // Before the client learns that this was all.
    let summary = reader.finish().context("read the dump")?;
    client.finish().await?;
    Ok(summary)
}

/// Takes the sandbox announcement out of the first line, which only MariaDB's newer clients understand. The line itself
/// stays, so that line numbers in errors are those of the dump.
#[derive(Debug, Default)]
struct Head {
    begun: BytesMut,
    state: HeadState,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum HeadState {
    #[default]
    Undecided,
    Skipping,
    Passed,
}

impl Head {
    /// What goes to the client of the next bytes.
    fn pass(&mut self, chunk: Bytes) -> Option<Bytes> {
        let mut chunk = chunk;
        if self.state == HeadState::Undecided {
            self.begun.extend_from_slice(&chunk);
            if self.begun.len() < SANDBOX.len() && SANDBOX.starts_with(&self.begun) {
                return None;
            }
            self.state = if self.begun.starts_with(SANDBOX) { HeadState::Skipping } else { HeadState::Passed };
            chunk = self.begun.split().freeze();
        }
        if self.state == HeadState::Skipping {
            let end = chunk.iter().position(|b| *b == b'\n')?;
            chunk.advance(end);
            self.state = HeadState::Passed;
        }
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut head = Head::default();
        pieces.iter().filter_map(|p| head.pass(Bytes::copy_from_slice(p))).flatten().collect()
    }

    #[test]
    fn the_sandbox_goes_and_its_line_stays() {
        let dump: &[u8] = b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\nSET a=1;\n";
        for size in [1, 5, 11, 12, 13, 1000] {
            let pieces: Vec<&[u8]> = dump.chunks(size).collect();
            assert_eq!(passed(&pieces), b"\n-- MariaDB dump\nSET a=1;\n", "chunks of {size}");
            let other: &[u8] = b"/*M!100616 SET a=1 */;\n";
            let pieces: Vec<&[u8]> = other.chunks(size).collect();
            assert_eq!(passed(&pieces), other, "chunks of {size}");
        }
    }
}
