//! Loads in place, for want of room: the live files are removed before the archive is unpacked, and nothing brings them back.
//!
//! What was staged is only checked, and its source is remembered in memory: an agent that was started again must be asked to stage again. That the
//! live files are gone is in the volume.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use keepsake_core::error::Result;
use keepsake_core::format::tar::{Input, Reader, Rules, Tally};
use keepsake_core::id::RunId;
use rustix::fs::{FileType, Mode};

use super::super::{CommitReport, Source};
use super::load::{Stage, ensure_loadable, ensure_space, finish};
use super::loads::ensure_no_other;
use super::pipe::stopped;
use super::remove::remove_tree;
use super::staging::{Folder, NEW, State};
use super::swap::Swap;
use super::tree::{Listing, Node, failed};
use super::walk::{Missed, Place, Visitor, walk_root};

/// The source that was checked last, for a load in place.
#[derive(Default)]
pub(super) struct Checked(Mutex<Option<(RunId, Arc<dyn Source>)>>);

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checked").finish_non_exhaustive()
    }
}

impl Checked {
    pub(super) fn set(&self, run: RunId, source: Arc<dyn Source>) {
        *self.lock() = Some((run, source));
    }

    pub(super) fn get(&self, run: &RunId) -> Option<Arc<dyn Source>> {
        self.lock().as_ref().filter(|(of, _)| of == run).map(|(_, source)| source.clone())
    }

    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(RunId, Arc<dyn Source>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the whole archive and checks all that can be checked without writing.
pub(super) fn check(stage: &Stage<'_>, input: impl Input) -> Result<Tally> {
    let root = stage.root;
    ensure_loadable(root)?;
    ensure_no_other(root, &stage.run)?;
    if let Some(folder) = Folder::find(root, &stage.run)? {
        match folder.state {
            State::Staging | State::Staged => folder.drop_stage(root)?,
            State::Replacing => {}
            _ => return Err(folder.is_live()),
        }
    }
    let mut rules = Rules::new(root.reserved());
    let mut reader = Reader::new(input);
    while let Some(entry) = reader.next_entry()? {
        rules.admit(&entry)?;
    }
    rules.tally().equals_record(stage.recorded)?;
    let mut live = Allocated::default();
    walk_root(root, &mut live)?;
    ensure_space(root, rules.space(), rules.tally().entries(), live.bytes.max(1))?;
    Ok(rules.tally().clone())
}

/// Removes what is live and puts the archive in its place. Until the first removal it can be stopped.
pub(super) fn commit(stage: &Stage<'_>, input: impl Input) -> Result<CommitReport> {
    let root = stage.root;
    ensure_loadable(root)?;
    let (mut folder, mut facts) = match Folder::find(root, &stage.run)? {
        None => Folder::create(root, &stage.run)?,
        Some(folder) if folder.state == State::Replacing => {
            let facts = folder.facts()?;
            (folder, facts)
        }
        Some(folder) => return Err(folder.is_live()),
    };
    if folder.state == State::Staging {
        facts.in_place = true;
        let begun = if stage.stop.is_cancelled() { Err(stopped()) } else { folder.write(&facts) };
        if let Err(cause) = begun.and_then(|()| folder.set_state(State::Replacing)) {
            return Err(folder.discard(root, cause));
        }
    }
    let done = replace(stage, &mut folder, input).and_then(|unpacked| {
        facts.unpacked = Some(unpacked);
        folder.write(&facts)?;
        let swap = Swap::new(root, &folder)?;
        swap.bring_in()?;
        finish(root, folder, &facts, stage.owner)
    });
    done.map_err(|e| {
        e.context("the live files were removed to make room, and the load did not reach its end: restore again, the same set or another")
    })
}

fn replace(stage: &Stage<'_>, folder: &mut Folder, input: impl Input) -> Result<super::facts::Unpacked> {
    let root = stage.root;
    root.ensure_writable()?;
    let swap = Swap::new(root, folder)?;
    for name in Listing::read(root.dir.as_fd()).map_err(|e| failed("list", b"", e))?.iter() {
        if swap.is_ours(name)? {
            remove_tree(root.dir.as_fd(), name, &root.steps)?;
        }
    }
    // What an earlier attempt has unpacked.
    remove_tree(folder.dir.as_fd(), NEW, &root.steps)?;
    rustix::fs::mkdirat(&folder.dir, NEW, Mode::RWXU).map_err(|e| failed("make the folder", NEW.to_bytes(), e))?;
    stage.unpack(folder, input)
}

/// Bytes that the live files take.
#[derive(Debug, Default)]
struct Allocated {
    bytes: u64,
    linked: std::collections::HashSet<u64>,
}

impl Visitor for Allocated {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn folder(&mut self, _path: &[u8], node: &Node) -> Result<()> {
        self.bytes = self.bytes.saturating_add(node.allocated);
        Ok(())
    }

    fn folder_done(&mut self, _path: &[u8], _before: &Node, _now: &Node) -> Result<()> {
        Ok(())
    }

    fn other(&mut self, _place: Place<'_>, node: &Node) -> Result<()> {
        let again = node.kind == FileType::RegularFile && node.links > 1 && !self.linked.insert(node.ino);
        if !again {
            self.bytes = self.bytes.saturating_add(node.allocated);
        }
        Ok(())
    }

    fn missed(&mut self, _path: &[u8], _why: Missed) {}
}
