//! What a plan does about the applications before data is put in the place of other data, and after: by hooks, in a cluster, or nothing at all.

use keepsake_core::error::{Error, Kind, Result};
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
    /// Right before it, when nobody makes Routes any more.
    pub(super) close: Vec<Stage>,
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
    in_cluster(settings, &keeps, drain, notes).map(Some)
}

/// What is done about the applications around a restore; nothing, and that is noted, when a person does it. `rebuilt`: the same run has built them, and has
/// stopped them.
///
/// # Errors
/// `Invalid` when nobody would start what the run has stopped; as [`Action::step_id`].
pub(super) fn around_a_restore(
    installation: &InstallationSettings,
    placed: &[&Component],
    rebuilt: bool,
    notes: &mut Vec<String>,
) -> Result<Around> {
    // Nothing of anybody's is queued in what was just built.
    let Some(around) = around(installation, placed, !rebuilt, notes)? else {
        if rebuilt {
            return Err(Error::new(
                Kind::Invalid,
                "this run has stopped the applications of what it has built, and nobody would start them (`by: none`): write `by` into the topology as it was, or \
                 `by: scale`",
            ));
        }
        notes.push("stop the applications first: what they write during a restore is lost or mixed in".to_owned());
        return Ok(Around::default());
    };
    if rebuilt && !around.close.is_empty() {
        notes.push(
            "where Zync has made no Route yet there is none to close: those that it makes when it is started again are open"
                .to_owned(),
        );
    }
    Ok(around)
}

fn by_hooks(hooks: &Hooks) -> Result<Around> {
    let stop = Action::Quiesce { commands: hooks.quiesce.clone(), namespace: None, keeps: Vec::new() };
    let start = Action::ResumeWorkloads { commands: hooks.resume.clone(), namespace: None };
    Ok(Around { stop: vec![stops(stop.clone(), &start)?], close: Vec::new(), start: vec![starts(start, stop)?] })
}

