//! The databases of staged loads: what each is called, what is written on it, and how far its load has come.
//!
//! A load of a run has a database beside the live one, `_keepsake_<run>_<live>_new`, and after the swap another, `…_old`, which was live before. Whose they
//! are is in their names, because a database is named the moment it is there; how far the load is, in their comments. So any agent that comes later
//! goes on from what it finds.

use std::collections::BTreeMap;

use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};
use keepsake_core::id::RunId;
use keepsake_core::record::{Counts, Facts};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::connections;
use super::session::{Row, Session};
use super::surroundings::{commenting, ident};
use crate::engine::{Context, Staged};

/// What the names of all databases of loads begin with.
const PREFIX: &str = "_keepsake_";

/// What the databases of one load are called.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// The one that is served.
    pub(super) live: String,
    /// The one that is loaded beside it.
    pub(super) shadow: String,
    /// The one that was live before the swap.
    pub(super) old: String,
}

impl Names {
    /// Those of a run's load of a database. At most 59 bytes; PostgreSQL allows 63.
    pub(super) fn new(live: &str, run: RunId) -> Self {
        let head = format!("{PREFIX}{}_{}", run.as_uuid().simple(), mark(live));
        Self { live: live.to_owned(), shadow: format!("{head}_new"), old: format!("{head}_old") }
    }
}

/// Twelve digits for a database's name: a server may have several, loaded by the same run.
fn mark(live: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, live.as_bytes());
    let number = digest.as_ref().iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:012x}")
}

/// The run whose load of `live` a database belongs to, and whether it was live before.
fn parse(name: &str, live: &str) -> Option<(RunId, bool)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('_');
    let (run, whose, part) = (parts.next()?, parts.next()?, parts.next()?);
    let is_old = match part {
        "old" => true,
        "new" => false,
        _ => return None,
    };
    (whose == mark(live) && parts.next().is_none()).then_some((run.parse().ok()?, is_old))
}

/// How far a load is, as it is written on its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// On the shadow: it is being loaded.
    Loading,
    /// On the shadow: all of it was loaded and counted.
    Staged,
    /// On the shadow: it is about to be put in the place of the live one, which may be closed by now.
    Committing,
    /// On the old one: kept for a rollback.
    Kept,
    /// On the old one: it is about to be put back, and the live one may be closed by now.
    RollingBack,
    /// On either: it is being dropped, and may be half gone.
    Dropping,
    /// On the live one: a load over it was committed, and not proven yet.
    Loaded,
    /// On the live one: a load over it was committed, and counted.
    Proven,
    /// Of a newer Keepsake.
    #[serde(other)]
    Unknown,
}

/// What is written on a database of a load, as its comment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Marker {
    /// For whoever finds it.
    pub(super) keepsake: String,
    pub(super) run: RunId,
    /// The live database's name.
    pub(super) database: String,
    pub(super) phase: Phase,
    /// Plaintext bytes of the archive.
    #[serde(default)]
    pub(super) bytes: u64,
    /// What was counted in the shadow.
    #[serde(default)]
    pub(super) counts: Counts,
    /// What the commit has to tell.
    #[serde(default)]
    pub(super) warnings: Vec<String>,
    /// The comment that the database has when this is no longer written on it.
    #[serde(default)]
    pub(super) comment: Option<String>,
    /// Of a load over the live data: the settings that it brings, as in the record.
    #[serde(default, skip_serializing_if = "Facts::is_empty")]
    pub(super) facts: Facts,
}

impl Marker {
    /// One of a load that begins.
    pub(super) fn new(names: &Names, run: RunId) -> Self {
        Self {
            keepsake: "a load that keepsake-agent has begun; ended by `keepsake finalize` or `keepsake rollback`"
                .to_owned(),
            run,
            database: names.live.clone(),
            phase: Phase::Loading,
            bytes: 0,
            counts: Counts::new(),
            warnings: Vec::new(),
            comment: None,
            facts: Facts::new(),
        }
    }

    /// The same in another phase.
    pub(super) fn at(&self, phase: Phase) -> Self {
        Self { phase, ..self.clone() }
    }

    /// The statement that writes it on a database.
    pub(super) fn statement(&self, database: &str) -> Result<String> {
        let text = serde_json::to_string(self).or_kind(Kind::Internal, "write down how far the load is")?;
        Ok(commenting(database, Some(&in_ascii(&text))))
    }

    /// Writes it on a database.
    pub(super) async fn write(&self, session: &Session, database: &str) -> Result<()> {
        session.run(&self.statement(database)?).await.with_context(|| format!("write on the database {database}"))
    }
}

