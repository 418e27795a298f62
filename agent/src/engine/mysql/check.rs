//! Reading a whole dump without a server, and comparing what is counted.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::sql::{Reader, Summary};
use keepsake_core::record::Counts;

use super::parts;
use crate::engine::{Context, Source};

/// Reads and checks all of it.
pub(super) async fn all(from: &dyn Source, cx: &Context) -> Result<Summary> {
    let parts = parts::of(from)?;
    cx.phase("checking", parts.iter().map(|part| part.length).sum());
    let mut summary = Summary::default();
    for part in &parts {
        let found = read(from, part, cx).await.with_context(|| format!("check the dump's {}", part.name))?;
        summary.absorb(found)?;
    }
    as_recorded(from, &summary)?;
    Ok(summary)
}

/// Reads one artifact to its end.
async fn read(from: &dyn Source, part: &parts::Part, cx: &Context) -> Result<Summary> {
    let mut artifact = from.open(&part.name).await?;
    let mut reader = Reader::new();
    while let Some(chunk) = artifact.read().await? {
        reader.feed(&chunk)?;
        cx.advance(chunk.len() as u64);
    }
    let summary = reader.finish()?;
    part.holds(&summary)?;
    Ok(summary)
}

/// Whether the dump holds what the record says.
pub(super) fn as_recorded(from: &dyn Source, summary: &Summary) -> Result<()> {
    from.recorded().map_or(Ok(()), |record| same(&record.counts, &summary.counts(), "the record", "the dump"))
}

/// Compares two counts and names the first differences.
pub(super) fn same(expected: &Counts, found: &Counts, one: &str, other: &str) -> Result<()> {
    let keys: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differences: Vec<String> = keys
        .into_iter()
        .filter(|key| expected.get(*key) != found.get(*key))
        .map(|key| {
            let number = |counts: &Counts| counts.get(key).map_or_else(|| "none".to_owned(), u64::to_string);
            format!("{key}: {one} {}, {other} {}", number(expected), number(found))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let more = differences.len().saturating_sub(5);
    let first = differences.into_iter().take(5).collect::<Vec<_>>().join("; ");
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Error::new(Kind::Corrupt, format!("the counts differ ({first}{rest})")))
}
