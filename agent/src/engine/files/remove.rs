//! Removes a tree of our own: never through a link, never into another filesystem.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::shown;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::steps::Steps;
use super::tree::{Listing, Node, failed, open_folder};

struct Level {
    dir: OwnedFd,
    /// Its name in the level above.
    name: CString,
    names: Listing,
    next: usize,
}

/// Removes what has this name in a folder, and all that is in it. Nothing there is success.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr, steps: &Steps) -> Result<()> {
    let fail = |name: &CStr, e| failed("remove", name.to_bytes(), e);
    let Some(top) = Node::at(parent, name).map_err(|e| fail(name, e))? else { return Ok(()) };
    let unlink = |dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags| {
        steps.pass("remove").and_then(|()| rustix::fs::unlinkat(dir, name, flags)).map_err(|e| fail(name, e))
    };
    if top.kind != FileType::Directory {
        return unlink(parent, name, AtFlags::empty());
    }
    let mut levels = vec![enter(parent, name)?];
    while let Some(current) = levels.last_mut() {
        if let Some(child) = current.names.get(current.next) {
            current.next += 1;
            let dir = current.dir.as_fd();
            let Some(node) = Node::at(dir, child).map_err(|e| fail(child, e))? else { continue };
            if node.dev != top.dev {
                let text = format!("{} is another filesystem: unmount it first", shown(child.to_bytes()));
                return Err(Error::new(Kind::Conflict, text));
            }
            if node.kind == FileType::Directory {
                let below = enter(dir, child)?;
                levels.push(below);
            } else {
                unlink(dir, child, AtFlags::empty())?;
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let above = levels.last().map_or(parent, |l| l.dir.as_fd());
        unlink(above, &done.name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn enter(parent: BorrowedFd<'_>, name: &CStr) -> Result<Level> {
    let fail = |e| failed("remove the folder", name.to_bytes(), e);
    let dir = match open_folder(parent, name) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty()).map_err(fail)?;
            open_folder(parent, name)
        }
        other => other,
    }
    .map_err(fail)?;
    let mode = Node::new(&rustix::fs::fstat(&dir).map_err(fail)?).meta.mode;
    if mode & 0o700 != 0o700 {
        // If this is not allowed, the removal of what is in it says why.
        let _may_fail = rustix::fs::fchmod(&dir, Mode::RWXU);
    }
    let names = Listing::read(dir.as_fd()).map_err(fail)?;
    Ok(Level { dir, name: name.to_owned(), names, next: 0 })
}
