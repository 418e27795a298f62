//! What only shows to a user who may not do everything. Run by root, these run themselves again as nobody.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepsake_agent::engine::Staged;
use keepsake_core::error::Kind;
use keepsake_tests::child::{NOBODY, is_root, run as run_command, server_command};
use keepsake_tests::memory::MemorySink;
use keepsake_tests::scratch::Scratch;

use super::{Volume, context, names, open, run, write};

/// The folder that root has prepared for nobody.
const PREPARED: &str = "KEEPSAKE_TEST_PREPARED";

/// Runs the test of this name as nobody when this is root; says whether that was done.
pub(super) fn done_as_nobody(test: &str, prepared: Option<&Path>) -> bool {
    if !is_root() {
        return false;
    }
    let mut command = server_command(std::env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture"]).env_remove("NEXTEST_EXECUTION_MODE");
    command.env("TMPDIR", std::env::temp_dir());
    if let Some(path) = prepared {
        command.env(PREPARED, path);
    }
    let done = run_command(&mut command);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    if matches!(done.status.code(), Some(126 | 127)) {
        eprintln!("SKIPPED {test}: nobody may not run this program: {said}");
        return true;
    }
    assert!(done.status.success() && said.contains("1 passed"), "as nobody: {said}");
    true
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set a mode");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_the_dump() {
    if done_as_nobody("files::unprivileged::a_file_that_cannot_be_read_fails_the_dump", None) {
        return;
    }
    let volume = Volume::new();
    volume.write("folder/secret", "x");
    for (path, mode) in [("folder/secret", 0o000), ("folder", 0o300), ("folder", 0o400)] {
        let path = volume.root.join(path);
        let before = std::fs::metadata(&path).unwrap().permissions();
        set_mode(&path, mode);
        let sink = MemorySink::default();
        let error = volume.engine.dump(None, &sink, &context()).await.unwrap_err();
        std::fs::set_permissions(&path, before).unwrap();
        assert_eq!(error.kind(), Kind::Denied, "{}", error.chain());
        assert!(error.chain().contains("folder"), "{}", error.chain());
        assert!(sink.finished().is_empty());
    }
    set_mode(&volume.root, 0o555);
    let problems = volume.engine.describe().await.unwrap().problems;
    set_mode(&volume.root, 0o755);
    assert!(problems.len() == 1 && problems[0].contains("cannot be written to"), "{problems:?}");
}

#[tokio::test]
async fn folders_that_are_read_only_are_replaced_and_removed() {
    if done_as_nobody("files::unprivileged::folders_that_are_read_only_are_replaced_and_removed", None) {
        return;
    }
    let volume = Volume::new();
    volume.write("read-only/below/file", "from the set");
    set_mode(&volume.root.join("read-only/below"), 0o555);
    set_mode(&volume.root.join("read-only"), 0o555);
    let before = volume.manifest();
    let (_, source) = volume.dump().await;
    volume.write("extra/below/file", "later");
    set_mode(&volume.root.join("extra/below"), 0o000);
    set_mode(&volume.root.join("extra"), 0o555);
    let before_load = source.clone();
    let committed = volume.load(source).await;
    assert_eq!(committed.warnings, Vec::<String>::new());
    volume.manifest().assert_is(&before, true, "the load is not the same");
    assert_eq!(volume.leftovers(), Vec::<String>::new());

    // And back, over a root that the set has made read-only.
    volume.write("later/file", "later");
    set_mode(&volume.root.join("later"), 0o500);
    let live = volume.manifest();
    let other = Volume::new();
    other.write("read-only/file", "another");
    set_mode(&other.root.join("read-only"), 0o555);
    set_mode(&other.root, 0o555);
    let (_, source) = other.dump().await;
    set_mode(&other.root, 0o755);
    let key = run();
    for end in ["rollback", "finalize"] {
        volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap();
        volume.engine.commit(&key, &context()).await.unwrap();
        assert_eq!(std::fs::metadata(&volume.root).unwrap().permissions().mode() & 0o7777, 0o555, "{end}");
        if end == "rollback" {
            volume.engine.rollback(&key, &context()).await.unwrap();
            volume.manifest().assert_is(&live, true, "rolled back it is not the same");
        }
    }
    volume.engine.finalize(&key, &context()).await.unwrap();
    assert_eq!(std::fs::metadata(&volume.root).unwrap().permissions().mode() & 0o7777, 0o555);
    assert_eq!(names(&volume.root), ["read-only"]);
    set_mode(&volume.root, 0o755);
    set_mode(&other.root.join("read-only"), 0o755);
    volume.load(before_load).await;
    set_mode(&volume.root.join("read-only"), 0o755);
    set_mode(&volume.root.join("read-only/below"), 0o755);
}

/// Owners that cannot be set fail the load before anything is touched, and only if they were asked for.
#[tokio::test]
async fn owners_are_set_only_when_asked_for() {
    let test = "files::unprivileged::owners_are_set_only_when_asked_for";
    if is_root() {
        let scratch = Scratch::new();
        let root = scratch.folder("volume", 0o777);
        write(&root.join("of-root"), "x");
        assert!(done_as_nobody(test, Some(&root)));
        return;
    }
    let Some(root) = std::env::var_os(PREPARED).map(PathBuf::from) else {
        eprintln!("SKIPPED: only root can prepare files of another user");
        return;
    };
    let scratch = Scratch::new();
    let from = Volume { engine: open(&root, false, scratch.path()), root, scratch };
    let (_, source) = from.dump().await;
    let volume = Volume::new();
    volume.write("live", "x");
    let strict = open(&volume.root, true, volume.scratch.path());
    let key = run();
    let error = strict.stage(&key, Arc::new(source.clone()), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.chain().contains("--files-preserve-owner"), "{}", error.chain());
    assert_eq!(names(&volume.root), ["live"]);
    volume.load(source).await;
    assert_eq!(names(&volume.root), ["of-root"]);
}

/// A rename that fails in the middle of the swap is taken back.
#[tokio::test]
async fn a_swap_that_fails_is_taken_back() {
    let test = "files::unprivileged::a_swap_that_fails_is_taken_back";
    if is_root() {
        let scratch = Scratch::new();
        let root = scratch.folder("volume", 0o755);
        for name in ["a", "b", "extra", "stuck"] {
            write(&root.join(name).join("file"), name);
        }
        keepsake_tests::child::give_to_servers(&root);
        // Only its owner can move this folder elsewhere.
        std::os::unix::fs::chown(root.join("stuck"), Some(0), Some(0)).unwrap();
        assert!(done_as_nobody(test, Some(&root)));
        assert_eq!(names(&root), ["a", "b", "extra", "stuck"]);
        return;
    }
    let Some(root) = std::env::var_os(PREPARED).map(PathBuf::from) else {
        eprintln!("SKIPPED: only root can prepare files of another user");
        return;
    };
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY.0);
    let other = Volume::new();
    for name in ["a", "b", "c", "stuck"] {
        other.write(&format!("{name}/file"), "from the set");
    }
    let (_, source) = other.dump().await;
    let scratch = Scratch::new();
    let volume = Volume { engine: open(&root, false, scratch.path()), root, scratch };
    let before = volume.manifest();
    let key = run();
    volume.engine.stage(&key, Arc::new(source), &context()).await.unwrap();
    let error = volume.engine.commit(&key, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{}", error.chain());
    assert!(error.chain().contains("nothing was loaded"), "{}", error.chain());
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Staged);
    volume.engine.rollback(&key, &context()).await.expect("nothing live was changed");
    volume.manifest().assert_is(&before, true, "the swap was not taken back");
    assert_eq!(volume.leftovers(), Vec::<String>::new());
}
