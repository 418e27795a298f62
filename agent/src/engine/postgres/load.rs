//! The load: everything that is there is dropped and everything that was dumped is made, in one transaction.
//!
//! psql gets our BEGIN, our drops, and what pg_restore makes of the archive; the COMMIT is sent only when pg_restore has ended with status 0. If anything
//! fails before, psql is killed and the old data stays.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::format::pgc;
use keepsake_core::id::ArtifactName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;

use super::session::Session;
use super::{ARTIFACT, Settings, dump, surroundings, tools, versions};
use crate::engine::{CommitReport, Context, Source, StageReport, only_artifact};
use crate::process::Running;

/// Drops what the database has, whoever owns the schema `public`. What an extension brought along stays with it.
const DROP_EVERYTHING: &str = r"
DO $keepsake$
DECLARE o record;
BEGIN
  FOR o IN SELECT nspname FROM pg_namespace n WHERE nspname <> 'public' AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%'
           AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e') LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', o.nspname);
  END LOOP;
  FOR o IN SELECT c.relname, c.relkind FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
           AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') LOOP
    IF to_regclass(format('public.%I', o.relname)) IS NOT NULL THEN
      EXECUTE format('DROP %s IF EXISTS public.%I CASCADE',
        CASE o.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, o.relname);
    END IF;
  END LOOP;
  FOR o IN SELECT p.oid::regprocedure AS signature, p.prokind FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
           AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i')) LOOP
    EXECUTE format('DROP %s IF EXISTS %s CASCADE', CASE o.prokind WHEN 'a' THEN 'AGGREGATE' WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, o.signature);
  END LOOP;
  FOR o IN SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('c', 'd', 'e', 'r')
           AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e') LOOP
    EXECUTE format('DROP TYPE IF EXISTS public.%I CASCADE', o.typname);
  END LOOP;
  PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
END
$keepsake$;
";

/// Another session that holds a lock for longer makes the load fail, by name, with the old data in place.
const LOCK_TIMEOUT: &str = "30s";
/// What psql is told to say when everything before the COMMIT has run.
const READY: &str = "keepsake-everything-is-loaded";
/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

/// Reads and checks the whole archive.
pub(super) async fn stage(settings: &Settings, source: &dyn Source, cx: &Context) -> Result<StageReport> {
    let session = Session::connect(settings).await?;
    if session.is_standby() {
        return Err(Error::new(
            Kind::Unsupported,
            "this server is a standby: point the agent at the primary (--postgres-host)",
        ));
    }
    let warnings = compare(&session, source).await?;
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("checking", length);
    let mut owners = Owners::default();
    // Only our own dumps are known to be of the form that can be walked, and only they have counts to compare with.
    let mut checking = source.recorded().map(|recorded| (recorded, Checking::start(pgc::walk)));
    // pg_restore proves that it can read the archive to its end; what it would run tells whose roles it needs.
    let restore = tools::tool(settings, "pg_restore")?.args(["--file=-", "--clean", "--if-exists"]);
    let walker = checking.as_mut().map(|(_, walker)| walker);
    let bytes = cx.unless_cancelled(convert(restore, source, &name, cx, Taker::Owners(&mut owners), walker)).await?;
    if let Some((recorded, checking)) = checking {
        let archive = checking.finish().await.with_context(|| format!("read the artifact {name}"))?;
        dump::same_rows("the record", &recorded.counts, &archive)?;
    }
    let missing = owners.missing(&session).await?;
    if !missing.is_empty() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump's objects belong to roles that this server does not have: {}. Create them first (CREATE ROLE)",
                missing.join(", ")
            ),
        ));
    }
    let counts = source.recorded().map(|r| r.counts.clone()).unwrap_or_default();
    Ok(StageReport { bytes, counts, warnings })
}

/// Whether this server can take the dump; returns what an operator should know.
async fn compare(session: &Session, source: &dyn Source) -> Result<Vec<String>> {
    let Some(recorded) = source.recorded() else { return Ok(Vec::new()) };
    let here = session.facts().await?;
    let fact = |name: &str| recorded.facts.get(name).map(String::as_str).unwrap_or_default();
    let major = fact("server_version_num").parse::<u32>().unwrap_or(0) / 10_000;
    if session.major() < major {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump is of PostgreSQL {major}, this server is {}: restore to one at least as new",
                session.major()
            ),
        ));
    }
    let encoding = here.get("encoding").map(String::as_str).unwrap_or_default();
    if !fact("encoding").is_empty() && fact("encoding") != encoding {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump's encoding is {}, this database's is {encoding}: create the database with the dump's encoding",
                fact("encoding")
            ),
        ));
    }
    Ok(surroundings::locale_warning(&recorded.facts, &here).into_iter().collect())
}

