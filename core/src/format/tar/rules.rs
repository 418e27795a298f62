//! What must hold of an archive before a byte of it becomes a file. Pure.
//!
//! Entries come in one order: a folder before what is in it, and in each folder by name, compared byte by byte. So a folder
//! that was never made, a way through a symlink and an entry that comes twice are all seen by comparing with the entry
//! before, whatever the number of entries. (`tar --sort=name` has the same order.)

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::error::{Error, Kind, Result};

use super::entry::{Body, Entry, Tally, shown, split};

/// How many files are remembered, to check the targets of hard links; that is 5 MB. A link to a file after that many is
/// checked where it is made: no load touches live data before all of it was unpacked.
const MOST_REMEMBERED: usize = 450_000;

/// Admits the entries of one archive in turn.
#[derive(Debug, Default)]
pub struct Rules {
    /// Names at the top that a load leaves alone.
    reserved: HashSet<Vec<u8>>,
    /// The entry before, and whether it was a folder.
    last: Option<(Vec<u8>, bool)>,
    /// Fingerprints of the files so far, with keys of this process, so that nobody can aim at them.
    files: HashSet<u64>,
    keys: RandomState,
    tally: Tally,
    /// Bytes that the tree will take on a filesystem with blocks of 4 KiB, about.
    space: u64,
}

impl Rules {
    /// Nothing admitted yet; these names at the top are refused.
    pub fn new(reserved: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { reserved: reserved.into_iter().collect(), ..Self::default() }
    }

    /// Checks an entry and counts it.
    pub fn admit(&mut self, entry: &Entry) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Kind::Corrupt, format!("the entry {} {what}", shown(&entry.path))));
        if let Err(what) = self.check_order(&entry.path) {
            return refuse(what);
        }
        let top = entry.path.split(|b| *b == b'/').next().unwrap_or_default();
        if top.starts_with(b".keepsake-") || self.reserved.contains(top) {
            return refuse("is where a load changes nothing".to_owned());
        }
        match &entry.body {
            Body::HardLink(target) if !self.has_file(target) => {
                return refuse(format!("is a hard link to {}, which is no file before it", shown(target)));
            }
            Body::File(_) if self.files.len() < MOST_REMEMBERED => {
                self.files.insert(self.keys.hash_one(&entry.path));
            }
            Body::File(_) | Body::HardLink(_) | Body::Directory | Body::Symlink(_) => {}
        }
        if !entry.path.is_empty() {
            self.tally.add(&entry.body);
        }
        let data = match &entry.body {
            Body::File(file) => file.stored().div_ceil(4096).saturating_mul(4096),
            Body::Directory => 4096,
            Body::Symlink(_) | Body::HardLink(_) => 0,
        };
        self.space = self.space.saturating_add(data).saturating_add(256);
        self.last = Some((entry.path.clone(), entry.body == Body::Directory));
        Ok(())
    }

    /// What was admitted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// About how many bytes it takes unpacked.
    pub fn space(&self) -> u64 {
        self.space
    }

    fn has_file(&self, path: &[u8]) -> bool {
        self.files.len() >= MOST_REMEMBERED || self.files.contains(&self.keys.hash_one(path))
    }

    fn check_order(&self, path: &[u8]) -> std::result::Result<(), String> {
        let (last, last_is_folder) = match &self.last {
            Some((last, is_folder)) => (last.as_slice(), *is_folder),
            // Before the first entry stands the root, whether it is in the archive or not.
            None => (&[][..], true),
        };
        let Some((folder, name)) = split(path) else {
            return if self.last.is_none() { Ok(()) } else { Err("comes late or twice".to_owned()) };
        };
        // What of the entry before lies in the same folder: all folders on the way to it were admitted.
        let Some(below) = strip_folder(last, folder) else {
            return Err(format!("comes before its folder {}, or out of order", shown(folder)));
        };
        if below.is_empty() {
            return if last_is_folder {
                Ok(())
            } else {
                Err(format!("lies below {}, which is no folder", shown(last)))
            };
        }
        let sibling = below.split(|b| *b == b'/').next().unwrap_or_default();
        match sibling.cmp(name) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err("comes twice".to_owned()),
            std::cmp::Ordering::Greater => {
                Err(format!("comes after {}: entries must be sorted by name (tar --sort=name)", shown(last)))
            }
        }
    }
}

/// The path seen from a folder that it is in, or that it is itself (then empty).
fn strip_folder<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder)?;
    if folder.is_empty() || rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tar::entry::{File, Meta, Stamp};

    fn entry(text: &str) -> Entry {
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Stamp { seconds: 0, nanos: 0 } };
        let (path, body) = if let Some((path, target)) = text.split_once("=>") {
            (path, Body::HardLink(target.into()))
        } else if let Some((path, target)) = text.split_once("->") {
            (path, Body::Symlink(target.into()))
        } else if let Some(path) = text.strip_suffix('/') {
            (path, Body::Directory)
        } else {
            (text, Body::File(File { size: 10, extents: None }))
        };
        Entry { path: path.into(), body, meta }
    }

    fn admit(list: &[&str]) -> Result<Tally> {
        let mut rules = Rules::new([b"lost+found".to_vec()]);
        for text in list {
            rules.admit(&entry(text))?;
        }
        Ok(rules.tally().clone())
    }

    #[test]
    fn a_sorted_tree_is_admitted() {
        let tally = admit(&["/", "a/", "a/b/", "a/b/c", "a/b/d=>a/b/c", "a/c->..", "a.b", "b/", "c"]).unwrap();
        let expected = Tally { files: 3, directories: 3, symlinks: 1, hardlinks: 1, bytes: 30 };
        assert_eq!(tally, expected);
        assert!(admit(&["a", "b"]).is_ok());
    }

    #[test]
    fn evil_and_broken_trees_are_refused() {
        for (list, word) in [
            (&["a", "a"][..], "twice"),
            (&["a/", "a/x", "a/"], "twice"),
            (&["/", "a", "/"], "late or twice"),
            (&["a->/etc", "a/x"], "which is no folder"),
            (&["a", "a/x"], "which is no folder"),
            (&["a/x"], "before its folder"),
            (&["a/", "b/", "a/x"], "before its folder"),
            (&["b", "a"], "comes after \"b\": entries must be sorted"),
            (&["a/", "a/b", "ab", "a/c"], "before its folder"),
            (&["a=>b", "b"], "no file before it"),
            (&["a->x", "b=>a"], "no file before it"),
            (&["a/", "b=>a"], "no file before it"),
            (&["lost+found/"], "changes nothing"),
            (&[".keepsake-x/"], "changes nothing"),
        ] {
            let error = admit(list).unwrap_err().chain();
            assert!(error.contains(word), "{list:?}: {error}");
        }
    }
}
