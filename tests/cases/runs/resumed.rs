//! Taking runs over: who may, who loses, and what a journal that lost an entry still says.

use keepsake_coordinator::plan::Action;
use keepsake_coordinator::run::claim;
use keepsake_coordinator::run::event::{Event, Outcome, Output};
use keepsake_coordinator::run::status::{Next, RunStatus};
use keepsake_coordinator::run::story::{Story, unfinished};
use keepsake_coordinator::run::take_over::take_over;
use keepsake_core::error::Kind;
use keepsake_core::id::StepId;
use keepsake_core::record::Failure;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::house::House;

/// A restore whose coordinator was killed in its n-th entry.
async fn interrupted(entries: usize) -> (House, Story) {
    let house = House::new().await;
    for component in ["system-mysql", "backend-redis", "zync-database"] {
        house.fleet.can_undo(component);
    }
    house.back_up().await.unwrap();
    let record = house.latest().await.unwrap();
    let plan = house.plan_restore(&record).await;
    house.execute(&plan, Some(&record), entries, CancellationToken::new()).await.unwrap_err();
    let story = unfinished(&house.runs, &house.installation.name, None).await.unwrap().expect("the restore");
    (house, story)
}

#[tokio::test]
async fn of_two_who_resume_at_once_one_goes_on_and_the_other_leaves_no_trace_in_the_run() {
    let (house, story) = interrupted(7).await;
    let (one, other) =
        tokio::join!(take_over(&house.runs, story.clone(), true), take_over(&house.runs, story.clone(), true));
    let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
    let (won, lost) = (won.expect("one of them"), lost.expect_err("both go on"));
    assert_eq!(lost.kind(), Kind::Busy, "{}", lost.chain());
    assert_eq!(won.head.run, story.root().run);
    let found = unfinished(&house.runs, &house.installation.name, None).await.unwrap().expect("the restore");
    assert_eq!(found.tail().head.epoch, won.head.epoch);
    assert_eq!(found.links().count(), 2);
    // Also told from an epoch in the middle of it.
    let told = Story::with(&house.runs, &house.installation.name, story.root().epoch).await.unwrap();
    assert_eq!(told, found);
}

#[tokio::test]
async fn a_coordinator_that_may_be_alive_is_not_taken_over_unless_somebody_knows() {
    let (house, story) = interrupted(7).await;
    let refused = take_over(&house.runs, story.clone(), false).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{}", refused.chain());
    let epochs = house.runs.epochs(&house.installation.name).await.unwrap().len();
    assert_eq!(epochs, 2, "a command that was refused left a trace");
    let taken = take_over(&house.runs, story.clone(), true).await.unwrap();
    // Who was taken over writes nothing more, whatever it believes.
    let mut old = house.runs.continue_log(story.tail());
    assert_eq!(old.append(&Event::Alive).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(taken.story.status().ended, None);
    // And the one who is alive now is not taken over, either.
    let story = unfinished(&house.runs, &house.installation.name, None).await.unwrap().unwrap();
    assert_eq!(take_over(&house.runs, story, false).await.unwrap_err().kind(), Kind::Busy);
}

#[tokio::test]
async fn a_plan_that_was_changed_since_is_not_carried_out() {
    let (house, mut story) = interrupted(7).await;
    let mut run = story.tail().clone();
    run.head.plan.notes.push("one more".to_owned());
    story = Story::ending_with(&house.runs, run).await.unwrap();
    let refused = take_over(&house.runs, story, true).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.chain());
    assert_eq!(house.runs.epochs(&house.installation.name).await.unwrap().len(), 2);
}

