//! The plan that builds an installation anew in an empty namespace: its objects are made, and whoever builds from them is waited for. The data is the second plan of
//! the same run, made when the stores are there.

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{Failure, Record};

use super::applications::around;
use super::objects::{ObjectPolicy, are_objects};
use super::restore::{self, Wishes};
use super::{Action, Goal, Plan, Stage, Undo};
use crate::inventory::{Found, Inventory};
use crate::topology::{InstallationSettings, KubernetesSettings};

/// Plans it: with wishes for the data up to where that is planned, else to its end.
///
/// # Errors
/// `Invalid` when the installation runs on no cluster, or the set has no objects, or the data is wished for and nobody could stop the applications.
pub fn plan(installation: &InstallationSettings, record: &Record, then: Option<Wishes>) -> Result<Plan> {
    let (settings, component) = place(installation)?;
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
    let mut stages = vec![
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
    let mut notes = vec![format!(
        "where there is no APIManager in the set, somebody has to deploy the template meanwhile: `keepsake objects --installation {}` writes its parameters",
        installation.name
    )];
    if then.is_some() {
        stages.extend(lead_over(installation, settings)?);
        notes.push(
            "it is built with empty stores, and then the run goes on into the data by a second plan, made from a new look at agents and stores: deploy the \
             agents beside them meanwhile, they are waited for. What cannot be done then is said, and `keepsake resume` plans again"
                .to_owned(),
        );
        notes.push(
            "from its point on this plan is not taken back; the data can be, by `keepsake rollback`, which leaves what is built here".to_owned(),
        );
    } else {
        notes.push(
            "it is built with empty stores: deploy the agents beside them, then bring the data back with `keepsake restore`"
                .to_owned(),
        );
    }
    Ok(Plan {
        goal: Goal::Rebuild { epoch: record.epoch, then: then.map(Box::new) },
        installation: installation.name.clone(),
        set: Some(record.set),
        stages,
        notes,
        files_elsewhere: None,
        place: None,
    })
}

/// From the installation that is built to the plan of its data: the agents are there, and nobody writes any more, so that no write of anybody stands between an
/// empty 3scale and its data.
fn lead_over(installation: &InstallationSettings, settings: &KubernetesSettings) -> Result<Vec<Stage>> {
    let all: Vec<_> = installation.components.iter().map(|c| &c.name).collect();
    // What is queued in what was just built is nobody's work, and the second plan tells how the applications stop.
    let Some(around) = around(installation, &all, false, &mut Vec::new())? else {
        return Err(Error::new(
            Kind::Invalid,
            "nobody stops the applications before the data comes (`by: none`): say --objects-only, and when it is built and you have stopped them, `keepsake \
             restore`",
        ));
    };
    let components = installation.components.iter().filter(|c| !are_objects(&c.engine)).map(|c| c.name.clone());
    let agents = Action::AwaitAgents { components: components.collect(), deadline: settings.deadline };
    let mut stages = vec![Stage { title: "wait for the agents".to_owned(), steps: vec![agents.step(Undo::Nothing)?] }];
    // Routes stay open: what they lead to is stopped, but for gateways of an empty 3scale. The second plan closes them, and opens those that it has closed,
    // whatever the topology says by then.
    stages.extend(around.stop);
    Ok(stages)
}

/// The second plan as far as it can be known before there is anything: as if agents and stores were what they were when the set was made.
///
/// # Errors
/// What stands against it by the set and the wishes alone.
pub fn expected(installation: &InstallationSettings, record: &Record, wishes: &Wishes) -> Result<Plan> {
    let answer = |component: &Component| {
        let entry = record.component(component);
        let dump = entry.and_then(|entry| entry.dump.as_ref()).map(|dump| &dump.report);
        let lacks = || Failure { kind: Kind::NotFound, text: format!("the set has no data of {component}") };
        let (entry, report) = entry.zip(dump).ok_or_else(lacks)?;
        Ok(Found {
            engine: entry.engine.clone(),
            server: report.server.clone(),
            agent_version: record.keepsake_version.clone(),
            size: 0,
            facts: report.facts.clone(),
            problems: Vec::new(),
            cannot_undo: None,
            cannot_load: None,
            in_place_is_whole: false,
            in_place_is_told: false,
            cannot_hold: None,
            staging_free: None,
            loads: Vec::new(),
        })
    };
    let answers = installation.components.iter().map(|c| (c.name.clone(), answer(&c.name)));
    restore::plan(installation, &Inventory::from_answers(answers), record, wishes)
        .context("plan the data (or say --objects-only, to build the installation without it)")
}

fn place(installation: &InstallationSettings) -> Result<(&KubernetesSettings, Component)> {
    let component = installation.components.iter().find(|c| are_objects(&c.engine)).map(|c| c.name.clone());
    installation.kubernetes.as_ref().zip(component).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!(
                "installation {} is not on a cluster by the topology (`platform: kubernetes`, with objects)",
                installation.name
            ),
        )
    })
}
