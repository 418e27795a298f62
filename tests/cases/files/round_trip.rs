//! Every oddity of a tree comes back, by us and by GNU tar.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use keepsake_tests::child::{is_root, run, tool_command};
use keepsake_tests::manifest::Manifest;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::{Volume, artifact, names, open, write};

fn bytes(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set a mode");
}

fn set_time(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("set a time");
}

/// Makes a tree with everything that backup tools have got wrong.
pub(super) fn odd_tree(root: &Path) {
    write(&root.join("plain/file.txt"), "content");
    write(&root.join("plain/empty"), "");
    std::fs::create_dir_all(root.join("empty-folder")).unwrap();
    let odd = root.join("odd");
    std::fs::create_dir(&odd).unwrap();
    for name in [
        &b"-rf"[..],
        b"new\nline",
        b"tab\there",
        b"back\\slash",
        b"quote'\"`$(x)",
        b"*?[a]",
        b" blank ",
        b"\x01\x7f",
        b"latin1-\xe9\xff",
        b"...",
        b"..a",
        b".hidden",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        b"Case",
        b"case",
        &[b'n'; 255],
    ] {
        write(&odd.join(bytes(name)), name);
    }
    for length in [98, 99, 100, 101, 154, 155, 156] {
        write(&root.join("lengths").join("x".repeat(length)), "1");
        std::fs::create_dir(root.join("lengths").join("y".repeat(length))).unwrap();
        symlink("z".repeat(length), root.join("lengths").join(format!("link-{length}"))).unwrap();
    }
    let mut deep = root.join("deep");
    for n in 0..40 {
        deep.push(format!("level-{n:02}-\u{65e5}\u{672c}\u{8a9e}"));
    }
    write(&deep.join("bottom"), "bottom");
    // Sorted as names these stand in another order than sorted as paths.
    write(&root.join("order/a/x"), "1");
    write(&root.join("order/a.b"), "2");
    write(&root.join("order/a-b/y"), "3");
    links(root);
    holes(&root.join("sparse"));
    modes_and_times(root);
}

fn links(root: &Path) {
    let links = root.join("links");
    std::fs::create_dir(&links).unwrap();
    symlink("nowhere", links.join("dangling")).unwrap();
    symlink("loop", links.join("loop")).unwrap();
    symlink("../../../../../../etc/passwd", links.join("escaping")).unwrap();
    symlink("/etc", links.join("absolute-folder")).unwrap();
    symlink(bytes(b"\xff\n"), links.join("odd-target")).unwrap();
    symlink("t".repeat(1000), links.join("long-target")).unwrap();
    set_time(&links.join("dangling"), 1_000_000_000, 123_456_789);
    write(&links.join("hard-1"), vec![7; 5000]);
    std::fs::create_dir_all(root.join("other/below")).unwrap();
    std::fs::hard_link(links.join("hard-1"), links.join("hard-2")).unwrap();
    std::fs::hard_link(links.join("hard-1"), root.join("other/below/hard-3")).unwrap();
    std::fs::hard_link(links.join("hard-1"), root.join("a-hard-0")).unwrap();
}

fn holes(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let make = |name: &str, size: u64, data: &[(u64, &[u8])]| {
        let file = std::fs::File::create(folder.join(name)).unwrap();
        for (at, piece) in data {
            file.write_all_at(piece, *at).unwrap();
        }
        file.set_len(size).unwrap();
    };
    make("only-a-hole", 64 << 20, &[]);
    make("data-at-both-ends", 32 << 20, &[(0, b"start"), ((32 << 20) - 3, b"end")]);
    make("data-in-the-middle", 10_000_001, &[(5_000_000, &[9; 10_000])]);
    let many: Vec<_> = (0..50_u64).map(|n| (n * 65_536, &b"piece"[..])).collect();
    make("many-pieces", 50 * 65_536 + 77, &many);
    write(&folder.join("zeros-without-a-hole"), vec![0; 100_000]);
}

