//! One attempt at a cut: prepare, hold all, open all snapshots, prove all holds unbroken, release all.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::record::{Cut, CutMoment, Failure};
use tokio::time::Instant;

use super::{Made, Order, dump_step, micros};
use crate::fleet::{DumpOrder, Hold, OpKey};
use crate::plan::Action;

/// An attempt that does not count.
#[derive(Debug)]
pub(super) struct Void {
    pub(super) why: Error,
    /// For how long writers may have waited.
    pub(super) pause: Duration,
}

/// One attempt.
pub(super) struct Attempt<'a> {
    order: &'a Order<'a>,
    number: u32,
    holds: BTreeMap<Component, Box<dyn Hold>>,
    names: BTreeMap<Component, String>,
    /// When the first hold was asked for.
    began: Option<Instant>,
    sequence: Vec<CutMoment>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(order: &'a Order<'a>, number: u32) -> Self {
        let (holds, names) = (BTreeMap::new(), BTreeMap::new());
        Self { order, number, holds, names, began: None, sequence: Vec::new() }
    }

    /// Makes the attempt. Components that cannot be dumped at all are moved to `failed`; `silent` are those that do not answer now, and `unreachable`
    /// counts how often each has not.
    pub(super) async fn make(
        mut self,
        silent: &BTreeMap<Component, Failure>,
        failed: &mut BTreeMap<Component, Failure>,
        unreachable: &mut BTreeMap<Component, u32>,
    ) -> Result<Made, Void> {
        if let Err(why) = self.prepare(silent, failed, unreachable).await {
            return Err(Void { why, pause: Duration::ZERO });
        }
        let cut = self.cut().await;
        // However it went, nobody is left waiting: whatever cannot be told so hears the stream end.
        let released = self.release().await;
        drop(std::mem::take(&mut self.holds));
        let pause = self.began.map(|b| b.elapsed()).unwrap_or_default();
        match cut {
            Err(why) => Err(Void { why, pause }),
            Ok(at) => {
                if let Err(e) = released {
                    tracing::warn!("{}; it ends by itself when its lease is over", e.chain());
                }
                let cut = Cut {
                    at,
                    components: self.names.keys().cloned().collect(),
                    attempt: self.number,
                    pause_us: micros(pause),
                    pauses_us: 0,
                    lease_us: micros(self.order.limits.lease()),
                    sequence: self.sequence,
                    void: Vec::new(),
                };
                Ok(Made { cut, holds: self.names, failed: BTreeMap::new() })
            }
        }
    }

    async fn prepare(
        &mut self,
        silent: &BTreeMap<Component, Failure>,
        failed: &mut BTreeMap<Component, Failure>,
        unreachable: &mut BTreeMap<Component, u32>,
    ) -> Result<()> {
        let wanted: Vec<_> = self.order.groups.iter().flatten().filter(|c| !failed.contains_key(*c)).collect();
        let prepared = join_all(wanted.into_iter().map(async |component| {
            let prepared = match silent.get(component) {
                Some(failure) => Err(Error::from(failure.clone())),
                None => self.order.fleet.prepare_hold(component, self.order.run).await,
            };
            (component.clone(), prepared)
        }))
        .await;
        let mut void = None;
        for (component, hold) in prepared {
            match hold {
                Ok(hold) => {
                    self.holds.insert(component, hold);
                }
                Err(e) if e.kind() == Kind::Unsupported => return Err(e),
                Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Timeout) => {
                    let times = unreachable.entry(component.clone()).or_default();
                    *times += 1;
                    if *times > 1 {
                        failed.insert(component, Failure::from(&e));
                    }
                    void = Some(e);
                }
                Err(e) if e.kind().retry() || e.kind() == Kind::Conflict => void = Some(e),
                // It cannot be dumped either; the others go on without it.
                Err(e) => {
                    failed.insert(component, Failure::from(&e));
                    void = Some(e);
                }
            }
        }
        // One that has failed for good voids only the attempt in which that shows.
        void.map_or(Ok(()), Err)
    }

    /// From the first hold to the proof that all are unbroken; gives when the last snapshot was open.
    async fn cut(&mut self) -> Result<jiff::Timestamp> {
        let limits = self.order.limits;
        let began = Instant::now();
        self.began = Some(began);
        for group in self.order.groups {
            let taken =
                join_all(self.holds.iter_mut().filter(|(c, _)| group.contains(c)).map(async |(component, hold)| {
                    let taken = hold.take(limits.budget(), limits.lease()).await;
                    (component.clone(), began.elapsed(), taken.map_err(|e| e.context(format!("hold {component}"))))
                }))
                .await;
            for (component, at, taken) in taken {
                let name = taken?;
                self.note(at, &component, "held");
                self.names.insert(component, name);
            }
        }

        let opened = join_all(self.names.iter().map(async |(component, name)| {
            let opened = self.open(component, name).await;
            (component.clone(), began.elapsed(), opened)
        }));
        // Later than this a lease could end before its hold was asked to prove itself.
        let opened = tokio::time::timeout_at(began + limits.lease() * 3 / 4, opened).await.map_err(|_| {
            Error::new(Kind::Timeout, format!("not every snapshot was open within {:?}", limits.lease() * 3 / 4))
        })?;
        let at = clock::now();
        for (component, at, opened) in opened {
            opened?;
            self.note(at, &component, "snapshot-open");
        }

        // Only now: a hold that is unbroken until after the last snapshot was open was in force when it was.
        let renewed = join_all(self.holds.iter_mut().map(async |(component, hold)| {
            let renewed = hold.renew().await;
            (
                component.clone(),
                began.elapsed(),
                renewed.map_err(|e| e.context(format!("prove the hold of {component} unbroken"))),
            )
        }))
        .await;
        for (component, at, renewed) in renewed {
            renewed?;
            self.note(at, &component, "unbroken");
        }
        Ok(at)
    }

    async fn open(&self, component: &Component, name: &str) -> Result<()> {
        let order = self.order;
        let step = Action::dump_step_id(component)?;
        let key = OpKey { run: order.run.clone(), step: dump_step(&step, self.number)? };
        let dump = DumpOrder { component, key, set: order.set, sealing: order.sealing, hold: Some(name) };
        order.fleet.open_snapshot(&dump).await
    }

    async fn release(&mut self) -> Result<()> {
        let Some(began) = self.began else { return Ok(()) };
        let released = join_all(self.holds.iter_mut().map(async |(component, hold)| {
            let released = hold.release().await;
            (component.clone(), began.elapsed(), released.map_err(|e| e.context(format!("release {component}"))))
        }))
        .await;
        let mut first = Ok(());
        for (component, at, released) in released {
            match released {
                Ok(_) => self.note(at, &component, "released"),
                Err(e) => first = first.and(Err(e)),
            }
        }
        first
    }

    fn note(&mut self, at: Duration, component: &Component, what: &str) {
        self.sequence.push(CutMoment { at_us: micros(at), component: component.clone(), what: what.to_owned() });
    }
}
