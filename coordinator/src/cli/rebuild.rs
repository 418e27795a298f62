//! `rebuild`: an installation anew in an empty namespace, of a set's objects, and its data: two plans under one run.

use keepsake_core::error::{Context, Error, Kind, Result};
use serde::Serialize;

use super::args::{Args, Rebuild};
use super::carry::{self, Means};
use super::output;
use super::reach::reached_for;
use super::restore::{confirm, staged};
use crate::app::{App, identities};
use crate::catalog;
use crate::exit::Exit;
use crate::plan::restore::Wishes;
use crate::plan::{self, Plan};
use crate::run::claim;
use crate::run::story::unfinished;

/// What stands between the two plans when they are printed.
const THEN: &str = "\nThen, under the same run. What is known of it by the set is shown; it is planned when the installation is there, from a new look at agents and \
                    stores, which may be others than they were:\n\n";

#[derive(Serialize)]
struct Both<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    /// The second as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a Plan>,
}

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Rebuild) -> Result<Exit> {
    let installation = app.topology.installation(command.set.installation.as_ref())?;
    // As of a restore: whoever follows it may stop it at any time.
    let early = command.run_id.map(|_| super::cancel_on_signal());
    let in_time = command.in_time.of("rebuild");
    claim::ensure_in_time(&app.runs()?, &installation.name, command.run_id, &in_time).await?;
    let record = catalog::find(&app.repository().await?, &installation.name, &command.set.set).await?;
    let installation = &reached_for(app, installation, &record).await?;
    let mut means = Means::new(app, installation).await?;
    let wishes = (!command.objects_only).then(|| Wishes { rebuilt: true, ..command.data.wishes() });
    let plan = plan::rebuild::plan(installation, &record, wishes.clone())?;
    let expected = wishes.as_ref().map(|wishes| plan::rebuild::expected(installation, &record, wishes)).transpose()?;
    if let Some(other) = unfinished(&app.runs()?, &installation.name, None).await? {
        claim::judge(&other)?;
    }
    means.ensure_none(wishes.is_some()).await?;
    // What can be found out of the second plan before the first begins.
    let mut components = staged(&plan);
    components.extend(expected.iter().flat_map(staged));
    means.repository.look_for_segments(&record, &components).await?;
    if wishes.is_some_and(|w| w.safety.is_some()) {
        let signing = carry::signer(app, &means.repository);
        means.signing = Some(signing.context("make the safety set (or rebuild with --no-safety)")?);
    }
    if command.dry_run {
        let both = Both { plan: &plan, expected: expected.as_ref() };
        output::result(args, &both, || {
            let then = expected.as_ref().map(|expected| format!("{THEN}{expected}")).unwrap_or_default();
            format!("{plan}{then}")
        })?;
        return Ok(Exit::Done);
    }
    let namespace = installation.kubernetes.as_ref().map(|k| k.namespace.clone());
    let namespace =
        namespace.ok_or_else(|| Error::new(Kind::Internal, "an installation without a namespace was planned"))?;
    let finished = record.finished;
    means.open(record, identities(&command.identities)?.as_ref(), command.set_identity.as_deref()).await?;
    let mut what = format!("An installation is built in namespace {namespace}.");
    if expected.is_some() {
        what.push_str(&format!(
            " Then what its stores hold is replaced with the data of {finished}, by a plan that is made when they are there: the second one here is what is \
             expected."
        ));
    }
    let plans: Vec<_> = std::iter::once(&plan).chain(&expected).collect();
    confirm(command.yes.as_ref(), installation, &plans, &what)?;
    let cancel = early.unwrap_or_else(super::cancel_on_signal);
    carry::begin_as(args, &means, &app.runs()?, &plan, command.run_id, &in_time, cancel).await
}
