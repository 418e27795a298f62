//! A digest over entries, in order: it proves that all came, and as they were sent.

use aws_lc_rs::digest;

use super::{ConfigEnd, ConfigEntry, Must};
use crate::error::{Error, Kind, Result};

/// The digest so far.
#[derive(Clone)]
pub struct Digest {
    context: digest::Context,
    entries: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { context: digest::Context::new(&digest::SHA256), entries: 0 }
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({} entries)", self.entries)
    }
}

impl Digest {
    /// Takes the next entry.
    pub fn take(&mut self, entry: &ConfigEntry) {
        self.entries += 1;
        self.part(entry.kind.as_str().as_bytes());
        self.part(entry.service.as_bytes());
        self.part(&entry.key);
        match &entry.must {
            Must::Text { any_of, or_absent } => {
                self.part(if *or_absent { b"text or absent" } else { b"text" });
                self.context.update(&(any_of.len() as u64).to_be_bytes());
                for text in any_of {
                    self.part(text);
                }
            }
            Must::Member(member) => {
                self.part(b"member");
                self.part(member);
            }
            Must::Field { name, value } => {
                self.part(b"field");
                self.part(name);
                self.part(value);
            }
        }
    }

    fn part(&mut self, bytes: &[u8]) {
        self.context.update(&(bytes.len() as u64).to_be_bytes());
        self.context.update(bytes);
    }

    /// How many there were, and SHA-256 over them.
    pub fn finish(self) -> (u64, [u8; 32]) {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.context.finish().as_ref());
        (self.entries, bytes)
    }

    /// Whether these were all.
    ///
    /// # Errors
    /// `Corrupt` when they were not.
    pub fn check(self, end: &ConfigEnd) -> Result<()> {
        let (entries, digest) = self.finish();
        if entries == end.entries && digest[..] == end.digest[..] {
            return Ok(());
        }
        Err(Error::new(
            Kind::Corrupt,
            format!(
                "{entries} expected entries came and {} were sent, or they were changed on the way: nothing is called surplus for it",
                end.entries
            ),
        ))
    }
}