/// JSON without a byte that is not ASCII: whatever the encodings of client and database are, it is stored as it is.
fn in_ascii(json: &str) -> String {
    let units = json.encode_utf16();
    units.fold(String::with_capacity(json.len()), |text, unit| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii() => text + &char::from(byte).to_string(),
        _ => text + &format!("\\u{unit:04x}"),
    })
}

/// A database of a load, or the live one.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) name: String,
    /// What is written on it, if it can be read.
    pub(super) marker: Option<Marker>,
    /// Its comment.
    pub(super) comment: Option<String>,
    /// Whether anybody may connect.
    pub(super) open: bool,
    /// A DROP DATABASE has begun and not finished: nothing but another can be done to it.
    pub(super) half_gone: bool,
    /// The connections that it allows, as PostgreSQL writes it.
    pub(super) limit: i32,
    pub(super) is_template: bool,
}

/// What there is of a load.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    pub(super) shadow: Option<Database>,
    pub(super) old: Option<Database>,
}

impl Load {
    /// How far it is. What cannot be read on a shadow makes it one to be made anew; the old one is the old one whatever is written on it.
    pub(super) fn state(&self) -> Staged {
        match (&self.shadow, &self.old) {
            (None, None) => Staged::Absent,
            (Some(_), Some(_)) => Staged::Committing,
            (Some(shadow), None) => match shadow.phase() {
                _ if shadow.half_gone => Staged::Partial,
                Some(Phase::Staged) => Staged::Staged,
                Some(Phase::Committing) => Staged::Committing,
                Some(
                    Phase::Loading
                    | Phase::Kept
                    | Phase::RollingBack
                    | Phase::Dropping
                    | Phase::Loaded
                    | Phase::Proven
                    | Phase::Unknown,
                )
                | None => Staged::Partial,
            },
            (None, Some(old)) if old.phase() == Some(Phase::RollingBack) => Staged::Committing,
            (None, Some(_)) => Staged::Committed,
        }
    }
}

impl Database {
    /// How far its load is.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.marker.as_ref().map(|m| m.phase)
    }
}

const ASK: &str = "SELECT datname::text, datallowconn, datconnlimit, datistemplate, shobj_description(oid, 'pg_database') \
                   FROM pg_database WHERE datname = $1 OR ($2 <> '' AND left(datname::text, 10) = $2)";

async fn ask(session: &Session, name: &str, prefix: &str) -> Result<Vec<Database>> {
    let rows = session.rows(ASK, &[name, prefix]).await.context("look for databases of loads")?;
    let database = |row: &Row| {
        let (limit, comment): (i32, Option<String>) = (row.get(2), row.get(4));
        Database {
            name: row.get(0),
            marker: comment.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            comment,
            open: row.get(1),
            half_gone: limit == -2,
            limit,
            is_template: row.get(3),
        }
    };
    Ok(rows.iter().map(database).collect())
}

/// The loads of a database that have left something.
pub(super) async fn loads(session: &Session, live: &str) -> Result<BTreeMap<RunId, Load>> {
    let mut loads: BTreeMap<RunId, Load> = BTreeMap::new();
    for database in ask(session, "", PREFIX).await? {
        let Some((run, is_old)) = parse(&database.name, live) else { continue };
        let load = loads.entry(run).or_default();
        *(if is_old { &mut load.old } else { &mut load.shadow }) = Some(database);
    }
    Ok(loads)
}

/// What there is of a run's load.
pub(super) async fn load(session: &Session, live: &str, run: RunId) -> Result<Load> {
    Ok(loads(session, live).await?.remove(&run).unwrap_or_default())
}

/// The live database, if it is there.
pub(super) async fn live(session: &Session, name: &str) -> Result<Option<Database>> {
    Ok(ask(session, name, "").await?.pop())
}

/// Refuses a dump while one database is being put in the place of another.
///
/// # Errors
/// `Conflict`, with the run.
pub(super) async fn none_half_made(session: &Session, settings: &Settings) -> Result<()> {
    let loads = loads(session, &settings.postgres_database).await?;
    match loads.iter().find(|(_, load)| load.state() == Staged::Committing) {
        Some((run, _)) => Err(Error::new(Kind::Conflict, half_made(*run, &settings.postgres_database))),
        None => Ok(()),
    }
}

/// What is told of a load whose commit or rollback has begun and not finished.
pub(super) fn half_made(run: RunId, live: &str) -> String {
    format!(
        "the load of run {run} into {live} is half made: `keepsake rollback` brings the old data back; `keepsake finalize` is for when its commit is through"
    )
}

