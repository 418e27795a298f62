//! The splicer: nothing too much, nothing too little, and whatever it makes can be walked.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::crc64::crc64;
use super::super::tests::sample;
use super::super::{Walked, walk};
use super::{Part, Spliced, splice};
use crate::error::{Kind, Result};

type Name = (u64, Vec<u8>);
type Take<'a> = &'a dyn Fn(u64, &[u8]) -> bool;

const ALL: Take<'static> = &|_, _| true;
const NONE: Take<'static> = &|_, _| false;

fn spliced(parts: &[(&[u8], Take<'_>)]) -> Result<(Vec<u8>, Spliced)> {
    let mut out = Vec::new();
    let parts = parts.iter().map(|(rdb, take)| Part { rdb: Box::new(*rdb), take: *take }).collect();
    let spliced = splice(parts, &mut out)?;
    assert_eq!(spliced.length, out.len() as u64);
    Ok((out, spliced))
}

fn good(parts: &[(&[u8], Take<'_>)]) -> (Vec<u8>, Walked) {
    let (out, spliced) = spliced(parts).unwrap_or_else(|e| panic!("{}", e.chain()));
    let walked = walk(&out[..]).unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(spliced.databases, walked.databases);
    assert_eq!(spliced.counts(), walked.counts());
    (out, walked)
}

/// Every key of an RDB.
fn names(rdb: &[u8]) -> Vec<Name> {
    let seen = RefCell::new(Vec::new());
    let take = |db: u64, name: &[u8]| {
        seen.borrow_mut().push((db, name.to_vec()));
        false
    };
    good(&[(rdb, &take)]);
    seen.into_inner()
}

/// What a splice must have left: exactly the keys that the rule takes. The first that is missing or too much, if any.
fn wrong(before: &[u8], after: &[u8], take: Take<'_>) -> Option<Name> {
    let want: BTreeSet<Name> = names(before).into_iter().filter(|(db, name)| take(*db, name)).collect();
    let got: BTreeSet<Name> = names(after).into_iter().collect();
    want.symmetric_difference(&got).next().cloned()
}

#[test]
fn everything_taken_is_everything() {
    let bytes = sample();
    let (out, walked) = good(&[(&bytes, ALL)]);
    let before = walk(&bytes[..]).unwrap();
    assert_eq!(Walked { length: walked.length, ..before }, walked);
    // The hints of the database are gone, and nothing else: a second time changes nothing.
    assert!(out.len() < bytes.len());
    assert_eq!(good(&[(&out, ALL)]).0, out);
}

#[test]
fn nothing_taken_leaves_what_is_of_the_file() {
    let bytes = sample();
    let (out, walked) = good(&[(&bytes, NONE)]);
    assert!(walked.databases.is_empty() && walked.functions);
    let ctime = b"\x05ctime";
    assert!(out.windows(ctime.len()).any(|w| w == ctime));
}

#[test]
fn what_is_of_the_file_comes_from_the_first_part_only() {
    let bytes = sample();
    let (out, walked) = good(&[(&bytes, NONE), (&bytes, ALL)]);
    assert_eq!(walked.databases, walk(&bytes[..]).unwrap().databases);
    for what in [&b"\x05ctime"[..], b"#!lua name=x"] {
        assert_eq!(out.windows(what.len()).filter(|w| *w == what).count(), 1);
    }
}

#[test]
fn each_key_can_be_left_out_alone_and_put_back() {
    let bytes = sample();
    let whole = walk(&bytes[..]).unwrap();
    let all = names(&bytes);
    assert_eq!(all.len(), 16);
    for one in &all {
        let others = |db: u64, name: &[u8]| (db, name) != (one.0, &one.1[..]);
        let (without, _) = good(&[(&bytes, &others)]);
        assert_eq!(wrong(&bytes, &without, &others), None, "{one:?}");
        let (back, walked) = good(&[(&without, ALL), (&bytes, &|db, name| !others(db, name))]);
        assert_eq!(wrong(&bytes, &back, ALL), None, "{one:?}");
        assert_eq!(walked.databases, whole.databases, "{one:?}");
    }
}

/// A check that cannot fail proves nothing: a splicer that drops, or keeps, one key too many is told by name.
#[test]
fn one_key_too_many_or_too_few_is_noticed() {
    let bytes = sample();
    let take: Take<'_> = &|db, name| db == 0 && name != b"stream";
    let (right, _) = good(&[(&bytes, take)]);
    assert_eq!(wrong(&bytes, &right, take), None);
    for key in names(&bytes) {
        let (other, _) = good(&[(&bytes, &|db, name| take(db, name) != ((db, name) == (key.0, &key.1[..])))]);
        assert_eq!(wrong(&bytes, &other, take), Some(key.clone()));
    }
}

/// By hand, byte for byte: what stands before a key goes where the key goes.
#[test]
fn marks_and_databases_go_with_their_key() {
    let mut rdb = b"REDIS0009".to_vec();
    rdb.extend([0xfe, 5, 0xfb, 9, 9]);
    rdb.extend([0xfc, 1, 2, 3, 4, 5, 6, 7, 8, 0xf8, 0x40, 70, 0, 1, b'a', 1, b'1']);
    rdb.extend([0xfd, 1, 2, 3, 4, 0xf9, 7, 0, 1, b'b', 1, b'2']);
    rdb.extend([0, 1, b'c', 1, b'3']);
    rdb.extend([0xfe, 0x80, 0, 0, 1, 0, 0xfb, 9, 9, 0, 1, b'd', 1, b'4']);
    rdb.push(0xff);
    rdb.extend([0; 8]);
    let mut want = b"REDIS0009".to_vec();
    want.extend([0xfe, 5, 0xfd, 1, 2, 3, 4, 0xf9, 7, 0, 1, b'b', 1, b'2']);
    want.extend([0xfe, 0x80, 0, 0, 1, 0, 0, 1, b'd', 1, b'4']);
    want.extend([0xfe, 5, 0xfc, 1, 2, 3, 4, 5, 6, 7, 8, 0xf8, 0x80, 0, 0, 0, 70, 0, 1, b'a', 1, b'1']);
    want.push(0xff);
    let crc = crc64(0, &want);
    want.extend(crc.to_le_bytes());
    let (out, _) = good(&[(&rdb, &|_, name| name == b"b" || name == b"d"), (&rdb, &|_, name| name == b"a")]);
    assert_eq!(out, want);
}

/// What expired between the two moments of writing is counted alike in the splice and in a walk over it.
#[test]
fn the_first_part_says_what_had_expired() {
    let written = |at: u8, name: &[u8; 1]| {
        let mut rdb = b"REDIS0009\xfa\x05ctime\xc0".to_vec();
        rdb.extend([at, 0xfd, 50, 0, 0, 0, 0, 1, name[0], 1, b'v', 0xff]);
        rdb.extend([0; 8]);
        rdb
    };
    let (early, late) = (written(10, b"a"), written(100, b"b"));
    let expiring = |rdb: &[u8]| walk(rdb).unwrap().counts()["expiring:db0"];
    assert_eq!((expiring(&early), expiring(&late)), (1, 0));
    assert_eq!(good(&[(&early, ALL), (&late, ALL)]).1.counts()["expiring:db0"], 2);
    assert_eq!(good(&[(&late, ALL), (&early, ALL)]).1.counts()["expiring:db0"], 0);
}

#[test]
fn long_and_compressed_names_are_known_by_their_beginning() {
    let long = vec![b'q'; 100_000];
    let mut rdb = b"REDIS0009\x00\x80".to_vec();
    rdb.extend(u32::try_from(long.len()).unwrap().to_be_bytes());
    rdb.extend(&long);
    rdb.extend([1, b'v']);
    // "queue:" and thirty times "x", as Redis compresses it.
    rdb.extend([0, 0xc3, 11, 36, 6]);
    rdb.extend(b"queue:x");
    rdb.extend([7 << 5, 29 - 9, 0]);
    rdb.extend([1, b'v', 0xff]);
    rdb.extend([0; 8]);
    let all = names(&rdb);
    assert_eq!(all[0].1, long[..crate::queues::LONGEST_NAME]);
    assert_eq!(all[1].1, format!("queue:{}", "x".repeat(30)).as_bytes());
    let (out, _) = good(&[(&rdb, ALL)]);
    assert_eq!(out[11..out.len() - 8], rdb[9..rdb.len() - 8], "a name changed as it passed");
}

#[test]
fn the_newer_format_holds_both_or_it_is_refused() {
    let with = |head: &[u8; 9]| {
        let mut rdb = head.to_vec();
        rdb.extend([0, 1, head[8], 1, b'v', 0xff]);
        if head != b"REDIS0004" {
            rdb.extend([0; 8]);
        }
        rdb
    };
    for (first, second, want) in [
        (b"REDIS0009", b"REDIS0011", Some(b"REDIS0011")),
        (b"REDIS0011", b"REDIS0009", Some(b"REDIS0011")),
        (b"REDIS0004", b"REDIS0009", Some(b"REDIS0009")),
        (b"REDIS0011", b"VALKEY080", Some(b"VALKEY080")),
        (b"VALKEY081", b"REDIS0009", Some(b"VALKEY081")),
        (b"REDIS0012", b"VALKEY080", None),
    ] {
        let (first, second) = (with(first), with(second));
        match (spliced(&[(&first, ALL), (&second, ALL)]), want) {
            (Ok((out, _)), Some(want)) => {
                assert_eq!(out[..9], want[..]);
                assert!(walk(&out[..]).unwrap().checksummed);
            }
            (Err(e), None) => assert_eq!(e.kind(), Kind::Unsupported),
            (other, want) => panic!("{want:?}: {other:?}"),
        }
    }
    let old = with(b"REDIS0004");
    assert!(!walk(&good(&[(&old, ALL)]).0[..]).unwrap().checksummed);
}

#[test]
fn a_damaged_part_is_an_error_wherever_it_stands() {
    let bytes = sample();
    for n in 0..bytes.len() {
        assert!(spliced(&[(&bytes[..n], ALL)]).is_err(), "cut at {n}");
        assert!(spliced(&[(&bytes, ALL), (&bytes[..n], NONE)]).is_err(), "second part cut at {n}");
    }
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    assert!(spliced(&[(&damaged, NONE)]).is_err());
}

/// Fails when it has taken so much.
struct Full(usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let bytes = sample();
    let (out, _) = good(&[(&bytes, ALL)]);
    for n in 0..out.len() {
        assert!(splice(vec![Part { rdb: Box::new(&bytes[..]), take: ALL }], Full(n)).is_err(), "full at {n}");
    }
}

proptest! {
    #[test]
    fn what_walks_can_be_spliced_and_walks_again(changes in proptest::collection::vec((9..300_usize, any::<u8>()), 0..4), seed in any::<u8>()) {
        let mut bytes = sample();
        for (at, to) in changes {
            if let Some(b) = bytes.get_mut(at) {
                *b = to;
            }
        }
        // Without a checksum, so that changes reach the structure.
        let end = bytes.len() - 8;
        bytes[end..].fill(0);
        let take = |db: u64, name: &[u8]| (name.iter().fold(db, |sum, b| sum.rotate_left(5) ^ u64::from(*b)) ^ u64::from(seed)) & 1 == 0;
        let walked = walk(&bytes[..]);
        let made = spliced(&[(&bytes, &take), (&bytes, &|db, name| !take(db, name))]);
        prop_assert_eq!(walked.is_ok(), made.is_ok());
        if let (Ok(before), Ok((out, made))) = (walked, made) {
            let after = walk(&out[..]).map_err(|e| TestCaseError::fail(e.chain()))?;
            prop_assert_eq!(&made.databases, &after.databases);
            prop_assert_eq!(before.databases, after.databases);
        }
    }
}
