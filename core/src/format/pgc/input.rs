//! Bytes of an archive, with its own numbers and strings.

use std::io::Read;

use crate::error::{Error, Kind, Result};

const BUFFER: usize = 64 << 10;

/// A reader that knows where it is.
pub(super) struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
    int_bytes: u8,
    offset_bytes: u8,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; BUFFER], start: 0, end: 0, offset: 0, int_bytes: 4, offset_bytes: 8 }
    }

    /// The widths of numbers and file positions, bytes, as the archive's head says.
    pub(super) fn set_sizes(&mut self, int_bytes: u8, offset_bytes: u8) {
        (self.int_bytes, self.offset_bytes) = (int_bytes, offset_bytes);
    }

    /// Bytes consumed so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
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
                Err(e) => return Err(Error::io("read the archive", e)),
            }
        };
        Ok(self.end > 0)
    }

    /// Hands so many bytes to `take`, in pieces.
    pub(super) fn take(&mut self, mut n: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        while n > 0 {
            if !self.fill()? {
                return Err(Error::new(Kind::Corrupt, format!("the archive ends early, at byte {}", self.offset)));
            }
            let have = self.end - self.start;
            let now = usize::try_from(n).map_or(have, |n| n.min(have));
            take(self.buffer.get(self.start..self.start + now).unwrap_or_default());
            self.start += now;
            self.offset += now as u64;
            n -= now as u64;
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, n: u64) -> Result<()> {
        self.take(n, |_| {})
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        let mut at = 0;
        self.take(N as u64, |piece| {
            for (to, from) in out.iter_mut().skip(at).zip(piece) {
                *to = *from;
            }
            at += piece.len();
        })?;
        Ok(out)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// The next byte; `None` at the end.
    pub(super) fn byte_or_end(&mut self) -> Result<Option<u8>> {
        if self.fill()? { self.byte().map(Some) } else { Ok(None) }
    }

    /// A number: its sign, then its bytes, the lowest first.
    pub(super) fn int(&mut self) -> Result<i64> {
        let negative = match self.byte()? {
            0 => false,
            1 => true,
            other => return Err(self.bad(&format!("a number whose sign is {other}"))),
        };
        let mut value = 0_u64;
        for n in 0..self.int_bytes {
            value |= u64::from(self.byte()?) << (8 * u32::from(n));
        }
        let value = i64::try_from(value).map_err(|_| self.bad("a number that is too large"))?;
        Ok(if negative { -value } else { value })
    }

    /// A number of bytes.
    pub(super) fn length(&mut self) -> Result<u64> {
        let n = self.int()?;
        u64::try_from(n).map_err(|_| self.bad(&format!("a length of {n} bytes")))
    }

    /// Passes over a string; false when there is none.
    pub(super) fn skip_string(&mut self) -> Result<bool> {
        let n = self.int()?;
        match u64::try_from(n) {
            Ok(n) => self.skip(n).map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// A string that is a name; what is longer than `most` bytes is cut there. `None` when there is none.
    pub(super) fn name(&mut self, most: u64) -> Result<Option<String>> {
        let Ok(n) = u64::try_from(self.int()?) else { return Ok(None) };
        let mut kept = Vec::new();
        self.take(n.min(most), |piece| kept.extend_from_slice(piece))?;
        self.skip(n.saturating_sub(most))?;
        Ok(Some(String::from_utf8_lossy(&kept).into_owned()))
    }

    /// Whether an entry has data; where it is does not matter, because a pipe cannot know.
    pub(super) fn offset_flag(&mut self) -> Result<u8> {
        let flag = self.byte()?;
        self.skip(u64::from(self.offset_bytes))?;
        Ok(flag)
    }

    /// The error for something that no archive has, with where it stands.
    pub(super) fn bad(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("the archive has {what}, at byte {}", self.offset))
    }
}
