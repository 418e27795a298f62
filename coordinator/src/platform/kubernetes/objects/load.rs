//! A load of objects: staged, committed, rolled back, finalized. Every step may be asked for again.

use std::collections::BTreeMap;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::objects::Object;
use keepsake_core::id::{Epoch, RunKey};
use kube::core::{ApiResource, DynamicObject};

use super::super::access;
use super::super::api::Cluster;
use super::kept::{Head, Kept, Old, State};
use super::{kinds, strip};
use crate::fleet::LoadReport;
use crate::plan::objects::{ObjectPolicy, is_endpoint};

/// The load of one run.
pub(super) struct Load {
    cluster: Cluster,
    namespace: String,
    run: RunKey,
    kinds: Vec<ApiResource>,
}

/// What is to be done with an object of the set.
enum Judged {
    /// It is there, as it was.
    Same,
    /// It is written.
    Write,
    /// It stays as it is, for this reason.
    Left(&'static str),
}

impl Load {
    pub(super) fn new(cluster: Cluster, namespace: &str, run: &RunKey, kinds: Vec<ApiResource>) -> Self {
        Self { cluster, namespace: namespace.to_owned(), run: run.clone(), kinds }
    }

    fn kept(&self) -> Kept<'_> {
        Kept { cluster: &self.cluster, namespace: &self.namespace, run: &self.run }
    }

    fn kind(&self, object: &Object) -> Result<ApiResource> {
        kinds::of(object, &self.kinds).ok_or_else(|| {
            let (group, version) = object.group_and_version();
            let text = format!(
                "the cluster knows no {} of {group}/{version}: install the operator first, or say --objects skip",
                object.kind()
            );
            Error::new(Kind::Unsupported, text)
        })
    }

