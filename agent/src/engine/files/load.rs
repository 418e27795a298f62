//! The steps of a load that goes beside the live files, each in a thread of its own and each repeatable: stage, commit, rollback, finalize.
//!
//! Nothing of a load is kept in memory. Whatever agent is asked finds in the folder how far it has come, and goes on from there.

use std::os::fd::AsFd;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::{Input, Meta, Reader, Rules, Tally, shown};
use keepsake_core::id::RunId;
use keepsake_core::record::DumpReport;
use tokio_util::sync::CancellationToken;

use super::super::in_place::CANNOT_BE_UNDONE;
use super::super::{CommitReport, StageReport};
use super::extract::{Extractor, settle};
use super::facts::{Facts, Unpacked};
use super::loads::ensure_no_other;
use super::pipe::stopped;
use super::staging::{Folder, NEW, State};
use super::swap::Swap;
use super::tree::{Root, failed};
use super::walk::{Counter, walk_own, walk_root};

/// Brings an archive beside the live files.
pub(super) struct Stage<'a> {
    pub(super) root: &'a Root,
    pub(super) run: RunId,
    /// Whether recorded owners are set.
    pub(super) owner: bool,
    pub(super) recorded: Option<&'a DumpReport>,
    /// Length of the archive, bytes.
    pub(super) length: u64,
    pub(super) stop: &'a CancellationToken,
}

impl Stage<'_> {
    /// What is staged already, if all of it is there and is what the record says; else everything is ready to begin.
    pub(super) fn ready(&self) -> Result<Option<StageReport>> {
        ensure_loadable(self.root)?;
        ensure_no_other(self.root, &self.run)?;
        if let Some(folder) = Folder::find(self.root, &self.run)? {
            match folder.state {
                State::Staged => {
                    if let Some(report) = self.check_again(&folder)? {
                        return Ok(Some(report));
                    }
                    folder.drop_stage(self.root)?;
                }
                State::Staging => folder.drop_stage(self.root)?,
                _ => return Err(folder.is_live()),
            }
        }
        let needed = self.space();
        ensure_space(self.root, needed.0, needed.1, 0)?;
        Ok(None)
    }

    fn check_again(&self, folder: &Folder) -> Result<Option<StageReport>> {
        let unpacked = unpacked(&folder.facts()?)?;
        let found = count_new(folder)?;
        if found != unpacked.tally() || found.equals_record(self.recorded).is_err() {
            tracing::warn!(folder = %folder.shown(), "what was staged before is not what it was: it is staged anew");
            return Ok(None);
        }
        Ok(Some(report(0, &unpacked)))
    }

    /// About how many bytes and entries it will take. Headers and holes count nothing, and the last block of a file half of one.
    fn space(&self) -> (u64, u64) {
        let Some(counts) = self.recorded.map(|r| &r.counts) else { return (self.length, 0) };
        let count = |name: &str| counts.get(name).copied().unwrap_or(0);
        let entries = ["files", "directories", "symlinks"].map(count).into_iter().fold(0, u64::saturating_add);
        let blocks = count("files").saturating_mul(2048).saturating_add(count("directories").saturating_mul(4096));
        (count("bytes").min(self.length).saturating_add(blocks), entries)
    }

    /// Unpacks. What fails or is stopped leaves nothing.
    pub(super) fn run(&self, input: impl Input) -> Result<Unpacked> {
        let (mut folder, mut facts) = Folder::create(self.root, &self.run)?;
        let done = self.unpack(&folder, input).and_then(|unpacked| {
            facts.unpacked = Some(unpacked.clone());
            folder.write(&facts)?;
            folder.set_state(State::Staged)?;
            Ok(unpacked)
        });
        done.map_err(|cause| folder.discard(self.root, cause))
    }

    /// Unpacks into the folder's `new`, checks and counts it, and has it written to disk.
    pub(super) fn unpack(&self, folder: &Folder, input: impl Input) -> Result<Unpacked> {
        let new = folder.inside(NEW)?;
        let mut rules = Rules::new(self.root.reserved());
        let mut reader = Reader::new(input);
        let mut extractor = Extractor::new(new.as_fd(), self.owner);
        while let Some(entry) = reader.next_entry()? {
            if self.stop.is_cancelled() {
                return Err(stopped());
            }
            rules.admit(&entry)?;
            self.root.steps.pass("unpack an entry").map_err(|e| failed("make", &entry.path, e))?;
            extractor.make(entry, &mut reader)?;
        }
        extractor.finish()?;
        rules.tally().equals_record(self.recorded)?;
        let fail = |e| failed("write to disk", b"", e);
        self.root.steps.pass("sync what was unpacked").map_err(fail)?;
        rustix::fs::syncfs(&new).map_err(fail)?;
        let found = count_new(folder)?;
        if let Some(what) = found.difference(rules.tally()) {
            return Err(Error::new(Kind::Internal, format!("what was unpacked is not what the archive has: {what}")));
        }
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        Ok(Unpacked::new(&found, extractor.refused_bits, extractor.root))
    }
}

