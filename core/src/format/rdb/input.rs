//! Bytes of an RDB, read forward only, checksummed as they are consumed.

use std::io::Read;

use crate::error::{Error, Kind, Result};

use super::crc64::crc64;
use super::lzf;
use super::visit::Visitor;

/// Bytes buffered.
const BUFFER: usize = 64 << 10;

/// A reader that counts and checksums what was consumed, and lets a visitor see it.
pub(super) struct Input<R, V> {
    inner: R,
    /// Who sees every byte as it is consumed.
    pub(super) visitor: V,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    crc: u64,
    offset: u64,
}

/// A length, or one of the special encodings of a string.
pub(super) enum Length {
    Plain(u64),
    Special(u8),
}

/// The beginning of a string in the clear.
pub(super) struct Head {
    /// Its first bytes.
    pub(super) bytes: Vec<u8>,
    /// Bytes of the RDB that are left of it: to be skipped next.
    pub(super) left: u64,
}

impl<R: Read, V: Visitor> Input<R, V> {
    pub(super) fn new(inner: R, visitor: V) -> Self {
        Self { inner, visitor, buffer: vec![0; BUFFER], start: 0, end: 0, crc: 0, offset: 0 }
    }

    /// Bytes consumed so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The checksum of the bytes consumed so far.
    pub(super) fn crc(&self) -> u64 {
        self.crc
    }

    fn fill(&mut self) -> Result<bool> {
        if self.start < self.end {
            return Ok(true);
        }
        self.start = 0;
        self.end = loop {
            match self.inner.read(&mut self.buffer) {
                Ok(n) => break n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read the RDB", e)),
            }
        };
        Ok(self.end > 0)
    }

    /// Hands up to `n` consumed bytes at a time to `take`.
    fn consume(&mut self, mut n: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        while n > 0 {
            if !self.fill()? {
                return Err(Error::new(Kind::Corrupt, format!("the RDB ends early, at byte {}", self.offset)));
            }
            let have = self.end - self.start;
            let use_now = usize::try_from(n).map_or(have, |n| n.min(have));
            let piece = self.buffer.get(self.start..self.start + use_now).unwrap_or_default();
            self.crc = crc64(self.crc, piece);
            self.visitor.bytes(piece)?;
            take(piece);
            self.start += use_now;
            self.offset += use_now as u64;
            n -= use_now as u64;
        }
        Ok(())
    }

    /// Passes over bytes without keeping them.
    pub(super) fn skip(&mut self, n: u64) -> Result<()> {
        self.consume(n, |_| {})
    }

    /// Fills an array.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        let mut at = 0;
        self.consume(N as u64, |piece| {
            for (to, from) in out.iter_mut().skip(at).zip(piece) {
                *to = *from;
            }
            at += piece.len();
        })?;
        Ok(out)
    }

    /// One byte.
    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&mut self) -> Result<bool> {
        self.fill().map(|more| !more)
    }

    /// A length in Redis' own encoding.
    pub(super) fn length(&mut self) -> Result<Length> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(first & 0x3f)),
            1 => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            3 => Length::Special(first & 0x3f),
            _ => return Err(self.bad(&format!("a length that begins with {first:#04x}"))),
        })
    }

    /// A length that must be a plain number.
    pub(super) fn number(&mut self) -> Result<u64> {
        match self.length()? {
            Length::Plain(n) => Ok(n),
            Length::Special(_) => Err(self.bad("a special encoding where a number must stand")),
        }
    }

    /// Passes over a string.
    pub(super) fn string(&mut self) -> Result<()> {
        let bytes = match self.length()? {
            Length::Plain(n) => n,
            Length::Special(0) => 1,
            Length::Special(1) => 2,
            Length::Special(2) => 4,
            Length::Special(3) => {
                let compressed = self.number()?;
                self.number()?;
                compressed
            }
            Length::Special(other) => return Err(self.bad(&format!("a string of the encoding {other}"))),
        };
        self.skip(bytes)
    }

    /// A short string in the clear; `None`, and passed over, when it is longer than `max` or compressed. Integers are given as text.
    pub(super) fn short_string(&mut self, max: u64) -> Result<Option<Vec<u8>>> {
        let text = |n: i64| Ok(Some(n.to_string().into_bytes()));
        match self.length()? {
            Length::Plain(n) if n <= max => self.some(n).map(Some),
            Length::Plain(n) => self.skip(n).map(|()| None),
            Length::Special(0) => text(i64::from(i8::from_le_bytes(self.array()?))),
            Length::Special(1) => text(i64::from(i16::from_le_bytes(self.array()?))),
            Length::Special(2) => text(i64::from(i32::from_le_bytes(self.array()?))),
            Length::Special(3) => {
                let compressed = self.number()?;
                self.number()?;
                self.skip(compressed).map(|()| None)
            }
            Length::Special(other) => Err(self.bad(&format!("a string of the encoding {other}"))),
        }
    }

    /// The first bytes of a string in the clear, at most `max`. Compressed, it is opened so far; what does not open ends there.
    pub(super) fn head(&mut self, max: usize) -> Result<Head> {
        let text = |n: i64| Ok(Head { bytes: n.to_string().into_bytes(), left: 0 });
        match self.length()? {
            Length::Plain(n) => {
                let now = n.min(max as u64);
                Ok(Head { bytes: self.some(now)?, left: n - now })
            }
            Length::Special(0) => text(i64::from(i8::from_le_bytes(self.array()?))),
            Length::Special(1) => text(i64::from(i16::from_le_bytes(self.array()?))),
            Length::Special(2) => text(i64::from(i32::from_le_bytes(self.array()?))),
            Length::Special(3) => {
                let compressed = self.number()?;
                self.number()?;
                let now = compressed.min(lzf::needed(max));
                let bytes = lzf::beginning(&self.some(now)?, max);
                Ok(Head { bytes, left: compressed - now })
            }
            Length::Special(other) => Err(self.bad(&format!("a string of the encoding {other}"))),
        }
    }

    /// So many bytes, which are few.
    fn some(&mut self, n: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.consume(n, |piece| out.extend_from_slice(piece))?;
        Ok(out)
    }

    /// The error for something that no RDB has, with where it stands.
    pub(super) fn bad(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("the RDB has {what} at byte {}", self.offset))
    }
}
