//! The crash loop where Routes are closed and Backend's queues are worked off before the worker is stopped.

use super::*;

/// What can go wrong: what stands behind the point of no return, and before it.
const BEHIND: [&str; 5] = ["resume", "roll-out", "open-routes", "resync-zync-domains", "check-applications"];
const BEFORE: [&str; 4] = ["quiesce-but-worker", "quiesce", "close-routes", "commit-backend-redis"];
const HOWS: [Wrong; 3] = [Wrong::Before, Wrong::After, Wrong::Lost];

#[tokio::test(start_paused = true)]
async fn crash_loop_of_routes_and_queues_begins_with_what_happens_when_nobody_is_struck() {
    let lab = Lab::by_routes().await;
    let smooth = lab.run(&Case::new(Kinds::Restore, &[], &[])).await;
    must_be_empty("nobody is struck", &smooth.wrong);
    assert_eq!((smooth.outcome, smooth.running), (Outcome::Completed, true));
    assert_eq!(smooth.followed, ["zync-domains", "rolled out", "looked at"]);
    for (step, outcome) in
        BEHIND.map(|s| (s, Outcome::Completed)).into_iter().chain(BEFORE.map(|s| (s, Outcome::Failed)))
    {
        for how in HOWS {
            let what = format!("{step} goes wrong: {how:?}");
            let told = lab.run(&Case::new(Kinds::Restore, &[(step, how)], &[])).await;
            must_be_empty(&what, &told.wrong);
            assert_eq!(told.outcome, outcome, "{what}");
        }
    }
}

/// Nobody can tell how many jobs wait: whether that matters is said in the topology.
#[tokio::test(start_paused = true)]
async fn crash_loop_of_routes_and_queues_goes_on_without_a_word_of_the_queues_unless_told_not_to() {
    for (lab, outcome) in [(Lab::by_routes().await, Outcome::Completed), (Lab::drained().await, Outcome::Failed)] {
        // Or the worker does not work.
        let never = [("worker", Wrong::Before)].into_iter();
        for (what, how) in never.chain(HOWS.map(|how| ("drain-backend-redis", how))) {
            let told = lab.run(&Case::new(Kinds::Restore, &[(what, how)], &[])).await;
            must_be_empty(&format!("{what}: {how:?}"), &told.wrong);
            assert_eq!((told.outcome, told.running), (outcome, true), "{what}: {how:?}");
            let is_cause = told.cause.as_deref() == Some("drain-backend-redis");
            assert_eq!(is_cause, outcome == Outcome::Failed, "{what}: {how:?}: {:?}", told.cause);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_routes_and_queues_strikes_every_place() {
    let lab = Lab::by_routes().await;
    let mut tried = 0;
    let mut wrongs: Vec<Vec<(&str, Wrong)>> = vec![vec![]];
    wrongs.extend(BEHIND.iter().chain(&BEFORE).flat_map(|step| HOWS.map(|how| vec![(*step, how)])));
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
    println!("{tried} runs");
    assert!(tried > 500, "only {tried} runs");
}

/// Restores of one store, and what was kept of a restore put back.
#[tokio::test(start_paused = true)]
async fn crash_loop_of_routes_and_queues_holds_for_a_part_and_for_a_rollback() {
    let lab = Lab::by_routes().await;
    for kind in [Kinds::OnlySystem, Kinds::OnlyBackend, Kinds::Rollback] {
        let smooth = lab.run(&Case::new(kind, &[], &[])).await;
        must_be_empty(&format!("{kind:?}"), &smooth.wrong);
        assert_eq!((smooth.outcome, smooth.running), (Outcome::Completed, true), "{kind:?}");
        // Also when it goes back: what was made anew is of the data that goes.
        assert_eq!(smooth.followed, ["zync-domains", "rolled out", "looked at"], "{kind:?}");
        for at in 0..smooth.places {
            let struck = lab.run(&Case::new(kind, &[], &[Strike::Crash(at)])).await;
            must_be_empty(&format!("{kind:?}, crash at {at}"), &struck.differs_from(&smooth));
        }
    }
}

/// A resync that never works: the restore is taken back although it is past its point of no return.
#[tokio::test(start_paused = true)]
async fn crash_loop_of_routes_and_queues_takes_back_what_halts() {
    let lab = Lab::by_routes().await;
    let halted = Case { discards: true, ..Case::new(Kinds::Restore, &[("resync-zync-domains", Wrong::Before)], &[]) };
    let smooth = lab.run(&halted).await;
    must_be_empty("taken back", &smooth.wrong);
    assert_eq!((smooth.outcome, smooth.running), (Outcome::Cancelled, true));
    assert!(smooth.stores.iter().all(|(base, left)| base == OLD && left.is_empty()), "{:?}", smooth.stores);
    for at in 0..smooth.places {
        let struck = lab.run(&Case { strikes: vec![Strike::Crash(at)], ..halted.clone() }).await;
        must_be_empty(&format!("crash at {at}"), &struck.differs_from(&smooth));
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_routes_and_queues_sees_what_is_broken_on_purpose() {
    let lab = Lab::by_routes().await;
    for (flaw, word) in [(Flaw::QueuesAreNotAwaited, "jobs wait"), (Flaw::RoutesStayOpen, "let in")] {
        let told = lab.run(&Case { flaw: Some(flaw), ..Case::new(Kinds::Restore, &[], &[]) }).await;
        assert!(told.wrong.iter().any(|w| w.contains(word)), "{flaw:?}: {:?}", told.wrong);
    }
}