fn modes_and_times(root: &Path) {
    for mode in [0o000, 0o400, 0o644, 0o755, 0o666, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777] {
        let path = root.join("modes").join(format!("{mode:o}"));
        write(&path, "x");
        // A mode that the test itself could not read again is for root only.
        set_mode(&path, if is_root() { mode } else { mode | 0o400 });
    }
    for mode in [0o700, 0o755, 0o1777, 0o2775, 0o555] {
        let path = root.join("modes").join(format!("folder-{mode:o}"));
        write(&path.join("in it"), "x");
        set_mode(&path, mode);
    }
    for (name, seconds, nanos) in [
        ("before-1970", -86_400, 0),
        ("just-before-1970", -1, 999_999_999),
        ("half-before-1970", -2, 500_000_000),
        ("1970", 0, 0),
        ("one-nano", 0, 1),
        ("year-2038", 2_147_483_648, 0),
        ("year-2100", 4_102_444_800, 987_654_321),
    ] {
        let path = root.join("times").join(name);
        write(&path, name);
        set_time(&path, seconds, nanos);
        let folder = root.join("times").join(format!("folder-{name}"));
        write(&folder.join("in it"), name);
        set_time(&folder, seconds, nanos);
    }
    if is_root() {
        for (name, uid, gid) in [("namespace", 1_000_660_000, 0), ("large", 4_000_000_000, 3_000_000_000_u32)] {
            let path = root.join("owners").join(name);
            write(&path, name);
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }
    let top = root.join("top-read-only");
    write(&top.join("x"), "x");
    set_mode(&top, 0o555);
    set_time(&top, 1_500_000_000, 5);
    set_mode(root, 0o2775);
    set_time(root, 1_600_000_000, 42);
}

/// Bytes that a tree takes on disk.
pub(super) fn allocated(root: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![root.to_owned()];
    let mut total = 0;
    while let Some(path) = pending.pop() {
        let found = std::fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if seen.insert(found.ino()) {
            total += found.blocks() * 512;
        }
    }
    total
}

/// Unpacks with GNU tar into a new folder.
pub(super) fn unpack(tar: &Path, into: &Path) {
    let mut command = tool_command("tar");
    command.args(["--numeric-owner", "--warning=no-timestamp", "-xpf"]).arg(tar).arg("-C").arg(into);
    let done = run(&mut command);
    assert!(done.status.success() && done.stderr.is_empty(), "tar: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_tree_of_oddities_comes_back_whole() {
    let volume = Volume::new();
    odd_tree(&volume.root);
    let before = volume.manifest();
    let space = allocated(&volume.root);

    let (report, source) = volume.dump().await;
    assert_eq!(report.warnings, Vec::<String>::new());
    assert_eq!(report.counts["files"] + report.counts["hardlinks"], before.count('f'));
    assert_eq!(report.counts["hardlinks"], 3);
    assert_eq!(report.counts["directories"], before.count('d'));
    assert_eq!(report.counts["symlinks"], before.count('l'));
    let tar = &source.artifacts[&artifact()];
    assert!(tar.len() < 2 << 20, "holes are stored: {} bytes", tar.len());
    volume.manifest().assert_is(&before, true, "the dump changed something");
    let (_, again) = volume.dump().await;
    assert!(again.artifacts == source.artifacts, "the same tree gave two different archives");

    // Without Keepsake.
    let by_tar = volume.scratch.folder("by-tar", 0o755);
    let path = volume.scratch.path().join("files.tar");
    write(&path, tar);
    unpack(&path, &by_tar);
    Manifest::of(&by_tar).assert_is(&before, is_root(), "unpacked by GNU tar it is not the same");

    // Wrecked in several ways, then loaded.
    std::fs::remove_dir_all(volume.root.join("plain")).unwrap();
    std::fs::remove_dir_all(volume.root.join("sparse")).unwrap();
    volume.write("plain", "a file where a folder was");
    std::fs::remove_file(volume.root.join("a-hard-0")).unwrap();
    volume.write("a-hard-0/folder", "a folder where a file was");
    volume.write("links/surplus", "x");
    volume.write("surplus/below/x", "x");
    std::os::unix::fs::symlink("/etc", volume.root.join("surplus-link")).unwrap();
    let committed = volume.load(source.clone()).await;
    assert_eq!(committed.warnings, Vec::<String>::new());
    volume.manifest().assert_is(&before, true, "the load is not the same");
    assert!(allocated(&volume.root) <= space + (1 << 20), "holes were filled");
    assert_eq!(volume.leftovers(), Vec::<String>::new());

    // Into an empty volume too, and dumped from there it is the same archive.
    let empty = Volume::new();
    empty.load(source.clone()).await;
    empty.manifest().assert_is(&before, true, "the load into an empty volume is not the same");
    let (_, from_there) = empty.dump().await;
    assert!(from_there.artifacts == source.artifacts, "dumped again it is another archive");
}

#[tokio::test]
async fn an_archive_of_gnu_tar_loads() {
    let volume = Volume::new();
    odd_tree(&volume.root);
    let before = volume.manifest();
    let tar = volume.scratch.path().join("gnu.tar");
    for format in ["--format=pax", "--format=posix", "--format=gnu"] {
        let mut command = tool_command("tar");
        command.args([format, "--sort=name", "--numeric-owner", "-cf"]).arg(&tar).arg("-C").arg(&volume.root);
        if format == "--format=posix" {
            command.arg("--sparse");
        }
        let done = run(command.arg("."));
        assert!(done.status.success(), "tar: {}", String::from_utf8_lossy(&done.stderr));
        let other = Volume::new();
        let key = super::run();
        let source = super::source(std::fs::read(&tar).unwrap());
        other.engine.stage(&key, std::sync::Arc::new(source), &super::context()).await.expect(format);
        other.engine.commit(&key, &super::context()).await.expect(format);
        other.engine.finalize(&key, &super::context()).await.expect(format);
        let mut found = other.manifest();
        if format == "--format=gnu" {
            // That format has whole seconds, rounded down.
            for (path, entry) in &mut found.0 {
                let want = before.0[path].mtime;
                assert_eq!(entry.mtime, want.div_euclid(1_000_000_000) * 1_000_000_000, "{}", path.escape_ascii());
                entry.mtime = want;
            }
        }
        found.assert_is(&before, is_root(), format);
    }
}

#[tokio::test]
async fn what_tar_cannot_hold_is_told_and_what_is_not_ours_is_left_out() {
    let volume = Volume::new();
    volume.write("file", "x");
    volume.write(".keepsake-other/new/x", "x");
    volume.write("lost+found/x", "x");
    volume.write(".snapshot/x", "x");
    volume.write("below/lost+found/kept", "x");
    let _socket = std::os::unix::net::UnixListener::bind(volume.root.join("socket")).unwrap();
    let fifo = run(tool_command("mkfifo").arg(volume.root.join("fifo")));
    assert!(fifo.status.success());
    let (report, source) = volume.dump().await;
    assert_eq!(report.counts["files"], 2);
    assert_eq!(report.counts["bytes"], 2);
    let told = report.warnings.join("\n");
    for name in ["\"socket\" is a socket", "\"fifo\" is a FIFO", "\"lost+found\" belongs", "\".snapshot\" belongs"] {
        assert!(told.contains(name), "{name}: {told}");
    }
    assert!(!told.contains("keepsake"), "{told}");
    let other = Volume::new();
    other.load(source).await;
    assert_eq!(names(&other.root), ["below", "file"]);
}

#[tokio::test]
async fn describe_says_what_the_volume_is_and_what_is_wrong() {
    let volume = Volume::new();
    let description = volume.engine.describe().await.unwrap();
    assert_eq!(description.server, "files");
    assert!(description.hold.is_err() && description.undo.is_ok());
    assert!(description.staging_free.is_some_and(|free| free > 0) && description.loads.is_empty());
    assert_eq!(description.problems, Vec::<String>::new());
    for fact in ["filesystem", "bytes-used", "entries"] {
        assert!(!description.facts[fact].is_empty(), "{fact}");
    }
    let missing = open(&volume.root.join("missing"), false, volume.scratch.path()).describe().await.unwrap();
    assert!(missing.problems[0].contains("missing (--files-root)"), "{:?}", missing.problems);
    volume.write("file", "x");
    let file = open(&volume.root.join("file"), false, volume.scratch.path()).describe().await.unwrap();
    assert!(file.problems[0].contains("--files-root"), "{:?}", file.problems);
    let error = open(&volume.root.join("missing"), false, volume.scratch.path());
    let sink = keepsake_tests::memory::MemorySink::default();
    assert!(error.dump(None, &sink, &super::context()).await.is_err());
    assert!(sink.finished().is_empty());
}
