//! A tree to one archive, in one pass, while applications go on using it.
//!
//! What cannot be read fails the dump: a backup that lacks files is none. What changes while it is read is stored as far as
//! it was read, and told.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::{Body, END, Entry, Extent, File, Tally, encode, padding, shown};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::paths::Paths;
use super::loads::live;
use super::pipe::Outlet;
use super::sparse::extents;
use super::steps::Steps;
use super::tree::{Node, OWN_PREFIX, Root, failed, is_gone};
use super::walk::{Missed, Place, Visitor, walk_root};

/// How many warnings are told one by one.
const MOST_NOTES: usize = 100;

/// What was written.
#[derive(Debug)]
pub(super) struct Dumped {
    pub(super) tally: Tally,
    pub(super) warnings: Vec<String>,
    /// Length of the archive, bytes.
    pub(super) length: u64,
}

/// Writes the archive of everything below a folder.
pub(super) fn dump(root: &Path, out: Outlet, paths: Paths) -> Result<Dumped> {
    let root = Root::open(root, &Steps::default())?;
    let before = live(&root)?;
    paths.begin();
    let mut dumper = Dumper { out, paths, tally: Tally::default(), notes: Notes::default(), linked: HashMap::new() };
    walk_root(&root, &mut dumper)?;
    if live(&root)? != before {
        return Err(Error::new(
            Kind::Conflict,
            "a load moved files while they were dumped: dump again when it has ended",
        ));
    }
    dumper.out.put(&END)?;
    Ok(Dumped { tally: dumper.tally, warnings: dumper.notes.told(), length: dumper.out.finish()? })
}

struct Dumper {
    out: Outlet,
    /// Told every name that is not a folder's.
    paths: Paths,
    tally: Tally,
    notes: Notes,
    /// Files with more than one name: the name they were stored under, and how many names are still to come.
    linked: HashMap<u64, (Vec<u8>, u64)>,
}

impl Visitor for Dumper {
    fn check(&self) -> Result<()> {
        self.out.check()
    }

    fn folder(&mut self, path: &[u8], node: &Node) -> Result<()> {
        self.write(&Entry { path: path.to_vec(), body: Body::Directory, meta: node.meta })
    }

    fn folder_done(&mut self, path: &[u8], before: &Node, now: &Node) -> Result<()> {
        // Our own folder of a load comes and goes in the root; so may anything else, but then it is listed or vanished.
        if before.meta.mtime != now.meta.mtime {
            self.notes.changed(path, "had names added or removed while it was read");
        }
        Ok(())
    }

    fn other(&mut self, place: Place<'_>, node: &Node) -> Result<()> {
        match node.kind {
            FileType::RegularFile => self.file(place, node),
            FileType::Symlink => self.symlink(place, node),
            kind => {
                let what = match kind {
                    FileType::Socket => "a socket",
                    FileType::Fifo => "a FIFO",
                    _ => "a device",
                };
                self.notes.add(format!("{} is {what} and was not stored", shown(place.path)));
                Ok(())
            }
        }
    }

    fn missed(&mut self, path: &[u8], why: Missed) {
        match why {
            Missed::Vanished => {
                self.notes.changed(path, "was removed or replaced before it was reached, and was not stored");
            }
            Missed::LeftAlone if path.starts_with(OWN_PREFIX) => {}
            Missed::LeftAlone => {
                let text = "belongs to the filesystem or is another one, and was not stored";
                self.notes.add(format!("{} {text}", shown(path)));
            }
        }
    }
}

impl Dumper {
    fn write(&mut self, entry: &Entry) -> Result<()> {
        self.out.put(&encode(entry))?;
        if !entry.path.is_empty() {
            self.tally.add(&entry.body);
        }
        if entry.body != Body::Directory {
            self.paths.add(&entry.path, "");
        }
        Ok(())
    }

    fn symlink(&mut self, place: Place<'_>, node: &Node) -> Result<()> {
        match rustix::fs::readlinkat(place.dir, place.name, Vec::new()) {
            Ok(target) => {
                let body = Body::Symlink(target.into_bytes());
                self.write(&Entry { path: place.path.to_vec(), body, meta: node.meta })
            }
            // Removed, or something else by now.
            Err(e) if is_gone(e) || e == Errno::INVAL => {
                self.missed(place.path, Missed::Vanished);
                Ok(())
            }
            Err(e) => Err(failed("read the link", place.path, e)),
        }
    }

