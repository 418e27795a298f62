//! Walks an RDB by its structure: checks it to its end and counts its keys, in bounded memory.
//!
//! Any bytes give a result or an error, never a panic. What is promised of a good result: the magic and version are known, every
//! opcode and value has the structure that its type says, the checksum holds (unless the server was told not to write one), and nothing
//! follows the end mark.

mod crc64;
mod input;
mod value;

use std::collections::BTreeMap;
use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::record::Counts;

use self::input::Input;

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

impl Walked {
    /// As in a record: `keys:db0` and `expiring:db0`.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for (db, keys) in &self.databases {
            counts.insert(format!("keys:db{db}"), keys.persistent);
            counts.insert(format!("expiring:db{db}"), keys.expiring);
        }
        counts
    }
}

/// Walks a whole RDB.
///
/// # Errors
/// `Corrupt`, with the byte where it stands; `Unsupported` for what a newer server wrote.
pub fn walk(reader: impl Read) -> Result<Walked> {
    Walker { input: Input::new(reader), valkey: false, modules: false }.walk()
}

struct Walker<R> {
    input: Input<R>,
    valkey: bool,
    modules: bool,
}

impl<R: Read> Walker<R> {
    fn walk(mut self) -> Result<Walked> {
        let mut walked = Walked::default();
        self.header(&mut walked)?;
        let mut db = 0;
        let mut expires = None;
        let mut written = None;
        loop {
            match self.input.byte()? {
                // Auxiliary field: the time of writing tells which keys had expired.
                0xfa => {
                    let name = self.input.short_string(16)?;
                    let value = self.input.short_string(32)?;
                    if name.as_deref() == Some(b"ctime") {
                        written = value.and_then(|v| String::from_utf8(v).ok()).and_then(|v| v.parse::<u64>().ok());
                    }
                }
                0xfe => db = self.input.number()?,
                0xfb => {
                    self.input.number()?;
                    self.input.number()?;
                }
                0xfd => expires = Some(u64::from(u32::from_le_bytes(self.input.array()?)).saturating_mul(1000)),
                0xfc => expires = Some(u64::from_le_bytes(self.input.array()?)),
                0xf9 => self.input.skip(1)?,
                0xf8 => drop(self.input.number()?),
                0xf7 => {
                    walked.modules = true;
                    self.input.number()?;
                    self.module()?;
                }
                0xf5 => {
                    walked.functions = true;
                    self.input.string()?;
                }
                // Sizes of a cluster's slot.
                0xf4 => (0..3).try_for_each(|_| self.input.number().map(|_| ()))?,
                0xff => break,
                kind @ 0..=25 => {
                    let key = self.input.short_string(64)?;
                    self.value(kind)?;
                    let keys = walked.databases.entry(db).or_default();
                    match expires.take() {
                        None if key.as_deref() == Some(NOISE) => {}
                        None => keys.persistent += 1,
                        Some(at) if written.is_none_or(|now| at > now.saturating_mul(1000)) => keys.expiring += 1,
                        Some(_) => {}
                    }
                }
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
        self.end(&mut walked)?;
        walked.modules |= self.modules;
        Ok(walked)
    }

    fn header(&mut self, walked: &mut Walked) -> Result<()> {
        let header: [u8; 9] = self.input.array()?;
        let digits = header
            .strip_prefix(b"REDIS")
            .or_else(|| {
                self.valkey = true;
                header.strip_prefix(b"VALKEY")
            })
            .ok_or_else(|| Error::new(Kind::Corrupt, "it is not an RDB: it begins with neither REDIS nor VALKEY"))?;
        walked.version = std::str::from_utf8(digits)
            .ok()
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok())
            .ok_or_else(|| Error::new(Kind::Corrupt, "the RDB's version is not a number"))?;
        walked.valkey = self.valkey;
        if walked.version == 0 {
            return Err(Error::new(Kind::Corrupt, "the RDB says that it has version 0"));
        }
        Ok(())
    }

    fn end(&mut self, walked: &mut Walked) -> Result<()> {
        // Checksums came with version 5; a stored 0 means that the server was told not to compute one.
        if self.valkey || walked.version >= 5 {
            let computed = self.input.crc();
            let stored = u64::from_le_bytes(self.input.array()?);
            if stored != 0 && stored != computed {
                return Err(Error::new(Kind::Corrupt, "the RDB's checksum does not hold: it is damaged"));
            }
            walked.checksummed = stored != 0;
        }
        walked.length = self.input.offset();
        if !self.input.at_end()? {
            return Err(self.input.bad("something behind its end"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
