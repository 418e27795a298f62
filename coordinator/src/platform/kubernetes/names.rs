//! The workloads of a 3scale: what writes, in which order it is stopped and started, and what is never touched.
//!
//! Names: 3scale-operator 2.15 (`pkg/3scale/amp/component`), the same in the templates up to 2.12; `system-sphinx` is the name of `system-searchd` up to 2.13.
//!
//! Applications stop and start in as few steps as nothing is lost by, those of a step together: each step is waited for, and all waits are downtime. Between two
//! steps there is an edge, which docs/decisions/0030 has with its reason:
//!
//! * **Stopping.** What calls backend-listener before backend-listener: a gateway's last reports go to it, and what System has written to its database and not
//!   told it is told by nobody later. Backend-listener, and backend-cron, which queue jobs, before backend-worker, which has time to work them off.
//! * **Starting.** Backend-listener before whoever calls it; system-app before the gateways, which get their configuration from it.
//! * **Everything else waits for itself**: jobs stay in the queues of stores, which are never stopped, until somebody has done them.

/// The stores' own workloads. They are never scaled: zync-database keeps its data in an emptyDir, which is lost with its pod.
pub(super) const DATABASES: [&str; 5] =
    ["system-mysql", "system-postgresql", "backend-redis", "system-redis", "zync-database"];

/// In this order applications are stopped, those of a step together. System-memcache and the search write to no store but their own index; they come with the
/// last as then nobody needs them, and are stopped because what they remember is of before.
pub(super) const STOP: [&[&str]; 3] = [
    &["zync-que", "zync", "apicast-staging", "apicast-production", "system-sidekiq", "backend-cron", "system-app"],
    &["backend-listener"],
    &["backend-worker", "system-memcache", "system-searchd", "system-sphinx"],
];

/// In this order they are started, those of a step together.
pub(super) const START: [&[&str]; 3] = [
    &["system-memcache", "backend-listener", "backend-worker", "backend-cron"],
    &["system-app", "system-sidekiq", "system-searchd", "system-sphinx", "zync", "zync-que"],
    &["apicast-staging", "apicast-production"],
];

/// Every 3scale has these, and each of them writes to a store: none may be left running.
pub(super) const WRITERS: [&str; 7] =
    ["backend-listener", "backend-worker", "backend-cron", "system-app", "system-sidekiq", "zync", "zync-que"];

/// The Jobs by which the operator prepares the system database before, and enqueues a rewrite of Backend's Config after, a rollout of system-app.
pub(super) const HOOK_JOBS: [&str; 2] = ["system-app-pre", "system-app-post"];

/// Whether it is a name of 3scale's own.
pub(super) fn is_known(name: &str) -> bool {
    DATABASES.contains(&name) || stop_step(name).is_some()
}

/// The step in which it is stopped.
pub(super) fn stop_step(name: &str) -> Option<usize> {
    STOP.iter().position(|step| step.contains(&name))
}

/// The step in which it is started; what is not known comes after all that is.
pub(super) fn start_step(name: &str) -> usize {
    START.iter().position(|step| step.contains(&name)).unwrap_or(START.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stopped_is_started_and_no_database_is_among_it() {
        let mut stopped: Vec<_> = STOP.concat();
        let mut started: Vec<_> = START.concat();
        stopped.sort_unstable();
        started.sort_unstable();
        assert_eq!(stopped, started);
        assert!(DATABASES.iter().all(|d| !stopped.contains(d)));
        assert!(WRITERS.iter().all(|w| stopped.contains(w)));
    }

    /// The first has stopped before the second stops, and why.
    const STOPS_BEFORE: [(&str, &str, &str); 6] = [
        ("apicast-staging", "backend-listener", "it sends its last reports there"),
        ("apicast-production", "backend-listener", "it sends its last reports there"),
        ("system-app", "backend-listener", "what it has committed it tells Backend once, through the listener"),
        (
            "system-sidekiq",
            "backend-listener",
            "its jobs tell Backend through the listener, and take events from there",
        ),
        ("backend-listener", "backend-worker", "the worker has to work off what the listener has queued"),
        ("backend-cron", "backend-worker", "it puts jobs that have failed back into the worker's queues"),
    ];

    /// The first is ready before the second starts, and why.
    const STARTS_BEFORE: [(&str, &str, &str); 6] = [
        ("backend-listener", "system-app", "what is written in System is told to Backend once"),
        ("backend-listener", "system-sidekiq", "its jobs would fail"),
        ("backend-listener", "apicast-staging", "callers would be answered without it"),
        ("backend-listener", "apicast-production", "callers would be answered without it"),
        ("system-app", "apicast-staging", "it has the configuration from there"),
        ("system-app", "apicast-production", "it has the configuration from there, when it boots"),
    ];

    #[test]
    fn what_needs_another_stops_before_and_starts_after_it() {
        for (first, second, why) in STOPS_BEFORE {
            assert!(stop_step(first).unwrap() < stop_step(second).unwrap(), "{first} stops before {second}: {why}");
        }
        for (first, second, why) in STARTS_BEFORE {
            assert!(start_step(first) < start_step(second), "{first} starts before {second}: {why}");
        }
        assert!(START.concat().iter().all(|known| start_step(known) < start_step("a-stranger")));
        assert!(is_known("zync-database") && is_known("system-sphinx") && !is_known("a-stranger"));
    }

    /// Each wait is downtime.
    #[test]
    fn no_step_is_there_without_a_reason() {
        let has_reason = |edges: &[(&str, &str, &str)], before: &[&str], after: &[&str]| {
            edges.iter().any(|(first, second, _)| before.contains(first) && after.contains(second))
        };
        for steps in STOP.windows(2) {
            assert!(has_reason(&STOPS_BEFORE, steps[0], steps[1]), "{:?} could stop together", steps.concat());
        }
        for steps in START.windows(2) {
            assert!(has_reason(&STARTS_BEFORE, steps[0], steps[1]), "{:?} could start together", steps.concat());
        }
    }

    /// While the worker works off its queues, nothing may run that fills them; what is stopped with it may run on.
    #[test]
    fn only_what_queues_no_jobs_of_backend_stops_with_the_worker() {
        let last = STOP.last().unwrap();
        assert!(last.contains(&"backend-worker"));
        let writers: Vec<_> = WRITERS.into_iter().filter(|w| last.contains(w)).collect();
        assert_eq!(writers, ["backend-worker"]);
    }
}