/// Who takes the SQL that pg_restore prints.
enum Taker<'a> {
    /// Looks through it for roles.
    Owners(&'a mut Owners),
    /// Runs it.
    Psql(&'a mut ChildStdin, versions::Script),
}

/// Feeds the archive to pg_restore and hands on the SQL that it prints; both must come to their end. Gives the archive's length, bytes.
async fn convert(
    restore: crate::process::Tool,
    source: &dyn Source,
    name: &ArtifactName,
    cx: &Context,
    mut sql: Taker<'_>,
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
            let piece = buffer.get(..n).unwrap_or_default();
            match &mut sql {
                Taker::Owners(owners) => owners.look(piece),
                Taker::Psql(stdin, script) if n == 0 => write(stdin, &script.rest()).await?,
                Taker::Psql(stdin, script) => write(stdin, &script.pass(piece)).await?,
            }
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

/// Replaces the database's contents.
pub(super) async fn commit(
    settings: &Settings,
    source: &dyn Source,
    cx: &Context,
    touching: impl Fn() -> Result<()>,
) -> Result<CommitReport> {
    cx.unless_cancelled(replace(settings, source, cx, touching)).await?;
    let session = Session::connect(settings).await?;
    session.run("ANALYZE").await?;
    let counts = session.counts().await?;
    let mut warnings = Vec::new();
    if let Some(recorded) = source.recorded() {
        warnings = surroundings::put_back(&session, &recorded.facts).await?;
        let differing: Vec<_> = recorded
            .counts
            .iter()
            .filter(|(name, n)| counts.get(*name) != Some(n))
            .map(|(name, n)| format!("{name}: {n} recorded, {} there", counts.get(name).copied().unwrap_or(0)))
            .collect();
        if !differing.is_empty() {
            return Err(Error::new(
                Kind::Corrupt,
                format!("after the load the database differs from the record: {}", differing.join("; ")),
            ));
        }
    }
    Ok(CommitReport { counts, warnings })
}

async fn replace(
    settings: &Settings,
    source: &dyn Source,
    cx: &Context,
    touching: impl Fn() -> Result<()>,
) -> Result<()> {
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("loading", length);
    let server = Session::connect(settings).await?.major();
    let script = versions::Script::new(server, &tools::version(settings, "pg_restore").await?);
    let psql = tools::tool(settings, "psql")?
        .args(["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null"])
        .feed_stdin()
        .read_stdout();
    let mut running = psql.start()?;
    let mut stdin = running.stdin.take().ok_or_else(|| Error::new(Kind::Internal, "psql has no stdin"))?;
    // Limits that the database sets for its applications would end a load that waits for the repository.
    let prologue = format!(
        "SET statement_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\nBEGIN;\n\
         SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';\n{DROP_EVERYTHING}"
    );
    write(&mut stdin, prologue.as_bytes()).await?;
    let restore = tools::tool(settings, "pg_restore")?.args(["--file=-", "--clean", "--if-exists"]);
    let converted = convert(restore, source, &name, cx, Taker::Psql(&mut stdin, script), None).await;
    match converted {
        Ok(_) => {}
        // psql stopped reading: it says why.
        Err(e) if e.kind() == Kind::Unavailable => return Err(said_by(running, stdin, e).await),
        // Dropping psql kills it before any COMMIT: the old data stays.
        Err(e) => return Err(e),
    }
    cx.check()?;
    // psql answers when it has run everything so far; until the COMMIT is sent nothing has changed.
    if let Err(e) = write(&mut stdin, format!("\n\\echo {READY}\n").as_bytes()).await {
        return Err(said_by(running, stdin, e).await);
    }
    if !is_ready(&mut running).await? {
        let broken = Error::new(Kind::Internal, "psql ended early");
        return Err(said_by(running, stdin, broken).await);
    }
    touching()?;
    if let Err(e) = write(&mut stdin, b"\nCOMMIT;\n").await {
        return Err(said_by(running, stdin, e).await);
    }
    drop(stdin);
    running.finish().await.map_err(|e| committing(&e))
}

/// Waits for psql's word; `false` when it ended without it.
async fn is_ready(running: &mut Running) -> Result<bool> {
    let stdout = running.stdout.as_mut().ok_or_else(|| Error::new(Kind::Internal, "psql has no stdout"))?;
    let mut lines = tokio::io::BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(|e| Error::io("read from psql", e))? {
        if line == READY {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn write(stdin: &mut ChildStdin, bytes: &[u8]) -> Result<()> {
    stdin.write_all(bytes).await.map_err(|e| Error::io("feed psql", e))
}

async fn said_by(running: Running, stdin: ChildStdin, broken: Error) -> Error {
    drop(stdin);
    match running.finish().await {
        Ok(()) => broken,
        Err(said) => loading(&said),
    }
}

/// What psql said after it was told to commit. Only the server's own refusal says that it did not.
fn committing(said: &Error) -> Error {
    if said.chain().contains("ERROR:") {
        return loading(said);
    }
    let text =
        "the load was sent to be committed, and it is not known whether it was: look at the database, or restore again";
    Error::new(Kind::Unavailable, format!("{text}: {}", said.chain()))
}

/// What psql said, with the remedy where there is one; nothing was committed.
fn loading(said: &Error) -> Error {
    let text = said.chain();
    let (kind, hint) = if text.contains("lock timeout") {
        (Kind::Busy, ". Somebody holds the tables: stop the applications first")
    } else if text.contains("must be owner") || text.contains("permission denied") {
        (Kind::Denied, ". Use the database's owner or a superuser (--postgres-user)")
    } else {
        (Kind::Internal, "")
    };
    Error::new(kind, format!("the load failed and was rolled back, the old data is in place: {text}{hint}"))
}

/// Roles that a script needs, read from its `OWNER TO` clauses as it passes.
#[derive(Debug, Default)]
struct Owners {
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

    async fn missing(&self, session: &Session) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for name in &self.names {
            let known =
                session.rows("SELECT 1 FROM pg_roles WHERE rolname = $1", &[name]).await.context("look for a role")?;
            if known.is_empty() {
                missing.push(name.clone());
            }
        }
        Ok(missing)
    }
}
