//! What System's database says that Backend's Config must be, heard from an engine without an agent around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::config_source::Entries;
use keepsake_agent::engine::config_target::ExpectedEnd;
use keepsake_agent::engine::{Context, Engine};
use keepsake_core::config::{AlertLevels, ConfigEntry, Must};
use keepsake_core::error::Result;
use tokio_util::sync::CancellationToken;

/// All that was told.
#[derive(Debug, Default)]
pub struct Heard {
    /// Entries in order.
    pub entries: Vec<ConfigEntry>,
    /// The largest batch.
    pub largest: usize,
}

#[async_trait]
impl Entries for Heard {
    async fn tell(&mut self, entries: Vec<ConfigEntry>) -> Result<()> {
        self.largest = self.largest.max(entries.len());
        self.entries.extend(entries);
        Ok(())
    }
}

/// Asks an engine.
///
/// # Errors
/// As the engine says.
pub async fn expected(engine: &Arc<dyn Engine>, levels: AlertLevels) -> Result<(Vec<ConfigEntry>, ExpectedEnd)> {
    let mut heard = Heard::default();
    let cx = Context::new(CancellationToken::new()).0;
    let end = engine.config_source().expect("an engine of System's database").expected(levels, &mut heard, &cx).await?;
    assert!(heard.largest <= 1_000, "a batch of {}", heard.largest);
    Ok((heard.entries, end))
}

/// What a key must hold, for people and comparisons: `a|b` for either, `?` where it may be absent, `{a,b}` for a set, `{a=b}` for a hash. Asserts that
/// what belongs to one key comes one after another.
pub fn by_key(entries: &[ConfigEntry]) -> BTreeMap<String, String> {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut last = String::new();
    for entry in entries {
        let key = utf8(&entry.key);
        assert!(key == last || !all.contains_key(&key), "{key} comes apart");
        let told = match &entry.must {
            Must::Text { any_of, or_absent } => {
                assert!(!all.contains_key(&key), "{key} comes twice");
                let any: Vec<_> = any_of.iter().map(|text| utf8(text)).collect();
                format!("{}{}", any.join("|"), if *or_absent { "?" } else { "" })
            }
            Must::Member(member) => utf8(member),
            Must::Field { name, value } => format!("{}={}", utf8(name), utf8(value)),
        };
        all.entry(key.clone()).or_default().push(told);
        last = key;
    }
    let texts: BTreeSet<String> =
        entries.iter().filter(|e| matches!(e.must, Must::Text { .. })).map(|e| utf8(&e.key)).collect();
    all.into_iter()
        .map(|(key, mut told)| {
            told.sort();
            let told = if texts.contains(&key) { told.concat() } else { format!("{{{}}}", told.join(",")) };
            (key, told)
        })
        .collect()
}
