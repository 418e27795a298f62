//! Loading over the live data, for want of space: the database is dropped, made anew and filled by the client; then everything is counted.
//!
//! It cannot be undone, so it is done only when it was asked for.

use futures_util::future::BoxFuture;
use futures_util::stream::{StreamExt, TryStreamExt};
use keepsake_core::error::{Context as _, Result};
use keepsake_core::id::RunKey;

use super::parts::{self, Part, Role};
use super::server::{Server, name};
use super::{Mysql, busy, check, facts, feed, preflight, stage, tools};
use crate::engine::{ArtifactSource, CommitReport, Context, Source};
use keepsake_core::format::sql::Summary;

/// Loads the staged dump over the live database.
pub(super) async fn run(engine: &Mysql, key: &RunKey, source: &dyn Source, cx: &Context) -> Result<CommitReport> {
    let database = &engine.address.database;
    let mut server = Server::connect(&engine.address).await?;
    let client = tools::client(&engine.programs, server.family).await?;
    let (charset, collation) = new_defaults(&mut server, database, source).await?;
    busy::alone(&mut server, database).await?;
    busy::nobody_holds(&mut server, database).await?;
    // Opened before the drop, so that a source that has gone costs nothing.
    let mut artifacts = Vec::new();
    for part in parts::of(source)? {
        let artifact = source.open(&part.name).await?;
        artifacts.push((part, artifact));
    }

    engine.loads.touching(key)?;
    let made = make_anew(&mut server, database, &charset, &collation).await;
    made.with_context(|| format!("replace the database {database}"))?;

    cx.phase("loading", artifacts.iter().map(|(part, _)| part.length).sum());
    let loading = Loading { engine, client: &client, most: stage::clients_at_once(engine, source), cx };
    let summary = loading.all(artifacts).await.with_context(|| {
        format!("load the database {database}, which is incomplete now: commit again, or restore another set")
    })?;
    check::as_recorded(source, &summary)?;

    cx.phase("counting", 0);
    let mut server = Server::connect(&engine.address).await?;
    let counts = facts::count(&mut server, database).await?;
    check::same(&summary.counts(), &counts, "the dump", "the database").context("prove the load by counting")?;
    Ok(CommitReport { counts, warnings: preflight::notes(&mut server, &summary).await? })
}

/// Answers a commit that was made before.
pub(super) async fn repeated(engine: &Mysql) -> Result<CommitReport> {
    let mut server = Server::connect(&engine.address).await?;
    Ok(CommitReport { counts: facts::count(&mut server, &engine.address.database).await?, warnings: Vec::new() })
}

/// The defaults that the database had when it was dumped; without a record those that it has.
pub(super) async fn new_defaults(server: &mut Server, database: &str, source: &dyn Source) -> Result<(String, String)> {
    let fact = |key: &str| source.recorded().and_then(|r| r.facts.get(key)).cloned();
    let found = match (fact("database_character_set"), fact("database_collation")) {
        (Some(charset), Some(collation)) => (charset, collation),
        _ => facts::defaults(server, database).await?.ok_or_else(|| facts::no_database(database))?,
    };
    facts::word(&found.0)?;
    facts::word(&found.1)?;
    Ok(found)
}

async fn make_anew(server: &mut Server, database: &str, charset: &str, collation: &str) -> Result<()> {
    // Whatever is left of an earlier attempt goes too.
    server.run("drop the database", &format!("DROP DATABASE IF EXISTS {}", name(database))).await?;
    let sql = format!("CREATE DATABASE {} CHARACTER SET {charset} COLLATE {collation}", name(database));
    server.run("create the database", &sql).await
}

/// Loads artifacts, each by a client of its own.
struct Loading<'a> {
    engine: &'a Mysql,
    client: &'a tools::Found,
    /// So many clients at once.
    most: usize,
    cx: &'a Context,
}

impl Loading<'_> {
    /// All of them in their order, groups of tables at once. The first failure drops the others, and with each its client.
    async fn all(&self, artifacts: Vec<(Part, Box<dyn ArtifactSource>)>) -> Result<Summary> {
        let (tables, after): (Vec<_>, Vec<_>) =
            artifacts.into_iter().partition(|(part, _)| matches!(part.role, Role::Whole | Role::Data));
        let mut at_once: Vec<BoxFuture<'_, Result<Summary>>> = Vec::new();
        for (part, artifact) in tables {
            at_once.push(Box::pin(self.one(part, artifact)));
        }
        let mut whole = Summary::default();
        let most = self.most;
        let mut done = futures_util::stream::iter(at_once).buffer_unordered(most);
        while let Some(summary) = done.try_next().await? {
            whole.absorb(summary)?;
        }
        drop(done);
        // These stand on the tables, and triggers may not fire for rows that are loaded.
        for (part, artifact) in after {
            whole.absorb(Box::pin(self.one(part, artifact)).await?)?;
        }
        Ok(whole)
    }

    async fn one(&self, part: Part, mut artifact: Box<dyn ArtifactSource>) -> Result<Summary> {
        let address = &self.engine.address;
        let password = address.password()?;
        let slot = self.engine.clients.take();
        let lock = busy::client_lock(&address.database, &slot);
        let tool = tools::load(self.client, address, password.as_ref(), &address.database, &lock);
        feed::whole(tool, artifact.as_mut(), self.cx).await.with_context(|| format!("load {}", part.name))
    }
}
