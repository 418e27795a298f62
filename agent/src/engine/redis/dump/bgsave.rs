//! A dump from the data folder: BGSAVE, and the file that its child writes.
//!
//! The file is opened while the child still writes it, and that descriptor is kept: whatever else is renamed over `dump.rdb` meanwhile, what
//! is read is what this BGSAVE wrote. A save that was in progress before is an older instant, so it is waited for.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use keepsake_core::clock;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::id::ArtifactName;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::super::ARTIFACT;
use super::super::connection::{Info, Server};
use super::{Counted, TRIES, Taken, count, wait_for_no_child};
use crate::engine::{Context, Sink};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

pub(super) async fn dump(
    server: &Server,
    folder: &Path,
    info: &Info,
    patience: Duration,
    out: &dyn Sink,
    cx: &Context,
) -> Result<Taken> {
    let place = place(server, folder).await?;
    check_space(folder, &place, info)?;
    let saved = cx.unless_cancelled(save(server, folder, &place, patience, cx)).await?;
    taken(saved, out, cx).await
}

/// The same of a save that was begun before.
pub(super) async fn dump_begun(server: &Server, begun: Begun, out: &dyn Sink, cx: &Context) -> Result<Taken> {
    let Begun { before, file, position, opened } = begun;
    cx.phase("saving", 0);
    let file = cx.unless_cancelled(before.saved(server, file)).await?.ok_or_else(|| {
        Error::new(Kind::Conflict, "another save came between: which RDB is of the cut's instant cannot be told")
    })?;
    taken(Saved::new(file, position, opened)?, out, cx).await
}

/// The path of the server's RDB.
pub(in crate::engine::redis) async fn place(server: &Server, folder: &Path) -> Result<PathBuf> {
    Ok(folder.join(server.config("dbfilename").await?.unwrap_or_else(|| "dump.rdb".to_owned())))
}

async fn taken(saved: Saved, out: &dyn Sink, cx: &Context) -> Result<Taken> {
    cx.phase("dumping", saved.length);
    let counted = cx.unless_cancelled(copy(saved.file, out, cx)).await?;
    Ok(Taken {
        counted,
        position: saved.position,
        opened: saved.opened,
        tool: "BGSAVE",
        end_marker: "rdb_last_bgsave_status:ok, end mark and checksum of the RDB",
    })
}

/// The data folder right before a BGSAVE.
pub(in crate::engine::redis) struct Before {
    folder: PathBuf,
    place: PathBuf,
    temporary: BTreeSet<PathBuf>,
    inode: Option<(u64, u64)>,
}

/// A save that was begun while nothing could be written, and nothing can be asked.
pub(in crate::engine::redis) struct Begun {
    before: Before,
    file: Option<File>,
    position: Option<String>,
    opened: jiff::Timestamp,
}

impl Begun {
    /// As it was begun just now; where the server stood is in `info`.
    pub(in crate::engine::redis) fn now(before: Before, info: &Info) -> Self {
        let position = info.get("master_repl_offset").map(str::to_owned);
        Self { before, file: None, position, opened: clock::now() }
    }

