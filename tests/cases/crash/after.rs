//! The crash loop over what follows on Kubernetes behind the point of no return: rollouts, what System makes anew, the last look.

use keepsake_coordinator::run::event::{Event, Output};
use keepsake_coordinator::run::status::{Next, RunStatus};
use keepsake_core::Kind;
use keepsake_core::id::{Epoch, StepId};
use keepsake_core::record::Failure;

use super::*;

/// What can go wrong, as the world calls it; what stands behind the point of no return comes first.
const SCALED: (&[&str], &[&str]) = (
    &["resume", "resync-zync-domains", "resync-search-index", "check-applications", "finalize-sql"],
    &["quiesce", "commit-redis"],
);
const BY_HAND: (&[&str], &[&str]) =
    (&["roll-out", "resync-cache-flush", "check-applications", "finalize-sql"], &["commit-redis"]);

const SCALED_FOLLOWED: [&str; 3] = ["zync-domains", "search-index", "looked at"];
const BY_HAND_FOLLOWED: [&str; 3] = ["cache-flush", "rolled out", "looked at"];

async fn labs() -> [(Lab, (&'static [&'static str], &'static [&'static str]), Vec<&'static str>); 2] {
    [
        (Lab::on_kubernetes().await, SCALED, SCALED_FOLLOWED.to_vec()),
        (Lab::by_hand().await, BY_HAND, BY_HAND_FOLLOWED.to_vec()),
    ]
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_what_follows_begins_with_what_happens_when_nobody_is_struck() {
    for (lab, (behind, before), followed) in labs().await {
        let smooth = lab.run(&Case::new(Kinds::Restore, &[], &[])).await;
        must_be_empty("nobody is struck", &smooth.wrong);
        assert_eq!((smooth.outcome, smooth.running, &smooth.set), (Outcome::Completed, true, &Some(2)));
        assert_eq!(smooth.followed, followed);
        for (step, is_behind) in behind.iter().map(|s| (s, true)).chain(before.iter().map(|s| (s, false))) {
            for how in [Wrong::Before, Wrong::After, Wrong::Lost] {
                let what = format!("{step} goes wrong: {how:?}");
                let told = lab.run(&Case::new(Kinds::Restore, &[(step, how)], &[])).await;
                must_be_empty(&what, &told.wrong);
                // What halts goes on when it was mended.
                let outcome = if is_behind { Outcome::Completed } else { Outcome::Failed };
                assert_eq!(told.outcome, outcome, "{what}");
                assert_eq!(told.followed.is_empty(), !is_behind, "{what}: {:?}", told.followed);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_what_follows_strikes_every_place() {
    let mut tried = 0;
    for (lab, (behind, _), _) in labs().await {
        let mut wrongs: Vec<Vec<(&str, Wrong)>> = vec![vec![]];
        wrongs.extend(
            behind.iter().flat_map(|step| [Wrong::Before, Wrong::After, Wrong::Lost].map(|how| vec![(*step, how)])),
        );
        for wrong in wrongs {
            let smooth = lab.run(&Case::new(Kinds::Restore, &wrong, &[])).await;
            let stride = if wrong.is_empty() { 1 } else { stride(7) };
            for at in (tried % stride..smooth.places).step_by(stride) {
                for strike in [Strike::Crash(at), Strike::CrashTwice(at), Strike::Sleep(at)] {
                    let struck = lab.run(&Case::new(Kinds::Restore, &wrong, &[strike])).await;
                    must_be_empty(&format!("{wrong:?}, {strike:?}"), &struck.differs_from(&smooth));
                    tried += 1;
                }
                if wrong.is_empty() {
                    for strike in [Strike::Cancel(at), Strike::CrashAndCancel(at)] {
                        let struck = lab.run(&Case::new(Kinds::Restore, &wrong, &[strike])).await;
                        must_be_empty(&format!("{strike:?}"), &struck.gone_back_or_through(&smooth, Kinds::Restore));
                        tried += 1;
                    }
                }
            }
        }
    }
    println!("{tried} runs");
    assert!(tried > 700, "only {tried} runs");
}

/// A restore that halts is taken back although it is past its point of no return: whatever it has had made anew of the data that goes, or had begun to, is made
/// anew once more, of what is back.
#[tokio::test(start_paused = true)]
async fn crash_loop_of_what_follows_takes_back_what_halts() {
    let routes = ["zync-domains", "rolled out", "looked at"];
    let labs = [
        (
            Lab::on_kubernetes().await,
            &["resume", "resync-zync-domains", "check-applications"][..],
            &SCALED_FOLLOWED[..],
        ),
        (Lab::by_hand().await, &["roll-out", "resync-cache-flush", "check-applications"], &BY_HAND_FOLLOWED),
        (Lab::by_routes().await, &["roll-out", "open-routes", "resync-zync-domains"], &routes),
    ];
    for (lab, wrongs, followed) in labs {
        for step in wrongs {
            for how in [Wrong::Before, Wrong::After] {
                let halted = Case { discards: true, ..Case::new(Kinds::Restore, &[(step, how)], &[]) };
                let smooth = lab.run(&halted).await;
                must_be_empty(&format!("{step}, {how:?}"), &smooth.wrong);
                assert_eq!((smooth.outcome, smooth.running), (Outcome::Cancelled, true), "{step}");
                assert!(smooth.stores.iter().all(|(base, left)| base == OLD && left.is_empty()), "{:?}", smooth.stores);
                assert_eq!(smooth.followed, followed, "{step}, {how:?}");
                for at in (0..smooth.places).step_by(stride(3)) {
                    let struck = lab.run(&Case { strikes: vec![Strike::Crash(at)], ..halted.clone() }).await;
                    must_be_empty(&format!("{step}, {how:?}, crash at {at}"), &struck.differs_from(&smooth));
                }
            }
        }
    }
}

/// What cannot be made anew of the data that is back keeps the run from its end, until somebody has mended it.
#[tokio::test]
async fn what_does_not_follow_when_a_restore_is_taken_back_is_tried_again() {
    let lab = Lab::on_kubernetes().await;
    let plan = lab.plan_of_a_restore().await;
    let step = |id: &str| StepId::new(id).expect("a step");
    let failure = |text: &str| Failure { kind: Kind::Internal, text: text.to_owned() };
    let mut events: Vec<Event> = Vec::new();
    let mut next = |more: &[Event]| {
        events.extend_from_slice(more);
        RunStatus::of(&plan, &events).next(&plan)
    };
    let turned = Event::Unwinding { failure: failure("taken back"), discard_writes: true };
    let done = |id: &str| Event::Succeeded { step: step(id), output: Output::Nothing };
    // Nobody was started on the new data: what follows from the old is as it was.
    let Next::End(..) = next(&[done("point-of-no-return"), turned]) else { panic!("something follows") };
    let Next::Undo(resync) = next(&[done("resume-workloads"), Event::Undone { step: step("resume-workloads") }]) else {
        panic!("nothing follows")
    };
    assert_eq!(resync.id, step("resync-zync-domains"));
    let failed = Event::UndoFailed { step: resync.id.clone(), failure: failure("zync is away") };
    let Next::Rest(outcome, told) = next(&[failed]) else { panic!("it goes on") };
    assert_eq!(outcome, Outcome::Stuck);
    assert!(told.contains("zync is away") && told.contains("the data is that of before"), "{told}");
    let Next::Undo(again) = next(&[Event::TakenOver { by: Epoch(9) }]) else { panic!("it is not tried again") };
    assert_eq!(again.id, step("resync-zync-domains"));
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_what_follows_sees_what_comes_too_early() {
    let lab = Lab::on_kubernetes().await;
    let case = Case { flaw: Some(Flaw::FollowsTooEarly), ..Case::new(Kinds::Restore, &[], &[]) };
    let told = lab.run(&case).await;
    assert!(told.wrong.iter().any(|w| w.contains("while no application runs")), "{:?}", told.wrong);
    assert!(told.wrong.iter().any(|w| w.contains("that of before")), "{:?}", told.wrong);
}
