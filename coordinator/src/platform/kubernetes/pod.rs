//! What a pod says of itself, as far as whoever waits for it has to know: pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A message of the cluster is told up to so many characters.
const LONGEST: usize = 300;

/// How a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing of it has run yet, for this reason.
    Pending(String),
    /// It runs.
    Running,
    /// It has ended, and well.
    Succeeded,
    /// It has ended, for this reason.
    Failed(String),
    /// It is being taken away.
    Terminating,
}

/// One pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) state: State,
    pub(super) is_ready: bool,
    /// The container that tells why it is so: the first that is in trouble, or that is none.
    pub(super) container: Option<String>,
    /// What its container said last, if it was kept.
    pub(super) message: Option<String>,
    pub(super) created: Option<Time>,
    annotations: BTreeMap<String, String>,
    /// With which status each container ended, of those that have.
    exits: BTreeMap<String, i32>,
}

impl Seen {
    /// From what the API server gave.
    pub(super) fn of(pod: Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let state = match (pod.metadata.deletion_timestamp, status.phase.as_deref()) {
            (_, Some("Succeeded")) => State::Succeeded,
            (_, Some("Failed")) => State::Failed(why_failed(&status)),
            (Some(_), _) => State::Terminating,
            (None, Some("Running")) => State::Running,
            (None, _) => State::Pending(why_pending(&status)),
        };
        let is_ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let troubled = all(&status).find(|c| why_not(c).is_some());
        let terminated = |c: &ContainerStatus| c.state.as_ref()?.terminated.as_ref()?.message.clone();
        let exit = |c: &ContainerStatus| Some((c.name.clone(), c.state.as_ref()?.terminated.as_ref()?.exit_code));
        Self {
            exits: all(&status).filter_map(exit).collect(),
            uid: pod.metadata.uid.unwrap_or_default(),
            is_ready: is_ready && state == State::Running,
            state,
            container: troubled.map(|c| c.name.clone()),
            message: all(&status).filter_map(terminated).last(),
            name: pod.metadata.name.unwrap_or_default(),
            created: pod.metadata.creation_timestamp,
            annotations: pod.metadata.annotations.unwrap_or_default(),
        }
    }

    /// Whether it has this annotation with this value.
    pub(super) fn is_marked(&self, key: &str, value: &str) -> bool {
        self.annotations.get(key).is_some_and(|v| v == value)
    }

    /// With which status a container of it ended, if it has.
    pub(super) fn exit_of(&self, container: &str) -> Option<i32> {
        self.exits.get(container).copied()
    }

    /// Whether it is there still, so that it works or may.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.state, State::Succeeded | State::Failed(_))
    }
}

/// Pods in words: how many are how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Count(Vec<(usize, State)>);

impl Count {
    /// Of these.
    pub(super) fn of<'a>(pods: impl IntoIterator<Item = &'a Seen>) -> Self {
        let mut counts: Vec<(usize, State)> = Vec::new();
        for pod in pods {
            match counts.iter_mut().find(|(_, state)| *state == pod.state) {
                Some((count, _)) => *count += 1,
                None => counts.push((1, pod.state.clone())),
            }
        }
        Self(counts)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("it has no pod");
        }
        for (n, (count, state)) in self.0.iter().enumerate() {
            let pods = if *count == 1 { "pod" } else { "pods" };
            write!(f, "{}{count} {pods} ", if n == 0 { "" } else { ", " })?;
            match state {
                State::Pending(why) => write!(f, "pending: {why}")?,
                State::Running => f.write_str("running")?,
                State::Succeeded => f.write_str("done")?,
                State::Failed(why) => write!(f, "failed: {why}")?,
                State::Terminating => f.write_str("terminating")?,
            }
        }
        Ok(())
    }
}

/// Init containers first, as they run first.
fn all(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

/// Why a container has not done its work or is not at it, if that is so.
fn why_not(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        // The others wait for the one in trouble.
        let reason = waiting.reason.as_deref().filter(|r| !["PodInitializing", "ContainerCreating"].contains(r))?;
        return Some(with_message(reason, waiting.message.as_deref()));
    }
    let ended = state.terminated.as_ref().filter(|t| t.exit_code != 0)?;
    let told = format!("exit code {}", ended.exit_code);
    Some(match ended.reason.as_deref() {
        None | Some("Error") => told,
        Some(reason) => format!("{told} ({reason})"),
    })
}

