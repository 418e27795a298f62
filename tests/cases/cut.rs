//! The cut over a fleet without agents: every call of it fails, before its effect and after, and nobody is left waiting.

use std::time::Duration;

use keepsake_coordinator::run::event::{Event, Outcome, Output};
use keepsake_core::error::Kind;
use keepsake_core::record::{Cut, Record, Status};
use keepsake_tests::poll::wait_for;
use tokio_util::sync::CancellationToken;

use crate::runs::house::House;

const TOPOLOGY: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    consistency: required
    cut: { ready_within_ms: 300 }
    components:
      - { name: system-mysql, engine: fake, agent: 'http://127.0.0.1:1' }
      - { name: backend-redis, engine: redis, agent: 'http://127.0.0.1:2' }
      - { name: system-storage, engine: files, agent: 'http://127.0.0.1:3' }
";
const HELD: [&str; 2] = ["system-mysql", "backend-redis"];

async fn house(consistency: &str) -> House {
    let house = House::with(&TOPOLOGY.replace("consistency: required", &format!("consistency: {consistency}"))).await;
    house.fleet.engine("backend-redis", "redis");
    house.fleet.engine("system-storage", "files");
    house
}

/// What a record that has a cut must hold, whatever happened on the way.
fn proves(record: &Record) -> &Cut {
    let cut = record.cut.as_ref().expect("a cut");
    let at = |what: &'static str| cut.sequence.iter().filter(move |m| m.what == what).map(|m| m.at_us);
    let names: Vec<_> = cut.components.iter().map(|c| c.as_str().to_owned()).collect();
    for what in ["held", "snapshot-open", "unbroken"] {
        assert_eq!(at(what).count(), names.len(), "{what} of {names:?}: {:?}", cut.sequence);
    }
    assert!(
        at("held").max() <= at("snapshot-open").min(),
        "a snapshot was open before all was held: {:?}",
        cut.sequence
    );
    assert!(
        at("snapshot-open").max() <= at("unbroken").min(),
        "a proof came before the last snapshot: {:?}",
        cut.sequence
    );
    cut
}

#[tokio::test(start_paused = true)]
async fn cut_holds_all_opens_all_proves_all_and_releases_all() {
    let house = house("required").await;
    assert_eq!(house.back_up().await.unwrap().0, Outcome::Completed);
    let record = house.latest().await.unwrap();
    let cut = proves(&record);
    assert_eq!((cut.attempt, cut.components.len()), (1, 2));
    assert_eq!(house.fleet.held(), []);
    let calls = house.fleet.calls();
    let at = |name: &str| calls.iter().position(|c| c == name).unwrap_or_else(|| panic!("{name}: {calls:?}"));
    // Redis last, and nothing of the files before the cut is over.
    assert!(at("take-system-mysql") < at("take-backend-redis"));
    assert!(at("release-backend-redis") < at("dump-system-storage"));
    // Nothing durable between the first hold and the last release.
    let events = house.said.0.lock().unwrap().clone();
    let started = events.iter().position(|e| matches!(e, Event::Started { step } if step.as_str() == "cut")).unwrap();
    assert!(
        matches!(&events[started + 1], Event::Succeeded { output: Output::Cut { made: Some(_), .. }, .. }),
        "{:?}",
        events[started + 1]
    );
}

