//! Whether there is room for a load that can be undone: the dump, what is live, and what the server itself writes meanwhile.

use std::path::Path;

use keepsake_core::error::{Error, Kind, Result};

use super::connection::Server;
use super::dump;
use super::file::free;
use super::settings::Settings;

/// What a load takes, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// The dump as it is staged, at most.
    staged: u64,
    /// What is live, as an RDB, about.
    safety: u64,
    /// The dump with the live queues, about; 0 if they are not kept.
    joined: u64,
    /// What the server writes on the same filesystem: its save of the old data, then a rewrite of the new.
    server: u64,
}

impl Room {
    /// For a dump of this length.
    pub(super) async fn of(server: &Server, settings: &Settings, staged: u64, joined: u64) -> Result<Self> {
        let live = dump::about(server, settings).await?;
        let beside = settings.redis_data_dir.is_some();
        Ok(Self { staged, safety: live, joined, server: if beside { live.max(staged) } else { 0 } })
    }

    /// Nothing is there yet.
    pub(super) fn for_stage(self, folder: &Path) -> Result<()> {
        self.check(folder, self.staged)
    }

    /// The dump is there.
    pub(super) fn for_commit(self, folder: &Path) -> Result<()> {
        self.check(folder, 0)
    }

    fn check(self, folder: &Path, staged: u64) -> Result<()> {
        let free = free(folder)?;
        let all = [staged, self.safety, self.joined, self.server];
        let needed = all.into_iter().fold(0, u64::saturating_add);
        if free >= needed {
            return Ok(());
        }
        Err(Error::new(
            Kind::Busy,
            format!(
                "{} has {free} bytes free, and a load that can be undone needs about {needed} there: {staged} for the dump, {} for what is live now, {} to \
                 join its queues, {} for what the server saves meanwhile: make room before the restore; in place it needs less, and cannot be undone",
                folder.display(),
                self.safety,
                self.joined,
                self.server
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_figures() {
        let room = Room { staged: 1 << 60, safety: 5, joined: 7, server: 11 };
        let error = room.for_stage(Path::new("/")).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        for words in [
            "1152921504606846976 for the dump",
            "needs about 1152921504606846999",
            "5 for what is live",
            "make room before the restore",
        ] {
            assert!(error.chain().contains(words), "{}", error.chain());
        }
        // What is there already needs no room.
        room.for_commit(Path::new("/")).unwrap();
    }
}
