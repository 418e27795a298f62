//! What a tree of files is, for comparing: every name, with all that a backup of files promises to keep.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A tree, by path below its root; the root itself is the empty path.
#[derive(Debug, Clone, Default)]
pub struct Manifest(pub BTreeMap<Vec<u8>, Entry>);

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `f`, `d`, `l`, or `?` for anything else.
    pub kind: char,
    /// The lower twelve bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Nanoseconds since 1970.
    pub mtime: i128,
    /// Of a file: apparent size, bytes.
    pub size: Option<u64>,
    /// Of a file: SHA-256, hex.
    pub sha256: Option<String>,
    /// Of a symlink.
    pub target: Option<Vec<u8>>,
    /// Of a file with several names in the tree: the first of them.
    pub first_name: Option<Vec<u8>>,
}

impl Manifest {
    /// Reads a tree, and all that is in it.
    ///
    /// # Panics
    /// When something cannot be read.
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            let full = if path.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(&path)) };
            let found = std::fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("look at {}: {e}", full.display()));
            if found.is_dir() {
                for child in std::fs::read_dir(&full).unwrap_or_else(|e| panic!("list {}: {e}", full.display())) {
                    let name = child.expect("read a folder").file_name().into_vec();
                    let below = if path.is_empty() { name } else { [path.as_slice(), b"/", &name].concat() };
                    pending.push(below);
                }
            }
            let entry = Entry::read(&full, &found);
            entries.insert(path, (entry, (found.dev(), found.ino()), found.nlink()));
        }
        let mut first_names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut out = BTreeMap::new();
        for (path, (mut entry, inode, links)) in entries {
            if entry.kind == 'f' && links > 1 {
                entry.first_name = Some(first_names.entry(inode).or_insert_with(|| path.clone()).clone());
            }
            out.insert(path, entry);
        }
        Self(out)
    }

    /// How many entries are of a kind; the root is not counted.
    pub fn count(&self, kind: char) -> u64 {
        self.0.iter().filter(|(path, e)| !path.is_empty() && e.kind == kind).count() as u64
    }

    /// What differs, a line each, at most twenty; owners only when asked for.
    pub fn differences(&self, expected: &Self, owners: bool) -> Vec<String> {
        let shown = |path: &[u8]| path.escape_ascii().to_string();
        let mut out = Vec::new();
        for (path, want) in &expected.0 {
            match self.0.get(path) {
                None => out.push(format!("{} is missing", shown(path))),
                Some(have) => {
                    let owner = if owners { have.owner } else { want.owner };
                    let have = Entry { owner, ..have.clone() };
                    if &have != want {
                        out.push(format!("{}: {have:?} instead of {want:?}", shown(path)));
                    }
                }
            }
        }
        out.extend(self.0.keys().filter(|p| !expected.0.contains_key(*p)).map(|p| format!("{} is surplus", shown(p))));
        out.truncate(20);
        out
    }

    /// Fails the test when something differs.
    ///
    /// # Panics
    /// When something differs, with what.
    pub fn assert_is(&self, expected: &Self, owners: bool, what: &str) {
        let differences = self.differences(expected, owners);
        assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    }
}

impl Entry {
    fn read(path: &Path, found: &std::fs::Metadata) -> Self {
        let kind = match found.file_type() {
            t if t.is_file() => 'f',
            t if t.is_dir() => 'd',
            t if t.is_symlink() => 'l',
            _ => '?',
        };
        Self {
            kind,
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            mtime: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
            size: (kind == 'f').then_some(found.len()),
            sha256: (kind == 'f').then(|| sha256(path)),
            target: (kind == 'l').then(|| std::fs::read_link(path).expect("read a link").into_os_string().into_vec()),
            first_name: None,
        }
    }
}

/// SHA-256 of a file, hex.
fn sha256(path: &Path) -> String {
    use std::io::Read;
    let mut file = std::fs::File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
        if n == 0 {
            break;
        }
        context.update(&buffer[..n]);
    }
    data_encoding::HEXLOWER.encode(context.finish().as_ref())
}