    /// Gets hold of the file, which until then can be no other save's: whoever could cause one is stopped.
    pub(in crate::engine::redis) async fn catch(&mut self, until: Instant) -> Result<()> {
        loop {
            self.file = self.before.new_file()?;
            if self.file.is_none() && inode(&self.before.place)? != self.before.inode {
                let opened = File::open(&self.before.place);
                self.file = Some(opened.map_err(|e| Error::io("open the RDB that was just saved", e))?);
            }
            if self.file.is_some() || Instant::now() >= until {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Before {
    /// Looks.
    pub(in crate::engine::redis) fn look(folder: &Path, place: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            place: place.to_owned(),
            temporary: temporary_files(folder)?,
            inode: inode(place)?,
        })
    }

    /// The file that a child writes now.
    fn new_file(&self) -> Result<Option<File>> {
        for path in temporary_files(&self.folder)?.difference(&self.temporary) {
            match File::open(path) {
                Ok(file) => return Ok(Some(file)),
                // Renamed between listing and opening: it is the server's RDB now.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    let text = format!("open {}; does the agent run as the server's user?", path.display());
                    return Err(Error::io(text, e));
                }
            }
        }
        Ok(None)
    }

    /// Waits for the end of the save, and gives the file that its child wrote, of which `file` may be known already; `None` when another save came
    /// in between.
    async fn saved(&self, server: &Server, mut file: Option<File>) -> Result<Option<File>> {
        loop {
            if file.is_none() {
                file = self.new_file()?;
            }
            let info = server.info().await?;
            if info.is("rdb_bgsave_in_progress", "0") {
                check_saved(&info, &self.folder)?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(if file.is_none() { 1 } else { 50 })).await;
        }
        let after = inode(&self.place)?;
        match file {
            // The child's file has become the server's RDB.
            Some(file) if Some(identity(&file)?) == after => Ok(Some(file)),
            // It was too quick to be seen, and the server's RDB is another file than before.
            None if after.is_some() && after != self.inode => {
                File::open(&self.place).map(Some).map_err(|e| Error::io("open the RDB that was just saved", e))
            }
            // Which of the two files is whose cannot be told.
            Some(_) | None => Ok(None),
        }
    }
}

struct Saved {
    file: File,
    length: u64,
    position: Option<String>,
    opened: jiff::Timestamp,
}

impl Saved {
    fn new(file: File, position: Option<String>, opened: jiff::Timestamp) -> Result<Self> {
        let length = file.metadata().map_err(|e| Error::io("look at the RDB", e))?.len();
        Ok(Self { file, length, position, opened })
    }
}

/// Makes the server save, and gives the file that its child wrote.
async fn save(server: &Server, folder: &Path, place: &Path, patience: Duration, cx: &Context) -> Result<Saved> {
    // Under a hold there is one try: another would be of another instant.
    let tries = if patience.is_zero() { 1 } else { TRIES };
    for _ in 0..tries {
        wait_for_no_child(server, patience).await?;
        let before = Before::look(folder, place)?;
        let position = server.info().await?.get("master_repl_offset").map(str::to_owned);
        match server.ask::<String>(&["BGSAVE"]).await {
            Ok(_) => {}
            // A save point came first: that save is of another instant than ours would be.
            Err(e) if e.chain().contains("in progress") => continue,
            Err(e) => return Err(e),
        }
        let opened = clock::now();
        cx.snapshot_open();
        cx.phase("saving", 0);
        if let Some(file) = before.saved(server, None).await? {
            return Saved::new(file, position, opened);
        }
    }
    Err(Error::new(
        Kind::Busy,
        format!(
            "of {tries} BGSAVEs none became {} (is --redis-data-dir {} the server's data folder? do its save points come every few seconds?)",
            place.display(),
            folder.display()
        ),
    ))
}

fn check_saved(info: &Info, folder: &Path) -> Result<()> {
    if info.is("rdb_last_bgsave_status", "ok") {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unavailable,
        format!(
            "the server's BGSAVE failed (rdb_last_bgsave_status:{}): its log says why, most often no room in {} or no memory to fork: make room and \
             back up again. Until a save succeeds the server may refuse writes (stop-writes-on-bgsave-error)",
            info.get("rdb_last_bgsave_status").unwrap_or("unknown"),
            folder.display()
        ),
    ))
}

/// A save that fails for lack of room can make the server refuse writes, so it is not even tried.
pub(in crate::engine::redis) fn check_space(folder: &Path, place: &Path, info: &Info) -> Result<()> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|e| Error::io(format!("look at --redis-data-dir {}", folder.display()), e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let last = std::fs::metadata(place).map_or(0, |m| m.len());
    // An RDB is smaller than the data in memory; how much smaller, the last one tells best.
    let needed = if last > 0 { last + last / 4 } else { info.number("used_memory_dataset") / 2 };
    if free < needed {
        return Err(Error::new(
            Kind::Busy,
            format!(
                "{} has {free} bytes free, a save needs about {needed}: make room before the dump",
                folder.display()
            ),
        ));
    }
    Ok(())
}

fn temporary_files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let what = || format!("list --redis-data-dir {}", folder.display());
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(what(), e))? {
        let entry = entry.map_err(|e| Error::io(what(), e))?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b"temp-") && name.ends_with(b".rdb") {
            found.insert(entry.path());
        }
    }
    Ok(found)
}

fn identity(file: &File) -> Result<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino())).map_err(|e| Error::io("look at the RDB", e))
}

fn inode(path: &Path) -> Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("look at {}", path.display()), e)),
    }
}

/// Reads the file, walks what is read and hands it on.
async fn copy(file: File, out: &dyn Sink, cx: &Context) -> Result<Counted> {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(CHUNK);
    let mut checking = Checking::start(count);
    let mut artifact = out.artifact(&ArtifactName::new(ARTIFACT)?).await?;
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        if file.read_buf(&mut buffer).await.map_err(|e| Error::io("read the RDB", e))? == 0 {
            break;
        }
        let chunk = buffer.freeze();
        cx.advance(chunk.len() as u64);
        checking.feed(chunk.clone()).await.context("the RDB that the server wrote")?;
        artifact.write(chunk).await?;
    }
    let counted = checking.finish().await.context("the RDB that the server wrote")?;
    let length = artifact.finish().await?;
    if length != counted.walked.length {
        let of = counted.walked.length;
        return Err(Error::new(Kind::Internal, format!("{length} bytes were stored of an RDB of {of}")));
    }
    Ok(counted)
}
