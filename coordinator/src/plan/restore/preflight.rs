//! What stands against a restore, judged before anything begins: what is kept of another one, another release, too little room.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::record::{ComponentRecord, Record};

use super::Wishes;
use crate::inventory::{Found, Inventory, Staged};
use crate::topology::InstallationSettings;

/// A fact that the system database's engine gives: the newest migration, which tells the 3scale release.
pub(crate) const SCHEMA: &str = "schema_migrations";
/// Facts whose names begin so tell the release, too: what the cluster's objects say of versions and images.
pub(crate) const RELEASE: &str = "release:";

/// Old data that an earlier restore has kept would be in the way, and whoever kept it may want it.
///
/// # Errors
/// `Conflict` with both remedies.
pub(super) fn nothing_is_kept(installation: &InstallationSettings, inventory: &Inventory) -> Result<()> {
    for component in &installation.components {
        // Its loads are told by the datastore: without it nobody knows of any.
        if let Some(Ok(found)) = inventory.of(&component.name) {
            found.must_answer(&component.name)?;
        }
    }
    let keeps = |component| {
        let found = inventory.of(component).and_then(|f| f.as_ref().ok())?;
        found.loads.iter().find(|(_, s)| matches!(s, Staged::Committed | Staged::Committing)).map(|(run, _)| *run)
    };
    let kept: Vec<_> = installation.components.iter().filter_map(|c| Some((&c.name, keeps(&c.name)?))).collect();
    let Some((_, run)) = kept.first() else { return Ok(()) };
    let names = kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    Err(Error::new(
        Kind::Conflict,
        format!(
            "the old data of an earlier restore (run {run}) is still kept: {names}. Drop it with `keepsake finalize --installation {0}`, or put it back \
             with `keepsake rollback --installation {0} --discard-writes`, then restore",
            installation.name
        ),
    ))
}

/// The set's release of 3scale must be the live one, where both are known: a database of another release does not fit the applications.
///
/// # Errors
/// `Conflict` unless it was asked for.
pub(super) fn release(inventory: &Inventory, record: &Record, wishes: &Wishes, notes: &mut Vec<String>) -> Result<()> {
    let Some(of_the_set) = record.release.get(SCHEMA) else { return Ok(()) };
    let live = inventory.answers().find_map(|found| found.facts.get(SCHEMA));
    match live {
        Some(live) if live == of_the_set => Ok(()),
        Some(live) if wishes.other_release => {
            notes.push(format!(
                "the set is of another release of 3scale (newest migration {of_the_set}, live {live}), as asked for: install that release, or migrate"
            ));
            Ok(())
        }
        Some(live) => Err(Error::new(
            Kind::Conflict,
            format!(
                "set {} is of another release of 3scale: its newest migration is {of_the_set}, that of the live database {live}. Install that release \
                 first, or say --other-release",
                record.set
            ),
        )),
        None => {
            notes.push(format!(
                "the live release of 3scale cannot be told; the set's newest migration is {of_the_set}, and the applications must be of that release"
            ));
            Ok(())
        }
    }
}

/// Whether a component that cannot be staged is loaded over its live data instead: in one transaction, while the safety set remembers what was there.
/// 3scale's zync-database is such a one: its role may make no databases, and its superuser is not to be reached from outside.
///
/// # Errors
/// `Unsupported` when nothing would remember it.
pub(super) fn is_loaded_whole(
    name: &Component,
    found: &Found,
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<bool> {
    let Some(why) = found.cannot_undo.as_ref().filter(|_| found.in_place_is_whole) else { return Ok(false) };
    if wishes.keep_old {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{name} can only be loaded over its live data, so its old data cannot be kept ({why}): mend that, or leave out --keep-old"
            ),
        ));
    }
    // What was just built holds nothing of anybody's, if somebody says so.
    if wishes.safety.is_none() && !wishes.rebuilt {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{name} can only be loaded in place ({why}), and without a safety set nothing would remember what is there: make one, or say --in-place"
            ),
        ));
    }
    notes.push(format!(
        "{name} is loaded over the live data, in one transaction and after all others: {why}. Once that is done only the safety set, if one is made, remembers what was there"
    ));
    if !found.in_place_is_told {
        notes.push(format!(
            "whether {name} was loaded is remembered by its agent alone: if that is started again meanwhile, nobody knows, and the restore is stuck. Where the agent's role owns the \
             database, the database tells"
        ));
    }
    Ok(true)
}

/// Beside the live data there must be room for the dump, as far as it can be seen.
pub(super) fn lacks_room(entry: &ComponentRecord, found: &Found) -> Option<String> {
    let needed: u64 = entry.dump.iter().flat_map(|d| &d.artifacts).map(|a| a.length).sum();
    let free = found.staging_free?;
    (needed > free)
        .then(|| format!("{} needs {needed} bytes beside the live data, and {free} are free", entry.component))
}

/// What all of them lack, as one refusal.
///
/// # Errors
/// `Busy` when any lacks room.
pub(super) fn room(lacking: &[String]) -> Result<()> {
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Busy,
        format!(
            "there is too little room to load beside the live data: {}. Make room; or say --in-place to load over the live data, which cannot be undone",
            lacking.join("; ")
        ),
    ))
}
