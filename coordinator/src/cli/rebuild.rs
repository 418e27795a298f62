//! `rebuild`: an installation anew in an empty namespace, of a set's objects.

use keepsake_core::error::{Error, Kind, Result};

use super::args::{Args, Rebuild};
use super::carry::{self, Means};
use super::output;
use super::reach::reached_for;
use super::restore::confirm;
use crate::app::{App, identities};
use crate::catalog;
use crate::exit::Exit;
use crate::plan;
use crate::run::claim;
use crate::run::story::unfinished;

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Rebuild) -> Result<Exit> {
    let installation = app.topology.installation(command.set.installation.as_ref())?;
    let record = catalog::find(&app.repository().await?, &installation.name, &command.set.set).await?;
    let installation = &reached_for(app, installation, &record).await?;
    let mut means = Means::new(app, installation).await?;
    let plan = plan::rebuild::plan(installation, &record)?;
    if let Some(other) = unfinished(&app.runs()?, &installation.name, None).await? {
        claim::judge(&other)?;
    }
    means.ensure_none().await?;
    if command.dry_run {
        output::result(args, &plan, || plan.to_string())?;
        return Ok(Exit::Done);
    }
    let namespace = installation.kubernetes.as_ref().map(|k| k.namespace.clone());
    let namespace =
        namespace.ok_or_else(|| Error::new(Kind::Internal, "an installation without a namespace was planned"))?;
    means.open(record, identities(&command.identities)?.as_ref(), None).await?;
    let what = format!("An installation is built in namespace {namespace}.");
    confirm(command.yes.as_ref(), installation, Some(&plan), &what)?;
    carry::begin(args, &means, &app.runs()?, &plan).await
}
