//! What is said of a run that the coordinator lost hold of: its journal, an agent, or the end of it.

use keepsake_coordinator::catalog::left_by;
use keepsake_coordinator::exit::Exit;
use keepsake_coordinator::run::claim;
use keepsake_coordinator::run::event::{Event, Outcome};
use keepsake_coordinator::run::status::{RunStatus, StepStatus};
use keepsake_coordinator::run::story::unfinished;
use keepsake_core::error::{Error, Kind};
use keepsake_core::repository::Store;
use keepsake_core::repository::runs::Runs;
use keepsake_tests::fake_fleet::Load;
use keepsake_tests::scratch::Scratch;
use tokio_util::sync::CancellationToken;

use super::house::House;

#[tokio::test]
async fn two_who_meet_in_a_folder_without_a_plan_do_not_both_have_the_floor() {
    let house = House::new().await;
    let plan = house.plan_backup().await;
    let scratch = Scratch::new();
    let runs = Runs::new(Store::open(&format!("file://{}", scratch.path().display())).unwrap());
    // The first one has made its folder and written its file, which has no name yet …
    let folder = scratch.path().join("runs/prod/00000001");
    std::fs::create_dir_all(&folder).unwrap();
    let (unnamed, named) = (folder.join("000000.json#1"), folder.join("000000.json"));
    std::fs::write(&unnamed, "{}").unwrap();
    // … when the second one begins, …
    claim::begin(&runs, &house.installation.name, &plan).await.unwrap();
    // … and then the first one names it, as object_store does: a link, which fails when there is one.
    std::fs::hard_link(&unnamed, &named)
        .expect_err("the first one has epoch 1, the second one a later one, and each the floor");
    assert_eq!(claim::begin(&runs, &house.installation.name, &plan).await.unwrap_err().kind(), Kind::Busy);
}

#[tokio::test]
async fn an_unfinished_restore_with_a_hole_in_its_journal_is_not_overlooked() {
    let house = House::new().await;
    house.back_up().await.unwrap();
    let plan = house.plan_restore(&house.latest().await.unwrap()).await;
    let name = &house.installation.name;
    let scratch = Scratch::new();
    let runs = Runs::new(Store::open(&format!("file://{}", scratch.path().display())).unwrap());
    let (_, mut log) = claim::begin(&runs, name, &plan).await.unwrap();
    for step in ["stage-system-mysql", "commit-system-mysql"] {
        log.append(&Event::Started { step: step.parse().unwrap() }).await.unwrap();
    }
    let hole = scratch.path().join("runs/prod/00000001/000001.json");
    std::fs::remove_file(&hole).unwrap();
    let found = claim::begin(&runs, name, &house.plan_backup().await).await.unwrap_err();
    assert_eq!(found.kind(), Kind::Corrupt, "{}", found.chain());
    assert!(found.chain().contains("runs/prod/00000001/000001.json"), "{}", found.chain());
    assert_eq!(runs.epochs(name).await.unwrap().len(), 1, "a command that was refused left a trace");
    // As the runbook says.
    let stand_in = r#"{"format": 1, "n": 1, "at": "2026-01-01T00:00:00Z", "event": {"type": "lost"}}"#;
    std::fs::write(&hole, stand_in).unwrap();
    let run = unfinished(&runs, name, None).await.unwrap().expect("the restore");
    claim::end_abandoned(&runs, run.tail(), "test").await.unwrap();
    claim::begin(&runs, name, &plan).await.unwrap();
}