    fn file(&mut self, place: Place<'_>, listed: &Node) -> Result<()> {
        if let Some(first) = self.first_name(listed) {
            let body = Body::HardLink(first);
            return self.write(&Entry { path: place.path.to_vec(), body, meta: listed.meta });
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(place.dir, place.name, flags, Mode::empty()) {
            Ok(file) => file,
            // Removed, or a link or socket by now.
            Err(e) if is_gone(e) || matches!(e, Errno::LOOP | Errno::NXIO) => {
                self.missed(place.path, Missed::Vanished);
                return Ok(());
            }
            Err(e) => return Err(failed("open the file", place.path, e)),
        };
        let before = look(&file, place.path)?;
        if before.kind != FileType::RegularFile {
            self.missed(place.path, Missed::Vanished);
            return Ok(());
        }
        let pieces = extents(file.as_fd(), &before).map_err(|e| failed("find the holes of", place.path, e))?;
        let body = File { size: before.size, extents: pieces.clone() };
        let stored = body.stored();
        self.write(&Entry { path: place.path.to_vec(), body: Body::File(body), meta: before.meta })?;
        let mut short = 0_u64;
        for piece in pieces.unwrap_or_else(|| vec![Extent { at: 0, len: before.size }]) {
            short = short.saturating_add(self.piece(&file, place.path, piece)?);
        }
        self.out.put_zeros(u64::try_from(padding(stored)).unwrap_or(0))?;
        if before.links > 1 {
            self.linked.insert(before.ino, (place.path.to_vec(), before.links - 1));
        }
        if short > 0 {
            self.notes
                .changed(place.path, &format!("became shorter while it was read: {short} bytes are stored as zeros"));
        } else if !before.is_unchanged(&look(&file, place.path)?) {
            self.notes.changed(place.path, "was written to or changed while it was read");
        }
        Ok(())
    }

    /// The name that a file was stored under before; forgotten when all of its names were seen.
    fn first_name(&mut self, node: &Node) -> Option<Vec<u8>> {
        if node.links < 2 {
            // The number may belong to another file by now.
            return None;
        }
        let (name, left) = self.linked.get_mut(&node.ino)?;
        *left = left.saturating_sub(1);
        if *left == 0 { self.linked.remove(&node.ino).map(|(name, _)| name) } else { Some(name.clone()) }
    }

    /// Copies one piece; returns how many bytes of it were not there any more.
    fn piece(&mut self, file: &OwnedFd, path: &[u8], piece: Extent) -> Result<u64> {
        let (mut at, mut left) = (piece.at, piece.len);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let n = self.out.fill(most, |room| {
                match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *room, at)) {
                    // The server of a network filesystem has removed it.
                    Err(Errno::STALE) => Ok(0),
                    other => other.map_err(|e| failed("read the file", path, e)),
                }
            })?;
            if n == 0 {
                break;
            }
            let n = u64::try_from(n).unwrap_or(u64::MAX);
            at = at.saturating_add(n);
            left = left.saturating_sub(n);
        }
        self.out.put_zeros(left)?;
        Ok(left)
    }
}

fn look(file: &OwnedFd, path: &[u8]) -> Result<Node> {
    rustix::fs::fstat(file).map(|s| Node::new(&s)).map_err(|e| failed("look at", path, e))
}

/// What an operator should know, the first of many.
#[derive(Debug, Default)]
struct Notes {
    lines: Vec<String>,
    more: u64,
    changed: u64,
}

impl Notes {
    fn changed(&mut self, path: &[u8], what: &str) {
        self.changed += 1;
        self.add(format!("{} {what}", shown(path)));
    }

    fn add(&mut self, line: String) {
        if self.lines.len() < MOST_NOTES { self.lines.push(line) } else { self.more += 1 }
    }

    fn told(self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.changed > 0 {
            lines.push(format!("entries that changed while the tree was read: {}", self.changed));
        }
        lines.extend(self.lines);
        if self.more > 0 {
            lines.push(format!("and {} more, not told one by one", self.more));
        }
        lines
    }
}
