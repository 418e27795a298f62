//! The plan that builds an installation anew in an empty namespace: its objects are made, and whoever builds from them is waited for.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::Record;

use super::objects::{ObjectPolicy, are_objects};
use super::{Action, Goal, Plan, Stage, Undo};
use crate::topology::InstallationSettings;

/// Plans it. The data is another plan's: its stores have to be there first.
///
/// # Errors
/// `Invalid` when the installation runs on no cluster, or the set has no objects.
pub fn plan(installation: &InstallationSettings, record: &Record) -> Result<Plan> {
    let component = installation.components.iter().find(|c| are_objects(&c.engine)).map(|c| c.name.clone());
    let (Some(settings), Some(component)) = (&installation.kubernetes, component) else {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "installation {} is not on a cluster by the topology (`platform: kubernetes`, with objects)",
                installation.name
            ),
        ));
    };
    if record.component(&component).is_none_or(|entry| entry.dump.is_none()) {
        return Err(Error::new(Kind::Invalid, format!("set {} has no objects of a cluster to build from", record.set)));
    }
    let undo = || Undo::by(Action::Rollback { component: component.clone() });
    let stage = Action::Stage {
        component: component.clone(),
        queues: QueuePolicy::default(),
        in_place: false,
        objects: ObjectPolicy::Build,
    };
    let one = |title: &str, action: Action, undo: Undo| -> Result<Stage> {
        Ok(Stage { title: title.to_owned(), steps: vec![action.step(undo)?] })
    };
    let stages = vec![
        one("read and check the objects", stage, undo())?,
        one("make the objects", Action::Commit { component: component.clone() }, undo())?,
        one("point of no return", Action::PointOfNoReturn, Undo::Nothing)?,
        one(
            "wait for the installation",
            Action::AwaitInstallation { namespace: settings.namespace.clone() },
            Undo::Nothing,
        )?,
        one("keep nothing any more", Action::Finalize { component }, Undo::Nothing)?,
    ];
    let notes = vec![
        "it is built with empty stores: deploy the agents beside them, then bring the data back with `keepsake restore`".to_owned(),
        format!(
            "where there is no APIManager in the set, somebody has to deploy the template meanwhile: `keepsake objects --installation {}` writes its parameters",
            installation.name
        ),
    ];
    Ok(Plan {
        goal: Goal::Rebuild { epoch: record.epoch },
        installation: installation.name.clone(),
        set: Some(record.set),
        stages,
        notes,
        files_elsewhere: None,
    })
}
