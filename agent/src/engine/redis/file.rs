//! RDBs in files of the agent's own: written under another name first, and given their own when they are whole and on the disk.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::ArtifactName;
use keepsake_core::record::DumpReport;
use tokio::io::AsyncWriteExt as _;

use super::ARTIFACT;
use crate::engine::{ArtifactSink, ArtifactSource, Sink, Source};

/// Bytes given out at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// What the name of a file that is being written ends with.
const PART: &str = ".part";

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    /// Begins it. What an earlier attempt left is another file, even if somebody still writes to it.
    pub(super) fn create(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}{PART}"));
        let what = || format!("make {}", path.display());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(what(), e)),
            _ => {}
        }
        // Readable for a server of the same group, to which it may be handed as it is.
        let opened = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(&path);
        Ok(Self { file: opened.map_err(|e| Error::io(what(), e))?, target: folder.join(name), path })
    }

    /// A second descriptor of it.
    pub(super) fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(format!("hold {}", self.path.display()), e))
    }

    /// It is whole: from now on it has its name, also after a crash of the machine.
    pub(super) fn keep(self) -> Result<PathBuf> {
        let what = || format!("write {}", self.target.display());
        self.file.sync_all().map_err(|e| Error::io(what(), e))?;
        std::fs::rename(&self.path, &self.target).map_err(|e| Error::io(what(), e))?;
        sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        Ok(self.target)
    }
}

/// Drops what unfinished writing has left in a folder.
pub(super) fn drop_parts(folder: &Path) -> Result<()> {
    let what = || format!("drop unfinished files in {}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(what(), e))? {
        let entry = entry.map_err(|e| Error::io(what(), e))?;
        if entry.file_name().as_encoded_bytes().ends_with(PART.as_bytes()) {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io(what(), e))?;
        }
    }
    Ok(())
}

/// Makes what was made, renamed or removed in a folder survive a crash of the machine.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io(format!("write the folder {} to disk", folder.display()), e))
}

/// Bytes free for this process on the filesystem of a folder.
pub(super) fn free(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder).map_err(|e| Error::io(format!("look at {}", folder.display()), e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Takes a dump into a file.
pub(super) struct FileSink<'a>(pub(super) &'a Part);

struct Filling {
    file: tokio::fs::File,
    path: PathBuf,
    length: u64,
}

#[async_trait]
impl Sink for FileSink<'_> {
    async fn artifact(&self, _: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        let mut file = self.0.file()?;
        let path = self.0.path.clone();
        let what = || format!("write {}", path.display());
        // A dump that begins once more begins here once more.
        file.set_len(0).map_err(|e| Error::io(what(), e))?;
        std::io::Seek::rewind(&mut file).map_err(|e| Error::io(what(), e))?;
        Ok(Box::new(Filling { file: tokio::fs::File::from_std(file), path, length: 0 }))
    }
}

#[async_trait]
impl ArtifactSink for Filling {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.length += chunk.len() as u64;
        self.file.write_all(&chunk).await.map_err(|e| Error::io(format!("write {}", self.path.display()), e))
    }

    async fn finish(mut self: Box<Self>) -> Result<u64> {
        self.file.flush().await.map_err(|e| Error::io(format!("write {}", self.path.display()), e))?;
        Ok(self.length)
    }
}

/// An RDB in a file, as an engine's source.
#[derive(Debug)]
pub(super) struct FileSource {
    file: Arc<File>,
    path: Option<PathBuf>,
    length: u64,
    report: DumpReport,
}

impl FileSource {
    /// A file that has no name.
    pub(super) fn unnamed(file: File, length: u64, report: DumpReport) -> Self {
        Self { file: Arc::new(file), path: None, length, report }
    }

    /// A file with a name, that must be as long as it was when it was written.
    ///
    /// # Errors
    /// `Corrupt` when it is gone or has another length.
    pub(super) fn open(path: PathBuf, length: u64, report: DumpReport) -> Result<Self> {
        let what = || format!("read {}", path.display());
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::caused(Kind::Corrupt, format!("{}, which a load has left and needs", what()), e));
            }
            opened => opened.map_err(|e| Error::io(what(), e))?,
        };
        let found = file.metadata().map_err(|e| Error::io(what(), e))?.len();
        if found != length {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{} has {found} bytes, {length} were written: it was changed", path.display()),
            ));
        }
        Ok(Self { file: Arc::new(file), path: Some(path), length, report })
    }

    /// Where it is, if it has a name.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

#[async_trait]
impl Source for FileSource {
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
            .or_kind(Kind::Internal, "read an RDB from a file")?
            .map_err(|e| Error::io("read an RDB from a file", e))?;
        self.offset += bytes.len() as u64;
        Ok((!bytes.is_empty()).then(|| Bytes::from(bytes)))
    }
}
