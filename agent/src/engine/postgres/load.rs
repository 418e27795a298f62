//! The load in place, where there may be no database beside the live one: everything that is there is dropped and everything that was dumped is made, in
//! one transaction.
//!
//! psql gets our BEGIN, our drops, and what pg_restore makes of the archive; the COMMIT is sent only when pg_restore has ended with status 0. If anything
//! fails before, psql is killed and the old data stays.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::Counts;

use super::archive::{Owners, Taker};
use super::psql::{Psql, loading};
use super::session::Session;
use super::{ARTIFACT, Settings, archive, surroundings, tools, versions};
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

/// Replaces the database's contents.
pub(super) async fn commit(
    settings: &Settings,
    source: &dyn Source,
    cx: &Context,
    touching: impl Fn() -> Result<()>,
    taken_back: impl Fn() -> Result<()>,
) -> Result<CommitReport> {
    cx.unless_cancelled(replace(settings, source, cx, touching, taken_back)).await?;
    let session = Session::connect(settings).await?;
    session.run("ANALYZE").await?;
    let counts = session.counts().await?;
    let mut warnings = Vec::new();
    if let Some(recorded) = source.recorded() {
        warnings = surroundings::put_back(&session, &settings.postgres_database, &recorded.facts).await?;
        same_counts(&recorded.counts, &counts, "after the load the database")?;
    }
    Ok(CommitReport { counts, warnings })
}

async fn replace(
    settings: &Settings,
    source: &dyn Source,
    cx: &Context,
    touching: impl Fn() -> Result<()>,
    taken_back: impl Fn() -> Result<()>,
) -> Result<()> {
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("loading", length);
    let server = Session::connect(settings).await?.major();
    let script = versions::Script::new(server, &tools::version(settings, "pg_restore").await?);
    let restore = tools::tool(settings, "pg_restore")?.args(["--file=-", "--clean", "--if-exists"]);
    let mut psql = Psql::start(settings, &settings.postgres_database)?;
    let run = async {
        // Limits that the database sets for its applications would end a load that waits for the repository.
        let prologue = format!(
            "SET statement_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\nBEGIN;\n\
             SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';\n{DROP_EVERYTHING}"
        );
        psql.write(prologue.as_bytes()).await?;
        let mut taker = Taker { owners: Owners::default(), psql: Some((&mut psql, script)) };
        archive::convert(restore, source, &name, cx, &mut taker, None).await?;
        cx.check()?;
        // Until the COMMIT is sent nothing has changed.
        psql.has_run_all().await
    };
    if let Err(e) = run.await {
        // One that is dropped is killed before any COMMIT: the old data stays.
        return Err(if psql.is_gone() { psql.said(e, |said| loading(said, ROLLED_BACK)).await } else { e });
    }
    touching()?;
    if let Err(e) = psql.write(b"\nCOMMIT;\n").await {
        return Err(psql.said(e, |said| loading(said, ROLLED_BACK)).await);
    }
    match psql.finish().await {
        Ok(()) => Ok(()),
        Err(said) if is_refused(&said) => {
            taken_back()?;
            Err(loading(&said, ROLLED_BACK))
        }
        Err(said) => Err(unknown(&said)),
    }
}

/// Whether it was the server that refused to commit: then it has not.
fn is_refused(said: &Error) -> bool {
    said.chain().contains("ERROR:")
}

/// What psql said when it was told to commit and ended otherwise.
fn unknown(said: &Error) -> Error {
    let text =
        "the load was sent to be committed, and it is not known whether it was: look at the database, or restore again";
    Error::new(Kind::Unavailable, format!("{text}: {}", said.chain()))
}
