//! What a plan does about the applications before data is put in the place of other data, and after: by hooks, in a cluster, or nothing at all.

use keepsake_core::error::Result;
use keepsake_core::id::Component;
use keepsake_core::queues::is_queues_server;

use super::after::{READERS, ROLLED_OUT};
use super::{Action, Stage, Undo, WORKER};
use crate::topology::kubernetes::{By, KubernetesSettings, Undrained};
use crate::topology::{Hooks, InstallationSettings};

/// They write to no store of their own: what they report goes to backend-listener.
const GATEWAYS: [&str; 2] = ["apicast-staging", "apicast-production"];
/// It writes to every store of System whenever somebody calls it, and to those of Backend through backend-listener alone.
const APP: &str = "system-app";
/// It writes to Backend's storage and queues whenever somebody calls it.
const LISTENER: &str = "backend-listener";

/// Stages around the placing of data.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// Before it.
    pub(super) stop: Vec<Stage>,
    /// When nothing goes back any more.
    pub(super) start: Vec<Stage>,
}

/// What is done about the applications around the placing of these components; none when a person does it. `drains`: what the applications have queued is
/// worked off first, as the data is not thrown away on purpose.
///
/// # Errors
/// As [`Action::step_id`].
pub(super) fn around(
    installation: &InstallationSettings,
    placed: &[&Component],
    drains: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Around>> {
    if let Some(hooks) = &installation.hooks {
        return by_hooks(hooks).map(Some);
    }
    let Some(settings) = installation.kubernetes.as_ref().filter(|k| k.by != By::None) else { return Ok(None) };
    let keeps = keeps(settings, placed);
    let drain = if drains { drain(installation, settings, placed, &keeps, notes) } else { None };
    in_cluster(settings, keeps, drain, notes).map(Some)
}

fn by_hooks(hooks: &Hooks) -> Result<Around> {
    let stop = Action::Quiesce { commands: hooks.quiesce.clone(), namespace: None, keeps: Vec::new() };
    let start = Action::ResumeWorkloads { commands: hooks.resume.clone(), namespace: None };
    Ok(Around { stop: vec![stops(stop.clone(), &start)?], start: vec![starts(start, stop)?] })
}

fn in_cluster(
    settings: &KubernetesSettings,
    keeps: Vec<String>,
    drain: Option<Action>,
    notes: &mut Vec<String>,
) -> Result<Around> {
    let namespace = &settings.namespace;
    let quiesce =
        |keeps: Vec<String>| Action::Quiesce { commands: Vec::new(), namespace: Some(namespace.clone()), keeps };
    let resume = Action::ResumeWorkloads { commands: Vec::new(), namespace: Some(namespace.clone()) };
    let close = Action::CloseRoutes { namespace: namespace.clone() };
    let open = Action::OpenRoutes { namespace: namespace.clone() };
    let by_routes = settings.by == By::Routes;
    let mut around = Around::default();
    if by_routes {
        notes.push(format!(
            "Routes hold off only callers from outside the cluster. Who calls a Service from inside, such as a gateway in another namespace, is held off only \
             where what answers is stopped: of what writes to a store that is restored nothing is left running. Left running: {}",
            keeps.join(", ")
        ));
        let step = close.clone().step(Undo::by(open.clone()))?;
        around.stop.push(Stage { title: "close the Routes".to_owned(), steps: vec![step] });
    }
    if let Some(drain) = drain {
        let but_worker = quiesce(keeps.iter().cloned().chain([WORKER.to_owned()]).collect());
        let steps = vec![but_worker.step(Undo::by(resume.clone()))?];
        around.stop.push(Stage { title: format!("stop the applications but {WORKER}"), steps });
        let steps = vec![drain.step(Undo::Nothing)?];
        around.stop.push(Stage { title: format!("let {WORKER} finish"), steps });
    }
    let stop = quiesce(keeps.clone());
    around.stop.push(stops(stop.clone(), &resume)?);
    around.start.push(starts(resume, stop)?);
    if by_routes {
        // Before anybody is let in again: what they remember is of before.
        let workloads = ROLLED_OUT.iter().chain(&READERS).filter(|w| keeps.iter().any(|k| k == *w));
        let workloads = workloads.map(|w| (*w).to_owned()).collect();
        let step = Action::RollOut { namespace: namespace.clone(), workloads }.step(Undo::Nothing)?;
        around.start.push(Stage { title: "roll out what was left running".to_owned(), steps: vec![step] });
        let step = open.step(Undo::by(close))?;
        around.start.push(Stage { title: "open the Routes".to_owned(), steps: vec![step] });
    }
    Ok(around)
}

fn stops(stop: Action, start: &Action) -> Result<Stage> {
    let step = stop.step(Undo::by(start.clone()))?;
    Ok(Stage { title: "stop the applications".to_owned(), steps: vec![step] })
}

/// Only `rollback --discard-writes` undoes it: who takes data away from the applications stops them first.
fn starts(start: Action, stop: Action) -> Result<Stage> {
    let step = start.step(Undo::by(stop))?;
    Ok(Stage { title: "start the applications".to_owned(), steps: vec![step] })
}

/// What is left running behind closed Routes: nothing that writes by itself, and nothing that writes to a store that is placed, whoever calls it. What a
/// component is that has another name nobody knows, so everything may write to it.
fn keeps(settings: &KubernetesSettings, placed: &[&Component]) -> Vec<String> {
    if settings.by != By::Routes {
        return Vec::new();
    }
    let only = |names: &[&str]| placed.iter().all(|c| names.contains(&c.as_str()));
    let others = ["zync-database", keepsake_core::format::objects::COMPONENT];
    let of_backend = [others.as_slice(), &["backend-redis", "backend-queues"]].concat();
    // Where System's database is placed, Backend's Config is made equal to it.
    let of_system = [others.as_slice(), &["system-redis", "system-storage"]].concat();
    let mut keeps = GATEWAYS.map(str::to_owned).to_vec();
    keeps.extend(only(&of_backend).then(|| APP.to_owned()));
    keeps.extend(only(&of_system).then(|| LISTENER.to_owned()));
    keeps
}

/// How what waits for backend-worker is worked off, where that is about a store that is placed.
fn drain(
    installation: &InstallationSettings,
    settings: &KubernetesSettings,
    placed: &[&Component],
    keeps: &[String],
    notes: &mut Vec<String>,
) -> Option<Action> {
    let of_redis = || installation.components.iter().filter(|c| keepsake_core::queues::has_queues(&c.engine));
    let component = of_redis()
        .find(|c| is_queues_server(&c.name))
        .or_else(|| of_redis().find(|c| c.name.as_str() == "backend-redis"))?
        .name
        .clone();
    let is_of_backend = |c: &&&Component| c.as_str() == "backend-redis" || is_queues_server(c);
    // What is queued stays where it is, and is worked off afterwards.
    if !placed.iter().any(|c| is_of_backend(&c)) || keeps.iter().any(|k| k == LISTENER) {
        return None;
    }
    let (deadline, otherwise) = (settings.drain.deadline, settings.drain.otherwise);
    notes.push(match otherwise {
        Undrained::GoOn => format!(
            "{WORKER} is stopped when it has worked off its queues in {component}, or after {deadline} s whatever is left. Jobs that are left are lost no more \
             than all else of {component}: they are in what a rollback puts back, and in the safety set if one is made (--queues {component}=keep keeps them \
             queued)"
        ),
        Undrained::Fail => format!(
            "{WORKER} is stopped when it has worked off its queues in {component}; if jobs are left after {deadline} s, the restore fails, as the topology says"
        ),
    });
    Some(Action::Drain { component, deadline, otherwise })
}
