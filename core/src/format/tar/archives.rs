//! Tests of writing and reading archives: what goes in comes out, and nothing that comes in does harm.

use std::collections::VecDeque;

use crate::error::{Kind, Result};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::encode::{END, encode, padding};
use super::entry::{Body, Entry, Extent, File, Meta, Stamp, check_plain};
use super::reader::{Input, Reader};
use super::rules::Rules;

/// Gives out bytes in pieces of some size.
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    fn new(bytes: &[u8], size: usize) -> Self {
        Self(bytes.chunks(size).map(Bytes::copy_from_slice).collect())
    }
}

impl Input for Pieces {
    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.pop_front())
    }
}

type Content = Vec<(u64, Vec<u8>)>;

fn read(bytes: &[u8], size: usize) -> Result<Vec<(Entry, Content)>> {
    let mut reader = Reader::new(Pieces::new(bytes, size));
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content: Content = Vec::new();
        while let Some((at, piece)) = reader.data()? {
            match content.last_mut() {
                Some((start, last)) if *start + last.len() as u64 == at => last.extend_from_slice(&piece),
                _ => content.push((at, piece.to_vec())),
            }
        }
        found.push((entry, content));
    }
    Ok(found)
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        out.extend_from_slice(&encode(entry));
        if let Body::File(file) = &entry.body {
            let stored = usize::try_from(file.stored()).unwrap();
            out.extend((0..stored).map(|n| u8::try_from(n % 251).unwrap()));
            out.resize(out.len() + padding(file.stored()), 0);
        }
    }
    out.extend_from_slice(&END);
    out
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("not in names", |b| !matches!(b, 0 | b'/')), 1..=255)
        .prop_filter("not names", |n| !matches!(n.as_slice(), b"." | b".."))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(name(), 1..8).prop_map(|names| names.join(&b'/'))
}

