//! The plan of a backup.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, EngineName, SetId};

use super::make_set::{self, Wanted};
use super::{Goal, Plan, files};
use crate::inventory::Inventory;
use crate::topology::InstallationSettings;

/// Engines whose writes are never held: they are read after the databases' cut. The cluster's objects change by hand, not by traffic.
const WITHOUT_HOLD: [&str; 2] = ["files", keepsake_core::format::objects::ENGINE];

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
    }
    let left_out: Vec<_> = installation.components.iter().map(|c| c.name.clone()).filter(|n| !asked(n)).collect();
    if !left_out.is_empty() {
        notes.push("the set will be partial, because components are left out: it is never the latest".to_owned());
    }
    let chosen: Vec<_> = installation.components.iter().filter(|c| asked(&c.name)).collect();
    let wanted = Wanted { installation, inventory, chosen: &chosen, consistency: installation.consistency };
    let stages = make_set::stages(&wanted, "", &mut notes)?;
    let files_elsewhere = files::elsewhere(installation, inventory)?;
    notes.extend(files_elsewhere.as_ref().map(|place| format!("files: in {place}, not in this set")));
    let goal = Goal::Backup { left_out };
    Ok(Plan {
        goal,
        installation: installation.name.clone(),
        set: Some(set),
        stages,
        notes,
        files_elsewhere,
        place: None,
    })
}

/// Whether writes of components of this engine are held for a cut.
pub fn is_held(engine: &EngineName) -> bool {
    !WITHOUT_HOLD.contains(&engine.as_str())
}
