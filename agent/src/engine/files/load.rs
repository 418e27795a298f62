//! The two halves of a load, each in a thread of its own: reading all of the archive, and putting it in place.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::tar::{Input, Meta, Reader, Rules, Tally, shown};
use keepsake_core::id::RunKey;
use keepsake_core::record::DumpReport;
use rustix::fs::Mode;
use tokio_util::sync::CancellationToken;

use super::super::in_place::InPlace;
use super::super::{CommitReport, Source};
use super::extract::{Extractor, settle};
use super::pipe::stopped;
use super::remove::remove_tree;
use super::staging::{GONE, OLD, Staging, ensure_no_leftovers};
use super::swap::{Failure, Swap};
use super::tree::{Root, failed, open_folder};
use super::walk::{Counter, walk_own, walk_root};

/// Reads the whole archive and checks all that can be checked without writing.
pub(super) fn check(root: &std::path::Path, input: impl Input, recorded: Option<&DumpReport>) -> Result<Tally> {
    let root = Root::open(root)?;
    ensure_loadable(&root)?;
    let mut rules = Rules::new(root.reserved());
    let mut reader = Reader::new(input);
    while let Some(entry) = reader.next_entry()? {
        rules.admit(&entry)?;
    }
    rules.tally().equals_record(recorded)?;
    ensure_space(&root, &rules)?;
    Ok(rules.tally().clone())
}

/// Whether a load could begin at all.
fn ensure_loadable(root: &Root) -> Result<()> {
    if let Some(mount) = root.mounts.deeper() {
        let text = format!("another filesystem is mounted at {}: unmount it before a load", shown(mount));
        return Err(Error::new(Kind::Conflict, text));
    }
    ensure_no_leftovers(root)
}

/// Old and new files are there together for a while, so the new ones need room of their own.
fn ensure_space(root: &Root, rules: &Rules) -> Result<()> {
    let stat = rustix::fs::fstatvfs(&root.dir).map_err(|e| failed("ask for the free space of", b"", e))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let lacks = |what: &str, needed: u64, free: u64| {
        let text = format!("the volume has {free} {what} free and the load needs about {needed}: make room first");
        Err(Error::new(Kind::Busy, text))
    };
    // Filesystems without such a limit say that they have no blocks, or no inodes, at all.
    if stat.f_blocks > 0 && free < rules.space() {
        return lacks("bytes", rules.space(), free);
    }
    let entries = rules.tally().entries();
    if stat.f_files > 0 && stat.f_favail < entries {
        return lacks("inodes", entries, stat.f_favail);
    }
    Ok(())
}

/// A commit that is to be made.
pub(super) struct Commit {
    pub(super) root: PathBuf,
    pub(super) key: RunKey,
    pub(super) owner: bool,
    pub(super) source: Arc<dyn Source>,
    /// Told here and not by whoever waits, who may be gone before the end.
    pub(super) state: Arc<InPlace>,
    pub(super) stop: CancellationToken,
}

/// What was unpacked and found good.
struct Unpacked {
    tally: Tally,
    root: Option<Meta>,
    tops: Vec<(Vec<u8>, Meta)>,
    refused_bits: u64,
}

impl Commit {
    /// Unpacks the archive beside the live files, then swaps. Until the first rename it can be stopped, and leaves nothing.
    pub(super) fn run(self, input: impl Input) -> Result<CommitReport> {
        let root = Root::open(&self.root)?;
        ensure_loadable(&root)?;
        let staging = Staging::create(&root, &self.key)?;
        let unpacked = match self.unpack(&staging, input) {
            Ok(unpacked) => unpacked,
            Err(cause) => return Err(discard(staging, &root, cause)),
        };
        if let Err(cause) = self.state.touching(&self.key) {
            return Err(discard(staging, &root, cause));
        }
        let refused = match Self::swap(&staging, &root, &unpacked.tops, self.owner) {
            Ok(refused) => refused,
            Err(Failure::Stuck(cause)) => return Err(cause.context(format!("load into {}", staging.shown()))),
            Err(Failure::TakenBack(cause)) => {
                // As after the stage: nothing live is changed, so a rollback can forget it.
                self.state.taken_back(&self.key)?;
                return Err(discard(staging, &root, cause));
            }
        };
        let counted = count_live(&root, &unpacked.tally, &staging)?;
        let mut warnings = Vec::new();
        if unpacked.refused_bits + refused > 0 {
            warnings.push(format!(
                "{} entries lost a set-id bit, because the agent is not in their group",
                unpacked.refused_bits + refused
            ));
        }
        clear(staging, &root, &mut warnings);
        // Last, because every name made or removed in the root changes its time.
        if let Some(meta) = unpacked.root
            && let Err(e) = settle(root.dir.as_fd(), meta, self.owner, b"")
        {
            warnings.push(format!("the root keeps its own mode and time: {}", e.chain()));
        }
        self.state.committed(&self.key);
        Ok(CommitReport { counts: counted.counts(), warnings })
    }

