//! Holding writes by CLIENT PAUSE: the server ends it by itself when the lease is over, whatever becomes of this agent.
//!
//! The server does not say whether a pause was unbroken. The evidence is this agent's clock: the first pause was asked for before `asked`, each
//! further one was answered before the one before it could have ended, and all that time it was the same server in the same role.
//!
//! Before 6.2 a pause stops everything, reads and this agent included, and nothing ends it early. There it is one short stop, in one transaction with the
//! save that is the snapshot: nothing can come between, and nothing can be renewed, so that the cut is proven before the stop is over or is not one.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use tokio::time::Instant;

use super::connection::{Info, Server};
use super::dump::bgsave::{self, Before, Begun};
use super::dump::{Ready, Underway, children};
use super::preflight;
use super::settings::Settings;
use crate::engine::{Hold, Prepared};

/// CLIENT PAUSE … WRITE and CLIENT UNPAUSE came with this version.
const SINCE: (u32, u32) = (6, 2);
/// A stop of everything is so long at most.
const LONGEST_STOP: Duration = Duration::from_millis(300);

/// Whether this server's writes can be held; if not, why.
pub(super) fn possible(info: &Info, settings: &Settings) -> std::result::Result<(), String> {
    if info.speaks_as() < SINCE && settings.redis_data_dir.is_none() {
        return Err(format!(
            "{} cannot pause writes alone, which Redis can from {}.{} on; before that it takes the data folder (--redis-data-dir)",
            info.name(),
            SINCE.0,
            SINCE.1
        ));
    }
    Ok(())
}

/// What would be in the way of a hold now.
pub(super) async fn in_the_way(server: &Server, settings: &Settings) -> Result<Option<String>> {
    let info = server.info().await?;
    if let Err(why) = possible(&info, settings) {
        return Err(Error::new(Kind::Unsupported, why));
    }
    let busy = children(&info);
    Ok((!busy.is_empty()).then(|| format!("the server has a child at work ({})", busy.join(", "))))
}

/// A hold of one server.
pub(super) struct RedisHold {
    server: Server,
    run_id: String,
    way: Way,
    /// When the pause that is in force was asked for, and for how long.
    pause: Option<(Instant, Duration)>,
}

/// What a pause stops.
enum Way {
    /// Writes alone; the snapshot is a save into this place, or without one is opened by whoever dumps.
    Writes(Option<Place>),
    /// Everything; the snapshot is a save into this place.
    Everything(Place),
}

/// Where the server saves.
struct Place {
    folder: PathBuf,
    file: PathBuf,
}

impl RedisHold {
    /// Looks whether the server can be held and dumped.
    pub(super) async fn prepare(server: Server, settings: &Settings) -> Result<Self> {
        let info = server.info().await?;
        preflight::refuse(preflight::dump_problems(&info))?;
        possible(&info, settings).map_err(|why| Error::new(Kind::Unsupported, why))?;
        // A dump that must wait for a disk or a full memory is no dump to be made under a hold.
        if let Some(why) = in_the_way(&server, settings).await? {
            return Err(Error::new(Kind::Busy, why));
        }
        let place = match &settings.redis_data_dir {
            Some(folder) => {
                let file = bgsave::place(&server, folder).await?;
                bgsave::check_space(folder, &file, &info)?;
                Some(Place { folder: folder.clone(), file })
            }
            None => None,
        };
        let way = match place {
            Some(place) if info.speaks_as() < SINCE => Way::Everything(place),
            place => Way::Writes(place),
        };
        let run_id = info.get("run_id").unwrap_or_default().to_owned();
        tracing::debug!(url = %settings.redis_url, %run_id, "ready to pause writes");
        Ok(Self { server, run_id, way, pause: None })
    }

    /// Pauses writes for the lease from now on; gives when that was asked for.
    async fn pause(&self, lease: Duration) -> Result<Instant> {
        let millis = lease.as_millis().to_string();
        let asked = Instant::now();
        self.server.ask::<()>(&["CLIENT", "PAUSE", &millis, "WRITE"]).await.context("pause writes")?;
        self.same(&self.server.info().await?)?;
        Ok(asked)
    }