fn in_cluster(
    settings: &KubernetesSettings,
    keeps: &[String],
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
    }
    if let Some(drain) = drain {
        let but_worker = quiesce(keeps.iter().cloned().chain([WORKER.to_owned()]).collect());
        let steps = vec![but_worker.step(Undo::by(resume.clone()))?];
        around.stop.push(Stage { title: format!("stop the applications but {WORKER}"), steps });
        let steps = vec![drain.step(Undo::Nothing)?];
        around.stop.push(Stage { title: format!("let {WORKER} finish"), steps });
    }
    let stop = quiesce(keeps.to_vec());
    around.stop.push(stops(stop.clone(), &resume)?);
    if by_routes {
        // Zync and the operator, which make Routes, are stopped by then.
        let step = close.clone().step(Undo::by(open.clone()))?;
        around.close.push(Stage { title: "close the Routes".to_owned(), steps: vec![step] });
    }
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
    let left = if placed.contains(&&component) {
        format!(
            "they become what all else of {component} becomes: they are in what a rollback puts back, and in the safety set if one is made (--queues \
             {component}=keep keeps them queued)"
        )
    } else {
        format!("they stay queued, as {component} is not restored")
    };
    notes.push(match otherwise {
        Undrained::GoOn => format!(
            "{WORKER} is stopped when it has worked off its queues in {component}, or after {deadline} s whatever is left. If jobs are left, {left}"
        ),
        Undrained::Fail => format!(
            "{WORKER} is stopped when it has worked off its queues in {component}; if jobs are left after {deadline} s, the restore fails, as the topology says"
        ),
    });
    Some(Action::Drain { component, deadline, otherwise })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::Topology;

    fn installation(platform: &str, more: &str) -> InstallationSettings {
        let text = format!(
            "
repository: {{ url: 'file:///backups' }}
installations:
  - name: prod
{platform}
    components:
      - {{ name: system-mysql, engine: mysql, agent: 'http://localhost:9090' }}
      - {{ name: backend-redis, engine: redis, agent: 'http://localhost:9091' }}
{more}
"
        );
        Topology::parse(&text, Path::new("/")).unwrap().installations.remove(0)
    }

    fn kubernetes(more: &str) -> String {
        format!("    platform: kubernetes\n    kubernetes: {{ namespace: threescale, objects: false{more} }}")
    }

    /// The steps before and after, by id, and the notes.
    fn planned(installation: &InstallationSettings, placed: &[&str]) -> Option<(Vec<String>, Vec<String>, String)> {
        let placed: Vec<Component> = placed.iter().map(|c| c.parse().unwrap()).collect();
        let mut notes = Vec::new();
        let around = around(installation, &placed.iter().collect::<Vec<_>>(), true, &mut notes).unwrap()?;
        let ids = |stages: Vec<Stage>| stages.into_iter().flat_map(|s| s.steps).map(|s| s.id.to_string()).collect();
        let stop = around.stop.into_iter().chain(around.close).collect();
        Some((ids(stop), ids(around.start), notes.join("\n")))
    }

    /// What is left running behind closed Routes when this is placed.
    fn left(placed: &[&str]) -> Vec<String> {
        let placed: Vec<Component> = placed.iter().map(|c| c.parse().unwrap()).collect();
        let installation = installation(&kubernetes(", by: routes"), "");
        keeps(installation.kubernetes.as_ref().unwrap(), &placed.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_plan_says_how_the_applications_stop() {
        assert!(planned(&installation("", ""), &["system-mysql"]).is_none());
        assert!(planned(&installation(&kubernetes(", by: none"), ""), &["system-mysql"]).is_none());
        let hooks = installation("    hooks: { quiesce: [[stop, all]], resume: [[start, all]] }", "");
        let (stop, start, notes) = planned(&hooks, &["backend-redis"]).unwrap();
        assert_eq!(
            (stop, start, notes.as_str()),
            (vec!["quiesce".to_owned()], vec!["resume-workloads".to_owned()], "")
        );
        let around = around(&hooks, &[], true, &mut Vec::new()).unwrap().unwrap();
        let told = |stages: &[Stage]| stages[0].steps[0].action.to_string();
        assert_eq!((told(&around.stop), told(&around.start)), ("run stop all".to_owned(), "run start all".to_owned()));
        let scaled = installation(&kubernetes(""), "");
        assert_eq!(planned(&scaled, &["system-mysql"]).unwrap().0, ["quiesce"]);
        let around = super::around(&scaled, &[], true, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(told(&around.stop), "scale the applications in namespace threescale to 0, the operator first");
        let back = "scale the applications in namespace threescale back to what they were, the operator last";
        assert_eq!(told(&around.start), back);
    }

    #[test]
    fn queues_are_worked_off_where_they_are_and_where_it_matters() {
        let drained = ["quiesce-but-worker", "drain-backend-redis", "quiesce"];
        let scaled = installation(&kubernetes(""), "");
        let (stop, start, notes) = planned(&scaled, &["system-mysql", "backend-redis"]).unwrap();
        assert_eq!(
            (stop.as_slice(), start.as_slice()),
            (drained.map(str::to_owned).as_slice(), ["resume-workloads".to_owned()].as_slice())
        );
        assert!(notes.contains("120 s whatever is left") && notes.contains("safety set"), "{notes}");
        // On a server of their own, which is not restored unless it is named.
        let apart = installation(
            &kubernetes(""),
            "      - { name: backend-queues, engine: redis, agent: 'http://localhost:9092' }",
        );
        let (stop, _, notes) = planned(&apart, &["backend-redis"]).unwrap();
        assert_eq!(stop[1], "drain-backend-queues");
        assert!(notes.contains("they stay queued"), "{notes}");
        let strict = installation(&kubernetes(", drain: { deadline: 9, otherwise: fail }"), "");
        let (_, _, notes) = planned(&strict, &["backend-redis"]).unwrap();
        assert!(notes.contains("9 s") && notes.contains("fails"), "{notes}");
        // Whoever throws away what was written since throws away what is queued.
        let placed: Component = "backend-redis".parse().unwrap();
        let around = around(&scaled, &[&placed], false, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(around.stop.len(), 1);
    }

    #[test]
    fn behind_closed_routes_nothing_runs_that_writes_to_what_is_placed() {
        let gateways = GATEWAYS.map(str::to_owned).to_vec();
        let with = |more: &[&str]| [gateways.clone(), more.iter().map(|s| (*s).to_owned()).collect()].concat();
        assert_eq!(left(&["zync-database"]), with(&[APP, LISTENER]));
        assert_eq!(left(&["objects"]), with(&[APP, LISTENER]));
        assert_eq!(left(&["backend-redis"]), with(&[APP]));
        assert_eq!(left(&["backend-queues", "zync-database"]), with(&[APP]));
        assert_eq!(left(&["system-redis", "system-storage"]), with(&[LISTENER]));
        for component in ["system-mysql", "system-postgresql", "system-database", "my-own"] {
            assert_eq!(left(&[component]), gateways, "{component}");
        }
        assert_eq!(left(&["backend-redis", "system-storage"]), gateways);
    }

    #[test]
    fn routes_are_closed_last_and_opened_when_all_is_new() {
        let routed = installation(&kubernetes(", by: routes"), "");
        let (stop, start, notes) = planned(&routed, &["backend-redis"]).unwrap();
        assert_eq!(stop, ["quiesce-but-worker", "drain-backend-redis", "quiesce", "close-routes"]);
        assert_eq!(start, ["resume-workloads", "roll-out", "open-routes"]);
        assert!(notes.contains("only callers from outside") && notes.contains("system-app"), "{notes}");
        // Nobody is waited for where jobs come in still.
        assert_eq!(planned(&routed, &["zync-database"]).unwrap().0, ["quiesce", "close-routes"]);
    }

    #[test]
    fn plans_of_before_are_read() {
        let old = r#"{ "action": "quiesce", "commands": [["stop"]] }"#;
        let read: Action = serde_json::from_str(old).unwrap();
        let stop = vec![vec!["stop".to_owned()]];
        assert_eq!(read, Action::Quiesce { commands: stop, namespace: None, keeps: Vec::new() });
        assert!(!serde_json::to_string(&read).unwrap().contains("namespace"));
    }
}
