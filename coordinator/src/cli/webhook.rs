//! `webhook`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keepsake_core::error::Result;
use keepsake_proto::tls::ServerFiles;

use super::cancel_on_signal;
use crate::exit::Exit;
use crate::webhook::{Config, Settings, start};

/// It is asked for so long after it was told to end: until nobody is sent here any more.
const LINGER: Duration = Duration::from_secs(5);

/// `webhook`
#[derive(Debug, clap::Args)]
pub struct Webhook {
    /// Where the API server calls, HTTPS.
    #[arg(long, env = "KEEPSAKE_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Where /healthz and /readyz are served, plain HTTP.
    #[arg(long, env = "KEEPSAKE_ADMIN", default_value = "127.0.0.1:9091")]
    pub admin: SocketAddr,
    /// The certificate chain (PEM), for `<service>.<namespace>.svc`; read again when it changes.
    #[arg(long, env = "KEEPSAKE_TLS_CERT")]
    pub tls_cert: PathBuf,
    /// Its key (PEM).
    #[arg(long, env = "KEEPSAKE_TLS_KEY")]
    pub tls_key: PathBuf,
    /// Which components get an agent, and what the agents are told (YAML).
    #[arg(long, env = "KEEPSAKE_SETTINGS")]
    pub settings: PathBuf,
}

/// Serves until it is asked to stop.
pub(super) async fn run(command: &Webhook) -> Result<Exit> {
    let settings = Settings::read(&command.settings)?;
    let tls = ServerFiles { cert: command.tls_cert.clone(), key: command.tls_key.clone() };
    let asked_to_stop = cancel_on_signal();
    let running = start(Config { listen: command.listen, admin: command.admin, tls, settings }).await?;
    asked_to_stop.cancelled().await;
    running.stop(LINGER).await;
    Ok(Exit::Done)
}
