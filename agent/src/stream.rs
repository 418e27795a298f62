//! Dumps and loads over the wire, for other tooling: a header, chunks and a trailer with length and SHA-256 for each artifact.
//!
//! A stream that merely ends is never success: a dump ends with the engine's report, an artifact with its trailer. What is loaded is first
//! spooled to a file in the scratch folder, so that nothing is touched before all of it is here and checked.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};
use keepsake_core::id::ArtifactName;
use keepsake_core::record::DumpReport;
use keepsake_proto::convert;
use keepsake_proto::v1::{self, dump_response, load_request};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::engine::{ArtifactSink, ArtifactSource, Sink, Source};

/// What the names of spool files begin with.
pub(crate) const SPOOL_PREFIX: &str = "keepsake-spool-";
/// Bytes of a chunk on the wire at most.
const CHUNK: usize = 256 << 10;
/// What a peer may send in one chunk.
const LARGEST_CHUNK: usize = 1 << 20;

/// A caller that neither takes nor gives anything for so long is dropped: its stream keeps the datastore from everybody else. The same
/// patience as with an operation that nobody asks about.
const IDLE: Duration = Duration::from_mins(10);

/// What goes into the response stream.
pub(crate) type Parts = mpsc::Sender<std::result::Result<v1::DumpResponse, tonic::Status>>;

/// Takes a dump into a response stream. Artifacts come one after another.
pub(crate) struct WireSink {
    parts: Parts,
    /// Only this artifact is wanted.
    only: Option<ArtifactName>,
    /// One artifact at a time: a second one waits until the first is finished.
    turn: Arc<tokio::sync::Semaphore>,
}

impl WireSink {
    pub(crate) fn new(parts: Parts, only: Option<ArtifactName>) -> Self {
        Self { parts, only, turn: Arc::new(tokio::sync::Semaphore::new(1)) }
    }
}

struct WireArtifact {
    parts: Parts,
    wanted: bool,
    length: u64,
    digest: digest::Context,
    _turn: tokio::sync::OwnedSemaphorePermit,
}

async fn send(parts: &Parts, part: dump_response::Part) -> Result<()> {
    tokio::time::timeout(IDLE, parts.send(Ok(v1::DumpResponse { part: Some(part) })))
        .await
        .or_kind(Kind::Timeout, format!("the caller took nothing for {IDLE:?}"))?
        .map_err(|_| Error::new(Kind::Cancelled, "the caller hung up"))
}

#[async_trait]
impl Sink for WireSink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        let turn = self.turn.clone().acquire_owned().await.or_kind(Kind::Internal, "take turns")?;
        let wanted = self.only.as_ref().is_none_or(|only| only == name);
        if wanted {
            send(&self.parts, dump_response::Part::Header(v1::StreamHeader { artifact: name.to_string() })).await?;
        }
        Ok(Box::new(WireArtifact {
            parts: self.parts.clone(),
            wanted,
            length: 0,
            digest: digest::Context::new(&digest::SHA256),
            _turn: turn,
        }))
    }
}

#[async_trait]
impl ArtifactSink for WireArtifact {
    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(CHUNK));
            self.length += piece.len() as u64;
            if self.wanted {
                self.digest.update(&piece);
                send(&self.parts, dump_response::Part::Chunk(piece)).await?;
            }
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        if self.wanted {
            let sha256 = Bytes::copy_from_slice(self.digest.finish().as_ref());
            send(&self.parts, dump_response::Part::Trailer(v1::StreamTrailer { length: self.length, sha256 })).await?;
        }
        Ok(self.length)
    }
}

/// Artifacts in files of the scratch folder, gone when this is dropped.
pub(crate) struct Spool {
    artifacts: BTreeMap<ArtifactName, (tempfile::NamedTempFile, u64)>,
    report: Option<DumpReport>,
}

