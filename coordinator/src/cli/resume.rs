//! `resume`: goes on with a run that was interrupted or has halted, from this machine or another.

use keepsake_core::clock;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::repository::runs::Runs;

use super::args::{Args, Resume};
use super::carry::{self, Means};
use super::reach::reached_again;
use super::restore::confirm;
use crate::app::{App, identities};
use crate::exit::Exit;
use crate::fleet::Fleet;
use crate::plan::{Action, Goal, Plan};
use crate::run::claim;
use crate::run::status::{RunStatus, StepStatus};
use crate::run::story::{Story, unfinished};
use crate::topology::InstallationSettings;

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Resume) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let in_time = command.in_time.of("resume");
    in_time.ensure(&installation.name)?;
    let runs = app.runs()?;
    let story = interrupted(&runs, installation, command.coordinator_is_gone).await?;
    if let Some(run) = command.run_id.filter(|run| *run != story.root().run) {
        let text = format!(
            "run {} of {} is unfinished now, and not the run {run} that was to be gone on with: begin anew",
            story.root().run,
            installation.name
        );
        return Err(Error::new(Kind::Conflict, text));
    }
    let (plan, status) = (story.plan(), story.status());
    let installation = &reached_again(app, installation, plan).await?;
    let mut means = Means::new(app, installation).await?;
    // Nothing is taken over before everything is there that going on needs.
    let then = plan.then();
    let goes_forward = status.back.is_none() && (!status.passed || then.is_some());
    if goes_forward && (makes_a_set(plan, &status) || then.is_some_and(|w| w.safety.is_some())) {
        means.signing = Some(carry::signer(app, &means.repository)?);
    }
    if goes_forward && plan.is_restore() {
        if then.is_some() || has_to_stage(&means, &story, &status).await {
            let set = plan.set.ok_or_else(|| Error::new(Kind::Internal, "the restore names no set"))?;
            let record = means.repository.record(&installation.name, set).await?;
            let identities = identities(&command.identities)?;
            means
                .open(record, identities.as_ref(), command.set_identity.as_deref())
                .await
                .context("stage what is not staged yet")?;
        }
        let what = asked(plan);
        confirm(command.yes.as_ref(), installation, &[plan], &what)?;
    }
    let done = carry::go_on(args, &means, &runs, story, command.coordinator_is_gone, None, &in_time).await?;
    Ok(done.map_or(Exit::Halted, Exit::of_outcome))
}

/// What a person is asked to confirm.
pub(super) fn asked(plan: &Plan) -> String {
    let name = &plan.installation;
    match plan.goal {
        Goal::Rebuild { then: None, .. } => {
            format!("Installation {name} is built anew, as was begun with this plan.")
        }
        Goal::Rebuild { then: Some(_), .. } => format!(
            "Installation {name} is built anew, as was begun with this plan, and then what its stores hold is replaced with the data of the set."
        ),
        _ => format!("The live data of {name} is replaced, as was begun with this plan."),
    }
}

/// The run that is unfinished, and whose coordinator is not at work.
///
/// # Errors
/// `NotFound` when there is none, `Busy` when its coordinator is alive.
pub(super) async fn interrupted(runs: &Runs, installation: &InstallationSettings, is_gone: bool) -> Result<Story> {
    let name = &installation.name;
    let Some(story) = unfinished(runs, name, None).await? else {
        return Err(Error::new(
            Kind::NotFound,
            format!("no run of {name} is unfinished: there is nothing to go on with"),
        ));
    };
    if !is_gone && claim::is_fresh(story.tail(), clock::now()) {
        return Err(Error::new(
            Kind::Busy,
            format!(
                "{} {} of {name} wrote a word less than {} minutes ago ({}): it may be going on. If you know that its coordinator is gone, say \
                 --coordinator-is-gone",
                story.plan().word(),
                story.root().epoch,
                claim::GONE_AFTER.as_secs() / 60,
                story.tail().head.by
            ),
        ));
    }
    Ok(story)
}

fn makes_a_set(plan: &Plan, status: &RunStatus) -> bool {
    let commits = plan.steps().find(|s| s.action == Action::CommitSet);
    commits.is_some_and(|s| status.steps.get(&s.id) != Some(&StepStatus::Succeeded))
}

/// Whether something is not staged yet, or not any more.
async fn has_to_stage(means: &Means<'_>, story: &Story, status: &RunStatus) -> bool {
    for step in status.not_loaded(story.plan()) {
        let Some(component) = step.action.component() else { continue };
        if status.steps.get(&step.id) != Some(&StepStatus::Succeeded) {
            return true;
        }
        // An agent that does not answer fails its commit; the others are not to wait for an identity because of it.
        if means
            .fleet
            .describe(component)
            .await
            .is_ok_and(|found| !found.server.is_empty() && !found.has_staged(story.root().run))
        {
            return true;
        }
    }
    false
}
