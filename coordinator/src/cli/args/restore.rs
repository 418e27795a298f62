//! The flags of `restore`, and those of them that `rebuild` has, too.

use std::path::PathBuf;

use clap::ValueEnum;
use keepsake_core::config::AlertLevels;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, Installation, RunId, SetId};
use keepsake_core::queues::QueuePolicy;

use super::cluster::BeginBefore;
use crate::plan::config::Resync;
use crate::plan::restore::Wishes;

/// `restore`
#[derive(Debug, Clone, clap::Args)]
pub struct Restore {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// The set's id, or `latest`.
    #[arg(long, env = "KEEPSAKE_SET", default_value = "latest")]
    pub set: String,
    /// Only this component (may be repeated).
    #[arg(long = "component", env = "KEEPSAKE_COMPONENTS", value_delimiter = ',')]
    pub components: Vec<Component>,
    /// How its data comes back.
    #[command(flatten)]
    pub data: Data,
    /// A file with an age identity that opens the set.
    #[arg(long = "identity", env = "KEEPSAKE_IDENTITY", value_delimiter = ',')]
    pub identities: Vec<PathBuf>,
    /// A file with the set's own identity, which somebody else has taken out of its `key.age`.
    #[arg(long, env = "KEEPSAKE_SET_IDENTITY", conflicts_with = "identities")]
    pub set_identity: Option<PathBuf>,
    /// What becomes of Secrets, ConfigMaps and 3scale's other objects of the cluster: `skip`; `missing` makes those that are not there; `replace` writes those that differ,
    /// too, but for the Secrets that say where the stores are (system-database, backend-redis, system-redis, zync).
    #[arg(long, env = "KEEPSAKE_OBJECTS", default_value = "missing", value_parser = ["skip", "missing", "replace"])]
    pub objects: String,
    /// With `--objects replace`: those Secrets, too.
    #[arg(long, env = "KEEPSAKE_REPLACE_ENDPOINTS")]
    pub replace_endpoints: bool,
    /// Print the plan and do nothing.
    #[arg(long, env = "KEEPSAKE_DRY_RUN")]
    pub dry_run: bool,
    /// Do not ask: the live data of this installation may be overwritten. The installation's name stands here so that nobody
    /// restores the wrong one by a copied command.
    #[arg(long, value_name = "INSTALLATION")]
    pub yes: Option<Installation>,
    /// The id of the run, from whoever follows it.
    #[arg(long, hide = true)]
    pub run_id: Option<RunId>,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}

/// How the data of a set comes back, by `restore` and by `rebuild`.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Data {
    /// What becomes of the queues of a Redis component: COMPONENT=restore|keep|drop (may be repeated). `restore` brings them back and their jobs run again; `keep` leaves
    /// the live server's; `drop` leaves none. By default `restore`; backend-queues, a server of queues alone, is not restored unless it is named.
    #[arg(long = "queues", env = "KEEPSAKE_QUEUES", value_delimiter = ',', value_parser = queues, value_name = "COMPONENT=POLICY")]
    pub queues: Vec<(Component, QueuePolicy)>,
    /// Make no safety set of the present state before.
    #[arg(long, env = "KEEPSAKE_NO_SAFETY")]
    pub no_safety: bool,
    /// Keep the old data beside the new until `keepsake finalize` drops it or `keepsake rollback` puts it back.
    #[arg(long, env = "KEEPSAKE_KEEP_OLD", conflicts_with = "in_place")]
    pub keep_old: bool,
    /// Load over the live data instead of beside it: takes less room, and cannot be undone.
    #[arg(long, env = "KEEPSAKE_IN_PLACE")]
    pub in_place: bool,
    /// The set may be of another release of 3scale than the live one.
    #[arg(long, env = "KEEPSAKE_OTHER_RELEASE")]
    pub other_release: bool,
    /// Who makes the Config of backend-redis equal to System's database: `keepsake`, before the applications are started, or `rake`: upstream's
    /// rake task, once they run, by a Job on Kubernetes and by you elsewhere.
    #[arg(long, env = "KEEPSAKE_RESYNC", value_enum, default_value = "keepsake")]
    pub resync: ResyncArg,
    /// Whether alert levels are compared, too; by default as the release of 3scale does.
    #[arg(long, env = "KEEPSAKE_ALERT_LEVELS", value_enum)]
    pub alert_levels: Option<AlertLevelsArg>,
}

impl Data {
    /// In the words of a plan.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            queues: self.queues.clone(),
            safety: (!self.no_safety).then(SetId::generate),
            keep_old: self.keep_old,
            in_place: self.in_place,
            other_release: self.other_release,
            resync: self.resync.into(),
            alert_levels: self.alert_levels.map(Into::into),
            ..Wishes::default()
        }
    }
}

fn queues(text: &str) -> Result<(Component, QueuePolicy)> {
    let (component, policy) = text.split_once('=').ok_or_else(|| {
        Error::new(Kind::Invalid, format!("{text:?} is not of the form COMPONENT=POLICY, as in system-redis=drop"))
    })?;
    Ok((component.parse()?, policy.parse()?))
}

/// Who makes the Config equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResyncArg {
    /// Keepsake.
    Keepsake,
    /// Upstream's rake task: a Job on Kubernetes, a person elsewhere.
    Rake,
}

impl From<ResyncArg> for Resync {
    fn from(arg: ResyncArg) -> Self {
        match arg {
            ResyncArg::Keepsake => Self::Keepsake,
            ResyncArg::Rake => Self::Rake,
        }
    }
}

/// Whether alert levels are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AlertLevelsArg {
    /// They must be what System's database says.
    Expected,
    /// They are neither compared nor touched.
    LeftAlone,
}

impl From<AlertLevelsArg> for AlertLevels {
    fn from(arg: AlertLevelsArg) -> Self {
        match arg {
            AlertLevelsArg::Expected => Self::Expected,
            AlertLevelsArg::LeftAlone => Self::LeftAlone,
        }
    }
}
