//! The load in place, where there may be no database beside the live one: everything that is there is dropped and everything that was dumped is made, in
//! one transaction.
//!
//! psql gets our BEGIN, our drops, and what pg_restore makes of the archive; the COMMIT is sent only when pg_restore has ended with status 0. If anything
//! fails before, psql is killed and the old data stays. Whether the COMMIT was made is told by the database itself: the same transaction writes the run on it
//! (`marked`). Only a role that may not do that leaves its agent to remember.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunId;
use keepsake_core::record::Counts;

use super::archive::{Owners, Taker};
use super::databases::{Marker, Phase};
use super::psql::{Psql, loading};
use super::session::Session;
use super::{ARTIFACT, Settings, archive, marked, surroundings, tools, versions};
use crate::engine::{CommitReport, Context, Source, StageReport, only_artifact};

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
/// What is counted.
const AFTERWARDS: &str = "after the load the database";
/// What a load that failed before its COMMIT has left.
const ROLLED_BACK: &str = "the load failed and was rolled back, the old data is in place";

/// Reads and checks the whole archive.
pub(super) async fn stage(settings: &Settings, source: &dyn Source, cx: &Context) -> Result<StageReport> {
    let session = Session::connect(settings).await?;
    session.must_be_primary()?;
    let warnings = compare(&session, source).await?;
    let bytes = archive::check(settings, &session, source, cx).await?;
    let counts = source.recorded().map(|r| r.counts.clone()).unwrap_or_default();
    Ok(StageReport { bytes, counts, warnings })
}

/// Whether this server is as new as the one that was dumped.
///
/// # Errors
/// `Unsupported` when it is older.
pub(super) fn new_enough(session: &Session, source: &dyn Source) -> Result<()> {
    let recorded = source.recorded().and_then(|r| r.facts.get("server_version_num"));
    let major = recorded.and_then(|version| version.parse::<u32>().ok()).unwrap_or(0) / 10_000;
    if session.major() < major {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump is of PostgreSQL {major}, this server is {}: restore to one at least as new",
                session.major()
            ),
        ));
    }
    Ok(())
}

/// Whether this database can take the dump; returns what an operator should know.
async fn compare(session: &Session, source: &dyn Source) -> Result<Vec<String>> {
    new_enough(session, source)?;
    let Some(recorded) = source.recorded() else { return Ok(Vec::new()) };
    let here = session.facts().await?;
    let fact = |name: &str| recorded.facts.get(name).map(String::as_str).unwrap_or_default();
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

/// Whether everything that was recorded is there in the same number.
///
/// # Errors
/// `Corrupt`, with what differs.
pub(super) fn same_counts(recorded: &Counts, there: &Counts, what: &str) -> Result<()> {
    let differing = differing(recorded, there);
    if differing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("{what} differs from the record: {}", differing.join("; "))))
}

/// What differs from what was expected, in words.
pub(super) fn differing(expected: &Counts, there: &Counts) -> Vec<String> {
    let other = expected.iter().filter(|(name, n)| there.get(*name) != Some(n));
    other.map(|(name, n)| format!("{name}: {n} recorded, {} there", there.get(name).copied().unwrap_or(0))).collect()
}

/// What a load over the live data needs besides the dump.
pub(super) struct Over<'a, T, B, D> {
    pub(super) settings: &'a Settings,
    pub(super) source: &'a dyn Source,
    pub(super) run: RunId,
    /// To be called right before the COMMIT of a load of which the database will not tell.
    pub(super) touching: T,
    /// To be called when that COMMIT was refused.
    pub(super) taken_back: B,
    /// To be called when it is known that a load was committed of which the database tells: somebody may write over what tells it.
    pub(super) done: D,
}

