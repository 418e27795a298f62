//! Backend's Config, read from System's database in one snapshot.

use async_trait::async_trait;
use keepsake_core::config::AlertLevels;
use keepsake_core::error::Result;

use super::session::Session;
use super::{Postgres, databases};
use crate::engine::Context;
use crate::engine::config_source::{ConfigSource, Entries};
use crate::engine::config_target::ExpectedEnd;
use crate::engine::system_config::{Dialect, Rows, Snapshot, TABLES, expected};

#[async_trait]
impl ConfigSource for Postgres {
    async fn expected(&self, levels: AlertLevels, out: &mut dyn Entries, cx: &Context) -> Result<ExpectedEnd> {
        // Cancelled, the connection is closed with the snapshot, and no end was told.
        cx.unless_cancelled(Box::pin(async {
            let session = Session::connect(&self.settings).await?;
            session.must_be_primary()?;
            databases::none_half_made(&session, &self.settings).await?;
            // Rows that a policy hides would be fewer without a word: with this they are an error.
            session.run("SET row_security = off").await?;
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            // Before the snapshot: from here on no table can be changed or emptied.
            session.run(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", TABLES.join(", "))).await?;
            expected(&mut PostgresSnapshot(session), Dialect::Postgres, levels, out).await
        }))
        .await
    }
}

struct PostgresSnapshot(Session);

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn each(&mut self, question: &str, sql: &str, rows: &mut Rows<'_>) -> Result<()> {
        self.0.each_of_config(&format!("ask for {question}"), sql, rows).await
    }

    async fn number(&mut self, _: &str, sql: &str) -> Result<i64> {
        Ok(self.0.row(sql, &[]).await?.get::<_, Option<i64>>(0).unwrap_or_default())
    }
}
