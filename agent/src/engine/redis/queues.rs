//! The policy for queues: before it is loaded, a dump is spliced from the set's data and, for `keep`, the live server's queues.
//!
//! The live data is only read. What is made lies in files without a name, which are gone with whoever holds them, however that ends. A commit splices anew: what
//! was queued since the stage is kept, too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};
use keepsake_core::format::background::{Checking, Passing};
use keepsake_core::format::rdb::{Keys, Part, Spliced, splice};
use keepsake_core::id::ArtifactName;
use keepsake_core::queues::{QueuePolicy, is_behind_namespace, is_queue};
use keepsake_core::record::DumpReport;

use super::connection::Server;
use super::settings::Settings;
use super::{ARTIFACT, dump, load};
use crate::engine::{ArtifactSink, ArtifactSource, Context, Sink, Source, only_artifact};

/// Bytes given out at a time.
const CHUNK: usize = 256 << 10;

/// What is loaded under the policy of a source: the source itself, or a splice of it.
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
        QueuePolicy::Keep => {
            let what = || format!("take the live server's queues into {}, which needs room for them", folder.display());
            Some(live_queues(server, settings, folder, cx).await.with_context(what)?)
        }
        QueuePolicy::Drop => None,
    };
    let (name, length) = only_artifact(from.as_ref(), ARTIFACT)?;
    check_space(folder, length.saturating_add(live.as_ref().map_or(0, |live| live.spliced.length)))?;
    cx.phase("splicing", length);
    let kept = live.as_ref().map(|live| sum(&live.spliced.databases));
    let file = unnamed(folder)?;
    let mut splicing = Checking::start({
        let file = file.try_clone().map_err(|e| Error::io("hold the spliced RDB", e))?;
        move |set| spliced(set, live.map(|live| live.file), file)
    });
    let what = || format!("splice artifact {name} into a file in {}", folder.display());
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
    let said = match policy {
        QueuePolicy::Keep => {
            format!("queues: {} keys of the live server are kept, the set's are left out", kept.unwrap_or_default())
        }
        QueuePolicy::Restore | QueuePolicy::Drop => {
            let left_out = sum(&set.databases).saturating_sub(sum(&made.databases));
            format!("queues: {left_out} keys of the set are left out, the live server's go")
        }
    };
    // What the load is measured by is what was spliced, no longer what was dumped.
    let report = DumpReport { counts: made.counts(), ..from.recorded().cloned().unwrap_or_default() };
    Ok((Arc::new(SplicedSource { file: Arc::new(file), length: made.length, report }), vec![said]))
}

fn sum(databases: &BTreeMap<u64, Keys>) -> u64 {
    databases.values().map(|k| k.persistent + k.expiring).sum()
}

/// The set's data and the live queues, as one.
fn spliced(set: Passing, live: Option<File>, out: File) -> Result<Spliced> {
    let foreign = Cell::new(None);
    let data = |_: u64, name: &[u8]| {
        notice(&foreign, name);
        !is_queue(name)
    };
    let mut parts = vec![Part { rdb: Box::new(set), take: &data }];
    if let Some(live) = live {
        parts.push(Part { rdb: Box::new(BufReader::new(live)), take: &|_, name| is_queue(name) });
    }
    let made = splice(parts, BufWriter::new(out))?;
    refuse(foreign.take(), "the set")?;
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
    let stat = rustix::fs::statvfs(folder).map_err(|e| Error::io(format!("look at {}", folder.display()), e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
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
struct Live {
    file: File,
    spliced: Spliced,
}

async fn live_queues(server: &Server, settings: &Settings, folder: &Path, cx: &Context) -> Result<Live> {
    let sink = QueuesOnly { file: unnamed(folder)?, made: Arc::default() };
    dump::dump(server, settings, None, &sink, cx).await?;
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

/// The splice as an engine's source.
struct SplicedSource {
    file: Arc<File>,
    length: u64,
    report: DumpReport,
}

#[async_trait]
impl Source for SplicedSource {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        ArtifactName::new(ARTIFACT).map(|name| (name, self.length)).into_iter().collect()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        Some(&self.report)
    }

    async fn open(&self, _: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        Ok(Box::new(Reading { file: self.file.clone(), offset: 0 }))
    }
}

struct Reading {
    file: Arc<File>,
    offset: u64,
}

#[async_trait]
impl ArtifactSource for Reading {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let (file, offset) = (self.file.clone(), self.offset);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK];
            file.read_at(&mut buffer, offset).map(|n| {
                buffer.truncate(n);
                buffer
            })
        });
        let bytes = read
            .await
            .or_kind(Kind::Internal, "read the spliced RDB")?
            .map_err(|e| Error::io("read the spliced RDB", e))?;
        self.offset += bytes.len() as u64;
        Ok((!bytes.is_empty()).then(|| Bytes::from(bytes)))
    }
}
