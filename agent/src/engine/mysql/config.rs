//! Backend's Config, read from System's database in one consistent snapshot.

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::config::AlertLevels;
use keepsake_core::error::{Context as _, Error, Kind, Result};

use super::server::{Server, name};
use super::{Mysql, facts, preflight, shadow};
use crate::engine::Context;
use crate::engine::config_source::{ConfigSource, Entries};
use crate::engine::config_target::ExpectedEnd;
use crate::engine::system_config::{Dialect, Rows, Snapshot, TABLES, expected};

/// The server may sort for so long before it tells the first row.
const SILENT: Duration = Duration::from_mins(30);

/// What the session must not inherit: limits that cut an answer short without an error or end it because the reader is slow (backend-redis is read at a
/// limited rate), and other ways to see.
const SESSION: &[&str] = &[
    "SET SESSION sql_select_limit = 18446744073709551615",
    "SET SESSION sql_big_selects = 1",
    "SET SESSION net_write_timeout = 3600",
    "SET SESSION wait_timeout = 3600",
    "SET SESSION max_sort_length = 8192",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET NAMES utf8mb4",
];

/// Limits that only some servers have.
const LIMITS: &[&str] = &["max_statement_time", "max_execution_time"];

#[async_trait]
impl ConfigSource for Mysql {
    async fn expected(&self, levels: AlertLevels, out: &mut dyn Entries, cx: &Context) -> Result<ExpectedEnd> {
        // Cancelled, the connection is closed with the snapshot, and no end was told.
        cx.unless_cancelled(Box::pin(async {
            self.loads.none_half_made()?;
            let database = &self.address.database;
            let mut server = Server::connect(&self.address).await?;
            for setting in SESSION {
                server.run("prepare to read the Config", setting).await?;
            }
            for limit in LIMITS {
                if server.variable(limit).await?.is_some() {
                    server.run("prepare to read the Config", &format!("SET SESSION {limit} = 0")).await?;
                }
            }
            shadow::ensure_whole(&mut server, database).await?;
            // A replica may be behind: what it does not have yet would be called surplus.
            let replica = preflight::is_no_replica(&mut server).await.context("ask System's database for the Config")?;
            if let Some(unknown) = replica {
                tracing::warn!("{unknown}");
            }
            let loose = facts::not_transactional(&mut server, database).await?;
            if let Some(table) = loose.iter().find(|table| TABLES.iter().any(|ours| table.starts_with(&format!("{ours} (")))) {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the table {table} has no snapshots, so what is expected would not be of one instant: change its engine to InnoDB"),
                ));
            }
            server.run("enter the database", &format!("USE {}", name(database))).await?;
            let begin = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
            server.run("open a snapshot", begin).await?;
            // From here on no table can be changed, moved or emptied before the snapshot is closed.
            for table in TABLES {
                server.rows("read the Config", &format!("SELECT 1 FROM {} LIMIT 1", name(table))).await?;
            }
            expected(&mut MysqlSnapshot(server), Dialect::Mysql, levels, out).await
        }))
        .await
    }
}

struct MysqlSnapshot(Server);

#[async_trait]
impl Snapshot for MysqlSnapshot {
    async fn each(&mut self, question: &str, sql: &str, rows: &mut Rows<'_>) -> Result<()> {
        self.0.each_of_config(&format!("ask for {question}"), sql, SILENT, rows).await
    }

    async fn number(&mut self, question: &str, sql: &str) -> Result<i64> {
        let value = self.0.value(&format!("ask for {question}"), sql).await?;
        let number = value.as_deref().map(str::parse).transpose();
        number
            .map(Option::unwrap_or_default)
            .map_err(|e| Error::caused(Kind::Internal, format!("{question}: not a whole number"), e))
    }
}
