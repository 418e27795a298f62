//! A tree on disk, looked at without ever leaving it.
//!
//! Every step opens one name below an open folder and follows no link, so that a folder that somebody swaps for a symlink
//! meanwhile leads nowhere. Other filesystems that are mounted in the tree are not entered.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::{Meta, Stamp, shown};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, flock};
use rustix::io::Errno;

use super::mounts::Mounts;
use super::steps::Steps;

/// What the names of folders begin with that a load makes below the root.
pub(super) const OWN_PREFIX: &[u8] = b".keepsake-";
/// Names at the top of a volume that belong to its filesystem.
const OF_THE_FILESYSTEM: [&[u8]; 2] = [b"lost+found", b".snapshot"];

/// How a folder is opened.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The root of the volume, open.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) dir: OwnedFd,
    pub(super) node: Node,
    pub(super) mounts: Mounts,
    pub(super) steps: Steps,
}

impl Root {
    /// Opens it. The path itself may lead through symlinks; nothing below it does.
    pub(super) fn open(path: &Path, steps: &Steps) -> Result<Self> {
        let what = || format!("open the folder {} (--files-root)", path.display());
        let whole: PathBuf = std::fs::canonicalize(path).map_err(|e| Error::io(what(), e))?;
        let dir = rustix::fs::open(&whole, FOLDER, Mode::empty()).map_err(|e| Error::io(what(), e.into()))?;
        let stat = rustix::fs::fstat(&dir).map_err(|e| Error::io(what(), e.into()))?;
        Ok(Self { dir, node: Node::new(&stat), mounts: Mounts::below(&whole)?, steps: steps.clone() })
    }

    /// Keeps other agents from changing the volume for as long as this is open.
    pub(super) fn lock(&self) -> Result<()> {
        match flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(Error::new(Kind::Busy, "another agent is loading into this volume")),
            // Some network filesystems cannot lock folders. Then only the coordinator keeps two loads apart.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What it is at this moment.
    pub(super) fn now(&self) -> Result<Node> {
        rustix::fs::fstat(&self.dir).map(|s| Node::new(&s)).map_err(|e| failed("look at", b"", e))
    }

    /// Lets its owner add and remove names; returns the mode that it had. The mode of the set, or of before, is set in the end.
    pub(super) fn ensure_writable(&self) -> Result<u32> {
        let mode = self.now()?.meta.mode;
        if mode & 0o300 != 0o300 {
            // If this is not allowed, the first change says why.
            let _may_fail = rustix::fs::fchmod(&self.dir, Mode::from_raw_mode(mode | 0o300));
        }
        Ok(mode)
    }

    /// Gives it a time again that our own folder has changed.
    pub(super) fn set_time(&self, time: Stamp) {
        if let Err(e) =
            self.steps.pass("set the root's time").and_then(|()| rustix::fs::futimens(&self.dir, &times(time)))
        {
            // Only its owner may, and nothing depends on it.
            tracing::info!("the root keeps the time of this load: {}", failed("set the time of", b"", e).chain());
        }
    }

    /// Names at the top that neither dump nor load touch, apart from our own.
    pub(super) fn reserved(&self) -> Vec<Vec<u8>> {
        let fixed = OF_THE_FILESYSTEM.into_iter().map(<[u8]>::to_vec);
        fixed.chain(self.mounts.at_top().map(<[u8]>::to_vec)).collect()
    }

    /// Whether an entry at the top is left alone.
    pub(super) fn leaves_alone(&self, name: &[u8], node: &Node) -> bool {
        name.starts_with(OWN_PREFIX)
            || OF_THE_FILESYSTEM.contains(&name)
            || node.dev != self.node.dev
            || self.mounts.contains(name)
    }
}

/// What `stat` says, in plain numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) kind: FileType,
    pub(super) links: u64,
    pub(super) size: u64,
    /// Bytes that are allocated.
    pub(super) allocated: u64,
    pub(super) meta: Meta,
    pub(super) ctime: Stamp,
}

impl Node {
    pub(super) fn new(stat: &Stat) -> Self {
        let stamp = |seconds, nanos| Stamp { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            kind: FileType::from_raw_mode(stat.st_mode),
            links: wide(stat.st_nlink),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            meta: Meta {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: stamp(stat.st_mtime, stat.st_mtime_nsec),
            },
            ctime: stamp(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Of one name in a folder, not following it; `None` when there is no such name.
    pub(super) fn at(dir: BorrowedFd<'_>, name: &CStr) -> std::result::Result<Option<Self>, Errno> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self::new(&stat))),
            Err(e) if is_gone(e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the two looks at the same file saw the same.
    pub(super) fn is_unchanged(&self, later: &Self) -> bool {
        (self.size, self.meta.mtime, self.ctime) == (later.size, later.meta.mtime, later.ctime)
    }
}

/// The width of some fields differs between processors.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// Whether the answer means that the name is not there any more.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::STALE)
}

/// The names in a folder, sorted, in one piece of memory: a folder can have millions.
#[derive(Debug, Default)]
pub(super) struct Listing {
    names: Vec<u8>,
    starts: Vec<u32>,
}

impl Listing {
    pub(super) fn read(dir: BorrowedFd<'_>) -> std::result::Result<Self, Errno> {
        let mut listing = Self::default();
        for found in Dir::read_from(dir)? {
            let found = match found {
                Ok(found) => found,
                // The folder was removed while it was read: it has no more names.
                Err(e) if is_gone(e) => break,
                Err(e) => return Err(e),
            };
            let name = found.file_name().to_bytes_with_nul();
            if matches!(name, b".\0" | b"..\0") {
                continue;
            }
            listing.starts.push(u32::try_from(listing.names.len()).map_err(|_| Errno::TOOBIG)?);
            listing.names.extend_from_slice(name);
        }
        let names = std::mem::take(&mut listing.names);
        listing.starts.sort_unstable_by(|a, b| name_at(&names, *a).cmp(name_at(&names, *b)));
        listing.names = names;
        Ok(listing)
    }

    pub(super) fn get(&self, index: usize) -> Option<&CStr> {
        self.starts.get(index).map(|start| name_at(&self.names, *start))
    }

    pub(super) fn contains(&self, name: &CStr) -> bool {
        self.starts.binary_search_by(|start| name_at(&self.names, *start).cmp(name)).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.starts.iter().map(|start| name_at(&self.names, *start))
    }
}

fn name_at(names: &[u8], start: u32) -> &CStr {
    let from = usize::try_from(start).unwrap_or(usize::MAX);
    CStr::from_bytes_until_nul(names.get(from..).unwrap_or_default()).unwrap_or_default()
}

/// Opens a folder below an open one; follows nothing.
pub(super) fn open_folder(dir: impl AsFd, name: &CStr) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, FOLDER, Mode::empty())
}

/// A name as the system wants it. Names were checked for NUL before.
pub(super) fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|e| Error::caused(Kind::Corrupt, format!("{} is no file name", shown(name)), e))
}

/// An error of the system about one path of the tree.
pub(super) fn failed(doing: &str, path: &[u8], error: Errno) -> Error {
    Error::io(format!("{doing} {}", shown(path)), error.into())
}

/// A time of change, as the system wants it; the time of access stays.
pub(super) fn times(mtime: Stamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}
