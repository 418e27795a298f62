//! Redis and Valkey: dumped by BGSAVE from the data folder or over the network as a replica, loaded by replication, by a reload or by a restart.

mod connection;
mod dump;
mod hold;
mod load;
mod marker;
mod preflight;
mod put_back;
mod queues;
mod raw;
mod settings;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_core::error::Result;
use keepsake_core::id::RunKey;
use keepsake_core::record::DumpReport;
use tokio::sync::Mutex;

use self::connection::Server;
use self::dump::Ready;
use self::load::Load;
use self::marker::{Marker, REPLID_PREFIX};
use self::put_back::PutBack;
pub use self::settings::{LoadMethod, RestartedBy, Settings};
use super::in_place::{CANNOT_BE_UNDONE, InPlace};
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
    in_place: InPlace,
    /// Held while the server is made a replica of this agent, so that nobody mistakes that for a leftover.
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
            problems.extend(load::choose(&server, &self.settings, &info).await.err().map(|e| e.chain()));
        }
        Ok(Description {
            server: info.name(),
            tools: Vec::new(),
            size: info.number("used_memory"),
            position: info.get("master_repl_offset").map(str::to_owned),
            facts: preflight::facts(&server, &info).await?,
            hold: hold::possible(&info, &self.settings),
            undo: Err(CANNOT_BE_UNDONE.to_owned()),
            problems,
            staging_free: None,
            loads: Vec::new(),
        })
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        hold::in_the_way(&Server::connect(&self.settings).await?, &self.settings).await
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        Ok(Box::new(hold::RedisHold::prepare(server, &self.settings).await?))
    }

    async fn dump(&self, held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let held = held.map(prepared::<Ready>).transpose()?.map(|ready| *ready);
        let server = match &held {
            // A new connection would have to wait.
            Some(Ready::Begun(underway)) => underway.server.clone(),
            Some(Ready::ToBegin) => Server::connect(&self.settings).await?,
            None => {
                let server = Server::connect(&self.settings).await?;
                self.end_leftover(&server).await?;
                server
            }
        };
        dump::dump(&server, &self.settings, held, out, cx).await
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        self.in_place.begin(key, from.clone());
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        // Spliced and checked in full, and not kept: a commit does it again with what is live then.
        let (source, said) = Box::pin(queues::apply(&server, &self.settings, &self.scratch, from, cx)).await?;
        let mut report = load::stage(&server, &self.settings, source.as_ref(), cx).await?;
        report.warnings.extend(said);
        self.in_place.staged(key);
        Ok(report)
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        Ok(self.in_place.state(key))
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let server = Server::connect(&self.settings).await?;
        let Some(source) = self.in_place.to_commit(key)? else { return load::live_counts(&server).await };
        let _loading = self.loading.lock().await;
        let (source, _) = Box::pin(queues::apply(&server, &self.settings, &self.scratch, source, cx)).await?;
        let load = Load {
            settings: &self.settings,
            marker: &self.marker,
            put_back: &self.put_back,
            source: source.as_ref(),
            cx,
            touching: &|| self.in_place.touching(key),
        };
        let report = load::commit(&server, load).await?;
        self.in_place.committed(key);
        Ok(report)
    }

    async fn rollback(&self, key: &RunKey, _cx: &Context) -> Result<()> {
        self.in_place.rollback(key)
    }

    async fn finalize(&self, key: &RunKey, _cx: &Context) -> Result<()> {
        self.in_place.finalize(key)
    }
}

impl Redis {
    fn new(settings: Settings, scratch: &Path) -> Self {
        let (marker, put_back) = (Marker::new(scratch), PutBack::new(&settings, scratch));
        Self {
            settings,
            marker,
            put_back,
            scratch: scratch.to_owned(),
            in_place: InPlace::new(scratch),
            loading: Mutex::new(()),
        }
    }

    /// What an agent that died in the middle of a load left behind is ended: a server that follows it would refuse all writes, and one whose
    /// settings were changed would keep nothing.
    async fn end_leftover(&self, server: &Server) -> Result<()> {
        let Ok(_not_loading) = self.loading.try_lock() else { return Ok(()) };
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
        self.put_back.settle(server).await
    }
}
