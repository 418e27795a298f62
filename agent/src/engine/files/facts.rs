//! What a load must not forget, as it is written into its folder.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::tar::{Meta, Stamp, Tally};
use serde::{Deserialize, Serialize};

/// The newest form that is written and read.
const FORMAT: u32 = 1;

/// The content of a load's one file, whose name says how far the load has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    format: u32,
    /// The root as it was before the load made its folder in it.
    pub(super) before: Look,
    /// The root's time once the folder was there: while it is the same, nobody else has added or removed a name.
    pub(super) made: Time,
    /// What was unpacked and counted; none yet while that goes on.
    #[serde(default)]
    pub(super) unpacked: Option<Unpacked>,
    /// Folders at the top that their owner may not write to: for a moment they may, or they could not be moved.
    #[serde(default)]
    pub(super) read_only: Vec<ReadOnly>,
    /// Whether the live files were removed to make room.
    #[serde(default)]
    pub(super) in_place: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unpacked {
    files: u64,
    directories: u64,
    symlinks: u64,
    hardlinks: u64,
    bytes: u64,
    /// Entries whose set-id bits the system did not accept.
    pub(super) refused_bits: u64,
    /// What the root should have, if the archive says.
    pub(super) root: Option<Look>,
}

/// Mode, owner and time of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Look {
    mode: u32,
    uid: u32,
    gid: u32,
    pub(super) time: Time,
}

/// A time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Time {
    seconds: i64,
    nanos: u32,
}

/// A folder at the top.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReadOnly {
    /// Its name in hex: names are bytes.
    name: String,
    pub(super) mode: u32,
    /// Whether it came with the load; else it was live before.
    pub(super) is_new: bool,
}

impl Facts {
    /// Of a load that begins.
    pub(super) fn new(before: Meta, made: Stamp) -> Self {
        Self {
            format: FORMAT,
            before: before.into(),
            made: made.into(),
            unpacked: None,
            read_only: Vec::new(),
            in_place: false,
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::caused(Kind::Internal, "write down a load", e))
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let facts: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::caused(Kind::Corrupt, "what the load has written down cannot be read", e))?;
        if facts.format > FORMAT {
            let text = format!("the load was begun by a newer agent (its notes have format {})", facts.format);
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(facts)
    }
}

impl Unpacked {
    pub(super) fn new(tally: &Tally, refused_bits: u64, root: Option<Meta>) -> Self {
        Self {
            files: tally.files,
            directories: tally.directories,
            symlinks: tally.symlinks,
            hardlinks: tally.hardlinks,
            bytes: tally.bytes,
            refused_bits,
            root: root.map(Look::from),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            files: self.files,
            directories: self.directories,
            symlinks: self.symlinks,
            hardlinks: self.hardlinks,
            bytes: self.bytes,
        }
    }
}

impl ReadOnly {
    pub(super) fn new(name: &[u8], mode: u32, is_new: bool) -> Self {
        let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
        let hex = name.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        Self { name: hex, mode, is_new }
    }

    pub(super) fn name(&self) -> Result<Vec<u8>> {
        let digits: Option<Vec<u8>> =
            self.name.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits = digits.filter(|d| d.len().is_multiple_of(2));
        let digits =
            digits.ok_or_else(|| Error::new(Kind::Corrupt, "the load has written down a name that is none"))?;
        Ok(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit)).collect())
    }
}

impl From<Meta> for Look {
    fn from(meta: Meta) -> Self {
        Self { mode: meta.mode, uid: meta.uid, gid: meta.gid, time: meta.mtime.into() }
    }
}

impl From<Look> for Meta {
    fn from(look: Look) -> Self {
        Self { mode: look.mode, uid: look.uid, gid: look.gid, mtime: look.time.into() }
    }
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Self {
        Self { seconds: stamp.seconds, nanos: stamp.nanos }
    }
}

impl From<Time> for Stamp {
    fn from(time: Time) -> Self {
        Self { seconds: time.seconds, nanos: time.nanos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let stamp = Stamp { seconds: -2, nanos: 500_000_000 };
        let meta = Meta { mode: 0o2775, uid: 1_000_660_000, gid: 0, mtime: stamp };
        let mut facts = Facts::new(meta, stamp);
        facts.unpacked = Some(Unpacked::new(&Tally { files: 2, bytes: 7, ..Tally::default() }, 1, Some(meta)));
        facts.read_only.push(ReadOnly::new(b"\xff\n\0a", 0o555, true));
        facts
    }

    #[test]
    fn what_is_written_down_is_read_back() {
        let read = Facts::from_bytes(&facts().to_bytes().unwrap()).unwrap();
        assert_eq!(read, facts());
        assert_eq!(read.read_only[0].name().unwrap(), b"\xff\n\0a");
        assert_eq!(Meta::from(read.before).mtime, Stamp { seconds: -2, nanos: 500_000_000 });
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        assert_eq!(Facts::from_bytes(b"").unwrap_err().kind(), Kind::Corrupt);
        let newer = Facts { format: 2, ..facts() };
        assert_eq!(Facts::from_bytes(&newer.to_bytes().unwrap()).unwrap_err().kind(), Kind::Unsupported);
        for bad in ["f", "0g", "ff0", "é"] {
            assert!(ReadOnly { name: bad.to_owned(), mode: 0, is_new: true }.name().is_err(), "{bad}");
        }
    }
}
