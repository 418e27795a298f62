//! The values of an RDB: each type is passed over by its structure, nothing is kept.

use std::io::Read;

use crate::error::{Error, Kind, Result};

use super::Walker;
use super::visit::Visitor;

/// Where a ziplist's header has its number of entries.
const ZIPLIST: usize = 8;
/// Where a listpack's has it.
const LISTPACK: usize = 4;

impl<R: Read, V: Visitor> Walker<R, V> {
    /// Passes over the value of a type.
    pub(super) fn value(&mut self, kind: u8) -> Result<()> {
        match kind {
            // One string: plain, or a whole structure packed into one.
            0 | 9..=13 | 16 | 17 | 20 | 23 => self.input.string(),
            // Lists, sets, quicklists of ziplists.
            1 | 2 | 14 => self.strings(1),
            4 => self.strings(2),
            3 => self.each(Self::old_score),
            5 => self.each(|walker| {
                walker.input.string()?;
                walker.input.skip(8)
            }),
            7 => {
                self.walked.modules = true;
                self.input.number()?;
                self.module()
            }
            15 | 19 | 21 => self.stream(kind),
            18 => self.each(|walker| {
                walker.input.number()?;
                walker.input.string()
            }),
            // Hashes whose fields expire: Valkey 9 gave the number 22 another meaning than Redis 7.4's release candidates.
            22 if self.walked.valkey => self.each(|walker| {
                walker.input.string()?;
                walker.input.string()?;
                walker.input.skip(8)
            }),
            22 => self.expiring_hash(),
            24 => {
                self.input.skip(8)?;
                self.expiring_hash()
            }
            25 => {
                self.input.skip(8)?;
                self.input.string()
            }
            other => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the RDB has a value of type {other} at byte {}, which this Keepsake does not know: a newer server wrote it",
                    self.input.offset()
                ),
            )),
        }
    }

    /// Passes over a value and counts the elements of a list or sorted set; 0 for anything else.
    pub(super) fn elements(&mut self, kind: u8) -> Result<u64> {
        match kind {
            1 => self.tally(|walker| walker.input.string().map(|()| 1)),
            3 => self.tally(|walker| walker.old_score().map(|()| 1)),
            5 => self.tally(|walker| {
                walker.input.string()?;
                walker.input.skip(8).map(|()| 1)
            }),
            10 => self.packed(ZIPLIST),
            // Members and scores in turn.
            12 => self.packed(ZIPLIST).map(|n| n / 2),
            17 => self.packed(LISTPACK).map(|n| n / 2),
            14 => self.tally(|walker| walker.packed(ZIPLIST)),
            18 => self.tally(|walker| {
                // A node is one element in the clear, or a listpack of many.
                let plain = walker.input.number()? == 1;
                walker.packed(LISTPACK).map(|packed| if plain { 1 } else { packed })
            }),
            other => self.value(other).map(|()| 0),
        }
    }

    /// The sum over all entries.
    fn tally(&mut self, mut one: impl FnMut(&mut Self) -> Result<u64>) -> Result<u64> {
        let mut sum = 0_u64;
        self.each(|walker| {
            sum = sum.saturating_add(one(walker)?);
            Ok(())
        })?;
        Ok(sum)
    }

    /// How many entries a packed structure says that it has in its header, which is `u16` at this place; at least so many if it is the largest.
    fn packed(&mut self, at: usize) -> Result<u64> {
        let head = self.input.head(at + 2)?;
        self.input.skip(head.left)?;
        let Some([low, high]) = head.bytes.get(at..).and_then(|b| b.first_chunk()) else { return Ok(0) };
        Ok(u64::from(u16::from_le_bytes([*low, *high])))
    }

    fn each(&mut self, mut one: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let n = self.input.number()?;
        for _ in 0..n {
            one(self)?;
        }
        Ok(())
    }

    /// So many strings for each entry.
    fn strings(&mut self, per_entry: u32) -> Result<()> {
        self.each(|walker| (0..per_entry).try_for_each(|_| walker.input.string()))
    }

    fn expiring_hash(&mut self) -> Result<()> {
        self.each(|walker| {
            walker.input.number()?;
            walker.input.string()?;
            walker.input.string()
        })
    }

    /// A member with its score as text, as Redis wrote them before 4.0.
    fn old_score(&mut self) -> Result<()> {
        self.input.string()?;
        match self.input.byte()? {
            // Not a number and the infinities have no text.
            253..=255 => Ok(()),
            n => self.input.skip(u64::from(n)),
        }
    }

    fn stream(&mut self, kind: u8) -> Result<()> {
        // Each entry is an id and a listpack.
        self.strings(2)?;
        // Length, last id.
        self.numbers(3)?;
        if kind >= 19 {
            // First id, greatest deleted id, entries ever added.
            self.numbers(5)?;
        }
        self.each(|walker| {
            walker.input.string()?;
            walker.numbers(2)?;
            if kind >= 19 {
                walker.numbers(1)?;
            }
            // Entries that were delivered and not acknowledged: id, time, how often.
            walker.each(|walker| {
                walker.input.skip(24)?;
                walker.numbers(1)
            })?;
            walker.each(|walker| {
                walker.input.string()?;
                walker.input.skip(if kind >= 21 { 16 } else { 8 })?;
                walker.each(|walker| walker.input.skip(16))
            })
        })
    }

    fn numbers(&mut self, n: u32) -> Result<()> {
        (0..n).try_for_each(|_| self.input.number().map(|_| ()))
    }

    /// A module's value says its own structure, up to an end mark.
    pub(super) fn module(&mut self) -> Result<()> {
        loop {
            match self.input.number()? {
                0 => return Ok(()),
                1 | 2 => self.numbers(1)?,
                3 => self.input.skip(4)?,
                4 => self.input.skip(8)?,
                5 => self.input.string()?,
                other => return Err(self.input.bad(&format!("the part {other} in a module's value"))),
            }
        }
    }
}
