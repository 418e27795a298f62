//! Where Backend's Config stands in a plan: which components it is between, and the steps that make it equal and look at it.

use keepsake_core::config::AlertLevels;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use serde::{Deserialize, Serialize};

use super::{Action, Stage, Undo};
use crate::inventory::Inventory;
use crate::topology::{ComponentSettings, InstallationSettings};

/// Names that System's database may have.
const SYSTEM: [&str; 3] = ["system-mysql", "system-postgresql", "system-database"];
/// And its engines.
const SYSTEM_ENGINES: [&str; 2] = ["mysql", "postgres"];
/// Backend's storage.
const BACKEND: &str = "backend-redis";

/// Between which components the Config is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigPair {
    /// System's database, the source of truth.
    pub system: Component,
    /// Backend's storage.
    pub backend: Component,
    /// Whether alert levels are expected or left alone.
    #[serde(default)]
    pub alert_levels: AlertLevels,
}

/// How the Config is looked at while applications write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveLook {
    /// Keys a second, at most; 0 is as fast as it goes.
    pub keys_per_second: u32,
    /// Seconds between two looks.
    pub settle: u64,
}

/// Who makes the Config equal after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resync {
    /// This restore, before the applications are started.
    #[default]
    Keepsake,
    /// Upstream's rake task, once the applications run: a Job where they run on Kubernetes, else a person.
    Rake,
}

/// From this migration on upstream's own rewrite writes alert levels, too (3scale-facts, section 4.1).
const WITH_ALERT_LEVELS: &str = "20260101000000";

/// Whether alert levels are expected of this release of 3scale, told by its newest migration.
pub fn alert_levels(release: Option<&str>) -> AlertLevels {
    match release {
        Some(release) if release >= WITH_ALERT_LEVELS => AlertLevels::Expected,
        Some(_) | None => AlertLevels::LeftAlone,
    }
}

/// Whether a component is System's database by its name.
pub(super) fn is_system(component: &Component) -> bool {
    SYSTEM.contains(&component.as_str())
}

/// The pair of an installation; `None` when it has not both.
pub fn pair(installation: &InstallationSettings, alert_levels: AlertLevels) -> Option<ConfigPair> {
    let find = |is: &dyn Fn(&ComponentSettings) -> bool| {
        installation.components.iter().find(|c| is(c)).map(|c| c.name.clone())
    };
    let system = find(&|c| SYSTEM.contains(&c.name.as_str()) && SYSTEM_ENGINES.contains(&c.engine.as_str()))?;
    let backend = find(&|c| c.name.as_str() == BACKEND && c.engine.as_str() == "redis")?;
    Some(ConfigPair { system, backend, alert_levels })
}

/// The pair of an installation that must have one.
///
/// # Errors
/// `Invalid`, saying what it lacks.
pub fn must_pair(installation: &InstallationSettings, alert_levels: AlertLevels) -> Result<ConfigPair> {
    pair(installation, alert_levels).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!(
                "installation {} has no Config to compare: that takes a component {} of engine mysql or postgres, and one {BACKEND} of engine redis",
                installation.name,
                SYSTEM.join(" or ")
            ),
        )
    })
}

/// Steps of a plan that puts data in place.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// Before anything is put in place: what is undone last.
    pub(super) first: Vec<Stage>,
    /// When all is in place and everything can still be undone.
    pub(super) before: Vec<Stage>,
    /// When nothing goes back any more and no application runs yet.
    pub(super) behind: Vec<Stage>,
    /// Upstream's task is to do it, once the applications run.
    pub(super) by_rake: bool,
}

/// What is done about the Config when these components are put in place.
///
/// # Errors
/// The other component of the pair could not be asked.
pub(super) fn stages(
    pair: &ConfigPair,
    placed: &[&Component],
    inventory: &Inventory,
    resync: Resync,
    notes: &mut Vec<String>,
) -> Result<Stages> {
    let has = |component: &Component| placed.contains(&component);
    let (system, backend) = (has(&pair.system), has(&pair.backend));
    if !(system || backend) {
        return Ok(Stages::default());
    }
    if resync == Resync::Rake {
        return Ok(Stages { by_rake: true, ..Stages::default() });
    }
    for component in [&pair.system, &pair.backend] {
        if let Some(Err(failure)) = inventory.of(component) {
            return Err(Error::from(failure.clone()).context(format!(
                "ask the agent of {component}, without which the Config of Backend cannot be made equal to System's (or restore with --resync rake)"
            )));
        }
    }
    notes.push(format!(
        "keys of the Config in {} become what {} says: what is missing is added, what is different changed, what is surplus deleted; no usage, queue, \
         event or other key is touched",
        pair.backend, pair.system
    ));
    let resync = || -> Result<Stage> {
        let step = Action::ResyncConfig { pair: pair.clone(), live: None }.step(Undo::Nothing)?;
        Ok(Stage { title: "make the Config equal".to_owned(), steps: vec![step] })
    };
    let check = || -> Result<Stage> {
        let step = Action::CheckConfig { pair: pair.clone(), must: ConfigMust::BeEqual }.step(Undo::Nothing)?;
        Ok(Stage { title: "check the Config".to_owned(), steps: vec![step] })
    };
    // What is changed in a store that is put in place goes with it when it is rolled back. A store that is not would keep the change, so it is
    // changed only when nothing goes back any more; and if somebody takes even that back, it is made equal once more, to what is then there.
    if backend {
        return Ok(Stages { before: vec![resync()?, check()?], ..Stages::default() });
    }
    let again = Undo::by(Action::ResyncConfig { pair: pair.clone(), live: None });
    let first = Action::RememberConfig { pair: pair.clone() }.step(again)?;
    let look = Action::CheckConfig { pair: pair.clone(), must: ConfigMust::BeComparable }.step(Undo::Nothing)?;
    Ok(Stages {
        first: vec![Stage { title: "remember the Config".to_owned(), steps: vec![first] }],
        before: vec![Stage { title: "look at the Config".to_owned(), steps: vec![look] }],
        behind: vec![resync()?, check()?],
        by_rake: false,
    })
}

/// What a look at the Config must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigMust {
    /// Nothing that differs.
    BeEqual,
    /// Whatever it is: that both can be compared is enough, what differs is told.
    BeComparable,
}
