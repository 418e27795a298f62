//! Every flag, each with its environment variable. Secrets are named by file, never by value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::{ArgMatches, Command, FromArgMatches};
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Component, Installation};
use keepsake_core::repository::Budget;
use keepsake_core::telemetry::LogFormat;
use keepsake_proto::tls::TlsFiles;

use crate::engine::Engine;
use crate::engine::registry::ENGINES;

mod repository;
pub use repository::{RepositoryArgs, Stores};

/// What every engine's agent has.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// The installation that the component belongs to.
    #[arg(long, env = "KEEPSAKE_INSTALLATION", global = true)]
    pub installation: Option<Installation>,
    /// The component beside which this agent stands.
    #[arg(long, env = "KEEPSAKE_COMPONENT", global = true)]
    pub component: Option<Component>,
    /// Where the service listens.
    #[arg(long, env = "KEEPSAKE_LISTEN", default_value = "127.0.0.1:9090", global = true)]
    pub listen: SocketAddr,
    /// Where /healthz and /readyz are served, plain HTTP.
    #[arg(long, env = "KEEPSAKE_ADMIN", default_value = "127.0.0.1:9091", global = true)]
    pub admin: SocketAddr,
    /// Who may have signed the callers' certificates (PEM).
    #[arg(long, env = "KEEPSAKE_TLS_CA", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// This agent's certificate chain (PEM); it carries the DNS name `<component>.<installation>`.
    #[arg(long, env = "KEEPSAKE_TLS_CERT", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, env = "KEEPSAKE_TLS_KEY", global = true)]
    pub tls_key: Option<PathBuf>,
    /// Serve in the clear and let everybody do everything; only on loopback.
    #[arg(long, env = "KEEPSAKE_PLAINTEXT", global = true)]
    pub plaintext: bool,
    /// Do not end because of what is wrong or missing at start: tell it, answer `/healthz`, and try again every ten seconds. For an agent in its
    /// database's own pod, which is ready only while all its containers run.
    #[arg(long, env = "KEEPSAKE_PATIENT", global = true)]
    pub patient: bool,
    /// Who may do what: `read=NAME`, `backup=NAME`, `restore=NAME`, where NAME is a DNS name of the caller's certificate. `backup` and `restore` each
    /// include `read`.
    #[arg(long = "allow", env = "KEEPSAKE_ALLOW", value_delimiter = ',', global = true)]
    pub allow: Vec<Allow>,
    /// Where dumps go and loads come from.
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// A folder for files that live no longer than an operation.
    #[arg(long, env = "KEEPSAKE_SCRATCH", default_value = "/tmp/keepsake-agent", global = true)]
    pub scratch: PathBuf,
    /// Bytes that all streams together may hold in memory.
    #[arg(long, env = "KEEPSAKE_MEMORY_BUDGET", default_value_t = Budget::DEFAULT_BYTES, global = true)]
    pub memory_budget: usize,
    /// What is logged: error, warn, info, debug, or a filter of the crate tracing-subscriber.
    #[arg(long, env = "KEEPSAKE_LOG", default_value = "info", global = true)]
    pub log: String,
    /// `text` or `json`.
    #[arg(long, env = "KEEPSAKE_LOG_FORMAT", default_value = "text", global = true, value_parser = LogFormat::from_str)]
    pub log_format: LogFormat,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Describe.
    Read,
    /// Start dumps into the repository.
    Backup,
    /// Load, and get data in the clear.
    Restore,
}

/// One entry of `--allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// What.
    pub role: Role,
    /// The DNS name in the caller's certificate.
    pub name: String,
}

impl FromStr for Allow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse =
            || Error::new(Kind::Invalid, format!("{text:?} is not of the form read=NAME, backup=NAME or restore=NAME"));
        let (role, name) = text.split_once('=').ok_or_else(refuse)?;
        let role = match role {
            "read" => Role::Read,
            "backup" => Role::Backup,
            "restore" => Role::Restore,
            _ => return Err(refuse()),
        };
        if name.is_empty() {
            return Err(refuse());
        }
        Ok(Self { role, name: name.to_owned() })
    }
}

impl Role {
    /// Whether this role includes the other.
    pub fn includes(self, needed: Self) -> bool {
        self == needed || needed == Self::Read
    }

