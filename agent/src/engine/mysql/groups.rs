//! Dumping by several tools at once, each its group of tables; while writes are held all their snapshots are of one instant.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, try_join_all};
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::sql::Summary;
use keepsake_core::id::ArtifactName;

use super::dump::{Streamed, stream};
use super::parts::{self, Part, Role};
use super::server::Address;
use super::tools::{self, What};
use super::{Mysql, facts};
use crate::engine::{Context, Sink};
use crate::process::Running;

/// What a table counts beside its rows: asking for its definition takes time too.
const TABLE: u64 = 16 * 1024;
/// How many bytes of names a tool is given at most: a command line has an end, far above this.
const NAMES: usize = 256 * 1024;

/// What each tool is to dump.
#[derive(Debug)]
pub(super) struct Groups {
    tables: Vec<Vec<String>>,
    views: Vec<String>,
    /// There are sequences, which a tool leaves out only when it is given tables by name.
    sequences: bool,
}

impl Groups {
    /// Groups of about the same size, at most so many and none empty; `None` when one stream is all that makes sense.
    pub(super) fn balanced(parts: facts::Parts, most: usize) -> Option<Self> {
        let facts::Parts { tables, tied, views } = parts;
        let sequences = !tied.is_empty();
        let size =
            |of: &[(String, u64)]| of.iter().map(|(_, size)| size.saturating_add(TABLE)).fold(0, u64::saturating_add);
        let (together, apart): (Vec<_>, Vec<_>) = tables.into_iter().partition(|(name, _)| tied.contains(name));
        let mut bundles: Vec<Vec<(String, u64)>> = apart.into_iter().map(|one| vec![one]).collect();
        if !together.is_empty() {
            bundles.push(together);
        }
        bundles.sort_by_key(|bundle| std::cmp::Reverse(size(bundle)));
        let count = most.min(bundles.len());
        if count < 2 {
            return None;
        }
        let mut groups: Vec<(u64, Vec<String>)> = (0..count).map(|_| (0, Vec::new())).collect();
        for bundle in bundles {
            let (weight, names) = groups.iter_mut().min_by_key(|(weight, _)| *weight)?;
            *weight = weight.saturating_add(size(&bundle));
            names.extend(bundle.into_iter().map(|(name, _)| name));
        }
        let tables: Vec<Vec<String>> = groups.into_iter().map(|(_, names)| names).collect();
        let fits = |names: &[String]| names.iter().map(|name| name.len() + 1).sum::<usize>() <= NAMES;
        (tables.iter().all(|names| fits(names)) && fits(&views)).then_some(Self { tables, views, sequences })
    }

    /// How many artifacts, and tools.
    pub(super) fn artifacts(&self) -> usize {
        self.tables.len() + 1 + usize::from(!self.views.is_empty())
    }
}

impl Groups {
    /// A tool for each group of tables, started: its snapshot is what writers wait for.
    pub(super) fn start(&self, address: &Address, tool: &tools::Found) -> Result<Vec<Running>> {
        let password = address.password()?;
        let start = |what: What<'_>| tools::dump(tool, address, password.as_ref(), what).start();
        let one = |(n, tables): (usize, &Vec<String>)| {
            if self.sequences {
                return start(What::Tables(tables));
            }
            let others = self.tables.iter().enumerate().filter(|(other, _)| *other != n);
            let others: Vec<&String> = others.flat_map(|(_, tables)| tables).chain(&self.views).collect();
            start(What::AllBut(&others))
        };
        self.tables.iter().enumerate().map(one).collect()
    }
}

