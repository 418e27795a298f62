//! Whole installations at one instant, on real servers: what writers felt, and whether what they wrote hangs together in every set.

use keepsake_coordinator::run::event::Outcome;
use keepsake_tests::causality::{self, WRITERS, Writers, quantile, restored, taken};
use keepsake_tests::house::House;
use keepsake_tests::threescale::Size;

/// Sets taken in `make test`; `make prove-cut` takes more.
const SETS: usize = 5;

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

/// A house whose agents' holds may end long before the coordinator believes it.
async fn house_with_a_long_lease() -> House {
    let mut house = House::new(&["prod"], Size::TINY).await;
    house.consistency = "    cut: { lease_ms: 10000, attempts: 1 }\n".to_owned();
    house.write_topology();
    causality::prepare(&house.installations[0], WRITERS).await;
    house
}

#[tokio::test]
async fn installation_whose_agent_is_late_is_noticed_by_the_last_step_and_by_nothing_else() {
    let house = house_with_a_long_lease().await;
    let writers = Writers::start(&house.installations[0], WRITERS);
    let (outcome, note, _) = keepsake_tests::unproven::back_up(&house, &writers, false).await;
    assert_eq!(outcome, Outcome::Failed, "{note}");
    assert!(note.contains("prove the hold of"), "{note}");
    assert_eq!(house.must_json(&["sets"])[0]["latest"], serde_json::Value::Bool(false));

    // Switched off, a set claims a cut that it has not: so it is this step that keeps it from being made.
    let (outcome, note, set) = keepsake_tests::unproven::back_up(&house, &writers, true).await;
    assert_eq!(outcome, Outcome::Completed, "{note}");
    writers.stop();
    let found = restored(&house, &[set.to_string()]).await;
    assert!(!found.is_empty(), "a late snapshot made no difference: the test sees nothing");
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