/// What is told of a stage.
pub(super) fn report(bytes: u64, unpacked: &Unpacked) -> StageReport {
    let mut warnings = Vec::new();
    if unpacked.refused_bits > 0 {
        let n = unpacked.refused_bits;
        warnings.push(format!("{n} entries lost a set-id bit, because the agent is not in their group"));
    }
    StageReport { bytes, counts: unpacked.tally().counts(), warnings }
}

/// Puts what was staged in the place of the live files. Until the first rename it can be stopped.
pub(super) fn commit(root: &Root, run: &RunId, owner: bool, stop: &CancellationToken) -> Result<CommitReport> {
    let Some(mut folder) = Folder::find(root, run)? else {
        return Err(Error::new(Kind::Conflict, format!("nothing is staged for run {run}: stage it again")));
    };
    match folder.state {
        State::Staged | State::MovingOut | State::MovingIn => {}
        State::Committed | State::Finalizing => return count(root),
        State::Staging => {
            return Err(Error::new(Kind::Conflict, format!("the stage of run {run} has not finished: stage it again")));
        }
        State::Replacing => {
            let text = "the live files were removed to make room, and this agent was started since: stage the run again, then commit it";
            return Err(Error::new(Kind::Conflict, text));
        }
        State::Unknown => return Err(folder.look_at()),
    }
    ensure_loadable(root)?;
    let swap = Swap::new(root, &folder)?;
    let mut facts = folder.facts()?;
    if folder.state == State::Staged {
        if stop.is_cancelled() {
            return Err(stopped());
        }
        remember(root, &folder, &swap, &mut facts)?;
        folder.set_state(State::MovingOut)?;
    } else {
        root.ensure_writable()?;
    }
    if let Err(cause) = swap.forward(&mut folder) {
        return Err(take_back(root, folder, &swap, &facts, cause));
    }
    swap.settle(&facts, true)?;
    finish(root, folder, &facts, owner)
}

/// Writes down what a rollback will need and is not written down yet.
fn remember(root: &Root, folder: &Folder, swap: &Swap<'_>, facts: &mut Facts) -> Result<()> {
    let now = root.now()?.meta;
    let read_only = swap.read_only()?;
    let before = if now.mtime == facts.made.into() { Meta { mtime: facts.before.time.into(), ..now } } else { now };
    let mut known = facts.clone();
    (known.before, known.read_only) = (before.into(), read_only);
    if *facts == known {
        return Ok(());
    }
    let mut but_for_time = known.clone();
    but_for_time.before.time = facts.before.time;
    let only_the_time = *facts == but_for_time;
    match folder.write(&known) {
        // A commit is what may bring room. A root that will have another time after a rollback is not worth to refuse it.
        Err(e) if only_the_time && e.kind() == Kind::Busy => {
            tracing::info!("a rollback will give the root an older time: {}", e.chain());
        }
        other => other?,
    }
    *facts = known;
    Ok(())
}

/// After a failure: everything as it was, and the load staged.
fn take_back(root: &Root, mut folder: Folder, swap: &Swap<'_>, facts: &Facts, cause: Error) -> Error {
    let back = swap.back(&mut folder).and_then(|()| swap.settle(facts, false)).and_then(|()| {
        folder.set_state(State::Staged)?;
        root.set_time(facts.made.into());
        Ok(())
    });
    match back {
        Ok(()) => cause.context("nothing was loaded, the files are as they were"),
        Err(e) => cause.context(format!(
            "the files are half old and half new ({}): ask for the commit or for the rollback again",
            e.chain()
        )),
    }
}

/// Counts what is live, gives the root what the archive says of it, and calls the load committed.
pub(super) fn finish(root: &Root, mut folder: Folder, facts: &Facts, owner: bool) -> Result<CommitReport> {
    let unpacked = unpacked(facts)?;
    let mut live = Counter::default();
    walk_root(root, &mut live)?;
    let odd = (live.odd > 0).then(|| format!("{} sockets, FIFOs or devices", live.odd));
    if let Some(what) = live.tally.difference(&unpacked.tally()).or(odd) {
        let text = format!(
            "the files were loaded, but something else writes to the volume ({what}): stop it. What was live before is in the folder {}; ask for the \
             rollback to have it back, or make that undone and ask for the commit again",
            folder.shown()
        );
        return Err(Error::new(Kind::Conflict, text));
    }
    let mut warnings = Vec::new();
    // After the last name was moved, because each changes its time.
    let meta = unpacked.root.map_or_else(|| facts.before.into(), Meta::from);
    let settled = root.steps.pass("settle the root").map_err(|e| failed("set the mode of", b"", e));
    if let Err(e) = settled.and_then(|()| settle(root.dir.as_fd(), meta, owner && unpacked.root.is_some(), b"")) {
        warnings.push(format!("the root keeps its own mode and time: {}", e.chain()));
    }
    folder.set_state(State::Committed)?;
    Ok(CommitReport { counts: live.tally.counts(), warnings })
}

