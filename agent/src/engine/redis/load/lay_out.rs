//! Files in the server's data folder: the RDB brought there, and laid out as the server reads it when it starts.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result};
use tokio::io::AsyncWriteExt;

use super::super::ARTIFACT;
use super::super::connection::{Info, Server};
use super::super::file::{free, sync_folder};
use super::super::settings::Settings;
use super::super::stages::step;
use super::Load;
use crate::engine::{Context, only_artifact};

/// The data folder; the callers' preflight has made sure that there is one.
pub(super) fn data_folder(settings: &Settings) -> Result<&Path> {
    settings
        .redis_data_dir
        .as_deref()
        .ok_or_else(|| Error::new(Kind::Internal, "a load without a data folder was let pass"))
}

/// Before version 7 the AOF is one file, into which the RDB is copied.
fn copies(info: &Info) -> u64 {
    if info.speaks_as().0 >= 7 { 1 } else { 2 }
}

/// Whether there is room for the RDB; one that is there already is not written again.
pub(super) fn check_space(settings: &Settings, info: &Info, length: u64, is_there: bool) -> Result<()> {
    let folder = data_folder(settings)?;
    let free = free(folder)?;
    let needed = length.saturating_mul(copies(info) - u64::from(is_there));
    if free < needed {
        return Err(Error::new(
            Kind::Busy,
            format!(
                "{} has {free} bytes free, the load needs {needed}: make room before the restore",
                folder.display()
            ),
        ));
    }
    Ok(())
}

/// Whether the RDB lies on the filesystem of the server's files.
pub(super) fn is_there(load: &Load<'_>) -> Result<bool> {
    let Some(file) = load.file else { return Ok(false) };
    let device = |path: &Path| {
        std::fs::metadata(path).map(|m| m.dev()).map_err(|e| Error::io(format!("look at {}", path.display()), e))
    };
    Ok(device(file)? == device(data_folder(load.settings)?)?)
}

/// Brings the dump into the folder of the load; gives its path.
pub(super) async fn bring(load: &Load<'_>, length: u64) -> Result<PathBuf> {
    let data = data_folder(load.settings)?;
    let folder = load.put_back.folder();
    let path = folder.join(ARTIFACT);
    let what = || format!("write {}", path.display());
    std::fs::create_dir_all(folder).map_err(|e| Error::io(what(), e))?;
    give(data, folder)?;
    if let Some(file) = load.file {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(what(), e)),
            _ => {}
        }
        // A second name for it: the server never changes an RDB in its place. Where that is not possible it is written.
        if std::fs::hard_link(file, &path).is_ok() {
            sync_folder(folder)?;
            give(data, &path)?;
            return Ok(path);
        }
    }
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&path);
    let mut file = tokio::fs::File::from_std(file.map_err(|e| Error::io(what(), e))?);
    load.cx.phase("writing", length);
    let (name, _) = only_artifact(load.source, ARTIFACT)?;
    let mut reader = load.source.open(&name).await?;
    let mut written = 0;
    while let Some(chunk) = load.cx.unless_cancelled(reader.read()).await? {
        file.write_all(&chunk).await.map_err(|e| Error::io(what(), e))?;
        written += chunk.len() as u64;
        load.cx.advance(chunk.len() as u64);
    }
    file.flush().await.map_err(|e| Error::io(what(), e))?;
    file.sync_all().await.map_err(|e| Error::io(what(), e))?;
    if written != length {
        return Err(Error::new(Kind::Corrupt, format!("the artifact gave {written} bytes of {length}")));
    }
    give(data, &path)?;
    Ok(path)
}

/// Makes a file the server's: its owner is the data folder's. Only root can, and only root needs to.
fn give(data: &Path, path: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(data).map_err(|e| Error::io(format!("look at {}", data.display()), e))?;
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))
        .map_err(|e| Error::io(format!("make {} the server's", path.display()), e))
}

