//! What is in the repository, for people and machines.

use jiff::Timestamp;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::Installation;
use keepsake_core::record::{Purpose, Record, Sealing, Status};
use keepsake_core::repository::Repository;
use keepsake_core::repository::sets::{SetEntry, SetState};
use serde::Serialize;

use crate::plan::Plan;

/// One line of the list of sets.
#[derive(Debug, Serialize)]
pub struct SetLine {
    /// The installation.
    pub installation: String,
    /// The set.
    pub set: String,
    /// `complete`, `partial`, `unfinished` (no record: no backup) or `unbelievable`.
    pub status: &'static str,
    /// Whether `latest` means this one.
    pub latest: bool,
    /// The run's number.
    pub epoch: Option<u64>,
    /// `backup` or `safety`.
    pub purpose: Option<&'static str>,
    /// When it was finished.
    pub finished: Option<Timestamp>,
    /// Plaintext bytes.
    pub bytes: Option<u64>,
    /// Stored bytes.
    pub stored: Option<u64>,
    /// Whether it is sealed.
    pub encrypted: Option<bool>,
    /// Whether it stands for one instant.
    pub cut: Option<bool>,
    /// What is missing or wrong, in words.
    pub note: String,
}

/// The sets of an installation, oldest first.
///
/// # Errors
/// The repository cannot be read.
pub async fn sets(repository: &Repository, installation: &Installation) -> Result<Vec<SetLine>> {
    let entries = repository.sets(installation).await?;
    let latest = entries.iter().rev().find_map(|e| match &e.state {
        SetState::Recorded(record) if record.counts_as_backup() => Some(e.id),
        SetState::Recorded(_) | SetState::Unfinished | SetState::Unbelievable(_) => None,
    });
    Ok(entries.iter().map(|entry| line(installation, entry, latest == Some(entry.id))).collect())
}

fn line(installation: &Installation, entry: &SetEntry, latest: bool) -> SetLine {
    let empty = SetLine {
        installation: installation.to_string(),
        set: entry.id.to_string(),
        status: "unfinished",
        latest,
        epoch: None,
        purpose: None,
        finished: None,
        bytes: None,
        stored: None,
        encrypted: None,
        cut: None,
        note: "no record: being made, or given up; not a backup".to_owned(),
    };
    match &entry.state {
        SetState::Unfinished => empty,
        SetState::Unbelievable(e) => SetLine { status: "unbelievable", note: e.chain(), ..empty },
        SetState::Recorded(record) => SetLine {
            status: status_word(record.status),
            epoch: Some(record.epoch.0),
            purpose: Some(match record.purpose {
                Purpose::Backup => "backup",
                Purpose::Safety => "safety",
                Purpose::Unknown => "unknown",
            }),
            finished: Some(record.finished),
            bytes: Some(record.plain_bytes()),
            stored: Some(record.stored_bytes()),
            encrypted: Some(record.sealing != Sealing::None),
            cut: Some(record.cut.is_some()),
            note: what_is_missing(record),
            ..empty
        },
    }
}

/// What a backup left whose coordinator is gone, in words. It may have been killed between its record and the end of its journal, so the
/// record is looked for.
pub async fn left_by(repository: Result<&Repository, &Error>, plan: &Plan) -> String {
    let Some(set) = plan.set else {
        return "What it has changed is whole, and making the Config equal again is harmless".to_owned();
    };
    let record = match repository {
        Ok(repository) => repository.record(&plan.installation, set).await,
        Err(e) => return cannot_tell(e),
    };
    match record {
        Ok(record) => format!(
            "Its record was written before its coordinator was gone: set {set} is {}, and can be restored like any other",
            status_word(record.status)
        ),
        Err(e) if e.kind() == Kind::NotFound => "It left no set, and what it stored so far is harmless".to_owned(),
        Err(e) => cannot_tell(&e),
    }
}

fn cannot_tell(why: &Error) -> String {
    format!("Whether it left a set is not known ({}): see `keepsake sets`", why.chain())
}

/// The word for a status.
pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Complete => "complete",
        Status::Partial => "partial",
        Status::Unknown => "unknown",
    }
}

/// What a set is besides complete, and what it lacks, in words.
pub fn what_is_missing(record: &Record) -> String {
    let failed = record.components.iter().filter(|c| c.dump.is_none()).map(|c| format!("{} failed", c.component));
    let left_out = record.left_out.iter().map(|c| format!("{c} left out"));
    let mut notes: Vec<_> = failed.chain(left_out).collect();
    if record.purpose == Purpose::Safety {
        notes.insert(0, "safety set, made before a restore".to_owned());
    }
    if record.sealing == Sealing::None {
        notes.push("not encrypted".to_owned());
    }
    if record.cut.is_none() {
        notes.push("no cut".to_owned());
    }
    notes.extend(record.files_elsewhere.as_ref().map(|place| format!("files: in {place}, not in this set")));
    notes.join(", ")
}

/// The newest complete set, unless one that came after it cannot be believed: whoever asks for the latest must not silently get an
/// older one.
async fn latest(repository: &Repository, installation: &Installation) -> Result<Record> {
    let mut entries = repository.sets(installation).await?;
    let newest = entries.iter().rposition(|e| matches!(&e.state, SetState::Recorded(r) if r.counts_as_backup()));
    let chosen = newest.map(|at| entries.remove(at));
    for entry in entries {
        // The epoch of such a set is not known; ids are UUIDv7, which is good enough to be careful.
        let later = chosen.as_ref().is_none_or(|c| entry.id.as_uuid() > c.id.as_uuid());
        if let (true, SetState::Unbelievable(why)) = (later, entry.state) {
            return Err(why.context(format!(
                "set {} of {installation} came after the latest that can be believed. `keepsake sets` lists all; name the one you \
                 want by its id",
                entry.id
            )));
        }
    }
    match chosen.map(|c| c.state) {
        Some(SetState::Recorded(record)) => Ok(*record),
        _ => Err(Error::new(
            Kind::NotFound,
            format!("installation {installation} has no complete set in {}", repository.store().url()),
        )),
    }
}

/// The record of `latest` or of a set id.
///
/// # Errors
/// `NotFound` when there is no complete set, or no such set; what [`Repository::record`] finds.
pub async fn find(repository: &Repository, installation: &Installation, which: &str) -> Result<Record> {
    if which == "latest" {
        return latest(repository, installation).await;
    }
    let id = which.parse().context("name a set by its id, as `keepsake sets` lists it, or say `latest`")?;
    repository.record(installation, id).await
}
