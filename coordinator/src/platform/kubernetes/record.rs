//! What is remembered of a workload that is stopped: an annotation on the object itself, written before and together with the change.
//!
//! Pure: what is there, what was remembered, who asks → what has to be written. One rule makes every half-done stop or start plain to whoever goes on with it,
//! wherever that is: **no replicas means stopped by us, any other number is somebody's wish**. docs/decisions/0020 says why.

use std::collections::BTreeMap;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::{Epoch, RunId, RunKey};
use serde::{Deserialize, Serialize};

/// The annotation's key.
pub const ANNOTATION: &str = "keepsake/stopped";

/// What a workload had, and for whom it is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// So many replicas it had.
    pub(super) replicas: i32,
    /// So many of them were ready: as good as that it must become again.
    pub(super) ready: i32,
    /// For whom it is stopped, by namespace and installation: an operator that serves several namespaces comes back with the last.
    pub(super) by: BTreeMap<String, Holder>,
}

/// The run that stopped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Holder {
    pub(super) run: RunId,
    /// The latest epoch of that run that asked.
    pub(super) epoch: Epoch,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Me {
    name: String,
    holder: Holder,
}

/// What a workload has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) replicas: i32,
    pub(super) ready: i32,
}

/// What a start has to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    /// It is not stopped for us.
    Nothing,
    /// It stays stopped for others: only our name is taken out.
    Leave(Record),
    /// So many replicas; the record stays until they are ready.
    Scale(i32),
    /// It has its replicas; so many must be ready before it is forgotten.
    Await(i32),
}

impl Record {
    /// From the annotation's text.
    ///
    /// # Errors
    /// `Corrupt`: somebody else wrote it, or a newer Keepsake.
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).or_kind(Kind::Corrupt, format!("the annotation {ANNOTATION} cannot be read"))
    }

    /// As the annotation's text.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string(self).or_kind(Kind::Internal, format!("write the annotation {ANNOTATION}"))
    }

    /// For whom it is stopped, in words.
    pub(super) fn told(&self) -> String {
        told(&self.by)
    }
}

/// For whom something is stopped, in words.
pub(super) fn told(by: &BTreeMap<String, Holder>) -> String {
    let each = by.iter().map(|(who, h)| format!("{who} (run {}, epoch {})", h.run, h.epoch));
    each.collect::<Vec<_>>().join(", ")
}

impl Me {
    /// For this run of the 3scale in this namespace.
    pub(super) fn new(key: &RunKey, namespace: &str) -> Self {
        let holder = Holder { run: key.run, epoch: key.epoch };
        Self { name: format!("{namespace}/{}", key.installation), holder }
    }

    /// What is left of the record when it is not for us any more; none when it was for nobody else.
    pub(super) fn leave(&self, found: &Record) -> Option<Record> {
        let by = self.taken_out_of(&found.by);
        (!by.is_empty()).then(|| Record { by, ..found.clone() })
    }

    /// All but us.
    pub(super) fn taken_out_of(&self, by: &BTreeMap<String, Holder>) -> BTreeMap<String, Holder> {
        let mut others = by.clone();
        others.remove(&self.name);
        others
    }

    /// All of them, and us.
    pub(super) fn put_into(&self, by: &BTreeMap<String, Holder>) -> BTreeMap<String, Holder> {
        let mut all = by.clone();
        all.insert(self.name.clone(), self.holder.clone());
        all
    }

    /// Whether we are among them.
    pub(super) fn is_in(&self, by: &BTreeMap<String, Holder>) -> bool {
        by.contains_key(&self.name)
    }

