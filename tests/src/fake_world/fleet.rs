//! The agents of the fake world: the contract of loads, in a page.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_coordinator::fleet::config::{ConfigChanges, ConfigCompared, ConfigOrder, Differences};
use keepsake_coordinator::fleet::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey};
use keepsake_coordinator::inventory::{Found, Staged};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{ArtifactName, Component, RunKey};
use keepsake_core::queues::{WORKED_OFF, Waiting};
use keepsake_core::record::{DumpRecord, DumpReport, Facts};
use keepsake_core::repository::Budget;
use keepsake_core::repository::writer::{Place, SetWriter};

use super::{FakeStore, FakeWorld, Flaw, NEW};

impl FakeWorld {
    /// Its stores tell themselves whether they were loaded over.
    pub(super) fn tells(&self) {
        self.lock().tells = true;
    }

    /// What every call under a key begins with: a lower epoch than the agent has seen is refused.
    pub(super) fn admit(&self, component: &Component, run: &RunKey) -> Result<()> {
        let mut state = self.lock();
        let fences = state.flaw != Some(Flaw::AgentsDoNotFence);
        let store = state.stores.get_mut(component).expect("a component");
        if run.epoch < store.epoch && fences {
            return Err(Error::new(Kind::Conflict, format!("run {run} is fenced: run {} came after it", store.epoch)));
        }
        store.epoch = store.epoch.max(run.epoch);
        Ok(())
    }

    pub(super) fn with<T>(&self, component: &Component, change: impl FnOnce(&mut FakeStore) -> T) -> T {
        change(self.lock().stores.get_mut(component).expect("a component"))
    }

    /// An operation on one store, wrong where it was said to be.
    fn operate<T>(
        &self,
        component: &Component,
        key: &OpKey,
        effect: impl FnOnce(&mut FakeStore) -> Result<T>,
    ) -> Result<T> {
        self.admit(component, &key.run)?;
        let step = key.step.as_str();
        self.enter(step, step)?;
        let done = self.with(component, effect)?;
        self.leave(step)?;
        Ok(done)
    }
}

/// The engine of a component.
fn engine(component: &Component) -> &'static str {
    match component.as_str() {
        "system-mysql" => "mysql",
        "backend-redis" => "redis",
        "objects" => "objects",
        _ => "fake",
    }
}

fn refuse<T>(kind: Kind, text: &str) -> Result<T> {
    Err(Error::new(kind, text))
}

#[async_trait]
impl Fleet for FakeWorld {
    async fn describe(&self, component: &Component) -> Result<Found> {
        let name = format!("describe-{component}");
        if self.lock().wrong.contains_key(&name) {
            return refuse(Kind::Unavailable, "it does not answer, on purpose");
        }
        self.must_be_there(component)?;
        let store = self.stores().remove(component).expect("a component");
        let mut loads: Vec<_> = store.staged.map(|run| (run, Staged::Staged)).into_iter().collect();
        loads.extend(store.kept.map(|(run, _)| (run, Staged::Committed)));
        Ok(Found {
            engine: engine(component).parse().expect("an engine"),
            server: "Fake 1.0".to_owned(),
            agent_version: "0.1.0".to_owned(),
            size: 10,
            facts: Facts::new(),
            problems: Vec::new(),
            cannot_undo: store.in_place.then(|| "it is loaded over the live data".to_owned()),
            cannot_hold: None,
            cannot_load: None,
            in_place_is_whole: false,
            in_place_is_told: store.in_place && self.lock().tells,
            staging_free: None,
            loads,
        })
    }

    async fn ready_to_hold(&self, _: &Component) -> Result<Option<String>> {
        Ok(None)
    }

    async fn prepare_hold(&self, component: &Component, run: &RunKey) -> Result<Box<dyn Hold>> {
        self.admit(component, run)?;
        Ok(Box::new(FakeHold { world: self.clone(), component: component.clone() }))
    }

    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()> {
        self.admit(order.component, &order.key.run)?;
        let mut state = self.lock();
        if !state.held.contains(order.component) {
            state.violations.push(format!("a snapshot of {} is opened without its hold", order.component));
        }
        state.open.insert(format!("{} {}", order.key.run, order.key.step));
        Ok(())
    }

    async fn dump(&self, order: &DumpOrder<'_>, _: OnProgress<'_>) -> Result<DumpRecord> {
        let DumpOrder { component, set, sealing, .. } = *order;
        self.admit(component, &order.key.run)?;
        let step = format!("dump-{component}");
        self.enter(&step, &step)?;
        if order.hold.is_some() && !self.lock().open.contains(&format!("{} {}", order.key.run, order.key.step)) {
            return refuse(Kind::Conflict, "there is no such hold");
        }
        if let Some(dump) = self.dumps.get(component) {
            self.leave(&step)?;
            return Ok(dump.clone());
        }
        let place = Place { installation: self.installation.clone(), set, component: component.clone() };
        let writer = SetWriter::new(self.store.clone(), Budget::default(), sealing.sealer()?, place);
        let mut artifact = writer.artifact(&ArtifactName::new("dump.fake")?);
        artifact.write(Bytes::from(format!("data of {component}"))).await?;
        let artifact = artifact.finish().await?;
        self.leave(&step)?;
        let report = DumpReport { server: "Fake 1.0".to_owned(), ..DumpReport::default() };
        Ok(DumpRecord { report, artifacts: vec![artifact] })
    }

