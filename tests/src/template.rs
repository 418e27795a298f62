//! Data folders that take long to make: made once, copied for each test.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::child::{run, tool_command};
use crate::scratch::Scratch;

/// Where what is made once is kept: beside the build, so that `cargo clean` removes it.
fn shared() -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    let target = exe
        .ancestors()
        .find(|p| p.ends_with("debug") || p.ends_with("release"))
        .unwrap_or_else(|| exe.parent().expect("a folder"));
    target.join("keepsake-templates")
}

/// Copies the folder of this name into `to`, making it first if nobody has. `make` gets an empty folder; others may be waiting for it.
pub fn copy(name: &str, to: &Path, make: impl FnOnce(&Path)) {
    let shared = shared();
    std::fs::create_dir_all(&shared).expect("make the folder of templates");
    let template = shared.join(name);
    let lock = File::create(shared.join(format!("{name}.lock"))).expect("make the lock file");
    lock.lock().expect("lock the template");
    if !template.join("done").try_exists().expect("look for the template") {
        let _absent_at_first = std::fs::remove_dir_all(&template);
        std::fs::create_dir_all(&template).expect("make the template");
        // Made where the servers' user may go, which a target folder need not be.
        let scratch = Scratch::new();
        let data = scratch.folder("data", 0o755);
        make(&data);
        let kept = run(tool_command("cp").arg("-a").arg(&data).arg(template.join("data")));
        assert!(kept.status.success(), "keep the template {name}: {kept:?}");
        File::create(template.join("done")).expect("mark the template as done");
    }
    let copied = run(tool_command("cp").arg("-a").arg(template.join("data")).arg(to));
    assert!(copied.status.success(), "copy the template {name}: {copied:?}");
}
