//! The tree of a realistic installation, when its data is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keepsake_tests::child::{is_root, run, tool_command};
use keepsake_tests::manifest::{Entry, Manifest};

use super::round_trip::{allocated, unpack};
use super::{Volume, open};

fn fixture(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures").join(name);
    if path.try_exists().expect("look for the fixtures") {
        return Some(path);
    }
    eprintln!("SKIPPED: there is no {}", path.display());
    None
}

fn decompress(from: &Path) -> Vec<u8> {
    let done = run(tool_command("zstd").arg("-dcq").arg(from));
    assert!(done.status.success(), "zstd: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The fixture's own list of what is below `system/`.
fn listed(json: &[u8]) -> Manifest {
    let list: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(json).expect("parse the list");
    let mut entries = BTreeMap::new();
    for item in list {
        let text = |key: &str| item.get(key).and_then(|v| v.as_str()).map(str::to_owned);
        let number = |key: &str| item.get(key).and_then(serde_json::Value::as_i64);
        let path = match text("path_hex") {
            Some(hex) => data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap(),
            None => text("path").unwrap().into_bytes(),
        };
        let below = |path: Vec<u8>| path.strip_prefix(b"system/").expect("below system").to_vec();
        let entry = Entry {
            kind: text("type").unwrap().chars().next().unwrap(),
            mode: u32::from_str_radix(text("mode").unwrap().trim_start_matches("0o"), 8).unwrap(),
            owner: (number("uid").unwrap().try_into().unwrap(), number("gid").unwrap().try_into().unwrap()),
            mtime: number("mtime_ns").unwrap().into(),
            size: number("size").map(|n| n.try_into().unwrap()),
            sha256: text("sha256"),
            target: text("target").map(String::into_bytes),
            first_name: text("hardlink_of").map(|p| below(p.into_bytes())),
        };
        entries.insert(below(path), entry);
    }
    Manifest(entries)
}

#[tokio::test]
async fn the_storage_of_an_installation_comes_back() {
    let (Some(tar), Some(list)) = (fixture("system-storage.tar.zst"), fixture("system-storage.manifest.json.zst"))
    else {
        return;
    };
    let mut volume = Volume::new();
    let unpacked = volume.scratch.path().join("fixture.tar");
    std::fs::write(&unpacked, decompress(&tar)).unwrap();
    unpack(&unpacked, &volume.root);
    let root = volume.root.join("system");
    let mut expected = listed(&decompress(&list));
    let before = Manifest::of(&root);
    // The list leaves out the top, and says nothing of the time of links that it does not know.
    expected.0.insert(Vec::new(), before.0[&Vec::new()].clone());
    before.assert_is(&expected, is_root(), "the fixture is not what its list says");
    assert_eq!((expected.count('f'), expected.count('d'), expected.count('l')), (501, 411, 5));
    let space = allocated(&root);

    volume.engine = open(&root, is_root(), volume.scratch.path());
    volume.root.clone_from(&root);
    let (report, source) = volume.dump().await;
    assert_eq!(report.warnings, Vec::<String>::new());
    let counts: Vec<_> = ["files", "directories", "symlinks", "hardlinks"].map(|k| report.counts[k]).into();
    assert_eq!(counts, [499, 411, 5, 2]);

    std::fs::remove_dir_all(root.join("tenant1")).unwrap();
    std::fs::remove_dir_all(root.join("tenant2/links")).unwrap();
    volume.write("tenant3/other/hard-c.bin", "wrecked");
    volume.write("tenant9/surplus", "x");
    volume.load(source).await;
    volume.manifest().assert_is(&expected, is_root(), "restored it is not what the list says");
    assert!(allocated(&root) <= space + (1 << 20), "{} bytes allocated, {space} before", allocated(&root));
}
