//! The stage: a database beside the live one, made as the record says, filled by pg_restore, counted, and only then called staged.
//!
//! The archive is read once. What goes wrong costs nothing but the shadow, which is dropped at once: its room may be the live data's.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::format::pgc;
use keepsake_core::id::RunKey;
use keepsake_core::record::Facts;

use super::archive::{Owners, Taker};
use super::databases::{self, Marker, Names, Phase};
use super::psql::{Psql, loading};
use super::session::Session;
use super::surroundings::{self, ident, literal};
use super::{ARTIFACT, Settings, archive, load, tools, versions};
use crate::engine::{Context, Source, StageReport, Staged, only_artifact};

/// What a load that failed has left.
const UNTOUCHED: &str = "the load into a database beside the live one failed, the live data is untouched";

/// Stages a dump.
pub(super) async fn stage(settings: &Settings, key: &RunKey, source: &dyn Source, cx: &Context) -> Result<StageReport> {
    let names = Names::new(&settings.postgres_database, key.run);
    let session = Session::beside(settings).await?;
    session.must_be_primary()?;
    if let Some(why) = databases::cannot_stage(&session, settings).await? {
        let text = format!("{why}. Without that only a load in place is possible, which cannot be undone (--in-place)");
        return Err(Error::new(Kind::Unsupported, text));
    }
    databases::make_way(&session, &names.live, key.run, cx).await?;
    let found = databases::load(&session, &names.live, key.run).await?;
    match (found.state(), &found.shadow) {
        (Staged::Committing, _) => return Err(Error::new(Kind::Conflict, databases::half_made(key.run, &names.live))),
        (Staged::Committed, _) => {
            let text = format!("what run {} has staged is in the place of {} already", key.run, names.live);
            return Err(Error::new(Kind::Conflict, text));
        }
        (Staged::Staged, Some(shadow)) => match again(settings, shadow, source).await {
            Ok(report) => return Ok(report),
            Err(e) if e.kind() == Kind::Corrupt => databases::drop(&session, shadow, &names, key.run, cx).await?,
            Err(e) => return Err(e),
        },
        (_, Some(shadow)) => databases::drop(&session, shadow, &names, key.run, cx).await?,
        (_, None) => {}
    }
    load::new_enough(&session, source)?;
    let failed = match build(settings, &session, key, &names, source, cx).await {
        Ok(report) => return Ok(report),
        Err(e) => e,
    };
    match drop_at_once(&session, &names, key).await {
        Ok(()) => Err(failed),
        Err(left) => Err(failed.context(format!(
            "the stage failed, and what it has begun stays until it is rolled back or begun anew ({})",
            left.chain()
        ))),
    }
}

/// Also when the stage was cancelled.
async fn drop_at_once(session: &Session, names: &Names, key: &RunKey) -> Result<()> {
    let (cx, _progress) = Context::new(tokio_util::sync::CancellationToken::new());
    match databases::load(session, &names.live, key.run).await?.shadow {
        Some(shadow) => databases::drop(session, &shadow, names, key.run, &cx).await,
        None => Ok(()),
    }
}

/// Checks what was staged before.
///
/// # Errors
/// `Corrupt` when it is no longer what was staged, or is of another dump.
async fn again(settings: &Settings, shadow: &databases::Database, source: &dyn Source) -> Result<StageReport> {
    let Some(marker) = &shadow.marker else {
        return Err(Error::new(Kind::Corrupt, "nothing is written on what was staged"));
    };
    let counts = prove(settings, &shadow.name, marker).await?;
    if let Some(recorded) = source.recorded() {
        load::same_counts(&recorded.counts, &counts, "what was staged")?;
    }
    Ok(StageReport { bytes: marker.bytes, counts, warnings: Vec::new() })
}

/// Counts a shadow.
///
/// # Errors
/// `Corrupt` when that is not what was counted when it was staged.
pub(super) async fn prove(settings: &Settings, shadow: &str, marker: &Marker) -> Result<keepsake_core::record::Counts> {
    let counts = Session::connect_to(settings, shadow).await?.counts().await?;
    load::same_counts(&marker.counts, &counts, "what was staged")?;
    Ok(counts)
}

/// What the shadow is made like: the record where it tells, else the live database.
struct Model {
    facts: Facts,
    live: Facts,
    /// Where it is on the disk; empty for where databases are without a word.
    tablespace: String,
}

