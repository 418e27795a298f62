//! Redis and Valkey: dumped by BGSAVE from the data folder or over the network as a replica, loaded by replication, by a reload or by a restart.

mod beside;
mod config;
mod connection;
mod dump;
mod file;
mod hold;
mod load;
mod marker;
mod preflight;
mod put_back;
mod queues;
mod raw;
mod room;
mod settings;
mod stages;
mod tls;
mod waiting;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{RunId, RunKey};
use keepsake_core::queues::Waiting;
use keepsake_core::record::DumpReport;
use tokio::sync::Mutex;

use self::connection::Server;
use self::dump::Ready;
use self::load::{Load, Whither};
use self::marker::{Marker, REPLID_PREFIX};
use self::put_back::PutBack;
pub use self::settings::{LoadMethod, RestartedBy, Settings};
use self::stages::Stages;
use super::config_target::ConfigTarget;
use super::in_place::InPlace;
use super::{CommitReport, Context, Description, Engine, Hold, Prepared, Sink, Source, StageReport, Staged, prepared};

/// The artifact's name.
const ARTIFACT: &str = "dump.rdb";

/// The engine.
#[derive(Debug)]
pub struct Redis {
    settings: Settings,
    marker: Marker,
    put_back: PutBack,
    /// For files that live no longer than an operation.
    scratch: PathBuf,
    stages: Stages,
    in_place: InPlace,
    /// Held by a load, so that nobody mistakes what it is doing for a leftover.
    loading: Mutex<()>,
}

#[async_trait]
impl Engine for Redis {
    async fn describe(&self) -> Result<Description> {
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        let info = server.info().await?;
        let mut problems = preflight::load_problems(&info);
        if problems.is_empty() {
            problems.extend(load::choose(&server, &self.settings, &info, None).await.err().map(|e| e.chain()));
        }
        let mut loads = Vec::new();
        let runs = self.stages.all().unwrap_or_else(|e| {
            problems.push(e.chain());
            Vec::new()
        });
        for run in runs {
            let staged = run.staged().unwrap_or_else(|e| {
                problems.push(e.chain());
                // The worse of what it may be.
                Staged::Committing
            });
            if staged == Staged::Committing {
                problems.push(half_made(run.id));
            }
            loads.push((run.id, staged));
        }
        Ok(Description {
            server: info.name(),
            tools: Vec::new(),
            size: info.number("used_memory"),
            position: info.get("master_repl_offset").map(str::to_owned),
            facts: preflight::facts(&server, &info).await?,
            hold: hold::possible(&info, &self.settings),
            undo: self.stages.refusal().map_or(Ok(()), Err),
            in_place_is_whole: false,
            in_place_is_told: false,
            problems,
            staging_free: self.stages.free(),
            loads,
        })
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        if let Some(run) = self.stages.half_made()? {
            return Ok(Some(half_made(run)));
        }
        hold::in_the_way(&Server::connect(&self.settings).await?, &self.settings).await
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        self.refuse_half_made()?;
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        Ok(Box::new(hold::RedisHold::prepare(server, &self.settings).await?))
    }

