//! Every flag, each with its environment variable.

mod cluster;
mod repository;
mod restore;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use keepsake_core::id::{Component, Installation, RunId};

pub(super) use self::cluster::{BeginBefore, InCluster};
pub(super) use self::repository::RepositoryFlags;
pub(super) use self::restore::{AlertLevelsArg, Data, Restore};

/// Backs up and restores whole 3scale installations.
#[derive(Debug, Parser)]
#[command(name = "keepsake", version, about, max_term_width = 120)]
pub struct Args {
    /// The topology: which installations there are and where their backups go.
    #[arg(long, env = "KEEPSAKE_TOPOLOGY", default_value = "keepsake.yaml", global = true)]
    pub topology: PathBuf,
    /// What is trusted of the repository, if the topology does not say; written at first use. Default: beside the topology, `*.trust.json`.
    #[arg(long, env = "KEEPSAKE_TRUST", global = true)]
    pub trust: Option<PathBuf>,
    /// How results are printed on stdout.
    #[arg(long, env = "KEEPSAKE_OUTPUT", value_enum, default_value = "text", global = true)]
    pub output: Output,
    /// What is logged on stderr: error, warn, info, debug, or a filter of the crate tracing-subscriber.
    #[arg(long, env = "KEEPSAKE_LOG", default_value = "warn", global = true)]
    pub log: String,
    /// Where the repository is, if the topology does not say.
    #[command(flatten)]
    pub repository: RepositoryFlags,
    /// Where the coordinator runs.
    #[command(flatten)]
    pub cluster: InCluster,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository: try that it is create-only, write its keys.
    Init(Init),
    /// Back up installations.
    Backup(Backup),
    /// Restore an installation from a set: all components or none.
    Restore(Restore),
    /// Build an installation anew in an empty namespace of its cluster, from a set's objects, and bring its data back.
    Rebuild(Rebuild),
    /// Go on with a run that was interrupted or has halted.
    Resume(Resume),
    /// Print what a backup or a restore would do, and do nothing.
    #[command(subcommand)]
    Plan(PlanCommand),
    /// List sets.
    Sets(Which),
    /// Show one set.
    Show(OneSet),
    /// Read every stored byte of a set and compare it with the record. Needs no key.
    Verify(OneSet),
    /// Unseal, decompress and read every dump to the end of its own format, and compare it with what was dumped.
    Inspect(Inspect),
    /// Write a set's Secrets, ConfigMaps and 3scale's other objects into files, and for an installation from a template the parameters of `oc new-app`.
    Objects(Objects),
    /// List runs, or tell the story of one.
    Runs(Runs),
    /// Stop a run; before its point of no return everything is put back. Also for one whose coordinator is gone.
    Cancel(Cancel),
    /// Drop the old data that a restore with --keep-old has kept.
    Finalize(Finalize),
    /// Take a restore back: put the data back that was there before it.
    Rollback(Rollback),
    /// Look whether the Config of backend-redis is what System's database says. Changes nothing.
    Check(Check),
    /// Make the Config of backend-redis what System's database says: add what is missing, change what is different, delete what is surplus.
    Resync(ResyncConfig),
    /// Keys: make, list, add, retire, test, seal again.
    #[command(subcommand)]
    Keys(super::keys::Keys),
    /// Certificates for people without a certificate manager.
    #[command(subcommand)]
    Pki(super::pki::Pki),
    /// Serve a webhook that puts agents into the pods of databases on Kubernetes.
    Webhook(super::webhook::Webhook),
    /// Find out whether a backup would work: repository, agents, servers, clocks, certificates.
    Doctor(Which),
}

/// `init`
#[derive(Debug, clap::Args)]
pub struct Init {
    /// An age recipient that can open the backups (age1…). Give two, kept by different people in different places.
    #[arg(long = "recipient", env = "KEEPSAKE_RECIPIENTS", value_delimiter = ',')]
    pub recipients: Vec<String>,
    /// One recipient is enough: whoever loses its identity loses every backup.
    #[arg(long, env = "KEEPSAKE_SINGLE_RECIPIENT")]
    pub single_recipient: bool,
    /// `age`, or `none`: everybody who can read the repository can then read all data and secrets.
    #[arg(long, env = "KEEPSAKE_ENCRYPTION", value_enum, default_value = "age")]
    pub encryption: EncryptionArg,
}