impl<T: Fn() -> Result<()>, B: Fn() -> Result<()>, D: Fn()> Over<'_, T, B, D> {
    /// Replaces the database's contents.
    pub(super) async fn commit(&self, cx: &Context) -> Result<CommitReport> {
        let session = Session::connect(self.settings).await?;
        if marked::may_write(&session, self.settings).await? {
            let marker = marked::new(&session, self.settings, self.run, self.source).await?;
            drop(session);
            cx.unless_cancelled(self.replace(cx, Some(&marker))).await?;
            (self.done)();
            return prove_committed(self.settings, self.run).await;
        }
        drop(session);
        cx.unless_cancelled(self.replace(cx, None)).await?;
        let session = Session::connect(self.settings).await?;
        session.run("ANALYZE").await?;
        let counts = session.counts().await?;
        let mut warnings = Vec::new();
        if let Some(recorded) = self.source.recorded() {
            warnings = surroundings::put_back(&session, &self.settings.postgres_database, &recorded.facts).await?;
            same_counts(&recorded.counts, &counts, AFTERWARDS)?;
        }
        Ok(CommitReport { counts, warnings })
    }

    async fn replace(&self, cx: &Context, marker: Option<&Marker>) -> Result<()> {
        let (settings, source) = (self.settings, self.source);
        let (name, length) = only_artifact(source, ARTIFACT)?;
        cx.phase("loading", length);
        let server = Session::connect(settings).await?.major();
        let script = versions::Script::new(server, &tools::version(settings, "pg_restore").await?);
        let restore = tools::tool(settings, "pg_restore")?.args(["--file=-", "--clean", "--if-exists"]);
        let mut psql = Psql::start(settings, &settings.postgres_database)?;
        let run = async {
            // Limits that the database sets for its applications would end a load that waits for the repository. A machine that is gone must not keep its
            // locks. And what is dropped is looked for after the wait for another load.
            let prologue = format!(
                "SET statement_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\nSET tcp_keepalives_idle = 30;\n\
                 SET tcp_keepalives_interval = 10;\nSET tcp_keepalives_count = 3;\n{};\n\
                 BEGIN ISOLATION LEVEL READ COMMITTED;\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT}';\n{};\n{DROP_EVERYTHING}",
                marked::DURABLE,
                marked::locking()
            );
            psql.write(prologue.as_bytes()).await?;
            let mut taker = Taker { owners: Owners::default(), psql: Some((&mut psql, script)) };
            archive::convert(restore, source, &name, cx, &mut taker, None).await?;
            cx.check()?;
            if let Some(marker) = marker {
                let written = marker.statement(&settings.postgres_database)?;
                psql.write(format!("\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT}';\n{written};\n").as_bytes()).await?;
            }
            // Until the COMMIT is sent nothing has changed.
            psql.has_run_all().await
        };
        if let Err(e) = run.await {
            // One that is dropped is killed before any COMMIT: the old data stays.
            return Err(if psql.is_gone() { psql.said(e, |said| loading(said, ROLLED_BACK)).await } else { e });
        }
        if marker.is_none() {
            (self.touching)()?;
        }
        if let Err(e) = psql.write(b"\nCOMMIT;\n").await {
            return Err(psql.said(e, |said| loading(said, ROLLED_BACK)).await);
        }
        let Err(said) = psql.finish().await else { return Ok(()) };
        if marker.is_some() {
            return was_committed(settings, self.run, &said).await;
        }
        if is_refused(&said) {
            (self.taken_back)()?;
            return Err(loading(&said, ROLLED_BACK));
        }
        Err(unknown(Kind::Unavailable, &said))
    }
}

/// Whether a load was committed, of whose COMMIT psql has not heard the answer: asked of the database.
///
/// # Errors
/// It was not; or the database could not be asked, or not yet (`Busy`).
async fn was_committed(settings: &Settings, run: RunId, said: &Error) -> Result<()> {
    match marked::of(settings, run, marked::TO_ITS_END).await {
        Ok(Some(_)) => {
            tracing::warn!("the load was committed, and psql did not hear of it: {}", said.chain());
            Ok(())
        }
        Ok(None) | Err(_) if is_refused(said) => Err(loading(said, ROLLED_BACK)),
        Ok(None) => Err(Error::new(
            Kind::Unavailable,
            format!(
                "the way to the server was lost when the load was to be committed, and the server has rolled it back, the old data \
                 is in place: {}",
                said.chain()
            ),
        )),
        Err(unasked) => {
            let kind = if unasked.kind() == Kind::Busy { Kind::Busy } else { Kind::Unavailable };
            Err(Error::caused(kind, unknown(kind, said).chain(), unasked))
        }
    }
}

/// Brings a load to its end whose COMMIT was answered.
async fn prove_committed(settings: &Settings, run: RunId) -> Result<CommitReport> {
    match marked::of(settings, run, marked::TO_ITS_END).await? {
        Some(marker) => prove(settings, &marker).await,
        None => Err(Error::new(
            Kind::Internal,
            format!(
                "the server has committed the load of run {run}, and nothing of it is written on {}: somebody has changed the database's comment since, or loaded \
                 another dump. Look at the database, or restore again",
                settings.postgres_database
            ),
        )),
    }
}

/// Brings a load that was committed to its end, whoever made it: settings of the database, counts. May be repeated.
pub(super) async fn prove(settings: &Settings, marker: &Marker) -> Result<CommitReport> {
    let session = Session::connect(settings).await?;
    if marker.phase == Phase::Proven {
        let counts = session.counts().await?;
        let mut warnings = marker.warnings.clone();
        let since = differing(&marker.counts, &counts);
        if !since.is_empty() {
            warnings.push(format!("the database was written to since it was loaded: {}", since.join("; ")));
        }
        return Ok(CommitReport { counts, warnings });
    }
    session.run("ANALYZE").await?;
    let counts = session.counts().await?;
    let live = &settings.postgres_database;
    let warnings = surroundings::settle(&session, live, live, &marker.facts).await?;
    same_counts(&marker.counts, &counts, AFTERWARDS)?;
    marked::proven(settings, marker.run, &warnings).await?;
    Ok(CommitReport { counts, warnings })
}

/// Whether it was the server that refused to commit: then it has not.
fn is_refused(said: &Error) -> bool {
    said.chain().contains("ERROR:")
}

/// What psql said when it was told to commit and ended otherwise.
fn unknown(kind: Kind, said: &Error) -> Error {
    let text =
        "the load was sent to be committed, and it is not known whether it was: look at the database, or restore again";
    Error::new(kind, format!("{text}: {}", said.chain()))
}
