//! The first depth of trust: every stored byte is what the record says. Needs no key that opens anything.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::layout;
use super::open::Repository;
use super::reader::read_checked;
use crate::error::{Error, Kind, Result};
use crate::id::Component;
use crate::record::{DumpRecord, Failure, Record};

/// Segments read at the same moment.
const PARALLEL: usize = 4;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Segments that are as recorded.
    pub segments: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Segments that are not: `component/artifact` number, key, why.
    pub damaged: Vec<Damage>,
    /// Objects in the set's folder that the record does not name: left by repeated or failed attempts, harmless.
    pub strays: Vec<String>,
}

/// A segment that is not as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// `component/artifact`.
    pub artifact: String,
    /// Index in the artifact.
    pub segment: usize,
    /// The object's key.
    pub key: String,
    /// Why.
    pub failure: Failure,
}

impl Repository {
    /// Looks whether every segment of these components is there, with the length that the record says. Nothing is read; returns how many there are.
    ///
    /// # Errors
    /// `Corrupt`, naming the first that is not and how many more; the store cannot be listed.
    pub async fn look_for_segments(&self, record: &Record, components: &[Component]) -> Result<u64> {
        let listed = self.store.tree(&layout::set(&record.installation, record.set)).await?;
        let listed: BTreeMap<_, _> = listed.into_iter().collect();
        let (mut good, mut bad) = (0_u64, Vec::new());
        for (component, artifact) in record.artifacts().filter(|(c, _)| components.contains(c)) {
            for (n, segment) in artifact.segments.iter().enumerate() {
                let found = match listed.get(&segment.key) {
                    Some(stored) if *stored == segment.stored => {
                        good += 1;
                        continue;
                    }
                    Some(stored) => format!("has {stored} bytes instead of {}", segment.stored),
                    None => "is missing".to_owned(),
                };
                bad.push(format!("{component}/{} segment {n} ({}) {found}", artifact.artifact, segment.key));
            }
        }
        let Some(first) = bad.first() else { return Ok(good) };
        let more = match bad.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        Err(Error::new(
            Kind::Corrupt,
            format!("set {} is damaged: {first}{more}; `keepsake verify {}` tells all", record.set, record.set),
        ))
    }

    /// Looks whether what a component's agent says to have stored is in this repository, as [`Repository::look_for_segments`] does. An agent may be told of another
    /// repository than its coordinator: the record would be here, and the data there.
    ///
    /// # Errors
    /// `NotFound`, naming the first segment that is not as it was said; the store cannot be listed.
    pub async fn look_for_dump(&self, component: &Component, dump: &DumpRecord) -> Result<()> {
        for artifact in &dump.artifacts {
            let folder = artifact.segments.first().and_then(|first| Some(first.key.rsplit_once('/')?.0));
            let listed: BTreeMap<_, _> = match folder {
                Some(folder) => self.store.tree(folder).await?.into_iter().collect(),
                None => BTreeMap::new(),
            };
            if let Some(lost) = artifact.segments.iter().find(|s| listed.get(&s.key) != Some(&s.stored)) {
                return Err(Error::new(
                    Kind::NotFound,
                    format!(
                        "the agent of {component} says that {} is stored, and it is not so in {}: the agent writes to another repository than this one (KEEPSAKE_REPOSITORY, \
                         KEEPSAKE_S3_ENDPOINT), or somebody deletes there",
                        lost.key,
                        self.store.url()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Reads and digests every segment of a set. Damage is a finding, not an error.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn verify(&self, record: &Record, progress: impl Fn(u64)) -> Result<Verified> {
        let mut found = Verified::default();
        let mut todo = record.artifacts().flat_map(|(component, artifact)| {
            let name = format!("{component}/{}", artifact.artifact);
            artifact.segments.iter().enumerate().map(move |(n, segment)| (name.clone(), n, segment))
        });
        let check = |(artifact, n, segment): (String, usize, &crate::record::SegmentRecord)| {
            let segment = segment.clone();
            async move {
                let size = usize::try_from(segment.stored).unwrap_or(usize::MAX);
                let done = match self.budget.share(size).await {
                    Ok(_share) => read_checked(&self.store, &segment).await.map(|_| ()),
                    Err(e) => Err(e),
                };
                (artifact, n, segment, done)
            }
        };
        let mut running: FuturesUnordered<_> = todo.by_ref().take(PARALLEL).map(check).collect();
        while let Some((artifact, n, segment, done)) = running.next().await {
            match done {
                Ok(()) => {
                    found.segments += 1;
                    found.bytes += segment.stored;
                    progress(segment.stored);
                }
                Err(e) => {
                    found.damaged.push(Damage { artifact, segment: n, key: segment.key, failure: Failure::from(&e) });
                }
            }
            running.extend(todo.next().map(check));
        }
        found.damaged.sort_by(|a, b| (&a.artifact, a.segment).cmp(&(&b.artifact, b.segment)));

        let folder = layout::set(&record.installation, record.set);
        let named: BTreeSet<_> =
            record.artifacts().flat_map(|(_, a)| a.segments.iter().map(|s| s.key.as_str())).collect();
        let segments = format!("{folder}/segments/");
        for (key, _) in self.store.tree(&folder).await? {
            if key.starts_with(&segments) && !named.contains(key.as_str()) {
                found.strays.push(key);
            }
        }
        found.strays.sort_unstable();
        Ok(found)
    }
}