#[tokio::test]
async fn whoever_takes_over_and_is_killed_in_between_is_no_part_of_the_run_and_hides_nothing() {
    let (house, story) = interrupted(7).await;
    house.runs.resume(&story.tail().head, "killed").await.unwrap();
    let refused = house.back_up().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{}", refused.chain());
    let record = house.latest().await.unwrap();
    assert_eq!(house.resume(Some(&record)).await.unwrap().0, Outcome::Completed);
    house.back_up().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_lost_takes_back_neither_the_point_of_no_return_nor_an_unwinding() {
    let (_, story) = interrupted(7).await;
    let plan = story.plan();
    let started = |step: &str| Event::Started { step: step.parse().unwrap() };
    let done = |step: &StepId| Event::Succeeded { step: step.clone(), output: Output::Nothing };
    let mut events: Vec<_> =
        plan.steps().take_while(|s| s.action != Action::PointOfNoReturn).map(|s| done(&s.id)).collect();
    events.extend([started("point-of-no-return"), Event::Unknown]);
    assert!(!RunStatus::of(plan, &events).passed, "a word of the beginning is not the point");
    events.push(started("check-live-system-mysql"));
    assert!(RunStatus::of(plan, &events).passed);

    let back = [started("stage-system-mysql"), Event::UndoStarted { step: "stage-system-mysql".parse().unwrap() }];
    let status = RunStatus::of(plan, &back);
    assert!(matches!(status.next(plan), Next::Undo(_)), "{:?}", status.next(plan));
}

fn any_event(steps: Vec<StepId>) -> impl Strategy<Value = Event> {
    let step = prop::sample::select(steps);
    let failure = prop::sample::select(Kind::ALL.to_vec()).prop_map(|kind| Failure { kind, text: "why".to_owned() });
    (step, failure, 0..11_u8, any::<bool>()).prop_map(|(step, failure, which, flag)| match which {
        0 | 1 => Event::Started { step },
        2 | 3 => Event::Succeeded { step, output: Output::Nothing },
        4 => Event::Failed { step, failure },
        5 => Event::UndoStarted { step },
        6 => Event::Undone { step },
        7 => Event::UndoFailed { step, failure },
        8 => Event::Unwinding { failure, discard_writes: flag },
        9 => Event::TakenOver { by: keepsake_core::id::Epoch(9) },
        _ => Event::Alive,
    })
}

#[tokio::test]
async fn what_comes_next_is_told_of_any_journal_and_the_first_failure_is_the_cause() {
    let (_, story) = interrupted(7).await;
    let plan = story.plan();
    let steps: Vec<_> = plan.steps().map(|s| s.id.clone()).collect();
    proptest!(ProptestConfig::with_cases(2_000), |(events in prop::collection::vec(any_event(steps), 0..60))| {
        let status = RunStatus::of(plan, &events);
        match status.next(plan) {
            Next::Do(steps) => prop_assert!(!steps.is_empty()),
            // Nothing is undone behind the point unless somebody has said so.
            Next::Undo(_) => prop_assert!(status.back.is_some()),
            Next::Turn(_) => prop_assert!(!status.passed),
            Next::Plan(_) => prop_assert!(false, "it has one plan"),
            Next::Rest(..) | Next::End(..) => {}
        }
        // Whatever comes later, the cause stays.
        for n in 0..events.len() {
            let earlier = RunStatus::of(plan, &events[..n]);
            if earlier.cause.is_some() {
                prop_assert_eq!(&earlier.cause, &status.cause);
            }
        }
    });
}

#[tokio::test]
async fn an_unfinished_restore_names_both_ways_out() {
    let (house, story) = interrupted(7).await;
    let mut log = house.runs.continue_log(story.tail());
    log.append(&Event::Halted { outcome: Outcome::Stuck, note: "an agent is away".to_owned() }).await.unwrap();
    let plan = house.plan_backup().await;
    let refused = claim::begin(&house.runs, &house.installation.name, &plan).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    for word in ["an agent is away", "keepsake resume --installation prod", "keepsake cancel --installation prod"] {
        assert!(refused.chain().contains(word), "{word}: {}", refused.chain());
    }
    // A coordinator that has said that it stops need not be waited for.
    take_over(&house.runs, unfinished(&house.runs, &house.installation.name, None).await.unwrap().unwrap(), false)
        .await
        .unwrap();
}
