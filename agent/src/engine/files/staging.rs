//! The folder of one load below the root.
//!
//! `.keepsake-<run>/` has `new` (unpacked, not yet live), `old` (what was live, until the load is finalized) and one file with the load's facts, whose
//! *name* is how far the load has come. So a load goes from state to state by a rename, which needs no room: it can be ended on a full volume.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use keepsake_core::error::{Context, Error, Result};
use keepsake_core::format::tar::shown;
use keepsake_core::id::RunId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::facts::Facts;
use super::remove::remove_tree;
use super::steps::Steps;
use super::tree::{Listing, Node, OWN_PREFIX, Root, c_name, failed, open_folder};

/// What was unpacked.
pub(super) const NEW: &CStr = c"new";
/// What was live before.
pub(super) const OLD: &CStr = c"old";
/// What agents of version 0.1 were deleting.
const GONE: &CStr = c"gone";
/// Facts that are being written.
const NEXT: &CStr = c"next.json";
/// No facts are longer than this, bytes.
const MOST_FACTS: u64 = 64 << 20;

/// How far a load has come, as its folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is being unpacked, or dropped: nothing live is in the folder.
    Staging,
    /// All of it is in `new`, and good.
    Staged,
    /// What the load lacks is being moved to `old`, or back. All of the load is in `new`.
    MovingOut,
    /// Name by name, what is live is moved to `old`, and what is in `new` becomes live; or back.
    MovingIn,
    /// All of it is live; what was live before is in `old`.
    Committed,
    /// `old` is being removed.
    Finalizing,
    /// The live files are being removed, or were; the load is not yet in their place.
    Replacing,
    /// There is no such file, and something that may be the only copy.
    Unknown,
}

impl State {
    const WRITTEN: [Self; 7] = [
        Self::Staging,
        Self::Staged,
        Self::MovingOut,
        Self::MovingIn,
        Self::Committed,
        Self::Finalizing,
        Self::Replacing,
    ];

    fn file(self) -> &'static CStr {
        match self {
            Self::Staging | Self::Unknown => c"staging.json",
            Self::Staged => c"staged.json",
            Self::MovingOut => c"moving-out.json",
            Self::MovingIn => c"moving-in.json",
            Self::Committed => c"committed.json",
            Self::Finalizing => c"finalizing.json",
            Self::Replacing => c"replacing.json",
        }
    }
}

/// The folder of a load.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) name: CString,
    pub(super) dir: OwnedFd,
    pub(super) state: State,
    steps: Steps,
}

impl Folder {
    /// The folder of this run, if there is one.
    pub(super) fn find(root: &Root, run: &RunId) -> Result<Option<Self>> {
        Self::open(root, &name_of(run)?)
    }

    /// All folders of loads.
    pub(super) fn all(root: &Root) -> Result<Vec<Self>> {
        let names = Listing::read(root.dir.as_fd()).map_err(|e| failed("list", b"", e))?;
        let ours = names.iter().filter(|n| n.to_bytes().starts_with(OWN_PREFIX));
        ours.filter_map(|name| Self::open(root, name).transpose()).collect()
    }

    fn open(root: &Root, name: &CStr) -> Result<Option<Self>> {
        let fail = |e| failed("look at", name.to_bytes(), e);
        match Node::at(root.dir.as_fd(), name).map_err(fail)? {
            Some(node) if node.kind == FileType::Directory && node.dev == root.node.dev => {}
            _ => return Ok(None),
        }
        let dir = match open_folder(&root.dir, name) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        let state = state_of(&dir).map_err(fail)?;
        Ok(Some(Self { name: name.to_owned(), dir, state, steps: root.steps.clone() }))
    }

    /// Makes it, for our eyes only, and writes down what the root was before.
    pub(super) fn create(root: &Root, run: &RunId) -> Result<(Self, Facts)> {
        let name = name_of(run)?;
        let fail = |e| failed("make the folder", name.to_bytes(), e);
        let before = root.now()?;
        root.steps.pass("make the folder of the load").map_err(fail)?;
        rustix::fs::mkdirat(&root.dir, &name, Mode::RWXU).map_err(fail)?;
        let dir = open_folder(&root.dir, &name).map_err(fail)?;
        let folder = Self { name: name.clone(), dir, state: State::Staging, steps: root.steps.clone() };
        let facts = Facts::new(before.meta, root.now()?.meta.mtime);
        let made = folder.write(&facts).and_then(|()| {
            for inside in [NEW, OLD] {
                folder.steps.pass("make a folder").map_err(fail)?;
                rustix::fs::mkdirat(&folder.dir, inside, Mode::RWXU).map_err(fail)?;
            }
            folder.steps.pass("sync the root").map_err(fail)?;
            rustix::fs::fsync(&root.dir).map_err(|e| failed("write to disk", b"", e))
        });
        match made {
            Ok(()) => Ok((folder, facts)),
            Err(e) => Err(folder.discard(root, e)),
        }
    }

    /// The run that the name says, if it is one's.
    pub(super) fn run(&self) -> Option<RunId> {
        let name = self.name.to_bytes().strip_prefix(OWN_PREFIX)?;
        std::str::from_utf8(name).ok()?.parse().ok()
    }

    /// Its name for people.
    pub(super) fn shown(&self) -> String {
        shown(self.name.to_bytes())
    }

    /// `new` or `old`.
    pub(super) fn inside(&self, name: &CStr) -> Result<OwnedFd> {
        open_folder(&self.dir, name).map_err(|e| self.failed("open the folder", name, e))
    }

