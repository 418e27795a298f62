//! One RDB from chosen keys of others: what is chosen passes through as it was written, the rest is left out.
//!
//! The first part gives what is of the whole file: auxiliary fields, functions, what modules keep beside keys. Sizes (RESIZEDB, slots) are hints that would no
//! longer be true, and are left out. Nothing is held but a key's name, so values may be as large as they like.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use crate::error::{Error, Kind, Result};
use crate::record::Counts;

use super::crc64::crc64;
use super::visit::{Expires, Key, Marks, Visitor};
use super::{Clock, Keys, Walked, Walker};

/// An RDB, and which of its keys are taken. The rule gets the database and the name, of a long one the first [`crate::queues::LONGEST_NAME`] bytes.
pub struct Part<'a> {
    /// Its bytes.
    pub rdb: Box<dyn Read + 'a>,
    /// Which keys are taken.
    pub take: &'a dyn Fn(u64, &[u8]) -> bool,
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spliced {
    /// What each part held, all of it.
    pub parts: Vec<Walked>,
    /// Keys that were written, by database: what a walk over the result must find.
    pub databases: BTreeMap<u64, Keys>,
    /// Bytes that were written.
    pub length: u64,
}

impl Spliced {
    /// As in a record.
    pub fn counts(&self) -> Counts {
        super::counts(&self.databases)
    }
}

/// Writes one RDB from parts. No key may be taken from two of them: that is the rules' business, and the server that loads it would refuse it.
///
/// # Errors
/// As [`super::walk`] for each part; `Unsupported` when one format cannot hold them all; any kind when `out` fails.
pub fn splice(parts: Vec<Part<'_>>, out: impl Write) -> Result<Spliced> {
    let mut out = Output { inner: out, crc: 0, length: 0, db: None, databases: BTreeMap::new() };
    // All headers first: the version of the whole stands at its beginning.
    let mut walkers = Vec::new();
    for (n, part) in parts.into_iter().enumerate() {
        walkers.push(Walker::begin(
            part.rdb,
            Choosing { take: part.take, first: n == 0, held: Vec::new(), mode: Mode::Drop, out: None },
        )?);
    }
    let (valkey, version) = format_of(&walkers.iter().map(|w| &w.walked).collect::<Vec<_>>())?;
    out.write(if valkey { format!("VALKEY{version:03}") } else { format!("REDIS{version:04}") }.as_bytes())?;
    let mut walked = Vec::new();
    let mut clock = Clock::Own(None);
    for mut walker in walkers {
        walker.input.visitor.out = Some(out);
        walker.clock = clock;
        let (part, visitor, written) = walker.walk_telling()?;
        // The time of writing is of the whole file, so all of it is measured by the first part's.
        clock = Clock::Given(written.time());
        walked.push(part);
        out = visitor.out.ok_or_else(|| Error::new(Kind::Internal, "the output of a splice is gone"))?;
    }
    out.write(&[0xff])?;
    if valkey || version >= 5 {
        out.write(&out.crc.to_le_bytes())?;
    }
    out.inner.flush().map_err(failed)?;
    Ok(Spliced { parts: walked, databases: out.databases, length: out.length })
}

/// The format that holds all parts. A newer version can hold what an older one wrote; Valkey's own holds what Redis wrote before they parted, at version 11.
fn format_of(parts: &[&Walked]) -> Result<(bool, u32)> {
    let newest = |valkey: bool| parts.iter().filter(|p| p.valkey == valkey).map(|p| p.version).max();
    match (newest(false), newest(true)) {
        (Some(redis), None) => Ok((false, redis)),
        (redis, Some(valkey)) if redis.is_none_or(|v| v <= 11) => Ok((true, valkey)),
        (Some(redis), Some(valkey)) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "an RDB of version {redis} and one of Valkey's own version {valkey} cannot be made into one: no server reads both"
            ),
        )),
        (None, _) => Err(Error::new(Kind::Internal, "there is nothing to splice")),
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("write the spliced RDB", error)
}

/// Where chosen bytes go.
struct Output<W> {
    inner: W,
    crc: u64,
    length: u64,
    /// The database that was selected last.
    db: Option<u64>,
    databases: BTreeMap<u64, Keys>,
}

impl<W: Write> Output<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(failed)?;
        self.crc = crc64(self.crc, bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// A number in Redis' own encoding.
    fn number(&mut self, n: u64) -> Result<()> {
        match (u8::try_from(n), u32::try_from(n)) {
            (Ok(n @ 0..=63), _) => self.write(&[n]),
            (_, Ok(n)) => {
                self.write(&[0x80])?;
                self.write(&n.to_be_bytes())
            }
            _ => {
                self.write(&[0x81])?;
                self.write(&n.to_be_bytes())
            }
        }
    }

    /// What stands before a key: its database, if it is another than the last one's, and its marks.
    fn before(&mut self, db: u64, marks: &Marks) -> Result<()> {
        if self.db != Some(db) {
            self.write(&[0xfe])?;
            self.number(db)?;
            self.db = Some(db);
        }
        match marks.expires {
            None => {}
            Some(Expires::Seconds(at)) => {
                self.write(&[0xfd])?;
                self.write(&at)?;
            }
            Some(Expires::Milliseconds(at)) => {
                self.write(&[0xfc])?;
                self.write(&at)?;
            }
        }
        if let Some(idle) = marks.idle {
            self.write(&[0xf8])?;
            self.number(idle)?;
        }
        match marks.frequency {
            Some(frequency) => self.write(&[0xf9, frequency]),
            None => Ok(()),
        }
    }
}

/// What becomes of the bytes that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They are kept until it is known.
    Hold,
    /// They are written.
    Write,
    /// They are left out.
    Drop,
}

/// Writes what is chosen of one part.
struct Choosing<'a, W> {
    take: &'a dyn Fn(u64, &[u8]) -> bool,
    first: bool,
    /// From the opcode to the end of a key's name, at most about twice [`crate::queues::LONGEST_NAME`].
    held: Vec<u8>,
    mode: Mode,
    /// Absent until it is this part's turn.
    out: Option<Output<W>>,
}

impl<W: Write> Choosing<'_, W> {
    fn out(&mut self) -> Result<&mut Output<W>> {
        self.out.as_mut().ok_or_else(|| Error::new(Kind::Internal, "a part of a splice was read before its turn"))
    }

    /// Writes what was held, and what follows up to the next part; or leaves both out.
    fn decide(&mut self, write: bool) -> Result<()> {
        self.mode = if write { Mode::Write } else { Mode::Drop };
        if write {
            let held = std::mem::take(&mut self.held);
            self.out()?.write(&held)?;
            self.held = held;
        }
        Ok(())
    }
}

impl<W: Write> Visitor for Choosing<'_, W> {
    fn bytes(&mut self, piece: &[u8]) -> Result<()> {
        match self.mode {
            Mode::Hold => self.held.extend_from_slice(piece),
            Mode::Write => self.out()?.write(piece)?,
            Mode::Drop => {}
        }
        Ok(())
    }

    fn part(&mut self) {
        self.held.clear();
        self.mode = Mode::Hold;
    }

    fn of_the_file(&mut self) -> Result<()> {
        self.decide(self.first)
    }

    fn key(&mut self, key: &Key<'_>) -> Result<bool> {
        let taken = (self.take)(key.db, key.name);
        if taken {
            let out = self.out()?;
            out.before(key.db, key.marks)?;
            out.databases.entry(key.db).or_default().add(key.keys);
        }
        self.decide(taken)?;
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