async fn build(
    settings: &Settings,
    session: &Session,
    key: &RunKey,
    names: &Names,
    source: &dyn Source,
    cx: &Context,
) -> Result<StageReport> {
    let live = Session::connect(settings).await?.facts().await?;
    let mut facts = live.clone();
    if let Some(recorded) = source.recorded() {
        // A record of an older server tells of no provider: it was the C library's.
        facts.remove("icu_rules");
        facts.insert("locale_provider".to_owned(), "c".to_owned());
        facts.extend(recorded.facts.clone());
    }
    // The tablespace that it has without a word may be used without a right to.
    let sql = "SELECT coalesce((SELECT t.spcname::text FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace \
               WHERE d.datname = $1 AND d.dattablespace <> (SELECT dattablespace FROM pg_database WHERE datname = 'template0')), '')";
    let tablespace = session.row(sql, &[&names.live]).await?.get(0);
    let model = Model { facts, live, tablespace };
    let mut warnings = make(session, names, &model).await?;
    let mut marker = Marker::new(names, key.run);
    marker.comment = surroundings::comment(&model.facts).map(str::to_owned);
    marker.write(session, &names.shadow).await?;
    for statement in same_rights(session, names).await? {
        session.run(&statement).await.context("give the database beside the live one its rights")?;
    }
    marker.bytes = fill(settings, session, names, source, cx).await?;

    cx.phase("counting", 0);
    let counting = async {
        let shadow = Session::connect_to(settings, &names.shadow).await?;
        let counts = shadow.counts().await?;
        if let Some(recorded) = source.recorded() {
            load::same_counts(&recorded.counts, &counts, "what was loaded")?;
        }
        // Now, not when the applications wait for it; what it finds goes with the database.
        shadow.run("ANALYZE").await?;
        Ok(counts)
    };
    marker.counts = cx.unless_cancelled(counting).await?;
    // Last: they may be such that nothing could be loaded.
    marker.warnings = surroundings::settle(session, &names.shadow, &names.live, &model.facts).await?;
    cx.check()?;
    marker.at(Phase::Staged).write(session, &names.shadow).await?;
    warnings.extend(marker.warnings);
    Ok(StageReport { bytes: marker.bytes, counts: marker.counts, warnings })
}

/// Makes the database; gives what an operator should know.
async fn make(session: &Session, names: &Names, model: &Model) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let fact = |name: &str| model.facts.get(name).map(String::as_str).unwrap_or_default();
    let mut owner = fact("owner");
    let here = model.live.get("owner").map(String::as_str).unwrap_or_default();
    if owner != here && !may_give_to(session, owner).await? {
        warnings.push(format!(
            "the database belonged to {owner}, a role that is not there or that this one may give nothing to: it belongs to {here} as before"
        ));
        owner = here;
    }
    let mut head = format!("CREATE DATABASE {} TEMPLATE template0 OWNER {}", ident(&names.shadow), ident(owner));
    if !model.tablespace.is_empty() {
        head.push_str(&format!(" TABLESPACE {}", ident(&model.tablespace)));
    }
    let what = || format!("make the database {} beside the live one", names.shadow);
    let refused = match session.run(&format!("{head} {}", as_told(session, &model.facts)?)).await {
        Ok(()) => return Ok(warnings),
        Err(e) if e.kind() == Kind::Unsupported => e,
        Err(e) => return Err(e.context(what())),
    };
    // The locale of the machine that was dumped is not on this one.
    if fact("encoding") != model.live.get("encoding").map(String::as_str).unwrap_or_default() {
        return Err(refused.context(what()));
    }
    session.run(&format!("{head} {}", as_told(session, &model.live)?)).await.with_context(what)?;
    warnings.extend(surroundings::locale_warning(&model.facts, &model.live));
    Ok(warnings)
}

/// Encoding and locale, in the words of this server's version.
fn as_told(session: &Session, facts: &Facts) -> Result<String> {
    let fact = |name: &str| facts.get(name).map(|value| literal(value)).unwrap_or_default();
    let mut sql = format!("ENCODING {} LC_COLLATE {} LC_CTYPE {}", fact("encoding"), fact("collate"), fact("ctype"));
    if session.major() >= 15 {
        match facts.get("locale_provider").map(String::as_str) {
            Some("i") => {
                sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", fact("locale")));
                if facts.contains_key("icu_rules") {
                    sql.push_str(&format!(" ICU_RULES {}", fact("icu_rules")));
                }
            }
            Some("b") => sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", fact("locale"))),
            Some("c") | None => sql.push_str(" LOCALE_PROVIDER libc"),
            Some(other) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the dump's database sorts by {other:?}, which this Keepsake does not know"),
                ));
            }
        }
    }
    Ok(sql)
}