    /// The word in `--allow` and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

/// The command line: the flags above and one subcommand per engine.
pub fn command() -> Command {
    let command = Command::new("keepsake-agent")
        .about("Dumps and loads the datastore it stands beside")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    let command = <Global as clap::Args>::augment_args(command);
    ENGINES.iter().fold(command, |command, engine| {
        command.subcommand((engine.augment)(Command::new(engine.name).about(engine.about)))
    })
}

impl Global {
    /// From parsed arguments.
    ///
    /// # Errors
    /// They cannot be read: a defect, because clap has checked them.
    pub fn read(matches: &ArgMatches) -> Result<Self> {
        Self::from_arg_matches(matches).map_err(|e| Error::caused(Kind::Invalid, "read the flags", e))
    }
}

/// Everything an agent is started with.
pub struct Config {
    /// Which installation.
    pub installation: Installation,
    /// Which component.
    pub component: Component,
    /// The engine's name.
    pub engine_name: String,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Where the service listens.
    pub listen: SocketAddr,
    /// Where the probes are answered.
    pub admin: SocketAddr,
    /// Certificate files; `None` serves in the clear on loopback.
    pub tls: Option<TlsFiles>,
    /// Who may do what.
    pub allow: Vec<Allow>,
    /// Where dumps go and loads come from.
    pub stores: Option<Stores>,
    /// Bytes in memory.
    pub budget: Budget,
    /// For files that live no longer than an operation.
    pub scratch: PathBuf,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("installation", &self.installation)
            .field("component", &self.component)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks the flags and opens engine and repository.
    ///
    /// # Errors
    /// `Invalid`, naming the flag and what to do.
    pub fn new(global: Global, matches: &ArgMatches) -> Result<Self> {
        let missing = |flag: &str| Error::new(Kind::Invalid, format!("{flag} is missing"));
        let installation = global.installation.ok_or_else(|| missing("--installation"))?;
        let component = global.component.ok_or_else(|| missing("--component"))?;
        let tls = match (global.tls_ca, global.tls_cert, global.tls_key) {
            (Some(ca), Some(cert), Some(key)) if !global.plaintext => Some(TlsFiles { ca, cert, key }),
            (None, None, None) if global.plaintext => {
                if !global.listen.ip().is_loopback() {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "--plaintext is for loopback only, and --listen says {}: use --tls-ca, --tls-cert and --tls-key",
                            global.listen
                        ),
                    ));
                }
                None
            }
            (None, None, None) => {
                return Err(Error::new(
                    Kind::Invalid,
                    "give --tls-ca, --tls-cert and --tls-key; or --plaintext, on loopback only",
                ));
            }
            _ => {
                return Err(Error::new(
                    Kind::Invalid,
                    "--tls-ca, --tls-cert and --tls-key go together, and not with --plaintext",
                ));
            }
        };
        if tls.is_some() && global.allow.is_empty() {
            return Err(Error::new(Kind::Invalid, "nobody may call: say --allow backup=NAME and --allow restore=NAME"));
        }
        ensure_scratch(&global.scratch)?;
        let (name, matches) = matches.subcommand().ok_or_else(|| missing("the engine"))?;
        let registration = ENGINES
            .iter()
            .find(|e| e.name == name)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("there is no engine {name}")))?;
        let engine = (registration.open)(matches, global.scratch.clone()).with_context(|| format!("engine {name}"))?;
        let stores = global.repository.open(global.patient)?;
        Ok(Self {
            installation,
            component,
            engine_name: name.to_owned(),
            engine,
            listen: global.listen,
            admin: global.admin,
            tls,
            allow: global.allow,
            stores,
            budget: Budget::new(global.memory_budget),
            scratch: global.scratch,
        })
    }
}

/// Makes the folder, this user's alone, and empties it of what a killed agent left.
fn ensure_scratch(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let what = || format!("use the scratch folder {}", path.display());
    match std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(e) => return Err(Error::io(what(), e)),
    }
    let meta = std::fs::symlink_metadata(path).map_err(|e| Error::io(what(), e))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::new(
            Kind::Denied,
            format!("{} is not a folder of this user: name another with --scratch", path.display()),
        ));
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(|e| Error::io(what(), e))?;
    for entry in std::fs::read_dir(path).map_err(|e| Error::io(what(), e))? {
        let entry = entry.map_err(|e| Error::io(what(), e))?;
        if entry.file_name().as_encoded_bytes().starts_with(crate::stream::SPOOL_PREFIX.as_bytes()) {
            std::fs::remove_file(entry.path())
                .map_err(|e| Error::io(format!("remove what a killed agent left in {}", path.display()), e))?;
        }
    }
    Ok(())
}
