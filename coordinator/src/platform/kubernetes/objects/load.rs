//! A load of objects: staged, committed, rolled back, finalized. Every step may be asked for again.

use std::collections::BTreeMap;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::objects::Object;
use keepsake_core::id::{Epoch, RunKey};
use kube::core::{ApiResource, DynamicObject};

use super::super::api::{Cluster, Pace};
use super::super::{access, built};
use super::kept::{Head, Kept, New, Old, State};
use super::kinds::CAPABILITIES;
use super::write::is_another;
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
    /// It is written over what is there.
    Write,
    /// It is made.
    Make,
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
        if let Some(head) = kept.claim().await? {
            match head.state {
                State::Staged | State::Committing | State::Committed => return Ok(report(head)),
                // Whoever began it kept perhaps what another policy wanted.
                State::Partial | State::PutBack => kept.drop_pieces().await?,
                State::RollingBack | State::Finalizing => return Err(out_of_turn("staged", head.state)),
            }
        } else {
            let head = Head {
                state: State::Partial,
                epoch: Epoch(0),
                count: objects.len(),
                written: 0,
                counts: BTreeMap::new(),
                warnings: Vec::new(),
            };
            // Epoch 0 is nobody's, so that of two who begin at the same time the later one has it.
            let _other = kept.write_head(&head, None).await?;
            kept.claim().await?;
        }
        if policy == ObjectPolicy::Build {
            // Asked here too: whoever goes on with a rebuild may be elsewhere than where it was begun.
            built::ensure_none(&self.cluster, &self.namespace).await?;
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
                Judged::Write | Judged::Make => {
                    let is_made = matches!(judged, Judged::Make);
                    kept.keep_new(count, &New { object: object.clone(), is_made }).await?;
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
            let (counts, warnings) = (BTreeMap::clone(&counts), Vec::clone(&warnings));
            let head = Head { state, count, written: 0, counts, warnings, ..head };
            if kept.write_head(&head, Some(&version)).await? {
                return Ok(report(head));
            }
        }
    }

    async fn judge(&self, object: &Object, policy: ObjectPolicy) -> Result<Judged> {
        if object.group_and_version().0 == CAPABILITIES {
            // Its operator knows what belongs to it by its status, which is not stored: it would make it in System a second time, or delete it there.
            return Ok(Judged::Left(
                "it stands for something in System, which the data brings back: it stays as it is (`keepsake objects` writes it into a file)",
            ));
        }
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
            (Some(_), ObjectPolicy::Replace { .. }) => Judged::Write,
            (None, _) => Judged::Make,
        };
        if matches!(judged, Judged::Write | Judged::Make) {
            self.cluster.would_take(&kind, &self.namespace, object).await?;
        }
        Ok(judged)
    }

    /// Writes what is staged, keeping what was in its place.
    ///
    /// # Errors
    /// `NotFound` when nothing is staged; `Conflict` when somebody else writes the same objects; the server does not take an object.
    pub(super) async fn commit(&self) -> Result<LoadReport> {
        let kept = self.kept();
        let Some(head) = kept.claim().await? else {
            return Err(Error::new(Kind::NotFound, format!("run {} has staged no objects here", self.run.run)));
        };
        match head.state {
            State::Committed => return Ok(report(head)),
            State::Staged | State::Committing => {}
            State::Partial | State::RollingBack | State::PutBack | State::Finalizing => {
                return Err(out_of_turn("written", head.state));
            }
        }
        kept.advance(State::Committing).await?;
        let mut left = Vec::new();
        for n in head.written..head.count {
            let new = kept.new_object(n).await?;
            let name = new.object.artifact()?;
            let is_written = self.write(&kept, n, &new).await.with_context(|| name.to_string())?;
            if !is_written {
                left.push(name.to_string());
            }
            kept.written(n + 1).await?;
        }
        kept.advance(State::Committed).await?;
        let mut report = report(head);
        if !left.is_empty() {
            report
                .warnings
                .push(format!("somebody has made it since it was looked at, and it stays: {}", left.join(", ")));
        }
        Ok(report)
    }

    /// Writes one object, once it is kept what it is written over. `false` when it stays as somebody else has made it.
    async fn write(&self, kept: &Kept<'_>, n: usize, new: &New) -> Result<bool> {
        let (wanted, kind) = (&new.object, self.kind(&new.object)?);
        let mut pace = Pace::new(self.cluster.patience);
        let mut is_refused = false;
        loop {
            kept.ensure_ours().await?;
            let live: Option<DynamicObject> = self.cluster.get(&kind, &self.namespace, wanted.name()).await?;
            let now = live.clone().map(|live| strip::stripped(&kind, live)).transpose()?;
            let old = kept.old(n).await?.map(|(old, _)| old);
            match (&now, &old) {
                (_, Some(Old::Left)) => return Ok(false),
                (Some(now), Some(_)) if strip::are_same(now, wanted) => return Ok(true),
                // Somebody was faster.
                (Some(now), None) if new.is_made || strip::are_same(now, wanted) => {
                    kept.keep_old(n, wanted, &Old::Left).await?;
                    return Ok(strip::are_same(now, wanted));
                }
                (Some(now), None) => kept.keep_old(n, wanted, &Old::Was(now.clone())).await?,
                (None, None) => kept.keep_old(n, wanted, &Old::Absent).await?,
                (Some(now), Some(Old::Was(was))) if strip::are_same(now, was) => {}
                // The server has refused our write because somebody wrote in between: that is what is written over then.
                (Some(now), Some(Old::Was(_))) if is_refused => {
                    kept.keep_old(n, wanted, &Old::Was(now.clone())).await?;
                }
                // Somebody was faster than we were.
                (Some(_), Some(Old::Absent)) => {
                    kept.keep_old(n, wanted, &Old::Left).await?;
                    return Ok(false);
                }
                (Some(_), Some(_)) => {
                    let text = "somebody else has written it since it was looked at, and what they wrote stays: keep them from it, then restore again";
                    return Err(Error::new(Kind::Conflict, text));
                }
                (None, Some(_)) => {}
            }
            kept.ensure_ours().await?;
            let done = match &live {
                Some(live) => self.cluster.write_over(&kind, &self.namespace, live, wanted).await,
                None => self.cluster.make(&kind, &self.namespace, wanted).await,
            };
            match done {
                Ok(()) => return Ok(true),
                Err(e) if is_another(&e) => {
                    is_refused = true;
                    if !pace.go_on().await {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Puts back what was there before, and keeps nothing any more.
    ///
    /// # Errors
    /// `Conflict` when it is being dropped already, or a later epoch has the load; `Corrupt` when something of what was kept is gone.
    pub(super) async fn rollback(&self) -> Result<()> {
        let kept = self.kept();
        let Some(head) = kept.claim().await? else { return Ok(()) };
        match head.state {
            State::Partial | State::Staged | State::PutBack => return kept.drop_all().await,
            State::Committing | State::Committed | State::RollingBack => {}
            State::Finalizing => return Err(out_of_turn("put back", head.state)),
        }
        let mut olds = Vec::new();
        for n in 0..head.count {
            olds.push(kept.old(n).await?);
        }
        // They are written one after another, each once its old one is kept: a gap is something that was taken away.
        let begun = olds.iter().rposition(Option::is_some).map_or(0, |n| n + 1).max(head.written);
        if let Some(n) = olds.iter().take(begun).position(Option::is_none) {
            let text = format!(
                "what was in the place of object {n} of run {} is not kept any more (Secret keepsake-{}-old-{n:03}): put it back by hand from the safety set \
                 (`keepsake objects`)",
                self.run.run, self.run.run
            );
            return Err(Error::new(Kind::Corrupt, text));
        }
        kept.advance(State::RollingBack).await?;
        // Latest first, so that what others need goes last.
        let olds: Vec<_> = olds.into_iter().flatten().collect();
        for (n, (old, of)) in olds.into_iter().enumerate().rev() {
            if n >= head.written && !self.is_ours(&kept, n).await? {
                tracing::warn!(
                    "object {n} of run {} was perhaps never written, is what somebody else has made of it, and stays",
                    self.run.run
                );
                continue;
            }
            let done = match (&old, &of) {
                (Old::Was(object), _) => self.cluster.ensure_object(&self.kind(object)?, &kept, object).await,
                (Old::Absent, Some(of)) => self.cluster.ensure_gone(&self.kind(of)?, &kept, of.name()).await,
                (Old::Absent | Old::Left, _) => Ok(()),
            };
            done.context("put an object back")?;
        }
        kept.advance(State::PutBack).await?;
        kept.drop_all().await
    }

    /// Whether an object is what this load writes.
    async fn is_ours(&self, kept: &Kept<'_>, n: usize) -> Result<bool> {
        let new = kept.new_object(n).await?.object;
        let kind = self.kind(&new)?;
        let live: Option<DynamicObject> = self.cluster.get(&kind, &self.namespace, new.name()).await?;
        let live = live.map(|live| strip::stripped(&kind, live)).transpose()?;
        Ok(live.is_some_and(|live| strip::are_same(&live, &new)))
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
            State::Partial | State::Staged | State::Committing | State::RollingBack | State::PutBack => {
                return Err(out_of_turn("dropped", head.state));
            }
        }
        kept.advance(State::Finalizing).await?;
        kept.drop_all().await
    }
}

fn report(head: Head) -> LoadReport {
    LoadReport { counts: head.counts, warnings: head.warnings }
}

fn out_of_turn(what: &str, state: State) -> Error {
    Error::new(Kind::Conflict, format!("the objects cannot be {what} now: their load is {state:?}"))
}
