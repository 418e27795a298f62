//! The archive on its way: fed to pg_restore, the SQL that comes out handed on, both to their ends.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::format::pgc;
use keepsake_core::id::ArtifactName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;

use super::psql::Psql;
use super::session::Session;
use super::{ARTIFACT, Settings, dump, tools, versions};
use crate::engine::{Context, Source, only_artifact};

/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

/// Reads and checks the whole archive, without loading it; gives its length, bytes.
///
/// # Errors
/// `Corrupt` when it is not what the record says, `Unsupported` when this server or these tools cannot take it.
pub(super) async fn check(settings: &Settings, session: &Session, source: &dyn Source, cx: &Context) -> Result<u64> {
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("checking", length);
    // Only our own dumps are known to be of the form that can be walked, and only they have counts to compare with.
    let mut checking = source.recorded().map(|_| Checking::start(pgc::walk));
    // pg_restore proves that it can read the archive to its end; what it would run tells whose roles it needs.
    let restore = tools::tool(settings, "pg_restore")?.args(["--file=-", "--clean", "--if-exists"]);
    let mut taker = Taker { owners: Owners::default(), psql: None };
    let bytes = cx.unless_cancelled(convert(restore, source, &name, cx, &mut taker, checking.as_mut())).await?;
    is_whole(checking, source, &name).await?;
    taker.owners.must_be_there(session).await?;
    Ok(bytes)
}

/// Whether what was walked came to its end with the rows of the record.
pub(super) async fn is_whole(
    checking: Option<Checking<pgc::Walked>>,
    source: &dyn Source,
    name: &ArtifactName,
) -> Result<()> {
    let (Some(checking), Some(recorded)) = (checking, source.recorded()) else { return Ok(()) };
    let archive = checking.finish().await.with_context(|| format!("read the artifact {name}"))?;
    dump::same_rows("the record", &recorded.counts, &archive)
}

/// Who takes the SQL that pg_restore prints.
pub(super) struct Taker<'a> {
    /// Looks through it for roles.
    pub(super) owners: Owners,
    /// Runs it, if anybody does.
    pub(super) psql: Option<(&'a mut Psql, versions::Script)>,
}

impl Taker<'_> {
    async fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.owners.look(piece);
        match &mut self.psql {
            Some((psql, script)) if piece.is_empty() => psql.write(&script.rest()).await,
            Some((psql, script)) => psql.write(&script.pass(piece)).await,
            None => Ok(()),
        }
    }
}

/// Feeds the archive to pg_restore and hands on the SQL that it prints; both must come to their end. Gives the archive's length, bytes.
pub(super) async fn convert(
    restore: crate::process::Tool,
    source: &dyn Source,
    name: &ArtifactName,
    cx: &Context,
    sql: &mut Taker<'_>,
    walker: Option<&mut Checking<pgc::Walked>>,
) -> Result<u64> {
    let mut running = restore.feed_stdin().read_stdout().start()?;
    let (stdin, stdout) = (running.stdin.take(), running.stdout.take());
    let (Some(stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(Error::new(Kind::Internal, "pg_restore has no pipes"));
    };
    let feeding = feed(stdin, source, name, cx, walker);
    let reading = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = stdout.read(&mut buffer).await.map_err(|e| Error::io("read from pg_restore", e))?;
            sql.take(buffer.get(..n).unwrap_or_default()).await?;
            if n == 0 {
                return Ok::<_, Error>(());
            }
        }
    };
    // Who no longer takes the SQL ends the feeding too: pg_restore would wait for a reader, and the feeding for pg_restore.
    let (fed, ()) = tokio::try_join!(async { Ok(feeding.await) }, reading)?;
    let fed = match fed? {
        Fed::Whole(bytes) => bytes,
        // It stopped reading: its own words say why, the broken pipe does not.
        Fed::Refused(e) => {
            running.finish().await.map_err(|said| corrupt(said, name))?;
            return Err(e);
        }
    };
    running.finish().await.map_err(|said| corrupt(said, name))?;
    Ok(fed)
}

