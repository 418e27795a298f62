//! One segment: up to 4 MiB of an artifact, compressed as it is read, then sealed and digested as a whole.

use std::io::{Read, Write};

use bytes::Bytes;
use zstd::stream::write::Encoder;

use super::seal::{Sealer, Unsealer};
use super::sign::sha256_hex;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::record::SegmentRecord;

/// Plaintext bytes of a segment; only an artifact's last is shorter.
pub(super) const SEGMENT_BYTES: usize = 4 << 20;

/// Level 1 keeps up with the datastores' tools on one core; dumps are mostly text.
const LEVEL: i32 = 1;

/// A segment being filled.
pub(super) struct Filling {
    encoder: Encoder<'static, Vec<u8>>,
    length: usize,
}

/// A segment that is full: one zstd frame.
pub(super) struct Filled {
    /// The frame.
    pub frame: Vec<u8>,
    /// Plaintext length, bytes.
    pub length: u64,
}

/// A segment ready to be stored.
pub(super) struct Sealed {
    /// What is stored.
    pub bytes: Bytes,
    /// Its SHA-256, hex.
    pub sha256: String,
}

impl Filling {
    /// An empty one.
    pub(super) fn new() -> Result<Self> {
        let mut encoder =
            Encoder::new(Vec::with_capacity(SEGMENT_BYTES / 4), LEVEL).or_kind(Kind::Internal, "begin to compress")?;
        encoder.include_checksum(true).or_kind(Kind::Internal, "begin to compress")?;
        Ok(Self { encoder, length: 0 })
    }

    /// Takes as much of the chunk as fits; returns whether it is now full.
    pub(super) fn take(&mut self, chunk: &mut Bytes) -> Result<bool> {
        let n = chunk.len().min(SEGMENT_BYTES - self.length);
        let piece = chunk.split_to(n);
        self.encoder.write_all(&piece).or_kind(Kind::Internal, "compress")?;
        self.length += n;
        Ok(self.length == SEGMENT_BYTES)
    }

    /// Ends the frame.
    pub(super) fn finish(self) -> Result<Filled> {
        let frame = self.encoder.finish().or_kind(Kind::Internal, "finish compressing")?;
        Ok(Filled { frame, length: self.length as u64 })
    }
}

impl Filled {
    /// Seals and digests; CPU work.
    pub(super) fn seal(self, sealer: &Sealer) -> Result<Sealed> {
        let bytes = sealer.seal(self.frame)?;
        let sha256 = sha256_hex(&bytes);
        Ok(Sealed { bytes: Bytes::from(bytes), sha256 })
    }
}

/// Whether stored bytes are those that the record names.
pub(super) fn check(stored: &[u8], expected: &SegmentRecord) -> Result<()> {
    if stored.len() as u64 != expected.stored {
        return Err(Error::new(
            Kind::Corrupt,
            format!("it has {} bytes where the record says {}", stored.len(), expected.stored),
        ));
    }
    if sha256_hex(stored) != expected.sha256 {
        return Err(Error::new(Kind::Corrupt, "its SHA-256 is not the record's"));
    }
    Ok(())
}

/// Opens and decompresses a segment whose bytes were checked; CPU work.
pub(super) fn open(stored: &[u8], expected: &SegmentRecord, unsealer: &Unsealer) -> Result<Bytes> {
    let length = usize::try_from(expected.length).or_kind(Kind::Corrupt, "its length in the record is absurd")?;
    if length > SEGMENT_BYTES {
        return Err(Error::new(Kind::Corrupt, format!("its length in the record is above {SEGMENT_BYTES} bytes")));
    }
    let sealed = unsealer.open(stored)?;
    let decoder = zstd::stream::read::Decoder::new(sealed).or_kind(Kind::Corrupt, "it is not a zstd frame")?;
    let mut plain = Vec::with_capacity(length);
    // One byte more than expected, so that a longer frame is noticed and none can fill the memory.
    decoder.take(expected.length + 1).read_to_end(&mut plain).or_kind(Kind::Corrupt, "it does not decompress")?;
    if plain.len() != length {
        return Err(Error::new(
            Kind::Corrupt,
            format!("it opens to {} bytes where the record says {length}", plain.len()),
        ));
    }
    Ok(Bytes::from(plain))
}