async fn may_give_to(session: &Session, role: &str) -> Result<bool> {
    // Since 16 being a member is not enough.
    let how = if session.major() >= 16 { "SET" } else { "MEMBER" };
    // Who does not use its rights by itself may make the database, but neither fill it nor give it another name.
    let sql =
        format!("SELECT pg_has_role(oid, '{how}') AND pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = $1");
    Ok(session.rows(&sql, &[role]).await?.first().is_some_and(|row| row.get(0)))
}

/// The statements that give the shadow the live database's rights: who may connect, and make schemas and temporary tables.
async fn same_rights(session: &Session, names: &Names) -> Result<Vec<String>> {
    let sql = "SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' WHEN d.datdba THEN s.owner ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
               a.privilege_type, a.is_grantable, s.owner FROM pg_database d CROSS JOIN \
               (SELECT quote_ident(pg_get_userbyid(datdba)) AS owner FROM pg_database WHERE datname = $2) s \
               LEFT JOIN LATERAL aclexplode(d.datacl) a ON true WHERE d.datname = $1 AND d.datacl IS NOT NULL";
    let rows = session.rows(sql, &[&names.live, &names.shadow]).await?;
    let shadow = ident(&names.shadow);
    let mut statements = Vec::new();
    if let Some(row) = rows.first() {
        let owner: String = row.get(3);
        statements.push(format!("REVOKE ALL ON DATABASE {shadow} FROM PUBLIC, {owner}"));
    }
    for row in &rows {
        let (Some(to), Some(what)) = (row.get::<_, Option<String>>(0), row.get::<_, Option<String>>(1)) else {
            continue;
        };
        let grantable = if row.get::<_, Option<bool>>(2) == Some(true) { " WITH GRANT OPTION" } else { "" };
        statements.push(format!("GRANT {what} ON DATABASE {shadow} TO {to}{grantable}"));
    }
    Ok(statements)
}

/// Loads the archive into the shadow; gives its length, bytes.
async fn fill(settings: &Settings, session: &Session, names: &Names, source: &dyn Source, cx: &Context) -> Result<u64> {
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("loading", length);
    let mut checking = source.recorded().map(|_| Checking::start(pgc::walk));
    let script = versions::Script::new(session.major(), &tools::version(settings, "pg_restore").await?);
    let restore = tools::tool(settings, "pg_restore")?.args(["--file=-"]);
    let mut psql = Psql::start(settings, &names.shadow)?;
    let mut owners = Owners::default();
    let run = async {
        // In no transaction, which would keep a lock on each of thousands of tables. A half of it is never taken for the whole, so nothing need be on the
        // disk before the end: what is written on the shadow then brings everything before with it.
        psql.write(b"SET statement_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\nSET synchronous_commit = off;\n")
            .await?;
        let mut taker = Taker { owners: std::mem::take(&mut owners), psql: Some((&mut psql, script)) };
        let fed = archive::convert(restore, source, &name, cx, &mut taker, checking.as_mut()).await;
        owners = taker.owners;
        let bytes = fed?;
        psql.has_run_all().await?;
        Ok(bytes)
    };
    let bytes = match cx.unless_cancelled(run).await {
        Ok(bytes) => bytes,
        Err(e) if psql.is_gone() => {
            let said = psql.said(e, |said| loading(said, UNTOUCHED)).await;
            return Err(why(settings, session, source, cx, &owners, said).await);
        }
        Err(e) => return Err(e),
    };
    psql.finish().await.map_err(|said| loading(&said, UNTOUCHED))?;
    archive::is_whole(checking, source, &name).await?;
    Ok(bytes)
}

/// Why psql failed: because a role is missing, or the archive is damaged, which all of it must be read for; else its own words.
async fn why(
    settings: &Settings,
    session: &Session,
    source: &dyn Source,
    cx: &Context,
    owners: &Owners,
    said: Error,
) -> Error {
    if said.kind() != Kind::Internal {
        return said;
    }
    match owners.must_be_there(session).await {
        Err(e) if e.kind() == Kind::Unsupported => return Error::caused(e.kind(), e.chain(), said),
        _ => {}
    }
    match archive::check(settings, session, source, cx).await {
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unsupported) => Error::caused(e.kind(), e.chain(), said),
        _ => said,
    }
}
