//! The walker on good bytes, damaged bytes, and any bytes.

use std::io::Read;

use crate::Kind;
use proptest::prelude::*;

use super::crc64::crc64;
use super::{Keys, Walked, walk, walk_counting};

/// An RDB with every type whose structure is written here by hand.
pub(super) fn sample() -> Vec<u8> {
    let string = |s: &[u8]| [&[u8::try_from(s.len()).unwrap()], s].concat();
    let mut b = b"REDIS0011".to_vec();
    b.extend([0xfa]);
    b.extend(string(b"ctime"));
    b.extend([0xc2, 0x00, 0x10, 0x00, 0x00]);
    b.extend([0xf5]);
    b.extend(string(b"#!lua name=x"));
    b.extend([0xfe, 0, 0xfb, 8, 2]);
    let mut key = |kind: u8, name: &[u8], value: &[u8]| {
        b.push(kind);
        b.extend(string(name));
        b.extend(value);
    };
    key(0, b"plain", &string(b"value"));
    key(0, b"int8", &[0xc0, 5]);
    key(0, b"int16", &[0xc1, 5, 0]);
    key(0, b"lzf", &[0xc3, 4, 10, 1, 2, 3, 4]);
    key(0, b"liveness-probe", &string(b"now"));
    key(1, b"list", &[&[2], &string(b"a")[..], &string(b"b")].concat());
    key(4, b"hash", &[&[1], &string(b"f")[..], &string(b"v")].concat());
    key(3, b"oldzset", &[&[2], &string(b"m")[..], &[1, b'5'], &string(b"inf"), &[254]].concat());
    key(5, b"zset", &[&[1], &string(b"m")[..], &[0; 8]].concat());
    key(18, b"quick", &[&[1, 2], &string(b"packed")[..]].concat());
    key(7, b"module", &[0x81, 0, 0, 0, 0, 0, 0, 0, 1, 2, 7, 5, 1, b'x', 4, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    let stream = [
        &[1][..],
        &[16],
        &[0; 16],
        &string(b"listpack"),
        &[1, 1, 1, 1, 1, 0, 0, 1],
        &[1],
        &string(b"group"),
        &[1, 1, 1],
        &[1],
        &[0; 24],
        &[1],
        &[1],
        &string(b"consumer"),
        &[0; 16],
        &[1],
        &[0; 16],
    ]
    .concat();
    key(21, b"stream", &stream);
    key(24, b"ttlhash", &[&[0; 8][..], &[1, 0], &string(b"f"), &string(b"v")].concat());
    b.push(0xfc);
    b.extend(u64::MAX.to_le_bytes());
    b.extend([0xf9, 3, 0]);
    b.extend(string(b"expiring"));
    b.extend(string(b"v"));
    b.push(0xfd);
    b.extend(1_u32.to_le_bytes());
    b.push(0);
    b.extend(string(b"expired"));
    b.extend(string(b"v"));
    b.extend([0xfe, 1, 0]);
    b.extend(string(b"other db"));
    b.extend(string(b"v"));
    b.push(0xff);
    let crc = crc64(0, &b);
    b.extend(crc.to_le_bytes());
    b
}

/// Gives out few bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(self.1).min(out.len());
        let (now, later) = self.0.split_at(n);
        out[..n].copy_from_slice(now);
        self.0 = later;
        Ok(n)
    }
}

#[test]
fn every_structure_is_walked_and_counted() {
    let bytes = sample();
    let walked = walk(&bytes[..]).unwrap();
    assert_eq!(walked.version, 11);
    assert_eq!(walked.databases[&0], Keys { persistent: 12, expiring: 1 });
    assert_eq!(walked.databases[&1], Keys { persistent: 1, expiring: 0 });
    assert!(walked.modules && walked.functions && walked.checksummed && !walked.valkey);
    assert_eq!(walked.length, bytes.len() as u64);
    assert_eq!(walked.counts()["keys:db0"], 12);
}