/// Dumps all of it, what the tables hold by these tools. Every artifact is finished as soon as it ends: an unfinished one keeps its share of the byte budget, and the next would
/// wait for it for ever. None of them counts unless the whole dump succeeds.
pub(super) async fn run(
    engine: &Mysql,
    tool: &tools::Found,
    groups: &Groups,
    running: Vec<Running>,
    out: &dyn Sink,
    cx: &Context,
) -> Result<Streamed> {
    let waiting = AtomicUsize::new(groups.tables.len());
    let opened = || {
        if waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            cx.snapshot_open();
        }
    };
    let one = One { engine, tool, out, cx };
    let mut all = Vec::new();
    for (n, running) in running.into_iter().enumerate() {
        let dumped: BoxFuture<'_, _> = Box::pin(one.dump(parts::data(n)?, Role::Data, running, &opened));
        all.push(dumped);
    }
    // The first failure drops the others, and with each its tool.
    let mut whole = Streamed { summary: Summary::default(), snapshot_opened: jiff::Timestamp::MIN };
    for done in try_join_all(all).await? {
        whole.snapshot_opened = whole.snapshot_opened.max(done.snapshot_opened);
        whole.summary.absorb(done.summary)?;
    }
    // Definitions are the same as under the hold, or the fingerprint tells.
    let objects = one.start(What::Objects)?;
    let done = Box::pin(one.dump(ArtifactName::new(parts::OBJECTS)?, Role::Objects, objects, &|| {})).await?;
    whole.summary.absorb(done.summary)?;
    if !groups.views.is_empty() {
        let views = one.start(What::Views(&groups.views))?;
        let done = Box::pin(one.dump(ArtifactName::new(parts::VIEWS)?, Role::Views, views, &|| {})).await?;
        whole.summary.absorb(done.summary)?;
    }
    Ok(whole)
}

/// What all the tools of a dump have in common.
struct One<'a> {
    engine: &'a Mysql,
    tool: &'a tools::Found,
    out: &'a dyn Sink,
    cx: &'a Context,
}

impl One<'_> {
    fn start(&self, what: What<'_>) -> Result<Running> {
        let address = &self.engine.address;
        tools::dump(self.tool, address, address.password()?.as_ref(), what).start()
    }

    async fn dump(
        &self,
        name: ArtifactName,
        role: Role,
        running: Running,
        opened: &(dyn Fn() + Sync),
    ) -> Result<Streamed> {
        let mut artifact = self.out.artifact(&name).await?;
        let cx = self.cx.of_artifact(&name);
        let done = Box::pin(stream(running, artifact.as_mut(), opened, &cx)).await;
        let done = done.with_context(|| format!("write the artifact {name}"))?;
        Part { name: name.clone(), length: done.summary.bytes, role }.holds(&done.summary)?;
        let length = artifact.finish().await?;
        if length != done.summary.bytes {
            return Err(Error::new(
                Kind::Internal,
                format!("the sink took {length} bytes of {name}, which has {} bytes", done.summary.bytes),
            ));
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced(tables: &[(&str, u64)], tied: &[&str], most: usize) -> Option<Vec<Vec<String>>> {
        let parts = facts::Parts {
            tables: tables.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
            tied: tied.iter().map(|name| (*name).to_owned()).collect(),
            views: Vec::new(),
        };
        Groups::balanced(parts, most).map(|groups| groups.tables)
    }

    #[test]
    fn groups_are_balanced_and_none_is_empty() {
        let sizes = [("a", 10 << 20), ("b", 60 << 20), ("c", 30 << 20), ("d", 25 << 20), ("e", 0)];
        assert_eq!(balanced(&sizes, &[], 2).unwrap(), [vec!["b", "e"], vec!["c", "d", "a"]]);
        assert_eq!(balanced(&[("a", 0), ("b", 0), ("c", 0)], &[], 9).unwrap(), [["a"], ["b"], ["c"]]);
        // A table whose default is a sequence's next number comes after the sequence, which one tool sees to.
        let tied = balanced(&[("big", 1 << 30), ("t", 1), ("seq", 0), ("u", 2)], &["seq", "t"], 3).unwrap();
        assert!(tied.contains(&vec!["t".to_owned(), "seq".to_owned()]), "{tied:?}");
        assert_eq!(balanced(&sizes, &[], 1), None);
        assert_eq!(balanced(&[("a", 1)], &[], 4), None);
        assert_eq!(balanced(&[("t", 1), ("seq", 1)], &["seq", "t"], 4), None);
        let long = "n".repeat(NAMES);
        assert_eq!(balanced(&[(&long, 1), ("b", 1)], &[], 2), None);
    }
}
