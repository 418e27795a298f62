//! `check` and `resync`: Backend's Config beside System's database.

use std::time::Duration;

use keepsake_core::config::AlertLevels;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Epoch, RunId, RunKey, StepId};
use serde::Serialize;

use super::args::{Args, Check, Look, ResyncConfig};
use super::carry::{self, Means};
use super::output;
use crate::app::App;
use crate::config::{self, Applications, Report};
use crate::exit::Exit;
use crate::fleet::config::ConfigOrder;
use crate::fleet::whole::WholeFleet;
use crate::fleet::{Fleet, OpKey};
use crate::inventory::Inventory;
use crate::plan::config::{alert_levels, must_pair};
use crate::plan::restore::preflight::SCHEMA;
use crate::plan::{self, ConfigPair, LiveLook, Plan};
use crate::platform::kubernetes::agents::Expect;
use crate::run::claim;
use crate::run::in_time::InTime;
use crate::run::story::unfinished;
use crate::topology::InstallationSettings;

#[derive(Serialize)]
struct Checked<'a> {
    installation: &'a str,
    system: &'a str,
    backend: &'a str,
    alert_levels: AlertLevels,
    /// Whether nothing differs.
    equal: bool,
    /// Whether the counters have reached what they must.
    counters_right: bool,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize)]
struct Planned<'a> {
    plan: &'a Plan,
    check: Checked<'a>,
}

/// Runs `check`.
pub(super) async fn check(args: &Args, app: &App, command: &Check) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let installation = &app.reached(installation, Expect::All).await?;
    let fleet = app.fleet(installation)?;
    // Half a restore is not what anybody wants to have compared.
    if let Some(other) = unfinished(&app.runs()?, &installation.name, None).await?
        && !other.plan().may_be_abandoned()
    {
        return Err(claim::judge(&other).err().unwrap_or_else(|| Error::new(Kind::Busy, "another run is going on")));
    }
    let pair = pair(installation, &fleet, &command.look).await?;
    let report = look(installation, &fleet, &pair, &command.look).await?;
    let checked = checked(installation, &pair, &report);
    // Counters are told apart, and are no difference.
    let found = !checked.equal;
    output::result(args, &checked, || told(&checked))?;
    Ok(if found { Exit::Found } else { Exit::Done })
}

/// Runs `resync`.
pub(super) async fn resync(args: &Args, app: &App, command: &ResyncConfig) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let installation = &app.reached(installation, Expect::All).await?;
    let means = Means::new(app, installation).await?;
    let inventory = Inventory::ask(installation, &means.fleet).await;
    let pair = pair(installation, &means.fleet, &command.look).await?;
    let (keys_per_second, settle) = (command.look.keys_per_second, command.look.settle);
    let live = (!command.look.applications_stopped).then_some(LiveLook { keys_per_second, settle });
    let plan = plan::resync::plan(installation, &inventory, &pair, live)?;
    if command.dry_run {
        let report = look(installation, &means.fleet, &pair, &command.look).await?;
        let planned = Planned { plan: &plan, check: checked(installation, &pair, &report) };
        output::result(args, &planned, || format!("{plan}\n{}", told(&planned.check)))?;
        return Ok(Exit::Done);
    }
    carry::begin(args, &means, &app.runs()?, &plan, &InTime::default()).await
}

/// The pair, and whether alert levels belong to it: as was said, or as the live release has it.
async fn pair(installation: &InstallationSettings, fleet: &WholeFleet, look: &Look) -> Result<ConfigPair> {
    let mut pair = must_pair(installation, AlertLevels::default())?;
    pair.alert_levels = match look.alert_levels {
        Some(levels) => levels.into(),
        None => alert_levels(fleet.describe(&pair.system).await?.facts.get(SCHEMA).map(String::as_str)),
    };
    Ok(pair)
}

async fn look(
    installation: &InstallationSettings,
    fleet: &WholeFleet,
    pair: &ConfigPair,
    look: &Look,
) -> Result<Report> {
    // It changes nothing, so it is no run; agents want to know who asks.
    let run = RunKey { run: RunId::generate(), installation: installation.name.clone(), epoch: Epoch(1) };
    let key = OpKey { run, step: StepId::new("check")? };
    let applications = if look.applications_stopped {
        Applications::Stopped
    } else {
        Applications::Running { settle: Duration::from_secs(look.settle) }
    };
    let keys_per_second = if look.applications_stopped { 0 } else { look.keys_per_second };
    let (system, backend, alert_levels) = (&pair.system, &pair.backend, pair.alert_levels);
    let order = ConfigOrder { key, of_a_run: false, system, backend, alert_levels, keys_per_second };
    Box::pin(config::check(fleet, &order, applications)).await
}

fn checked<'a>(installation: &'a InstallationSettings, pair: &'a ConfigPair, report: &'a Report) -> Checked<'a> {
    Checked {
        installation: installation.name.as_str(),
        system: pair.system.as_str(),
        backend: pair.backend.as_str(),
        alert_levels: pair.alert_levels,
        equal: report.is_equal(),
        counters_right: report.counters_are_right(),
        report,
    }
}

fn told(checked: &Checked<'_>) -> String {
    let report = checked.report;
    let mut out = String::new();
    let rows: Vec<Vec<String>> = report
        .rows()
        .map(|(kind, service, wrongs)| {
            let service = if service.is_empty() { "-" } else { service };
            let numbers = [wrongs.missing, wrongs.different, wrongs.surplus].map(|n| n.to_string());
            [kind.to_string(), service.to_owned()].into_iter().chain(numbers).collect()
        })
        .collect();
    if !rows.is_empty() {
        out.push_str(&output::table(&["KIND", "SERVICE", "MISSING", "DIFFERENT", "SURPLUS"], &rows));
        out.push('\n');
        for example in &report.examples {
            out.push_str(&format!("{}: {}\n", example.wrong, example.key));
        }
        out.push('\n');
    }
    if checked.alert_levels == AlertLevels::LeftAlone {
        out.push_str("alert levels were left alone (--alert-levels expected compares them, too)\n");
    }
    if !checked.counters_right {
        out.push_str("a counter is lower than what System knows: new events or alerts would be lost (`keepsake resync` raises it)\n");
    }
    let verdict = if checked.equal { "equal" } else { "NOT equal" };
    out.push_str(&format!(
        "{}: the Config of {} keys in {} is {verdict} to what {} says: {}\n",
        checked.installation,
        report.keys,
        checked.backend,
        checked.system,
        report.in_words()
    ));
    out
}
