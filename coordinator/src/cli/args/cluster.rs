//! The flags of `--in-cluster`, and what it hands over to the coordinator in the cluster.

use jiff::Timestamp;
use keepsake_core::error::{Error, Kind, Result};

use crate::run::in_time::InTime;

/// The CronJob of `manifests/base`.
const CRON_JOB: &str = "keepsake-backup";
/// The account of `manifests/access`, which may stop applications and start them.
const RESTORER: &str = "keepsake-restore";

/// Whether the coordinator runs in the cluster, and as what.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the flag is called so")]
pub struct InCluster {
    /// The coordinator runs as a Job in the installation's cluster, made from the CronJob's template, and is followed from here. Identities are opened here.
    // No variable: it would be one of the coordinator in the cluster, too.
    #[arg(long, global = true)]
    pub in_cluster: bool,
    /// With --in-cluster: the CronJob whose template is taken [default: keepsake-backup]
    #[arg(long, env = "KEEPSAKE_CRONJOB", global = true, value_name = "NAME")]
    pub cronjob: Option<String>,
    /// With --in-cluster: the service account of the coordinator [default: keepsake-restore, for a backup the template's]
    #[arg(long, global = true, value_name = "NAME")]
    pub service_account: Option<String>,
}

impl InCluster {
    /// The CronJob's name.
    pub(crate) fn cron_job(&self) -> &str {
        self.cronjob.as_deref().unwrap_or(CRON_JOB)
    }

    /// The account that a coordinator of this command runs as, if it is not the template's. Whatever is no backup may stop and start applications, if only
    /// to undo what it has done, and looks at whether the namespace is the same.
    pub(crate) fn account_of(&self, command: &str) -> Option<String> {
        self.service_account.clone().or_else(|| (command != "backup").then(|| RESTORER.to_owned()))
    }

    /// Whether its flags go together.
    ///
    /// # Errors
    /// `Invalid` when a coordinator that runs here is given an account of the cluster.
    pub(crate) fn ensure_sound(&self) -> Result<()> {
        if self.service_account.is_some() && !self.in_cluster {
            return Err(Error::new(Kind::Invalid, "--service-account goes with --in-cluster"));
        }
        Ok(())
    }
}

/// Until when a command may begin anything. It is said by `--in-cluster`, whose Job may come to run when nobody wants it any more.
#[derive(Debug, Clone, clap::Args)]
pub struct BeginBefore {
    /// Begin nothing at this time or later (RFC 3339); what is begun goes on.
    // No variable: it would be of one Job, and hold for all.
    #[arg(long, hide = true, value_name = "TIME")]
    pub begin_before: Option<Timestamp>,
}

impl BeginBefore {
    /// For this command.
    pub(crate) fn of(&self, command: &'static str) -> InTime {
        InTime::of(command, self.begin_before)
    }
}
