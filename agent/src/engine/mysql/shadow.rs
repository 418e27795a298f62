//! The schemas of a load: its notes, the tables that are staged, and those that were live.
//!
//! Everything that a load knows is in the schema of its notes, which is made first and dropped last: an agent that was killed is succeeded by one
//! that reads there how far it came. The names hold the run, and a number made of the database's name: one server may have several installations.

use std::collections::{BTreeMap, BTreeSet};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunId;
use keepsake_core::record::Counts;
use serde::{Deserialize, Serialize};

use super::facts;
use super::server::{Server, name, text};
use crate::engine::Staged;

/// How the names of all our schemas begin.
pub(super) const PREFIX: &str = "_keepsake_";
const NEW: &str = "_new";
const OLD: &str = "_old";

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Tables are being loaded beside the live ones.
    Staging,
    /// All of it is there and was counted.
    Staged,
    /// What was live is written down, and is being put aside.
    Committing,
    /// What was staged is live.
    Committed,
    /// What was live is being put back.
    RollingBack,
    /// What was live is live again; what was staged is being dropped.
    RolledBack,
    /// What was live is being dropped.
    Finalizing,
}

const PHASES: [(Phase, &str); 7] = [
    (Phase::Staging, "staging"),
    (Phase::Staged, "staged"),
    (Phase::Committing, "committing"),
    (Phase::Committed, "committed"),
    (Phase::RollingBack, "rolling back"),
    (Phase::RolledBack, "rolled back"),
    (Phase::Finalizing, "finalizing"),
];

impl Phase {
    fn word(self) -> &'static str {
        PHASES.iter().find(|(phase, _)| *phase == self).map_or("", |(_, word)| word)
    }

    /// For whoever asks by the engine's trait.
    pub(super) fn told(self) -> Staged {
        match self {
            Self::Staging | Self::RolledBack => Staged::Partial,
            Self::Staged => Staged::Staged,
            Self::Committing | Self::RollingBack => Staged::Committing,
            Self::Committed | Self::Finalizing => Staged::Committed,
        }
    }

    /// Whether live tables may be those of the load, or nowhere.
    pub(super) fn is_half_made(self) -> bool {
        matches!(self, Self::Committing | Self::RollingBack)
    }
}

/// What is staged: all that a commit needs beside the tables and scripts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The database's character set and collation in the record.
    pub(super) defaults: (String, String),
    /// Tables and sequences.
    pub(super) tables: BTreeSet<String>,
    /// Views, some of which a dump first makes as tables.
    pub(super) views: BTreeSet<String>,
    /// What was counted in the dump.
    pub(super) counts: Counts,
    /// Accounts that objects of the dump run as.
    pub(super) definers: BTreeSet<String>,
    /// Bytes of the dump.
    pub(super) bytes: u64,
    /// What an operator was told.
    pub(super) warnings: Vec<String>,
}

/// What was live when a commit began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// The database's character set and collation; `None` when there was none.
    pub(super) defaults: Option<(String, String)>,
    /// Tables and sequences.
    pub(super) tables: BTreeSet<String>,
    /// How many views, triggers and routines there were.
    pub(super) objects: BTreeMap<String, u64>,
}

/// The schemas of one run's load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shadow {
    pub(super) run: RunId,
    /// Its notes.
    pub(super) notes: String,
    /// The staged tables.
    pub(super) new: String,
    /// The tables that were live.
    pub(super) old: String,
}

impl Shadow {
    /// Those of a run; 60 characters at most, of 64 that a server allows.
    pub(super) fn of(database: &str, run: RunId) -> Self {
        let notes = format!("{}{}", prefix(database), run.to_string().replace('-', ""));
        Self { run, new: format!("{notes}{NEW}"), old: format!("{notes}{OLD}"), notes }
    }

