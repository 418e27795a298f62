//! Puts the unpacked tree in the place of the live one: one rename out and one in per name at the top.
//!
//! A failure half way is taken back, rename by rename, so that the live files are as they were.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use keepsake_core::error::{Error, Result};
use keepsake_core::format::tar::Meta;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::extract::settle;
use super::tree::{Listing, Node, Root, failed, open_folder};

/// Why a swap did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// The live files are as they were.
    TakenBack(Error),
    /// They are not: a part is in `old`.
    Stuck(Error),
}

/// The three folders.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swap<'a> {
    pub(super) root: &'a Root,
    pub(super) new: BorrowedFd<'a>,
    pub(super) old: BorrowedFd<'a>,
    /// Whether recorded owners are set.
    pub(super) owner: bool,
}

/// One rename that was done.
#[derive(Debug)]
enum Move {
    Out(CString),
    In(CString),
}

impl Swap<'_> {
    /// Swaps. `tops` are the folders among the new names and what they should have; returns how many of their set-id bits
    /// the system did not accept.
    pub(super) fn run(self, tops: &[(Vec<u8>, Meta)]) -> Result<u64, Failure> {
        let mut done = Vec::new();
        match self.forward(tops, &mut done) {
            Ok(refused) => Ok(refused),
            Err(cause) => Err(self.back(done, cause)),
        }
    }

    fn forward(self, tops: &[(Vec<u8>, Meta)], done: &mut Vec<Move>) -> Result<u64> {
        let list = |dir| Listing::read(dir).map_err(|e| failed("list", b"", e));
        let (live, new) = (list(self.root.dir.as_fd())?, list(self.new)?);
        // What the set lacks goes first, then name by name, so that each is away for a moment only.
        for name in live.iter().filter(|name| !new.contains(name)) {
            self.move_out(name, done)?;
        }
        let mut refused = 0;
        for name in new.iter() {
            self.move_out(name, done)?;
            transfer(self.new, self.root.dir.as_fd(), name)
                .map_err(|e| failed("move into the volume", name.to_bytes(), e))?;
            done.push(Move::In(name.to_owned()));
            if let Ok(at) = tops.binary_search_by(|(top, _)| top.as_slice().cmp(name.to_bytes())) {
                let (path, meta) = tops.get(at).ok_or_else(|| failed("find", name.to_bytes(), Errno::NOENT))?;
                let dir = open_folder(&self.root.dir, name).map_err(|e| failed("open the folder", path, e))?;
                refused += settle(dir.as_fd(), *meta, self.owner, path)?;
            }
        }
        Ok(refused)
    }

    fn move_out(self, name: &CStr, done: &mut Vec<Move>) -> Result<()> {
        let fail = |e| failed("move out of the volume", name.to_bytes(), e);
        let live = self.root.dir.as_fd();
        match Node::at(live, name).map_err(fail)? {
            None => return Ok(()),
            Some(node) if self.root.leaves_alone(name.to_bytes(), &node) => return Ok(()),
            Some(_) => transfer(live, self.old, name).map_err(fail)?,
        }
        done.push(Move::Out(name.to_owned()));
        Ok(())
    }

    fn back(self, done: Vec<Move>, cause: Error) -> Failure {
        let live = self.root.dir.as_fd();
        for step in done.into_iter().rev() {
            let (name, moved) = match &step {
                Move::In(name) => (name, transfer(live, self.new, name)),
                Move::Out(name) => (name, transfer(self.old, live, name)),
            };
            if let Err(e) = moved {
                let failed = failed("move back", name.to_bytes(), e).chain();
                return Failure::Stuck(cause.context(format!(
                    "the files are half old and half new ({failed}): what was live before and is missing is in the \
                     folder \"old\" of this load, move it back by hand"
                )));
            }
        }
        Failure::TakenBack(cause.context("nothing was loaded, the files are as they were"))
    }
}

/// Moves a name from folder to folder, whatever its mode.
fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
    let refused = match rename_new(from, to, name) {
        Err(Errno::ACCESS) => Errno::ACCESS,
        other => return other,
    };
    // A folder can be moved elsewhere only by whom may write to it.
    let node = Node::at(from, name)?.filter(|n| n.kind == FileType::Directory).ok_or(refused)?;
    let before = Mode::from_raw_mode(node.meta.mode);
    rustix::fs::chmodat(from, name, before | Mode::RWXU, AtFlags::empty())?;
    let moved = rename_new(from, to, name);
    let at = if moved.is_ok() { to } else { from };
    // It is ours: its mode could be changed a moment ago.
    let _back = rustix::fs::chmodat(at, name, before, AtFlags::empty());
    moved
}

/// Moves a name from folder to folder, never over another.
fn rename_new(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
    match renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // A filesystem that cannot promise it; then looking first has to do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match Node::at(to, name)? {
            None => rustix::fs::renameat(from, name, to, name),
            Some(_) => Err(Errno::EXIST),
        },
        other => other,
    }
}
