//! system-storage: files of the portal, and everything that a file system can hold.

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::{Numbers, Size};

/// Files that rows of the system database name, and those rows.
pub const ATTACHMENTS: [(&str, &str); 5] = [
    ("tenant/2/profiles/logos/original/logo.png", "profiles 1"),
    ("tenant/2020/02/02/my logo-dc0b26879824b015.png", "cms_files 1"),
    ("tenant/2020/02/02/ü.tar-5a8d433119e96241.gz", "cms_files 2"),
    ("tenant/3/profiles/logos/original/logo.", "profiles 2"),
    ("tenant/invoices/2/pdfs/original/invoice-2.pdf", "invoices 2"),
];

/// Fills an empty folder.
pub fn fill(root: &Path, seed: u64, size: Size) {
    let mut numbers = Numbers::new(seed ^ 0xf11e);
    let portal = root.join("tenant").join("2020/02/02");
    fs::create_dir_all(&portal).expect("make folders");
    for n in 0..size.files {
        let length = 1_000 + (numbers.draw() % 60_000) as usize;
        fs::write(portal.join(format!("image-{n}.png")), numbers.bytes(length)).expect("write a file");
    }
    fs::write(portal.join(OsStr::from_bytes(b"not-utf8-\xff\xfe.css")), "body {}").expect("write a file");
    fs::write(portal.join("-rf"), "").expect("write a file");
    fs::write(portal.join("line\nbreak"), "x").expect("write a file");
    fs::write(portal.join("ü".repeat(120)), "long name").expect("write a file");
    for (path, _) in ATTACHMENTS {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make folders");
        fs::write(path, "attached").expect("write a file");
    }
    let deep = (0..30).fold(root.join("deep"), |path, n| path.join(format!("a-folder-with-a-rather-long-name-{n}")));
    fs::create_dir_all(&deep).expect("make folders");
    fs::write(deep.join("bottom.txt"), "here").expect("write a file");
    fs::create_dir_all(root.join("empty")).expect("make a folder");
    symlink("nowhere", root.join("dangling")).expect("make a link");
    symlink("../../../../etc/passwd", root.join("tenant").join("escape")).expect("make a link");
    symlink("loop", root.join("loop")).expect("make a link");
    fs::hard_link(portal.join("-rf"), root.join("hard")).expect("make a hard link");
    let mut sparse = fs::File::create(root.join("sparse")).expect("make a file");
    sparse.seek(SeekFrom::Start(8 << 20)).expect("seek");
    sparse.write_all(b"end").expect("write");
    fs::set_permissions(portal.join("image-0.png"), fs::Permissions::from_mode(0o640)).expect("set a mode");
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o2775)).expect("set a mode");
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let file = fs::File::open(portal.join("image-0.png")).expect("open a file");
    file.set_modified(old).expect("set a time");
}

/// Destroys and changes what is there.
pub fn wreck(root: &Path) {
    fs::remove_dir_all(root.join("tenant")).expect("remove a folder");
    fs::remove_file(root.join("dangling")).expect("remove a link");
    fs::write(root.join("sparse"), "overwritten").expect("write a file");
    fs::write(root.join("left-by-an-attacker"), "x").expect("write a file");
}
