//! A run of two plans as its journal has it: the second is an entry, and what comes after it is about that one.

use keepsake_coordinator::plan::{Action, Goal, Plan, Step};
use keepsake_coordinator::run::event::{Event, Outcome, Output};
use keepsake_coordinator::run::status::{Next, RunStatus};
use keepsake_coordinator::run::story::Story;
use keepsake_coordinator::run::take_over::take_over;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_core::error::Kind;
use keepsake_core::id::RunId;
use keepsake_core::repository::runs::{Runs, plan_sha256};
use keepsake_core::repository::testing::faulty_memory;
use keepsake_tests::fake_world::lab::Lab;

fn started(step: &str) -> Event {
    Event::Started { step: step.parse().unwrap() }
}

/// All that happens of a plan when nothing goes wrong.
fn carried_out(plan: &Plan) -> Vec<Event> {
    let both = |s: &keepsake_coordinator::plan::Step| {
        [Event::Started { step: s.id.clone() }, Event::Succeeded { step: s.id.clone(), output: Output::Nothing }]
    };
    plan.steps().flat_map(both).collect()
}

fn planned(plan: &Plan) -> Event {
    Event::Planned { plan: Box::new(plan.clone()), plan_sha256: plan_sha256(plan).unwrap() }
}

/// A run of these entries, whose coordinator is gone.
async fn told(first: &Plan, events: &[Event]) -> (Runs, Story) {
    let runs = Runs::new(faulty_memory().0);
    let (head, mut log) =
        runs.begin_as(first.format(), &first.installation, "elsewhere", first, RunId::generate()).await.unwrap();
    for event in events {
        log.append(event).await.unwrap();
    }
    let story = Story::with(&runs, &first.installation, head.epoch).await.unwrap();
    (runs, story)
}

#[tokio::test]
async fn what_comes_after_the_second_plan_is_about_that_one() {
    let (first, second) = Lab::of_a_cluster().await.two_plans();
    assert_eq!((first.format(), second.format()), (2, 1));
    let mut events = carried_out(&first);
    let (_, story) = told(&first, &events).await;
    assert!(story.second().is_none() && matches!(story.status().next(story.plan()), Next::Plan(_)));
    assert!(story.status().passed && story.status().may_turn(story.plan()), "its data may be given up");
    events.push(planned(&second));
    let (runs, story) = told(&first, &events).await;
    let status = story.status();
    assert_eq!(story.plan(), &second);
    assert!(status.rebuilt && !status.passed, "the point of the first is not that of the second");
    let Next::Do(steps) = status.next(&second) else { panic!("{:?}", status.next(&second)) };
    assert!(steps.iter().all(|s| matches!(s.action, Action::Quiesce { .. })), "{steps:?}");
    // Whoever goes on under another epoch reads the same.
    let taken = take_over(&runs, story, true).await.unwrap();
    assert_eq!((taken.story.plan(), taken.head.format, &taken.head.plan), (&second, 2, &first));
    let again = Story::with(&runs, &first.installation, taken.head.epoch).await.unwrap();
    assert_eq!(again.plan(), &second);
}

#[tokio::test]
async fn a_second_plan_that_was_changed_since_is_not_carried_out() {
    let (first, second) = Lab::of_a_cluster().await.two_plans();
    let mut changed = second.clone();
    changed.notes.push("one more".to_owned());
    let mut events = carried_out(&first);
    events.push(Event::Planned { plan: Box::new(changed), plan_sha256: plan_sha256(&second).unwrap() });
    let (runs, story) = told(&first, &events).await;
    let refused = take_over(&runs, story, true).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.chain());
    assert_eq!(runs.epochs(&first.installation).await.unwrap().len(), 1, "no epoch is taken for that");
}

#[tokio::test]
async fn a_second_plan_whose_entry_is_lost_is_neither_made_again_nor_forgotten() {
    let (first, _) = Lab::of_a_cluster().await.two_plans();
    let mut events = carried_out(&first);
    events.extend([Event::Unknown, started("quiesce"), started("stage-sql")]);
    let status = RunStatus::of(&first, &events);
    let Next::Rest(Outcome::Halted, note) = status.next(&first) else { panic!("{:?}", status.next(&first)) };
    assert!(note.contains("lost from its journal") && note.contains("--leave-as-it-is"), "{note}");
    assert!(!status.may_turn(&first), "what stands in the stores is not known");
}

/// Between two plans of one run nobody says when a person is done.
#[tokio::test]
async fn who_stops_the_applications_by_hand_builds_the_objects_alone() {
    let lab = Lab::of_a_cluster().await;
    let refused = lab.rebuild_by_hand(true).unwrap_err();
    assert!(refused.kind() == Kind::Invalid && refused.chain().contains("--objects-only"), "{}", refused.chain());
    let alone = lab.rebuild_by_hand(false).unwrap();
    assert!(alone.then().is_none() && alone.format() == 1);
    assert!(alone.steps().all(|s| !matches!(s.action, Action::Quiesce { .. } | Action::AwaitAgents { .. })));
}

/// Routes are closed and opened by one plan, so that a topology that is another one between the two leaves none closed.
#[tokio::test]
async fn routes_are_closed_and_opened_by_the_second_plan_alone() {
    let lab = Lab::of_a_cluster().await;
    let is_about_routes = |s: &Step| matches!(s.action, Action::CloseRoutes { .. } | Action::OpenRoutes { .. });
    for (by, then) in [(By::Routes, By::Routes), (By::Routes, By::Scale), (By::Scale, By::Routes)] {
        let (first, second) = lab.two_plans_by(by, then).unwrap();
        assert!(!first.steps().any(is_about_routes), "{by:?}, {then:?}");
        let expected = if then == By::Routes { 2 } else { 0 };
        assert_eq!(second.steps().filter(|s| is_about_routes(s)).count(), expected, "{by:?}, {then:?}");
        assert_eq!(second.notes.iter().any(|n| n.contains("Zync has made no Route")), then == By::Routes);
    }
    let refused = lab.two_plans_by(By::Routes, By::None).unwrap_err();
    assert!(refused.kind() == Kind::Invalid && refused.chain().contains("nobody would start them"), "{refused:?}");
}

#[tokio::test]
async fn rebuilds_of_before_are_read_as_they_were_written() {
    let old = r#"{"goal":"rebuild","epoch":3}"#;
    let goal: Goal = serde_json::from_str(old).unwrap();
    assert_eq!(serde_json::to_string(&goal).unwrap(), old);
    let (first, _) = Lab::of_a_cluster().await.two_plans();
    let text = serde_json::to_string(&first).unwrap();
    assert!(!text.contains(r#""place":"#) && text.contains(r#""then":{"#), "{text}");
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), first);
}
