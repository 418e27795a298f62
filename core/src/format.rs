//! The formats of the artifacts, read to their end: pure, total over any bytes, in bounded memory.
//!
//! Agents check with these what they dump and what they are about to load; `keepsake inspect` checks with them what is stored. What a
//! format does not say of itself (which keys, which rows) is not known here.

pub mod background;
pub mod objects;
pub mod pgc;
pub mod rdb;
pub mod sql;
pub mod tar;

use std::io::Read as _;

use crate::error::{Error, Kind, Result};
use crate::id::EngineName;
use crate::record::{Counts, DumpReport};
use background::Passing;

/// Reads an artifact of an engine to its end; gives what it counts. Which counts those are depends on the format: an archive of
/// PostgreSQL tells rows and nothing of the objects that the server counted besides.
///
/// # Errors
/// `Corrupt` when it is not whole or not of its format, `Unsupported` for an engine that is not known here.
pub fn read_to_end(engine: &EngineName, mut bytes: Passing) -> Result<Counts> {
    match engine.as_str() {
        "redis" => Ok(rdb::walk(bytes)?.counts()),
        "postgres" => Ok(pgc::walk(bytes)?.counts()),
        "mysql" => {
            let mut reader = sql::Reader::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match bytes.read(&mut buffer).map_err(|e| Error::io("read the dump", e))? {
                    0 => return Ok(reader.finish()?.counts()),
                    n => reader.feed(buffer.get(..n).unwrap_or_default())?,
                }
            }
        }
        "files" => {
            let mut reader = tar::Reader::new(bytes);
            let mut rules = tar::Rules::new([]);
            while let Some(entry) = reader.next_entry()? {
                rules.admit(&entry)?;
                while reader.data()?.is_some() {}
            }
            Ok(rules.tally().counts())
        }
        objects::ENGINE => {
            let mut all = Vec::new();
            bytes.read_to_end(&mut all).map_err(|e| Error::io("read the object", e))?;
            Ok(objects::Object::parse(&all)?.counts())
        }
        other => {
            Err(Error::new(Kind::Unsupported, format!("this Keepsake does not know the format of the engine {other}")))
        }
    }
}

/// Compares what was counted in an artifact with what its record says. What only the server could count is not compared, nor is what a
/// dump has beyond it, as the rows of an extension's own tables.
///
/// # Errors
/// `Corrupt`, with the first differences.
pub fn same_counts(report: &DumpReport, found: &Counts) -> Result<()> {
    let of_content = |name: &str| ["rows:", "keys:", "expiring:", "objects:"].iter().any(|p| name.starts_with(p));
    let differ: Vec<String> = report
        .counts
        .iter()
        .filter(|(name, n)| found.get(*name).map_or_else(|| of_content(name), |found| found != *n))
        .map(|(name, recorded)| {
            let found = found.get(name).map_or_else(|| "none".to_owned(), u64::to_string);
            format!("{name}: {found}, the record says {recorded}")
        })
        .collect();
    if differ.is_empty() {
        return Ok(());
    }
    let more = differ.len().saturating_sub(5);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    let first = differ.into_iter().take(5).collect::<Vec<_>>().join("; ");
    Err(Error::new(Kind::Corrupt, format!("it does not hold what was dumped ({first}{rest})")))
}
