//! What a walk may be used for besides checking: a visitor sees every byte, and every key before its value.

use std::collections::BTreeMap;

use crate::error::Result;

use super::Keys;

/// What stands before a key and belongs to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    /// When it expires, as it stood there.
    pub(super) expires: Option<Expires>,
    /// For how long nobody had asked for it.
    pub(super) idle: Option<u64>,
    /// How often it is asked for.
    pub(super) frequency: Option<u8>,
}

/// A time, in the unit in which it was written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expires {
    Seconds([u8; 4]),
    Milliseconds([u8; 8]),
}

impl Expires {
    /// Milliseconds since 1970.
    pub(super) fn milliseconds(self) -> u64 {
        match self {
            Self::Seconds(at) => u64::from(u32::from_le_bytes(at)).saturating_mul(1000),
            Self::Milliseconds(at) => u64::from_le_bytes(at),
        }
    }
}

/// A key whose name was read, or the beginning of a long one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) db: u64,
    pub(super) name: &'a [u8],
    pub(super) marks: &'a Marks,
    /// As what it counts.
    pub(super) keys: Keys,
}

/// Who looks on. A walk calls `part` before each opcode, then one of the others once it knows what it is; without one, it belongs to nothing that is kept.
pub(super) trait Visitor {
    /// Bytes as they are consumed.
    fn bytes(&mut self, _piece: &[u8]) -> Result<()> {
        Ok(())
    }

    /// The next byte is an opcode.
    fn part(&mut self) {}

    /// The opcode is of the whole file: auxiliary fields, functions, what modules keep beside keys. The rest of it comes.
    fn of_the_file(&mut self) -> Result<()> {
        Ok(())
    }

    /// A key; the rest of a long name and its value come. True when its elements are to be counted.
    fn key(&mut self, _key: &Key<'_>) -> Result<bool> {
        Ok(false)
    }

    /// How many elements the key has, if it was asked for.
    fn elements(&mut self, _name: Vec<u8>, _elements: u64) {}
}

/// Looks at nothing.
impl Visitor for () {}

/// So many names are kept apart; all others are counted under the empty one. An RDB may have as many as it likes.
const NAMES: usize = 1_000;

/// Counts the elements of those keys that a rule names.
pub(super) struct Elements<F> {
    pub(super) of: F,
    pub(super) found: BTreeMap<Vec<u8>, u64>,
}

impl<F: Fn(&[u8]) -> bool> Visitor for Elements<F> {
    fn key(&mut self, key: &Key<'_>) -> Result<bool> {
        Ok((self.of)(key.name))
    }

    fn elements(&mut self, name: Vec<u8>, elements: u64) {
        let known = self.found.contains_key(&name) || self.found.len() < NAMES;
        let sum = self.found.entry(if known { name } else { Vec::new() }).or_default();
        *sum = sum.saturating_add(elements);
    }
}
