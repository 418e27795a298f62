//! psql, which runs what pg_restore prints. What it was told to run has run only when it says so.

use keepsake_core::error::{Error, Kind, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;

use super::{Settings, tools};
use crate::process::Running;

/// What psql is told to say when everything so far has run.
const READY: &str = "keepsake-everything-is-loaded";

/// One that runs. Dropped, it is killed, and what it has not committed never happened.
pub(super) struct Psql {
    running: Running,
    stdin: ChildStdin,
    gone: bool,
}

impl Psql {
    /// Starts it on a database; the first error ends it.
    pub(super) fn start(settings: &Settings, database: &str) -> Result<Self> {
        let mut running = tools::tool(settings, "psql")?
            .env("PGDATABASE", database)
            .args(["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null"])
            .feed_stdin()
            .read_stdout()
            .start()?;
        let stdin = running.stdin.take().ok_or_else(|| Error::new(Kind::Internal, "psql has no stdin"))?;
        Ok(Self { running, stdin, gone: false })
    }

    /// Gives it SQL.
    ///
    /// # Errors
    /// It takes no more; [`Psql::said`] tells why.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.stdin.write_all(bytes).await;
        self.gone |= written.is_err();
        written.map_err(|e| Error::io("feed psql", e))
    }

    /// Waits until it has run everything so far.
    ///
    /// # Errors
    /// It ended before; [`Psql::said`] tells why.
    pub(super) async fn has_run_all(&mut self) -> Result<()> {
        self.write(format!("\n\\echo {READY}\n").as_bytes()).await?;
        let stdout = self.running.stdout.as_mut().ok_or_else(|| Error::new(Kind::Internal, "psql has no stdout"))?;
        let mut lines = tokio::io::BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(|e| Error::io("read from psql", e))? {
            if line == READY {
                return Ok(());
            }
        }
        self.gone = true;
        Err(Error::new(Kind::Internal, "psql ended early"))
    }

    /// Whether it has ended by itself, so that its own words say why.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Ends it; success is exit status 0.
    pub(super) async fn finish(self) -> Result<()> {
        drop(self.stdin);
        self.running.finish().await
    }

    /// Why it has ended: in its own words, put as `told` puts them; else what broke.
    pub(super) async fn said(self, broken: Error, told: impl FnOnce(&Error) -> Error) -> Error {
        match self.finish().await {
            Ok(()) => broken,
            Err(said) => told(&said),
        }
    }
}

/// What psql said of a load that failed, with the remedy where there is one; `state` says what is in the database now.
pub(super) fn loading(said: &Error, state: &str) -> Error {
    let text = said.chain();
    let (kind, hint) = if text.contains("lock timeout") {
        (Kind::Busy, ". Somebody holds the tables: stop the applications first")
    } else if text.contains("must be owner") || text.contains("permission denied") {
        (Kind::Denied, ". Use the database's owner or a superuser (--postgres-user)")
    } else if ["No space left on device", "could not extend file"].iter().any(|words| text.contains(words)) {
        (Kind::Busy, " (there is no room on the server: make room there, then try again)")
    } else {
        (Kind::Internal, "")
    };
    Error::new(kind, format!("{state}: {text}{hint}"))
}
