//! Which rows of the system database name a file that the set does not have.
//!
//! Files are dumped after the databases' cut, so a file that was removed in between is missing although its row is there. The paths that the rows name
//! come from one agent and those that were dumped from another; neither list is ever held as a whole.

use std::collections::{BTreeSet, HashMap};

use keepsake_core::attachments::{ATTACHMENTS, RowWithoutFile, RowsWithoutFile};
use keepsake_core::error::{Context, Result};
use keepsake_core::id::{Component, EngineName};
use keepsake_core::record::DumpRecord;

use super::event::Output;
use super::{Runner, cut};
use crate::fleet::{Fleet, NamedPath, OpKey};
use crate::plan::{Action, Step};

/// How many rows are looked for at once; the files are listed anew for each so many.
const AT_ONCE: usize = 50_000;
/// The engine whose dumps tell the files that they have.
const FILES: &str = "files";

/// A dump that tells paths.
struct Told {
    component: Component,
    key: OpKey,
}

impl Runner<'_> {
    /// Looks for them, where the set has both; that they cannot be had is said in the record and fails nothing.
    pub(super) async fn rows_without_file(&self) -> Option<RowsWithoutFile> {
        let rows = self.told(|_, dump| dump.report.facts.contains_key(ATTACHMENTS)).await?;
        let files = self.told(|engine, _| engine.as_str() == FILES).await?;
        let mut found = Found::default();
        let compared = found.compare(self.world.fleet, &rows, &files).await;
        Some(found.told(compared))
    }

    /// The one dump of this kind; with several nobody knows which belong together.
    async fn told(&self, which: impl Fn(&EngineName, &DumpRecord) -> bool) -> Option<Told> {
        let status = self.status.lock().await;
        let cut = status.made_cut();
        let mut found = self.plan().steps().filter_map(|step: &Step| {
            let Action::Dump { component, engine } = &step.action else { return None };
            let Some(Ok(Output::Dumped { dump })) = status.results.get(&step.id) else { return None };
            if !which(engine, dump) {
                return None;
            }
            let held = cut.filter(|made| made.holds.contains_key(component));
            let id = held.map_or(Ok(step.id.clone()), |made| cut::dump_step(&step.id, made.cut.attempt)).ok()?;
            Some(Told { component: component.clone(), key: OpKey { run: self.key.clone(), step: id } })
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    total: u64,
    /// The first by path.
    first: BTreeSet<RowWithoutFile>,
    /// Rows whose path the agent cannot tell.
    strange: u64,
}

impl Found {
    async fn compare(&mut self, fleet: &dyn Fleet, rows: &Told, files: &Told) -> Result<()> {
        let of = |component: &Component| format!("ask {component} for the paths of its dump");
        let mut named = fleet.paths(&rows.component, &rows.key).await.with_context(|| of(&rows.component))?;
        loop {
            let mut sought: HashMap<Vec<u8>, String> = HashMap::new();
            let mut more = true;
            while more && sought.len() < AT_ONCE {
                let batch = named.next().await.with_context(|| of(&rows.component))?;
                more = batch.is_some();
                for NamedPath { path, row } in batch.into_iter().flatten() {
                    if path.is_empty() {
                        self.strange += 1;
                    } else {
                        sought.insert(path, row);
                    }
                }
            }
            if !sought.is_empty() {
                let mut there =
                    fleet.paths(&files.component, &files.key).await.with_context(|| of(&files.component))?;
                while let Some(batch) = there.next().await.with_context(|| of(&files.component))? {
                    for NamedPath { path, .. } in batch {
                        sought.remove(&path);
                    }
                }
                self.take(sought);
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn take(&mut self, missing: HashMap<Vec<u8>, String>) {
        for (path, row) in missing {
            self.total += 1;
            self.first.insert(RowWithoutFile { path: String::from_utf8_lossy(&path).into_owned(), row });
            if self.first.len() > RowsWithoutFile::MOST {
                self.first.pop_last();
            }
        }
    }

    fn told(self, compared: Result<()>) -> RowsWithoutFile {
        let mut unknown: Vec<String> = compared.err().map(|e| e.chain()).into_iter().collect();
        if self.strange > 0 {
            unknown.push(format!(
                "where the files of {} rows are cannot be told: the name of a file, or the prefix of its provider, is unusual",
                self.strange
            ));
        }
        let unknown = (!unknown.is_empty()).then(|| unknown.join("; "));
        RowsWithoutFile { total: self.total, rows: self.first.into_iter().collect(), unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_listed_and_all_are_counted() {
        let mut found = Found::default();
        for part in 0..3 {
            let numbers = (0..700).map(|n| n * 3 + part);
            found.take(numbers.map(|n| (format!("{n:05}").into_bytes(), format!("cms_files {n}"))).collect());
        }
        let told = found.told(Ok(()));
        assert_eq!((told.total, told.rows.len(), told.unknown), (2100, 1000, None));
        assert_eq!(told.rows[999], RowWithoutFile { path: "00999".to_owned(), row: "cms_files 999".to_owned() });
        assert!(told.rows.is_sorted());
    }
}
