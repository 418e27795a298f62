//! Backend's Config out of System's database: one pass over all questions in a snapshot that an engine has opened.
//!
//! Rows come one by one and go on as entries in small batches, so memory does not grow with the database.

mod columns;
mod questions;
mod rows;

use async_trait::async_trait;
use keepsake_core::config::{AlertLevels, ConfigKind, Counters};
use keepsake_core::error::{Context as _, Error, Kind, Result};

pub(super) use self::columns::Columns;
pub(super) use self::questions::{Dialect, TABLES};
pub(super) use self::rows::Rows;
use super::config_source::Entries;
use super::config_target::ExpectedEnd;

/// A snapshot of the database. Dropped, it is closed.
#[async_trait]
pub(super) trait Snapshot: Send {
    /// Asks, and gives every row to `rows`, waiting whenever `rows` does.
    ///
    /// # Errors
    /// Any row was not seen.
    async fn each(&mut self, question: &str, sql: &str, rows: &mut Rows<'_>) -> Result<()>;
    /// The one number of a question; 0 for NULL.
    async fn number(&mut self, question: &str, sql: &str) -> Result<i64>;
}

/// Asks all questions.
pub(super) async fn expected(
    snapshot: &mut dyn Snapshot,
    dialect: Dialect,
    levels: AlertLevels,
    out: &mut dyn Entries,
) -> Result<ExpectedEnd> {
    ensure_is_of_system(snapshot).await?;
    for question in questions::all(dialect, levels) {
        let mut rows = Rows::new(question.rule, out);
        snapshot.each(question.about, &question.sql, &mut rows).await?;
        let made = rows.finish().await.with_context(|| format!("ask System's database for {}", question.about))?;
        // Without any service all that Backend has would be surplus.
        if made == 0 && question.must_answer {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "System's database knows no {}: nothing is expected by it, and nothing is called surplus for it",
                    question.about
                ),
            ));
        }
    }
    let events = snapshot.number("the last event", questions::LAST_EVENT).await?;
    let alerts = snapshot.number("the last alert", questions::LAST_ALERT).await?;
    let told = |kind: &ConfigKind| *kind != ConfigKind::AlertLevels || levels == AlertLevels::Expected;
    let kinds = ConfigKind::ALL.into_iter().filter(told).collect();
    Ok(ExpectedEnd { kinds, at_least: Counters { events, alerts } })
}

/// A database that was just made, or is of something else, expects nothing: that must not empty Backend.
async fn ensure_is_of_system(snapshot: &mut dyn Snapshot) -> Result<()> {
    for (whom, sql) in [("provider", questions::PROVIDERS), ("master", questions::MASTERS)] {
        if snapshot.number(&format!("its {whom}s"), sql).await? == 0 {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "this is not the database of a System, or an empty one: there is no {whom} in it. Look at the database's name"
                ),
            ));
        }
    }
    Ok(())
}
