//! Filling the schema of the staged tables: tables and rows by clients, several at once; what is made of them goes into the load's notes.

use futures_util::future::BoxFuture;
use futures_util::stream::{StreamExt, TryStreamExt};
use keepsake_core::error::{Context as _, Result};
use keepsake_core::format::sql::{Pieces, Splitter, Summary};

use super::feed::Client;
use super::parts::{Part, Role};
use super::saved::hex;
use super::server::{Address, Server, name};
use super::shadow::Shadow;
use super::{Mysql, busy, stage, tools};
use crate::engine::{Context, Source};

/// How much of a script is in one row of the notes, bytes; in hex it still fits into the smallest packet that servers have.
const ROW: usize = 128 * 1024;

/// A side of a dump that is run when the tables are in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Triggers, routines, views.
    Objects,
    /// Events.
    Events,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Events => "events",
        }
    }
}

/// A load into the staged schema.
pub(super) struct Filling<'a> {
    pub(super) engine: &'a Mysql,
    pub(super) client: &'a tools::Found,
    pub(super) shadow: &'a Shadow,
    pub(super) from: &'a dyn Source,
    pub(super) cx: &'a Context,
}

impl Filling<'_> {
    /// All parts, those with tables at once. The first failure drops the others, and with each its client.
    pub(super) async fn all(&self, parts: Vec<Part>) -> Result<Summary> {
        let (tables, after): (Vec<_>, Vec<_>) =
            parts.into_iter().enumerate().partition(|(_, part)| matches!(part.role, Role::Whole | Role::Data));
        let at_once: Vec<BoxFuture<'_, Result<Summary>>> =
            tables.into_iter().map(|(n, part)| -> BoxFuture<'_, _> { Box::pin(self.one(n, part)) }).collect();
        let mut whole = Summary::default();
        let most = stage::clients_at_once(self.engine, self.from);
        let mut done = futures_util::stream::iter(at_once).buffer_unordered(most);
        while let Some(summary) = done.try_next().await? {
            whole.absorb(summary)?;
        }
        drop(done);
        for (n, part) in after {
            whole.absorb(Box::pin(self.one(n, part)).await?)?;
        }
        Ok(whole)
    }

    async fn one(&self, n: usize, part: Part) -> Result<Summary> {
        let doing = || format!("load {}", part.name);
        let summary = Box::pin(self.split(n, &part)).await.with_context(doing)?;
        part.holds(&summary)?;
        Ok(summary)
    }

    async fn split(&self, n: usize, part: &Part) -> Result<Summary> {
        let address = &self.engine.address;
        let mut artifact = self.from.open(&part.name).await?;
        let password = address.password()?;
        let has_tables = matches!(part.role, Role::Whole | Role::Data);
        let slot = self.engine.clients.take();
        let mut client = if has_tables {
            let lock = busy::client_lock(&address.database, &slot);
            Some(Client::start(tools::load(self.client, address, password.as_ref(), &self.shadow.new, &lock))?)
        } else {
            None
        };
        let mut scripts = (part.role != Role::Data).then(|| Scripts::new(address, self.shadow, n));
        let (mut splitter, mut pieces) = (Splitter::default(), Pieces::default());
        while let Some(chunk) = artifact.read().await? {
            splitter.feed(&chunk, &mut pieces).context("read the dump")?;
            if let Some(open) = client.take() {
                client = Some(open.write(&pieces.tables).await?);
            }
            if let Some(scripts) = &mut scripts {
                scripts.add(&pieces).await?;
            }
            pieces.tables.clear();
            pieces.objects.clear();
            pieces.events.clear();
            self.cx.advance(chunk.len() as u64);
        }
        // Before the client learns that this was all.
        let summary = splitter.finish().context("read the dump")?;
        if let Some(open) = client {
            open.finish().await?;
        }
        if let Some(scripts) = scripts {
            scripts.finish().await?;
        }
        Ok(summary)
    }
}

/// Writes the scripts of one part into the load's notes.
struct Scripts<'a> {
    address: &'a Address,
    shadow: &'a Shadow,
    part: usize,
    server: Option<Server>,
    sides: [(Side, Vec<u8>, usize); 2],
}

impl<'a> Scripts<'a> {
    fn new(address: &'a Address, shadow: &'a Shadow, part: usize) -> Self {
        let sides = [(Side::Objects, Vec::new(), 0), (Side::Events, Vec::new(), 0)];
        Self { address, shadow, part, server: None, sides }
    }

    async fn add(&mut self, pieces: &Pieces) -> Result<()> {
        for (side, body, _) in &mut self.sides {
            body.extend_from_slice(match side {
                Side::Objects => &pieces.objects,
                Side::Events => &pieces.events,
            });
        }
        self.write(ROW).await
    }

    async fn finish(mut self) -> Result<()> {
        self.write(1).await
    }

    /// Writes rows as long as there are so many bytes.
    async fn write(&mut self, least: usize) -> Result<()> {
        for (side, body, n) in &mut self.sides {
            while body.len() >= least {
                let server = match &mut self.server {
                    Some(server) => server,
                    none => {
                        let mut server = Server::connect(self.address).await?;
                        // Hours of rows may lie between two triggers.
                        server.run("keep the connection", "SET SESSION wait_timeout = 86400").await?;
                        none.insert(server)
                    }
                };
                let rest = body.split_off(body.len().min(ROW));
                let sql = format!(
                    "INSERT INTO {}.script VALUES ({}, '{}', {n}, {})",
                    name(&self.shadow.notes),
                    self.part,
                    side.word(),
                    hex(body)
                );
                server.run("keep what is made of the tables", &sql).await?;
                *body = rest;
                *n += 1;
            }
        }
        Ok(())
    }
}

/// Runs the scripts of a side in the live database, each by a client of its own, in the order of the dump's parts.
pub(super) async fn run_scripts(
    engine: &Mysql,
    server: &mut Server,
    shadow: &Shadow,
    side: Side,
    client: &tools::Found,
) -> Result<()> {
    let address = &engine.address;
    let (table, word) = (format!("{}.script", name(&shadow.notes)), side.word());
    let sql = format!("SELECT part, n FROM {table} WHERE side = '{word}' ORDER BY part, n");
    let rows = server.rows("list the scripts", &sql).await?;
    let password = address.password()?;
    let (slot, mut open): (_, Option<(String, Client)>) = (engine.clients.take(), None);
    let lock = busy::client_lock(&address.database, &slot);
    for row in rows {
        let [part, n] = <[Option<String>; 2]>::try_from(row).unwrap_or_default().map(Option::unwrap_or_default);
        let sql = format!("SELECT body FROM {table} WHERE side = '{word}' AND part = {part} AND n = {n}");
        let body = server.raw_rows("read a script", &sql).await?.into_iter().flatten().flatten().next();
        let running = match open.take() {
            Some((of, running)) if of == part => running,
            before => {
                if let Some((_, before)) = before {
                    finish(server, address, before).await?;
                }
                Client::start(tools::load(client, address, password.as_ref(), &address.database, &lock))?
            }
        };
        open = Some((part, running.write(&body.unwrap_or_default()).await?));
    }
    match open {
        Some((_, last)) => finish(server, address, last).await,
        None => Ok(()),
    }
}

async fn finish(server: &mut Server, address: &Address, client: Client) -> Result<()> {
    busy::named(server, &address.database, client.finish().await).await
}
