//! The crash loop: every plan, every step going wrong in every way, and the coordinator struck at every place of its journal.
//!
//! What must hold is in `fake_world::look`; here is what is tried. A run that was struck ends as the one that was not. With `KEEPSAKE_SOAK=1` every pair of step and
//! place, and every pair of places, is tried; otherwise a part of them, and every place alone.

mod after;
mod config;
mod rebuild;
mod routes;

use keepsake_coordinator::run::event::Outcome;
use keepsake_tests::fake_world::journal::Strike;
use keepsake_tests::fake_world::judge::seen_of;
use keepsake_tests::fake_world::lab::{Case, Kinds, Lab};
use keepsake_tests::fake_world::{Flaw, NEW, OLD, Wrong};
use keepsake_tests::kills::{first, is_soaked, stride};

const KINDS: [Kinds; 6] =
    [Kinds::Backup, Kinds::Restore, Kinds::Mixed, Kinds::KeepOld, Kinds::Finalize, Kinds::Rollback];

/// What can go wrong in a run of this kind, as the world calls it.
fn steps(kind: Kinds) -> Vec<&'static str> {
    match kind {
        Kinds::Backup => vec!["cut", "dump-sql", "dump-redis", "dump-files"],
        Kinds::Restore => vec![
            "quiesce",
            "cut",
            "dump-sql",
            "dump-files",
            "stage-sql",
            "stage-redis",
            "stage-files",
            "commit-sql",
            "commit-redis",
            "commit-files",
            "describe-redis",
            "resume",
            "finalize-sql",
            "finalize-files",
        ],
        Kinds::Mixed => vec!["stage-files", "commit-sql", "commit-files", "resume", "finalize-files"],
        Kinds::KeepOld => vec!["commit-redis", "resume"],
        Kinds::Finalize => vec!["finalize-sql", "finalize-redis", "finalize-files"],
        // Those are in `config`.
        Kinds::OnlySystem | Kinds::OnlyBackend | Kinds::KeepSystem | Kinds::RollbackSystem | Kinds::Resync => {
            Vec::new()
        }
        // And those in `rebuild`.
        Kinds::Rebuild | Kinds::ObjectsOnly => Vec::new(),
        Kinds::Rollback => vec!["quiesce", "rollback-sql", "rollback-files", "resume"],
    }
}