    async fn dump(&self, held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        self.refuse_half_made()?;
        let held = held.map(prepared::<Ready>).transpose()?.map(|ready| *ready);
        let server = match &held {
            // A new connection would have to wait.
            Some(Ready::Begun(underway)) => underway.server.clone(),
            Some(Ready::ToBegin(server)) => server.clone(),
            None => {
                let server = Server::connect(&self.settings).await?;
                self.end_leftover(&server).await?;
                server
            }
        };
        dump::dump(&server, &self.settings, held, out, cx).await
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        let _loading = self.loading.lock().await;
        self.stages.make_way_for(key.run, cx).await?;
        let server = Server::connect(&self.settings).await?;
        self.settle_leftover(&server).await?;
        if !from.in_place() {
            self.in_place.forget(key);
            return Box::pin(beside::stage(self, &server, key, from.as_ref(), cx)).await;
        }
        if let Some(run) = self.stages.find(key.run)? {
            beside::drop_untouched(self, run, cx).await?;
        }
        self.in_place.begin(key, from.clone());
        // Spliced and checked in full, and not kept: a commit does it again with what is live then.
        let (source, said) = Box::pin(queues::apply(&server, &self.settings, &self.scratch, from, cx)).await?;
        let mut report = load::stage(&server, &self.settings, source.as_ref(), cx).await?;
        report.warnings.extend(said);
        self.in_place.staged(key);
        Ok(report)
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        self.stages.find(key.run)?.map_or_else(|| Ok(self.in_place.state(key)), |run| run.staged())
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let _loading = self.loading.lock().await;
        self.stages.sweep()?;
        if let Some(run) = self.stages.find(key.run)? {
            return Box::pin(beside::commit(self, &run, cx)).await;
        }
        let server = Server::connect(&self.settings).await?;
        let Some(source) = self.in_place.to_commit(key)? else { return load::live_counts(&server).await };
        self.settle_leftover(&server).await?;
        let (source, _) = Box::pin(queues::apply(&server, &self.settings, &self.scratch, source, cx)).await?;
        let load = Load {
            settings: &self.settings,
            marker: &self.marker,
            put_back: &self.put_back,
            source: source.as_ref(),
            file: None,
            whither: Whither::Forward,
            before: None,
            cx,
            touching: &|_| self.in_place.touching(key),
            // An earlier attempt may have touched it.
            untouched: &|| Ok(()),
        };
        let report = load::commit(&server, load).await?;
        self.in_place.committed(key)?;
        Ok(report)
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let _loading = self.loading.lock().await;
        if let Some(run) = self.stages.find(key.run)? {
            return Box::pin(beside::rollback(self, run, cx)).await;
        }
        self.settle_what_is_owed().await?;
        self.in_place.rollback(key)
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let _loading = self.loading.lock().await;
        match self.stages.find(key.run)? {
            Some(run) => beside::finalize(self, run, cx).await?,
            None => self.settle_what_is_owed().await?,
        }
        self.in_place.finalize(key)
    }

    async fn waiting_jobs(&self) -> Result<Waiting> {
        waiting::look(&Server::connect(&self.settings).await?).await
    }

    fn config_target(&self) -> Option<&dyn ConfigTarget> {
        Some(self)
    }
}

/// A load that was cut off, in words.
fn half_made(run: RunId) -> String {
    format!(
        "the load of run {run} is half made, and what the server holds may be a part of it: bring it to its end first, by `keepsake resume` or by \
         `keepsake rollback`"
    )
}

impl Redis {
    fn new(settings: Settings, scratch: &Path) -> Self {
        let (marker, put_back) = (Marker::new(scratch), PutBack::new(&settings, scratch));
        let stages = Stages::new(&settings, scratch);
        Self {
            settings,
            marker,
            put_back,
            scratch: scratch.to_owned(),
            in_place: InPlace::new(scratch),
            stages,
            loading: Mutex::new(()),
        }
    }

    /// No dump is made of what may be a part of something.
    fn refuse_half_made(&self) -> Result<()> {
        match self.stages.half_made()? {
            Some(run) => Err(Error::new(Kind::Conflict, half_made(run))),
            None => Ok(()),
        }
    }

    /// As [`Redis::settle_leftover`], unless a load is at work now.
    async fn end_leftover(&self, server: &Server) -> Result<()> {
        let Ok(_not_loading) = self.loading.try_lock() else { return Ok(()) };
        self.settle_leftover(server).await
    }

    /// As [`Redis::settle_leftover`], but a server to which nothing is owed needs not be there: what is staged can be dropped without it.
    async fn settle_what_is_owed(&self) -> Result<()> {
        if self.put_back.is_owed()? || self.marker.is_set()? {
            return self.settle_leftover(&Server::connect(&self.settings).await?).await;
        }
        self.put_back.clear()?;
        self.stages.sweep()
    }

    /// What an agent that died in the middle of a load left behind is ended: a server that follows it would refuse all writes, and one whose
    /// settings were changed would keep nothing. Only for who holds the lock.
    async fn settle_leftover(&self, server: &Server) -> Result<()> {
        self.stages.sweep()?;
        let info = server.info().await?;
        if info.is("role", "slave") {
            let ours = info.get("master_replid").is_some_and(|id| id.starts_with(REPLID_PREFIX));
            let master = [info.get("master_host"), info.get("master_port")].map(Option::unwrap_or_default).join(" ");
            if !ours && !self.marker.names(&master)? {
                return Ok(());
            }
            tracing::warn!("the server is a replica of an agent that is gone; it is made a master again");
            server.follow_nobody().await?;
        }
        self.marker.clear()?;
        self.put_back.settle(server, load::durable::Held::Unknown).await
    }
}
