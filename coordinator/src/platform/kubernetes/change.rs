//! Writes to a workload: with each, what is remembered of it.

use keepsake_core::error::{Context, Error, Kind, Result};
use serde_json::json;

use super::api::{Cluster, Pace};
use super::record::{self, ANNOTATION, Me, Record, Start};
use super::workload::{ROLLED_OUT, Workload};

/// A write to one workload.
#[derive(Default)]
pub(super) struct Change {
    /// Replicas to set.
    pub(super) replicas: Option<i32>,
    /// What is remembered from then on.
    pub(super) record: Option<Record>,
    /// The run for which its pods are made anew.
    pub(super) rolled_out: Option<String>,
}

impl Cluster {
    /// Writes down what it has; nothing of it changes yet.
    pub(super) async fn remember(&self, workload: &Workload, me: &Me) -> Result<Workload> {
        let wish = |now: &Workload| {
            let record = record::remember(now.live(), now.record.as_ref(), me)?;
            Ok((now.record.as_ref() != Some(&record)).then_some(Change { record: Some(record), ..Change::default() }))
        };
        self.change(workload, wish).await
    }

    /// Takes all its replicas away. What it had just before is remembered by the same write.
    pub(super) async fn scale_to_nothing(&self, workload: &Workload, me: &Me) -> Result<Workload> {
        let wish = |now: &Workload| {
            let record = record::remember(now.live(), now.record.as_ref(), me)?;
            let is_done = now.replicas == 0 && now.record.as_ref() == Some(&record);
            Ok((!is_done).then_some(Change { replicas: Some(0), record: Some(record), ..Change::default() }))
        };
        self.change(workload, wish).await
    }

    /// Gives it back what it had. So many replicas must become ready before it is forgotten that it was ever stopped; none when there is nothing to wait for.
    pub(super) async fn scale_back(&self, workload: &Workload, me: &Me) -> Result<Option<i32>> {
        let wish = |now: &Workload| {
            let kept = now.record.clone();
            Ok(match record::start(now.live(), kept.as_ref(), me)? {
                Start::Leave(others) => Some(Change { record: Some(others), ..Change::default() }),
                Start::Scale(replicas) => {
                    let record = kept.filter(|r| r.ready > 0);
                    Some(Change { replicas: Some(replicas), record, ..Change::default() })
                }
                Start::Await(0) => Some(Change::default()),
                Start::Nothing | Start::Await(_) => None,
            })
        };
        let now = self.change(workload, wish).await?;
        Ok(match record::start(now.live(), now.record.as_ref(), me)? {
            Start::Await(wanted) => Some(wanted),
            Start::Nothing | Start::Leave(_) | Start::Scale(_) => None,
        })
    }

    /// It is as it was.
    pub(super) async fn forget(&self, workload: &Workload, me: &Me) -> Result<()> {
        let wish = |now: &Workload| {
            let left = |found: &Record| Change { record: me.leave(found), ..Change::default() };
            Ok(now.record.as_ref().map(left))
        };
        self.change(workload, wish).await.map(drop)
    }

    /// Makes the change that is wished for of the workload as it is now. Nothing is written over what somebody else wrote meanwhile: then, and when it is not
    /// known whether a write arrived, it is looked at again and the wish made anew. Gives back what is there then.
    pub(super) async fn change(
        &self,
        workload: &Workload,
        wish: impl Fn(&Workload) -> Result<Option<Change>> + Sync,
    ) -> Result<Workload> {
        let mut pace = Pace::new(self.patience);
        let mut now = workload.clone();
        loop {
            let Some(change) = wish(&now).with_context(|| workload.to_string())? else { return Ok(now) };
            let record = change.record.as_ref().map(Record::text).transpose()?;
            let mut spec = serde_json::Map::new();
            spec.extend(change.replicas.map(|replicas| ("replicas".to_owned(), replicas.into())));
            let mark = |run| json!({ "metadata": { "annotations": { ROLLED_OUT: run } } });
            spec.extend(change.rolled_out.map(|run| ("template".to_owned(), mark(run))));
            let patch = json!({
                "metadata": { "resourceVersion": now.version, "annotations": { ANNOTATION: record } },
                "spec": spec,
            });
            match self.patch(&now.sort.resource(), &now.namespace, &now.name, &patch).await {
                Ok(changed) => return Workload::read(now.sort, changed),
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Unavailable) => {
                    tracing::debug!("{}", e.chain());
                    if !pace.go_on().await {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
            now = self
                .again(workload)
                .await?
                .ok_or_else(|| Error::new(Kind::NotFound, format!("{workload} is gone since it was looked at")))?;
        }
    }
}