#[tokio::test]
async fn a_restore_whose_journal_is_lost_never_says_that_nothing_was_changed() {
    let entries = {
        let house = House::new().await;
        house.back_up().await.unwrap();
        house.restore().await.unwrap();
        house.last_run().await.events.len()
    };
    for n in 0..entries {
        let house = House::new().await;
        house.back_up().await.unwrap();
        let record = house.latest().await.unwrap();
        let plan = house.plan_restore(&record).await;
        let mut left = n;
        let may = Box::new(move |_: &Event| {
            left =
                left.checked_sub(1).ok_or_else(|| Error::new(Kind::Unavailable, "the journal is gone (on purpose)"))?;
            Ok(())
        });
        let done = house.executed(&plan, Some(&record), may, CancellationToken::new()).await.unwrap();
        let told = done.ended.unwrap_err().chain();
        let begun = n > 0;
        assert_eq!(done.exit, if begun { Exit::Halted } else { Exit::Failed }, "entry {n}: {told}");
        assert_eq!(begun, told.contains("resume --installation prod --coordinator-is-gone"), "entry {n}: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_word_of_life_that_cannot_be_written_is_written_later_and_only_a_fenced_run_stops_at_once() {
    for (kind, goes_on) in
        [(Kind::Unavailable, true), (Kind::Timeout, true), (Kind::Busy, true), (Kind::Conflict, false)]
    {
        let house = House::new().await;
        house.fleet.wait("dump-backend-redis");
        let plan = house.plan_backup().await;
        let (mut refused, end) = (0, house.fleet.cancelled.clone());
        let may = Box::new(move |event: &Event| {
            if *event == Event::Alive {
                if refused < 2 {
                    refused += 1;
                    return Err(Error::new(kind, "on purpose"));
                }
                end.cancel();
            }
            Ok(())
        });
        let began = tokio::time::Instant::now();
        let done = house.executed(&plan, None, may, CancellationToken::new()).await.unwrap();
        let alive = house.last_run().await.events.iter().filter(|e| e.event == Event::Alive).count();
        if goes_on {
            assert_eq!(done.ended.unwrap().0, Outcome::Partial, "{kind}");
            assert_eq!(alive, 1, "{kind}");
            assert!(
                began.elapsed() < claim::GONE_AFTER / 2,
                "{kind}: it is tried again at once, not after as long as before"
            );
        } else {
            assert_eq!((done.ended.unwrap_err().kind(), alive), (kind, 0));
        }
    }
}

#[tokio::test]
async fn a_restore_that_cannot_be_finished_halts_and_is_finished_later() {
    for step in ["finalize-system-mysql", "finalize-backend-redis", "finalize-zync-database"] {
        let house = House::new().await;
        house.back_up().await.unwrap();
        house.fleet.fail(step);
        let record = house.latest().await.unwrap();
        let plan = house.plan_restore(&record).await;
        let done = house.executed(&plan, Some(&record), Box::new(|_| Ok(())), CancellationToken::new()).await.unwrap();
        let (outcome, note) = done.ended.unwrap();
        assert_eq!((outcome, done.exit), (Outcome::Halted, Exit::Halted), "{step}: {note}");
        assert!(note.contains(step.trim_start_matches("finalize-")), "{note}");
        assert_eq!(house.loads(), [Load::New; 3]);
        let calls = house.fleet.calls();
        assert!(!calls.iter().any(|c| c.starts_with("undo-")), "{calls:?}");
        assert_eq!(calls.iter().filter(|c| c.starts_with("finalize-")).count(), 3, "{calls:?}");
        let refused = house.back_up().await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Conflict);
        assert!(refused.chain().contains("keepsake resume --installation prod"), "{}", refused.chain());
        house.fleet.mend(step);
        assert_eq!(house.resume(None).await.unwrap().0, Outcome::Completed);
        let status = house.last_story().await.status();
        assert_eq!(status.cause.unwrap().step.unwrap().as_str(), step, "the cause stays");
        assert_eq!(
            house.fleet.calls().iter().filter(|c| c.starts_with("finalize-")).count(),
            4,
            "done again: the failed one"
        );
        house.back_up().await.unwrap();
    }
}

#[tokio::test]
async fn a_restore_is_cancelled_up_to_the_point_of_no_return_and_no_further() {
    for (step, outcome) in [
        ("stage-system-mysql", Outcome::Cancelled),
        ("commit-zync-database", Outcome::Cancelled),
        ("check-zync-database", Outcome::Cancelled),
        ("point-of-no-return", Outcome::Completed),
        ("finalize-system-mysql", Outcome::Completed),
    ] {
        let house = House::new().await;
        for component in ["system-mysql", "backend-redis", "zync-database"] {
            house.fleet.can_undo(component);
        }
        house.back_up().await.unwrap();
        let record = house.latest().await.unwrap();
        let plan = house.plan_restore(&record).await;
        let cancel = CancellationToken::new();
        let ask = cancel.clone();
        let may = Box::new(move |event: &Event| {
            if matches!(event, Event::Succeeded { step: done, .. } if done.as_str() == step) {
                ask.cancel();
            }
            Ok(())
        });
        let done = house.executed(&plan, Some(&record), may, cancel).await.unwrap();
        assert_eq!(done.ended.unwrap().0, outcome, "{step}");
        let expected = if outcome == Outcome::Completed { Load::New } else { Load::Old };
        assert_eq!(house.loads(), [expected; 3], "{step}");
    }
}

#[tokio::test]
async fn what_a_killed_backup_left_is_looked_for_and_not_guessed() {
    let entries = {
        let house = House::new().await;
        house.back_up().await.unwrap();
        house.last_run().await.events.len()
    };
    let mut recorded = 0;
    for n in 0..entries {
        let house = House::new().await;
        let plan = house.plan_backup().await;
        house.execute(&plan, None, n, CancellationToken::new()).await.unwrap_err();
        let told = left_by(Ok(&house.repository), &plan).await;
        let is_there = house.latest().await.is_some();
        recorded += usize::from(is_there);
        assert_eq!(told.contains("left no set"), !is_there, "entry {n}: {told}");
        assert_eq!(told.contains(&format!("{} is complete", plan.set_in_words())), is_there, "entry {n}: {told}");
    }
    assert!(recorded > 0, "no run was struck between its record and its end");
    let house = House::new().await;
    let plan = house.plan_backup().await;
    let told = left_by(Err(&Error::new(Kind::Unavailable, "no repository")), &plan).await;
    assert!(!told.contains("left no set") && told.contains("keepsake sets"), "{told}");
}

#[tokio::test]
async fn a_load_whose_end_nobody_knows_is_never_called_undone() {
    for kind in [Kind::NotFound, Kind::Unavailable, Kind::Timeout] {
        let house = House::new().await;
        house.back_up().await.unwrap();
        let record = house.latest().await.unwrap();
        let plan = house.plan_restore_of(&record, &["backend-redis"]).await;
        house.fleet.fail_late_as("commit-backend-redis", kind);
        house.fleet.forget("backend-redis");
        let done = house.executed(&plan, Some(&record), Box::new(|_| Ok(())), CancellationToken::new()).await.unwrap();
        let (outcome, note) = done.ended.unwrap();
        assert_eq!((outcome, done.exit), (Outcome::Stuck, Exit::StuckOrPartial), "{kind}: {note}");
        let status = RunStatus::of_run(&house.last_run().await);
        let of_load = &status.steps[&"commit-backend-redis".parse().unwrap()];
        assert!(matches!(of_load, StepStatus::UndoFailed(_)), "{kind}: {of_load:?}");
        assert!(house.fleet.calls().iter().any(|c| c == "undo-commit-backend-redis"), "the agent was not asked");
        // What can never be undone is the end of the run: the remedy is another restore.
        house.fleet.mend("commit-backend-redis");
        house.back_up().await.unwrap();
    }
}
