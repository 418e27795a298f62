//! Files in the server's data folder: the RDB brought there, and laid out as the server reads it when it starts.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt as _};
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

/// Makes a file or folder the server's. For root its owner becomes the data folder's. Anybody else is its owner, or shares a group with it: then that group
/// may read the file, and write into the folder. The mode is set afterwards, because this process makes everything for its user alone.
fn give(data: &Path, path: &Path) -> Result<()> {
    let what = || format!("make {} the server's", path.display());
    let look = |path: &Path| std::fs::metadata(path).map_err(|e| Error::io(format!("look at {}", path.display()), e));
    let (to, own) = (look(data)?, look(path)?);
    let us = rustix::process::geteuid();
    let shared = !us.is_root() && us.as_raw() != to.uid();
    if us.is_root() {
        std::os::unix::fs::chown(path, Some(to.uid()), Some(to.gid())).map_err(|e| Error::io(what(), e))?;
    } else if own.gid() != to.gid()
        && let Err(e) = std::os::unix::fs::chown(path, None, Some(to.gid()))
        && shared
    {
        return Err(Error::io(what(), e));
    }
    let mode = match (own.is_dir(), shared) {
        (true, true) => 0o770,
        (true, false) => 0o750,
        // Before version 7 the server goes on writing an AOF in its place.
        (false, true) => 0o660,
        (false, false) => 0o640,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|e| Error::io(what(), e))
}

/// Why the server could not read what this agent lays into its folder, in words; `None` when it can, as far as the folder tells.
pub(super) fn cannot_hand_over(settings: &Settings) -> Option<String> {
    let data = settings.redis_data_dir.as_deref()?;
    let us = rustix::process::geteuid().as_raw();
    let mut groups = match rustix::process::getgroups() {
        Ok(groups) => groups,
        Err(e) => return Some(format!("this process's groups cannot be told: {e}")),
    };
    groups.push(rustix::process::getegid());
    let groups: Vec<u32> = groups.into_iter().map(rustix::fs::Gid::as_raw).collect();
    match std::fs::metadata(data) {
        Ok(folder) if us == 0 || us == folder.uid() || groups.contains(&folder.gid()) || has_written(data, us) => None,
        Ok(folder) => Some(format!(
            "{} belongs to user {} and group {}, and this agent runs as user {us} in the groups {groups:?}: the server could not read what it lays there. Run \
             it as the server's user, or in that group",
            data.display(),
            folder.uid(),
            folder.gid()
        )),
        Err(e) => Some(format!("{} cannot be looked at ({e})", data.display())),
    }
}

/// Whether the server's own files are this user's: then the server is, too, whoever made its folder.
fn has_written(data: &Path, us: u32) -> bool {
    let Ok(entries) = std::fs::read_dir(data) else { return false };
    let servers = entries.flatten().filter(|e| !e.file_name().as_encoded_bytes().starts_with(b".keepsake"));
    let owners: Vec<u32> = servers.filter_map(|e| e.metadata().ok()).map(|m| m.uid()).collect();
    !owners.is_empty() && owners.iter().all(|owner| *owner == us)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As they come out of a process whose umask leaves nothing to others.
    #[test]
    fn what_is_handed_over_can_be_read_by_the_servers_group() {
        let data = tempfile::tempdir().unwrap();
        let (folder, file) = (data.path().join("aof"), data.path().join("rdb"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        for path in [&folder, &file] {
            give(data.path(), path).unwrap();
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&file)), (0o750, 0o640));
    }
}
