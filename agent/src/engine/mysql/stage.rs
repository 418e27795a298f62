//! Staging: the dump is loaded into a schema beside the live one while it is read and checked, then counted there.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::record::Counts;

use super::fill::Filling;
use super::in_place::new_defaults;
use super::server::{Server, name, text};
use super::shadow::{self, PREFIX, Phase, Plan, Shadow};
use super::{Mysql, busy, check, facts, memory, parts, preflight, privileges, tools};
use crate::engine::{Context, Source, StageReport};

/// Reads and checks all of it, and changes nothing: for a load over the live data.
pub(super) async fn in_place(engine: &Mysql, key: &RunKey, from: &dyn Source, cx: &Context) -> Result<StageReport> {
    let database = &engine.address.database;
    let mut server = Server::connect(&engine.address).await?;
    busy::alone(&mut server, database).await?;
    shadow::ensure_no_other(&mut server, database, key.run).await?;
    let mut warnings = preflight::server(engine, &mut server, from.recorded()).await?;
    drop(server);
    let summary = check::all(from, cx).await?;
    let mut server = Server::connect(&engine.address).await?;
    warnings.extend(preflight::dump(engine, &mut server, &summary).await?);
    Ok(StageReport { bytes: summary.bytes, counts: summary.counts(), warnings })
}

/// Refuses a load in place of a run whose load beside the live data is live, or was to be: what was there before would be of no use any more.
///
/// # Errors
/// `Conflict`, with what to do.
pub(super) async fn not_committed_beside(engine: &Mysql, key: &RunKey) -> Result<()> {
    let mut server = Server::connect(&engine.address).await?;
    match Shadow::of(&engine.address.database, key.run).phase(&mut server).await? {
        None | Some(Phase::Staging | Phase::Staged | Phase::RolledBack) => Ok(()),
        Some(Phase::Committing | Phase::Committed | Phase::RollingBack | Phase::Finalizing) => Err(Error::new(
            Kind::Conflict,
            format!(
                "run {} has begun to commit what it has loaded beside the live data: roll that back or finalize it, then load in place",
                key.run
            ),
        )),
    }
}

/// Loads it beside the live data.
pub(super) async fn run(engine: &Mysql, key: &RunKey, from: &dyn Source, cx: &Context) -> Result<StageReport> {
    let database = &engine.address.database;
    parts::of(from)?;
    let mut server = Server::connect(&engine.address).await?;
    busy::alone(&mut server, database).await?;
    let warnings = preflight::server(engine, &mut server, from.recorded()).await?;
    shadow::ensure_no_other(&mut server, database, key.run).await?;
    let shadow = Shadow::of(database, key.run);
    match shadow.phase(&mut server).await? {
        None => {}
        Some(Phase::Staging | Phase::RolledBack) => shadow.discard(&mut server).await?,
        Some(Phase::Staged) => {
            if let Some(report) = again(&mut server, &shadow, from, cx).await? {
                return Ok(report);
            }
            shadow.discard(&mut server).await?;
        }
        Some(phase) => {
            return Err(Error::new(
                Kind::Conflict,
                format!("the load of run {} is {phase:?} already: commit, roll back or finalize it", key.run),
            ));
        }
    }
    if let Err(reason) = possible(&mut server, database).await? {
        return Err(Error::new(Kind::Denied, reason));
    }
    preflight::longest(&mut server, recorded_longest(from).unwrap_or_default()).await?;
    preflight::restorable(engine, &mut server).await?;

    match load(engine, &mut server, &shadow, from, warnings, cx).await {
        Ok(report) => Ok(report),
        Err(e) => {
            // Its room may be what others lack. What cannot be dropped now is dropped by the next stage.
            if let Err(left) = dropped(engine, &shadow).await {
                tracing::warn!(schema = %shadow.new, "a stage that failed could not be dropped: {}", left.chain());
            }
            // The client stops at the first statement that it cannot run; what is wrong with the dump is known only at its end.
            if e.kind() == Kind::Internal {
                check::all(from, cx).await?;
            }
            Err(no_room(e))
        }
    }
}

/// Whether a load can be made beside the live data, and so be undone; if not, why.
pub(super) async fn possible(server: &mut Server, database: &str) -> Result<std::result::Result<(), String>> {
    let some = Shadow::of(database, keepsake_core::id::RunId::generate());
    Ok(privileges::ask(server, &some.new).await?.missing_for_staging().map_or(Ok(()), Err))
}

