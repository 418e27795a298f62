//! The plan of a backup.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, EngineName, SetId};

use super::{Action, Goal, Plan, Stage, Undo};
use crate::inventory::Inventory;
use crate::topology::{ComponentSettings, Consistency, InstallationSettings};

/// Engines whose writes are never held: they are read after the databases' cut.
const WITHOUT_HOLD: [&str; 1] = ["files"];
/// Engines that are held last: their pause is felt by API traffic, so it is the shortest.
const HELD_LAST: [&str; 1] = ["redis"];

/// Plans a backup of the components asked for; of all if none is named.
///
/// # Errors
/// `Invalid` when a component is not in the topology, or its agent serves another engine.
pub fn plan(
    installation: &InstallationSettings,
    inventory: &Inventory,
    only: &[Component],
    set: SetId,
) -> Result<Plan> {
    for name in only {
        installation.component(name)?;
    }
    let asked = |name: &Component| only.is_empty() || only.contains(name);
    let mut notes = Vec::new();
    let mut dumps = Vec::new();
    for component in installation.components.iter().filter(|c| asked(&c.name)) {
        match inventory.of(&component.name) {
            Some(Ok(found)) => {
                if found.engine != component.engine {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "component {} is of engine {} in the topology, but its agent serves {}",
                            component.name, component.engine, found.engine
                        ),
                    ));
                }
                notes.extend(found.problems.iter().map(|p| format!("{}: {p}", component.name)));
            }
            Some(Err(failure)) => {
                notes.push(format!("{} cannot be asked now and will be tried: {}", component.name, failure.text));
            }
            None => {}
        }
        let action = Action::Dump { component: component.name.clone(), engine: component.engine.clone() };
        dumps.push(action.step(Undo::Nothing)?);
    }
    let left_out: Vec<_> = installation.components.iter().map(|c| c.name.clone()).filter(|n| !asked(n)).collect();
    if !left_out.is_empty() {
        notes.push("the set will be partial, because components are left out: it is never the latest".to_owned());
    }
    let mut stages =
        vec![Stage { title: "begin the set".to_owned(), steps: vec![Action::BeginSet.step(Undo::Nothing)?] }];
    let chosen: Vec<_> = installation.components.iter().filter(|c| asked(&c.name)).collect();
    if let Some(cut) = cut(installation, inventory, &chosen, &mut notes)? {
        stages.push(Stage { title: "make the cut".to_owned(), steps: vec![cut.step(Undo::Nothing)?] });
    }
    stages.push(Stage { title: "dump".to_owned(), steps: dumps });
    stages.push(Stage { title: "commit the set".to_owned(), steps: vec![Action::CommitSet.step(Undo::Nothing)?] });
    Ok(Plan { goal: Goal::Backup { left_out }, installation: installation.name.clone(), set, stages, notes })
}

/// Whether writes of components of this engine are held for a cut.
pub fn is_held(engine: &EngineName) -> bool {
    !WITHOUT_HOLD.contains(&engine.as_str())
}

/// The cut over all databases that were chosen; `None` when it is not wanted, or only preferred and not possible.
fn cut(
    installation: &InstallationSettings,
    inventory: &Inventory,
    chosen: &[&ComponentSettings],
    notes: &mut Vec<String>,
) -> Result<Option<Action>> {
    if installation.consistency == Consistency::None {
        notes.push("every store is dumped at its own moment (consistency: none)".to_owned());
        return Ok(None);
    }
    let required = installation.consistency == Consistency::Required;
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