fn must_be_empty(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}: {}", found.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn crash_loop_begins_with_what_happens_when_nobody_is_struck() {
    let lab = Lab::new().await;
    for kind in KINDS {
        let smooth = lab.run(&Case::new(kind, &[], &[])).await;
        must_be_empty(&format!("{kind:?}"), &smooth.wrong);
        assert_eq!((smooth.outcome, smooth.running), (Outcome::Completed, true), "{kind:?}");
        let base = if matches!(kind, Kinds::Backup | Kinds::Rollback) { OLD } else { NEW };
        assert!(smooth.stores.iter().all(|(b, _)| b == base), "{kind:?}: {:?}", smooth.stores);
        let expected = (!matches!(kind, Kinds::Finalize | Kinds::Rollback)).then_some(3);
        assert_eq!(smooth.set, expected, "{kind:?}");
        for step in steps(kind) {
            for how in [Wrong::Before, Wrong::After, Wrong::Lost] {
                let what = format!("{kind:?}, {step} goes wrong: {how:?}");
                let told = lab.run(&Case::new(kind, &[(step, how)], &[])).await;
                must_be_empty(&what, &told.wrong);
                // A run that halts is resumed when it was mended; one before its point of no return is unwound.
                // Of a set that is made without a component, or without a cut, the record tells; the run goes on.
                let forward = ["resume", "finalize-", "rollback-", "dump-", "cut"].iter().any(|s| step.starts_with(s));
                let outcome = match (kind, forward) {
                    (Kinds::Backup, _) if step.starts_with("dump-") => Outcome::Partial,
                    (Kinds::Mixed, false) if step == "commit-files" && how != Wrong::Before => Outcome::Stuck,
                    (_, true) => Outcome::Completed,
                    (_, false) => Outcome::Failed,
                };
                assert_eq!(told.outcome, outcome, "{what}");
                if outcome == Outcome::Failed {
                    let cause = if step == "describe-redis" { "check-redis" } else { step };
                    assert_eq!(told.cause.as_deref(), Some(cause), "{what}");
                    let back = if kind == Kinds::Rollback { NEW } else { OLD };
                    assert!(told.stores.iter().all(|(b, _)| b == back), "{what}: {:?}", told.stores);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_strikes_every_plan_at_every_place() {
    let lab = Lab::new().await;
    let mut tried = 0;
    for kind in KINDS {
        let smooth = lab.run(&Case::new(kind, &[], &[])).await;
        for at in 0..smooth.places {
            for strike in [Strike::Crash(at), Strike::CrashTwice(at), Strike::Sleep(at)] {
                let struck = lab.run(&Case::new(kind, &[], &[strike])).await;
                must_be_empty(&format!("{kind:?}, {strike:?}"), &struck.differs_from(&smooth));
                tried += 1;
            }
            for strike in [Strike::Cancel(at), Strike::CrashAndCancel(at)] {
                let struck = lab.run(&Case::new(kind, &[], &[strike])).await;
                must_be_empty(&format!("{kind:?}, {strike:?}"), &struck.gone_back_or_through(&smooth, kind));
                tried += 1;
            }
        }
    }
    println!("{tried} runs");
    assert!(tried > 1_500, "only {tried} runs");
}

#[tokio::test(start_paused = true)]
async fn crash_loop_strikes_runs_of_which_a_step_goes_wrong() {
    let lab = Lab::new().await;
    let stride = stride(5);
    let mut tried = 0;
    // Every place, if it is asked for; otherwise others for each way to go wrong.
    let mut first = first();
    for kind in KINDS {
        for step in steps(kind) {
            for how in [Wrong::Before, Wrong::After, Wrong::Lost] {
                first += 1;
                let wrong = [(step, how)];
                let smooth = lab.run(&Case::new(kind, &wrong, &[])).await;
                for at in (first % stride..smooth.places).step_by(stride) {
                    let strike = if at % 3 == 0 { Strike::CrashTwice(at) } else { Strike::Crash(at) };
                    let struck = lab.run(&Case::new(kind, &wrong, &[strike])).await;
                    must_be_empty(&format!("{kind:?}, {wrong:?}, {strike:?}"), &struck.differs_from(&smooth));
                    tried += 1;
                }
            }
        }
    }
    println!("{tried} runs");
    assert!(tried > 6_000 / stride, "only {tried} runs");
}

#[tokio::test(start_paused = true)]
async fn crash_loop_sees_no_run_stuck_where_the_store_tells_whether_it_was_loaded_over() {
    let (lab, other) = (Lab::telling().await, Lab::new().await);
    // The load fails before it has touched anything.
    let wrong = [("commit-files", Wrong::Before)];
    let smooth = lab.run(&Case::new(Kinds::Mixed, &wrong, &[])).await;
    must_be_empty("smooth", &smooth.wrong);
    assert_eq!(smooth.outcome, Outcome::Failed);
    let mut not_known = 0;
    for at in 0..smooth.places {
        for strike in [Strike::Crash(at), Strike::CrashTwice(at)] {
            let case = Case::new(Kinds::Mixed, &wrong, &[strike]);
            let struck = lab.run(&case).await;
            must_be_empty(&format!("{strike:?}"), &struck.differs_from(&smooth));
            assert_eq!(struck.outcome, Outcome::Failed, "{strike:?}: {:?}", struck.not_undone);
            not_known += usize::from(other.run(&case).await.outcome == Outcome::Stuck);
        }
    }
    assert!(not_known > 0, "where it does not tell, no run is stuck either: was the load struck?");
    // What was loaded is not called undone.
    let after = lab.run(&Case::new(Kinds::Mixed, &[("commit-files", Wrong::After)], &[])).await;
    assert_eq!((after.outcome, after.not_undone), (Outcome::Stuck, vec!["commit-files".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn crash_loop_strikes_runs_twice_and_while_they_go_back() {
    let lab = Lab::new().await;
    // All pairs are a quarter of an hour: whoever asks for them shares the first strikes among several processes, each with every second one after it.
    let stride = stride(7);
    let (begin, apart) = if is_soaked() { (first(), 1) } else { (0, stride) };
    let mut tried = 0;
    let plans: [(Kinds, &[(&str, Wrong)]); 5] = [
        (Kinds::Backup, &[]),
        (Kinds::Restore, &[]),
        // An undo goes wrong as well, until somebody mends it.
        (Kinds::Restore, &[("commit-redis", Wrong::After), ("undo-commit-sql", Wrong::Before)]),
        (Kinds::Mixed, &[("commit-files", Wrong::Before), ("undo-stage-redis", Wrong::Lost)]),
        (Kinds::Rollback, &[("rollback-sql", Wrong::After)]),
    ];
    for (kind, wrong) in plans {
        let smooth = lab.run(&Case::new(kind, wrong, &[])).await;
        must_be_empty(&format!("{kind:?}, {wrong:?}"), &smooth.wrong);
        for first in (begin..smooth.places).step_by(stride) {
            for second in (first + 1 + first / stride % apart..smooth.places + 6).step_by(apart) {
                let strikes = [Strike::Crash(first), Strike::Crash(second)];
                let struck = lab.run(&Case::new(kind, wrong, &strikes)).await;
                must_be_empty(&format!("{kind:?}, {wrong:?}, {strikes:?}"), &struck.differs_from(&smooth));
                tried += 1;
            }
            // Asleep while it goes back, and another goes back for it.
            let strikes = [Strike::Sleep(first)];
            let struck = lab.run(&Case::new(kind, wrong, &strikes)).await;
            must_be_empty(&format!("{kind:?}, {wrong:?}, {strikes:?}"), &struck.differs_from(&smooth));
            tried += 1;
        }
    }
    println!("{tried} runs");
    assert!(tried > 16_000 / (stride * apart), "only {tried} runs");
}

#[tokio::test(start_paused = true)]
async fn crash_loop_strikes_restores_that_are_taken_back_past_their_point_of_no_return() {
    let lab = Lab::new().await;
    for kind in [Kinds::Restore, Kinds::KeepOld] {
        // The applications were started and write, or were not, and the hook says that it failed.
        for how in [Wrong::Before, Wrong::After] {
            let wrong = [("resume", how)];
            let halted = Case { discards: true, ..Case::new(kind, &wrong, &[]) };
            let smooth = lab.run(&halted).await;
            let what = format!("{kind:?}, {wrong:?}");
            must_be_empty(&what, &smooth.wrong);
            assert_eq!((smooth.outcome, smooth.running), (Outcome::Cancelled, true), "{what}");
            assert_eq!(smooth.cause.as_deref(), Some("resume-workloads"), "{what}");
            assert!(smooth.stores.iter().all(|(base, left)| base == OLD && left.is_empty()), "{:?}", smooth.stores);
            for at in 0..smooth.places {
                let strikes = [if at % 2 == 0 { Strike::Crash(at) } else { Strike::CrashTwice(at) }];
                let struck = lab.run(&Case { strikes: strikes.to_vec(), ..halted.clone() }).await;
                must_be_empty(&format!("{what}, {strikes:?}"), &struck.differs_from(&smooth));
            }
        }
    }
}

async fn is_seen(lab: &Lab, flaw: Flaw, wrong: &[(&str, Wrong)], strike: impl Fn(usize) -> Strike) -> bool {
    !seen_of(lab, flaw, wrong, strike).await.is_empty()
}

#[tokio::test(start_paused = true)]
async fn crash_loop_sees_what_is_broken_on_purpose() {
    let lab = Lab::new().await;
    let late = [("commit-redis", Wrong::After)];
    assert!(is_seen(&lab, Flaw::StartedIsNotDurable, &[], Strike::Crash).await, "started");
    assert!(is_seen(&lab, Flaw::CauseIsLost, &late, Strike::Crash).await, "cause");
    // A commit is undone by its stage's undo, too, so it is the stage that is not.
    let staged = [("stage-redis", Wrong::After)];
    assert!(is_seen(&lab, Flaw::FailedIsNotUndone, &staged, Strike::Crash).await, "undo");
    assert!(is_seen(&lab, Flaw::AgentsDoNotFence, &[], Strike::Sleep).await, "agents");
    assert!(is_seen(&lab, Flaw::JournalDoesNotFence, &[], Strike::Sleep).await, "journal");
    assert!(
        is_seen(&lab, Flaw::NothingIsFinal, &[("finalize-sql", Wrong::Before)], Strike::Crash).await,
        "point of no return"
    );
    assert!(an_unwinding_that_is_forgotten_is_seen(&lab).await, "unwinding");
}

/// Of a failure that turned a run the step that failed tells, too; of a wish to stop nothing else does.
async fn an_unwinding_that_is_forgotten_is_seen(lab: &Lab) -> bool {
    let smooth = lab.run(&Case::new(Kinds::Restore, &[], &[])).await;
    for at in 0..smooth.places {
        let strikes = [Strike::Cancel(at), Strike::Crash(at + 9)];
        let whole = Case::new(Kinds::Restore, &[], &strikes);
        let broken = Case { flaw: Some(Flaw::UnwindingIsForgotten), ..whole.clone() };
        if lab.run(&broken).await.outcome != lab.run(&whole).await.outcome {
            return true;
        }
    }
    false
}
