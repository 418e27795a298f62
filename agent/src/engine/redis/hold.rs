//! Holding writes by CLIENT PAUSE: the server ends it by itself when the lease is over, whatever becomes of this agent.
//!
//! The server does not say whether a pause was unbroken. The evidence is this agent's clock: the first pause was asked for before `asked`, each
//! further one was answered before the one before it could have ended, and all that time it was the same server in the same role.

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use tokio::time::Instant;

use super::connection::{Info, Server};
use super::dump::children;
use super::preflight;
use super::settings::Settings;
use crate::engine::{Hold, Prepared};

/// CLIENT PAUSE … WRITE and CLIENT UNPAUSE came with this version; before it a pause stopped everything, this agent included.
const SINCE: (u32, u32) = (6, 2);

/// Whether this server's writes can be held; if not, why.
pub(super) fn possible(info: &Info) -> std::result::Result<(), String> {
    if info.speaks_as() < SINCE {
        return Err(format!(
            "{} cannot pause writes alone, which Redis can from {}.{} on",
            info.name(),
            SINCE.0,
            SINCE.1
        ));
    }
    Ok(())
}

/// What would be in the way of a hold now.
pub(super) async fn in_the_way(server: &Server) -> Result<Option<String>> {
    let info = server.info().await?;
    if let Err(why) = possible(&info) {
        return Err(Error::new(Kind::Unsupported, why));
    }
    let busy = children(&info);
    Ok((!busy.is_empty()).then(|| format!("the server has a child at work ({})", busy.join(", "))))
}

/// A hold of one server.
pub(super) struct RedisHold {
    server: Server,
    run_id: String,
    /// When the pause that is in force was asked for, and for how long.
    pause: Option<(Instant, Duration)>,
}

impl RedisHold {
    /// Looks whether the server can be held and dumped.
    pub(super) async fn prepare(server: Server, settings: &Settings) -> Result<Self> {
        let info = server.info().await?;
        preflight::refuse(preflight::dump_problems(&info))?;
        possible(&info).map_err(|why| Error::new(Kind::Unsupported, why))?;
        // A dump that must wait for a disk or a full memory is no dump to be made under a hold.
        if let Some(why) = in_the_way(&server).await? {
            return Err(Error::new(Kind::Busy, why));
        }
        let run_id = info.get("run_id").unwrap_or_default().to_owned();
        tracing::debug!(url = %settings.redis_url, %run_id, "ready to pause writes");
        Ok(Self { server, run_id, pause: None })
    }

    /// Pauses writes for the lease from now on; gives when that was asked for.
    async fn pause(&self, lease: Duration) -> Result<Instant> {
        let millis = lease.as_millis().to_string();
        let asked = Instant::now();
        self.server.ask::<()>(&["CLIENT", "PAUSE", &millis, "WRITE"]).await.context("pause writes")?;
        let info = self.server.info().await?;
        if !info.is("run_id", &self.run_id) || !info.is("role", "master") {
            return Err(Error::new(Kind::Conflict, "the server was restarted, or is a master no more"));
        }
        Ok(asked)
    }
}

#[async_trait]
impl Hold for RedisHold {
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<Prepared> {
        // From before it is asked for: a release is owed even when no answer comes.
        self.pause = Some((Instant::now(), lease));
        let asked = tokio::time::timeout(budget, self.pause(lease)).await.map_err(|_| {
            Error::new(
                Kind::Timeout,
                format!("the server did not pause writes within {budget:?}: is a script running?"),
            )
        })??;
        self.pause = Some((asked, lease));
        Ok(Box::new(()))
    }

    async fn renew(&mut self) -> Result<()> {
        let Some((before, lease)) = self.pause else {
            return Err(Error::new(Kind::Conflict, "writes are not paused"));
        };
        let asked = tokio::time::timeout(lease, self.pause(lease))
            .await
            .map_err(|_| Error::new(Kind::Timeout, "the server did not answer within the lease"))??;
        let over = before + lease;
        if Instant::now() >= over {
            return Err(Error::new(
                Kind::Timeout,
                format!("the pause of {lease:?} may have ended before it was renewed: writes may have been made"),
            ));
        }
        self.pause = Some((asked, lease));
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        if self.pause.is_none() {
            return Ok(());
        }
        self.server.ask::<()>(&["CLIENT", "UNPAUSE"]).await.context("let writes go on")?;
        self.pause = None;
        Ok(())
    }
}
