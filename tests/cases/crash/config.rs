//! The crash loop over the steps that make Backend's Config equal to System's.

use keepsake_tests::fake_world::DRIFTED;

use super::*;

const KINDS: [Kinds; 6] =
    [Kinds::Restore, Kinds::OnlySystem, Kinds::OnlyBackend, Kinds::KeepSystem, Kinds::RollbackSystem, Kinds::Resync];

fn steps(kind: Kinds) -> Vec<&'static str> {
    let config = ["resync-config-backend-redis", "check-config-backend-redis"];
    let more: &[&str] = match kind {
        Kinds::OnlySystem => {
            &["commit-system-mysql", "look-at-config-backend-redis", "resume", "finalize-system-mysql"]
        }
        Kinds::KeepSystem => &["look-at-config-backend-redis"],
        Kinds::RollbackSystem => &["rollback-system-mysql", "resume"],
        Kinds::OnlyBackend => &["commit-backend-redis", "resume"],
        Kinds::Restore => &["commit-backend-redis", "commit-files", "resume"],
        _ => return vec![config[0]],
    };
    config.iter().chain(more).copied().collect()
}

/// Of a run that was given up: it went back, or it was past the point and came to its end.
fn back_or_through(struck: &Told, smooth: &Told, kind: Kinds) -> Vec<String> {
    let mut found = struck.wrong.clone();
    match (struck.outcome, kind) {
        // As it was, to the letter; or, of a resync, half way.
        (Outcome::Cancelled, Kinds::Resync) => {}
        (Outcome::Cancelled, Kinds::RollbackSystem) if struck.config == Some(NEW.to_owned()) => {}
        (Outcome::Cancelled, _) if struck.config == Some(DRIFTED.to_owned()) => {}
        (Outcome::Cancelled, _) => found.push(format!("cancelled, and the Config is {:?}", struck.config)),
        _ => found.extend(differs(struck, smooth)),
    }
    found
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_the_config_begins_with_what_happens_when_nobody_is_struck() {
    let lab = Lab::of_3scale().await;
    for kind in KINDS {
        let smooth = lab.run(&case(kind, &[], &[])).await;
        must_be_empty(&format!("{kind:?}"), &smooth.wrong);
        assert_eq!((smooth.outcome, smooth.running), (Outcome::Completed, true), "{kind:?}");
        let config = if matches!(kind, Kinds::RollbackSystem | Kinds::OnlyBackend | Kinds::Resync) { OLD } else { NEW };
        assert_eq!(smooth.config.as_deref(), Some(config), "{kind:?}");
        for step in steps(kind) {
            for how in [Wrong::Before, Wrong::After, Wrong::Lost] {
                let what = format!("{kind:?}, {step} goes wrong: {how:?}");
                let told = lab.run(&case(kind, &[(step, how)], &[])).await;
                must_be_empty(&what, &told.wrong);
                let is_behind = step.starts_with("finalize")
                    || step == "resume"
                    || kind == Kinds::RollbackSystem
                    || (matches!(kind, Kinds::OnlySystem | Kinds::KeepSystem)
                        && ["resync", "check-"].iter().any(|w| step.starts_with(w)));
                assert_eq!(told.outcome, if is_behind { Outcome::Completed } else { Outcome::Failed }, "{what}");
                // A restore that goes back leaves the Config as it was, to the letter.
                if !is_behind && kind != Kinds::Resync {
                    assert_eq!(told.config.as_deref(), Some(DRIFTED), "{what}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_the_config_strikes_every_plan_at_every_place() {
    let lab = Lab::of_3scale().await;
    let mut tried = 0;
    for kind in KINDS {
        let mut wrongs: Vec<Vec<(&str, Wrong)>> = vec![vec![]];
        wrongs.extend(
            steps(kind).into_iter().take(2).flat_map(|step| [Wrong::After, Wrong::Lost].map(|how| vec![(step, how)])),
        );
        for wrong in wrongs {
            let smooth = lab.run(&case(kind, &wrong, &[])).await;
            // Every place, if it is asked for; otherwise others for each way to go wrong.
            let stride = if wrong.is_empty() { stride(2) } else { stride(9) };
            for at in (tried % stride..smooth.places).step_by(stride) {
                for strike in [Strike::Crash(at), Strike::CrashTwice(at), Strike::Sleep(at)] {
                    let struck = lab.run(&case(kind, &wrong, &[strike])).await;
                    must_be_empty(&format!("{kind:?}, {wrong:?}, {strike:?}"), &differs(&struck, &smooth));
                    tried += 1;
                }
                if wrong.is_empty() {
                    for strike in [Strike::Cancel(at), Strike::CrashAndCancel(at)] {
                        let struck = lab.run(&case(kind, &wrong, &[strike])).await;
                        must_be_empty(&format!("{kind:?}, {strike:?}"), &back_or_through(&struck, &smooth, kind));
                        tried += 1;
                    }
                }
            }
        }
    }
    println!("{tried} runs");
    assert!(tried > 600, "only {tried} runs");
}

#[tokio::test(start_paused = true)]
async fn crash_loop_of_the_config_takes_system_back_past_the_point_and_the_config_with_it() {
    let lab = Lab::of_3scale().await;
    let halted = Case { discards: true, ..case(Kinds::OnlySystem, &[("resume", Wrong::Before)], &[]) };
    let smooth = lab.run(&halted).await;
    must_be_empty("halted and taken back", &smooth.wrong);
    assert_eq!((smooth.outcome, smooth.config.as_deref()), (Outcome::Cancelled, Some(OLD)));
    for at in 0..smooth.places {
        let struck = lab.run(&Case { strikes: vec![Strike::Crash(at)], ..halted.clone() }).await;
        must_be_empty(&format!("crash at {at}"), &differs(&struck, &smooth));
    }
    // The loop sees a plan that does not remember it.
    let broken = lab.run(&Case { flaw: Some(Flaw::ConfigIsNotRemembered), ..halted }).await;
    assert!(broken.wrong.iter().any(|w| w.contains("the Config is")), "{:?}", broken.wrong);
}
