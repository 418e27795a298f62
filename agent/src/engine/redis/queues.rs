//! The policy for queues: before it is loaded, a dump is spliced from the set's data and, for `keep`, the live server's queues.
//!
//! The live data is only read. A load in place splices into files without a name, which are gone with whoever holds them, however that ends. The live queues
//! that count are those of the commit: what was queued since the stage is kept, too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek as _, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::{Checking, Passing};
use keepsake_core::format::rdb::{Keys, Part, Spliced, splice};
use keepsake_core::id::ArtifactName;
use keepsake_core::queues::{QueuePolicy, is_behind_namespace, is_queue};
use keepsake_core::record::DumpReport;

use super::connection::Server;
use super::file::{CHUNK, FileSource, free};
use super::settings::Settings;
use super::{ARTIFACT, dump, load};
use crate::engine::{ArtifactSink, Context, Sink, Source, only_artifact};

/// What is loaded in place under the policy of a source: the source itself, or a splice of it.
pub(super) async fn apply(
    server: &Server,
    settings: &Settings,
    scratch: &Path,
    from: Arc<dyn Source>,
    cx: &Context,
) -> Result<(Arc<dyn Source>, Vec<String>)> {
    let policy = from.queues();
    let folder = settings.redis_data_dir.as_deref().unwrap_or(scratch);
    let live = match policy {
        QueuePolicy::Restore => return Ok((from, Vec::new())),
        QueuePolicy::Keep => Some(live_queues(server, settings, folder, cx).await?),
        QueuePolicy::Drop => None,
    };
    let (_, length) = only_artifact(from.as_ref(), ARTIFACT)?;
    check_space(folder, length.saturating_add(live.as_ref().map_or(0, Live::length)))?;
    let kept = live.as_ref().map(Live::keys);
    let file = unnamed(folder)?;
    let out = file.try_clone().map_err(|e| Error::io("hold the spliced RDB", e))?;
    let into = || format!("into a file in {}", folder.display());
    let made = splice_into(from.as_ref(), live.map(|live| live.file), out, cx).await.with_context(into)?;
    let said = match kept {
        Some(kept) => told_of_kept(kept),
        None => told_of_dropped(&made),
    };
    // What the load is measured by is what was spliced, no longer what was dumped.
    let report = DumpReport { counts: made.counts(), ..from.recorded().cloned().unwrap_or_default() };
    Ok((Arc::new(FileSource::unnamed(file, made.length, report)), vec![said]))
}

/// Writes the source's data without its queues, and with the live ones if they are given.
///
/// # Errors
/// `Corrupt` when the source does not hold what its record says.
pub(super) async fn splice_into(
    from: &dyn Source,
    live: Option<File>,
    out: impl Write + Send + 'static,
    cx: &Context,
) -> Result<Spliced> {
    let (name, length) = only_artifact(from, ARTIFACT)?;
    cx.phase("splicing", length);
    let mut splicing = Checking::start(move |set| spliced(set, live, out));
    let what = || format!("splice artifact {name}");
    let mut reader = from.open(&name).await?;
    while let Some(mut chunk) = cx.unless_cancelled(reader.read()).await? {
        cx.advance(chunk.len() as u64);
        // In small pieces, so that not several whole segments wait for a splicer that writes to a slow disk.
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(CHUNK));
            splicing.feed(piece).await.with_context(what)?;
        }
    }
    let made = splicing.finish().await.with_context(what)?;
    let set = made.parts.first().ok_or_else(|| Error::new(Kind::Internal, "a splice of nothing"))?;
    if let Some(recorded) = from.recorded() {
        load::compare(&set.counts(), recorded)?;
    }
    Ok(made)
}

/// What is told of queues that are kept.
pub(super) fn told_of_kept(keys: u64) -> String {
    format!("queues: {keys} keys of the live server are kept, the set's are left out")
}

/// What is told of queues that are dropped.
pub(super) fn told_of_dropped(made: &Spliced) -> String {
    let of_set = made.parts.first().map_or(0, |set| sum(&set.databases));
    let left_out = of_set.saturating_sub(sum(&made.databases));
    format!("queues: {left_out} keys of the set are left out, the live server's go")
}

fn sum(databases: &BTreeMap<u64, Keys>) -> u64 {
    databases.values().map(|k| k.persistent + k.expiring).sum()
}

