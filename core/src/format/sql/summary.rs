//! What a whole dump holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind};
use crate::record::Counts;

use super::words::{Found, Statement};

/// More objects than this are refused, so that no dump makes the agent grow.
const OBJECTS: usize = 20_000;

/// What a whole dump holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the dump.
    pub bytes: u64,
    /// Rows by table, also the empty ones.
    pub rows: BTreeMap<String, u64>,
    /// Names of the views.
    pub views: BTreeSet<String>,
    /// Names of MariaDB's sequences.
    pub sequences: BTreeSet<String>,
    /// How many triggers it makes.
    pub triggers: u64,
    /// How many procedures and functions it makes.
    pub routines: u64,
    /// How many events it makes.
    pub events: u64,
    /// The longest statement, bytes; the server takes none longer than its `max_allowed_packet`.
    pub longest_statement: u64,
    /// Schemas named by `ALTER DATABASE`, as around a trigger with a collation of its own.
    pub altered_schemas: BTreeSet<String>,
    /// Schemas that it makes, drops, enters, or whose objects it names: what it loads would not stay in one database.
    pub foreign_schemas: BTreeSet<String>,
    /// Accounts that triggers, routines, events and views run as, `user@host`.
    pub definers: BTreeSet<String>,
    /// Anything but settings was read.
    pub(super) objects: bool,
}

impl Summary {
    /// What a restored copy must match.
    pub fn counts(&self) -> Counts {
        let mut counts: Counts = self.rows.iter().map(|(table, rows)| (format!("rows:{table}"), *rows)).collect();
        counts.insert("tables".to_owned(), self.rows.len() as u64);
        counts.insert("views".to_owned(), self.views.len() as u64);
        counts.insert("sequences".to_owned(), self.sequences.len() as u64);
        counts.insert("triggers".to_owned(), self.triggers);
        counts.insert("routines".to_owned(), self.routines);
        counts.insert("events".to_owned(), self.events);
        counts
    }

    /// Adds what another artifact of the same dump holds.
    ///
    /// # Errors
    /// `Corrupt` when both hold the same table, view or sequence: one of them is there twice.
    pub fn absorb(&mut self, other: Self) -> crate::error::Result<()> {
        let twice = other
            .rows
            .keys()
            .find(|name| self.rows.contains_key(*name))
            .or_else(|| other.views.intersection(&self.views).next())
            .or_else(|| other.sequences.intersection(&self.sequences).next());
        if let Some(name) = twice {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{name} is in two artifacts of the dump: restore another set"),
            ));
        }
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.rows.extend(other.rows);
        self.views.extend(other.views);
        self.sequences.extend(other.sequences);
        self.triggers += other.triggers;
        self.routines += other.routines;
        self.events += other.events;
        self.longest_statement = self.longest_statement.max(other.longest_statement);
        self.altered_schemas.extend(other.altered_schemas);
        self.foreign_schemas.extend(other.foreign_schemas);
        self.definers.extend(other.definers);
        self.objects |= other.objects;
        Ok(())
    }

    pub(super) fn add(&mut self, found: Found, rows: u64) -> Result<(), &'static str> {
        if let Some(definer) = found.definer {
            self.definers.insert(definer);
        }
        if let Some(schema) = found.foreign_schema {
            self.foreign_schemas.insert(schema);
        }
        self.objects |= !matches!(found.statement, Statement::Mode { .. } | Statement::Setting);
        match found.statement {
            Statement::Table(name) => {
                self.rows.entry(name).or_default();
            }
            Statement::Rows(name) => {
                let sum = self.rows.entry(name).or_default();
                *sum = sum.saturating_add(rows);
            }
            Statement::View(name) => {
                // MySQL 5.7's tool first makes a table of the view's name.
                self.rows.remove(&name);
                self.views.insert(name);
            }
            Statement::Sequence(name) => {
                self.sequences.insert(name);
            }
            Statement::Trigger => self.triggers += 1,
            Statement::Routine => self.routines += 1,
            Statement::Event => self.events += 1,
            Statement::AlterSchema(name) => {
                self.altered_schemas.insert(name);
            }
            Statement::Mode { .. } | Statement::Setting | Statement::Other => {}
        }
        let sizes = [
            self.rows.len(),
            self.views.len(),
            self.sequences.len(),
            self.altered_schemas.len(),
            self.foreign_schemas.len(),
            self.definers.len(),
        ];
        if sizes.iter().any(|size| *size > OBJECTS) {
            return Err("the 20001st table, view or account, more than a 3scale ever has");
        }
        Ok(())
    }
}
