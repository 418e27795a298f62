//! Images of what runs in pods: Keepsake's own as the Containerfile makes it, the stores, and something that stands for 3scale's applications.

use std::path::{Path, PathBuf};

use super::Node;
use crate::child::{run, tool_command};
use crate::house::programs;

/// Keepsake's.
pub const KEEPSAKE: &str = "keepsake:0.1.0";
/// Redis, MariaDB and PostgreSQL.
pub const STORES: &str = "stores:1";
/// What stands for 3scale's applications: `bundle` is there, and tells what it was asked for.
pub const APPLICATIONS: &str = "porta:1";
/// The user that pods run as; PostgreSQL wants one that has a name.
pub const USER: u32 = 10001;

/// As porta's: what it prints is what an administrator looks for.
const BUNDLE: &str = r#"#!/bin/bash
echo "bundle $*"
if [ -e /tmp/fails ]; then echo "rake aborted!" >&2; exit 1; fi
"#;

impl Node {
    /// Makes all images and loads them. False, loudly, where their packages cannot be had.
    pub fn load_images(&self, test: &str) -> bool {
        let Some(roots) = roots(test) else { return false };
        let image = |name: &str| {
            let folder = self.scratch.path().join("images").join(name);
            std::fs::create_dir_all(folder.parent().expect("a folder")).expect("make a folder");
            must(tool_command("cp").arg("-a").arg(roots.join("node-base")).arg(&folder));
            folder
        };
        let keepsake = image("keepsake");
        std::fs::create_dir_all(keepsake.join("usr/local/bin")).expect("make a folder");
        let from = std::env::var_os("KEEPSAKE_IMAGE_PROGRAMS").map_or_else(programs, PathBuf::from);
        for program in ["keepsake", "keepsake-agent"] {
            let to = keepsake.join("usr/local/bin").join(program);
            must(tool_command("strip").arg(from.join(program)).arg("-o").arg(to));
        }
        make_authorities(&keepsake);
        self.load(KEEPSAKE, &keepsake, &["keepsake"]);
        let porta = image("porta");
        write_program(&porta.join("usr/bin/bundle"), BUNDLE);
        self.load(APPLICATIONS, &porta, &["/usr/bin/env"]);
        self.load(STORES, &roots.join("node-stores"), &[]);
        self.has_room(test)
    }

    /// Where a disk is nearly full no kubelet starts a pod, and takes images away. False then, loudly.
    fn has_room(&self, test: &str) -> bool {
        let taints = "jsonpath={.items[*].spec.taints[*].key}";
        let taints = self.must(&["get", "nodes", "-o", taints]);
        let has_room = !taints.contains("disk-pressure");
        if !has_room {
            eprintln!(
                "SKIPPED {test}: the node has disk pressure ({taints}): its kubelet wants 15 % of the disk to be free"
            );
        }
        has_room
    }
}

/// The folders of which images are made.
fn roots(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("KEEPSAKE_MATRIX_DIR")
        .map_or_else(|| programs().parent().expect("the target folder").join("matrix"), PathBuf::from);
    let mut unpack = tool_command(Path::new(env!("CARGO_MANIFEST_DIR")).join("matrix/unpack"));
    run(unpack.arg(&folder).args(["node-stores", "node-base"]));
    for root in ["node-stores", "node-base"] {
        if !folder.join(root).is_dir() {
            eprintln!("SKIPPED {test}: {root} is not to be had (tests/matrix/unpack {} {root})", folder.display());
            return None;
        }
    }
    for root in ["node-stores", "node-base"] {
        std::fs::write(folder.join(root).join("etc/nsswitch.conf"), "hosts: files dns\n")
            .expect("write where names are");
    }
    let users = folder.join("node-stores/etc/passwd");
    let text = std::fs::read_to_string(&users).expect("read the users");
    if !text.contains("store:") {
        std::fs::write(&users, format!("{text}store:x:{USER}:0:store:/tmp:/bin/sh\n")).expect("write the users");
    }
    Some(folder)
}

/// What the package of certificates does when it is installed.
fn make_authorities(root: &Path) {
    let list = std::fs::read_dir(root.join("usr/share/ca-certificates/mozilla")).expect("list the authorities");
    let each = list.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("read an authority"));
    let whole: Vec<u8> = each.collect::<Vec<_>>().concat();
    std::fs::create_dir_all(root.join("etc/ssl/certs")).expect("make a folder");
    std::fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), whole).expect("write the authorities");
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("write a program");
    must(tool_command("chmod").arg("755").arg(path));
}

fn must(command: &mut std::process::Command) {
    let done = run(command);
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