    /// What was written down.
    pub(super) fn facts(&self) -> Result<Facts> {
        let name = self.state.file();
        let fail = |e: std::io::Error| Error::io(format!("read {}/{}", self.shown(), shown(name.to_bytes())), e);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        let mut bytes = Vec::new();
        let mut limited = std::io::Read::take(std::fs::File::from(file), MOST_FACTS);
        std::io::Read::read_to_end(&mut limited, &mut bytes).map_err(fail)?;
        Facts::from_bytes(&bytes).with_context(|| self.shown())
    }

    /// Writes facts down, on disk when it returns.
    pub(super) fn write(&self, facts: &Facts) -> Result<()> {
        let fail = |e| self.failed("write", NEXT, e);
        let bytes = facts.to_bytes()?;
        self.steps.pass("write the facts").map_err(fail)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, NEXT, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        let mut file = std::fs::File::from(file);
        let written = std::io::Write::write_all(&mut file, &bytes).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io(format!("write {}/{}", self.shown(), shown(NEXT.to_bytes())), e))?;
        self.rename_file(NEXT, self.state.file())?;
        self.sync()
    }

    /// Goes on to another state, on disk when it returns.
    pub(super) fn set_state(&mut self, state: State) -> Result<()> {
        if state != self.state {
            self.rename_file(self.state.file(), state.file())?;
            // Also when the disk then refuses: whoever goes back must go back from here.
            self.state = state;
            self.sync()?;
        }
        Ok(())
    }

    fn rename_file(&self, from: &CStr, to: &CStr) -> Result<()> {
        let fail = |e| self.failed("write", to, e);
        self.steps.pass("rename the facts").map_err(fail)?;
        rustix::fs::renameat(&self.dir, from, &self.dir, to).map_err(fail)
    }

    fn sync(&self) -> Result<()> {
        let fail = |e| failed("write to disk", self.name.to_bytes(), e);
        self.steps.pass("sync the folder of the load").map_err(fail)?;
        rustix::fs::fsync(&self.dir).map_err(fail)
    }

    /// Removes it with all that is in `new`, and in `old` if the load is being finalized; else that must be empty.
    pub(super) fn remove(self, root: &Root) -> Result<()> {
        if self.state == State::Finalizing {
            remove_tree(self.dir.as_fd(), OLD, &self.steps)?;
        }
        remove_tree(self.dir.as_fd(), NEW, &self.steps)?;
        let unlink = |name: &CStr, flags: AtFlags| {
            self.steps.pass("remove from the folder of the load").map_err(|e| self.failed("remove", name, e))?;
            match rustix::fs::unlinkat(&self.dir, name, flags) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(self.failed("remove", name, e)),
            }
        };
        unlink(OLD, AtFlags::REMOVEDIR)?;
        unlink(NEXT, AtFlags::empty())?;
        unlink(self.state.file(), AtFlags::empty())?;
        let fail = |e| failed("remove", self.name.to_bytes(), e);
        self.steps.pass("remove the folder of the load").map_err(fail)?;
        rustix::fs::unlinkat(&root.dir, &self.name, AtFlags::REMOVEDIR).map_err(fail)
    }

    /// Removes it after a failure that changed nothing live.
    pub(super) fn discard(self, root: &Root, cause: Error) -> Error {
        let name = self.shown();
        match self.drop_stage(root) {
            Ok(()) => cause,
            Err(left) => cause.context(format!("the folder {name} could not be removed ({}), remove it", left.chain())),
        }
    }

    /// Removes what was staged and never was live, and gives the root the time that it had before.
    pub(super) fn drop_stage(mut self, root: &Root) -> Result<()> {
        let now = root.now()?.meta.mtime;
        if !self.has_facts() {
            // A load that was killed before it could write anything down.
            remove_tree(root.dir.as_fd(), &self.name, &self.steps)?;
            root.set_time(now);
            return Ok(());
        }
        let facts = self.facts()?;
        self.set_state(State::Staging)?;
        self.remove(root)?;
        root.set_time(if now == facts.made.into() { facts.before.time.into() } else { now });
        Ok(())
    }

    fn has_facts(&self) -> bool {
        matches!(Node::at(self.dir.as_fd(), self.state.file()), Ok(Some(_)))
    }

    fn failed(&self, doing: &str, name: &CStr, error: Errno) -> Error {
        failed(doing, &[self.name.to_bytes(), b"/", name.to_bytes()].concat(), error)
    }
}

fn name_of(run: &RunId) -> Result<CString> {
    c_name(&[OWN_PREFIX, run.to_string().as_bytes()].concat())
}

fn state_of(dir: &OwnedFd) -> Result<State, Errno> {
    // The file may be renamed while the names are read.
    for _ in 0..3 {
        let inside = Listing::read(dir.as_fd())?;
        if let Some(state) = State::WRITTEN.into_iter().find(|s| inside.contains(s.file())) {
            return Ok(state);
        }
    }
    let inside = Listing::read(dir.as_fd())?;
    if inside.iter().any(|n| ![NEW, OLD, NEXT, GONE].contains(&n)) {
        return Ok(State::Unknown);
    }
    let old = match open_folder(dir, OLD) {
        Err(Errno::NOENT) => return Ok(State::Staging),
        other => Listing::read(other?.as_fd())?,
    };
    Ok(if old.get(0).is_none() { State::Staging } else { State::Unknown })
}
