//! What must hold when a run of the fake world is over.

use keepsake_coordinator::plan::{Action, Goal, Plan};
use keepsake_coordinator::run::event::Outcome;
use keepsake_coordinator::run::status::{RunStatus, StepStatus};
use keepsake_coordinator::run::story::Story;
use keepsake_core::record::Purpose;
use keepsake_core::repository::runs::Runs;

use super::journal::Script;
use super::lab::{Lab, Told, config_of, told_of};
use super::rebuild::are_objects;
use super::{FakeWorld, NEW, OLD};

impl Lab {
    /// What there is in the end, and everything that may not be.
    pub(super) async fn look(&self, world: &FakeWorld, runs: &Runs, script: &Script, mut wrong: Vec<String>) -> Told {
        wrong.extend(world.violations());
        let epochs = runs.epochs(&self.installation.name).await.expect("the epochs");
        let mut newest = None;
        for epoch in epochs.into_iter().rev() {
            let story = Story::with(runs, &self.installation.name, epoch).await.expect("a story");
            // What was killed before it had taken a run over is no part of it.
            if story.tail().head.epoch != epoch || story.status().ended.is_some() {
                newest = Some(story);
                break;
            }
            if story.links().count() == 1 || !story.tail().events.is_empty() {
                wrong.push(format!("run {epoch} is unfinished"));
            }
        }
        let story = newest.expect("a run that is over");
        let (plan, status) = (story.plan(), story.status());
        let (outcome, _) = status.ended.clone().expect("an end");
        let stuck = outcome == Outcome::Stuck;
        let by_hand = self.is_by_hand() && outcome != Outcome::Completed;
        wrong.extend(world.wrongly_built().filter(|_| !stuck));
        if !world.is_running() && !stuck && !by_hand && !world.is_unbuilt() {
            wrong.push("the applications are still stopped".to_owned());
        }
        if world.is_closed() && !stuck {
            wrong.push("the Routes are still closed".to_owned());
        }
        if world.held() > 0 {
            wrong.push("writes are still held".to_owned());
        }
        if world.is_running() {
            wrong.extend(world.lost_rows());
        }
        let set = self.look_at_set(plan, &status, outcome, &mut wrong).await;
        let completed = outcome == Outcome::Completed;
        // What the safety set lacks is nowhere else.
        let lacks = |name: &str| {
            let is_its_dump = |a: &Action| matches!(a, Action::Dump { component, .. } if component.as_str() == name);
            plan.steps().any(|s| is_its_dump(&s.action) && matches!(status.results.get(&s.id), Some(Err(_))))
        };
        let keeps = |name: &str| match plan.goal {
            Goal::Restore { keep_old, .. } => completed && (keep_old || lacks(name)),
            Goal::Finalize { .. } | Goal::Rollback { .. } => !completed,
            Goal::Backup { .. } | Goal::Rebuild { .. } | Goal::Resync => false,
        };
        for (name, store) in world.stores() {
            if ![OLD, NEW].contains(&store.base()) {
                wrong.push(format!("{name} is neither old nor new: {:?}", store.live));
            }
            let left = store.left();
            if completed && plan.is_restore() && lacks(&name.to_string()) && left != "old data" {
                wrong.push(format!("the old data of {name} is dropped, and the safety set lacks it"));
            }
            let may_stay = stuck || (keeps(&name.to_string()) && left == "old data");
            if !left.is_empty() && !may_stay {
                wrong.push(format!("{name} has something left: {left}"));
            }
        }
        let stores = told_of(world);
        let of_another = world.lock().config_of_another();
        wrong.extend(of_another.filter(|_| !stuck));
        // Objects of an installation that was built anew stay, whatever becomes of its data.
        let of_data = world.stores().into_iter().filter(|(name, _)| !are_objects(name));
        let bases: std::collections::BTreeSet<_> = of_data.map(|(_, store)| store.base().to_owned()).collect();
        // Of one component alone the others are as they were.
        let alone =
            plan.steps().filter(|s| matches!(s.action, Action::Stage { .. } | Action::Rollback { .. })).count() == 1;
        if bases.len() > 1 && !stuck && !alone {
            wrong.push(format!("not all components or none: {stores:?}"));
        }
        let not_undone = status.steps.iter().filter(|(_, s)| matches!(s, StepStatus::UndoFailed(_)));
        let not_undone = not_undone.map(|(id, _)| id.to_string()).collect();
        let cause = status.cause.and_then(|c| c.step).map(|s| s.to_string());
        Told {
            outcome,
            cause,
            stores,
            config: config_of(world),
            running: world.is_running(),
            followed: world.followed(),
            set,
            not_undone,
            places: script.places(),
            wrong,
        }
    }

    /// A set has a record exactly when its step is done, and then every dump that it names is there.
    async fn look_at_set(
        &self,
        plan: &Plan,
        status: &RunStatus,
        outcome: Outcome,
        wrong: &mut Vec<String>,
    ) -> Option<usize> {
        let (set, purpose, _) = plan.made_set()?;
        let record = self.repository.record(&self.installation.name, set).await.ok();
        let step = plan.steps().find(|s| s.action == Action::CommitSet).expect("a step");
        if record.is_some() != (status.steps.get(&step.id) == Some(&StepStatus::Succeeded)) {
            wrong.push("the journal and the repository do not agree on whether there is a set".to_owned());
        }
        if plan.is_backup() && record.is_some() != matches!(outcome, Outcome::Completed | Outcome::Partial) {
            wrong.push(format!("a backup that ended {}: set {}", outcome.as_str(), record.is_some()));
        }
        let record = record?;
        let found = self.repository.verify(&record, |_| {}).await.expect("verify");
        if !found.damaged.is_empty() {
            wrong.push(format!("the set lacks data: {:?}", found.damaged));
        }
        if record.purpose != purpose || (purpose == Purpose::Safety && record.counts_as_backup()) {
            wrong.push("a safety set passes for a backup".to_owned());
        }
        Some(record.components.iter().filter(|c| c.dump.is_some()).count())
    }
}
