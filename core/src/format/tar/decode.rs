//! Tar headers to entries: strict, and total over any bytes. Pure.
//!
//! Understood are ustar with pax records (ours, GNU tar's `--format=pax`, Python's), GNU's long names, and holes in GNU's
//! pax format 1.0. Anything that would be lost in silence is refused by name.

use crate::error::{Error, Kind, Result};

use super::encode::BLOCK;
use super::entry::{Body, Entry, File, Meta, Stamp, check_plain, shown};

/// One block.
pub(super) type Block = [u8; BLOCK];

/// What pax records and GNU's long names say of the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Extra {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Stamp>,
    sparse: Sparse,
}

/// The records of a sparse file.
#[derive(Debug, Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
}

/// What a header is, apart from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Pax records for the next entry.
    Pax,
    /// GNU's long name for the next entry.
    LongName,
    /// GNU's long link target for the next entry.
    LongTarget,
    /// An entry.
    Entry,
}

/// An entry whose data follows.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) entry: Entry,
    /// Bytes that follow in the archive, without padding.
    pub(super) stored: u64,
    /// The data begins with a map of the holes.
    pub(super) mapped: bool,
}

/// Checks the sum and says what the header is, and how many bytes follow it if it is not an entry.
pub(super) fn role(block: &Block) -> Result<(Role, u64)> {
    let sum: u64 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
    if number(field(block, 148, 8)) != Some(sum) {
        return Err(corrupt("a header's sum is wrong: this is no tar archive, or it is damaged"));
    }
    if !field(block, 257, 5).eq(b"ustar") {
        return Err(unsupported("an entry is in a tar format from before POSIX: use tar --format=pax"));
    }
    let role = match flag(block) {
        b'x' => Role::Pax,
        b'L' => Role::LongName,
        b'K' => Role::LongTarget,
        b'g' => return Err(unsupported("the archive has global pax records, which are not loaded")),
        _ => Role::Entry,
    };
    let size = number(field(block, 124, 12)).ok_or_else(|| corrupt("a header's size is no number"))?;
    Ok((role, size))
}

/// Makes the entry of a header and of what stood before it.
pub(super) fn entry(block: &Block, extra: Extra) -> Result<Head> {
    let raw = extra.sparse.name.clone().or(extra.path).unwrap_or_else(|| header_path(block));
    let as_folder = raw.ends_with(b"/");
    let path = plain(&raw)?;
    let bad = |what: &str| corrupt(format!("the entry {} {what}", shown(&path)));
    let stored = match extra.size {
        Some(size) => size,
        None => number(field(block, 124, 12)).ok_or_else(|| bad("has a size that is no number"))?,
    };
    let meta = Meta {
        mode: id(block, 100, None).ok_or_else(|| bad("has a mode that is no number"))? & 0o7777,
        uid: id(block, 108, extra.uid).ok_or_else(|| bad("has an owner that is no number"))?,
        gid: id(block, 116, extra.gid).ok_or_else(|| bad("has a group that is no number"))?,
        mtime: match extra.mtime {
            Some(time) => time,
            None => header_time(block).ok_or_else(|| bad("has a time that is no number"))?,
        },
    };
    let target = extra.target.unwrap_or_else(|| until_nul(field(block, 157, 100)).to_vec());
    let mapped = sparse_kind(&extra.sparse, &path)?;
    let body = match flag(block) {
        b'0' | 0 | b'7' if as_folder => return Err(bad("is a file, and its name ends with a slash")),
        b'0' | 0 | b'7' => {
            let size = if mapped {
                extra.sparse.real_size.ok_or_else(|| bad("is sparse, and its size is missing"))?
            } else {
                stored
            };
            if i64::try_from(size).is_err() || i64::try_from(stored).is_err() {
                return Err(bad("is larger than any file can be"));
            }
            Body::File(File { size, extents: None })
        }
        b'1' => Body::HardLink(plain(&target)?),
        b'2' if target.is_empty() || target.contains(&0) => return Err(bad("is a link to nothing")),
        b'2' => Body::Symlink(target),
        b'5' => Body::Directory,
        b'3' | b'4' => return Err(refuse(&path, "is a device, which is never loaded")),
        b'6' => return Err(refuse(&path, "is a FIFO, which is never loaded")),
        b'S' => return Err(refuse(&path, "is sparse in GNU's old format: use tar --format=pax")),
        other => return Err(refuse(&path, &format!("is of a type that is not known ({})", other.escape_ascii()))),
    };
    if !matches!(body, Body::File(_)) && (stored != 0 || mapped) {
        return Err(bad("has data, and is no file"));
    }
    if path.is_empty() && body != Body::Directory {
        return Err(bad("is not a folder"));
    }
    Ok(Head { entry: Entry { path, body, meta }, stored, mapped })
}

impl Extra {
    /// Takes GNU's long name or target: the data up to its NUL.
    pub(super) fn gnu(&mut self, role: Role, data: &[u8]) {
        let value = Some(until_nul(data).to_vec());
        match role {
            Role::LongTarget => self.target = value,
            Role::Pax | Role::LongName | Role::Entry => self.path = value,
        }
    }

