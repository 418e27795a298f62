//! Other filesystems mounted below the root, and what the root itself is on, from the kernel's own list.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use keepsake_core::error::{Error, Result};

/// The kernel's list of mounts, as this process sees it.
const LIST: &str = "/proc/self/mountinfo";

/// Mounts below a folder.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// Paths below the folder.
    paths: BTreeSet<Vec<u8>>,
    /// The kind of filesystem that the folder is on, for example `ext4`.
    pub(super) filesystem: String,
    /// Whether the folder is the top of a mount.
    pub(super) is_mount: bool,
}

impl Mounts {
    /// Asks for the mounts below a folder, whose path must be without symlinks.
    pub(super) fn below(root: &Path) -> Result<Self> {
        let list = std::fs::read(LIST).map_err(|e| Error::io(format!("read {LIST}"), e))?;
        Ok(Self::parse(&list, root.as_os_str().as_bytes()))
    }

    /// Whether something is mounted at this path.
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }

    /// Mounts right below the folder.
    pub(super) fn at_top(&self) -> impl Iterator<Item = &[u8]> {
        self.paths.iter().map(Vec::as_slice).filter(|p| !p.contains(&b'/'))
    }

    /// A mount further down, which would be moved about with the folder that it is in.
    pub(super) fn deeper(&self) -> Option<&[u8]> {
        self.paths.iter().map(Vec::as_slice).find(|path| {
            let top = path.split(|b| *b == b'/').next().unwrap_or_default();
            top.len() < path.len() && !self.paths.contains(top)
        })
    }

    fn parse(list: &[u8], root: &[u8]) -> Self {
        let mut found = Self::default();
        let mut nearest = 0;
        for line in list.split(|b| *b == b'\n') {
            let mut fields = line.split(|b| *b == b' ');
            let Some(place) = fields.nth(4).map(unescape) else { continue };
            // After the mount options come optional fields, ended by a dash; then the kind.
            let kind = fields.skip_while(|f| *f != b"-").nth(1).unwrap_or_default();
            if let Some(below) = inside(&place, root).filter(|below| !below.is_empty()) {
                found.paths.insert(below.to_vec());
            } else if inside(root, &place).is_some() && place.len() >= nearest {
                nearest = place.len();
                found.filesystem = String::from_utf8_lossy(kind).into_owned();
                found.is_mount = place == root;
            }
        }
        found
    }
}

/// The path seen from a folder that it is in or that it is.
fn inside<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder.strip_suffix(b"/").unwrap_or(folder))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// The list has blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        if let (b'\\', Some(code)) = (byte, code) {
            out.push(code);
            rest = after.get(3..).unwrap_or_default();
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        23 22 0:5 / /srv/vol rw - xfs /dev/sdb rw\n\
        24 23 0:6 / /srv/vol/logs rw master:2 shared:9 - tmpfs tmpfs rw\n\
        25 23 0:6 / /srv/vol/a\\040b/deep rw - nfs4 host:/x rw\n\
        26 24 0:6 / /srv/vol/logs/in rw - tmpfs tmpfs rw\n\
        27 22 0:7 / /srv/volume rw - tmpfs tmpfs rw\n";

    #[test]
    fn mounts_below_are_found_and_neighbours_are_not() {
        let found = Mounts::parse(LINES, b"/srv/vol");
        assert_eq!(found.at_top().collect::<Vec<_>>(), [b"logs"]);
        assert!(found.contains(b"a b/deep") && !found.contains(b"ume"));
        assert_eq!(found.deeper().unwrap(), b"a b/deep");
        assert_eq!((found.filesystem.as_str(), found.is_mount), ("xfs", true));
    }

    #[test]
    fn a_folder_on_a_larger_filesystem_is_told_from_a_mount() {
        let found = Mounts::parse(LINES, b"/srv/vol/data");
        assert_eq!((found.filesystem.as_str(), found.is_mount), ("xfs", false));
        assert_eq!(found.at_top().count(), 0);
        assert_eq!(Mounts::parse(LINES, b"/home").filesystem, "ext4");
        assert!(found.deeper().is_none());
    }
}
