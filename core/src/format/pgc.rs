//! Walks an archive of `pg_dump --format=custom --compress=0` to its end and counts the rows of its tables, in bounded memory.
//!
//! Any bytes give a result or an error, never a panic. What is promised of a good result: the table of contents is whole, every entry that
//! has data has exactly one block of it, no block is of anything else, the rows of every table end with COPY's own end mark, and nothing
//! follows. The layout is that of PostgreSQL's `pg_backup_archiver.c` (`ReadHead`, `ReadToc`) and `pg_backup_custom.c`, archive versions
//! 1.12 (PostgreSQL 9.0) to 1.16 (17 and 18).

mod input;

use std::collections::BTreeMap;
use std::io::Read;

use self::input::Input;
use crate::error::{Error, Kind, Result};
use crate::record::Counts;

/// The oldest and the newest archive that is read: minor versions of 1.
const VERSIONS: std::ops::RangeInclusive<u8> = 12..=16;
/// More entries are refused, so that no archive makes a reader grow; each costs about a hundred bytes.
const MOST_ENTRIES: u64 = 200_000;
/// The longest name that is kept; PostgreSQL's own are of 63 bytes.
const NAME_BYTES: u64 = 256;

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// The archive's version, `1.14`.
    pub version: String,
    /// The server it was dumped from, as the archive says.
    pub server: String,
    /// The tool that wrote it.
    pub tool: String,
    /// Rows by `schema.table`, of the tables whose rows it has.
    pub rows: BTreeMap<String, u64>,
    /// Entries by what they are: `TABLE`, `INDEX`, …
    pub entries: BTreeMap<String, u64>,
    /// Who owns what is in it.
    pub owners: std::collections::BTreeSet<String>,
    /// Its length, bytes.
    pub length: u64,
}

impl Walked {
    /// As in a record: `rows:schema.table`. The rows of que's lockers are of no dump, and what an extension configured is its own.
    pub fn counts(&self) -> Counts {
        self.rows.iter().map(|(table, rows)| (format!("rows:{table}"), *rows)).collect()
    }
}

/// Data that must come: whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    /// Rows of `schema.table`.
    Rows(String),
    /// Anything else, as the comments of large objects.
    Other,
    /// It came.
    Seen,
}

/// Walks a whole archive.
///
/// # Errors
/// `Corrupt`, with the byte where it stands; `Unsupported` for a newer or a compressed archive.
pub fn walk(reader: impl Read) -> Result<Walked> {
    let mut input = Input::new(reader);
    let mut walked = Walked::default();
    let minor = head(&mut input, &mut walked)?;
    let mut expected = contents(&mut input, minor, &mut walked)?;
    while let Some(kind) = input.byte_or_end()? {
        let id = input.int()?;
        let Some(data) = expected.get_mut(&id) else {
            return Err(input.bad(&format!("data of the entry {id}, which it does not have")));
        };
        match (kind, std::mem::replace(data, Data::Seen)) {
            (_, Data::Seen) => return Err(input.bad(&format!("data of the entry {id} for a second time"))),
            (1, Data::Rows(table)) => {
                let rows = rows(&mut input)?;
                *walked.rows.entry(table).or_default() += rows;
            }
            (1, Data::Other) => while skip_chunk(&mut input)? {},
            (3, _) => {
                while input.int()? != 0 {
                    while skip_chunk(&mut input)? {}
                }
            }
            (other, _) => return Err(input.bad(&format!("a block of the kind {other}"))),
        }
    }
    let missing = expected.values().filter(|d| **d != Data::Seen).count();
    if missing > 0 {
        return Err(input.bad(&format!("an end, and the data of {missing} of its entries did not come")));
    }
    walked.length = input.offset();
    Ok(walked)
}