/// Takes a whole `Load` stream into the scratch folder.
///
/// # Errors
/// `Corrupt` when the stream ends early or a trailer does not match; `Invalid` when messages come in a wrong order.
pub(crate) async fn receive(mut stream: Streaming<v1::LoadRequest>, scratch: &Path) -> Result<Spool> {
    let mut spool = Spool { artifacts: BTreeMap::new(), report: None };
    let mut open: Option<Receiving> = None;
    let invalid = |text: &str| Err(Error::new(Kind::Invalid, text));
    loop {
        let next = tokio::time::timeout(IDLE, stream.message())
            .await
            .or_kind(Kind::Timeout, format!("the caller sent nothing for {IDLE:?}: nothing was touched"))?;
        let Some(message) = next.map_err(|s| keepsake_proto::status::from_status(&s)).context("receive")? else {
            break;
        };
        match (message.part, &mut open) {
            (Some(load_request::Part::Report(report)), None) => {
                spool.report = Some(convert::dump_report_from_wire(report)?);
            }
            (Some(load_request::Part::Header(header)), None) => {
                let name: ArtifactName = header.artifact.parse().context("field `header.artifact`")?;
                if spool.artifacts.contains_key(&name) {
                    return Err(Error::new(Kind::Invalid, format!("artifact {name} came twice")));
                }
                open = Some(Receiving::new(name, scratch)?);
            }
            (Some(load_request::Part::Chunk(chunk)), Some(receiving)) => receiving.take(&chunk).await?,
            (Some(load_request::Part::Trailer(trailer)), Some(_)) => {
                if let Some(receiving) = open.take() {
                    let (name, file, length) = receiving.finish(&trailer)?;
                    spool.artifacts.insert(name, (file, length));
                }
            }
            (Some(load_request::Part::Report(_) | load_request::Part::Header(_)), Some(_)) => {
                return invalid("a header or report came before the artifact's trailer");
            }
            (Some(load_request::Part::Chunk(_) | load_request::Part::Trailer(_)), None) => {
                return invalid("a chunk or trailer came without a header");
            }
            (None, _) => return invalid("an empty message came"),
        }
    }
    if let Some(open) = open {
        return Err(Error::new(
            Kind::Corrupt,
            format!("the stream ended within artifact {}: nothing was touched", open.name),
        ));
    }
    if spool.artifacts.is_empty() {
        return invalid("the stream held no artifact: nothing was touched");
    }
    Ok(spool)
}

struct Receiving {
    name: ArtifactName,
    file: tempfile::NamedTempFile,
    length: u64,
    digest: digest::Context,
}

impl Receiving {
    fn new(name: ArtifactName, scratch: &Path) -> Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(SPOOL_PREFIX)
            .tempfile_in(scratch)
            .map_err(|e| Error::io(format!("spool {name} in the scratch folder {}", scratch.display()), e))?;
        Ok(Self { name, file, length: 0, digest: digest::Context::new(&digest::SHA256) })
    }

    async fn take(&mut self, chunk: &Bytes) -> Result<()> {
        if chunk.len() > LARGEST_CHUNK {
            return Err(Error::new(
                Kind::Invalid,
                format!("a chunk has {} bytes; at most {LARGEST_CHUNK} are taken", chunk.len()),
            ));
        }
        self.length += chunk.len() as u64;
        self.digest.update(chunk);
        // At most 1 MiB into the page cache: shorter than a detour to another thread.
        self.file.write_all(chunk).map_err(|e| {
            Error::io(format!("spool {} (is the scratch folder full? name another with --scratch)", self.name), e)
        })?;
        tokio::task::yield_now().await;
        Ok(())
    }

    fn finish(self, trailer: &v1::StreamTrailer) -> Result<(ArtifactName, tempfile::NamedTempFile, u64)> {
        if trailer.length != self.length {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "{} bytes of {} came, its trailer says {}: nothing was touched",
                    self.length, self.name, trailer.length
                ),
            ));
        }
        if self.digest.finish().as_ref() != trailer.sha256.as_ref() {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the SHA-256 of {} is not its trailer's: nothing was touched", self.name),
            ));
        }
        Ok((self.name, self.file, self.length))
    }
}

#[async_trait]
impl Source for Spool {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.artifacts.iter().map(|(name, (_, length))| (name.clone(), *length)).collect()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.report.as_ref()
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        let (file, _) = self
            .artifacts
            .get(name)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("the stream held no artifact {name}")))?;
        let mut file = file.reopen().map_err(|e| Error::io(format!("open the spool of {name}"), e))?;
        file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("read the spool", e))?;
        Ok(Box::new(SpoolReader(Some(file))))
    }
}

struct SpoolReader(Option<std::fs::File>);

#[async_trait]
impl ArtifactSource for SpoolReader {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let Some(mut file) = self.0.take() else { return Ok(None) };
        let (file, read) = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK];
            let read = file.read(&mut buffer).map(|n| {
                buffer.truncate(n);
                buffer
            });
            (file, read)
        })
        .await
        .or_kind(Kind::Internal, "read the spool")?;
        let bytes = read.map_err(|e| Error::io("read the spool", e))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.0 = Some(file);
        Ok(Some(Bytes::from(bytes)))
    }
}