/// Whether sets are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EncryptionArg {
    /// To age recipients.
    Age,
    /// Not at all.
    None,
}

/// Which installations. Commands that only look take all unless one is named.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION", conflicts_with = "all")]
    pub installation: Option<Installation>,
    /// All installations of the topology.
    #[arg(long, env = "KEEPSAKE_ALL")]
    pub all: bool,
}

/// `backup`
#[derive(Debug, Clone, clap::Args)]
pub struct Backup {
    /// Which installations.
    #[command(flatten)]
    pub which: Which,
    /// Only this component (may be repeated); the set is then partial.
    #[arg(long = "component", env = "KEEPSAKE_COMPONENTS", value_delimiter = ',')]
    pub components: Vec<Component>,
    /// Installations that are backed up at the same time.
    #[arg(long, env = "KEEPSAKE_MAX_PARALLEL", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_parallel: u16,
    /// Print the plan and do nothing.
    #[arg(long, env = "KEEPSAKE_DRY_RUN")]
    pub dry_run: bool,
    /// The id of the run, from whoever follows it. Of one installation.
    #[arg(long, hide = true, conflicts_with = "all")]
    pub run_id: Option<RunId>,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}

/// How the Config is looked at.
#[derive(Debug, Clone, clap::Args)]
pub struct Look {
    /// The applications are stopped: one look is enough, and it need not be gentle.
    #[arg(long, env = "KEEPSAKE_APPLICATIONS_STOPPED")]
    pub applications_stopped: bool,
    /// Keys that are read in a second at most, so that other clients of backend-redis feel little; 0 is as fast as it goes.
    #[arg(long, env = "KEEPSAKE_KEYS_PER_SECOND", default_value_t = crate::run::config::GENTLY)]
    pub keys_per_second: u32,
    /// Seconds between two looks while applications run, for what is under way to arrive.
    #[arg(long, env = "KEEPSAKE_SETTLE", default_value_t = crate::run::config::SETTLE.as_secs())]
    pub settle: u64,
    /// Whether alert levels are compared, too; by default as the release of 3scale does.
    #[arg(long, env = "KEEPSAKE_ALERT_LEVELS", value_enum)]
    pub alert_levels: Option<AlertLevelsArg>,
}

/// `check`
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// How it is looked at.
    #[command(flatten)]
    pub look: Look,
}

/// `resync`
#[derive(Debug, clap::Args)]
pub struct ResyncConfig {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// How it is looked at.
    #[command(flatten)]
    pub look: Look,
    /// Print the plan and what differs, and change nothing.
    #[arg(long, env = "KEEPSAKE_DRY_RUN")]
    pub dry_run: bool,
}

/// `plan`
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Of a backup.
    Backup(Backup),
    /// Of a restore.
    Restore(Restore),
    /// Of a rebuild.
    Rebuild(Rebuild),
}

/// One set.
#[derive(Debug, Clone, clap::Args)]
pub struct OneSet {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// The set's id, or `latest`.
    #[arg(default_value = "latest")]
    pub set: String,
}

/// `objects`
#[derive(Debug, Clone, clap::Args)]
pub struct Objects {
    /// Which set.
    #[command(flatten)]
    pub set: OneSet,
    /// A folder that is made for them. What is written holds secrets: only you may read it.
    #[arg(long, env = "KEEPSAKE_INTO")]
    pub into: PathBuf,
    /// A file with an age identity that opens the set.
    #[arg(long = "identity", env = "KEEPSAKE_IDENTITY", value_delimiter = ',')]
    pub identities: Vec<PathBuf>,
}

