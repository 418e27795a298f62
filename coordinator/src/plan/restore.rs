//! The plan of a restore.

use std::collections::BTreeMap;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::queues::{QueuePolicy, has_queues, is_queues_server, jobs};
use keepsake_core::record::{ComponentRecord, Record, Status};

use super::{Action, Goal, Plan, Stage, Undo};
use crate::inventory::Inventory;
use crate::topology::InstallationSettings;

/// Plans a restore of the components asked for; of all that the set has if none is named, but for a server of queues alone.
///
/// # Errors
/// `Invalid` when the set lacks what is asked for; `Unavailable` when an agent cannot be asked; `Unsupported` when an engine differs.
pub fn plan(
    installation: &InstallationSettings,
    inventory: &Inventory,
    record: &Record,
    only: &[Component],
    queues: &[(Component, QueuePolicy)],
) -> Result<Plan> {
    let mut notes = Vec::new();
    for name in only {
        installation.component(name)?;
    }
    let queues = policies(installation, only, queues)?;
    let asked = |name: &Component| {
        if only.is_empty() { !is_queues_server(name) || queues.contains_key(name) } else { only.contains(name) }
    };
    if record.status != Status::Complete && only.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            format!("set {} is partial: name what to restore from it with --component", record.set),
        ));
    }
    let mut stage = Vec::new();
    let mut commit = Vec::new();
    let mut finalize = Vec::new();
    for component in installation.components.iter().filter(|c| asked(&c.name)) {
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
        let policy = queues.get(&name).copied().unwrap_or_default();
        if !policy.is_restore() && !has_queues(&entry.engine) {
            return Err(Error::new(
                Kind::Invalid,
                format!("--queues {name}={policy}: a component of engine {} has no queues to tell apart", entry.engine),
            ));
        }
        if has_queues(&entry.engine) {
            notes.extend(queue_note(&name, policy, entry));
        }
        stage.push(Action::Stage { component: name.clone(), queues: policy }.step(rollback())?);
        commit.push(Action::Commit { component: name.clone() }.step(undo_commit)?);
        finalize.push(Action::Finalize { component: name.clone() }.step(Undo::Nothing)?);
    }
    for name in installation.components.iter().map(|c| &c.name).filter(|n| only.is_empty() && !asked(n)) {
        notes.push(format!(
            "{name} is a server of queues alone and is not restored: what ran since the dump would run again. To restore it: --queues {name}=restore"
        ));
    }
    if stage.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("nothing of set {} would be restored", record.set)));
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

/// The policies by component.
fn policies(
    installation: &InstallationSettings,
    only: &[Component],
    asked: &[(Component, QueuePolicy)],
) -> Result<BTreeMap<Component, QueuePolicy>> {
    let mut policies = BTreeMap::new();
    for (name, policy) in asked {
        installation.component(name)?;
        if !only.is_empty() && !only.contains(name) {
            return Err(Error::new(
                Kind::Invalid,
                format!("--queues {name}={policy}, but {name} is not restored: name it with --component, too"),
            ));
        }
        if policies.insert(name.clone(), *policy).is_some_and(|before| before != *policy) {
            return Err(Error::new(Kind::Invalid, format!("--queues says two things about {name}: say one")));
        }
    }
    Ok(policies)
}

/// What becomes of the jobs that a dump holds.
fn queue_note(name: &Component, policy: QueuePolicy, entry: &ComponentRecord) -> Option<String> {
    let held = entry.dump.as_ref().map(|d| jobs(&d.report.facts))?;
    let of_the_set = match &held {
        Some(jobs) => format!("{jobs} of the set"),
        None => "the jobs of the set, which were not counted when it was dumped,".to_owned(),
    };
    match policy {
        QueuePolicy::Restore if held.is_some_and(|h| h.total == 0) => None,
        QueuePolicy::Restore => Some(format!(
            "{name}: {of_the_set} will run again, also those that ran since the dump (--queues {name}=keep or =drop leaves them out)"
        )),
        QueuePolicy::Keep => Some(format!("{name}: {of_the_set} are left out; the live server's queues stay")),
        QueuePolicy::Drop => Some(format!("{name}: {of_the_set} are left out, and the live server's queues go")),
    }
}