fn why_pending(status: &PodStatus) -> String {
    if let Some(why) = all(status).find_map(why_not) {
        return why;
    }
    let runs = |c: &&ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some());
    if let Some(init) = status.init_container_statuses.iter().flatten().find(runs) {
        return format!("init container {} is still at it", init.name);
    }
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    match unscheduled {
        Some(c) => with_message(c.reason.as_deref().unwrap_or("Unschedulable"), c.message.as_deref()),
        None if all(status).next().is_some() => "its containers are being made".to_owned(),
        None => "no node has taken it".to_owned(),
    }
}

fn why_failed(status: &PodStatus) -> String {
    let whole = status.reason.as_deref().map(|reason| with_message(reason, status.message.as_deref()));
    whole.or_else(|| all(status).find_map(why_not)).unwrap_or_else(|| "it does not say why".to_owned())
}

fn with_message(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|m| !m.is_empty()) {
        Some(message) => format!("{reason} ({})", message.chars().take(LONGEST).collect::<String>()),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(status: &Value) -> Seen {
        let pod = json!({ "metadata": { "name": "a-1", "annotations": { "mark": "x" } }, "status": status });
        Seen::of(serde_json::from_value(pod).unwrap())
    }

    fn pending(mut status: Value) -> String {
        status["phase"] = "Pending".into();
        match seen(&status).state {
            State::Pending(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let waiting = |reason: &str| json!({ "name": "rake", "state": { "waiting": { "reason": reason, "message": "back-off" } } });
        assert_eq!(pending(json!({})), "no node has taken it");
        let image = json!({ "containerStatuses": [waiting("ImagePullBackOff")] });
        assert_eq!(pending(image.clone()), "ImagePullBackOff (back-off)");
        assert_eq!(seen(&image).container.as_deref(), Some("rake"));
        assert_eq!(
            pending(json!({ "containerStatuses": [waiting("ContainerCreating")] })),
            "its containers are being made"
        );
        let init = json!({
            "initContainerStatuses": [{ "name": "check-svc", "state": { "running": {} } }],
            "containerStatuses": [waiting("PodInitializing")],
        });
        assert_eq!(pending(init), "init container check-svc is still at it");
        let full = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" }] });
        assert_eq!(pending(full), "Unschedulable (0/3 nodes)");
    }

    #[test]
    fn how_a_pod_ended_is_told() {
        let ended = |code: i32, reason: &str| json!({ "phase": "Failed", "containerStatuses": [{ "name": "rake", "state": { "terminated": { "exitCode": code, "reason": reason, "message": "at last" } } }] });
        let failed = seen(&ended(1, "Error"));
        assert_eq!(failed.state, State::Failed("exit code 1".to_owned()));
        assert_eq!((failed.container.as_deref(), failed.message.as_deref()), (Some("rake"), Some("at last")));
        assert_eq!((failed.exit_of("rake"), failed.exit_of("another")), (Some(1), None));
        assert_eq!(seen(&ended(137, "OOMKilled")).state, State::Failed("exit code 137 (OOMKilled)".to_owned()));
        let evicted = seen(&json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }));
        assert_eq!(evicted.state, State::Failed("Evicted (low on memory)".to_owned()));
        assert!(!evicted.is_there() && seen(&json!({ "phase": "Running" })).is_there());
        assert!(evicted.is_marked("mark", "x") && !evicted.is_marked("mark", "y"));
    }

    #[test]
    fn pods_are_counted_by_how_they_are() {
        let pods = [json!({ "phase": "Pending" }), json!({ "phase": "Running" }), json!({ "phase": "Pending" })]
            .map(|status| seen(&status));
        assert_eq!(Count::of(&pods).to_string(), "2 pods pending: no node has taken it, 1 pod running");
        assert_eq!(Count::of(&[]).to_string(), "it has no pod");
    }
}
