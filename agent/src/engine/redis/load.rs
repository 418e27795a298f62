//! The load: one of three ways, the first that the server allows. Success is told only when a kill right after it would lose nothing.

pub(super) mod durable;
mod lay_out;
mod master;
mod reload;
mod replication;
mod restart;

use std::path::Path;
use std::time::Duration;

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::format::rdb::{NOISE, Walked, walk};
use keepsake_core::record::{Counts, DumpReport};
use tokio::time::Instant;

use super::connection::{Info, Server};
use super::marker::Marker;
use super::put_back::PutBack;
use super::settings::{LoadMethod, Settings};
use super::stages::step;
use super::{ARTIFACT, preflight};
use crate::engine::{CommitReport, Context, Source, StageReport, only_artifact};

/// Keys whose time has passed go by themselves within so long after a load.
const EXPIRY: Duration = Duration::from_secs(30);

/// What every way needs.
pub(super) struct Load<'a> {
    pub(super) settings: &'a Settings,
    pub(super) marker: &'a Marker,
    pub(super) put_back: &'a PutBack,
    pub(super) source: &'a dyn Source,
    /// Where the source is a file: handed over as it is, if it lies where the server's files do.
    pub(super) file: Option<&'a Path>,
    pub(super) whither: Whither,
    /// The way that this load took before, which is taken again if it can be.
    pub(super) before: Option<LoadMethod>,
    pub(super) cx: &'a Context,
    /// To be called right before the live data is changed.
    pub(super) touching: &'a (dyn Fn(LoadMethod) -> Result<()> + Send + Sync),
    /// To be called when it turns out that it was not.
    pub(super) untouched: &'a (dyn Fn() -> Result<()> + Send + Sync),
}

/// Whether data is put in the place of other data, or back where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whither {
    /// To what the server has perhaps never held.
    Forward,
    /// To what it held, and can hold.
    Back,
}

/// Reads and checks the whole dump.
pub(super) async fn stage(
    server: &Server,
    settings: &Settings,
    source: &dyn Source,
    cx: &Context,
) -> Result<StageReport> {
    let walked = check(source, cx).await?;
    let (warnings, method) = admit(server, settings, &walked, source).await?;
    if method != LoadMethod::Replication {
        lay_out::check_space(settings, &server.info().await?, walked.length, false)?;
    }
    Ok(StageReport { bytes: walked.length, counts: walked.counts(), warnings })
}

/// Whether the server can take it, and how.
pub(super) async fn admit(
    server: &Server,
    settings: &Settings,
    walked: &Walked,
    source: &dyn Source,
) -> Result<(Vec<String>, LoadMethod)> {
    let warnings = preflight::check_load(server, walked, source.recorded()).await?;
    let method = choose(server, settings, &server.info().await?, None).await?;
    Ok((warnings, method))
}

/// The way to load: the one that was asked for, or the one that was taken before, or the first that this server allows.
///
/// # Errors
/// `Unsupported`, with what stands in the way of each.
pub(super) async fn choose(
    server: &Server,
    settings: &Settings,
    info: &Info,
    before: Option<LoadMethod>,
) -> Result<LoadMethod> {
    let mut methods = vec![LoadMethod::Replication, LoadMethod::Reload, LoadMethod::Restart];
    methods.sort_by_key(|method| Some(*method) != before);
    methods.retain(|method| settings.redis_load_method.is_none_or(|asked| asked == *method));
    let mut refusals = Vec::new();
    for method in methods {
        let (name, refusal) = match method {
            LoadMethod::Replication => ("replication", replication::refusal(server, settings).await?),
            LoadMethod::Reload => ("reload", reload::refusal(server, settings, info).await?),
            LoadMethod::Restart => ("restart", restart::refusal(settings, info)),
        };
        match refusal {
            None => return Ok(method),
            Some(why) => refusals.push(format!("{name}: {why}")),
        }
    }
    Err(Error::new(Kind::Unsupported, format!("this server cannot be loaded. {}", refusals.join(". "))))
}