#[tokio::test(start_paused = true)]
async fn cut_whose_every_call_fails_once_is_made_in_a_further_attempt() {
    for call in ["prepare", "take", "open", "renew"] {
        for component in HELD {
            let house = house("required").await;
            house.fleet.fail_times(&format!("{call}-{component}"), 1);
            let (outcome, note) = house.back_up().await.unwrap();
            assert_eq!(outcome, Outcome::Completed, "{call} {component}: {note}");
            let record = house.latest().await.unwrap();
            let cut = proves(&record);
            assert_eq!((cut.attempt, cut.void.len()), (2, 1), "{call} {component}: {:?}", cut.void);
            assert_eq!(house.fleet.held(), [], "{call} {component}");
        }
    }
    // What fails at the release does not void what was proven; the hold ends with its stream.
    for component in HELD {
        let house = house("required").await;
        house.fleet.fail(&format!("release-{component}"));
        assert_eq!(house.back_up().await.unwrap().0, Outcome::Completed);
        proves(&house.latest().await.unwrap());
        assert_eq!(house.fleet.held(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn cut_that_cannot_be_made_makes_no_set_or_a_set_that_says_so() {
    for call in ["take", "open", "renew"] {
        for late in [false, true] {
            for component in HELD {
                let step = format!("{call}-{component}");
                let strike = |house: &House| if late { house.fleet.fail_late(&step) } else { house.fleet.fail(&step) };
                let required = house("required").await;
                strike(&required);
                let (outcome, note) = required.back_up().await.unwrap();
                assert_eq!(outcome, Outcome::Failed, "{step}: {note}");
                assert!(note.contains("attempt 5") && note.contains(component), "{note}");
                assert!(required.latest().await.is_none(), "{step}");
                assert_eq!(required.fleet.held(), [], "{step}");
                required.fleet.mend(&step);
                assert_eq!(required.back_up().await.unwrap().0, Outcome::Completed, "the next one after {step}");

                let preferred = house("preferred").await;
                strike(&preferred);
                let (outcome, note) = preferred.back_up().await.unwrap();
                assert_eq!(outcome, Outcome::Completed, "{step}: {note}");
                let record = preferred.latest().await.unwrap();
                assert_eq!(record.cut, None, "{step}");
                assert!(record.no_cut.as_ref().unwrap().contains(component), "{:?}", record.no_cut);
                assert_eq!(preferred.fleet.held(), [], "{step}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cut_goes_on_without_a_component_that_cannot_be_dumped_either() {
    let house = house("required").await;
    house.fleet.fail("prepare-backend-redis");
    house.fleet.fail("describe-backend-redis");
    let (outcome, note) = house.back_up().await.unwrap();
    assert_eq!(outcome, Outcome::Partial, "{note}");
    let sets = house.repository.sets(&house.installation.name).await.unwrap();
    let record = house.repository.record(&house.installation.name, sets[0].id).await.unwrap();
    assert_eq!(record.status, Status::Partial);
    assert_eq!(proves(&record).components.len(), 1);
    assert!(record.component(&"backend-redis".parse().unwrap()).unwrap().failure.is_some());
    assert!(!house.fleet.calls().iter().any(|c| c == "dump-backend-redis"), "it was dumped outside the cut");
}

#[tokio::test(start_paused = true)]
async fn cut_is_not_begun_while_something_is_in_its_way() {
    let house = house("required").await;
    house.fleet.is_in_the_way("system-mysql", "a transaction of connection 7 is open");
    let (outcome, note) = house.back_up().await.unwrap();
    assert_eq!(outcome, Outcome::Failed);
    assert!(note.contains("system-mysql: a transaction of connection 7"), "{note}");
    assert!(!house.fleet.calls().iter().any(|c| c.starts_with("take-")), "it was held all the same");
}

#[tokio::test(start_paused = true)]
async fn cut_that_a_store_can_never_make_is_refused_before_anything_is_begun() {
    let house = house("required").await;
    house.fleet.cannot_hold("system-mysql", "it is a node of a cluster");
    let inventory = keepsake_coordinator::inventory::Inventory::ask(&house.installation, &house.fleet).await;
    let set = keepsake_core::id::SetId::generate();
    let refused = keepsake_coordinator::plan::backup::plan(&house.installation, &inventory, &[], set).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    let text = refused.chain();
    assert!(text.contains("node of a cluster") && text.contains("consistency: preferred"), "{text}");
}

#[tokio::test]
async fn cut_that_is_cancelled_at_any_call_leaves_nobody_waiting() {
    for call in ["prepare", "take", "open", "renew"] {
        for component in HELD {
            let house = house("required").await;
            let step = format!("{call}-{component}");
            house.fleet.wait(&step);
            let plan = house.plan_backup().await;
            let cancel = CancellationToken::new();
            let stop = async {
                wait_for("the call", Duration::from_secs(10), async || {
                    let calls = house.fleet.calls();
                    if calls.contains(&step) { Ok(()) } else { Err(format!("{calls:?}")) }
                })
                .await;
                cancel.cancel();
            };
            let (ended, ()) = tokio::join!(house.execute(&plan, None, usize::MAX, cancel.clone()), stop);
            assert_eq!(ended.unwrap().0, Outcome::Cancelled, "{step}");
            assert_eq!(house.fleet.held(), [], "{step}");
            assert!(house.latest().await.is_none(), "{step}");
        }
    }
}