    /// Takes pax records.
    pub(super) fn pax(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let (key, value, rest) = one_record(data).ok_or_else(|| corrupt("a pax header is not made of records"))?;
            self.take(key, value)?;
            data = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(value).ok();
        let number = || text.and_then(|t| t.parse::<u64>().ok());
        let small = || text.and_then(|t| t.parse::<u32>().ok());
        let good = match key {
            b"path" => {
                self.path = Some(value.to_vec());
                !value.contains(&0)
            }
            b"linkpath" => {
                self.target = Some(value.to_vec());
                !value.contains(&0)
            }
            b"size" => set(&mut self.size, number()),
            b"uid" => set(&mut self.uid, small()),
            b"gid" => set(&mut self.gid, small()),
            b"mtime" => set(&mut self.mtime, text.and_then(decimal)),
            b"GNU.sparse.major" => set(&mut self.sparse.major, number()),
            b"GNU.sparse.minor" => set(&mut self.sparse.minor, number()),
            b"GNU.sparse.realsize" => set(&mut self.sparse.real_size, number()),
            b"GNU.sparse.name" => {
                self.sparse.name = Some(value.to_vec());
                !value.contains(&0)
            }
            b"comment" | b"atime" | b"ctime" | b"uname" | b"gname" | b"charset" | b"hdrcharset" => true,
            _ => {
                return Err(unsupported(format!("an entry has the pax record {}, which is not loaded", shown(key))));
            }
        };
        if good { Ok(()) } else { Err(corrupt(format!("a pax record {} has a value that makes no sense", shown(key)))) }
    }
}

fn set<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    *slot = value;
    slot.is_some()
}

/// The first record of `<length> <key>=<value>\n`, and what follows it.
fn one_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(data.get(..space)?).ok()?.parse().ok()?;
    let body = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    Some((body.get(..equals)?, body.get(equals + 1..)?, data.get(length..)?))
}

/// Whether the entry is sparse, in the one format that is understood.
fn sparse_kind(sparse: &Sparse, path: &[u8]) -> Result<bool> {
    match (sparse.major, sparse.minor) {
        (None, None) if sparse.name.is_none() && sparse.real_size.is_none() => Ok(false),
        (Some(1), Some(0)) => Ok(true),
        _ => Err(refuse(path, "is sparse in a format other than 1.0: use tar --format=pax --sparse-version=1.0")),
    }
}

/// A path as an archive has it (`./a`, `a/`, `./`) as we have it.
fn plain(raw: &[u8]) -> Result<Vec<u8>> {
    let without = raw.strip_suffix(b"/").unwrap_or(raw);
    let path = match without {
        b"." => &[],
        _ => without.strip_prefix(b"./").unwrap_or(without),
    };
    match check_plain(path) {
        Ok(()) if !raw.is_empty() && raw != b"/" => Ok(path.to_vec()),
        Ok(()) => Err(corrupt("an entry has no name")),
        Err(what) => Err(corrupt(format!("the path {} {what}", shown(raw)))),
    }
}

fn header_path(block: &Block) -> Vec<u8> {
    let name = until_nul(field(block, 0, 100));
    // GNU's own format has other things where POSIX has the prefix.
    let prefix: &[u8] = if field(block, 257, 8) == b"ustar\x0000" { until_nul(field(block, 345, 155)) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn header_time(block: &Block) -> Option<Stamp> {
    let seconds = match field(block, 136, 12).split_first() {
        // GNU's binary for a time before 1970: all the bits before the last eight bytes are set.
        Some((0xff, rest)) => i64::from_be_bytes(rest.last_chunk().copied()?),
        _ => i64::try_from(number(field(block, 136, 12))?).ok()?,
    };
    Some(Stamp { seconds, nanos: 0 })
}

fn id(block: &Block, at: usize, extra: Option<u32>) -> Option<u32> {
    extra.or_else(|| number(field(block, at, 8)).and_then(|n| u32::try_from(n).ok()))
}

fn flag(block: &Block) -> u8 {
    field(block, 156, 1).first().copied().unwrap_or(0)
}

fn field(block: &Block, at: usize, width: usize) -> &[u8] {
    block.get(at..at + width).unwrap_or_default()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// A number as headers have it: octal digits, or GNU's binary for large ones. An empty field is 0.
fn number(bytes: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = bytes.split_first() {
        return rest.iter().try_fold(0_u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    let text = bytes.trim_ascii_start();
    let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(text.len());
    text.get(..end)?.iter().try_fold(0_u64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// A decimal number of seconds, to the nanosecond.
fn decimal(text: &str) -> Option<Stamp> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) || whole.is_empty() {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{:0<9}", fraction.get(..fraction.len().min(9))?).parse().ok()?;
    match (negative, nanos) {
        (false, _) => Some(Stamp { seconds, nanos }),
        (true, 0) => Some(Stamp { seconds: -seconds, nanos }),
        (true, _) => Some(Stamp { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos }),
    }
}

fn refuse(path: &[u8], what: &str) -> Error {
    unsupported(format!("the entry {} {what}", shown(path)))
}

fn corrupt(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}

fn unsupported(text: impl Into<String>) -> Error {
    Error::new(Kind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_tars_write_them() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(&[0x80, 255, 255, 255, 255, 255, 255, 255, 255, 255]), None);
    }

    #[test]
    fn times_are_read_to_the_nanosecond() {
        let read = |text| decimal(text).map(|t| (t.seconds, t.nanos));
        assert_eq!(read("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(read("-1.999999999"), Some((-2, 1)));
        assert_eq!(read("5.5"), Some((5, 500_000_000)));
        assert_eq!(read("7.0000000019"), Some((7, 1)));
        for bad in ["", "-", "1e5", "1.-5", "+1", "99999999999999999999"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn records_that_are_cut_or_lie_are_refused() {
        for bad in [&b"9 path=a"[..], b"0 path=a\n", b"99 path=a\n", b"x path=a\n", b"7 path\n", b"10 path=a"] {
            assert!(Extra::default().pax(bad).is_err(), "{}", shown(bad));
        }
        assert_eq!(Extra::default().pax(b"21 SCHILY.xattr.a=bc\n").unwrap_err().kind(), Kind::Unsupported);
    }
}
