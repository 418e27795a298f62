//! Agents of a run that was begun: the same components as its plan has, wherever they are by now.

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::record::Record;

use crate::app::App;
use crate::plan::{Goal, Plan};
use crate::platform::kubernetes::agents::Expect;
use crate::topology::InstallationSettings;

/// The installation with the agents that a run of this plan needs.
///
/// # Errors
/// As [`App::reached`]; `Invalid` when the topology does not name a component of the plan.
pub(super) async fn reached_again(
    app: &App,
    installation: &InstallationSettings,
    plan: &Plan,
) -> Result<InstallationSettings> {
    if installation.is_complete() {
        return Ok(installation.clone());
    }
    if matches!(plan.goal, Goal::Rebuild { .. }) {
        let set = plan.set.ok_or_else(|| Error::new(Kind::Internal, "the rebuild names no set"))?;
        let record = app.repository().await?.record(&installation.name, set).await?;
        return reached_for(app, installation, &record).await;
    }
    let components = plan.components();
    let reached = app.reached(installation, Expect::Those(&components)).await?;
    for component in &components {
        let is_of = || format!("the {} that was begun has {component}", plan.word());
        reached.component(component).with_context(is_of)?;
    }
    Ok(reached)
}

/// The installation with the agents of what is in a set, which may come with what is built.
///
/// # Errors
/// As [`App::reached`].
pub(super) async fn reached_for(
    app: &App,
    installation: &InstallationSettings,
    record: &Record,
) -> Result<InstallationSettings> {
    let components: Vec<Component> = record.components.iter().map(|c| c.component.clone()).collect();
    app.reached(installation, Expect::Later(&components)).await
}