fn corrupt(said: Error, name: &ArtifactName) -> Error {
    if said.chain().contains("unsupported version") {
        let why = format!(
            "the artifact {name} was written by a newer pg_dump than this pg_restore reads: install a client as new as the one that dumped \
             (--postgres-bin-dir; the record names it)"
        );
        return Error::caused(Kind::Unsupported, why, said);
    }
    Error::caused(Kind::Corrupt, format!("artifact {name} cannot be read to its end"), said)
}

/// What became of an archive that was fed to a tool. What the repository says is an error of its own, and never the tool's.
enum Fed {
    /// The tool took all, so many bytes.
    Whole(u64),
    /// The tool took no more.
    Refused(Error),
}

async fn feed(
    mut stdin: ChildStdin,
    source: &dyn Source,
    name: &ArtifactName,
    cx: &Context,
    mut walker: Option<&mut Checking<pgc::Walked>>,
) -> Result<Fed> {
    let mut reader = source.open(name).await?;
    let mut total = 0;
    let mut head = Vec::new();
    while let Some(chunk) = reader.read().await? {
        if head.len() < dump::MAGIC.len() {
            head.extend_from_slice(chunk.get(..dump::MAGIC.len().min(chunk.len())).unwrap_or_default());
        }
        total += chunk.len() as u64;
        cx.advance(chunk.len() as u64);
        if let Some(walker) = &mut walker {
            walker.feed(chunk.clone()).await.with_context(|| format!("read the artifact {name}"))?;
        }
        if let Err(e) = stdin.write_all(&chunk).await {
            return Ok(Fed::Refused(Error::io("feed pg_restore", e)));
        }
    }
    if let Err(e) = stdin.shutdown().await {
        return Ok(Fed::Refused(Error::io("feed pg_restore", e)));
    }
    if head != dump::MAGIC {
        return Err(Error::new(Kind::Corrupt, format!("artifact {name} is not an archive of pg_dump")));
    }
    Ok(Fed::Whole(total))
}

/// Roles that a script needs, read from its `OWNER TO` clauses as it passes.
#[derive(Debug, Default)]
pub(super) struct Owners {
    rest: Vec<u8>,
    names: std::collections::BTreeSet<String>,
}

impl Owners {
    fn look(&mut self, sql: &[u8]) {
        for piece in sql.split_inclusive(|b| *b == b'\n') {
            // Only short lines can be such a clause; a long row of data is passed over without being kept.
            if self.rest.len() < 4096 {
                self.rest.extend_from_slice(piece.get(..piece.len().min(4096)).unwrap_or_default());
            }
            if piece.ends_with(b"\n") {
                self.line();
                self.rest.clear();
            }
        }
    }

    fn line(&mut self) {
        let Ok(line) = std::str::from_utf8(&self.rest) else { return };
        let line = line.trim_end();
        if !line.starts_with("ALTER ") || !line.ends_with(';') {
            return;
        }
        if let Some((_, owner)) = line.trim_end_matches(';').rsplit_once(" OWNER TO ") {
            let plain = owner
                .strip_prefix('"')
                .and_then(|o| o.strip_suffix('"'))
                .map_or_else(|| owner.to_owned(), |o| o.replace("\"\"", "\""));
            self.names.insert(plain);
        }
    }

    /// Whether the server has them all.
    ///
    /// # Errors
    /// `Unsupported`, with the names of those that it has not.
    pub(super) async fn must_be_there(&self, session: &Session) -> Result<()> {
        let mut missing = Vec::new();
        for name in &self.names {
            let known =
                session.rows("SELECT 1 FROM pg_roles WHERE rolname = $1", &[name]).await.context("look for a role")?;
            if known.is_empty() {
                missing.push(name.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump's objects belong to roles that this server does not have: {}. Create them first (CREATE ROLE)",
                missing.join(", ")
            ),
        ))
    }
}
