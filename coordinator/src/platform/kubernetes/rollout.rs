//! Whether a workload has stopped or started, and if not, why not: pure, each reason a value.

use std::fmt;

use super::workload::Workload;

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
