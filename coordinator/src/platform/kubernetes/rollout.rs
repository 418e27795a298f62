//! Whether a workload has stopped, started or got new pods, and if not, why not: pure, each reason a value.

use std::fmt;

use super::pod::{Count, Seen};
use super::workload::{ROLLED_OUT, Workload};

/// Why it is not as it should be yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Its controller has not seen the change.
    NotObserved { generation: i64, observed: i64 },
    /// Its controller has not taken all replicas away.
    Remain { replicas: i32 },
    /// Pods that are still there, each with a word on its state.
    Pods { pods: Vec<String> },
    /// Not all replicas are of the present template.
    Updated { updated: i32, wanted: i32 },
    /// Too few are ready.
    Ready { ready: i32, wanted: i32 },
    /// New pods do not follow when its template is changed.
    Held { why: &'static str },
    /// Too few of its new pods are ready; how those are that are not.
    New { ready: usize, wanted: i32, others: Count },
    /// Pods of before are still there.
    Old { pods: Vec<String> },
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotObserved { generation, observed } => {
                write!(f, "generation {generation} not observed by its controller, which is at {observed}")
            }
            Self::Remain { replicas } => write!(f, "{replicas} replicas remain"),
            Self::Pods { pods } => write!(f, "pods remain: {}", pods.join(", ")),
            Self::Updated { updated, wanted } => write!(f, "{updated} of {wanted} replicas updated"),
            Self::Ready { ready, wanted } => write!(f, "{ready} of {wanted} replicas ready"),
            Self::Held { why } => f.write_str(why),
            Self::New { ready, wanted, others } => write!(f, "{ready} of {wanted} new pods ready: {others}"),
            Self::Old { pods } => write!(f, "pods of before remain: {}", pods.join(", ")),
        }
    }
}

/// Whether nothing of it runs any more; `pods` are those that it still has.
///
/// # Errors
/// The reason why not.
pub(super) fn stopped(workload: &Workload, pods: Vec<String>) -> Result<(), Unfinished> {
    observed(workload)?;
    if !pods.is_empty() {
        return Err(Unfinished::Pods { pods });
    }
    match workload.status.replicas {
        0 => Ok(()),
        replicas => Err(Unfinished::Remain { replicas }),
    }
}

/// Whether so many of its replicas are ready.
///
/// # Errors
/// The reason why not.
pub(super) fn started(workload: &Workload, wanted: i32) -> Result<(), Unfinished> {
    if wanted == 0 {
        return Ok(());
    }
    observed(workload)?;
    let updated = workload.status.updated_replicas;
    // A rollout that somebody has paused gives new replicas the old template.
    if !workload.paused && updated < wanted {
        return Err(Unfinished::Updated { updated, wanted });
    }
    match workload.status.ready_replicas {
        ready if ready < wanted => Err(Unfinished::Ready { ready, wanted }),
        _ => Ok(()),
    }
}

/// Whether all of its pods were made anew for this run and are ready. The pods tell: they have the annotation of the template that they were made from.
///
/// # Errors
/// The reason why not.
pub(super) fn rolled_out(workload: &Workload, pods: &[Seen], run: &str) -> Result<(), Unfinished> {
    observed(workload)?;
    let (new, old): (Vec<_>, Vec<_>) = pods.iter().filter(|p| p.is_there()).partition(|p| p.is_marked(ROLLED_OUT, run));
    let (ready, others): (Vec<_>, Vec<_>) = new.into_iter().partition(|p| p.is_ready);
    let wanted = usize::try_from(workload.replicas).unwrap_or_default();
    if ready.len() < wanted {
        if workload.paused {
            return Err(Unfinished::Held { why: "its rollouts are paused: resume them (`kubectl rollout resume`)" });
        }
        if !workload.follows {
            return Err(Unfinished::Held {
                why: "it has no ConfigChange trigger, so that nothing follows when its template is changed: roll it out by hand (`oc rollout latest`)",
            });
        }
        let others = Count::of(others);
        return Err(Unfinished::New { ready: ready.len(), wanted: workload.replicas, others });
    }
    if old.is_empty() { Ok(()) } else { Err(Unfinished::Old { pods: old.iter().map(|p| p.name.clone()).collect() }) }
}

