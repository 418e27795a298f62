//! What an archive holds, and what is counted of it. Pure.
//!
//! Paths are bytes, relative to the root, without `.`, `..`, doubled or trailing slashes; the root itself is the empty path.

use crate::error::{Error, Kind, Result};
use crate::record::{Counts, DumpReport};

/// How deep a tree may be. Each level costs an open folder while walking, and a process may have only so many.
pub const MAX_DEPTH: usize = 512;
/// The longest name of one entry, bytes: that of Linux.
const MAX_NAME: usize = 255;

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without a slash at its end; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub body: Body,
    /// What it carries besides.
    pub meta: Meta,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A folder.
    Directory,
    /// A regular file.
    File(File),
    /// Any bytes but NUL; never followed by us.
    Symlink(Vec<u8>),
    /// The path of a file earlier in the archive.
    HardLink(Vec<u8>),
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Apparent size, bytes.
    pub size: u64,
    /// Where it has data, ascending; `None` when it has no holes.
    pub extents: Option<Vec<Extent>>,
}

impl File {
    /// Bytes that are stored of it.
    pub fn stored(&self) -> u64 {
        self.extents.as_ref().map_or(self.size, |all| all.iter().fold(0, |sum, e| sum.saturating_add(e.len)))
    }
}

/// A piece of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, bytes.
    pub at: u64,
    /// Its length, bytes.
    pub len: u64,
}

/// What an entry carries besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The lower twelve bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When the content was changed last.
    pub mtime: Stamp,
}

/// A time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since 1970, before it negative.
    pub seconds: i64,
    /// Always counted forward, also before 1970.
    pub nanos: u32,
}

/// What was counted; the root itself is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Second and further names of a file.
    pub hardlinks: u64,
    /// Apparent size of the files, each counted once.
    pub bytes: u64,
}

impl Tally {
    /// As named in records.
    pub fn counts(&self) -> Counts {
        self.named().into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
    }

    /// Entries of every kind.
    pub fn entries(&self) -> u64 {
        self.files.saturating_add(self.directories).saturating_add(self.symlinks).saturating_add(self.hardlinks)
    }

    fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("files", self.files),
            ("directories", self.directories),
            ("symlinks", self.symlinks),
            ("hardlinks", self.hardlinks),
            ("bytes", self.bytes),
        ]
    }

    /// Counts one entry of an archive.
    pub fn add(&mut self, body: &Body) {
        match body {
            Body::Directory => self.directories += 1,
            Body::Symlink(_) => self.symlinks += 1,
            Body::HardLink(_) => self.hardlinks += 1,
            Body::File(file) => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(file.size);
            }
        }
    }

    /// What differs from another count, in words; `None` when nothing does.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        describe_difference(self.named().into_iter().zip(expected.named()).map(|((n, a), (_, b))| (n, a, Some(b))))
    }

    /// Fails unless the record says the same; says nothing without a record.
    pub fn equals_record(&self, recorded: Option<&DumpReport>) -> Result<()> {
        let Some(report) = recorded else { return Ok(()) };
        let pairs = self.named().into_iter().map(|(name, n)| (name, n, report.counts.get(name).copied()));
        match describe_difference(pairs) {
            None => Ok(()),
            Some(what) => Err(Error::new(Kind::Corrupt, format!("files.tar is not what its record says: {what}"))),
        }
    }
}

fn describe_difference(pairs: impl Iterator<Item = (&'static str, u64, Option<u64>)>) -> Option<String> {
    let differ: Vec<_> = pairs
        .filter(|(_, found, expected)| Some(*found) != *expected)
        .map(|(name, found, expected)| match expected {
            Some(expected) => format!("{name} {found} instead of {expected}"),
            None => format!("{name} {found} instead of a figure that is missing"),
        })
        .collect();
    (!differ.is_empty()).then(|| differ.join(", "))
}

/// A path for people: what is not printable is escaped, and the middle of a long one is left out.
pub fn shown(path: &[u8]) -> String {
    const MOST: usize = 160;
    if path.is_empty() {
        return "the root".to_owned();
    }
    let escaped: Vec<char> = match std::str::from_utf8(path) {
        Ok(text) => text.chars().flat_map(char::escape_debug).collect(),
        Err(_) => path.iter().flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect(),
    };
    if escaped.len() <= MOST {
        return format!("\"{}\"", escaped.into_iter().collect::<String>());
    }
    let head: String = escaped.iter().take(MOST / 2).collect();
    let tail: String = escaped.iter().skip(escaped.len() - MOST / 2).collect();
    format!("\"{head}…{tail}\"")
}

/// The folder that an entry is in, and its name there; `None` for the root.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => Some((path.get(..slash)?, path.get(slash + 1..)?)),
        None => Some((&[], path)),
    }
}

/// Refuses what is not a plain relative path.
///
/// # Errors
/// `Corrupt`, saying what is wrong with it.
pub fn check_plain(path: &[u8]) -> std::result::Result<(), &'static str> {
    if path.starts_with(b"/") {
        return Err("is an absolute path");
    }
    if path.contains(&0) {
        return Err("has a NUL byte");
    }
    if path.is_empty() {
        return Ok(());
    }
    let mut depth = 0;
    for name in path.split(|b| *b == b'/') {
        match name {
            b".." => return Err("leads upwards with \"..\""),
            b"" | b"." => return Err("has an empty or \".\" component"),
            _ if name.len() > MAX_NAME => return Err("has a name of more than 255 bytes"),
            _ => depth += 1,
        }
    }
    if depth > MAX_DEPTH { Err("is more than 512 levels deep") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_not_plain_are_refused() {
        for bad in [&b"/a"[..], b"..", b"a/../b", b"a//b", b"./a", b"a/", b"a/.", b"a\0b"] {
            assert!(check_plain(bad).is_err(), "{} was accepted", shown(bad));
        }
        for good in [&b""[..], b"a", b"a/b", b"..a/b..", b"-x", b"new\nline/\xff"] {
            assert!(check_plain(good).is_ok(), "{} was refused", shown(good));
        }
        assert!(check_plain(&vec![b'a'; 256]).is_err());
        assert!(check_plain("a/".repeat(512).as_bytes().strip_suffix(b"/").unwrap()).is_ok());
        assert!(check_plain(format!("{}a", "a/".repeat(512)).as_bytes()).is_err());
    }

    #[test]
    fn odd_paths_are_shown_escaped_and_short() {
        assert_eq!(shown(b"a\nb"), r#""a\nb""#);
        assert_eq!(shown("é".as_bytes()), "\"é\"");
        assert_eq!(shown(b"l\xe9"), r#""l\xe9""#);
        assert!(shown(&vec![b'a'; 5000]).len() < 200);
    }

    #[test]
    fn a_difference_is_told_with_both_figures() {
        let tally = Tally { files: 2, ..Tally::default() };
        assert_eq!(tally.difference(&Tally::default()).unwrap(), "files 2 instead of 0");
        assert_eq!(tally.difference(&tally), None);
        let report = DumpReport { counts: Counts::from([("files".to_owned(), 2)]), ..DumpReport::default() };
        let error = tally.equals_record(Some(&report)).unwrap_err().chain();
        assert!(error.contains("directories 0 instead of a figure that is missing"), "{error}");
    }
}
