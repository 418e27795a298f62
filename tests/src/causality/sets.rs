//! Sets that are taken while writers write, and restored afterwards.

use std::time::Duration;

use super::{Writers, prepare, seen, violations};
use crate::house::House;

/// Several at once.
pub const WRITERS: usize = 4;

/// Restores each of these sets, and tells what in it cannot be of one instant.
///
/// # Panics
/// When a set cannot be restored.
pub async fn restored(house: &House, sets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for set in sets {
        let identity = house.path("identity-1");
        house.must(&["restore", "--no-safety", "--yes", "prod", "--set", set, "--identity", &identity]);
        let seen = seen(&house.installations[0], WRITERS).await;
        found.extend(violations(&seen).into_iter().map(|v| format!("set {set}: {v}")));
    }
    found
}

/// Takes sets while writers write; gives their ids and what each writer felt at most in each.
///
/// # Panics
/// When a backup does not complete, or nobody wrote.
pub async fn taken(house: &House, count: usize) -> (Vec<String>, Vec<Duration>) {
    let installation = &house.installations[0];
    prepare(installation, WRITERS).await;
    let writers = Writers::start(installation, WRITERS);
    let (mut sets, mut felt) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let before = writers.rounds();
        let _since = writers.longest();
        let done = house.must_json(&["backup"]);
        assert_eq!(done[0]["outcome"], "completed", "{done:#}");
        sets.push(done[0]["set"].as_str().expect("a set").to_owned());
        felt.extend(writers.longest());
        assert!(writers.rounds() > before, "nobody wrote anything meanwhile");
    }
    let rounds = writers.stop();
    assert!(rounds > 100, "hardly anything was written: {rounds} rounds");
    (sets, felt)
}
