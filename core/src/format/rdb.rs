//! Walks an RDB by its structure: checks it to its end and counts its keys, in bounded memory.
//!
//! Any bytes give a result or an error, never a panic. What is promised of a good result: the magic and version are known, every
//! opcode and value has the structure that its type says, the checksum holds (unless the server was told not to write one), and nothing
//! follows the end mark.

mod crc64;
mod input;
mod lzf;
mod splice;
mod value;
mod visit;

use std::collections::BTreeMap;
use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::record::Counts;

use crate::queues::LONGEST_NAME;

use self::input::Input;
pub use self::splice::{Part, Spliced, splice};
use self::visit::{Elements, Expires, Key, Marks, Visitor};

/// A probe of the operator writes this key into every Redis all the time; counting it would make no two copies equal.
pub const NOISE: &[u8] = b"liveness-probe";

/// What an RDB holds.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of the file, none is a state")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// The version in its header.
    pub version: u32,
    /// Whether Valkey's own magic stands in its header.
    pub valkey: bool,
    /// Keys by database.
    pub databases: BTreeMap<u64, Keys>,
    /// Whether it holds values of modules.
    pub modules: bool,
    /// Whether it holds functions.
    pub functions: bool,
    /// Whether it carries a checksum.
    pub checksummed: bool,
    /// Its length, bytes.
    pub length: u64,
}

/// Keys of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    /// Without a time to live; the probe's key is not counted.
    pub persistent: u64,
    /// With a time to live that had not passed when the RDB was written.
    pub expiring: u64,
}

impl Keys {
    fn add(&mut self, more: Self) {
        self.persistent += more.persistent;
        self.expiring += more.expiring;
    }
}

impl Walked {
    /// As in a record: `keys:db0` and `expiring:db0`.
    pub fn counts(&self) -> Counts {
        counts(&self.databases)
    }
}

fn counts(databases: &BTreeMap<u64, Keys>) -> Counts {
    let mut counts = Counts::new();
    for (db, keys) in databases {
        counts.insert(format!("keys:db{db}"), keys.persistent);
        counts.insert(format!("expiring:db{db}"), keys.expiring);
    }
    counts
}

/// Walks a whole RDB.
///
/// # Errors
/// `Corrupt`, with the byte where it stands; `Unsupported` for what a newer server wrote.
pub fn walk(reader: impl Read) -> Result<Walked> {
    Walker::begin(reader, ())?.walk().map(|(walked, ())| walked)
}

/// As [`walk`], and counts the elements of the lists and sorted sets whose names `of` picks. Of very many names the rest is counted under the empty one;
/// a list that was written by a server with very large nodes may count less than it has.
///
/// # Errors
/// As [`walk`].
pub fn walk_counting(reader: impl Read, of: impl Fn(&[u8]) -> bool) -> Result<(Walked, BTreeMap<Vec<u8>, u64>)> {
    let visitor = Elements { of, found: BTreeMap::new() };
    let (walked, visitor) = Walker::begin(reader, visitor)?.walk()?;
    Ok((walked, visitor.found))
}

struct Walker<R, V> {
    input: Input<R, V>,
    walked: Walked,
    clock: Clock,
}

/// Which time tells what had expired, in seconds since 1970; without one nothing had.
#[derive(Debug, Clone, Copy)]
enum Clock {
    /// The time of writing, once it was read.
    Own(Option<u64>),
    /// That of another file.
    Given(Option<u64>),
}

impl Clock {
    fn time(self) -> Option<u64> {
        match self {
            Self::Own(time) | Self::Given(time) => time,
        }
    }
}

impl<R: Read, V: Visitor> Walker<R, V> {
    /// Reads the header.
    fn begin(reader: R, visitor: V) -> Result<Self> {
        let mut walker =
            Self { input: Input::new(reader, visitor), walked: Walked::default(), clock: Clock::Own(None) };
        walker.header()?;
        Ok(walker)
    }

    fn walk(self) -> Result<(Walked, V)> {
        self.walk_telling().map(|(walked, visitor, _)| (walked, visitor))
    }

