//! The plan of a resync: Backend's Config becomes what System's database says, and a second look finds nothing.

use keepsake_core::error::{Error, Kind, Result};

use super::config::{ConfigMust, ConfigPair, LiveLook};
use super::{Action, Goal, Plan, Stage, Undo};
use crate::inventory::{Inventory, Staged};
use crate::topology::InstallationSettings;

/// Plans it; with `live` the applications write meanwhile.
///
/// # Errors
/// An agent cannot be asked; `Conflict` when a load of either component is half made.
pub fn plan(
    installation: &InstallationSettings,
    inventory: &Inventory,
    pair: &ConfigPair,
    live: Option<LiveLook>,
) -> Result<Plan> {
    for component in [&pair.system, &pair.backend] {
        let found = match inventory.of(component) {
            Some(Ok(found)) => found,
            Some(Err(failure)) => {
                return Err(Error::from(failure.clone()).context(format!("ask the agent of {component}")));
            }
            None => return Err(Error::new(Kind::Internal, format!("component {component} was not asked"))),
        };
        if let Some((run, _)) = found.loads.iter().find(|(_, state)| *state == Staged::Committing) {
            let text = format!(
                "the load of run {run} is half made in {component}: bring it to its end first, by `keepsake resume`"
            );
            return Err(Error::new(Kind::Conflict, text));
        }
    }
    let one = |title: &str, action: Action| -> Result<Stage> {
        Ok(Stage { title: title.to_owned(), steps: vec![action.step(Undo::Nothing)?] })
    };
    let mut stages = vec![one("make the Config equal", Action::ResyncConfig { pair: pair.clone(), live })?];
    let mut notes = vec![format!(
        "keys of the Config in {} are added, changed and deleted; no usage, queue, event or other key is touched. There is no way back: System's \
         database is the source of truth",
        pair.backend
    )];
    if live.is_some() {
        // A strict look would find what System is about to write; the resync itself looks until nothing differs.
        notes.push(
            "the applications may run: only what differs twice, the second time a while later, is changed".to_owned(),
        );
    } else {
        let must = ConfigMust::BeEqual;
        stages.push(one("check the Config", Action::CheckConfig { pair: pair.clone(), must })?);
        notes.push(
            "the applications are stopped, as was said: what they write meanwhile may be taken for a difference"
                .to_owned(),
        );
    }
    Ok(Plan {
        goal: Goal::Resync,
        installation: installation.name.clone(),
        set: None,
        stages,
        notes,
        files_elsewhere: None,
        place: None,
    })
}
