//! Whole installations at one instant, on real servers: what writers felt, and whether what they wrote hangs together in every set.

use std::time::Duration;

use keepsake_tests::causality::{self, Writers, quantile, violations};
use keepsake_tests::house::House;
use keepsake_tests::threescale::Size;

/// Several at once.
const WRITERS: usize = 4;
/// Sets taken in `make test`; `make prove-cut` takes more.
const SETS: usize = 5;

/// Restores each of these sets, and tells what in it cannot be of one instant.
async fn restored(house: &House, sets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for set in sets {
        let identity = house.path("identity-1");
        house.must(&["restore", "--yes", "prod", "--set", set, "--identity", &identity]);
        let seen = causality::seen(&house.installations[0], WRITERS).await;
        found.extend(violations(&seen).into_iter().map(|v| format!("set {set}: {v}")));
    }
    found
}

/// Takes sets while writers write; gives their ids and what each writer felt at most in each.
async fn taken(house: &House, count: usize) -> (Vec<String>, Vec<Duration>) {
    let installation = &house.installations[0];
    causality::prepare(installation, WRITERS).await;
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

#[tokio::test]
async fn installation_at_one_instant_hangs_together_in_every_set() {
    let house = House::new(&["prod"], Size::TINY).await;
    let (sets, mut felt) = taken(&house, SETS).await;
    for set in &sets {
        let record = house.must_json(&["show", set]);
        assert_eq!(record["cut"]["components"].as_array().map(Vec::len), Some(4), "{record:#}");
    }
    let shown = house.must(&["show"]);
    assert!(shown.contains("unbroken") && shown.contains("writers waited"), "{shown}");
    println!("writers felt p50 {:?}, p99 {:?}", quantile(&mut felt, 0.5), quantile(&mut felt, 0.99));
    let found = restored(&house, &sets).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn installation_dumped_store_by_store_does_not_hang_together() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    house.consistency = "    consistency: none\n".to_owned();
    house.write_topology();
    let (sets, _) = taken(&house, 2).await;
    let found = restored(&house, &sets).await;
    assert!(!found.is_empty(), "without a cut the stores agreed all the same: the test sees nothing");
}

/// How far apart the blows are that are tried; 1 is all. No multiple of the numbers of victims and signals.
const STRIDE: usize = 11;

#[tokio::test]
async fn installation_whose_cut_is_struck_leaves_nobody_waiting() {
    let mut arena = keepsake_tests::struck::Arena::open().await;
    for blow in keepsake_tests::struck::blows().into_iter().step_by(STRIDE) {
        let began = std::time::Instant::now();
        arena.strike(blow).await;
        println!("{blow:?}: {:.1} s", began.elapsed().as_secs_f64());
    }
    assert!(arena.claims() > 0, "no set claims a cut");
    arena.every_claim_is_true().await;
}