    /// Walks, and tells by which clock.
    fn walk_telling(mut self) -> Result<(Walked, V, Clock)> {
        let mut db = 0;
        let mut marks = Marks::default();
        loop {
            self.input.visitor.part();
            match self.input.byte()? {
                // Auxiliary field: the time of writing tells which keys had expired.
                0xfa => {
                    self.input.visitor.of_the_file()?;
                    let name = self.input.short_string(16)?;
                    let value = self.input.short_string(32)?;
                    if let (Some(b"ctime"), Clock::Own(time)) = (name.as_deref(), &mut self.clock) {
                        *time = value.and_then(|v| String::from_utf8(v).ok()).and_then(|v| v.parse::<u64>().ok());
                    }
                }
                0xfe => db = self.input.number()?,
                0xfb => {
                    self.input.number()?;
                    self.input.number()?;
                }
                0xfd => marks.expires = Some(Expires::Seconds(self.input.array()?)),
                0xfc => marks.expires = Some(Expires::Milliseconds(self.input.array()?)),
                0xf9 => marks.frequency = Some(self.input.byte()?),
                0xf8 => marks.idle = Some(self.input.number()?),
                0xf7 => {
                    self.input.visitor.of_the_file()?;
                    self.walked.modules = true;
                    self.input.number()?;
                    self.module()?;
                }
                0xf5 => {
                    self.input.visitor.of_the_file()?;
                    self.walked.functions = true;
                    self.input.string()?;
                }
                // Sizes of a cluster's slot.
                0xf4 => (0..3).try_for_each(|_| self.input.number().map(|_| ()))?,
                0xff => break,
                kind @ 0..=25 => self.key(kind, db, std::mem::take(&mut marks))?,
                other => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!(
                            "the RDB has the opcode {other:#04x} at byte {}, which this Keepsake does not know",
                            self.input.offset()
                        ),
                    ));
                }
            }
        }
        self.end()?;
        Ok((self.walked, self.input.visitor, self.clock))
    }

    fn key(&mut self, kind: u8, db: u64, marks: Marks) -> Result<()> {
        let name = self.input.head(LONGEST_NAME)?;
        let mut one = Keys::default();
        match (marks.expires.map(Expires::milliseconds), self.clock.time()) {
            (None, _) if name.bytes == NOISE => {}
            (None, _) => one.persistent = 1,
            (Some(at), now) if now.is_none_or(|now| at > now.saturating_mul(1000)) => one.expiring = 1,
            (Some(_), _) => {}
        }
        let counted = self.input.visitor.key(&Key { db, name: &name.bytes, marks: &marks, keys: one })?;
        self.input.skip(name.left)?;
        self.walked.databases.entry(db).or_default().add(one);
        if counted {
            let elements = self.elements(kind)?;
            self.input.visitor.elements(name.bytes, elements);
            return Ok(());
        }
        self.value(kind)
    }

    fn header(&mut self) -> Result<()> {
        let header: [u8; 9] = self.input.array()?;
        let digits = header
            .strip_prefix(b"REDIS")
            .or_else(|| {
                self.walked.valkey = true;
                header.strip_prefix(b"VALKEY")
            })
            .ok_or_else(|| Error::new(Kind::Corrupt, "it is not an RDB: it begins with neither REDIS nor VALKEY"))?;
        self.walked.version = std::str::from_utf8(digits)
            .ok()
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok())
            .ok_or_else(|| Error::new(Kind::Corrupt, "the RDB's version is not a number"))?;
        if self.walked.version == 0 {
            return Err(Error::new(Kind::Corrupt, "the RDB says that it has version 0"));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        // Checksums came with version 5; a stored 0 means that the server was told not to compute one.
        if self.walked.valkey || self.walked.version >= 5 {
            let computed = self.input.crc();
            let stored = u64::from_le_bytes(self.input.array()?);
            if stored != 0 && stored != computed {
                return Err(Error::new(Kind::Corrupt, "the RDB's checksum does not hold: it is damaged"));
            }
            self.walked.checksummed = stored != 0;
        }
        self.walked.length = self.input.offset();
        if !self.input.at_end()? {
            return Err(self.input.bad("something behind its end"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