    /// Makes the schema of the notes. May be repeated.
    pub(super) async fn make_notes(&self, server: &mut Server) -> Result<()> {
        let notes = name(&self.notes);
        let doing = "make the schema of the load's notes";
        let sql = format!("CREATE DATABASE IF NOT EXISTS {notes} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
        server.run(doing, &sql).await?;
        for table in [
            "progress (id tinyint PRIMARY KEY, phase varchar(20) NOT NULL, plan longtext, past longtext)",
            "script (part int, side varchar(10), n int, body longblob NOT NULL, PRIMARY KEY (part, side, n))",
            "saved (n int PRIMARY KEY, kind varchar(20) NOT NULL, name varchar(64) NOT NULL, sql_mode longtext, client varchar(64), \
             connection varchar(64), collation varchar(64), zone varchar(64), statement longblob NOT NULL)",
        ] {
            server.run(doing, &format!("CREATE TABLE IF NOT EXISTS {notes}.{table} ENGINE = InnoDB")).await?;
        }
        let sql =
            format!("INSERT IGNORE INTO {notes}.progress (id, phase) VALUES (1, {})", text(Phase::Staging.word()));
        server.run(doing, &sql).await
    }

    /// How far it has come; `None` when nothing of it is there.
    ///
    /// # Errors
    /// `Conflict` when tables that were live are there, and no notes.
    pub(super) async fn phase(&self, server: &mut Server) -> Result<Option<Phase>> {
        if facts::defaults(server, &self.notes).await?.is_none() {
            if !facts::movable(server, &self.old).await?.is_empty() {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "the schema {} holds tables that a load has put aside, and the load's notes are gone: move them back with \
                         RENAME TABLE, or drop the schema",
                        self.old
                    ),
                ));
            }
            let staged = facts::defaults(server, &self.new).await?.is_some();
            let aside = facts::defaults(server, &self.old).await?.is_some();
            return Ok((staged || aside).then_some(Phase::Staging));
        }
        let sql = format!("SELECT phase FROM {}.progress WHERE id = 1", name(&self.notes));
        let word = match server.value("read how far the load has come", &sql).await {
            Ok(word) => word,
            // Made or dropped half way: there is no such table.
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        };
        let Some(word) = word else { return Ok(Some(Phase::Staging)) };
        PHASES.iter().find(|(_, w)| *w == word).map(|(phase, _)| Some(*phase)).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("the load in {} is of a newer agent: use that one", self.notes))
        })
    }

    /// Writes down how far it has come; durable when it returns.
    pub(super) async fn set(&self, server: &mut Server, phase: Phase) -> Result<()> {
        let sql = format!("UPDATE {}.progress SET phase = {} WHERE id = 1", name(&self.notes), text(phase.word()));
        server.run("write down how far the load has come", &sql).await
    }

    /// Writes down what is staged, and that all of it is.
    pub(super) async fn set_staged(&self, server: &mut Server, plan: &Plan) -> Result<()> {
        let sql = format!(
            "UPDATE {}.progress SET phase = {}, plan = {} WHERE id = 1",
            name(&self.notes),
            text(Phase::Staged.word()),
            text(&written(plan)?)
        );
        server.run("write down what is staged", &sql).await
    }

    /// Writes down what is live, and that it may be touched from now on; in the caller's transaction.
    pub(super) async fn set_committing(&self, server: &mut Server, before: &Before) -> Result<()> {
        let sql = format!(
            "UPDATE {}.progress SET phase = {}, past = {} WHERE id = 1",
            name(&self.notes),
            text(Phase::Committing.word()),
            text(&written(before)?)
        );
        server.run("write down what is live", &sql).await
    }

    /// What is staged.
    pub(super) async fn plan(&self, server: &mut Server) -> Result<Plan> {
        self.read(server, "plan").await
    }

    /// What was live when the commit began.
    pub(super) async fn before(&self, server: &mut Server) -> Result<Before> {
        self.read(server, "past").await
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, server: &mut Server, column: &str) -> Result<T> {
        let sql = format!("SELECT {column} FROM {}.progress WHERE id = 1", name(&self.notes));
        let json = server.value("read the load's notes", &sql).await?.unwrap_or_default();
        serde_json::from_str(&json)
            .map_err(|e| Error::caused(Kind::Internal, format!("read the load's notes in {}", self.notes), e))
    }

    /// Drops what is staged, and the notes. Never a table that was live.
    ///
    /// # Errors
    /// `Internal` while tables that were live are put aside.
    pub(super) async fn discard(&self, server: &mut Server) -> Result<()> {
        if !facts::movable(server, &self.old).await?.is_empty() {
            return Err(Error::new(
                Kind::Internal,
                format!("the schema {} still holds tables that were live: nothing was dropped", self.old),
            ));
        }
        self.drop_all(server).await
    }

    /// Drops all three, the notes last.
    pub(super) async fn drop_all(&self, server: &mut Server) -> Result<()> {
        for schema in [&self.old, &self.new, &self.notes] {
            server
                .run(&format!("drop the schema {schema}"), &format!("DROP DATABASE IF EXISTS {}", name(schema)))
                .await?;
        }
        Ok(())
    }
}

