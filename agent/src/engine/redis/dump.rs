//! The dump: from the file that BGSAVE's child writes where the data folder is shared, else over the network as a replica gets it.

pub(super) mod bgsave;
mod psync;

use std::collections::BTreeMap;
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::background::Passing;
use keepsake_core::format::rdb::{Walked, walk_counting};
use keepsake_core::queues::{holds_jobs, job_facts};
use keepsake_core::record::{DumpReport, ToolRecord};
use tokio::time::Instant;

use self::bgsave::Begun;
use super::connection::{Info, Server};
use super::preflight;
use super::settings::Settings;
use crate::engine::{Context, Sink};

/// Another child of the server is waited for so long.
pub(super) const OTHER_CHILD: Duration = Duration::from_mins(10);
/// A dump is tried so often when something else comes between.
const TRIES: u32 = 3;

/// What a dump took, by either way.
struct Taken {
    counted: Counted,
    position: Option<String>,
    opened: jiff::Timestamp,
    tool: &'static str,
    end_marker: &'static str,
}

/// What an RDB holds, and the jobs in each of its queues.
struct Counted {
    walked: Walked,
    jobs: BTreeMap<Vec<u8>, u64>,
}

fn count(rdb: Passing) -> Result<Counted> {
    walk_counting(rdb, holds_jobs).map(|(walked, jobs)| Counted { walked, jobs })
}

/// What a hold made ready for the dump under it.
pub(super) enum Ready {
    /// Writes are held: the snapshot is opened at once, or not at all. By this connection: to make another takes its time.
    ToBegin(Server),
    /// It is open.
    Begun(Box<Underway>),
}

/// A save that was begun by the hold itself.
pub(super) struct Underway {
    pub(super) server: Server,
    pub(super) begun: Begun,
    /// Until then nobody writes.
    pub(super) until: Instant,
    /// Whether the server answers meanwhile.
    pub(super) answers: bool,
    /// Of which run the server must be then.
    pub(super) run_id: String,
}

/// Dumps it; with what a hold made ready, at its instant.
pub(super) async fn dump(
    server: &Server,
    settings: &Settings,
    held: Option<Ready>,
    out: &dyn Sink,
    cx: &Context,
) -> Result<DumpReport> {
    let patience = if held.is_some() { Duration::ZERO } else { OTHER_CHILD };
    let begun = match held {
        Some(Ready::Begun(underway)) => {
            let Underway { mut begun, until, answers, run_id, server: _ } = *underway;
            if answers {
                // First the file: what comes after the hold may be another save's.
                cx.unless_cancelled(begun.catch(until)).await?;
                cx.snapshot_open();
                cx.until_released().await;
            } else {
                // Nothing can be renewed and time is short.
                cx.snapshot_open();
                cx.unless_cancelled(begun.catch(until)).await?;
            }
            Some((begun, run_id))
        }
        Some(Ready::ToBegin(_)) | None => None,
    };
    let info = server.info().await?;
    if begun.as_ref().is_some_and(|(_, run_id)| !info.is("run_id", run_id)) {
        return Err(Error::new(Kind::Conflict, "the server was restarted while it saved"));
    }
    preflight::refuse(preflight::dump_problems(&info))?;
    let mut facts = preflight::facts(server, &info).await?;
    let taken = match (begun, &settings.redis_data_dir) {
        (Some((begun, _)), _) => bgsave::dump_begun(server, begun, out, cx).await?,
        (None, Some(folder)) => bgsave::dump(server, folder, &info, patience, out, cx).await?,
        (None, None) => psync::dump(server, settings, patience, out, cx).await?,
    };
    let Taken { counted: Counted { walked, jobs }, position, opened, tool, end_marker } = taken;
    facts.insert("rdb_version".to_owned(), walked.version.to_string());
    facts.insert("rdb_valkey".to_owned(), walked.valkey.to_string());
    facts.extend(job_facts(&jobs));

    let mut warnings = Vec::new();
    if !walked.checksummed {
        warnings.push(
            "the server writes no checksum into its RDB (rdbchecksum no): damage by its disk would not be noticed"
                .to_owned(),
        );
    }
    if walked.modules {
        warnings.push("the data holds values of modules: a restore needs a server with the same modules".to_owned());
    }
    let tool =
        ToolRecord { tool: tool.to_owned(), version: info.name(), exit_status: 0, end_marker: end_marker.to_owned() };
    Ok(DumpReport {
        server: info.name(),
        tools: vec![tool],
        position,
        snapshot_opened: Some(opened),
        facts,
        counts: walked.counts(),
        warnings,
    })
}

/// About how many bytes a dump of what is live would have. An RDB is smaller than the data in memory; how much smaller is not known.
pub(super) async fn about(server: &Server, settings: &Settings) -> Result<u64> {
    let info = server.info().await?;
    let last = match &settings.redis_data_dir {
        None => 0,
        Some(folder) => {
            let name = server.config("dbfilename").await?.unwrap_or_else(|| "dump.rdb".to_owned());
            // Only an estimate: one that cannot be seen tells nothing.
            std::fs::metadata(folder.join(name)).map_or(0, |m| m.len())
        }
    };
    Ok(last.max(info.number("used_memory_dataset") / 2))
}

/// What the server's children do now: a save in progress is of an older instant, and beside any other child none can begin.
pub(super) fn children(info: &Info) -> Vec<&'static str> {
    ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled", "module_fork_in_progress"]
        .into_iter()
        .filter(|name| info.is(name, "1"))
        .collect()
}

/// Waits so long at most until no child of the server runs.
pub(super) async fn wait_for_no_child(server: &Server, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        let info = server.info().await?;
        let busy = children(&info);
        if busy.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::new(
                Kind::Busy,
                format!("{} for {patience:?}: the server cannot save meanwhile", busy.join(", ")),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
