//! Archives that want out.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use keepsake_tests::manifest::Manifest;

use super::{Volume, context, run, source};

/// One entry: a header, its data, padding.
fn entry(name: &str, flag: u8, target: &str, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 512];
    out[..name.len()].copy_from_slice(name.as_bytes());
    out[100..108].copy_from_slice(b"0000644\0");
    out[108..116].copy_from_slice(b"0000000\0");
    out[116..124].copy_from_slice(b"0000000\0");
    out[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    out[136..148].copy_from_slice(b"00000000000\0");
    out[148..156].fill(b' ');
    out[156] = flag;
    out[157..157 + target.len()].copy_from_slice(target.as_bytes());
    out[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = out.iter().map(|b| u32::from(*b)).sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn pax(records: &[u8]) -> Vec<u8> {
    entry("PaxHeaders/x", b'x', "", records)
}

#[tokio::test]
async fn evil_archives_are_refused_by_name_and_nothing_is_written() {
    let volume = Volume::new();
    let outside = volume.scratch.folder("outside", 0o777);
    std::fs::write(outside.join("victim"), "as it was").unwrap();
    symlink(&outside, volume.root.join("live-link")).unwrap();
    volume.write("live", "as it was");
    let before = Manifest::of(volume.scratch.path());
    let file = |name: &str| entry(name, b'0', "", b"evil");
    let cases: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("upwards", vec![file("../outside/victim")], "../outside/victim"),
        ("upwards within", vec![entry("a/", b'5', "", b""), file("a/../../outside/x")], "a/../../outside/x"),
        ("absolute", vec![file("/tmp/keepsake-evil")], "/tmp/keepsake-evil"),
        ("absolute by record", vec![pax(b"17 path=/tmp/x/y\n"), file("harmless")], "/tmp/x/y"),
        ("through a link", vec![entry("out", b'2', "../outside", b""), file("out/victim")], "out/victim"),
        ("through the live link", vec![file("live-link/victim")], "live-link/victim"),
        ("over a link", vec![entry("out", b'2', "../outside/victim", b""), file("out")], "\"out\" comes twice"),
        ("hard link outside", vec![entry("h", b'1', "../outside/victim", b"")], "../outside/victim"),
        ("absolute hard link", vec![entry("h", b'1', "/etc/passwd", b"")], "/etc/passwd"),
        (
            "hard link to a link",
            vec![entry("a", b'2', "/etc/passwd", b""), entry("h", b'1', "a", b"")],
            "\"h\" is a hard link",
        ),
        ("hard link to what is live", vec![entry("h", b'1', "live", b"")], "\"h\" is a hard link"),
        ("twice", vec![file("a"), file("a")], "\"a\" comes twice"),
        ("twice apart", vec![file("a"), file("b"), file("a")], "\"a\" comes after"),
        ("a device", vec![entry("dev", b'4', "", b"")], "\"dev\" is a device"),
        ("a FIFO", vec![entry("pipe", b'6', "", b"")], "\"pipe\" is a FIFO"),
        ("our own folder", vec![entry(".keepsake-x/", b'5', "", b"")], ".keepsake-x"),
        ("the filesystem's folder", vec![entry("lost+found/", b'5', "", b"")], "lost+found"),
        ("a root that is a link", vec![entry("./", b'2', "/etc", b"")], "the root is not a folder"),
        ("a NUL in a name", vec![pax(b"12 path=a\0b\n"), file("harmless")], "\"path\""),
        ("attributes", vec![pax(b"27 SCHILY.xattr.user.a=bcd\n"), file("a")], "SCHILY.xattr.user.a"),
    ];
    for (what, entries, words) in cases {
        let bytes = [entries.concat(), vec![0; 1024]].concat();
        let error = volume.engine.stage(&run(), Arc::new(source(bytes)), &context()).await.expect_err(what).chain();
        assert!(error.contains(words), "{what}: {error}");
    }
    Manifest::of(volume.scratch.path()).assert_is(&before, true, "an evil archive changed something");
}
