//! Expected entries, gathered to keys: what comes one after another of one key is one group, a very large set several.

use bytes::Bytes;
use keepsake_core::config::{ConfigEntry, ConfigKind, Must};
use keepsake_core::error::{Error, Kind, Result};

/// A set with more members is compared in parts.
const MOST_MEMBERS: usize = 1_000;
/// Or with members of more bytes together.
const MOST_BYTES: usize = 128 << 10;

/// What one key must hold, or a part of it.
#[derive(Debug)]
pub(super) struct Group {
    /// What the key is.
    pub(super) kind: ConfigKind,
    /// The service that it belongs to.
    pub(super) service: String,
    /// Its name.
    pub(super) key: Bytes,
    /// What it must hold.
    pub(super) content: Content,
    /// This is not all that it must hold.
    pub(super) is_part: bool,
    /// The same key came right before.
    pub(super) goes_on: bool,
}

/// What a key must hold.
#[derive(Debug)]
pub(super) enum Content {
    /// One of these texts, or with `or_absent` nothing at all.
    Text { any_of: Vec<Bytes>, or_absent: bool },
    /// A set of these.
    Members(Vec<Bytes>),
    /// A hash of these.
    Fields(Vec<(Bytes, Bytes)>),
}

/// Gathers.
#[derive(Debug, Default)]
pub(super) struct Groups {
    open: Option<Group>,
    bytes: usize,
}

impl Group {
    fn of(entry: ConfigEntry) -> Self {
        let content = match entry.must {
            Must::Text { any_of, or_absent } => Content::Text { any_of, or_absent },
            Must::Member(member) => Content::Members(vec![member]),
            Must::Field { name, value } => Content::Fields(vec![(name, value)]),
        };
        Self { kind: entry.kind, service: entry.service, key: entry.key, content, is_part: false, goes_on: false }
    }

    /// About how many commands it takes to compare it.
    pub(super) fn weight(&self) -> usize {
        match &self.content {
            Content::Text { .. } => 2,
            Content::Members(members) => 2 + members.len(),
            Content::Fields(fields) => 2 + fields.len(),
        }
    }
}

impl Groups {
    /// Takes the next entry; gives a group that is over.
    ///
    /// # Errors
    /// `Invalid` when one key is to be two things.
    pub(super) fn take(&mut self, entry: ConfigEntry) -> Result<Option<Group>> {
        let size = |must: &Must| match must {
            Must::Text { .. } => 0,
            Must::Member(member) => member.len(),
            Must::Field { name, value } => name.len() + value.len(),
        };
        let Some(open) = self.open.as_mut().filter(|open| open.key == entry.key) else {
            self.bytes = size(&entry.must);
            return Ok(self.open.replace(Group::of(entry)));
        };
        if open.kind != entry.kind {
            return Err(two_things(&entry));
        }
        self.bytes += size(&entry.must);
        let full = |n: usize, bytes: usize| n >= MOST_MEMBERS || bytes > MOST_BYTES;
        match (&mut open.content, &entry.must) {
            (Content::Members(members), Must::Member(member)) if !full(members.len(), self.bytes) => {
                members.push(member.clone());
                Ok(None)
            }
            (Content::Fields(fields), Must::Field { name, value }) if !full(fields.len(), self.bytes) => {
                fields.push((name.clone(), value.clone()));
                Ok(None)
            }
            (Content::Members(_), Must::Member(_)) => {
                open.is_part = true;
                self.bytes = size(&entry.must);
                let next = Group { is_part: true, goes_on: true, ..Group::of(entry) };
                Ok(self.open.replace(next))
            }
            (Content::Text { .. } | Content::Members(_) | Content::Fields(_), _) => Err(two_things(&entry)),
        }
    }

    /// The last group.
    pub(super) fn finish(&mut self) -> Option<Group> {
        self.open.take()
    }
}

fn two_things(entry: &ConfigEntry) -> Error {
    Error::new(
        Kind::Invalid,
        format!(
            "one key of kind {} (service {:?}) is expected to hold two things at once: nothing was compared further",
            entry.kind, entry.service
        ),
    )
}
