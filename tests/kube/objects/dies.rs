//! A coordinator that is gone between any two writes to objects, into whose words somebody writes, or whose answers are lost.

use keepsake_coordinator::fleet::Fleet;
use keepsake_coordinator::inventory::Staged;
use keepsake_core::id::{Epoch, RunKey};
use keepsake_tests::cluster::faults::{Faulty, Rule};

use super::super::run;
use super::{Ground, NAMESPACE, Picture, REPLACE_ALL, must_be, told};

#[tokio::test]
async fn kube_whoever_writes_objects_may_die_between_any_two_writes() {
    let name = "kube_whoever_writes_objects_may_die_between_any_two_writes";
    let Some(ground) = Ground::open(name).await else { return };
    let before = ground.picture().await;
    ground.wreck().await;
    let wrecked = ground.picture().await;
    let whole = ground.objects(NAMESPACE, &ground.client);
    for n in 1.. {
        let faulty = Faulty::new(&ground.client, Rule::DieBefore(n));
        let first = run(1);
        let next = RunKey { epoch: Epoch(2), ..first.clone() };
        let mortal = ground.objects(NAMESPACE, &faulty.client);
        let load = async {
            ground.stage(&mortal, &first, REPLACE_ALL).await?;
            ground.commit(&mortal, &first).await?;
            ground.finalize(&mortal, &first).await
        };
        let done = faulty.mortal(load).await;
        let found = told(whole.describe(&ground.entry.component).await).loads;
        let is_at = found.iter().find(|(run, _)| *run == first.run).map(|(_, staged)| *staged);
        match (&done, is_at) {
            // What is committed goes forward, every other time; all else goes back.
            (None, Some(Staged::Committed)) => {
                told(ground.finalize(&whole, &next).await);
            }
            (None, _) if n % 2 == 0 => {
                told(ground.stage(&whole, &next, REPLACE_ALL).await);
                told(ground.commit(&whole, &next).await);
                told(ground.finalize(&whole, &next).await);
            }
            (None, _) => {
                told(ground.rollback(&whole, &next).await);
                must_be(&ground.picture().await, &wrecked, &format!("gone before write {n}, taken back"));
                continue;
            }
            (Some(_), _) => {}
        }
        must_be(&ground.picture().await, &before, &format!("gone before write {n}"));
        if let Some(done) = done {
            told(done);
            // A head, four states, and for each of eight objects what is new, what was old, itself, and both dropped.
            assert!(n > 40, "{:?}", faulty.writes());
            break;
        }
        ground.wreck().await;
        must_be(&ground.picture().await, &wrecked, "wrecked again");
    }
    is_taken_back_by_a_mortal(&ground, &wrecked).await;
    with_conflicts(&ground, &before).await;
}

async fn is_taken_back_by_a_mortal(ground: &Ground, wrecked: &Picture) {
    let whole = ground.objects(NAMESPACE, &ground.client);
    ground.wreck().await;
    for n in 1.. {
        let first = run(1);
        told(ground.stage(&whole, &first, REPLACE_ALL).await);
        told(ground.commit(&whole, &first).await);
        let faulty = Faulty::new(&ground.client, Rule::DieBefore(n));
        let mortal = ground.objects(NAMESPACE, &faulty.client);
        let done = faulty.mortal(ground.rollback(&mortal, &first)).await;
        told(ground.rollback(&whole, &RunKey { epoch: Epoch(2), ..first.clone() }).await);
        must_be(&ground.picture().await, wrecked, &format!("gone before write {n} of taking back"));
        if let Some(done) = done {
            told(done);
            assert!(n > 20, "{:?}", faulty.writes());
            return;
        }
    }
}

/// Somebody else writes to each object at the worst moment, and answers are lost.
async fn with_conflicts(ground: &Ground, before: &Picture) {
    for rule in [Rule::LoseAnswers, Rule::Conflict] {
        ground.wreck().await;
        let faulty = Faulty::new(&ground.client, rule);
        let it = ground.objects(NAMESPACE, &faulty.client);
        let first = run(1);
        told(ground.stage(&it, &first, REPLACE_ALL).await);
        told(ground.commit(&it, &first).await);
        told(ground.finalize(&it, &first).await);
        must_be(&ground.picture().await, before, &format!("{rule:?}"));
    }
}