/// Where the server keeps what it reads when it starts.
#[derive(Debug)]
pub(super) struct Places {
    rdb: PathBuf,
    /// The folder of the AOF since version 7, its one file before.
    aof: PathBuf,
    /// The AOF's own name.
    aof_name: String,
    in_folder: bool,
}

impl Places {
    pub(super) async fn of(server: &Server, settings: &Settings, info: &Info) -> Result<Self> {
        let folder = data_folder(settings)?;
        let config = async |name: &str, default: &str| {
            server.config(name).await.map(|v| v.filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned()))
        };
        let aof_name = config("appendfilename", "appendonly.aof").await?;
        let in_folder = info.speaks_as().0 >= 7;
        let aof = if in_folder { config("appenddirname", "appendonlydir").await? } else { aof_name.clone() };
        let rdb = folder.join(config("dbfilename", "dump.rdb").await?);
        Ok(Self { rdb, aof: folder.join(aof), aof_name, in_folder })
    }

    /// Lays the live RDB aside and this one in its place.
    pub(super) async fn replace_rdb(&self, new: &Path, aside: &Path, cx: &Context) -> Result<()> {
        lay_aside(&self.rdb, aside)?;
        step(cx, "laying the RDB out").await;
        rename(new, &self.rdb)?;
        sync_parent(&self.rdb)?;
        step(cx, "the RDB is laid out").await;
        Ok(())
    }

    /// Lays RDB and AOF aside and this RDB in the place of both, because which of them the server reads is decided by its own
    /// configuration file, which need not say what CONFIG SET said since.
    pub(super) async fn replace_all(&self, new: &Path, aof: &Path, aside: &Path, cx: &Context) -> Result<()> {
        lay_aside(&self.aof, aside)?;
        step(cx, "the AOF is laid aside").await;
        rename(aof, &self.aof)?;
        sync_parent(&self.aof)?;
        step(cx, "the AOF is laid out").await;
        self.replace_rdb(new, aside, cx).await
    }

    /// Makes an AOF of this RDB beside it, whole and the server's own, to be put in its place by a rename; gives its path.
    pub(super) fn make_aof(&self, new: &Path, data: &Path) -> Result<PathBuf> {
        let made = new.with_file_name("aof");
        if !self.in_folder {
            copy(new, &made)?;
            give(data, &made)?;
            return Ok(made);
        }
        let what = || format!("make {}", made.display());
        std::fs::create_dir(&made).map_err(|e| Error::io(what(), e))?;
        let base = format!("{}.1.base.rdb", self.aof_name);
        let path = made.join(&base);
        // Neither is ever changed in its place: the server writes a new file and renames it.
        if std::fs::hard_link(new, &path).is_err() {
            copy(new, &path)?;
        }
        let manifest = made.join(format!("{}.manifest", self.aof_name));
        std::fs::write(&manifest, format!("file {base} seq 1 type b\n")).map_err(|e| Error::io(what(), e))?;
        std::fs::File::open(&manifest).and_then(|f| f.sync_all()).map_err(|e| Error::io(what(), e))?;
        for path in [&made, &path, &manifest] {
            give(data, path)?;
        }
        sync_folder(&made)?;
        Ok(made)
    }
}

fn lay_aside(path: &Path, aside: &Path) -> Result<()> {
    std::fs::create_dir_all(aside).map_err(|e| Error::io(format!("make {}", aside.display()), e))?;
    let Some(name) = path.file_name() else { return Ok(()) };
    match std::fs::rename(path, aside.join(name)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("lay {} aside into {}", path.display(), aside.display()), e))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| Error::io(format!("rename {} to {}", from.display(), to.display()), e))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copy {} to {}", from.display(), to.display());
    std::fs::copy(from, to).map_err(|e| Error::io(what(), e))?;
    std::fs::File::open(to).and_then(|f| f.sync_all()).map_err(|e| Error::io(what(), e))
}

/// Makes a rename into the folder of this path survive a crash of the machine.
fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}
