//! The plans for a completed restore that has kept the old data: to drop it, or to put it back.

use keepsake_core::config::AlertLevels;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, Epoch, RunId, SetId};

use super::after;
use super::applications::{Around, around};
use super::config::{self, Resync};
use super::restore::preflight::SCHEMA;
use super::{Action, CheckAt, Goal, Plan, Stage, Step, Undo};
use crate::inventory::{Inventory, Staged};
use crate::topology::InstallationSettings;

/// A completed restore, as its journal has it.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its run.
    pub run: RunId,
    /// Its first epoch.
    pub epoch: Epoch,
    /// The set that it restored.
    pub set: SetId,
    /// The components that it restored.
    pub components: Vec<Component>,
}

/// Plans to drop what the restore has kept.
///
/// # Errors
/// `NotFound` when nothing is kept; an agent cannot be asked.
pub fn finalize(installation: &InstallationSettings, inventory: &Inventory, of: &Restored) -> Result<Plan> {
    let kept = kept(inventory, of)?;
    if kept.is_empty() {
        return Err(nothing_is_kept(of));
    }
    let stages = vec![no_return()?, each("drop the old data", &kept, |component| Action::Finalize { component })?];
    let notes = vec![format!("once it is dropped, restore {} cannot be taken back any more", of.epoch)];
    let goal = Goal::Finalize { restore: of.epoch, run: of.run };
    Ok(Plan {
        goal,
        installation: installation.name.clone(),
        set: Some(of.set),
        stages,
        notes,
        files_elsewhere: None,
        place: None,
    })
}

/// Plans to put the old data back.
///
/// # Errors
/// `NotFound` when nothing is kept; `Unsupported` when not all of it is: some components of before and some of the set are of no use to anybody; an agent
/// cannot be asked.
pub fn rollback(installation: &InstallationSettings, inventory: &Inventory, of: &Restored) -> Result<Plan> {
    let kept = kept(inventory, of)?;
    if kept.is_empty() {
        return Err(nothing_is_kept(of));
    }
    let lost: Vec<_> = of.components.iter().filter(|c| !kept.contains(c)).map(Component::as_str).collect();
    if !lost.is_empty() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "restore {} cannot be taken back: the old data of {} is not kept (it was loaded in place, or is dropped already). Restore another set to go \
                 back",
                of.epoch,
                lost.join(", ")
            ),
        ));
    }
    let mut stages = Vec::new();
    let mut notes = vec![format!(
        "everything that applications wrote since restore {} is lost: the data is again what it was before it",
        of.epoch
    )];
    // What is queued goes with all that was written since.
    let around = around(installation, &kept, false, &mut notes)?.unwrap_or_else(|| {
        notes.push("stop the applications first: what they write meanwhile is lost or mixed in".to_owned());
        Around::default()
    });
    stages.extend(around.stop);
    stages.extend(around.close);
    stages.push(no_return()?);
    stages.push(each("put the old data back", &kept, |component| Action::Rollback { component })?);
    stages.push(each("check", &kept, |component| Action::Check { component, at: CheckAt::Live })?);
    stages.extend(make_equal(installation, inventory, &kept, &mut notes)?);
    stages.extend(around.start);
    // What System has made anew and what pods remember is of the data that goes.
    let writes_objects = kept.iter().any(|c| c.as_str() == keepsake_core::format::objects::COMPONENT);
    let about = after::About { placed: &kept, by_rake: false, writes_objects };
    stages.extend(after::stages(installation, about, &mut notes)?);
    if let Some(check) = after::check(installation)? {
        stages.push(Stage { title: "check again".to_owned(), steps: vec![check] });
    }
    let goal = Goal::Rollback { restore: of.epoch, run: of.run };
    Ok(Plan {
        goal,
        installation: installation.name.clone(),
        set: Some(of.set),
        stages,
        notes,
        files_elsewhere: None,
        place: None,
    })
}

/// Where only one of System's database and Backend's storage is put back, the Config of the other is of afterwards.
fn make_equal(
    installation: &InstallationSettings,
    inventory: &Inventory,
    kept: &[&Component],
    notes: &mut Vec<String>,
) -> Result<Vec<Stage>> {
    let Some(mut pair) = config::pair(installation, AlertLevels::default()) else { return Ok(Vec::new()) };
    if kept.contains(&&pair.system) == kept.contains(&&pair.backend) {
        return Ok(Vec::new());
    }
    let release = inventory.of(&pair.system).and_then(|f| f.as_ref().ok()?.facts.get(SCHEMA));
    pair.alert_levels = config::alert_levels(release.map(String::as_str));
    // All of it stands behind the point of no return.
    let stages = config::stages(&pair, kept, inventory, Resync::Keepsake, notes)?;
    Ok(if stages.behind.is_empty() { stages.before } else { stages.behind })
}

fn no_return() -> Result<Stage> {
    Ok(Stage { title: "point of no return".to_owned(), steps: vec![Action::PointOfNoReturn.step(Undo::Nothing)?] })
}

fn each(title: &str, components: &[&Component], action: impl Fn(Component) -> Action) -> Result<Stage> {
    let steps = components.iter().map(|c| action((*c).clone()).step(Undo::Nothing)).collect::<Result<Vec<Step>>>()?;
    Ok(Stage { title: title.to_owned(), steps })
}

/// The components that keep old data of this restore. A load that is half taken back or half finalized counts: asking again ends it.
fn kept<'a>(inventory: &Inventory, of: &'a Restored) -> Result<Vec<&'a Component>> {
    let mut kept = Vec::new();
    for component in &of.components {
        let found = match inventory.of(component) {
            Some(Ok(found)) => {
                found.must_answer(component)?;
                found.may_load(component)?;
                found
            }
            Some(Err(failure)) => {
                return Err(Error::from(failure.clone()).context(format!("ask the agent of {component} what it keeps")));
            }
            None => return Err(Error::new(Kind::Internal, format!("component {component} was not asked"))),
        };
        let keeps = |state: &Staged| matches!(state, Staged::Committed | Staged::Committing);
        if found.loads.iter().any(|(run, state)| *run == of.run && keeps(state)) {
            kept.push(component);
        }
    }
    Ok(kept)
}

fn nothing_is_kept(of: &Restored) -> Error {
    Error::new(Kind::NotFound, format!("nothing of restore {} is kept: its old data is dropped already", of.epoch))
}