/// The set's data and the live queues, as one.
fn spliced(set: Passing, live: Option<File>, out: impl Write) -> Result<Spliced> {
    let (foreign, foreign_live) = (Cell::new(None), Cell::new(None));
    let data = |_: u64, name: &[u8]| {
        notice(&foreign, name);
        !is_queue(name)
    };
    let queues = |_: u64, name: &[u8]| {
        notice(&foreign_live, name);
        is_queue(name)
    };
    let mut parts = vec![Part { rdb: Box::new(set), take: &data }];
    if let Some(live) = live {
        parts.push(Part { rdb: Box::new(BufReader::new(live)), take: &queues });
    }
    let made = splice(parts, BufWriter::new(out))?;
    refuse(foreign.take(), "the set")?;
    refuse(foreign_live.take(), "the live server")?;
    Ok(made)
}

/// Remembers the first name that shows queues which no rule knows.
fn notice(foreign: &Cell<Option<Vec<u8>>>, name: &[u8]) {
    if is_behind_namespace(name) {
        let first = foreign.take().unwrap_or_else(|| name.to_vec());
        foreign.set(Some(first));
    }
}

/// Queues that are not known would be treated as data: silently restored under `drop`, silently lost under `keep`.
fn refuse(foreign: Option<Vec<u8>>, whose: &str) -> Result<()> {
    let Some(name) = foreign else { return Ok(()) };
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "{whose} has the key {:?}: its queues seem to stand behind a namespace, and cannot be told from data. Restore them (leave --queues out for this \
             component)",
            String::from_utf8_lossy(&name)
        ),
    ))
}

/// A file in this folder that has no name.
fn unnamed(folder: &Path) -> Result<File> {
    tempfile::tempfile_in(folder).map_err(|e| Error::io(format!("make a file in {}", folder.display()), e))
}

/// Whether there is room for the set and the live queues; the set's own queues, which are the lesser part, are not taken off.
fn check_space(folder: &Path, length: u64) -> Result<()> {
    let free = free(folder)?;
    if free < length {
        return Err(Error::new(
            Kind::Busy,
            format!(
                "{} has {free} bytes free, to leave out queues needs {length} there: make room before the restore",
                folder.display()
            ),
        ));
    }
    Ok(())
}

/// The live server's queues, and nothing else of it.
pub(super) struct Live {
    pub(super) file: File,
    spliced: Spliced,
}

impl Live {
    /// Bytes.
    pub(super) fn length(&self) -> u64 {
        self.spliced.length
    }

    /// How many keys they are.
    pub(super) fn keys(&self) -> u64 {
        sum(&self.spliced.databases)
    }
}

/// Takes the live queues into a file in this folder that has no name.
pub(super) async fn live_queues(server: &Server, settings: &Settings, folder: &Path, cx: &Context) -> Result<Live> {
    let sink = QueuesOnly { file: unnamed(folder)?, made: Arc::default() };
    let what = || format!("take the live server's queues into {}, which needs room for them", folder.display());
    dump::dump(server, settings, None, &sink, cx).await.with_context(what)?;
    let made = sink.made.lock().unwrap_or_else(PoisonError::into_inner).take();
    let spliced = made.ok_or_else(|| Error::new(Kind::Internal, "a dump of the live data was not finished"))?;
    let mut file = sink.file;
    file.rewind().map_err(|e| Error::io("read the live queues", e))?;
    Ok(Live { file, spliced })
}

/// Takes a dump and keeps its queues.
struct QueuesOnly {
    file: File,
    made: Arc<Mutex<Option<Spliced>>>,
}

struct Taking {
    splicing: Checking<Spliced>,
    length: u64,
    made: Arc<Mutex<Option<Spliced>>>,
}

#[async_trait]
impl Sink for QueuesOnly {
    async fn artifact(&self, _: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        // A dump that begins once more begins here once more.
        self.file.set_len(0).map_err(|e| Error::io("keep the live queues", e))?;
        let mut out = self.file.try_clone().map_err(|e| Error::io("keep the live queues", e))?;
        out.rewind().map_err(|e| Error::io("keep the live queues", e))?;
        let splicing = Checking::start(move |live| {
            let foreign = Cell::new(None);
            let queues = |_: u64, name: &[u8]| {
                notice(&foreign, name);
                is_queue(name)
            };
            let made = splice(vec![Part { rdb: Box::new(live), take: &queues }], BufWriter::new(out))?;
            refuse(foreign.take(), "the live server")?;
            Ok(made)
        });
        Ok(Box::new(Taking { splicing, length: 0, made: self.made.clone() }))
    }
}

#[async_trait]
impl ArtifactSink for Taking {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.length += chunk.len() as u64;
        self.splicing.feed(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        let made = self.splicing.finish().await?;
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(self.length)
    }
}
