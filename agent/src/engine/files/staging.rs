//! The folder of one load below the root, and what earlier loads left.
//!
//! `.keepsake-<run>/` has `new` (unpacked, not yet live), `old` (what was live, while it is still needed) and `gone` (what was
//! live, and is being deleted). A folder that has an `old` is never deleted by us: an interrupted load may have left the only
//! copy there.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::shown;
use keepsake_core::id::RunKey;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, flock};
use rustix::io::Errno;

use super::remove::remove_tree;
use super::tree::{Listing, Node, OWN_PREFIX, Root, c_name, failed, open_folder};

/// What was unpacked.
pub(super) const NEW: &CStr = c"new";
/// What was live before.
pub(super) const OLD: &CStr = c"old";
/// What was live before and is no longer needed.
pub(super) const GONE: &CStr = c"gone";

/// The folder of a load that is going on.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) name: CString,
    /// Locked for as long as it is open, so that no other agent takes it for a leftover.
    pub(super) dir: OwnedFd,
    pub(super) new: OwnedFd,
}

impl Staging {
    /// Makes it, empty, for our eyes only.
    pub(super) fn create(root: &Root, key: &RunKey) -> Result<Self> {
        let name = c_name(&[OWN_PREFIX, key.run.to_string().as_bytes()].concat())?;
        let fail = |e| failed("make the folder", name.to_bytes(), e);
        rustix::fs::mkdirat(&root.dir, &name, Mode::RWXU).map_err(fail)?;
        let dir = open_folder(&root.dir, &name).map_err(fail)?;
        lock(&dir, name.to_bytes())?;
        rustix::fs::mkdirat(&dir, NEW, Mode::RWXU).map_err(fail)?;
        let new = open_folder(&dir, NEW).map_err(fail)?;
        Ok(Self { name, dir, new })
    }

    /// Its name for people.
    pub(super) fn shown(&self) -> String {
        shown(self.name.to_bytes())
    }

    /// Removes it with what was unpacked; fails while it has an `old` with something in it.
    pub(super) fn remove(self, root: &Root) -> Result<()> {
        remove_tree(self.dir.as_fd(), NEW)?;
        remove_tree(self.dir.as_fd(), GONE)?;
        match rustix::fs::unlinkat(&self.dir, OLD, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("remove", b"old", e)),
        }
        rustix::fs::unlinkat(&root.dir, &self.name, AtFlags::REMOVEDIR)
            .map_err(|e| failed("remove", self.name.to_bytes(), e))
    }
}

/// Removes what loads of agents that died have left, where that cannot be live data.
///
/// # Errors
/// `Conflict` with what to do when it can; `Busy` when another agent is loading.
pub(super) fn ensure_no_leftovers(root: &Root) -> Result<()> {
    each_leftover(root, |name, dir, safe| {
        lock(dir, name.to_bytes())?;
        if !safe {
            return Err(Error::new(Kind::Conflict, look_at(name)));
        }
        tracing::info!(folder = %shown(name.to_bytes()), "removing what an interrupted load has left");
        remove_tree(root.dir.as_fd(), name)
    })
}

/// What would make [`ensure_no_leftovers`] refuse, in words.
pub(super) fn leftover_problems(root: &Root) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    each_leftover(root, |name, _dir, safe| {
        if !safe {
            problems.push(look_at(name));
        }
        Ok(())
    })?;
    Ok(problems)
}

fn each_leftover(root: &Root, mut found: impl FnMut(&CStr, &OwnedFd, bool) -> Result<()>) -> Result<()> {
    let names = Listing::read(root.dir.as_fd()).map_err(|e| failed("list", b"", e))?;
    for name in names.iter().filter(|n| n.to_bytes().starts_with(OWN_PREFIX)) {
        let fail = |e| failed("look at", name.to_bytes(), e);
        match Node::at(root.dir.as_fd(), name).map_err(fail)? {
            Some(node) if node.kind == FileType::Directory && node.dev == root.node.dev => {}
            _ => continue,
        }
        let dir = open_folder(&root.dir, name).map_err(fail)?;
        let inside = Listing::read(dir.as_fd()).map_err(fail)?;
        let safe = inside.iter().all(|n| n == NEW || n == GONE);
        found(name, &dir, safe)?;
    }
    Ok(())
}

fn look_at(name: &CStr) -> String {
    format!(
        "the folder {} in the volume is of a load that was interrupted while it moved files: what was live before is in \
         its \"old\", what was not yet moved in is in its \"new\". Move back what you need, remove the folder, and try again",
        shown(name.to_bytes())
    )
}

fn lock(dir: &OwnedFd, name: &[u8]) -> Result<()> {
    match flock(dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            Err(Error::new(Kind::Busy, format!("another agent is loading into this volume ({})", shown(name))))
        }
        // Some network filesystems cannot lock folders. Then only the coordinator keeps two loads apart.
        Ok(()) | Err(_) => Ok(()),
    }
}