/// The head; gives the minor version.
fn head<R: Read>(input: &mut Input<R>, walked: &mut Walked) -> Result<u8> {
    if &input.array::<5>()? != b"PGDMP" {
        return Err(Error::new(Kind::Corrupt, "this is no archive of pg_dump's custom format"));
    }
    let [major, minor, _revision] = input.array()?;
    walked.version = format!("{major}.{minor}");
    if major != 1 || !VERSIONS.contains(&minor) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the archive is of version {major}.{minor}; read are 1.12 to 1.16 (PostgreSQL 9.0 to 18)"),
        ));
    }
    let [int_bytes, offset_bytes, format] = input.array()?;
    if !(1..=8).contains(&int_bytes) || !(1..=32).contains(&offset_bytes) {
        return Err(input.bad("numbers of no known size"));
    }
    input.set_sizes(int_bytes, offset_bytes);
    if format != 1 {
        return Err(Error::new(Kind::Unsupported, "the archive is not of the custom format"));
    }
    let compressed = if minor >= 15 { i64::from(input.byte()?) } else { input.int()? };
    if compressed != 0 {
        return Err(Error::new(Kind::Unsupported, "the archive is compressed inside: dump with --compress=0"));
    }
    for _ in 0..7 {
        input.int()?;
    }
    input.skip_string()?;
    walked.server = input.name(NAME_BYTES)?.unwrap_or_default();
    walked.tool = input.name(NAME_BYTES)?.unwrap_or_default();
    Ok(minor)
}

/// The table of contents; gives the data that must follow, by entry.
fn contents<R: Read>(input: &mut Input<R>, minor: u8, walked: &mut Walked) -> Result<BTreeMap<i64, Data>> {
    let entries = input.int()?;
    if u64::try_from(entries).map_or(true, |n| n > MOST_ENTRIES) {
        return Err(input.bad(&format!("a table of contents of {entries} entries")));
    }
    let mut expected = BTreeMap::new();
    for _ in 0..entries {
        let id = input.int()?;
        input.int()?;
        input.skip_string()?;
        input.skip_string()?;
        let tag = input.name(NAME_BYTES)?.unwrap_or_default();
        let kind = input.name(NAME_BYTES)?.unwrap_or_default();
        input.int()?;
        for _ in 0..3 {
            input.skip_string()?;
        }
        let schema = input.name(NAME_BYTES)?.unwrap_or_default();
        input.skip_string()?;
        if minor >= 14 {
            input.skip_string()?;
        }
        if minor >= 16 {
            input.int()?;
        }
        let owner = input.name(NAME_BYTES)?.unwrap_or_default();
        input.skip_string()?;
        while input.skip_string()? {}
        let has_data = match input.offset_flag()? {
            1 | 2 => true,
            3 => false,
            other => return Err(input.bad(&format!("an entry whose data is marked {other}"))),
        };
        if has_data {
            let data = if kind == "TABLE DATA" { Data::Rows(format!("{schema}.{tag}")) } else { Data::Other };
            if expected.insert(id, data).is_some() {
                return Err(input.bad(&format!("the entry {id} twice")));
            }
        }
        if !owner.is_empty() {
            walked.owners.insert(owner);
        }
        *walked.entries.entry(kind).or_default() += 1;
    }
    Ok(expected)
}

/// Passes over one chunk; false at the end of the block.
fn skip_chunk<R: Read>(input: &mut Input<R>) -> Result<bool> {
    let length = input.length()?;
    input.skip(length)?;
    Ok(length > 0)
}

/// The rows of a block in COPY's text format: one a line; `\.` alone on a line is the end, and only line ends follow it.
fn rows<R: Read>(input: &mut Input<R>) -> Result<u64> {
    let mut rows = 0;
    // The first two bytes of the line, and its length as far as that matters.
    let mut line = ([0_u8; 2], 0_usize);
    let mut ended = false;
    let mut after = false;
    loop {
        let length = input.length()?;
        if length == 0 {
            break;
        }
        input.take(length, |piece| {
            let mut rest = piece;
            while !rest.is_empty() {
                let end = rest.iter().position(|b| *b == b'\n');
                let now = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                for (at, byte) in (line.1..2).zip(now) {
                    if let Some(slot) = line.0.get_mut(at) {
                        *slot = *byte;
                    }
                }
                line.1 = line.1.saturating_add(now.len());
                after |= ended && !now.is_empty();
                if end.is_some() {
                    if !ended && line.1 == 2 && &line.0 == b"\\." {
                        ended = true;
                    } else if !ended {
                        rows += 1;
                    }
                    line = ([0; 2], 0);
                }
                rest = end.and_then(|n| rest.get(n + 1..)).unwrap_or_default();
            }
        })?;
    }
    if !ended || after || line.1 > 0 {
        return Err(input.bad("rows of a table that do not end with their end mark"));
    }
    Ok(rows)
}