    /// Finds out what is to be written, asks the server whether it would take it, and keeps it. Nothing of 3scale's is changed.
    ///
    /// # Errors
    /// The server would not take an object; `Conflict` when a later epoch has the load.
    pub(super) async fn stage(&self, objects: Vec<Object>, policy: ObjectPolicy) -> Result<LoadReport> {
        // Else a load could be begun and not be taken back.
        let what = if policy == ObjectPolicy::Build { access::Objects::Built } else { access::Objects::Written };
        let needs = access::needs_of_objects(&self.namespace, &self.kinds, what);
        access::ensure(&self.cluster, needs).await?;
        let kept = self.kept();
        match kept.claim().await? {
            Some(head) if head.state != State::Partial => return Ok(report(head)),
            // Whoever began it kept perhaps what another policy wanted.
            Some(head) => kept.drop_pieces(head.count).await?,
            None => {
                let head = Head {
                    state: State::Partial,
                    epoch: Epoch(0),
                    count: objects.len(),
                    counts: BTreeMap::new(),
                    warnings: Vec::new(),
                };
                // Epoch 0 is nobody's, so that of two who begin at the same time the later one has it.
                let _other = kept.write_head(&head, None).await?;
                kept.claim().await?;
            }
        }
        let (mut counts, mut left) = (BTreeMap::new(), BTreeMap::new());
        let mut count = 0;
        for object in &objects {
            let name = object.artifact()?;
            let judged = self.judge(object, policy).await.with_context(|| name.to_string())?;
            let word = match judged {
                Judged::Same => "objects:same",
                Judged::Left(why) => {
                    left.entry(why).or_insert_with(Vec::new).push(name.to_string());
                    "objects:left"
                }
                Judged::Write => {
                    kept.keep_new(count, object).await?;
                    count += 1;
                    "objects:written"
                }
            };
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        let warnings = left.into_iter().map(|(why, names)| format!("{why}: {}", names.join(", "))).collect();
        loop {
            let Some((head, version)) = kept.head().await? else {
                return Err(Error::new(Kind::Conflict, "what was staged is gone"));
            };
            kept.ensure_ours().await?;
            let state = State::Staged;
            let head = Head { state, count, counts: BTreeMap::clone(&counts), warnings: Vec::clone(&warnings), ..head };
            if kept.write_head(&head, Some(&version)).await? {
                return Ok(report(head));
            }
        }
    }

    async fn judge(&self, object: &Object, policy: ObjectPolicy) -> Result<Judged> {
        let kind = self.kind(object)?;
        let live = self.cluster.get(&kind, &self.namespace, object.name()).await?;
        let judged = match (live, policy) {
            (Some(live), _) if strip::are_same(&strip::stripped(&kind, live.clone())?, object) => Judged::Same,
            (None, policy) if object.kind() == "APIManager" && policy != ObjectPolicy::Build => {
                // Its operator would build an installation around stores that are not loaded yet.
                Judged::Left("there is none, and it is not made while data is restored")
            }
            (_, ObjectPolicy::Skip) => Judged::Left("objects are not restored, as asked for"),
            (Some(_), ObjectPolicy::Missing | ObjectPolicy::Build) => {
                Judged::Left("it differs from the set's and stays as it is (`--objects replace` writes it)")
            }
            (Some(_), ObjectPolicy::Replace { endpoints: false }) if is_endpoint(object.kind(), object.name()) => {
                Judged::Left(
                    "it says where the stores are, differs from the set's and stays as it is (`--replace-endpoints` writes it)",
                )
            }
            (None, _) | (Some(_), ObjectPolicy::Replace { .. }) => Judged::Write,
        };
        if matches!(judged, Judged::Write) {
            self.cluster.would_take(&kind, &self.namespace, object).await?;
        }
        Ok(judged)
    }

    /// Writes what is staged, keeping what was in its place.
    ///
    /// # Errors
    /// `NotFound` when nothing is staged; the server does not take an object.
    pub(super) async fn commit(&self) -> Result<LoadReport> {
        let kept = self.kept();
        let Some(head) = kept.claim().await? else {
            return Err(Error::new(Kind::NotFound, format!("run {} has staged no objects here", self.run.run)));
        };
        match head.state {
            State::Committed => return Ok(report(head)),
            State::Staged | State::Committing => {}
            State::Partial | State::RollingBack | State::Finalizing => return Err(out_of_turn("written", head.state)),
        }
        kept.advance(State::Committing).await?;
        for n in 0..head.count {
            let wanted = kept.new_object(n).await?;
            let kind = self.kind(&wanted)?;
            if kept.old(n).await?.is_none() {
                let live = self.live(&kind, &wanted).await?;
                kept.keep_old(n, live.as_ref()).await?;
            }
            kept.ensure_ours().await?;
            let name = wanted.artifact()?;
            self.cluster.ensure_object(&kind, &self.namespace, &wanted).await.with_context(|| name.to_string())?;
        }
        kept.advance(State::Committed).await?;
        Ok(report(head))
    }

    async fn live(&self, kind: &ApiResource, object: &Object) -> Result<Option<Object>> {
        let live: Option<DynamicObject> = self.cluster.get(kind, &self.namespace, object.name()).await?;
        live.map(|live| strip::stripped(kind, live)).transpose()
    }

    /// Puts back what was there before, and keeps nothing any more.
    ///
    /// # Errors
    /// `Conflict` when it is being dropped already, or a later epoch has the load.
    pub(super) async fn rollback(&self) -> Result<()> {
        let kept = self.kept();
        let Some(head) = kept.claim().await? else { return Ok(()) };
        match head.state {
            State::Partial | State::Staged => return kept.drop_all(head.count).await,
            State::Committing | State::Committed | State::RollingBack => {}
            State::Finalizing => return Err(out_of_turn("put back", head.state)),
        }
        kept.advance(State::RollingBack).await?;
        // Latest first, so that what others need goes last.
        for n in (0..head.count).rev() {
            let Some(old) = kept.old(n).await? else { continue };
            let new = kept.new_object(n).await?;
            let kind = self.kind(&new)?;
            kept.ensure_ours().await?;
            let done = match &old {
                Old::Was(object) => self.cluster.ensure_object(&kind, &self.namespace, object).await,
                Old::Absent => self.cluster.ensure_gone(&kind, &self.namespace, new.name()).await,
            };
            done.with_context(|| format!("{}/{}", new.kind(), new.name()))?;
        }
        kept.drop_all(head.count).await
    }

    /// Drops what was there before.
    ///
    /// # Errors
    /// `Conflict` when it is not committed, or a later epoch has the load.
    pub(super) async fn finalize(&self) -> Result<()> {
        let kept = self.kept();
        let Some(head) = kept.claim().await? else { return Ok(()) };
        match head.state {
            State::Committed | State::Finalizing => {}
            State::Partial | State::Staged | State::Committing | State::RollingBack => {
                return Err(out_of_turn("dropped", head.state));
            }
        }
        kept.advance(State::Finalizing).await?;
        kept.drop_all(head.count).await
    }
}

fn report(head: Head) -> LoadReport {
    LoadReport { counts: head.counts, warnings: head.warnings }
}

fn out_of_turn(what: &str, state: State) -> Error {
    Error::new(Kind::Conflict, format!("the objects cannot be {what} now: their load is {state:?}"))
}