/// `rebuild`
#[derive(Debug, Clone, clap::Args)]
pub struct Rebuild {
    /// Which set.
    #[command(flatten)]
    pub set: OneSet,
    /// Build the installation, and leave the data to `keepsake restore`.
    #[arg(long, env = "KEEPSAKE_OBJECTS_ONLY")]
    pub objects_only: bool,
    /// How its data comes back.
    #[command(flatten)]
    pub data: Data,
    /// A file with an age identity that opens the set.
    #[arg(long = "identity", env = "KEEPSAKE_IDENTITY", value_delimiter = ',')]
    pub identities: Vec<PathBuf>,
    /// A file with the set's own identity, which somebody else has taken out of its `key.age`.
    #[arg(long, env = "KEEPSAKE_SET_IDENTITY", conflicts_with = "identities")]
    pub set_identity: Option<PathBuf>,
    /// Print the plan and do nothing.
    #[arg(long, env = "KEEPSAKE_DRY_RUN")]
    pub dry_run: bool,
    /// Do not ask: the installation of this name is built, and its stores filled.
    #[arg(long, value_name = "INSTALLATION")]
    pub yes: Option<Installation>,
    /// The id of the run, from whoever follows it.
    #[arg(long, hide = true)]
    pub run_id: Option<RunId>,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}

/// `inspect`
#[derive(Debug, Clone, clap::Args)]
pub struct Inspect {
    /// Which installations; the newest complete set of each.
    #[command(flatten)]
    pub which: Which,
    /// The set's id, or `latest`.
    #[arg(default_value = "latest", conflicts_with = "all")]
    pub set: String,
    /// A file with an age identity that opens the sets.
    #[arg(long = "identity", env = "KEEPSAKE_IDENTITY", value_delimiter = ',')]
    pub identities: Vec<PathBuf>,
}

/// `runs`
#[derive(Debug, clap::Args)]
pub struct Runs {
    /// Which installations.
    #[command(flatten)]
    pub which: Which,
    /// Tell the story of this run.
    pub epoch: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, env = "KEEPSAKE_LIMIT", default_value_t = 20)]
    pub limit: usize,
}

/// `resume`
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// A file with an age identity that opens the set; needed while something is still to be staged.
    #[arg(long = "identity", env = "KEEPSAKE_IDENTITY", value_delimiter = ',')]
    pub identities: Vec<PathBuf>,
    /// A file with the set's own identity, which somebody else has taken out of its `key.age`.
    #[arg(long, env = "KEEPSAKE_SET_IDENTITY", conflicts_with = "identities")]
    pub set_identity: Option<PathBuf>,
    /// You know that the coordinator is gone: do not wait ten minutes for a word of it.
    #[arg(long)]
    pub coordinator_is_gone: bool,
    /// Do not ask whether the live data of this installation may be replaced.
    #[arg(long, value_name = "INSTALLATION")]
    pub yes: Option<Installation>,
    /// Go on with the run of this id or with none, says whoever follows it.
    #[arg(long, hide = true)]
    pub run_id: Option<RunId>,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}

/// `finalize`
#[derive(Debug, clap::Args)]
pub struct Finalize {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// Print the plan and do nothing.
    #[arg(long, env = "KEEPSAKE_DRY_RUN")]
    pub dry_run: bool,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}

/// `rollback`
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// What the applications wrote since the restore may be lost.
    #[arg(long)]
    pub discard_writes: bool,
    /// You know that the coordinator is gone: do not wait ten minutes for a word of it.
    #[arg(long)]
    pub coordinator_is_gone: bool,
    /// Print the plan and do nothing.
    #[arg(long, env = "KEEPSAKE_DRY_RUN")]
    pub dry_run: bool,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}

/// `cancel`
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// The installation; may be left out if the topology has only one.
    #[arg(long, env = "KEEPSAKE_INSTALLATION")]
    pub installation: Option<Installation>,
    /// You know that the coordinator is gone: do not wait ten minutes for a word of it.
    #[arg(long)]
    pub coordinator_is_gone: bool,
    /// End a run that can never come to its end without doing anything: the stores stay as they are, old or new.
    #[arg(long)]
    pub leave_as_it_is: bool,
    /// Seconds to wait for a living coordinator to stop by itself.
    #[arg(long, env = "KEEPSAKE_WAIT", default_value_t = 60)]
    pub wait: u64,
    /// Until when it may begin.
    #[command(flatten)]
    pub in_time: BeginBefore,
}