/// Makes way for a load: what other runs staged and did not commit is dropped.
///
/// # Errors
/// `Conflict` when another run's commit has begun and was not finalized.
pub(super) async fn make_way(session: &Session, live: &str, own: RunId, cx: &Context) -> Result<()> {
    for (run, load) in loads(session, live).await?.iter().filter(|(run, _)| **run != own) {
        match load.state() {
            Staged::Committing => return Err(Error::new(Kind::Conflict, half_made(*run, live))),
            Staged::Committed => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "run {run} has loaded {live} and was not ended: `keepsake finalize` keeps what it loaded, `keepsake rollback` brings \
                         back what was there before; then restore again"
                    ),
                ));
            }
            Staged::Absent | Staged::Partial | Staged::Staged => {
                if let Some(shadow) = &load.shadow {
                    drop(session, shadow, &Names::new(live, *run), *run, cx).await?;
                }
            }
        }
    }
    Ok(())
}

/// Drops a database of a load. May be called again when it was cut short: what is half gone is known by what is written on it.
pub(super) async fn drop(
    session: &Session,
    database: &Database,
    names: &Names,
    run: RunId,
    cx: &Context,
) -> Result<()> {
    // From the mark on it can only be dropped: whoever was told to stop has not begun.
    cx.check()?;
    let name = ident(&database.name);
    if !database.half_gone {
        if database.phase() != Some(Phase::Dropping) {
            let marker = database.marker.clone().unwrap_or_else(|| Marker::new(names, run));
            marker.at(Phase::Dropping).write(session, &database.name).await?;
        }
        // A template cannot be dropped; one that is closed stays without connections.
        session.run(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false IS_TEMPLATE false")).await?;
    }
    connections::end(session, &[&database.name], cx).await?;
    session
        .run(&format!("DROP DATABASE IF EXISTS {name}"))
        .await
        .with_context(|| format!("drop the database {}", database.name))
}

/// Why a load cannot be staged beside the live database; `None` when it can.
pub(super) async fn cannot_stage(session: &Session, settings: &Settings) -> Result<Option<String>> {
    let sql = "SELECT rolsuper, rolcreatedb, coalesce((SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = $1), true), \
               coalesce((SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1), '') \
               FROM pg_roles WHERE rolname = current_user";
    let row = session.row(sql, &[&settings.postgres_database]).await?;
    let (superuser, may_create, owner): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let (user, live) = (&settings.postgres_user, &settings.postgres_database);
    let why = if superuser {
        return Ok(None);
    } else if !owner {
        let by: String = row.get(3);
        format!(
            "the role {user} does not own the database {live}, so it may neither rename it nor write on it: use its owner {by}, or a superuser (--postgres-user)"
        )
    } else if !may_create {
        format!(
            "the role {user} may make no database beside {live}: allow it (`ALTER ROLE {} CREATEDB` as a superuser), or use a superuser (--postgres-user)",
            ident(user)
        )
    } else {
        return Ok(None);
    };
    Ok(Some(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_run_and_database_and_fit() {
        let run = RunId::generate();
        let names = Names::new("zync_production", run);
        assert!(names.old.len() <= 63, "{}", names.old);
        assert_eq!(parse(&names.shadow, "zync_production"), Some((run, false)));
        assert_eq!(parse(&names.old, "zync_production"), Some((run, true)));
        assert_eq!(parse(&names.old, "system_enterprise"), None);
        assert_ne!(names.shadow, Names::new("system_enterprise", run).shadow);
        for other in ["_keepsake_", "zync_production", "_keepsake_x_y_new", &format!("{}_x", names.old)] {
            assert_eq!(parse(other, "zync_production"), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_made_anew_or_kept() {
        let database = |text: &str, half_gone| Database {
            name: "x".to_owned(),
            marker: serde_json::from_str(text).ok(),
            comment: None,
            open: true,
            half_gone,
            limit: -1,
            is_template: false,
        };
        let names = Names::new("db", RunId::generate());
        let text = |phase| serde_json::to_string(&Marker::new(&names, RunId::generate()).at(phase)).unwrap();
        let shadow = |text: &str, gone| Load { shadow: Some(database(text, gone)), old: None }.state();
        let old = |text: &str| Load { shadow: None, old: Some(database(text, false)) }.state();
        assert_eq!(shadow("somebody's own words", false), Staged::Partial);
        assert_eq!(shadow(&text(Phase::Staged), false), Staged::Staged);
        assert_eq!(shadow(&text(Phase::Staged), true), Staged::Partial);
        assert_eq!(shadow(&text(Phase::Staged).replace("staged", "of-a-newer-one"), false), Staged::Partial);
        assert_eq!(shadow(&text(Phase::Committing), false), Staged::Committing);
        assert_eq!(old("somebody's own words"), Staged::Committed);
        assert_eq!(old(&text(Phase::Kept)), Staged::Committed);
        assert_eq!(old(&text(Phase::RollingBack)), Staged::Committing);
    }
}