async fn load(
    engine: &Mysql,
    server: &mut Server,
    shadow: &Shadow,
    from: &dyn Source,
    mut warnings: Vec<String>,
    cx: &Context,
) -> Result<StageReport> {
    let database = &engine.address.database;
    let client = tools::client(&engine.programs, server.family).await?;
    let defaults = new_defaults(server, database, from).await?;
    shadow.make_notes(server).await?;
    let sql = format!("CREATE DATABASE {} CHARACTER SET {} COLLATE {}", name(&shadow.new), defaults.0, defaults.1);
    server.run("make the schema for the staged tables", &sql).await?;

    let parts = parts::of(from)?;
    cx.phase("loading", parts.iter().map(|part| part.length).sum());
    let summary = Box::pin(Filling { engine, client: &client, shadow, from, cx }.all(parts)).await?;
    check::as_recorded(from, &summary)?;
    warnings.extend(preflight::dump(engine, server, &summary).await?);

    cx.phase("counting", 0);
    // Older tools make a table of a view's name first.
    for stand_in in facts::movable(server, &shadow.new).await?.iter().filter(|t| summary.views.contains(*t)) {
        let sql = format!("DROP TABLE {}.{}", name(&shadow.new), name(stand_in));
        server.run("drop what stands in for a view", &sql).await?;
    }
    nothing_points_elsewhere(server, database, shadow).await?;
    prove(server, shadow, &summary.counts()).await?;
    let plan = Plan {
        defaults,
        tables: facts::movable(server, &shadow.new).await?,
        counts: summary.counts(),
        bytes: summary.bytes,
        warnings: warnings.clone(),
        views: summary.views,
        definers: summary.definers,
    };
    shadow.set_staged(server, &plan).await?;
    Ok(StageReport { bytes: plan.bytes, counts: plan.counts, warnings })
}

/// What was staged before, if it is that and still whole.
async fn again(server: &mut Server, shadow: &Shadow, from: &dyn Source, cx: &Context) -> Result<Option<StageReport>> {
    cx.phase("counting", 0);
    let plan = shadow.plan(server).await?;
    if from.recorded().is_some_and(|record| record.counts != plan.counts) {
        return Ok(None);
    }
    match prove(server, shadow, &plan.counts).await {
        Ok(()) => Ok(Some(StageReport { bytes: plan.bytes, counts: plan.counts, warnings: plan.warnings })),
        Err(e) if e.kind() == Kind::Corrupt => {
            tracing::warn!("what was staged is not whole, and is staged anew: {}", e.chain());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Counts what is staged.
async fn prove(server: &mut Server, shadow: &Shadow, expected: &Counts) -> Result<()> {
    let beside = |key: &str| key.starts_with("rows:") || key == "tables" || key == "sequences";
    let only = |counts: &Counts| counts.iter().filter(|(k, _)| beside(k)).map(|(k, n)| (k.clone(), *n)).collect();
    let counted: Counts = only(&facts::count(server, &shadow.new).await?);
    check::same(&only(expected), &counted, "the dump", "the staged copy").context("prove the stage by counting")
}

/// A foreign key that points out of the staged tables would still do so when they are live.
async fn nothing_points_elsewhere(server: &mut Server, database: &str, shadow: &Shadow) -> Result<()> {
    let there = facts::movable(server, &shadow.new).await?;
    let sql = format!(
        "SELECT DISTINCT table_name, referenced_table_schema, referenced_table_name FROM information_schema.key_column_usage \
         WHERE table_schema = {} AND referenced_table_schema IN ({}, {})",
        text(&shadow.new),
        text(&shadow.new),
        text(database)
    );
    for row in server.rows("look where foreign keys point", &sql).await? {
        let [table, schema, target] =
            <[Option<String>; 3]>::try_from(row).unwrap_or_default().map(Option::unwrap_or_default);
        if schema != shadow.new || !there.contains(&target) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the table {table} of the dump has a foreign key to {target}, which the dump does not have: loaded beside the live data it \
                     would point to the wrong place. Load in place, if it must be"
                ),
            ));
        }
    }
    Ok(())
}

/// The longest statement of the dump as it was recorded, bytes.
fn recorded_longest(from: &dyn Source) -> Option<u64> {
    let recorded = from.recorded().and_then(|record| record.facts.get("longest_statement"));
    recorded.and_then(|bytes| bytes.parse().ok())
}

/// How many clients load at once.
pub(super) fn clients_at_once(engine: &Mysql, from: &dyn Source) -> usize {
    memory::clients_that_fit(engine.memory, recorded_longest(from), engine.dump_processes)
}

async fn dropped(engine: &Mysql, shadow: &Shadow) -> Result<()> {
    let mut server = Server::connect(&engine.address).await?;
    shadow.discard(&mut server).await
}

/// What clients say of a full disk. The last is what MariaDB makes of it when rows are stored in bulk, "not permitted during COMMIT".
const FULL: [&str; 4] = ["error 1114 ", "error 1021 ", "Errcode: 28", "error 1180 "];

/// A full disk is the operator's to mend.
fn no_room(e: Error) -> Error {
    let told = e.chain();
    if e.kind() == Kind::Internal && FULL.iter().any(|full| told.contains(full)) {
        let text = format!(
            "the server could not store a copy beside the live data (in schemas {PREFIX}…, which were dropped again), most likely for want of \
             room: make room, or load in place"
        );
        return Error::caused(Kind::Busy, text, e);
    }
    e
}
