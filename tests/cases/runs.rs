//! Plans and runs over a fleet without agents: every step fails, every entry of the journal is refused, runs meet each other.

use keepsake_coordinator::inventory::Inventory;
use keepsake_coordinator::plan;
use keepsake_coordinator::plan::restore::Wishes;
use keepsake_coordinator::run::claim;
use keepsake_coordinator::run::event::{Event, Outcome};
use keepsake_coordinator::run::in_time::InTime;
use keepsake_coordinator::run::status::RunStatus;
use keepsake_core::error::{Kind, Result};
use keepsake_core::id::{Epoch, RunId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::Status;
use keepsake_core::repository::sets::SetState;
use keepsake_tests::fake_fleet::Load;
use tokio_util::sync::CancellationToken;

pub mod house;
mod lost;
mod plans;
mod resumed;
mod two_plans;

use self::house::House;

#[tokio::test]
async fn a_backup_of_everything_is_complete_and_the_latest() {
    let house = House::new().await;
    assert_eq!(house.back_up().await.unwrap().0, Outcome::Completed);
    let record = house.latest().await.expect("a latest set");
    assert_eq!((record.epoch, record.status), (Epoch(1), Status::Complete));
    assert_eq!(record.components.len(), 3);
    assert!(house.repository.verify(&record, |_| {}).await.unwrap().damaged.is_empty());
    let run = house.last_run().await;
    assert_eq!(RunStatus::of_run(&run).word(), "completed");
    assert_eq!(record.plan_sha256, run.head.plan_sha256);
}

#[tokio::test]
async fn every_component_that_fails_makes_the_set_partial_and_never_the_latest() {
    for step in ["dump-system-mysql", "dump-backend-redis", "dump-zync-database"] {
        for late in [false, true] {
            let house = House::new().await;
            house.back_up().await.unwrap();
            let before = house.latest().await.unwrap();
            if late {
                house.fleet.fail_late(step)
            } else {
                house.fleet.fail(step)
            }
            let (outcome, note) = house.back_up().await.unwrap();
            assert_eq!(outcome, Outcome::Partial, "{step}");
            assert!(note.contains(step.trim_start_matches("dump-")), "{note}");
            assert_eq!(house.sets().await, 2);
            assert_eq!(house.latest().await.unwrap().set, before.set, "a partial set became the latest");
        }
    }
}

#[tokio::test]
async fn a_dump_that_its_agent_stored_in_another_repository_is_no_backup() {
    let house = House::new().await;
    house.fleet.stores_elsewhere("backend-redis");
    let (outcome, note) = house.back_up().await.unwrap();
    assert_eq!(outcome, Outcome::Partial);
    assert!(note.contains("backend-redis"), "{note}");
    assert!(house.latest().await.is_none(), "a set whose data is elsewhere became the latest");
    let sets = house.repository.sets(&house.installation.name).await.unwrap();
    let SetState::Recorded(record) = &sets[0].state else { panic!("{:?}", sets[0]) };
    let failure = record.components.iter().find_map(|c| c.failure.as_ref()).unwrap();
    assert!(failure.text.contains("another repository"), "{failure:?}");
}

#[tokio::test]
async fn a_backup_without_any_dump_leaves_no_record() {
    let house = House::new().await;
    for step in ["dump-system-mysql", "dump-backend-redis", "dump-zync-database"] {
        house.fleet.fail(step);
    }
    assert_eq!(house.back_up().await.unwrap().0, Outcome::Failed);
    assert!(house.latest().await.is_none());
    assert_eq!(RunStatus::of_run(&house.last_run().await).word(), "failed");
}

#[tokio::test]
async fn a_journal_that_ends_anywhere_leaves_no_untrue_record_and_the_next_backup_works() {
    let entries = {
        let house = House::new().await;
        house.back_up().await.unwrap();
        house.last_run().await.events.len()
    };
    assert!(entries > 8, "{entries} entries");
    for n in 0..entries {
        let house = House::new().await;
        let plan = house.plan_backup().await;
        let refused = house.execute(&plan, None, n, CancellationToken::new()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable, "entry {n}: {}", refused.chain());
        if let Some(record) = house.latest().await {
            let found = house.repository.verify(&record, |_| {}).await.unwrap();
            assert!(found.damaged.is_empty(), "entry {n} left a record without its data");
        }
        let run = house.last_run().await;
        assert!(RunStatus::of_run(&run).ended.is_none(), "entry {n}");
        // Its coordinator wrote a moment ago, so another one must wait or be told that it is gone.
        assert_eq!(house.back_up().await.unwrap_err().kind(), Kind::Busy, "entry {n}");
        house.end_last().await;
        assert_eq!(house.back_up().await.unwrap().0, Outcome::Completed, "entry {n}");
    }
}

#[tokio::test]
async fn a_restore_that_fails_before_it_loads_changes_nothing() {
    for step in ["stage-system-mysql", "stage-backend-redis", "stage-zync-database"] {
        for late in [false, true] {
            let house = House::new().await;
            house.back_up().await.unwrap();
            if late {
                house.fleet.fail_late(step)
            } else {
                house.fleet.fail(step)
            }
            let (outcome, note) = house.restore().await.unwrap();
            assert_eq!(outcome, Outcome::Failed, "{step}: {note}");
            assert_eq!(house.loads(), [Load::Old; 3], "{step} late={late}");
            let cause = RunStatus::of_run(&house.last_run().await).cause.unwrap();
            assert_eq!(cause.step.unwrap().as_str(), step);
        }
    }
}

#[tokio::test]
async fn a_load_that_fails_says_what_cannot_be_undone() {
    for step in ["commit-system-mysql", "commit-backend-redis", "commit-zync-database"] {
        for late in [false, true] {
            let house = House::new().await;
            house.back_up().await.unwrap();
            if late {
                house.fleet.fail_late(step)
            } else {
                house.fleet.fail(step)
            }
            let (outcome, note) = house.restore().await.unwrap();
            assert_eq!(outcome, Outcome::Stuck, "{step}: {note}");
            assert!(note.contains("not undone"), "{note}");
            let run = house.last_run().await;
            let cause = RunStatus::of_run(&run).cause.unwrap();
            assert_eq!(cause.step.unwrap().as_str(), step, "the cause is the first failure");
        }
    }
}

#[tokio::test]
async fn a_restore_puts_every_component_back() {
    let house = House::new().await;
    house.back_up().await.unwrap();
    assert_eq!(house.restore().await.unwrap().0, Outcome::Completed);
    assert_eq!(house.loads(), [Load::New; 3]);
    let calls = house.fleet.calls();
    let last_stage = calls.iter().rposition(|c| c.starts_with("stage-")).unwrap();
    let first_commit = calls.iter().position(|c| c.starts_with("commit-")).unwrap();
    assert!(last_stage < first_commit, "a component was loaded before all were checked: {calls:?}");
}

#[tokio::test]
async fn a_cancelled_backup_stops_its_agents_and_leaves_no_record() {
    let house = House::new().await;
    house.fleet.wait("dump-backend-redis");
    let plan = house.plan_backup().await;
    let cancel = CancellationToken::new();
    let run = house.execute(&plan, None, usize::MAX, cancel.clone());
    let stop = async {
        keepsake_tests::poll::wait_for("the dump to start", std::time::Duration::from_secs(10), async || {
            let calls = house.fleet.calls();
            if calls.iter().any(|c| c == "dump-backend-redis") { Ok(()) } else { Err(format!("{calls:?}")) }
        })
        .await;
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(run, stop);
    assert_eq!(ended.unwrap().0, Outcome::Cancelled);
    assert!(house.latest().await.is_none());
    assert!(house.fleet.calls().iter().any(|c| c.starts_with("cancel-")), "no agent was told");
}

#[tokio::test]
async fn an_unfinished_restore_blocks_until_somebody_ends_it() {
    let house = House::new().await;
    house.back_up().await.unwrap();
    let record = house.latest().await.unwrap();
    let plan = house.plan_restore(&record).await;
    house.execute(&plan, Some(&record), 3, CancellationToken::new()).await.unwrap_err();
    assert_eq!(house.back_up().await.unwrap_err().kind(), Kind::Busy);
    house.end_last().await;
    assert_eq!(house.back_up().await.unwrap().0, Outcome::Completed);
}

#[tokio::test]
async fn of_many_coordinators_at_once_one_has_the_floor() {
    let house = House::new().await;
    let plan = house.plan_backup().await;
    let begun =
        futures_util::future::join_all((0..8).map(|_| claim::begin(&house.runs, &house.installation.name, &plan)))
            .await;
    let mut won: Vec<_> = begun.into_iter().filter_map(Result::ok).collect();
    // Each looks back after it took its epoch, so at most the lowest epoch of those that raced goes on.
    assert!(won.len() <= 1, "{} coordinators went on", won.len());
    if let Some((_, log)) = &mut won.pop() {
        log.append(&Event::Ended { outcome: Outcome::Failed, note: String::new() }).await.unwrap();
    }
    assert_eq!(house.back_up().await.unwrap().0, Outcome::Completed);
}

#[tokio::test]
async fn a_coordinator_that_comes_too_late_takes_no_epoch() {
    let house = House::new().await;
    let (plan, name) = (house.plan_backup().await, &house.installation.name);
    let until = |text: &str| InTime::of("backup", Some(text.parse().unwrap()));
    let (past, future) = (until("2001-01-01T00:00:00Z"), until("9000-01-01T00:00:00Z"));
    let run = Some(RunId::generate());
    let late = claim::begin_as(&house.runs, name, &plan, run, &past).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Conflict, "{}", late.chain());
    assert!(late.chain().contains("has changed nothing"), "{}", late.chain());
    assert_eq!(claim::ensure_in_time(&house.runs, name, run, &past).await.unwrap_err().kind(), Kind::Conflict);
    assert!(house.runs.epochs(name).await.unwrap().is_empty(), "it left a trace");
    claim::ensure_in_time(&house.runs, name, run, &future).await.unwrap();
    claim::begin_as(&house.runs, name, &plan, run, &future).await.unwrap();
    // Whoever is made again when the run is at work, or over, does not say that nothing was done.
    let again = claim::ensure_in_time(&house.runs, name, run, &past).await.unwrap_err();
    assert!(again.kind() == Kind::Exists && again.chain().contains("was begun already"), "{}", again.chain());
}

#[tokio::test]
async fn a_coordinator_that_was_given_up_writes_nothing_more() {
    let house = House::new().await;
    let plan = house.plan_backup().await;
    let (_, mut old) = claim::begin(&house.runs, &house.installation.name, &plan).await.unwrap();
    house.end_last().await;
    let fenced = old.append(&Event::Alive).await.unwrap_err();
    assert_eq!(fenced.kind(), Kind::Conflict, "{}", fenced.chain());
}

#[tokio::test]
async fn the_policy_of_the_plan_reaches_the_agent() {
    let house = House::new().await;
    house.back_up().await.unwrap();
    let record = house.latest().await.unwrap();
    let mut plan = house.plan_restore(&record).await;
    for step in plan.stages.iter_mut().flat_map(|s| &mut s.steps) {
        if let plan::Action::Stage { component, queues, .. } = &mut step.action
            && component.as_str() == "backend-redis"
        {
            *queues = QueuePolicy::Drop;
        }
    }
    house.execute(&plan, Some(&record), usize::MAX, CancellationToken::new()).await.unwrap();
    let of = |name: &str| house.fleet.queues_of(&name.parse().unwrap());
    assert_eq!(of("backend-redis"), Some(QueuePolicy::Drop));
    assert_eq!(of("system-mysql"), Some(QueuePolicy::Restore));
}

#[tokio::test]
async fn a_partial_set_is_restored_only_by_naming_components() {
    let house = House::new().await;
    house.fleet.fail("dump-zync-database");
    house.back_up().await.unwrap();
    let sets = house.repository.sets(&house.installation.name).await.unwrap();
    let record = house.repository.record(&house.installation.name, sets[0].id).await.unwrap();
    let inventory = Inventory::ask(&house.installation, &house.fleet).await;
    let plan = |only: &[&str]| {
        let only: Vec<_> = only.iter().map(|n| n.parse().unwrap()).collect();
        plan::restore::plan(&house.installation, &inventory, &record, &Wishes { only, ..Wishes::default() })
    };
    assert!(plan(&[]).unwrap_err().chain().contains("partial"));
    assert!(plan(&["zync-database"]).unwrap_err().chain().contains("nothing to restore"));
    assert!(plan(&["system-mysql"]).is_ok());
}
