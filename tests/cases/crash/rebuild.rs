//! The crash loop over runs of two plans: an installation that is built anew, and its data. A coordinator that dies in the first plan, between the two, while the
//! second is made, or in it, is gone on from; what is built stays, whatever becomes of the data.

use keepsake_tests::fake_world::judge::seen_of_a;

use super::*;

/// What can go wrong and is put back: before the point of the first plan, and before that of the second.
const UNBUILT: [&str; 2] = ["stage-objects", "commit-objects"];
const BUILT: [&str; 3] = ["stage-sql", "commit-redis", "commit-sql"];
/// And what is mended and gone on with.
const MENDED: [&str; 10] = [
    "await-installation",
    "finalize-objects",
    "describe-redis",
    "quiesce",
    "plan",
    "dump-sql",
    "cut",
    "resume",
    "resync-zync-domains",
    "finalize-sql",
];
const HOW: [Wrong; 3] = [Wrong::Before, Wrong::After, Wrong::Lost];

fn bases(told: &keepsake_tests::fake_world::lab::Told) -> Vec<&str> {
    told.stores.iter().map(|(base, _)| base.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_rebuilds_begins_with_what_happens_when_nobody_is_struck() {
    let lab = Lab::of_a_cluster().await;
    let smooth = lab.run(&Case::new(Kinds::Rebuild, &[], &[])).await;
    must_be_empty("nobody is struck", &smooth.wrong);
    // The safety set is of the stores alone.
    assert_eq!((smooth.outcome, smooth.running, smooth.set), (Outcome::Completed, true, Some(2)));
    assert_eq!(bases(&smooth), [NEW, NEW, NEW]);
    assert_eq!(smooth.followed, ["zync-domains", "looked at"]);
    let alone = lab.run(&Case::new(Kinds::ObjectsOnly, &[], &[])).await;
    must_be_empty("objects only", &alone.wrong);
    assert_eq!((alone.outcome, alone.running, bases(&alone)), (Outcome::Completed, true, vec![NEW, OLD, OLD]));
    for how in HOW {
        let steps = UNBUILT.iter().chain(&BUILT).chain(&MENDED);
        for step in steps {
            let what = format!("{step} goes wrong: {how:?}");
            let told = lab.run(&Case::new(Kinds::Rebuild, &[(step, how)], &[])).await;
            must_be_empty(&what, &told.wrong);
            let expected = if UNBUILT.contains(step) {
                (Outcome::Failed, false, vec![OLD, OLD, OLD])
            } else if BUILT.contains(step) {
                (Outcome::Failed, true, vec![NEW, OLD, OLD])
            } else {
                (Outcome::Completed, true, vec![NEW, NEW, NEW])
            };
            assert_eq!((told.outcome, told.running, bases(&told)), expected, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_rebuilds_strikes_every_place() {
    let lab = Lab::of_a_cluster().await;
    let mut tried = 0;
    let mut places = 0;
    for kind in [Kinds::Rebuild, Kinds::ObjectsOnly] {
        let smooth = lab.run(&Case::new(kind, &[], &[])).await;
        places += smooth.places;
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
    assert!(tried == 5 * places && tried > 500, "only {tried} runs");
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_rebuilds_strikes_runs_of_which_a_step_goes_wrong() {
    let lab = Lab::of_a_cluster().await;
    let stride = stride(7);
    let (mut tried, mut first) = (0, first());
    for step in UNBUILT.iter().chain(&BUILT).chain(&MENDED) {
        for how in HOW {
            first += 1;
            let wrong = [(*step, how)];
            let smooth = lab.run(&Case::new(Kinds::Rebuild, &wrong, &[])).await;
            for at in (first % stride..smooth.places).step_by(stride) {
                let strike = if at % 3 == 0 { Strike::CrashTwice(at) } else { Strike::Crash(at) };
                let struck = lab.run(&Case::new(Kinds::Rebuild, &wrong, &[strike])).await;
                must_be_empty(&format!("{wrong:?}, {strike:?}"), &struck.differs_from(&smooth));
                tried += 1;
            }
        }
    }
    println!("{tried} runs");
    assert!(tried > 3_000 / stride, "only {tried} runs");
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_rebuilds_strikes_twice() {
    let lab = Lab::of_a_cluster().await;
    let stride = stride(7);
    let smooth = lab.run(&Case::new(Kinds::Rebuild, &[], &[])).await;
    let mut tried = 0;
    for first in 0..smooth.places {
        for second in (first + 1 + first % stride..smooth.places + 6).step_by(stride) {
            let strikes = [Strike::Crash(first), Strike::Crash(second)];
            let struck = lab.run(&Case::new(Kinds::Rebuild, &[], &strikes)).await;
            must_be_empty(&format!("{strikes:?}"), &struck.differs_from(&smooth));
            // Given up, and whoever puts things back dies, too.
            let strikes = [Strike::CrashAndCancel(first), Strike::Crash(second)];
            let struck = lab.run(&Case::new(Kinds::Rebuild, &[], &strikes)).await;
            must_be_empty(&format!("{strikes:?}"), &struck.gone_back_or_through(&smooth, Kinds::Rebuild));
            tried += 2;
        }
    }
    println!("{tried} runs");
    assert!(tried > 10_000 / stride, "only {tried} runs");
}

/// The data halts behind its own point and is taken back: what is built stays.
#[tokio::test(start_paused = true)]
async fn crash_loop_of_rebuilds_takes_the_data_back() {
    let lab = Lab::of_a_cluster().await;
    for how in [Wrong::Before, Wrong::After] {
        let wrong = [("resume", how)];
        let halted = Case { discards: true, ..Case::new(Kinds::Rebuild, &wrong, &[]) };
        let smooth = lab.run(&halted).await;
        must_be_empty(&format!("{wrong:?}"), &smooth.wrong);
        assert_eq!((smooth.outcome, smooth.running, bases(&smooth)), (Outcome::Cancelled, true, vec![NEW, OLD, OLD]));
        for at in 0..smooth.places {
            let strikes = vec![if at % 2 == 0 { Strike::Crash(at) } else { Strike::CrashTwice(at) }];
            let struck = lab.run(&Case { strikes, ..halted.clone() }).await;
            must_be_empty(&format!("{wrong:?}, struck at {at}"), &struck.differs_from(&smooth));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_rebuilds_sees_what_is_broken_on_purpose() {
    let lab = Lab::of_a_cluster().await;
    for flaw in [Flaw::PlannedIsNotDurable, Flaw::StartedIsNotDurable] {
        let seen = seen_of_a(Kinds::Rebuild, &lab, flaw, &[], Strike::Crash).await;
        assert!(!seen.is_empty(), "{flaw:?}");
    }
    let seen = seen_of_a(Kinds::Rebuild, &lab, Flaw::JournalDoesNotFence, &[], Strike::Sleep).await;
    assert!(!seen.is_empty(), "the journal");
}