/// Undoes a stage or a commit, however far it has come.
pub(super) fn rollback(root: &Root, run: &RunId, owner: bool) -> Result<()> {
    let Some(mut folder) = Folder::find(root, run)? else { return Ok(()) };
    match folder.state {
        State::Staging | State::Staged => return folder.drop_stage(root),
        State::MovingOut | State::MovingIn | State::Committed => {}
        State::Replacing => return Err(Error::new(Kind::Unsupported, CANNOT_BE_UNDONE)),
        State::Finalizing => {
            let text = "the files from before the load are being removed: restore another set to go back";
            return Err(Error::new(Kind::Unsupported, text));
        }
        State::Unknown => return Err(folder.look_at()),
    }
    let facts = folder.facts()?;
    if facts.in_place {
        return Err(Error::new(Kind::Unsupported, CANNOT_BE_UNDONE));
    }
    ensure_loadable(root)?;
    let swap = Swap::new(root, &folder)?;
    root.ensure_writable()?;
    if folder.state == State::Committed {
        folder.set_state(State::MovingIn)?;
    }
    swap.back(&mut folder)?;
    swap.settle(&facts, false)?;
    drop(swap);
    // Before the folder goes, which knows it.
    let settled = root.steps.pass("settle the root").map_err(|e| failed("set the mode of", b"", e));
    if let Err(e) = settled.and_then(|()| settle(root.dir.as_fd(), facts.before.into(), owner, b"")) {
        tracing::warn!("the files are as they were, but for mode and time of the root: {}", e.chain());
    }
    folder.set_state(State::Staging)?;
    folder.remove(root)?;
    root.set_time(facts.before.time.into());
    Ok(())
}

/// Removes what was live before the load.
pub(super) fn finalize(root: &Root, run: &RunId) -> Result<()> {
    let Some(mut folder) = Folder::find(root, run)? else { return Ok(()) };
    match folder.state {
        State::Committed | State::Finalizing => {}
        State::Unknown => return Err(folder.look_at()),
        _ => {
            let text = format!("the load of run {run} is not committed: ask for the commit, or for the rollback");
            return Err(Error::new(Kind::Conflict, text));
        }
    }
    // Applications may have made and removed names since: what the root is now is kept.
    let time = root.now()?.meta.mtime;
    let mode = root.ensure_writable()?;
    super::loads::forget_replaced(root, run)?;
    // An attempt that was killed may have left it writable.
    let own = folder.facts()?.unpacked.and_then(|u| u.root).map(|root| Meta::from(root).mode);
    let mode = own.filter(|own| own | 0o300 == mode).unwrap_or(mode);
    folder.set_state(State::Finalizing)?;
    let name = folder.shown();
    folder.remove(root).map_err(|e| {
        e.context(format!("the files from before the load are in part still in the folder {name}: ask again"))
    })?;
    // If this is not allowed, it was not changed either.
    let _mode = rustix::fs::fchmod(&root.dir, rustix::fs::Mode::from_raw_mode(mode));
    root.set_time(time);
    Ok(())
}

/// Counts the live files.
pub(super) fn count(root: &Root) -> Result<CommitReport> {
    let mut counter = Counter::default();
    walk_root(root, &mut counter)?;
    Ok(CommitReport { counts: counter.tally.counts(), warnings: Vec::new() })
}

/// Whether a load could change anything at all.
pub(super) fn ensure_loadable(root: &Root) -> Result<()> {
    match root.mounts.deeper() {
        None => Ok(()),
        Some(mount) => {
            let text = format!("another filesystem is mounted at {}: unmount it before a load", shown(mount));
            Err(Error::new(Kind::Conflict, text))
        }
    }
}

/// Old and new files are there together for a while, so the new ones need room of their own; unless `freed` bytes come free before.
pub(super) fn ensure_space(root: &Root, needed: u64, entries: u64, freed: u64) -> Result<()> {
    let stat = rustix::fs::fstatvfs(&root.dir).map_err(|e| failed("ask for the free space of", b"", e))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_add(freed);
    let lacks = |what: &str, needed: u64, free: u64| {
        let text = format!("the volume has {free} {what} free and the load needs about {needed}: make room first");
        Err(Error::new(Kind::Busy, text))
    };
    // Filesystems without such a limit say that they have no blocks, or no inodes, at all.
    if stat.f_blocks > 0 && free < needed {
        return lacks("bytes", needed, free);
    }
    if freed == 0 && stat.f_files > 0 && stat.f_favail < entries {
        return lacks("inodes", entries, stat.f_favail);
    }
    Ok(())
}

pub(super) fn unpacked(facts: &Facts) -> Result<Unpacked> {
    let missing = || Error::new(Kind::Corrupt, "the load has not written down what was unpacked");
    facts.unpacked.clone().ok_or_else(missing)
}

fn count_new(folder: &Folder) -> Result<Tally> {
    let mut counter = Counter::default();
    walk_own(folder.inside(NEW)?.as_fd(), &mut counter)?;
    Ok(counter.tally)
}