fn written(what: &impl Serialize) -> Result<String> {
    serde_json::to_string(what).map_err(|e| Error::caused(Kind::Internal, "write the load's notes", e))
}

/// Every load of this database that has left something.
pub(super) async fn all(server: &mut Server, database: &str) -> Result<Vec<(Shadow, Phase)>> {
    let prefix = prefix(database);
    let sql = format!(
        "SELECT schema_name FROM information_schema.schemata WHERE LEFT(schema_name, {}) = {}",
        prefix.len(),
        text(&prefix)
    );
    let runs: BTreeSet<RunId> = server
        .column("look for loads", &sql)
        .await?
        .iter()
        .filter_map(|schema| {
            let rest = schema.strip_prefix(&prefix)?;
            let run = rest.strip_suffix(NEW).or_else(|| rest.strip_suffix(OLD)).unwrap_or(rest);
            run.parse().ok()
        })
        .collect();
    let mut found = Vec::new();
    for run in runs {
        let shadow = Shadow::of(database, run);
        if let Some(phase) = shadow.phase(server).await? {
            found.push((shadow, phase));
        }
    }
    Ok(found)
}

/// Drops what other runs staged and did not commit, and what they were to drop.
///
/// # Errors
/// `Conflict` when another run's load is live, or was to be.
pub(super) async fn ensure_no_other(server: &mut Server, database: &str, run: RunId) -> Result<()> {
    for (other, phase) in all(server, database).await?.into_iter().filter(|(other, _)| other.run != run) {
        match phase {
            Phase::Staging | Phase::Staged | Phase::RolledBack => {
                tracing::info!(run = %other.run, "dropping what another run has staged");
                other.discard(server).await?;
            }
            Phase::Finalizing => other.drop_all(server).await?,
            Phase::Committing | Phase::RollingBack | Phase::Committed => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "the load of run {} is {}, and the data from before it is kept in {}: run `keepsake finalize` to drop that, or \
                         `keepsake rollback` to bring it back, and restore then",
                        other.run,
                        if phase == Phase::Committed { "live" } else { "half made" },
                        other.old
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Refuses while tables of the database are being moved.
///
/// # Errors
/// `Conflict`, naming the run.
pub(super) async fn ensure_whole(server: &mut Server, database: &str) -> Result<()> {
    let half = all(server, database).await?.into_iter().find(|(_, phase)| phase.is_half_made());
    half.map_or(Ok(()), |(shadow, _)| {
        Err(Error::new(
            Kind::Conflict,
            format!(
                "the load of run {} is half made, and the database {database} is neither the old one nor the new: run `keepsake resume` or \
                 `keepsake rollback`",
                shadow.run
            ),
        ))
    })
}

/// How the names of all schemas of this database's loads begin.
pub(super) fn prefix(database: &str) -> String {
    // FNV-1a: told apart must be the few databases of one server, and the run's number does that, too.
    let hash = database.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{PREFIX}{hash:08x}_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_tell_database_and_run() {
        let run = RunId::generate();
        let shadow = Shadow::of("system", run);
        assert!(shadow.old.len() <= 64 && shadow.new.len() <= 64, "{shadow:?}");
        assert!(shadow.new.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert_ne!(Shadow::of("other", run).notes, shadow.notes);
        assert_eq!(shadow.notes.strip_prefix(&prefix("system")).unwrap().parse::<RunId>().unwrap(), run);
    }

    #[test]
    fn every_phase_has_its_word() {
        let words: BTreeSet<_> = PHASES.iter().map(|(phase, _)| phase.word()).collect();
        assert!(words.len() == PHASES.len() && words.iter().all(|w| !w.is_empty() && w.len() <= 20));
    }
}
