//! What a volume is, as asked just now.

use std::path::Path;

use keepsake_core::error::Result;
use keepsake_core::format::tar::shown;
use keepsake_core::record::Facts;
use rustix::fs::Access;

use super::super::Description;
use super::steps::Steps;
use super::tree::{Root, failed};
use super::{NO_HOLD, loads};

/// Describes it. While `loading`, what a load is doing is no problem.
pub(super) fn describe(path: &Path, loading: bool) -> Description {
    let mut description = Description {
        server: "files".to_owned(),
        tools: Vec::new(),
        size: 0,
        position: None,
        facts: Facts::new(),
        hold: Err(NO_HOLD.to_owned()),
        undo: Ok(()),
        in_place_is_whole: false,
        in_place_is_told: false,
        problems: Vec::new(),
        staging_free: None,
        loads: Vec::new(),
    };
    let root = match Root::open(path, &Steps::default()) {
        Ok(root) => root,
        Err(e) => {
            description.problems.push(e.chain());
            return description;
        }
    };
    description.facts.insert("filesystem".to_owned(), root.mounts.filesystem.clone());
    match rustix::fs::fstatvfs(&root.dir) {
        Ok(stat) => {
            let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
            description.facts.insert("bytes-used".to_owned(), used.to_string());
            description.facts.insert("entries".to_owned(), stat.f_files.saturating_sub(stat.f_ffree).to_string());
            // On a filesystem that is used for other things too, this would say nothing.
            // Filesystems without such a limit say that they have no blocks at all.
            description.staging_free = (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize));
            description.size = if root.mounts.is_mount { used } else { 0 };
        }
        Err(e) => description.problems.push(failed("ask for the space of", b"", e).chain()),
    }
    for (access, what, hinders) in [
        (Access::READ_OK, "read", "dumped"),
        (Access::EXEC_OK, "entered", "dumped"),
        (Access::WRITE_OK, "written to", "loaded"),
    ] {
        if rustix::fs::accessat(&root.dir, c".", access, rustix::fs::AtFlags::EACCESS).is_err() {
            description.problems.push(format!(
                "{} cannot be {what} by the agent's user, so it cannot be {hinders}: check user, group and mount options",
                path.display()
            ));
        }
    }
    if let Some(mount) = root.mounts.deeper() {
        description.problems.push(format!(
            "another filesystem is mounted at {}: it is not dumped, and must be unmounted before a load",
            shown(mount)
        ));
    }
    let told: Result<()> = loads::known(&root).and_then(|known| {
        description.loads = known;
        if !loading {
            description.problems.extend(loads::torn(&root)?);
        }
        Ok(())
    });
    description.problems.extend(told.err().map(|e| e.chain()));
    description
}
