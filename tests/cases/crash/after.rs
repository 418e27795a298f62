//! The crash loop over what follows on Kubernetes behind the point of no return: rollouts, what System makes anew, the last look.

use super::*;

/// What can go wrong, as the world calls it; what stands behind the point of no return comes first.
const SCALED: (&[&str], &[&str]) = (
    &["resume", "resync-zync-domains", "resync-search-index", "check-applications", "finalize-sql"],
    &["quiesce", "commit-redis"],
);
const BY_HAND: (&[&str], &[&str]) =
    (&["roll-out", "resync-cache-flush", "check-applications", "finalize-sql"], &["commit-redis"]);

async fn labs() -> [(Lab, (&'static [&'static str], &'static [&'static str]), Vec<&'static str>); 2] {
    [
        (Lab::on_kubernetes().await, SCALED, vec!["zync-domains", "search-index", "looked at"]),
        (Lab::by_hand().await, BY_HAND, vec!["cache-flush", "rolled out", "looked at"]),
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

/// A resync that never works: the restore is taken back although it is past its point of no return.
#[tokio::test(start_paused = true)]
async fn crash_loop_of_what_follows_takes_back_what_halts() {
    let lab = Lab::on_kubernetes().await;
    let wrong = [("resync-zync-domains", Wrong::Before)];
    let halted = Case { discards: true, ..Case::new(Kinds::Restore, &wrong, &[]) };
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
async fn crash_loop_of_what_follows_sees_what_comes_too_early() {
    let lab = Lab::on_kubernetes().await;
    let case = Case { flaw: Some(Flaw::FollowsTooEarly), ..Case::new(Kinds::Restore, &[], &[]) };
    let told = lab.run(&case).await;
    assert!(told.wrong.iter().any(|w| w.contains("while no application runs")), "{:?}", told.wrong);
    assert!(told.wrong.iter().any(|w| w.contains("that of before")), "{:?}", told.wrong);
}