    fn unpack(&self, staging: &Staging, input: impl Input) -> Result<Unpacked> {
        let mut rules = Rules::default();
        let mut reader = Reader::new(input);
        let mut extractor = Extractor::new(staging.new.as_fd(), self.owner);
        while let Some(entry) = reader.next_entry()? {
            if self.stop.is_cancelled() {
                return Err(stopped());
            }
            rules.admit(&entry)?;
            extractor.make(entry, &mut reader)?;
        }
        extractor.finish()?;
        rules.tally().equals_record(self.source.recorded())?;
        rustix::fs::syncfs(&staging.new).map_err(|e| failed("write to disk", b"", e))?;
        let mut counter = Counter::default();
        walk_own(staging.new.as_fd(), &mut counter)?;
        if let Some(what) = counter.tally.difference(rules.tally()) {
            return Err(Error::new(Kind::Internal, format!("what was unpacked is not what the archive has: {what}")));
        }
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        let Extractor { root, tops, refused_bits, .. } = extractor;
        Ok(Unpacked { tally: counter.tally, root, tops, refused_bits })
    }

    fn swap(staging: &Staging, root: &Root, tops: &[(Vec<u8>, Meta)], owner: bool) -> Result<u64, Failure> {
        let untouched = |doing: &str, e| Failure::TakenBack(failed(doing, b"old", e));
        rustix::fs::mkdirat(&staging.dir, OLD, Mode::RWXU).map_err(|e| untouched("make the folder", e))?;
        let old = open_folder(&staging.dir, OLD).map_err(|e| untouched("open the folder", e))?;
        let swap = Swap { root, new: staging.new.as_fd(), old: old.as_fd(), owner };
        let refused = swap.run(tops)?;
        rustix::fs::syncfs(&root.dir).map_err(|e| Failure::Stuck(failed("write to disk", b"", e)))?;
        Ok(refused)
    }
}

/// Removes the staging after a failure that changed nothing live.
fn discard(staging: Staging, root: &Root, cause: Error) -> Error {
    let name = staging.shown();
    match staging.remove(root) {
        Ok(()) => cause,
        Err(left) => cause.context(format!("the folder {name} could not be removed ({}), remove it", left.chain())),
    }
}

/// Proves that what is live is what was unpacked; else the old files stay where they are.
fn count_live(root: &Root, expected: &Tally, staging: &Staging) -> Result<Tally> {
    let mut live = Counter::default();
    walk_root(root, &mut live)?;
    let odd = (live.odd > 0).then(|| format!("{} sockets, FIFOs or devices", live.odd));
    match live.tally.difference(expected).or(odd) {
        None => Ok(live.tally),
        Some(what) => Err(Error::new(
            Kind::Conflict,
            format!(
                "the files were loaded, but something else writes to the volume ({what}): stop it. What was live before \
                 is in the folder {}, in \"old\"; remove that folder and restore again",
                staging.shown()
            ),
        )),
    }
}

/// Deletes the old files. A failure is told: the load itself is done.
fn clear(staging: Staging, root: &Root, warnings: &mut Vec<String>) {
    let name = staging.shown();
    let removed = rustix::fs::renameat(&staging.dir, OLD, &staging.dir, GONE)
        .map_err(|e| failed("rename", b"old", e))
        .and_then(|()| remove_tree(staging.dir.as_fd(), GONE))
        .and_then(|()| staging.remove(root))
        .with_context(|| format!("the files from before the load are still in the folder {name}, remove it"));
    if let Err(e) = removed {
        warnings.push(e.chain());
    }
}
