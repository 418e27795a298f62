//! The commit of a staged load, its rollback and its end: which of two databases has the live one's name.
//!
//! Both renames, what is written on both, and that connections are allowed again are one transaction, so there is no moment at which the live name is
//! nobody's. Before it the live database is closed and its connections are ended; whatever fails then opens it again.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::id::RunKey;

use super::databases::{self, Database, Load, Marker, Names, Phase};
use super::session::Session;
use super::surroundings::{commenting, ident};
use super::{Settings, connections, load, shadow};
use crate::engine::{CommitReport, Context, Staged};

/// So often the swap is tried while connections that nobody saw are in the way.
const TRIES: usize = 3;

/// Puts what the run has staged in the place of the live database.
pub(super) async fn commit(settings: &Settings, key: &RunKey, cx: &Context) -> Result<CommitReport> {
    let names = Names::new(&settings.postgres_database, key.run);
    let session = Session::beside(settings).await?;
    let found = databases::load(&session, &names.live, key.run).await?;
    one_of_both(&found, &names)?;
    match (found.state(), found) {
        (Staged::Absent, _) => {
            Err(Error::new(Kind::Conflict, format!("nothing is staged for run {}: stage it, then commit", key.run)))
        }
        (Staged::Committed, Load { old: Some(old), .. }) => report(settings, old.marker.as_ref()).await,
        // A rollback had begun and is not wanted any more.
        (Staged::Committing, Load { old: Some(old), .. }) => {
            reopen(&session, &names, &old).await?;
            report(settings, old.marker.as_ref()).await
        }
        (
            Staged::Staged | Staged::Committing,
            Load { shadow: Some(Database { marker: Some(marker), open, .. }), .. },
        ) => {
            cx.check()?;
            if !open {
                // As a commit before this one has left it.
                connections::allow(&session, &names.shadow, true).await?;
            }
            cx.phase("counting", 0);
            cx.unless_cancelled(shadow::prove(settings, &names.shadow, &marker)).await?;
            marker.at(Phase::Committing).write(&session, &names.shadow).await?;
            cx.phase("swapping", 0);
            if let Err(e) = forward(&session, &names, &marker, cx).await {
                return Err(put_back(&session, &names, &marker, e).await);
            }
            report(settings, Some(&marker)).await
        }
        _ => Err(Error::new(
            Kind::Conflict,
            format!("the stage of run {} has not finished: stage it again, then commit", key.run),
        )),
    }
}

/// Nobody but a person makes both databases of a load be there.
fn one_of_both(found: &Load, names: &Names) -> Result<()> {
    match (&found.shadow, &found.old) {
        (Some(shadow), Some(old)) => Err(Error::new(
            Kind::Conflict,
            format!(
                "both {} and {} are there, which no load leaves behind: somebody has made or renamed one. Look at {} and drop or rename what is not wanted",
                shadow.name, old.name, names.live
            ),
        )),
        _ => Ok(()),
    }
}

/// Closes both databases, ends their connections and swaps their names.
async fn forward(session: &Session, names: &Names, marker: &Marker, cx: &Context) -> Result<()> {
    let Some(live) = databases::live(session, &names.live).await? else {
        let text = format!("the database {} is gone: make an empty one, or roll this load back", names.live);
        return Err(Error::new(Kind::NotFound, text));
    };
    let kept = Marker { comment: live.comment.clone(), ..marker.at(Phase::Kept) };
    let template = if live.is_template { " IS_TEMPLATE true" } else { "" };
    let (live_name, shadow, old) = (ident(&names.live), ident(&names.shadow), ident(&names.old));
    let swap = format!(
        "BEGIN; ALTER DATABASE {live_name} RENAME TO {old}; ALTER DATABASE {shadow} RENAME TO {live_name}; {}; {}; \
         ALTER DATABASE {live_name} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT {}{template}; COMMIT",
        kept.statement(&names.old)?,
        commenting(&names.live, marker.comment.as_deref()),
        live.limit
    );
    connections::allow(session, &names.shadow, false).await?;
    connections::allow(session, &names.live, false).await?;
    swapped(session, &[&names.live, &names.shadow], &swap, cx).await
}

/// Runs a transaction that swaps names, once nobody is connected.
async fn swapped(session: &Session, databases: &[&str], swap: &str, cx: &Context) -> Result<()> {
    let mut tries = 0;
    loop {
        connections::end(session, databases, cx).await?;
        // From here on it is done or undone by the server as one.
        let Err(e) = session.run(swap).await else { return Ok(()) };
        // A server that is gone has ended the transaction, or it was through: whoever comes next looks.
        session.run("ROLLBACK").await?;
        tries += 1;
        if e.kind() != Kind::Busy || tries == TRIES {
            return Err(e.context("swap the names of the live database and the one beside it"));
        }
    }
}

/// Opens what a commit that failed has closed.
async fn put_back(session: &Session, names: &Names, marker: &Marker, failed: Error) -> Error {
    let open = async {
        connections::allow(session, &names.live, true).await?;
        connections::allow(session, &names.shadow, true).await?;
        marker.at(Phase::Staged).write(session, &names.shadow).await
    };
    match open.await {
        Ok(()) => failed.context("nothing was put in the place of the live data, which is as it was"),
        Err(left) => failed.context(format!(
            "the live database may be closed ({}): commit or roll back again, either brings it to its end",
            left.chain()
        )),
    }
}

