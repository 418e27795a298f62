//! Rows on their way to entries.

use keepsake_core::config::{ConfigEntry, Merging, Must};
use keepsake_core::error::Result;

use super::columns::Columns;
use super::questions::Rule;
use crate::engine::config_source::Entries;

/// A batch has so many entries,
const ENTRIES: usize = 256;
/// or so many bytes, about.
const BYTES: usize = 128 << 10;

/// The answers to one question.
pub(in crate::engine) struct Rows<'a> {
    rule: Rule,
    out: &'a mut dyn Entries,
    merging: Merging,
    batch: Vec<ConfigEntry>,
    /// Of the batch.
    bytes: usize,
    made: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(rule: Rule, out: &'a mut dyn Entries) -> Self {
        Self { rule, out, merging: Merging::default(), batch: Vec::new(), bytes: 0, made: 0 }
    }

    /// Takes the next row; waits while nobody reads.
    pub(in crate::engine) async fn take(&mut self, row: Columns) -> Result<()> {
        for entry in (self.rule)(&row)? {
            self.made += 1;
            self.bytes += size(&entry);
            self.merging.take(entry, &mut self.batch)?;
        }
        if self.batch.len() >= ENTRIES || self.bytes >= BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.out.tell(batch).await }
    }

    /// There are no more; how many entries were made.
    pub(super) async fn finish(mut self) -> Result<u64> {
        self.merging.finish(&mut self.batch);
        self.flush().await?;
        Ok(self.made)
    }
}

fn size(entry: &ConfigEntry) -> usize {
    let must = match &entry.must {
        Must::Text { any_of, .. } => any_of.iter().map(bytes::Bytes::len).sum(),
        Must::Member(member) => member.len(),
        Must::Field { name, value } => name.len() + value.len(),
    };
    entry.key.len() + must
}