    /// Pauses writes for the lease from now on, and begins the save in the same breath.
    async fn pause_and_save(&self, lease: Duration, before: Before) -> Result<(Instant, Begun)> {
        let millis = lease.as_millis().to_string();
        let asked = Instant::now();
        // Redis from 7.0 on does not save inside of a transaction, and needs not: nobody writes between the first and the second.
        let commands: [&[&str]; 3] = [&["CLIENT", "PAUSE", &millis, "WRITE"], &["BGSAVE"], &["INFO"]];
        let paused = self.server.in_a_row("pause writes and save", &commands).await;
        let (_, _, info): (String, String, String) = paused.map_err(other_child)?;
        let info = Info::read(&info);
        self.same(&info)?;
        Ok((asked, Begun::now(before, &info)))
    }

    /// Stops everything and begins the save, at once; gives when that was asked for.
    async fn stop(&self, stop: Duration, before: Before) -> Result<(Instant, Begun)> {
        let millis = stop.as_millis().to_string();
        let asked = Instant::now();
        let commands: [&[&str]; 3] = [&["INFO"], &["CLIENT", "PAUSE", &millis], &["BGSAVE"]];
        let stopped = self.server.at_once("stop all clients and save", &commands).await;
        let (info, _, _): (String, String, String) = stopped.map_err(other_child)?;
        let info = Info::read(&info);
        self.same(&info)?;
        Ok((asked, Begun::now(before, &info)))
    }

    fn same(&self, info: &Info) -> Result<()> {
        if info.is("run_id", &self.run_id) && info.is("role", "master") {
            return Ok(());
        }
        Err(Error::new(Kind::Conflict, "the server was restarted, or is a master no more"))
    }
}

/// A save point, or an AOF rewrite, that came first is told as what it is.
fn other_child(error: Error) -> Error {
    let text = error.chain();
    if text.contains("in progress") || text.contains("Another child process") {
        return Error::caused(Kind::Busy, "the server saves or rewrites already", error);
    }
    error
}

#[async_trait]
impl Hold for RedisHold {
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<Prepared> {
        // From before it is asked for: a release is owed even when no answer comes.
        let lease = if let Way::Everything(_) = self.way { lease.min(LONGEST_STOP) } else { lease };
        self.pause = Some((Instant::now(), lease));
        let taken = tokio::time::timeout(budget, async {
            let (place, answers) = match &self.way {
                Way::Writes(None) => return Ok((self.pause(lease).await?, Ready::ToBegin(self.server.clone()))),
                Way::Writes(Some(place)) => (place, true),
                Way::Everything(place) => (place, false),
            };
            let before = Before::look(&place.folder, &place.file)?;
            let (asked, begun) =
                if answers { self.pause_and_save(lease, before).await? } else { self.stop(lease, before).await? };
            let (server, run_id) = (self.server.clone(), self.run_id.clone());
            let underway = Underway { server, begun, until: asked + lease, answers, run_id };
            Ok::<_, Error>((asked, Ready::Begun(Box::new(underway))))
        });
        let (asked, ready) = taken.await.map_err(|_| {
            Error::new(
                Kind::Timeout,
                format!("the server did not pause writes within {budget:?}: is a script running?"),
            )
        })??;
        self.pause = Some((asked, lease));
        Ok(Box::new(ready))
    }

    async fn renew(&mut self) -> Result<()> {
        let Some((before, lease)) = self.pause else {
            return Err(Error::new(Kind::Conflict, "writes are not paused"));
        };
        let asked = match self.way {
            Way::Writes(_) => tokio::time::timeout(lease, self.pause(lease))
                .await
                .map_err(|_| Error::new(Kind::Timeout, "the server did not answer within the lease"))??,
            // It cannot be asked, and needs not: until then it lets nobody write. Whether it was restarted, the save tells.
            Way::Everything(_) => before,
        };
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
        let Some((asked, lease)) = self.pause else { return Ok(()) };
        if let Way::Everything(_) = self.way {
            // Nothing ends it early; whoever asks how long writes were held is told the truth.
            tokio::time::sleep_until(asked + lease).await;
            self.pause = None;
            return Ok(());
        }
        self.server.ask::<()>(&["CLIENT", "UNPAUSE"]).await.context("let writes go on")?;
        self.pause = None;
        Ok(())
    }
}
