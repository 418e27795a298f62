//! Reads an archive as a stream, in bounded memory, to an end that is an end.
//!
//! Any bytes may come in: the answer is entries or an error, never a panic and never more memory than the limits below.

use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;

use super::decode::{self, Block, Extra, Head, Role};
use super::encode::{BLOCK, padding};
use super::entry::{Body, Entry, Extent, File, shown};

/// The most that pax records or a long name of one entry may have, bytes. A path has 4 KiB at most.
const MOST_EXTRA: u64 = 64 * 1024;
/// The most pieces that one sparse file may have.
const MOST_EXTENTS: usize = 1 << 17;

/// Where the bytes come from.
pub trait Input {
    /// The next bytes; `None` at an end that was checked.
    fn next_chunk(&mut self) -> Result<Option<Bytes>>;
}

/// Reads entries one after the other.
#[derive(Debug)]
pub struct Reader<I> {
    blocks: Blocks<I>,
    /// The piece of the entry's data that is being read.
    now: Extent,
    rest: std::vec::IntoIter<Extent>,
    /// Zeros after the entry's data.
    pad: usize,
}

impl<I: Input> Reader<I> {
    /// A reader at the beginning of the archive.
    pub fn new(input: I) -> Self {
        let blocks = Blocks { input, chunk: Bytes::new() };
        Self { blocks, now: Extent { at: 0, len: 0 }, rest: Vec::new().into_iter(), pad: 0 }
    }

    /// The next entry; data of the last one that was not asked for is read and dropped. `None` once the end marker and
    /// nothing but zeros after it were seen.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        while self.data()?.is_some() {}
        let mut extra: Option<Extra> = None;
        loop {
            let block = self.blocks.block()?;
            if block.iter().all(|b| *b == 0) {
                if extra.is_some() {
                    return Err(corrupt("the archive ends where an entry should come"));
                }
                self.blocks.end()?;
                return Ok(None);
            }
            let (role, length) = decode::role(&block)?;
            if role == Role::Entry {
                let head = decode::entry(&block, extra.unwrap_or_default())?;
                return self.begin(head).map(Some);
            }
            if length > MOST_EXTRA {
                return Err(corrupt(format!("an entry has {length} bytes of names and records: no path is so long")));
            }
            let data = self.blocks.exactly(length)?;
            let extra = extra.get_or_insert_default();
            if role == Role::Pax { extra.pax(&data)? } else { extra.gnu(role, &data) }
        }
    }

    /// The next piece of the entry's data and where in the file it belongs.
    pub fn data(&mut self) -> Result<Option<(u64, Bytes)>> {
        while self.now.len == 0 {
            let Some(extent) = self.rest.next() else {
                self.blocks.skip(std::mem::take(&mut self.pad))?;
                return Ok(None);
            };
            self.now = extent;
        }
        let piece = self.blocks.some(self.now.len)?;
        let length = length(&piece);
        let at = self.now.at;
        self.now = Extent { at: at.saturating_add(length), len: self.now.len.saturating_sub(length) };
        Ok(Some((at, piece)))
    }

    fn begin(&mut self, head: Head) -> Result<Entry> {
        let Head { mut entry, mut stored, mapped } = head;
        let mut extents = vec![Extent { at: 0, len: stored }];
        if let (true, Body::File(file)) = (mapped, &mut entry.body) {
            let name = shown(&entry.path);
            extents =
                self.map(file.size, &mut stored).with_context(|| format!("read the map of the sparse file {name}"))?;
            *file = File { size: file.size, extents: Some(extents.clone()) };
        }
        self.pad = padding(stored);
        self.rest = extents.into_iter();
        Ok(entry)
    }

    /// Reads the map of a sparse file: numbers in lines, in blocks of their own. `stored` becomes what follows it.
    fn map(&mut self, size: u64, stored: &mut u64) -> Result<Vec<Extent>> {
        let mut lines = Lines { reader: &mut self.blocks, left: *stored, block: [0; BLOCK], used: BLOCK };
        let count = usize::try_from(lines.number()?).unwrap_or(usize::MAX);
        if count > MOST_EXTENTS {
            return Err(corrupt(format!("it has {count} pieces: more than {MOST_EXTENTS} are not loaded")));
        }
        let mut extents: Vec<Extent> = Vec::new();
        let (mut end, mut total) = (0_u64, 0_u64);
        for _ in 0..count {
            let extent = Extent { at: lines.number()?, len: lines.number()? };
            let unaligned = total % 512 != 0;
            total = total.saturating_add(extent.len);
            let next = extent.at.checked_add(extent.len).filter(|n| *n <= size);
            match next {
                Some(next) if extent.at >= end && !(unaligned && extent.len > 0) => end = next,
                _ => return Err(corrupt("its pieces overlap, or do not fit into it")),
            }
            extents.push(extent);
        }
        *stored = lines.left;
        if total != *stored {
            return Err(corrupt(format!("its pieces have {total} bytes, and {stored} are stored")));
        }
        Ok(extents)
    }
}