fn observed(workload: &Workload) -> Result<(), Unfinished> {
    let (generation, observed) = (workload.generation, workload.status.observed_generation);
    if observed < generation { Err(Unfinished::NotObserved { generation, observed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::workload::{Sort, Workload};
    use super::*;

    fn workload(generation: i64, spec: &serde_json::Value, status: &serde_json::Value) -> Workload {
        let object = json!({
            "metadata": { "name": "zync", "namespace": "threescale", "generation": generation, "resourceVersion": "1" },
            "spec": { "replicas": spec["replicas"], "paused": spec["paused"].as_bool().unwrap_or(false), "selector": { "matchLabels": { "deployment": "zync" } } },
            "status": status,
        });
        Workload::read(Sort::Deployment, serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn it_has_stopped_when_its_controller_knows_and_no_pod_is_left() {
        let of = |generation, status| workload(generation, &json!({ "replicas": 0 }), &status);
        let told = stopped(&of(5, json!({ "observedGeneration": 4 })), vec![]).unwrap_err().to_string();
        assert_eq!(told, "generation 5 not observed by its controller, which is at 4");
        let told = stopped(&of(5, json!({ "observedGeneration": 5 })), vec!["zync-1 (terminating)".to_owned()]);
        assert_eq!(told.unwrap_err().to_string(), "pods remain: zync-1 (terminating)");
        let told = stopped(&of(5, json!({ "observedGeneration": 5, "replicas": 2 })), vec![]).unwrap_err();
        assert_eq!(told, Unfinished::Remain { replicas: 2 });
        assert_eq!(stopped(&of(5, json!({ "observedGeneration": 5, "replicas": 0 })), vec![]), Ok(()));
    }

    #[test]
    fn it_is_rolled_out_when_all_of_its_pods_are_new_and_ready() {
        let pod = |name: &str, run: &str, ready: &str| {
            let status = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] });
            let meta = json!({ "name": name, "annotations": { ROLLED_OUT: run } });
            Seen::of(serde_json::from_value(json!({ "metadata": meta, "status": status })).unwrap())
        };
        let of = |paused: bool| {
            workload(2, &json!({ "replicas": 2, "paused": paused }), &json!({ "observedGeneration": 2 }))
        };
        let told = |pods: &[Seen]| rolled_out(&of(false), pods, "now").unwrap_err().to_string();
        let (old, new) = (pod("old", "before", "True"), pod("new", "now", "True"));
        assert_eq!(told(std::slice::from_ref(&old)), "0 of 2 new pods ready: it has no pod");
        assert_eq!(told(&[new.clone(), pod("slow", "now", "False")]), "1 of 2 new pods ready: 1 pod running");
        assert_eq!(told(&[new.clone(), new.clone(), old]), "pods of before remain: old");
        assert_eq!(rolled_out(&of(false), &[new.clone(), new.clone()], "now"), Ok(()));
        assert!(rolled_out(&of(true), &[new], "now").unwrap_err().to_string().contains("paused"));
        let unseen = workload(3, &json!({ "replicas": 2 }), &json!({ "observedGeneration": 2 }));
        assert!(matches!(rolled_out(&unseen, &[], "now"), Err(Unfinished::NotObserved { .. })));
    }

    #[test]
    fn it_has_started_when_as_many_are_ready_as_were() {
        let of = |status| workload(2, &json!({ "replicas": 3 }), &status);
        let told = |status, wanted| started(&of(status), wanted).unwrap_err().to_string();
        assert_eq!(
            told(json!({ "observedGeneration": 1 }), 3),
            "generation 2 not observed by its controller, which is at 1"
        );
        assert_eq!(told(json!({ "observedGeneration": 2, "updatedReplicas": 2 }), 3), "2 of 3 replicas updated");
        let halfway = json!({ "observedGeneration": 2, "updatedReplicas": 3, "readyReplicas": 2 });
        assert_eq!(told(halfway.clone(), 3), "2 of 3 replicas ready");
        assert_eq!(started(&of(halfway), 2), Ok(()), "more were not ready before");
        assert_eq!(started(&of(json!({})), 0), Ok(()), "none was ready before");
        let paused = workload(
            2,
            &json!({ "replicas": 3, "paused": true }),
            &json!({ "observedGeneration": 2, "readyReplicas": 3 }),
        );
        assert_eq!(started(&paused, 3), Ok(()));
    }
}
