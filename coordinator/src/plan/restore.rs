//! The plan of a restore.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::record::{Record, Status};

use super::{Action, Goal, Plan, Stage, Undo};
use crate::inventory::Inventory;
use crate::topology::InstallationSettings;

/// Plans a restore of the components asked for; of all that the set has if none is named.
///
/// # Errors
/// `Invalid` when the set lacks what is asked for; `Unavailable` when an agent cannot be asked; `Unsupported` when an engine differs.
pub fn plan(
    installation: &InstallationSettings,
    inventory: &Inventory,
    record: &Record,
    only: &[Component],
) -> Result<Plan> {
    let mut notes = Vec::new();
    for name in only {
        installation.component(name)?;
    }
    if record.status != Status::Complete && only.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            format!("set {} is partial: name what to restore from it with --component", record.set),
        ));
    }
    let mut stage = Vec::new();
    let mut commit = Vec::new();
    let mut finalize = Vec::new();
    for component in installation.components.iter().filter(|c| only.is_empty() || only.contains(&c.name)) {
        let name = component.name.clone();
        let entry = record
            .component(&name)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("set {} does not have component {name}", record.set)))?;
        if entry.dump.is_none() {
            return Err(Error::new(
                Kind::Invalid,
                format!("component {name} failed in set {}: there is nothing to restore", record.set),
            ));
        }
        let found = match inventory.of(&name) {
            Some(Ok(found)) => found,
            Some(Err(failure)) => return Err(Error::from(failure.clone()).context(format!("ask the agent of {name}"))),
            None => return Err(Error::new(Kind::Internal, format!("component {name} was not asked"))),
        };
        if found.engine != entry.engine || component.engine != entry.engine {
            return Err(Error::new(
                Kind::Unsupported,
                format!("component {name} was dumped by engine {}; its agent serves {}", entry.engine, found.engine),
            ));
        }
        notes.extend(found.problems.iter().map(|p| format!("{name}: {p}")));
        let rollback = || Undo::By { action: Box::new(Action::Rollback { component: name.clone() }) };
        let undo_commit = match &found.cannot_undo {
            Some(why) => Undo::Impossible { why: why.clone() },
            None => rollback(),
        };
        stage.push(Action::Stage { component: name.clone() }.step(rollback())?);
        commit.push(Action::Commit { component: name.clone() }.step(undo_commit)?);
        finalize.push(Action::Finalize { component: name.clone() }.step(Undo::Nothing)?);
    }
    for entry in &record.components {
        if installation.components.iter().all(|c| c.name != entry.component) {
            notes.push(format!(
                "the set also has {}, which the topology does not know: it is not restored",
                entry.component
            ));
        }
    }
    if record.cut.is_none() {
        notes.push("the set has no cut: its stores were dumped at different moments".to_owned());
    }
    notes.push("stop the applications first: what they write during a restore is lost or mixed in".to_owned());
    let stages = vec![
        Stage { title: "read and check the whole set".to_owned(), steps: stage },
        Stage { title: "load".to_owned(), steps: commit },
        Stage { title: "finish".to_owned(), steps: finalize },
    ];
    Ok(Plan {
        goal: Goal::Restore { epoch: record.epoch },
        installation: installation.name.clone(),
        set: record.set,
        stages,
        notes,
    })
}
