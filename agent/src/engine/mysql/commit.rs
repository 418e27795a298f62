//! Committing: what was live is written down and put aside, what was staged is put in its place and completed, and everything is counted.
//!
//! Every step looks at what is there and does what is left to do, so that whoever comes after a crash goes on, or back (`rollback`).

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::sql::Summary;
use keepsake_core::id::RunKey;

use super::fill::{self, Side};
use super::saved::{self, Object, Saved};
use super::server::{Server, name, text};
use super::shadow::{Before, PREFIX, Phase, Plan, Shadow};
use super::swap::{self, Places};
use super::{Mysql, broken, busy, check, definers, facts, preflight, tools};
use crate::engine::{CommitReport, Context};

/// Puts the staged dump in the place of the live data.
pub(super) async fn run(engine: &Mysql, key: &RunKey, cx: &Context) -> Result<CommitReport> {
    let database = &engine.address.database;
    let mut server = Server::connect(&engine.address).await?;
    busy::alone(&mut server, database).await?;
    let shadow = Shadow::of(database, key.run);
    match shadow.phase(&mut server).await? {
        Some(Phase::Staged) => begin(engine, &mut server, &shadow).await?,
        Some(Phase::Committing) => {}
        Some(Phase::RollingBack) => shadow.set(&mut server, Phase::Committing).await?,
        Some(Phase::Committed) => {
            let plan = shadow.plan(&mut server).await?;
            return proven(&mut server, database, &plan, cx).await;
        }
        None => return Err(Error::new(Kind::Conflict, format!("nothing is staged for run {key}: stage again"))),
        Some(Phase::Staging | Phase::RolledBack) => {
            return Err(Error::new(Kind::Conflict, format!("the stage of run {key} has not finished: stage again")));
        }
        Some(Phase::Finalizing) => {
            return Err(Error::new(Kind::Conflict, format!("the load of run {key} is being finalized: finalize it")));
        }
    }
    let done = go_on(engine, &mut server, &shadow, cx).await;
    done.with_context(|| format!("put the load in the place of {database}; commit again, or roll back"))
}

/// Writes down all that is live, in one transaction. Nothing live has been changed when it fails.
async fn begin(engine: &Mysql, server: &mut Server, shadow: &Shadow) -> Result<()> {
    let database = &engine.address.database;
    preflight::writable(server).await?;
    let plan = shadow.plan(server).await?;
    if facts::movable(server, &shadow.new).await? != plan.tables {
        return Err(Error::new(
            Kind::Conflict,
            format!("somebody has changed the staged tables in {}: roll back, and stage again", shadow.new),
        ));
    }
    busy::nobody_holds(server, database).await?;
    nothing_points_here(server, database).await?;
    let live = saved::read(server, database).await?;
    let before = Before {
        defaults: facts::defaults(server, database).await?,
        tables: facts::movable(server, database).await?,
        objects: saved::counted(&live),
    };
    let doing = "write down what is live";
    server.run(doing, "START TRANSACTION").await?;
    let written = async {
        saved::write(server, shadow, &live).await?;
        shadow.set_committing(server, &before).await?;
        // As late as can be: from the next statement on what is not written down is dropped for good.
        nothing_new(server, database, &live, &before).await
    };
    if let Err(e) = written.await {
        server.run("take back what was written down", "ROLLBACK").await?;
        return Err(e);
    }
    server.run(doing, "COMMIT").await
}

/// What is there must be what was written down; else it would be dropped and nobody could bring it back.
async fn nothing_new(server: &mut Server, database: &str, live: &[Saved], before: &Before) -> Result<()> {
    let known = |kind: Object, object: &str| live.iter().any(|saved| saved.kind == kind && saved.name == object);
    let now = saved::list(server, database).await?;
    let object = now.into_iter().find(|(kind, object)| !known(*kind, object));
    let table = facts::movable(server, database).await?.into_iter().find(|table| !before.tables.contains(table));
    let made = object.map(|(kind, object)| format!("{} {object}", kind.word()));
    match made.or_else(|| table.map(|table| format!("TABLE {table}"))) {
        None => Ok(()),
        Some(made) => Err(Error::new(
            Kind::Busy,
            format!("somebody has just made the {made}: stop the applications and migrations; nothing was changed"),
        )),
    }
}

