//! An archive to a tree in a folder that nobody else uses.
//!
//! Every entry is made new below an open folder (`O_EXCL`, `O_NOFOLLOW`), never through a path, so that nothing in the
//! archive can lead a later entry out of the folder. Folders get their mode and time when they are full.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::{Body, Entry, File, Input, Meta, Reader, shown, split};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::tree::{Node, c_name, failed, open_folder, times};

/// Makes the entries of one archive in turn; they must have been admitted by the rules.
#[derive(Debug)]
pub(super) struct Extractor<'a> {
    top: BorrowedFd<'a>,
    /// The folders that are being filled, outermost first.
    open: Vec<Open>,
    owner: bool,
    /// What the root should have.
    pub(super) root: Option<Meta>,
    /// Entries whose set-id bits the system did not accept.
    pub(super) refused_bits: u64,
}

#[derive(Debug)]
struct Open {
    dir: OwnedFd,
    path: Vec<u8>,
    meta: Meta,
}

impl<'a> Extractor<'a> {
    /// Into this folder; with `owner`, the recorded owner is set.
    pub(super) fn new(top: BorrowedFd<'a>, owner: bool) -> Self {
        Self { top, open: Vec::new(), owner, root: None, refused_bits: 0 }
    }

    /// Makes an entry, reading its data.
    pub(super) fn make<I: Input>(&mut self, entry: Entry, reader: &mut Reader<I>) -> Result<()> {
        let Some((folder, name)) = split(&entry.path) else {
            self.root = Some(entry.meta);
            return Ok(());
        };
        self.close_until(folder)?;
        let dir = self.open.last().map_or(self.top, |o| o.dir.as_fd());
        let name = c_name(name)?;
        let fail = |doing: &str, e: Errno| failed(doing, &entry.path, e);
        match &entry.body {
            Body::Directory => {
                rustix::fs::mkdirat(dir, &name, Mode::RWXU).map_err(|e| fail("make the folder", e))?;
                let made = open_folder(dir, &name).map_err(|e| fail("open the folder", e))?;
                self.open.push(Open { dir: made, path: entry.path, meta: entry.meta });
            }
            Body::File(file) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(dir, &name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|e| fail("make the file", e))?;
                write(&made, file, reader, &entry.path)?;
                self.refused_bits += settle(made.as_fd(), entry.meta, self.owner, &entry.path)?;
            }
            Body::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), dir, &name).map_err(|e| fail("make the link", e))?;
                if self.owner {
                    let (uid, gid) = ids(entry.meta)?;
                    rustix::fs::chownat(dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|e| cannot_chown(&entry.path, e))?;
                }
                rustix::fs::utimensat(dir, &name, &times(entry.meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| fail("set the time of", e))?;
            }
            Body::HardLink(target) => {
                self.link(target, dir, &name).map_err(|e| fail("make the hard link", e))?;
            }
        }
        Ok(())
    }

    /// Settles the folders that are still being filled.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.close_until(b"")
    }

    /// Settles folders until the innermost one is this.
    fn close_until(&mut self, folder: &[u8]) -> Result<()> {
        while let Some(done) = self.open.pop_if(|o| o.path != folder) {
            self.refused_bits += settle(done.dir.as_fd(), done.meta, self.owner, &done.path)?;
        }
        Ok(())
    }

    /// Links to a file made before; no link on the way is followed, nor at its end.
    fn link(&self, target: &[u8], dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<(), Errno> {
        let (folder, file) = split(target).ok_or(Errno::INVAL)?;
        let mut at: Option<OwnedFd> = None;
        for step in folder.split(|b| *b == b'/').filter(|s| !s.is_empty()) {
            let step = std::ffi::CString::new(step).map_err(|_| Errno::INVAL)?;
            at = Some(open_folder(at.as_ref().map_or(self.top, AsFd::as_fd), &step)?);
        }
        let from = at.as_ref().map_or(self.top, AsFd::as_fd);
        let file = std::ffi::CString::new(file).map_err(|_| Errno::INVAL)?;
        match Node::at(from, &file)? {
            Some(node) if node.kind == FileType::RegularFile => {
                rustix::fs::linkat(from, &file, dir, name, AtFlags::empty())
            }
            _ => Err(Errno::NOENT),
        }
    }
}

/// Writes the data where it belongs; what is between stays a hole.
fn write<I: Input>(made: &OwnedFd, file: &File, reader: &mut Reader<I>, path: &[u8]) -> Result<()> {
    let mut end = 0;
    while let Some((mut at, mut piece)) = reader.data()? {
        while !piece.is_empty() {
            let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(made, &piece, at))
                .map_err(|e| failed("write the file", path, e))?;
            if n == 0 {
                return Err(failed("write the file", path, Errno::NOSPC));
            }
            at = at.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
            drop(piece.split_to(n.min(piece.len())));
        }
        end = at;
    }
    if end < file.size {
        rustix::fs::ftruncate(made, file.size).map_err(|e| failed("set the length of", path, e))?;
    }
    Ok(())
}

/// Gives a file or folder its owner, mode and time; returns 1 if the system kept back a set-id bit.
pub(super) fn settle(made: BorrowedFd<'_>, meta: Meta, owner: bool, path: &[u8]) -> Result<u64> {
    if owner {
        let (uid, gid) = ids(meta)?;
        rustix::fs::fchown(made, Some(uid), Some(gid)).map_err(|e| cannot_chown(path, e))?;
    }
    // After the owner, because a change of owner takes set-id bits away.
    let mode = Mode::from_raw_mode(meta.mode);
    rustix::fs::fchmod(made, mode).map_err(|e| failed("set the mode of", path, e))?;
    rustix::fs::futimens(made, &times(meta.mtime)).map_err(|e| failed("set the time of", path, e))?;
    if meta.mode & 0o6000 == 0 {
        return Ok(0);
    }
    // A set-group-id bit for a group that the agent is not in is dropped by the kernel without an error.
    let now = rustix::fs::fstat(made).map_err(|e| failed("look at", path, e))?;
    Ok(u64::from(Node::new(&now).meta.mode != meta.mode))
}

fn cannot_chown(path: &[u8], e: Errno) -> Error {
    let remedy = "run the agent as root, or without --files-preserve-owner";
    Error::caused(Kind::Denied, format!("set the owner of {}: {remedy}", shown(path)), std::io::Error::from(e))
}

fn ids(meta: Meta) -> Result<(Uid, Gid)> {
    // The highest number means "leave as it is".
    if meta.uid == u32::MAX || meta.gid == u32::MAX {
        return Err(Error::new(Kind::Corrupt, "an entry has an owner that cannot exist"));
    }
    Ok((Uid::from_raw(meta.uid), Gid::from_raw(meta.gid)))
}