/// Numbers in lines, read block by block.
struct Lines<'a, I> {
    reader: &'a mut Blocks<I>,
    left: u64,
    block: Block,
    used: usize,
}

impl<I: Input> Lines<'_, I> {
    fn number(&mut self) -> Result<u64> {
        let mut value: Option<u64> = None;
        loop {
            if self.used == BLOCK {
                self.left =
                    self.left.checked_sub(512).ok_or_else(|| corrupt("the map is longer than what is stored"))?;
                self.block = self.reader.block()?;
                self.used = 0;
            }
            let byte = self.block.get(self.used).copied().unwrap_or(0);
            self.used += 1;
            match (byte, value) {
                (b'0'..=b'9', _) => {
                    let digit = u64::from(byte - b'0');
                    let more = value.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit));
                    value = Some(more.ok_or_else(|| corrupt("a number in the map is too large"))?);
                }
                (b'\n', Some(value)) => return Ok(value),
                _ => return Err(corrupt("the map is not made of numbers")),
            }
        }
    }
}

/// The stream in pieces of the wanted sizes.
#[derive(Debug)]
struct Blocks<I> {
    input: I,
    chunk: Bytes,
}

impl<I: Input> Blocks<I> {
    /// At least one byte, at most so many.
    fn some(&mut self, most: u64) -> Result<Bytes> {
        while self.chunk.is_empty() {
            self.chunk =
                self.input.next_chunk()?.ok_or_else(|| corrupt("the archive is cut short: it has no end marker"))?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.chunk.split_to(most.min(self.chunk.len())))
    }

    fn block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK];
        let mut slots = block.iter_mut();
        while slots.len() > 0 {
            let piece = self.some(u64::try_from(slots.len()).unwrap_or(0))?;
            // The piece first: zip would take a slot that no byte is left for.
            for (byte, slot) in piece.into_iter().zip(slots.by_ref()) {
                *slot = byte;
            }
        }
        Ok(block)
    }

    /// So many bytes in one, and their padding skipped. For what has a limit.
    fn exactly(&mut self, length: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut left = length;
        while left > 0 {
            let piece = self.some(left)?;
            left = left.saturating_sub(self::length(&piece));
            out.extend_from_slice(&piece);
        }
        self.skip(padding(length))?;
        Ok(out)
    }

    fn skip(&mut self, mut count: usize) -> Result<()> {
        while count > 0 {
            count = count.saturating_sub(self.some(u64::try_from(count).unwrap_or(0))?.len());
        }
        Ok(())
    }

    /// After the first block of zeros: a second one, and nothing else but zeros to the end of the stream.
    fn end(&mut self) -> Result<()> {
        if self.block()?.iter().any(|b| *b != 0) {
            return Err(corrupt("the archive has one block of zeros in the middle"));
        }
        loop {
            if self.chunk.iter().any(|b| *b != 0) {
                return Err(corrupt("the archive goes on after its end marker"));
            }
            match self.input.next_chunk()? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(()),
            }
        }
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn corrupt(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}