    /// A coordinator that was thought to be gone must not undo what its successor does. What another run has left on something that runs is no word of a
    /// successor: it came back with an old revision, or the runs were counted anew.
    pub(super) fn is_not_late(&self, is_stopped: bool, by: Option<&BTreeMap<String, Holder>>) -> Result<()> {
        match by.and_then(|by| by.get(&self.name)) {
            Some(theirs) if theirs.epoch > self.holder.epoch && (is_stopped || theirs.run == self.holder.run) => {
                Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "epoch {} of run {} has it in its hands, and this is epoch {}: leave it to the coordinator that has taken over, or, if its \
                         journal is lost, set by hand what the annotation {ANNOTATION} says that it had, and remove that",
                        theirs.epoch, theirs.run, self.holder.epoch
                    ),
                ))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What has to be remembered before it is stopped.
///
/// # Errors
/// `Conflict` when a later epoch has it in its hands.
pub(super) fn remember(live: Live, found: Option<&Record>, me: &Me) -> Result<Record> {
    me.is_not_late(live.replicas == 0, found.map(|r| &r.by))?;
    let (replicas, ready) = match found {
        // Somebody wants it to run: what is remembered of before is over, but for how good it was.
        Some(found) if live.replicas != 0 => (live.replicas, live.ready.max(found.ready).min(live.replicas)),
        Some(found) => (found.replicas, found.ready),
        None => (live.replicas, live.ready),
    };
    // Nor is it stopped for anybody then. Whoever is about to stop it, too, writes that down once more when it does.
    let by = found.filter(|_| live.replicas == 0).map(|r| r.by.clone()).unwrap_or_default();
    Ok(Record { replicas, ready, by: me.put_into(&by) })
}

/// What has to be written to start it.
///
/// # Errors
/// `Conflict` when a later epoch has it in its hands.
pub(super) fn start(live: Live, found: Option<&Record>, me: &Me) -> Result<Start> {
    me.is_not_late(live.replicas == 0, found.map(|r| &r.by))?;
    let Some(found) = found.filter(|r| me.is_in(&r.by)) else { return Ok(Start::Nothing) };
    Ok(if let Some(others) = me.leave(found) {
        Start::Leave(others)
    } else if live.replicas == 0 && found.replicas != 0 {
        Start::Scale(found.replicas)
    } else {
        Start::Await(found.ready.min(live.replicas))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(epoch: u64) -> Me {
        named("prod", epoch)
    }

    fn named(installation: &str, epoch: u64) -> Me {
        let run = "01900000-0000-7000-8000-000000000001".parse().unwrap();
        let installation = installation.parse().unwrap();
        Me::new(&RunKey { run, installation, epoch: Epoch(epoch) }, "threescale")
    }

    fn live(replicas: i32, ready: i32) -> Live {
        Live { replicas, ready }
    }

    #[test]
    fn what_is_stopped_comes_back_as_it_was() {
        for replicas in [0, 1, 7] {
            let record = remember(live(replicas, replicas), None, &me(3)).unwrap();
            assert_eq!(remember(live(0, 0), Some(&record), &me(3)).unwrap(), record, "asked again");
            let back = start(live(0, 0), Some(&record), &me(3)).unwrap();
            assert_eq!(back, if replicas == 0 { Start::Await(0) } else { Start::Scale(replicas) });
            assert_eq!(start(live(replicas, 0), Some(&record), &me(3)).unwrap(), Start::Await(replicas), "asked again");
        }
    }

    #[test]
    fn what_was_remembered_and_not_stopped_is_left_as_it_is() {
        let record = remember(live(3, 2), None, &me(3)).unwrap();
        // An autoscaler went on meanwhile.
        assert_eq!(start(live(5, 5), Some(&record), &me(3)).unwrap(), Start::Await(2));
        let again = remember(live(5, 1), Some(&record), &me(4)).unwrap();
        assert_eq!((again.replicas, again.ready), (5, 2));
        let fewer = remember(live(1, 1), Some(&record), &me(4)).unwrap();
        assert_eq!((fewer.replicas, fewer.ready), (1, 1));
    }

    #[test]
    fn what_is_not_ours_is_not_started() {
        assert_eq!(start(live(0, 0), None, &me(3)).unwrap(), Start::Nothing);
        let theirs = remember(live(2, 2), None, &named("stage", 9)).unwrap();
        assert_eq!(start(live(0, 0), Some(&theirs), &me(3)).unwrap(), Start::Nothing);
        let both = remember(live(0, 0), Some(&theirs), &me(3)).unwrap();
        assert_eq!((both.replicas, both.by.len()), (2, 2));
        let Start::Leave(left) = start(live(0, 0), Some(&both), &named("stage", 9)).unwrap() else {
            panic!("it came back although another one needs it stopped")
        };
        assert_eq!(start(live(0, 0), Some(&left), &me(3)).unwrap(), Start::Scale(2));
    }

    #[test]
    fn whoever_was_taken_over_changes_nothing_any_more() {
        let record = remember(live(3, 3), None, &me(3)).unwrap();
        let taken = remember(live(0, 0), Some(&record), &me(4)).unwrap();
        let told = start(live(0, 0), Some(&taken), &me(3)).unwrap_err();
        assert_eq!(told.kind(), Kind::Conflict);
        assert!(remember(live(0, 0), Some(&taken), &me(3)).unwrap_err().chain().contains("epoch 4"));
        assert_eq!(start(live(0, 0), Some(&taken), &me(5)).unwrap(), Start::Scale(3));
    }

    #[test]
    fn what_came_back_with_an_old_revision_is_no_claim() {
        // The controller copies annotations to ReplicaSets, and `kubectl rollout undo` copies them back.
        let old = remember(live(3, 3), None, &named("stage", 50)).unwrap();
        let fresh = remember(live(2, 2), Some(&old), &me(1)).unwrap();
        assert_eq!(fresh.by.len(), 1, "nobody else will start it");
        assert_eq!(start(live(0, 0), Some(&fresh), &me(1)).unwrap(), Start::Scale(2));
        let counted_anew = remember(live(3, 3), None, &me(50)).unwrap();
        let other = RunKey { run: RunId::generate(), installation: "prod".parse().unwrap(), epoch: Epoch(1) };
        let other = Me::new(&other, "threescale");
        assert_eq!(remember(live(2, 2), Some(&counted_anew), &other).unwrap().replicas, 2);
        assert_eq!(remember(live(2, 2), Some(&counted_anew), &me(1)).unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn the_text_is_read_as_it_was_written() {
        let record = remember(live(3, 2), None, &me(3)).unwrap();
        assert_eq!(Record::parse(&record.text().unwrap()).unwrap(), record);
        assert_eq!(Record::parse("3").unwrap_err().kind(), Kind::Corrupt);
        assert!(record.told().contains("threescale/prod") && record.told().contains("epoch 3"), "{}", record.told());
    }
}