/// A foreign key in another schema follows the table that it points to, out of the database.
async fn nothing_points_here(server: &mut Server, database: &str) -> Result<()> {
    let sql = format!(
        "SELECT DISTINCT CONCAT(table_schema, '.', table_name) FROM information_schema.key_column_usage \
         WHERE referenced_table_schema = {0} AND table_schema <> {0} AND LEFT(table_schema, {1}) <> {2} LIMIT 5",
        text(database),
        PREFIX.len(),
        text(PREFIX)
    );
    let who = server.column("look for foreign keys of other databases", &sql).await?;
    if who.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "tables of other databases have foreign keys into {database}, which would go with the old tables: drop these keys first, or load in \
             place ({})",
            who.join(", ")
        ),
    ))
}

async fn go_on(engine: &Mysql, server: &mut Server, shadow: &Shadow, cx: &Context) -> Result<CommitReport> {
    let database = &engine.address.database;
    cx.phase("swapping", 0);
    let client = tools::client(&engine.programs, server.family).await?;
    let plan = shadow.plan(server).await?;
    let before = shadow.before(server).await?;
    let (charset, collation) = (facts::word(&plan.defaults.0)?, facts::word(&plan.defaults.1)?);
    for schema in [database, &shadow.old] {
        let sql = format!("CREATE DATABASE IF NOT EXISTS {} CHARACTER SET {charset} COLLATE {collation}", name(schema));
        server.run(&format!("make the schema {schema}"), &sql).await?;
    }
    clear(server, database, shadow, &plan, &before).await?;
    let moves = swap::places(server, database, shadow).await?.forward(&plan.tables, &before.tables);
    swap::make(server, database, shadow, &moves).await?;
    let sql = format!("ALTER DATABASE {} CHARACTER SET {charset} COLLATE {collation}", name(database));
    server.run("set the database's character set", &sql).await?;
    fill::run_scripts(engine, server, shadow, Side::Objects, &client)
        .await
        .context("make triggers, routines and views")?;
    if plan.counts.get("events").is_some_and(|events| *events > 0) {
        fill::run_scripts(engine, server, shadow, Side::Events, &client).await.context("make events")?;
    }
    let report = proven(server, database, &plan, cx).await?;
    shadow.set(server, Phase::Committed).await?;
    Ok(report)
}

/// Drops everything that is made of tables, and what stands in for views. All of it is written down, or of the set.
pub(super) async fn clear(
    server: &mut Server,
    database: &str,
    shadow: &Shadow,
    plan: &Plan,
    before: &Before,
) -> Result<()> {
    let dropped = saved::drop_all(server, database).await;
    busy::named(server, database, dropped).await?;
    broken::drop_stand_ins(server, database).await?;
    let Places { live, old, .. } = swap::places(server, database, shadow).await?;
    let is_ours = |table: &&String| {
        plan.views.contains(*table)
            && !plan.tables.contains(*table)
            && (!before.tables.contains(*table) || old.contains(*table))
    };
    for stand_in in live.iter().filter(is_ours) {
        let sql = format!("DROP TABLE IF EXISTS {}.{}", name(database), name(stand_in));
        server.run("drop what stands in for a view", &sql).await?;
    }
    Ok(())
}

/// Counts what is live.
async fn proven(server: &mut Server, database: &str, plan: &Plan, cx: &Context) -> Result<CommitReport> {
    cx.phase("counting", 0);
    let counts = facts::count(server, database).await?;
    check::same(&plan.counts, &counts, "the dump", "the database").context("prove the load by counting")?;
    let mut told = Summary::default();
    told.definers.clone_from(&plan.definers);
    told.events = plan.counts.get("events").copied().unwrap_or_default();
    Ok(CommitReport { counts, warnings: preflight::notes(server, &told).await? })
}

/// Whether the account may make the live objects again.
///
/// # Errors
/// `Denied`, with what to grant.
pub(super) async fn could_be_put_back(server: &mut Server, database: &str) -> Result<()> {
    let database_text = text(database);
    let sql = ["triggers:trigger_schema", "routines:routine_schema", "events:event_schema", "views:table_schema"]
        .iter()
        .filter_map(|pair| pair.split_once(':'))
        .map(|(table, schema)| {
            format!("SELECT definer FROM information_schema.{table} WHERE {schema} = {database_text} AND definer <> ''")
        })
        .collect::<Vec<_>>()
        .join(" UNION ");
    let definers = server.column("ask whom the live objects run as", &sql).await?;
    let counts = facts::objects(server, database).await?;
    let count = |key: &str| counts.get(key).copied().unwrap_or_default();
    let mut live = Summary::default();
    live.definers.extend(definers);
    (live.triggers, live.routines) = (count("triggers"), count("routines"));
    definers::may_define(server, database, &live)
        .await
        .context("make sure that what is live could be put back by a rollback")
}
