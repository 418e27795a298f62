//! What a load in place writes on the live database, within its own transaction: its run, as the database's comment. So the database itself tells any
//! agent whether the load was committed, however the one that made it ended.
//!
//! A load's transaction holds a lock from its beginning to its end, and whoever asks takes that lock first: a COMMIT that is on its way, sent by an agent
//! that is gone, is waited for and not called absent. Locks of this kind belong to the database and need no right.

use std::time::Duration;

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::id::RunId;

use super::Settings;
use super::databases::{self, Marker, Names, Phase};
use super::session::Session;
use super::surroundings::{self, commenting};
use crate::engine::Source;

/// The lock's two numbers. que and the migrations of Rails lock by one number, which is a space of its own.
const LOCK: &str = "1264936304, 1";
/// So long a load that is not over is waited for by whoever asks in passing.
pub(super) const IN_PASSING: Duration = Duration::from_secs(10);
/// And so long by whoever goes on with it: a large transaction takes its time to be committed.
pub(super) const TO_ITS_END: Duration = Duration::from_mins(1);
/// What was written must not be lost in a crash that comes after the answer.
pub(super) const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
/// For whoever finds it.
const WORDS: &str = "a load that keepsake-agent has made over the live data; the end of its restore, or of the next one, puts the database's own comment back";

/// The statement with which a load's transaction begins: it waits for any other load's end.
pub(super) fn locking() -> String {
    format!("SELECT pg_catalog.pg_advisory_xact_lock({LOCK})")
}

/// Whether this role may write on the live database. Its owner may, with whoever has the owner's rights.
pub(super) async fn may_write(session: &Session, settings: &Settings) -> Result<bool> {
    let sql = "SELECT rolsuper OR coalesce((SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = $1), false) \
               FROM pg_roles WHERE rolname = current_user";
    let rows = session.rows(sql, &[&settings.postgres_database]).await.context("ask whose the database is")?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// What a run's load is to write before its COMMIT: with it whoever comes later can bring the load to its end without the set.
pub(super) async fn new(session: &Session, settings: &Settings, run: RunId, source: &dyn Source) -> Result<Marker> {
    let live = &settings.postgres_database;
    let recorded = source.recorded();
    let told = recorded.map(|r| surroundings::recorded(&r.facts)).unwrap_or_default();
    let comment = match recorded.filter(|_| !told.is_empty()) {
        Some(recorded) => surroundings::comment(&recorded.facts).map(str::to_owned),
        // That of before; of a load that was never finalized, the one from before that.
        None => databases::live(session, live).await?.and_then(|d| d.comment).map(|text| own_comment(&text)),
    };
    Ok(Marker {
        keepsake: WORDS.to_owned(),
        counts: recorded.map(|r| r.counts.clone()).unwrap_or_default(),
        facts: told,
        comment: comment.filter(|text| !text.is_empty()),
        ..Marker::new(&Names::new(live, run), run).at(Phase::Loaded)
    })
}

/// What the run's load has written on the live database; none when it was not committed, and will not be.
///
/// # Errors
/// `Busy` while a load is not over; `Unavailable` for a standby, which may not have heard of it yet.
pub(super) async fn of(settings: &Settings, run: RunId, patience: Duration) -> Result<Option<Marker>> {
    let Some(session) = between_loads(settings, patience).await? else { return Ok(None) };
    let marker = written(&session, settings).await?.filter(|marker| marker.run == run);
    // Whoever loads next need not wait for the server to see that nobody is there any more.
    session.run("COMMIT").await?;
    Ok(marker)
}

/// The load was proven: whoever asks again is told so.
pub(super) async fn proven(settings: &Settings, run: RunId, warnings: &[String]) -> Result<()> {
    rewrite(settings, run, |marker| {
        Marker { warnings: warnings.to_vec(), ..marker.at(Phase::Proven) }.statement(&settings.postgres_database)
    })
    .await
}

/// Takes away what the run's load has written, if it is there: the database has its own comment again.
pub(super) async fn take_away(settings: &Settings, run: RunId) -> Result<()> {
    rewrite(settings, run, |marker| Ok(commenting(&settings.postgres_database, marker.comment.as_deref()))).await
}

/// A database's own comment: what a load has written on it keeps it.
pub(super) fn own_comment(text: &str) -> String {
    parse(text).map_or_else(|| text.to_owned(), |marker| marker.comment.unwrap_or_default())
}

fn parse(text: &str) -> Option<Marker> {
    let marker: Marker = serde_json::from_str(text).ok()?;
    matches!(marker.phase, Phase::Loaded | Phase::Proven).then_some(marker)
}

/// Writes something else where the run's load has written, unless another load has been there since.
async fn rewrite(settings: &Settings, run: RunId, what: impl FnOnce(&Marker) -> Result<String>) -> Result<()> {
    let Some(session) = between_loads(settings, IN_PASSING).await? else { return Ok(()) };
    let Some(marker) = written(&session, settings).await?.filter(|marker| marker.run == run) else {
        return session.run("COMMIT").await;
    };
    let statement = what(&marker)?;
    let done = session.run(&format!("{statement}; COMMIT")).await;
    done.with_context(|| format!("write on the database {}", settings.postgres_database))
}

async fn written(session: &Session, settings: &Settings) -> Result<Option<Marker>> {
    let live = databases::live(session, &settings.postgres_database).await?;
    Ok(live.and_then(|database| parse(&database.comment?)))
}

/// A session in a transaction beside which there is no load's; what it sees of loads stays so until it ends. None where there is no such database.
async fn between_loads(settings: &Settings, patience: Duration) -> Result<Option<Session>> {
    let live = &settings.postgres_database;
    let session = match Session::connect(settings).await {
        // It may be something else that was not found: a file with a password.
        Err(e) if e.kind() == Kind::NotFound => {
            let beside = Session::beside(settings).await?;
            return if databases::live(&beside, live).await?.is_none() { Ok(None) } else { Err(e) };
        }
        connected => connected?,
    };
    if let Err(standby) = session.must_be_primary() {
        return Err(Error::caused(Kind::Unavailable, "whether a load was committed, only the primary knows", standby));
    }
    // Not with a snapshot from before the lock, whatever is the rule in this database. A machine that is gone must not keep the lock.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; SET LOCAL tcp_keepalives_count = 3; \
         SET LOCAL idle_in_transaction_session_timeout = '1min'; SET LOCAL lock_timeout = {}; {}",
        patience.as_millis(),
        locking()
    );
    session.run(DURABLE).await?;
    session.run(&begin).await.with_context(|| {
        format!("wait for the end of a load over {live}, which may be that of an agent that is gone: ask again")
    })?;
    Ok(Some(session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_load_in_place_has_written_hides_a_comment() {
        let run = RunId::generate();
        let marker = |phase, comment: Option<&str>| {
            let marker = Marker { comment: comment.map(str::to_owned), ..Marker::new(&Names::new("db", run), run) };
            serde_json::to_string(&marker.at(phase)).unwrap()
        };
        assert_eq!(own_comment(&marker(Phase::Loaded, Some("theirs"))), "theirs");
        assert_eq!(own_comment(&marker(Phase::Proven, None)), "");
        for theirs in ["", "words", "{}", "{\"run\": 1}", &marker(Phase::Kept, Some("theirs"))] {
            assert_eq!(own_comment(theirs), theirs);
        }
    }
}
