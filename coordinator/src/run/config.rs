//! The steps about Backend's Config.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::retry::Retry;

use super::Runner;
use super::event::Output;
use crate::config::{self, Applications, Report};
use crate::fleet::OpKey;
use crate::fleet::config::{ConfigChanged, ConfigOrder};
use crate::plan::{Action, ConfigMust, ConfigPair, LiveLook, Step};

/// Keys a second while applications run: they feel little of it.
pub const GENTLY: u32 = 20_000;
/// What is under way between System's database and Backend arrives within so long.
pub const SETTLE: Duration = Duration::from_secs(10);
/// Nothing is lost by beginning anew.
const RETRY: Retry = Retry { tries: 4, first_pause: Duration::from_millis(500), longest_pause: Duration::from_secs(5) };

impl Runner<'_> {
    pub(super) async fn resync_config(
        &self,
        step: &Step,
        key: &OpKey,
        pair: &ConfigPair,
        live: Option<LiveLook>,
    ) -> Result<Output> {
        let order = order(pair, key, live.map_or(0, |look| look.keys_per_second));
        let running = |look: LiveLook| Applications::Running { settle: Duration::from_secs(look.settle) };
        let applications = live.map_or(Applications::Stopped, running);
        // While they run, what they write themselves is no more durable than this.
        let durable = live.is_none();
        let once = || config::resync(self.world.fleet, &order, applications, durable);
        let work = self.once_it_is_free(step, || RETRY.run(once));
        let done = self.unless_asked_to_stop(work).await;
        let (report, changed) = done.map_err(|e| match (live, e.kind()) {
            (
                None,
                Kind::NotFound | Kind::Invalid | Kind::Unsupported | Kind::Corrupt | Kind::Internal | Kind::Denied,
            ) => e.context("a restore leaves the Config as it was dumped with `--resync rake`"),
            _ => e,
        })?;
        Ok(output(&report, Some(changed)))
    }

    pub(super) async fn check_config(
        &self,
        step: &Step,
        key: &OpKey,
        pair: &ConfigPair,
        must: ConfigMust,
    ) -> Result<Output> {
        let order = order(pair, key, 0);
        let once = || config::check(self.world.fleet, &order, Applications::Stopped);
        let work = self.once_it_is_free(step, || RETRY.run(once));
        let report = self.unless_asked_to_stop(work).await?;
        match must {
            ConfigMust::BeComparable => {}
            ConfigMust::BeEqual if report.is_equal() && report.counters_are_right() => {}
            ConfigMust::BeEqual => {
                let example = report
                    .examples
                    .first()
                    .map(|e| format!("; for example {} is {}", e.key, e.wrong))
                    .unwrap_or_default();
                let text =
                    format!("the Config differs still: {}{example}. Does an application write?", report.in_words());
                return Err(Error::new(Kind::Conflict, text));
            }
        }
        Ok(output(&report, None))
    }

    /// What is done again when System's database was put back: only if the Config may have been made equal to the other one.
    pub(super) async fn is_resynced(&self) -> bool {
        let status = self.status.lock().await;
        let mut resyncs = self.plan().steps().filter(|s| matches!(s.action, Action::ResyncConfig { .. }));
        resyncs.any(|s| status.steps.get(&s.id) != Some(&super::StepStatus::Waiting))
    }

    /// Waits for it; when the run is asked to stop and can be, drops it where it is: every change is whole, and what was not done is undone with the load.
    async fn unless_asked_to_stop<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.cancel.cancelled() => {}
        }
        if self.status.lock().await.passed {
            return work.await;
        }
        Err(Error::new(Kind::Cancelled, "the run was asked to stop"))
    }
}

fn order<'a>(pair: &'a ConfigPair, key: &OpKey, keys_per_second: u32) -> ConfigOrder<'a> {
    let (system, backend, alert_levels) = (&pair.system, &pair.backend, pair.alert_levels);
    ConfigOrder { key: key.clone(), of_a_run: true, system, backend, alert_levels, keys_per_second }
}

fn output(report: &Report, changed: Option<ConfigChanged>) -> Output {
    let mut warnings = Vec::new();
    if let Some(overtaken) = changed.map(|c| c.overtaken).filter(|n| *n > 0) {
        warnings.push(format!("{overtaken} keys were changed by somebody else meanwhile and left as they are"));
    }
    let counters = changed.map_or(report.counters, |c| c.after);
    Output::Config { keys: report.keys, wrong: report.total(), changes: changed.map(|c| c.made), counters, warnings }
}
