//! What loads have left in the volume, and what that forbids.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunId;

use super::super::Staged;
use super::staging::{Folder, State};
use super::tree::Root;

impl Folder {
    /// How far the load has come, as the contract calls it.
    pub(super) fn staged(&self) -> Staged {
        match self.state {
            State::Staging => Staged::Partial,
            State::Staged => Staged::Staged,
            State::MovingOut | State::MovingIn | State::Replacing | State::Unknown => Staged::Committing,
            State::Committed | State::Finalizing => Staged::Committed,
        }
    }

    fn who(&self) -> String {
        self.run().map_or_else(|| self.shown(), |run| run.to_string())
    }

    /// Why nothing may be staged while it is there.
    pub(super) fn is_live(&self) -> Error {
        let Some(run) = self.run().filter(|_| self.state != State::Unknown) else { return self.look_at() };
        let what = match self.staged() {
            Staged::Committed => "is committed and not finalized",
            _ => "was interrupted half way",
        };
        let text = format!(
            "the load of run {run} {what}: end it with `keepsake finalize`, which drops the files from before it, or with `keepsake rollback`, which \
             brings them back"
        );
        Error::new(Kind::Conflict, text)
    }

    /// What a person must do who has lost the load's own notes.
    pub(super) fn look_at(&self) -> Error {
        let text = format!(
            "the folder {} in the volume is of a load that was interrupted while it moved files, and its notes are gone: what was live before is in its \
             \"old\", what was not yet moved in is in its \"new\". Move back what you need, remove the folder, and try again",
            self.shown()
        );
        Error::new(Kind::Conflict, text)
    }
}

/// Drops what other runs have staged and not committed.
///
/// # Errors
/// `Conflict` with what to do when one has committed, or half committed.
pub(super) fn ensure_no_other(root: &Root, run: &RunId) -> Result<()> {
    let others: Vec<_> = Folder::all(root)?.into_iter().filter(|f| f.run().as_ref() != Some(run)).collect();
    if let Some(live) = others.iter().find(|f| !matches!(f.state, State::Staging | State::Staged | State::Replacing)) {
        return Err(live.is_live());
    }
    // What was removed to make room is gone: the next load is the way out, and until it is finalized that folder tells of it.
    for other in others.into_iter().filter(|f| f.state != State::Replacing) {
        tracing::info!(folder = %other.shown(), "removing what another run has staged");
        other.drop_stage(root)?;
    }
    Ok(())
}

/// Removes what tells of loads in place that did not reach their end: another is in the place of theirs for good.
pub(super) fn forget_replaced(root: &Root, run: &RunId) -> Result<()> {
    for mut other in Folder::all(root)? {
        if other.state == State::Replacing && other.run().as_ref() != Some(run) {
            other.set_state(State::Staging)?;
            other.remove(root)?;
        }
    }
    Ok(())
}

/// Why what is live is not to be dumped: it is of no one moment, or not all of it is there.
pub(super) fn torn(root: &Root) -> Result<Vec<String>> {
    let all = Folder::all(root)?;
    let whole = all.iter().any(|f| f.staged() == Staged::Committed);
    let told = all.iter().filter_map(|f| match f.state {
        State::Staging | State::Staged | State::Committed | State::Finalizing => None,
        State::MovingOut | State::MovingIn => Some(format!(
            "the load of run {} was interrupted half way, a part of the files is old and a part is new: `keepsake resume` brings it to its end, \
             `keepsake rollback` brings back what was there before",
            f.who()
        )),
        State::Replacing if whole => None,
        State::Replacing => Some(format!(
            "the load in place of run {} did not reach its end, and the files from before it are gone: restore again, the same set or another",
            f.who()
        )),
        State::Unknown => Some(f.look_at().chain()),
    });
    Ok(told.collect())
}

/// The loads that have left something, and how far they came; and which of them change what is live, for telling whether one did meanwhile.
pub(super) fn known(root: &Root) -> Result<Vec<(RunId, Staged)>> {
    Ok(Folder::all(root)?.iter().filter_map(|f| Some((f.run()?, f.staged()))).collect())
}

/// As [`known`], without those that only stage.
pub(super) fn live(root: &Root) -> Result<Vec<(RunId, Staged)>> {
    let mut known = known(root)?;
    known.retain(|(_, staged)| !matches!(staged, Staged::Partial | Staged::Staged));
    Ok(known)
}
