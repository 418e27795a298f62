//! Goes through a tree in the one order that archives have: folders first, names byte by byte.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::{Body, File, MAX_DEPTH, Tally, shown};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::mounts::Mounts;
use super::tree::{Listing, Node, Root, failed, is_gone, open_folder};

/// One name in an open folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    /// Its path from the top.
    pub(super) path: &'a [u8],
}

/// Why something that was listed is not visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// It was removed meanwhile.
    Vanished,
    /// It is on another filesystem, or belongs to the filesystem.
    LeftAlone,
}

/// What is done with what is found.
pub(super) trait Visitor {
    /// Fails when the walk should end.
    fn check(&self) -> Result<()>;
    /// A folder, before what is in it. The top has the empty path.
    fn folder(&mut self, path: &[u8], node: &Node) -> Result<()>;
    /// A folder, after what is in it, as it is now.
    fn folder_done(&mut self, path: &[u8], before: &Node, now: &Node) -> Result<()>;
    /// Anything but a folder.
    fn other(&mut self, place: Place<'_>, node: &Node) -> Result<()>;
    /// Something that is not visited.
    fn missed(&mut self, path: &[u8], why: Missed);
}

struct Level {
    dir: OwnedFd,
    node: Node,
    names: Listing,
    next: usize,
    /// Length of the folder's path.
    path: usize,
}

/// Walks the live tree; at its top, what is not ours is left alone.
pub(super) fn walk_root(root: &Root, visitor: &mut impl Visitor) -> Result<()> {
    walk(root.dir.as_fd(), Some(root), visitor)
}

/// Walks a tree of our own making.
pub(super) fn walk_own(top: BorrowedFd<'_>, visitor: &mut impl Visitor) -> Result<()> {
    walk(top, None, visitor)
}

fn walk(top: BorrowedFd<'_>, root: Option<&Root>, visitor: &mut impl Visitor) -> Result<()> {
    let mut path = Vec::new();
    let dir = open_folder(top, c".").map_err(|e| failed("open the folder", &path, e))?;
    let first = level(dir, &path)?;
    let bounds = Bounds { dev: first.node.dev, root, mounts: root.map(|r| &r.mounts) };
    visitor.folder(&path, &first.node)?;
    let mut levels = vec![first];
    while let Some(current) = levels.last_mut() {
        visitor.check()?;
        path.truncate(current.path);
        let Some(name) = current.names.get(current.next) else {
            let now = rustix::fs::fstat(&current.dir).map_err(|e| failed("look at", &path, e))?;
            visitor.folder_done(&path, &current.node, &Node::new(&now))?;
            levels.pop();
            continue;
        };
        current.next += 1;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let dir = current.dir.as_fd();
        let node = match Node::at(dir, name).map_err(|e| failed("look at", &path, e))? {
            None => {
                visitor.missed(&path, Missed::Vanished);
                continue;
            }
            Some(node) if bounds.leaves_alone(&path, &node) => {
                visitor.missed(&path, Missed::LeftAlone);
                continue;
            }
            Some(node) => node,
        };
        if node.kind != FileType::Directory {
            visitor.other(Place { dir, name, path: &path }, &node)?;
            continue;
        }
        let dir = match open_folder(dir, name) {
            Ok(dir) => dir,
            // Removed, or something else by now.
            Err(e) if is_gone(e) || matches!(e, Errno::NOTDIR | Errno::LOOP) => {
                visitor.missed(&path, Missed::Vanished);
                continue;
            }
            Err(e) => return Err(failed("open the folder", &path, e)),
        };
        if levels.len() >= MAX_DEPTH {
            let text = format!("the folder {} is more than {MAX_DEPTH} levels deep", shown(&path));
            return Err(Error::new(Kind::Unsupported, text));
        }
        let below = level(dir, &path)?;
        visitor.folder(&path, &below.node)?;
        levels.push(below);
    }
    Ok(())
}

fn level(dir: OwnedFd, path: &[u8]) -> Result<Level> {
    let stat = rustix::fs::fstat(&dir).map_err(|e| failed("look at", path, e))?;
    let names = Listing::read(dir.as_fd()).map_err(|e| failed("list the folder", path, e))?;
    Ok(Level { dir, node: Node::new(&stat), names, next: 0, path: path.len() })
}

/// Where a walk stops.
struct Bounds<'a> {
    dev: u64,
    root: Option<&'a Root>,
    mounts: Option<&'a Mounts>,
}

impl Bounds<'_> {
    fn leaves_alone(&self, path: &[u8], node: &Node) -> bool {
        let at_top = !path.contains(&b'/');
        node.dev != self.dev
            || self.mounts.is_some_and(|m| m.contains(path))
            || (at_top && self.root.is_some_and(|r| r.leaves_alone(path, node)))
    }
}

/// Counts a tree as archives are counted.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) tally: Tally,
    /// Files with more than one name, seen once.
    linked: HashSet<u64>,
    /// Sockets and the like, which no archive has.
    pub(super) odd: u64,
}

impl Visitor for Counter {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn folder(&mut self, path: &[u8], _node: &Node) -> Result<()> {
        if !path.is_empty() {
            self.tally.add(&Body::Directory);
        }
        Ok(())
    }

    fn folder_done(&mut self, _path: &[u8], _before: &Node, _now: &Node) -> Result<()> {
        Ok(())
    }

    fn other(&mut self, _place: Place<'_>, node: &Node) -> Result<()> {
        match node.kind {
            FileType::RegularFile if node.links > 1 && !self.linked.insert(node.ino) => {
                self.tally.add(&Body::HardLink(Vec::new()));
            }
            FileType::RegularFile => self.tally.add(&Body::File(File { size: node.size, extents: None })),
            FileType::Symlink => self.tally.add(&Body::Symlink(Vec::new())),
            _ => self.odd += 1,
        }
        Ok(())
    }

    fn missed(&mut self, _path: &[u8], _why: Missed) {}
}
