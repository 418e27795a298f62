//! An agent that does not end because of what is wrong at its start (`--patient`).
//!
//! In its database's own pod it is one of the containers that must run for the pod to be ready: an agent that ended for want of a certificate would take its
//! database away from 3scale. So it says what is wrong, is alive by its probe, and tries again.

use std::time::Duration;

use clap::ArgMatches;
use keepsake_core::error::{Error, Kind, Result};

use crate::app::{self, Probes};
use crate::config::{Config, Global};
use crate::ending::Ending;
use crate::operation::Limits;

/// Between two tries: the kubelet brings a Secret that was made since in about a minute.
const AGAIN: Duration = Duration::from_secs(10);

/// Starts an agent, tries again for as long as it cannot be started, and serves until it is asked to end.
///
/// # Errors
/// The server failed once it was started.
pub async fn run(global: Global, matches: &ArgMatches, end: &mut Ending) -> Result<()> {
    let mut probes = None;
    loop {
        let started =
            match (probes.take().map_or_else(|| Probes::start(global.admin), Ok), Config::new(global.clone(), matches))
            {
                (Ok(alive), Ok(config)) => {
                    probes = Some(alive.clone());
                    app::serve(config, Limits::default(), alive).await
                }
                (alive, config) => {
                    let failed =
                        alive.as_ref().err().map(Error::chain).into_iter().chain(config.err().map(|e| e.chain()));
                    let failed = Error::new(Kind::Invalid, failed.collect::<Vec<_>>().join("; "));
                    probes = alive.ok();
                    Err(failed)
                }
            };
        match started {
            Ok(running) => return running.until_asked(end).await,
            Err(e) => tracing::error!("not started, tried again in {AGAIN:?}: {}", e.chain()),
        }
        if end.comes_within(AGAIN).await {
            return Ok(());
        }
    }
}

/// Says what is wrong with the command line or the environment, which only another container can mend, and waits to be asked to end.
///
/// # Errors
/// The admin port cannot be had.
pub async fn stand_by(admin: std::net::SocketAddr, why: &str, end: &mut Ending) -> Result<()> {
    let _probes = Probes::start(admin)?;
    loop {
        tracing::error!("not started, and not tried again in this container: {why}");
        if end.comes_within(AGAIN.saturating_mul(60)).await {
            return Ok(());
        }
    }
}

/// Where probes are answered when the command line could not be read.
///
/// # Errors
/// `Invalid` when that is not an address either.
pub fn admin_address() -> Result<std::net::SocketAddr> {
    let text = std::env::var("KEEPSAKE_ADMIN").unwrap_or_else(|_| "127.0.0.1:9091".to_owned());
    text.parse().map_err(|e| Error::caused(Kind::Invalid, format!("KEEPSAKE_ADMIN {text:?}"), e))
}
