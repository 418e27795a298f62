//! The workloads of a 3scale: what writes, in which order it is stopped and started, and what is never touched.
//!
//! Names: 3scale-operator 2.15 (`pkg/3scale/amp/component`), the same in the templates up to 2.12; `system-sphinx` is the name of `system-searchd` up to 2.13.
//! The order of stopping is that of the guide for externalizing the databases (2.7 to 2.14), but that backend-worker comes after backend-listener, so that it
//! can work off what the listener has queued. The order of starting follows what waits for what at start.

/// The stores' own workloads. They are never scaled: zync-database keeps its data in an emptyDir, which is lost with its pod.
pub(super) const DATABASES: [&str; 5] =
    ["system-mysql", "system-postgresql", "backend-redis", "system-redis", "zync-database"];

/// In this order applications are stopped, those of a step together. System-memcache writes to no store; it is stopped because what it remembers is of
/// before.
pub(super) const STOP: [&[&str]; 7] = [
    &["zync-que", "zync"],
    &["apicast-staging", "apicast-production"],
    &["system-sidekiq", "backend-cron", "system-searchd", "system-sphinx"],
    &["system-app"],
    &["backend-listener"],
    &["backend-worker"],
    &["system-memcache"],
];

/// In this order they are started.
pub(super) const START: [&[&str]; 8] = [
    &["system-memcache"],
    &["backend-listener"],
    &["backend-worker", "backend-cron"],
    &["system-app"],
    &["system-sidekiq"],
    &["system-searchd", "system-sphinx"],
    &["zync", "zync-que"],
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

    #[test]
    fn the_worker_outlives_the_listener_and_both_are_there_before_system() {
        assert!(stop_step("backend-listener") < stop_step("backend-worker"));
        assert!(stop_step("system-app") < stop_step("backend-listener"));
        assert!(start_step("backend-listener") < start_step("system-app"));
        assert!(start_step("zync") < start_step("a-stranger"));
        assert!(is_known("zync-database") && is_known("system-sphinx") && !is_known("a-stranger"));
    }
}
