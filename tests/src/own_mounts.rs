//! Small filesystems, mounted where nobody else sees them and gone with the process: the program runs itself again in a namespace of its own.

use std::path::Path;

use crate::child::{is_root, run, tool_command};

/// Set where mounting is possible.
const INSIDE: &str = "KEEPSAKE_TEST_MAY_MOUNT";

/// Where this process is.
#[derive(Debug)]
pub enum Place {
    /// Where it may mount: go on.
    Inside,
    /// Outside; the inner run has ended so.
    Outside(std::process::Output),
    /// Outside, and nobody may mount here.
    Forbidden(String),
}

/// Starts this very program again with these arguments where it may mount, unless it is there already.
pub fn enter(arguments: &[&str]) -> Place {
    if std::env::var_os(INSIDE).is_some() {
        return Place::Inside;
    }
    if !is_root() || !run(tool_command("unshare").args(["--mount", "true"])).status.success() {
        return Place::Forbidden("mounting is not allowed here: be root, in a container that lets it mount".to_owned());
    }
    let mut command = tool_command("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe().expect("this program"));
    Place::Outside(run(command.args(arguments).env(INSIDE, "1")))
}

/// For a test of this name: whether this is the inner run; if not, it was done, or skipped.
///
/// # Panics
/// When the inner run failed.
pub fn may_mount(test: &str) -> bool {
    match enter(&[test, "--exact", "--nocapture"]) {
        Place::Inside => true,
        Place::Outside(done) => {
            let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success() && said.contains("1 passed"), "{said}");
            false
        }
        Place::Forbidden(why) => {
            eprintln!("SKIPPED {test}: {why}");
            false
        }
    }
}

/// Mounts an empty filesystem of this size.
pub fn mount(at: &Path, size: &str) {
    std::fs::create_dir_all(at).expect("make a place to mount at");
    let mut command = tool_command("mount");
    command.args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"]).arg(at);
    let done = run(&mut command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Takes it away again.
pub fn unmount(at: &Path) {
    assert!(run(tool_command("umount").arg(at)).status.success(), "unmount {}", at.display());
}

/// Fills the filesystem of this folder with a file in it, until so many bytes are left.
pub fn fill(folder: &Path, leave: u64) {
    let stat = rustix::fs::statvfs(folder).expect("ask for the space");
    let free = stat.f_bavail * stat.f_frsize;
    let ballast = vec![0; usize::try_from(free.saturating_sub(leave)).expect("a small filesystem")];
    match std::fs::write(folder.join(BALLAST), ballast) {
        // Somebody else took the room in between: it is full all the same.
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => {}
        done => done.expect("fill the filesystem"),
    }
}

/// Makes room again.
pub fn make_room(folder: &Path) {
    std::fs::remove_file(folder.join(BALLAST)).expect("make room");
}

/// The name of the file that takes the room.
const BALLAST: &str = "ballast";