fn extents() -> impl Strategy<Value = File> {
    (vec((0_u64..100, 1_u64..5), 0..6), 0_u64..5000).prop_map(|(pieces, tail)| {
        let mut at = 0;
        let mut extents = Vec::new();
        for (gap, len) in pieces {
            at += (gap + 1) * 512;
            extents.push(Extent { at, len: len * 512 });
            at += len * 512;
        }
        File { size: at + tail, extents: Some(extents) }
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::Directory),
        (0_u64..3000).prop_map(|size| Body::File(File { size, extents: None })),
        extents().prop_map(Body::File),
        vec(1_u8.., 1..600).prop_map(Body::Symlink),
        path().prop_map(Body::HardLink),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let time = (-(1_i64 << 40)..1 << 40, 0_u32..1_000_000_000);
    let time = prop_oneof![time, (0_i64..1 << 33, Just(0_u32))];
    (path(), body(), 0_u32..0o10000, any::<u32>(), any::<u32>(), time).prop_map(
        |(path, body, mode, uid, gid, (seconds, nanos))| Entry {
            path,
            body,
            meta: Meta { mode, uid, gid, mtime: Stamp { seconds, nanos } },
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in vec(entry(), 0..6), size in 1_usize..2000) {
        let bytes = write(&entries);
        let found = read(&bytes, size).unwrap();
        prop_assert_eq!(found.len(), entries.len());
        for ((found, content), expected) in found.iter().zip(&entries) {
            let mut expected = expected.clone();
            if let Body::File(File { size, extents: Some(extents) }) = &mut expected.body {
                // The empty piece that marks the end of a file which ends with a hole.
                if extents.last().map_or(0, |e| e.at + e.len) < *size {
                    extents.push(Extent { at: *size, len: 0 });
                }
            }
            prop_assert_eq!(found, &expected);
            if let Body::File(file) = &expected.body {
                let total: usize = content.iter().map(|(_, piece)| piece.len()).sum();
                prop_assert_eq!(total as u64, file.stored());
                if let Some(extents) = &file.extents {
                    for (at, piece) in content {
                        prop_assert!(extents.iter().any(|e| e.at == *at), "data at {} of {:?}", at, extents);
                        prop_assert!(at + piece.len() as u64 <= file.size);
                    }
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..5000), size in 1_usize..2000) {
        let _any_answer = read(&bytes, size);
    }

    #[test]
    fn damaged_archives_do_no_harm(
        entries in vec(entry(), 1..5),
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = write(&entries);
        for (at, value, mend) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
            if mend {
                mend_sum(&mut bytes, at);
            }
        }
        if let Ok(found) = read(&bytes, 700) {
            let mut rules = Rules::default();
            for (entry, content) in &found {
                // Whatever comes out is safe to make, or the rules say no.
                prop_assert!(check_plain(&entry.path).is_ok());
                if let Body::HardLink(target) = &entry.body {
                    prop_assert!(check_plain(target).is_ok());
                }
                if let Body::File(file) = &entry.body {
                    prop_assert!(content.iter().all(|(at, piece)| at + piece.len() as u64 <= file.size));
                }
                let _any_answer = rules.admit(entry);
            }
        }
        // Cut anywhere before the end marker is complete, it is never taken for whole.
        let whole = write(&entries);
        prop_assert!(read(&whole[..cut.index(whole.len())], 700).is_err());
    }
}

/// Makes the sum of the header right again that a changed byte may be in.
fn mend_sum(bytes: &mut [u8], at: usize) {
    let start = at - at % 512;
    let block = &mut bytes[start..start + 512];
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn what_would_be_lost_is_refused_by_name() {
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Stamp { seconds: 0, nanos: 0 } };
    let file = Entry { path: b"odd".to_vec(), body: Body::File(File { size: 0, extents: None }), meta };
    for (flag, word) in [(b'3', "device"), (b'4', "device"), (b'6', "FIFO"), (b'S', "old format"), (b'V', "type")] {
        let mut bytes = write(std::slice::from_ref(&file));
        bytes[156] = flag;
        mend_sum(&mut bytes, 156);
        let error = read(&bytes, 512).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains(word) && error.chain().contains("\"odd\""), "{}", error.chain());
    }
    for (evil, word) in [("../x", "upwards"), ("/etc/x", "absolute"), ("a/../../x", "upwards"), ("a//x", "component")] {
        let bytes = write(&[Entry { path: evil.into(), ..file.clone() }]);
        let error = read(&bytes, 512).unwrap_err().chain();
        assert!(error.contains(word) && error.contains(evil), "{error}");
        let bytes = write(&[Entry { body: Body::HardLink(evil.into()), ..file.clone() }]);
        assert!(read(&bytes, 512).unwrap_err().chain().contains(word));
    }
}

#[test]
fn an_archive_must_end_with_its_marker_and_nothing_else() {
    let bytes = write(&[]);
    assert!(read(&bytes, 100).unwrap().is_empty());
    assert!(read(&[&bytes[..], &[0; 9000]].concat(), 100).unwrap().is_empty());
    for (bad, word) in [
        (&[][..], "cut short"),
        (&bytes[..512], "cut short"),
        (&bytes[..1023], "cut short"),
        (&[&bytes[..], &[1]].concat(), "goes on"),
        (&[&[0; 512][..], &[1; 512]].concat(), "one block of zeros"),
        (b"not a tar at all", "cut short"),
        (&[b'x'; 2048], "no tar archive"),
    ] {
        let error = read(bad, 100).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.chain().contains(word), "{}", error.chain());
    }
}

#[test]
fn a_huge_claim_takes_no_memory() {
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Stamp { seconds: 0, nanos: 0 } };
    let size = i64::MAX.unsigned_abs();
    let entry = Entry { path: b"huge".to_vec(), body: Body::File(File { size, extents: None }), meta };
    assert!(read(&encode(&entry), 512).unwrap_err().chain().contains("cut short"));
}
