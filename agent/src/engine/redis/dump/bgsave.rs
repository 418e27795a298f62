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
    let name = server.config("dbfilename").await?.unwrap_or_else(|| "dump.rdb".to_owned());
    let place = folder.join(&name);
    check_space(folder, &place, info)?;
    let saved = cx.unless_cancelled(save(server, folder, &place, patience, cx)).await?;
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

struct Saved {
    file: File,
    length: u64,
    position: Option<String>,
    opened: jiff::Timestamp,
}

/// Makes the server save, and gives the file that its child wrote.
async fn save(server: &Server, folder: &Path, place: &Path, patience: Duration, cx: &Context) -> Result<Saved> {
    // Under a hold there is one try: another would be of another instant.
    let tries = if patience.is_zero() { 1 } else { TRIES };
    for _ in 0..tries {
        wait_for_no_child(server, patience).await?;
        let temporary = temporary_files(folder)?;
        let before = inode(place)?;
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
        let mut file = None;
        loop {
            if file.is_none() {
                file = open_new(folder, &temporary)?;
            }
            let info = server.info().await?;
            if info.is("rdb_bgsave_in_progress", "0") {
                check_saved(&info, folder)?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(if file.is_none() { 1 } else { 50 })).await;
        }
        let after = inode(place)?;
        let file = match file {
            // The child's file has become the server's RDB.
            Some(file) if Some(identity(&file)?) == after => file,
            // It was too quick to be seen, and the server's RDB is another file than before.
            None if after.is_some() && after != before => {
                File::open(place).map_err(|e| Error::io("open the RDB that was just saved", e))?
            }
            // Another save came in between: which of the two files is whose cannot be told.
            Some(_) | None => continue,
        };
        let length = file.metadata().map_err(|e| Error::io("look at the RDB", e))?.len();
        return Ok(Saved { file, length, position, opened });
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
fn check_space(folder: &Path, place: &Path, info: &Info) -> Result<()> {
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

fn open_new(folder: &Path, known: &BTreeSet<PathBuf>) -> Result<Option<File>> {
    for path in temporary_files(folder)?.difference(known) {
        match File::open(path) {
            Ok(file) => return Ok(Some(file)),
            // Renamed between listing and opening: it is the server's RDB now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Error::io(format!("open {}; does the agent run as the server's user?", path.display()), e));
            }
        }
    }
    Ok(None)
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