/// Walks the artifact and compares its counts with the record's.
pub(super) async fn check(source: &dyn Source, cx: &Context) -> Result<Walked> {
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("checking", length);
    let mut reader = source.open(&name).await?;
    let mut checking = Checking::start(walk);
    let what = || format!("artifact {name}");
    while let Some(chunk) = cx.unless_cancelled(reader.read()).await? {
        cx.advance(chunk.len() as u64);
        checking.feed(chunk).await.with_context(what)?;
    }
    let walked = checking.finish().await.with_context(what)?;
    if let Some(recorded) = source.recorded() {
        compare(&walked.counts(), recorded)?;
    }
    Ok(walked)
}

pub(super) fn compare(found: &Counts, recorded: &DumpReport) -> Result<()> {
    if *found == recorded.counts {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!("the RDB does not hold what the record says: {:?} instead of {:?}", found, recorded.counts),
    ))
}

/// The server, shut down by a load that was cut off: started again if that is the agent's part, and waited for.
pub(super) async fn bring_back(settings: &Settings) -> Result<Server> {
    restart::bring_back(settings, "").await.context("the server was shut down by a load that was cut off: start it")
}

/// The server, once it has loaded its own data.
pub(super) async fn wait_until_loaded(settings: &Settings) -> Result<Server> {
    restart::wait_until_back(settings, "").await
}

/// Replaces the server's data.
pub(super) async fn commit(server: &Server, load: Load<'_>) -> Result<CommitReport> {
    // Once more, because the server may be another one than when it was staged.
    let walked = check(load.source, load.cx).await?;
    let info = server.info().await?;
    let warnings = match load.whither {
        Whither::Forward => preflight::check_load(server, &walked, load.source.recorded()).await?,
        // What it held it can hold.
        Whither::Back => preflight::refuse(preflight::load_problems(&info)).map(|()| Vec::new())?,
    };
    let method = choose(server, load.settings, &info, load.before).await?;
    if method != LoadMethod::Replication {
        lay_out::check_space(load.settings, &info, walked.length, lay_out::is_there(&load)?)?;
    }
    match method {
        LoadMethod::Replication => replication::load(server, &load).await?,
        LoadMethod::Reload => reload::load(server, &load, &walked).await?,
        LoadMethod::Restart => restart::load(server, &load, &walked).await?,
    }
    step(load.cx, "counting").await;
    // A server that was restarted has hung up.
    let server = Server::connect(load.settings).await?;
    verify(&server, &walked, warnings).await
}

async fn verify(server: &Server, walked: &Walked, warnings: Vec<String>) -> Result<CommitReport> {
    let expected = walked.counts();
    let end = Instant::now() + EXPIRY;
    loop {
        let mut report = live_counts(server).await?;
        let difference = difference(&expected, &report.counts);
        match difference {
            None => {
                report.warnings = warnings;
                return Ok(report);
            }
            // A server that loads an RDB as the base of its AOF keeps keys whose time has passed until it looks for them.
            Some((name, ..)) if name.starts_with("expiring:") && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some((name, found, expected)) => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("after the load the server has {name} = {found}, the dump has {expected}"),
                ));
            }
        }
    }
}

/// The first count that differs, those that expire last; what is found, and what is expected.
fn difference(expected: &Counts, found: &Counts) -> Option<(String, u64, u64)> {
    let names: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let mut differ: Vec<_> = names
        .into_iter()
        .map(|name| (name.clone(), found.get(name).copied().unwrap_or(0), expected.get(name).copied().unwrap_or(0)))
        // Keys with a time to live may have gone since; the others may not.
        .filter(
            |(name, found, expected)| if name.starts_with("expiring:") { found > expected } else { found != expected },
        )
        .collect();
    differ.sort_by_key(|(name, ..)| name.starts_with("expiring:"));
    differ.into_iter().next()
}

/// What the server holds now, counted as a dump's walk would.
pub(super) async fn live_counts(server: &Server) -> Result<CommitReport> {
    let info = server.info().await?;
    let mut counts = Counts::new();
    let noise = std::str::from_utf8(NOISE).unwrap_or_default();
    for (db, keys, expires) in info.keyspace() {
        let probe: u64 = server.in_database(db, &["EXISTS", noise]).await?;
        counts.insert(format!("keys:db{db}"), keys.saturating_sub(expires).saturating_sub(probe));
        counts.insert(format!("expiring:db{db}"), expires);
    }
    Ok(CommitReport { counts, warnings: Vec::new() })
}
