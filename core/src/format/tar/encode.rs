//! Entries to tar headers: POSIX ustar with pax records where ustar cannot say it, readable by any tar. Pure.
//!
//! Holes are stored in GNU's pax format 1.0: the map of the data stands before the data. Names travel as they are, byte by
//! byte. Owner names are left empty, so that numbers count wherever it is unpacked.

use super::entry::{Body, Entry, Extent, File, Stamp};

/// The unit of the format, bytes.
pub const BLOCK: usize = 512;
/// Two of them end an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The largest number in a field of eleven octal digits.
const OCTAL_11: u64 = 0o777_7777_7777;
/// The largest number in a field of seven octal digits.
const OCTAL_7: u32 = 0o777_7777;

/// The blocks that stand before an entry's data: pax header if needed, header, map of the holes.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let map = match &entry.body {
        Body::File(File { size, extents: Some(extents) }) => Some((*size, sparse_map(*size, extents))),
        _ => None,
    };
    let path = tar_path(entry);
    let target: &[u8] = match &entry.body {
        Body::Symlink(target) | Body::HardLink(target) => target,
        Body::Directory | Body::File(_) => &[],
    };
    let stored = match &entry.body {
        Body::File(file) => {
            file.stored().saturating_add(map.as_ref().map_or(0, |(_, m)| u64::try_from(m.len()).unwrap_or(0)))
        }
        _ => 0,
    };
    let name: &[u8] = if let Some((size, _)) = &map {
        record(&mut records, "GNU.sparse.major", b"1");
        record(&mut records, "GNU.sparse.minor", b"0");
        record(&mut records, "GNU.sparse.name", &path);
        record(&mut records, "GNU.sparse.realsize", size.to_string().as_bytes());
        // What a tar that knows nothing of sparse files would unpack: plainly not the file.
        b"GNUSparseFile.0/map-and-data"
    } else {
        long(&mut records, "path", &path);
        &path
    };
    long(&mut records, "linkpath", target);
    if stored > OCTAL_11 {
        record(&mut records, "size", stored.to_string().as_bytes());
    }
    for (key, id) in [("uid", entry.meta.uid), ("gid", entry.meta.gid)] {
        if id > OCTAL_7 {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if let Some(text) = decimal(entry.meta.mtime) {
        record(&mut records, "mtime", text.as_bytes());
    }

    let mut out = Vec::with_capacity(4 * BLOCK);
    if !records.is_empty() {
        let length = u64::try_from(records.len()).unwrap_or(0);
        out.extend_from_slice(&header(b"PaxHeaders/entry", b'x', 0o644, (0, 0), length, 0, b""));
        out.extend_from_slice(&records);
        pad(&mut out);
    }
    let flag = match &entry.body {
        Body::File(_) => b'0',
        Body::HardLink(_) => b'1',
        Body::Symlink(_) => b'2',
        Body::Directory => b'5',
    };
    let owner = (entry.meta.uid, entry.meta.gid);
    let seconds = u64::try_from(entry.meta.mtime.seconds).unwrap_or(0);
    out.extend_from_slice(&header(name, flag, entry.meta.mode, owner, stored, seconds, target));
    if let Some((_, map)) = map {
        out.extend_from_slice(&map);
    }
    out
}

/// How many zeros follow data of this length, so that the next header stands at a block.
pub fn padding(length: u64) -> usize {
    let over = usize::try_from(length % 512).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK - over }
}

/// The path as tar wants it: folders end with a slash, the root is `./`.
fn tar_path(entry: &Entry) -> Vec<u8> {
    let mut path = if entry.path.is_empty() { b".".to_vec() } else { entry.path.clone() };
    if entry.body == Body::Directory {
        path.push(b'/');
    }
    path
}

/// A record for a name that its field of 100 bytes cannot hold, or that is not ASCII (as other tars do).
fn long(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    if value.len() > 100 || !value.is_ascii() {
        record(records, key, value);
    }
}

/// `<length> <key>=<value>\n`, where the length counts its own digits too.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A time as a decimal number, when the header's own field cannot hold it.
fn decimal(time: Stamp) -> Option<String> {
    let fits = u64::try_from(time.seconds).is_ok_and(|s| s <= OCTAL_11);
    if fits && time.nanos == 0 {
        return None;
    }
    let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let text = format!("{sign}{whole}.{fraction:09}");
    Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
}

/// The map of a sparse file in GNU's pax format 1.0, padded to blocks.
fn sparse_map(size: u64, extents: &[Extent]) -> Vec<u8> {
    let end = extents.last().map_or(0, |e| e.at.saturating_add(e.len));
    // An empty extent at the end says how long a file is that ends with a hole.
    let last = (end < size).then_some(Extent { at: size, len: 0 });
    let mut map = format!("{}\n", extents.len() + usize::from(last.is_some())).into_bytes();
    for extent in extents.iter().chain(&last) {
        map.extend_from_slice(format!("{}\n{}\n", extent.at, extent.len).as_bytes());
    }
    pad(&mut map);
    map
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn header(name: &[u8], flag: u8, mode: u32, owner: (u32, u32), size: u64, mtime: u64, target: &[u8]) -> [u8; BLOCK] {
    let mut fields = Vec::with_capacity(BLOCK);
    let mut field = |value: &[u8], width: usize| {
        let end = fields.len() + width;
        fields.extend(value.iter().take(width));
        fields.resize(end, 0);
    };
    field(name, 100);
    field(format!("{:07o}", mode & 0o7777).as_bytes(), 8);
    // A number too large for its field stands in a pax record, and here as 0.
    for id in [owner.0, owner.1] {
        field(format!("{:07o}", if id > OCTAL_7 { 0 } else { id }).as_bytes(), 8);
    }
    for number in [size, mtime] {
        field(format!("{:011o}", if number > OCTAL_11 { 0 } else { number }).as_bytes(), 12);
    }
    field(b"        ", 8);
    field(&[flag], 1);
    field(target, 100);
    field(b"ustar\x0000", 8);
    field(b"", 64);
    field(b"0000000", 8);
    field(b"0000000", 8);
    field(b"", 167);
    let sum: u32 = fields.iter().map(|b| u32::from(*b)).sum();
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().zip(&fields) {
        *to = *from;
    }
    for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *to = from;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        for n in 0..2000 {
            let mut out = Vec::new();
            record(&mut out, "path", &vec![b'x'; n]);
            let text = String::from_utf8(out.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), out.len());
        }
    }

    #[test]
    fn times_are_written_as_gnu_tar_does() {
        let text = |seconds, nanos| decimal(Stamp { seconds, nanos });
        assert_eq!(text(0, 0), None);
        assert_eq!(text(4_102_444_800, 0), None);
        assert_eq!(text(5, 500_000_000).unwrap(), "5.5");
        assert_eq!(text(-86_400, 0).unwrap(), "-86400");
        assert_eq!(text(-1, 500_000_000).unwrap(), "-0.5");
        assert_eq!(text(-2, 1).unwrap(), "-1.999999999");
        assert_eq!(text(1 << 40, 0).unwrap(), "1099511627776");
    }
}