/// What is there after a commit. The staged copy was counted right before the swap: what differs now was written since.
async fn report(settings: &Settings, marker: Option<&Marker>) -> Result<CommitReport> {
    let counts =
        Session::connect(settings).await?.counts().await.context("count what was put in the place of the live data")?;
    let mut warnings = marker.map(|m| m.warnings.clone()).unwrap_or_default();
    let since = marker.map(|m| load::differing(&m.counts, &counts)).unwrap_or_default();
    if !since.is_empty() {
        warnings.push(format!("the database was written to since it was put in place: {}", since.join("; ")));
    }
    Ok(CommitReport { counts, warnings })
}

/// How far the run's load is.
pub(super) async fn staged(settings: &Settings, key: &RunKey) -> Result<Staged> {
    let session = Session::anywhere(settings).await?;
    Ok(databases::load(&session, &settings.postgres_database, key.run).await?.state())
}

/// Whether there is nothing of it; then no right is needed to end it.
async fn is_absent(settings: &Settings, key: &RunKey) -> Result<bool> {
    Ok(staged(settings, key).await? == Staged::Absent)
}

/// Undoes whatever the run has done.
pub(super) async fn rollback(settings: &Settings, key: &RunKey, cx: &Context) -> Result<()> {
    if is_absent(settings, key).await? {
        return Ok(());
    }
    let names = Names::new(&settings.postgres_database, key.run);
    let session = Session::beside(settings).await?;
    let found = databases::load(&session, &names.live, key.run).await?;
    one_of_both(&found, &names)?;
    if let Some(old) = &found.old {
        if old.half_gone || old.phase() == Some(Phase::Dropping) {
            let text = format!(
                "run {} was finalized, and what was in {} before is gone or going: `keepsake finalize` brings that to its end, restore another set to go back",
                key.run, names.live
            );
            return Err(Error::new(Kind::Unsupported, text));
        }
        back(&session, &names, key, old, cx).await?;
    }
    let Some(shadow) = databases::load(&session, &names.live, key.run).await?.shadow else { return Ok(()) };
    // Only a commit closes the live database, and it had written so before.
    if shadow.phase() == Some(Phase::Committing) && databases::live(&session, &names.live).await?.is_some() {
        connections::allow(&session, &names.live, true).await.context("open the live database again")?;
    }
    databases::drop(&session, &shadow, &names, key.run, cx).await
}

/// Swaps the names back.
async fn back(session: &Session, names: &Names, key: &RunKey, old: &Database, cx: &Context) -> Result<()> {
    cx.check()?;
    let marker = old.marker.clone().unwrap_or_else(|| {
        // Somebody has written something else on it, which is then its comment.
        Marker { comment: old.comment.clone(), ..Marker::new(names, key.run) }
    });
    let (live_name, shadow, old_name) = (ident(&names.live), ident(&names.shadow), ident(&names.old));
    let is_there = databases::live(session, &names.live).await?.is_some();
    let aside = if is_there {
        let dropping = marker.at(Phase::Dropping).statement(&names.shadow)?;
        format!("ALTER DATABASE {live_name} RENAME TO {shadow}; {dropping};")
    } else {
        String::new()
    };
    let swap = format!(
        "BEGIN; {aside} ALTER DATABASE {old_name} RENAME TO {live_name}; {}; ALTER DATABASE {live_name} WITH ALLOW_CONNECTIONS true; COMMIT",
        commenting(&names.live, marker.comment.as_deref())
    );
    marker.at(Phase::RollingBack).write(session, &names.old).await?;
    let closed = async {
        if is_there {
            connections::allow(session, &names.live, false).await?;
        }
        let both: &[&str] = if is_there { &[&names.live, &names.old] } else { &[&names.old] };
        swapped(session, both, &swap, cx).await
    };
    let Err(failed) = closed.await else { return Ok(()) };
    let marked = Database { marker: Some(marker), ..old.clone() };
    Err(match reopen(session, names, &marked).await {
        Ok(()) => failed.context("nothing was brought back, what was loaded is in place"),
        Err(left) => failed.context(format!("the live database may be closed ({}): roll back again", left.chain())),
    })
}

/// Ends a rollback that has begun and has changed nothing yet: what was loaded stays in place.
async fn reopen(session: &Session, names: &Names, old: &Database) -> Result<()> {
    if databases::live(session, &names.live).await?.is_some() {
        connections::allow(session, &names.live, true).await?;
    }
    match &old.marker {
        Some(marker) => marker.at(Phase::Kept).write(session, &names.old).await,
        None => Ok(()),
    }
}

/// Drops the database that was live before.
pub(super) async fn finalize(settings: &Settings, key: &RunKey, cx: &Context) -> Result<()> {
    if is_absent(settings, key).await? {
        return Ok(());
    }
    let names = Names::new(&settings.postgres_database, key.run);
    let session = Session::beside(settings).await?;
    let found = databases::load(&session, &names.live, key.run).await?;
    one_of_both(&found, &names)?;
    match (found.state(), found.old) {
        (Staged::Absent, _) => Ok(()),
        (Staged::Committed, Some(old)) => databases::drop(&session, &old, &names, key.run, cx).await,
        (Staged::Committing, _) => Err(Error::new(Kind::Conflict, databases::half_made(key.run, &names.live))),
        _ => Err(Error::new(
            Kind::Conflict,
            format!(
                "what run {} has staged is not in the place of {}: commit it, or roll it back",
                key.run, names.live
            ),
        )),
    }
}
