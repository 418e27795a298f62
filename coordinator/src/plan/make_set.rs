//! The stages that make a set: of a backup, and of the safety set of a restore.

use keepsake_core::error::{Error, Kind, Result};

use super::backup::is_held;
use super::{Action, Stage, Undo};
use crate::inventory::Inventory;
use crate::topology::{ComponentSettings, Consistency, InstallationSettings};

/// Engines that are held last: their pause is felt by API traffic, so it is the shortest.
const HELD_LAST: [&str; 1] = ["redis"];

/// What the set is to be made of.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) installation: &'a InstallationSettings,
    pub(super) inventory: &'a Inventory,
    pub(super) chosen: &'a [&'a ComponentSettings],
    pub(super) consistency: Consistency,
}

/// The stages, their titles beginning with `prefix`.
///
/// # Errors
/// `Unsupported` when a cut is required and cannot be made.
pub(super) fn stages(wanted: &Wanted<'_>, prefix: &str, notes: &mut Vec<String>) -> Result<Vec<Stage>> {
    let stage = |title: &str, steps| Stage { title: format!("{prefix}{title}"), steps };
    let dumps = wanted
        .chosen
        .iter()
        .map(|c| Action::Dump { component: c.name.clone(), engine: c.engine.clone() }.step(Undo::Nothing));
    let dumps = dumps.collect::<Result<Vec<_>>>()?;
    let mut stages = vec![stage("begin the set", vec![Action::BeginSet.step(Undo::Nothing)?])];
    if let Some(cut) = cut(wanted, notes)? {
        stages.push(stage("make the cut", vec![cut.step(Undo::Nothing)?]));
    }
    stages.push(stage("dump", dumps));
    stages.push(stage("commit the set", vec![Action::CommitSet.step(Undo::Nothing)?]));
    Ok(stages)
}

/// The cut over all databases that were chosen; `None` when it is not wanted, or only preferred and not possible.
fn cut(wanted: &Wanted<'_>, notes: &mut Vec<String>) -> Result<Option<Action>> {
    let Wanted { installation, inventory, chosen, consistency } = *wanted;
    if consistency == Consistency::None {
        notes.push("every store is dumped at its own moment (consistency: none)".to_owned());
        return Ok(None);
    }
    let required = consistency == Consistency::Required;
    let mut groups = [Vec::new(), Vec::new()];
    let mut impossible = Vec::new();
    for component in chosen.iter().filter(|c| is_held(&c.engine)) {
        // One that cannot be asked now is tried: if it cannot be reached then, it is not in the set at all.
        if let Some(Ok(found)) = inventory.of(&component.name)
            && let Some(why) = &found.cannot_hold
        {
            impossible.push(format!("{}: {why}", component.name));
        }
        let [first, last] = &mut groups;
        if HELD_LAST.contains(&component.engine.as_str()) { last } else { first }.push(component.name.clone());
    }
    if !impossible.is_empty() {
        let why = impossible.join("; ");
        if required {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "no cut can be made, and installation {} requires one: {why}. Mend that, or say `consistency: preferred` or `none` in the topology",
                    installation.name
                ),
            ));
        }
        notes.push(format!("no cut can be made, so every store is dumped at its own moment: {why}"));
        return Ok(None);
    }
    let groups: Vec<_> = groups.into_iter().filter(|g| !g.is_empty()).collect();
    Ok((!groups.is_empty()).then_some(Action::Cut { groups, required, limits: installation.cut }))
}
