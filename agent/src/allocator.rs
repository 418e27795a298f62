//! Keeps the agent within its sidecar's memory: segments of some megabytes come and go on many threads.
//!
//! glibc raises the size from which it maps memory on its own with every large block that is freed, and then keeps such blocks in one arena a thread. A dump of
//! 1 GB took 72 MiB so, and 28 MiB with the size fixed [tried]. It reads the setting before `main`, so the program starts itself once more with it; process
//! id, arguments and everything else stay. mimalloc was tried and took 76 MiB.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// What glibc reads (mallopt(3)).
const SETTING: &str = "MALLOC_MMAP_THRESHOLD_";
/// From so many bytes on a block is mapped on its own, and given back when it is freed.
const BYTES: &str = "262144";

/// Makes sure that this process runs with the setting; to be called before anything else is done.
#[expect(clippy::disallowed_methods, reason = "it becomes this very program again; no child is made")]
pub fn ensure_bounded() {
    if std::env::var_os(SETTING).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // Comes back only if it failed; the agent works without, and takes more memory.
    let _failed = Command::new("/proc/self/exe").arg0(name).args(arguments).env(SETTING, BYTES).exec();
}
