//! Puts what was staged in the place of what is live, and back: by renames of names at the top.
//!
//! Nothing is remembered of a swap but which of its two halves it is in; the rest is derived from what exists, so that any agent can bring it to its
//! end in either direction. While `new` still has a name, what is live under that name is old, or absent. While the set is being moved in, everything
//! live that is not in `new` is of the set. What the set lacks is moved out before the first name is moved in, and moved back after the last of them.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::shown;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::facts::{Facts, ReadOnly};
use super::staging::{Folder, NEW, OLD, State};
use super::steps::Steps;
use super::tree::{Listing, Node, Root, c_name, failed};

/// The three folders.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    root: &'a Root,
    new: OwnedFd,
    old: OwnedFd,
}

impl<'a> Swap<'a> {
    pub(super) fn new(root: &'a Root, folder: &Folder) -> Result<Self> {
        Ok(Self { root, new: folder.inside(NEW)?, old: folder.inside(OLD)? })
    }

    /// From `MovingOut` or `MovingIn` until all of the set is live.
    pub(super) fn forward(&self, folder: &mut Folder) -> Result<()> {
        let (live, new, old) = (self.root.dir.as_fd(), self.new.as_fd(), self.old.as_fd());
        if folder.state == State::MovingOut {
            let coming = list(new)?;
            for name in list(live)?.iter().filter(|name| !coming.contains(name)) {
                if self.is_ours(name)? {
                    self.transfer(live, old, name)?;
                }
            }
            self.sync()?;
            folder.set_state(State::MovingIn)?;
        }
        for name in list(new)?.iter() {
            // Each name is away for a moment only.
            if self.is_ours(name)? {
                self.transfer(live, old, name)?;
            }
            self.transfer(new, live, name)?;
        }
        self.sync()
    }

    /// From `MovingIn` or `MovingOut` until all is live that was live before, and all of the set in `new`.
    pub(super) fn back(&self, folder: &mut Folder) -> Result<()> {
        let (live, new, old) = (self.root.dir.as_fd(), self.new.as_fd(), self.old.as_fd());
        if folder.state == State::MovingIn {
            let staying = list(new)?;
            for name in list(live)?.iter().filter(|name| !staying.contains(name)) {
                if self.is_ours(name)? {
                    self.transfer(live, new, name)?;
                    self.bring_back(name)?;
                }
            }
            self.sync()?;
            folder.set_state(State::MovingOut)?;
        }
        for name in list(old)?.iter() {
            self.transfer(old, live, name)?;
        }
        self.sync()
    }

    /// All of `new` becomes live, where nothing is live any more.
    pub(super) fn bring_in(&self) -> Result<()> {
        for name in list(self.new.as_fd())?.iter() {
            self.transfer(self.new.as_fd(), self.root.dir.as_fd(), name)?;
        }
        self.sync()
    }

    /// Whether a load moves what is live under this name: there is something, and it is neither of the filesystem nor a mount.
    pub(super) fn is_ours(&self, name: &CStr) -> Result<bool> {
        let node = Node::at(self.root.dir.as_fd(), name).map_err(|e| failed("look at", name.to_bytes(), e))?;
        Ok(node.is_some_and(|node| !self.root.leaves_alone(name.to_bytes(), &node)))
    }

    fn bring_back(&self, name: &CStr) -> Result<()> {
        match Node::at(self.old.as_fd(), name).map_err(|e| failed("look at", name.to_bytes(), e))? {
            Some(_) => self.transfer(self.old.as_fd(), self.root.dir.as_fd(), name),
            None => Ok(()),
        }
    }

    fn sync(&self) -> Result<()> {
        let fail = |e| failed("write to disk", b"", e);
        self.root.steps.pass("sync the volume").map_err(fail)?;
        rustix::fs::syncfs(&self.root.dir).map_err(fail)
    }

    fn transfer(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        transfer(from, to, name, &self.root.steps).map_err(|e| match e {
            Errno::EXIST => Error::caused(
                Kind::Conflict,
                format!(
                    "something else has made {} in the volume meanwhile: stop it, move {0} out of the volume, and ask again",
                    shown(name.to_bytes())
                ),
                std::io::Error::from(e),
            ),
            e => failed("move", name.to_bytes(), e),
        })
    }

    /// Folders at the top that their owner may not write to, on both sides.
    pub(super) fn read_only(&self) -> Result<Vec<ReadOnly>> {
        let mut found = Vec::new();
        for (dir, is_new) in [(self.root.dir.as_fd(), false), (self.new.as_fd(), true)] {
            for name in list(dir)?.iter() {
                let fail = |e| failed("look at", name.to_bytes(), e);
                match Node::at(dir, name).map_err(fail)? {
                    Some(n) if n.kind != FileType::Directory || n.meta.mode & 0o200 != 0 => {}
                    Some(n) if !is_new && self.root.leaves_alone(name.to_bytes(), &n) => {}
                    Some(n) => found.push(ReadOnly::new(name.to_bytes(), n.meta.mode, is_new)),
                    None => {}
                }
            }
        }
        Ok(found)
    }

    /// Gives those folders their modes, wherever they are now: an agent that was killed may have left them writable. `swapped` says whether the set
    /// is live.
    pub(super) fn settle(&self, facts: &Facts, swapped: bool) -> Result<()> {
        for folder in &facts.read_only {
            let at = match (folder.is_new, swapped) {
                (true, true) | (false, false) => self.root.dir.as_fd(),
                (true, false) => self.new.as_fd(),
                (false, true) => self.old.as_fd(),
            };
            let name = c_name(&folder.name()?)?;
            let fail = |e| failed("set the mode of", name.to_bytes(), e);
            let node = Node::at(at, &name).map_err(fail)?;
            if node.is_some_and(|n| n.kind == FileType::Directory && n.meta.mode != folder.mode) {
                self.root.steps.pass("set a mode").map_err(fail)?;
                rustix::fs::chmodat(at, &name, Mode::from_raw_mode(folder.mode), AtFlags::empty()).map_err(fail)?;
            }
        }
        Ok(())
    }
}

fn list(dir: BorrowedFd<'_>) -> Result<Listing> {
    Listing::read(dir).map_err(|e| failed("list", b"", e))
}

/// Moves a name from folder to folder, whatever its mode.
fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, steps: &Steps) -> Result<(), Errno> {
    steps.pass("move")?;
    let refused = match rename_new(from, to, name) {
        Err(Errno::ACCESS) => Errno::ACCESS,
        other => return other,
    };
    // A folder can be moved elsewhere only by whom may write to it.
    let node = Node::at(from, name)?.filter(|n| n.kind == FileType::Directory).ok_or(refused)?;
    let before = Mode::from_raw_mode(node.meta.mode);
    steps.pass("make a folder writable")?;
    rustix::fs::chmodat(from, name, before | Mode::RWXU, AtFlags::empty())?;
    steps.pass("move a folder")?;
    let moved = rename_new(from, to, name);
    let at = if moved.is_ok() { to } else { from };
    steps.pass("make a folder read-only")?;
    // It is ours: its mode could be changed a moment ago. What does not succeed is made good in the end.
    let _back = rustix::fs::chmodat(at, name, before, AtFlags::empty());
    moved
}

/// Moves a name from folder to folder, never over another.
fn rename_new(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // A filesystem that cannot promise it; then looking first has to do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match Node::at(to, name)? {
            None => rustix::fs::renameat(from, name, to, name),
            Some(_) => Err(Errno::EXIST),
        },
        other => other,
    }
}
