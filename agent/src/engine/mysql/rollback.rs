//! Going back from wherever a stage or commit has come to, and dropping what going back would need.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::id::RunKey;

use super::server::{Server, name};
use super::shadow::{Before, Phase, Shadow};
use super::{Mysql, busy, commit, facts, saved, swap};
use crate::engine::Context;

/// Ends with exactly the old database, and none of our schemas.
pub(super) async fn run(engine: &Mysql, key: &RunKey, cx: &Context) -> Result<()> {
    let database = &engine.address.database;
    let mut server = Server::connect(&engine.address).await?;
    let shadow = Shadow::of(database, key.run);
    if shadow.phase(&mut server).await?.is_none() {
        return Ok(());
    }
    busy::alone(&mut server, database).await?;
    match shadow.phase(&mut server).await? {
        None => return Ok(()),
        Some(Phase::Staging | Phase::Staged | Phase::RolledBack) => {}
        Some(Phase::Finalizing) => {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the load of run {key} is being finalized, and the data from before it is gone: restore another set to go back"
                ),
            ));
        }
        Some(Phase::Committing | Phase::RollingBack | Phase::Committed) => {
            busy::nobody_holds(&mut server, database).await?;
            let back = put_back(&mut server, database, &shadow, cx).await;
            back.with_context(|| format!("put back what was in {database}; roll back again"))?;
        }
    }
    shadow.discard(&mut server).await
}

async fn put_back(server: &mut Server, database: &str, shadow: &Shadow, cx: &Context) -> Result<()> {
    cx.phase("putting back", 0);
    let plan = shadow.plan(server).await?;
    let before = shadow.before(server).await?;
    shadow.set(server, Phase::RollingBack).await?;
    if facts::defaults(server, database).await?.is_some() {
        commit::clear(server, database, shadow, &plan, &before).await?;
    }
    let moves = swap::places(server, database, shadow).await?.back(&plan.tables, &before.tables);
    swap::make(server, database, shadow, &moves).await?;
    match &before.defaults {
        Some((charset, collation)) => {
            let (charset, collation) = (facts::word(charset)?, facts::word(collation)?);
            let sql = format!("ALTER DATABASE {} CHARACTER SET {charset} COLLATE {collation}", name(database));
            server.run("set the database's character set", &sql).await?;
            let all = saved::written(server, shadow).await?;
            saved::make(server, database, collation, &all).await?;
            proven(server, database, &before).await?;
        }
        None => drop_empty(server, database).await?,
    }
    shadow.set(server, Phase::RolledBack).await
}

/// There was no database: none is left, unless somebody has put something into it.
async fn drop_empty(server: &mut Server, database: &str) -> Result<()> {
    if facts::defaults(server, database).await?.is_none() {
        return Ok(());
    }
    if facts::movable(server, database).await?.is_empty() {
        return server.run("drop the database", &format!("DROP DATABASE {}", name(database))).await;
    }
    tracing::warn!(
        "the database {database} was not there before the load, but now holds tables of somebody else: it was left"
    );
    Ok(())
}

/// Everything that was there is there.
async fn proven(server: &mut Server, database: &str, before: &Before) -> Result<()> {
    let live = facts::movable(server, database).await?;
    let missing: Vec<_> = before.tables.difference(&live).cloned().collect();
    let now = facts::objects(server, database).await?;
    // An event whose time has passed meanwhile drops itself.
    let differs = ["views", "triggers", "routines"].into_iter().find(|key| now.get(*key) != before.objects.get(*key));
    if missing.is_empty() && differs.is_none() {
        return Ok(());
    }
    let missing = missing.join(", ");
    let what = differs.map_or_else(|| format!("tables are missing: {missing}"), |key| format!("there are other {key}"));
    Err(Error::new(Kind::Internal, format!("what was put back is not what was there before: {what}")))
}

/// Drops what was live before, and the notes.
pub(super) async fn finalize(engine: &Mysql, key: &RunKey) -> Result<()> {
    let database = &engine.address.database;
    let mut server = Server::connect(&engine.address).await?;
    let shadow = Shadow::of(database, key.run);
    if shadow.phase(&mut server).await?.is_none() {
        return Ok(());
    }
    busy::alone(&mut server, database).await?;
    match shadow.phase(&mut server).await? {
        None => Ok(()),
        Some(Phase::Staging | Phase::Staged | Phase::RolledBack) => shadow.discard(&mut server).await,
        Some(Phase::Committing | Phase::RollingBack) => Err(Error::new(
            Kind::Conflict,
            format!("the load of run {key} is half made: commit it, or roll it back; nothing was dropped"),
        )),
        Some(Phase::Committed | Phase::Finalizing) => {
            shadow.set(&mut server, Phase::Finalizing).await?;
            shadow.drop_all(&mut server).await
        }
    }
}