    async fn stage(&self, order: &LoadOrder<'_>, _: OnProgress<'_>) -> Result<LoadReport> {
        let run = order.key.run.run;
        self.operate(&order.entry.component, &order.key, |store| {
            if store.kept.as_ref().is_some_and(|(of, _)| *of != run) {
                return refuse(Kind::Conflict, "the old data of another run is kept");
            }
            if store.kept.is_none() {
                store.staged = Some(run);
            }
            Ok(LoadReport::default())
        })
    }

    async fn commit(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<LoadReport> {
        let run = key.run.run;
        self.admit(component, &key.run)?;
        let changes = self.with(component, |s| s.staged == Some(run) && s.touched != Some(run));
        let goes_wrong = matches!(self.lock().wrong.get(key.step.as_str()), Some(super::Wrong::Before));
        if changes && !goes_wrong {
            let mut state = self.lock();
            state.replace(component, "a load");
            let is_backend = component.as_str() == "backend-redis";
            let is_told = state.wrong.keys().any(|step| step.starts_with("drain-") || step == "worker");
            if let Some(jobs @ 1..) = state.jobs.filter(|_| is_backend && !is_told) {
                state.violations.push(format!("a load of {component} while {jobs} jobs wait"));
            }
        }
        self.operate(component, key, |store| {
            let is_done = store.kept.as_ref().is_some_and(|(of, _)| *of == run);
            if is_done {
                return Ok(LoadReport::default());
            }
            if store.staged != Some(run) {
                return refuse(Kind::Conflict, "nothing is staged for this run: stage again");
            }
            let old = std::mem::replace(&mut store.live, vec![NEW.to_owned()]);
            store.kept_config = std::mem::replace(&mut store.config, super::OF_THE_SET.to_owned());
            if store.in_place {
                store.touched = Some(run);
            } else {
                store.staged = None;
                store.kept = Some((run, old));
            }
            Ok(LoadReport::default())
        })
    }

    async fn rollback(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        let run = key.run.run;
        self.admit(component, &key.run)?;
        if self.with(component, |s| s.kept.as_ref().is_some_and(|(of, _)| *of == run)) {
            self.lock().replace(component, "a rollback");
        }
        self.operate(component, key, |store| {
            if store.touched == Some(run) {
                return refuse(Kind::Unsupported, "the live data is gone");
            }
            if store.staged == Some(run) {
                store.staged = None;
            }
            if let Some((of, old)) = store.kept.take() {
                if of == run {
                    store.live = old;
                    store.config = store.kept_config.clone();
                } else {
                    store.kept = Some((of, old));
                }
            }
            Ok(())
        })
    }

    async fn finalize(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        let run = key.run.run;
        self.operate(component, key, |store| {
            store.staged.take_if(|of| *of == run);
            store.touched.take_if(|of| *of == run);
            store.kept.take_if(|(of, _)| *of == run);
            Ok(())
        })
    }

    async fn compare_config(&self, order: &ConfigOrder<'_>, found: &mut dyn Differences) -> Result<ConfigCompared> {
        self.compare(order, found).await
    }

    async fn change_config(&self, order: &ConfigOrder<'_>, _: bool) -> Result<Box<dyn ConfigChanges>> {
        self.change(order)
    }

    async fn waiting_jobs(&self, component: &Component) -> Result<Waiting> {
        let step = format!("drain-{component}");
        self.look(&step)?;
        let left = {
            let mut state = self.lock();
            if state.worker && !state.running && !state.wrong.contains_key("worker") {
                state.jobs = state.jobs.map(|jobs| jobs.saturating_sub(1));
            }
            state.jobs.unwrap_or_default()
        };
        self.leave(&step)?;
        let queues = (left > 0).then(|| (WORKED_OFF[0].to_owned(), u64::from(left)));
        Ok(Waiting { queues: queues.into_iter().collect(), failed: 0 })
    }

    async fn cancel_run(&self, _: &Component, _: &RunKey) -> Result<usize> {
        Ok(0)
    }

    async fn at_work(&self, _: &Component, _: &RunKey) -> Result<Option<String>> {
        Ok(None)
    }
}

/// A hold; dropped, it ends.
struct FakeHold {
    world: FakeWorld,
    component: Component,
}

#[async_trait]
impl Hold for FakeHold {
    async fn take(&mut self, _: Duration, _: Duration) -> Result<String> {
        self.world.enter("cut", "cut")?;
        self.world.lock().held.insert(self.component.clone());
        Ok(format!("hold of {}", self.component))
    }

    async fn renew(&mut self) -> Result<()> {
        Ok(())
    }

    async fn release(&mut self) -> Result<Duration> {
        self.world.lock().held.remove(&self.component);
        self.world.leave("cut")?;
        Ok(Duration::from_millis(1))
    }
}

impl Drop for FakeHold {
    fn drop(&mut self) {
        self.world.lock().held.remove(&self.component);
    }
}