#[test]
fn elements_are_counted_of_the_keys_that_are_asked_for() {
    let string = |s: &[u8]| [&[u8::try_from(s.len()).unwrap()], s].concat();
    let listpack = |n: u16| string(&[&[9, 0, 0, 0][..], &n.to_le_bytes(), &[1, 2, 3]].concat());
    let ziplist = |n: u16| string(&[&[9, 0, 0, 0, 8, 0, 0, 0][..], &n.to_le_bytes(), &[0xff]].concat());
    // The same header, compressed: eleven bytes as they are.
    let squeezed = |n: u16| [&[0xc3, 12, 11, 10][..], &[9, 0, 0, 0, 8, 0, 0, 0], &n.to_le_bytes(), &[0xff]].concat();
    let mut b = b"REDIS0011".to_vec();
    for (kind, name, value) in [
        (1, &b"list"[..], [&[2], &string(b"a")[..], &string(b"b")].concat()),
        (10, b"ziplist", ziplist(3)),
        (14, b"quick", [&[2][..], &ziplist(300), &squeezed(40)].concat()),
        (
            18,
            b"quick2",
            [&[3][..], &[2], &listpack(5), &[1], &string(b"one large element"), &[2], &listpack(7)].concat(),
        ),
        (3, b"oldzset", [&[2], &string(b"m")[..], &[1, b'5'], &string(b"inf"), &[254]].concat()),
        (5, b"zset", [&[1], &string(b"m")[..], &[0; 8]].concat()),
        (12, b"zsetzip", ziplist(8)),
        (17, b"zsetpack", listpack(6)),
        (18, b"short", [&[1, 2][..], &string(b"abc")].concat()),
        (0, b"string", string(b"x")),
        (1, b"other", [&[1], &string(b"a")[..]].concat()),
    ] {
        b.push(kind);
        b.extend(string(name));
        b.extend(value);
    }
    b.push(0xff);
    b.extend([0; 8]);
    let (walked, found) = walk_counting(&b[..], |name| name != b"other").unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(walked, walk(&b[..]).unwrap());
    let found: Vec<_> = found.iter().map(|(n, e)| (std::str::from_utf8(n).unwrap(), *e)).collect();
    let want = [
        ("list", 2),
        ("oldzset", 2),
        ("quick", 340),
        ("quick2", 13),
        ("short", 0),
        ("string", 0),
        ("ziplist", 3),
        ("zset", 1),
        ("zsetpack", 3),
        ("zsetzip", 4),
    ];
    assert_eq!(found, want);
}

#[test]
fn every_cut_is_noticed() {
    let bytes = sample();
    for n in 0..bytes.len() {
        assert_eq!(walk(&bytes[..n]).unwrap_err().kind(), Kind::Corrupt, "cut at {n}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = sample();
    for n in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[n] ^= 1 << bit;
            assert!(walk(&damaged[..]).is_err(), "bit {bit} of byte {n}");
        }
    }
}

#[test]
fn what_follows_the_end_is_noticed() {
    let mut bytes = sample();
    bytes.push(0);
    assert_eq!(walk(&bytes[..]).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_checksum_of_zero_means_none() {
    let mut bytes = sample();
    let at = bytes.len() - 8;
    bytes[at..].fill(0);
    assert!(!walk(&bytes[..]).unwrap().checksummed);
}

#[test]
fn an_absurd_length_neither_allocates_nor_hangs() {
    let mut bytes = b"REDIS0011\x00\x01k\x81".to_vec();
    bytes.extend(u64::MAX.to_be_bytes());
    assert_eq!(walk(&bytes[..]).unwrap_err().kind(), Kind::Corrupt);
}

proptest! {
    #[test]
    fn any_bytes_give_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = walk(&bytes[..]);
        let _ = walk(&[b"REDIS0011", &bytes[..]].concat()[..]);
    }

    #[test]
    fn any_cut_into_pieces_gives_the_same(step in 1..50_usize, at in 0..300_usize, to in any::<u8>()) {
        let mut bytes = sample();
        if let Some(b) = bytes.get_mut(at) {
            *b = to;
        }
        let whole: Result<Walked, String> = walk(&bytes[..]).map_err(|e| e.chain());
        let dribbled = walk(Dribble(&bytes, step)).map_err(|e| e.chain());
        prop_assert_eq!(whole, dribbled);
    }
}
