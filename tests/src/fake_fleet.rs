//! A fleet without agents: dumps are real segments in the repository, everything else is a note of what was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_coordinator::fleet::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey, Progress};
use keepsake_coordinator::inventory::{Found, Staged};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{ArtifactName, Component, Installation, RunId, RunKey};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{DumpRecord, DumpReport, Facts};
use keepsake_core::repository::testing::faulty_memory;
use keepsake_core::repository::writer::{Place, SetWriter};
use keepsake_core::repository::{Budget, Store};
use tokio_util::sync::CancellationToken;

/// How a component is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Nothing of the run is there.
    Old,
    /// Staged beside the live data.
    Staged,
    /// The live data may be half of each.
    Torn,
    /// The set's data is live.
    New,
}

/// The agents of one installation.
#[derive(Debug, Clone)]
pub struct FakeFleet {
    store: Store,
    installation: Installation,
    state: Arc<Mutex<State>>,
    /// Ends every dump that waits.
    pub cancelled: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    fails: BTreeSet<String>,
    fails_late: BTreeMap<String, Kind>,
    /// Components whose agent was started again and knows of no run.
    forgetful: BTreeSet<Component>,
    waits: BTreeSet<String>,
    calls: Vec<String>,
    loads: BTreeMap<Component, Load>,
    /// Components whose writes are held now.
    held: BTreeSet<Component>,
    /// Dumps whose snapshot is open, by their step.
    open: BTreeSet<String>,
    /// How often a step fails before it does not any more; without an entry, for ever.
    times: BTreeMap<String, usize>,
    /// Engines other than `fake`.
    engines: BTreeMap<Component, String>,
    /// Why writes can never be held.
    cannot_hold: BTreeMap<Component, String>,
    /// What is in the way of a hold now.
    busy: BTreeMap<Component, String>,
    queues: BTreeMap<Component, QueuePolicy>,
    /// Components whose load keeps the old data.
    can_undo: BTreeSet<Component>,
    /// Free bytes beside the live data.
    room: BTreeMap<Component, u64>,
    /// Facts of the live stores.
    facts: BTreeMap<Component, Facts>,
    /// Old data of which runs is kept.
    kept: BTreeMap<Component, RunId>,
    /// Components whose agent has another repository.
    elsewhere: BTreeSet<Component>,
}

impl FakeFleet {
    /// A fleet that stores into this repository's store.
    pub fn new(store: Store, installation: Installation) -> Self {
        Self { store, installation, state: Arc::default(), cancelled: CancellationToken::new() }
    }

    /// The step (`dump-system-mysql`) fails before it has an effect.
    pub fn fail(&self, step: &str) {
        self.lock().fails.insert(step.to_owned());
    }

    /// The step fails so often, and then no more.
    pub fn fail_times(&self, step: &str, times: usize) {
        self.fail(step);
        self.lock().times.insert(step.to_owned(), times);
    }

    /// A hold of the component would not be had at once.
    pub fn is_in_the_way(&self, component: &str, why: &str) {
        self.lock().busy.insert(component.parse().expect("a component"), why.to_owned());
    }

    /// The component has this engine.
    pub fn engine(&self, component: &str, engine: &str) {
        self.lock().engines.insert(component.parse().expect("a component"), engine.to_owned());
    }

    /// The component's writes can never be held.
    pub fn cannot_hold(&self, component: &str, why: &str) {
        self.lock().cannot_hold.insert(component.parse().expect("a component"), why.to_owned());
    }

    /// A load of the component can be undone.
    pub fn can_undo(&self, component: &str) {
        self.lock().can_undo.insert(component.parse().expect("a component"));
    }

    /// So many bytes are free beside the component's live data.
    pub fn room(&self, component: &str, bytes: u64) {
        self.lock().room.insert(component.parse().expect("a component"), bytes);
    }

    /// The live store says this of itself.
    pub fn fact(&self, component: &str, name: &str, value: &str) {
        let component = component.parse().expect("a component");
        self.lock().facts.entry(component).or_default().insert(name.to_owned(), value.to_owned());
    }

    /// The component keeps the old data of this run.
    pub fn keeps(&self, component: &str, run: RunId) {
        self.lock().kept.insert(component.parse().expect("a component"), run);
    }

    /// The component's agent stores into another repository.
    pub fn stores_elsewhere(&self, component: &str) {
        self.lock().elsewhere.insert(component.parse().expect("a component"));
    }

    /// The step fails no more.
    pub fn mend(&self, step: &str) {
        let mut state = self.lock();
        state.fails.remove(step);
        state.fails_late.remove(step);
    }

    /// Components whose writes are held now.
    pub fn held(&self) -> Vec<Component> {
        self.lock().held.iter().cloned().collect()
    }

    /// The step fails after it had its effect.
    pub fn fail_late(&self, step: &str) {
        self.fail_late_as(step, Kind::Timeout);
    }

    /// The step fails after it had its effect, with this kind.
    pub fn fail_late_as(&self, step: &str, kind: Kind) {
        self.lock().fails_late.insert(step.to_owned(), kind);
    }

    /// The component's agent says that all is well when it is asked to roll back, because it knows nothing of the run.
    pub fn forget(&self, component: &str) {
        self.lock().forgetful.insert(component.parse().expect("a component"));
    }

    /// The step waits until it is cancelled.
    pub fn wait(&self, step: &str) {
        self.lock().waits.insert(step.to_owned());
    }

    /// What was asked, in order.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// How a component is loaded.
    pub fn load_of(&self, component: &Component) -> Load {
        self.lock().loads.get(component).copied().unwrap_or(Load::Old)
    }

    /// The policy for queues that a component was staged with.
    pub fn queues_of(&self, component: &Component) -> Option<QueuePolicy> {
        self.lock().queues.get(component).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("state")
    }

    async fn enter(&self, step: &str) -> Result<()> {
        let (fails, waits) = {
            let mut state = self.lock();
            state.calls.push(step.to_owned());
            let mut fails = state.fails.contains(step);
            if let Some(left) = state.times.get_mut(step) {
                fails = *left > 0;
                *left = left.saturating_sub(1);
            }
            (fails, state.waits.contains(step))
        };
        if waits {
            self.cancelled.cancelled().await;
            return Err(Error::new(Kind::Cancelled, format!("{step} was cancelled")));
        }
        if fails {
            return Err(Error::new(Kind::Unavailable, format!("{step} fails on purpose")));
        }
        Ok(())
    }

    fn leave(&self, step: &str) -> Result<()> {
        match self.lock().fails_late.get(step) {
            Some(kind) => Err(Error::new(*kind, format!("{step} fails late on purpose"))),
            None => Ok(()),
        }
    }

    fn set(&self, component: &Component, load: Load) {
        self.lock().loads.insert(component.clone(), load);
    }
}

#[async_trait]
impl Fleet for FakeFleet {
    async fn describe(&self, component: &Component) -> Result<Found> {
        self.enter(&format!("describe-{component}")).await?;
        let state = self.lock();
        let engine = state.engines.get(component).cloned().unwrap_or_else(|| "fake".to_owned());
        let gone = "the live data is gone".to_owned();
        Ok(Found {
            engine: engine.parse().expect("engine"),
            server: "Fake 1.0".to_owned(),
            agent_version: "0.1.0".to_owned(),
            size: 10,
            facts: state.facts.get(component).cloned().unwrap_or_default(),
            problems: Vec::new(),
            cannot_undo: (!state.can_undo.contains(component)).then_some(gone),
            cannot_hold: state.cannot_hold.get(component).cloned(),
            cannot_load: None,
            in_place_is_whole: false,
            in_place_is_told: false,
            staging_free: state.room.get(component).copied(),
            loads: state.kept.get(component).map(|run| (*run, Staged::Committed)).into_iter().collect(),
        })
    }

    async fn ready_to_hold(&self, component: &Component) -> Result<Option<String>> {
        self.enter(&format!("ready-{component}")).await?;
        Ok(self.lock().busy.get(component).cloned())
    }

    async fn prepare_hold(&self, component: &Component, _: &RunKey) -> Result<Box<dyn Hold>> {
        self.enter(&format!("prepare-{component}")).await?;
        Ok(Box::new(FakeHold { fleet: self.clone(), component: component.clone() }))
    }

    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()> {
        self.enter(&format!("open-{}", order.component)).await?;
        assert!(self.lock().held.contains(order.component), "a snapshot is opened without its hold");
        self.lock().open.insert(order.key.step.to_string());
        self.leave(&format!("open-{}", order.component))
    }

    async fn dump(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord> {
        let DumpOrder { component, set, sealing, .. } = *order;
        let step = format!("dump-{component}");
        self.enter(&step).await?;
        let begun = self.lock().open.contains(order.key.step.as_str());
        assert_eq!(
            begun,
            order.hold.is_some(),
            "a dump under a hold is one that was begun under it: {}",
            order.key.step
        );
        progress(Progress { phase: "dumping".to_owned(), bytes: 1, expected: 10, artifacts: Vec::new() });
        let place = Place { installation: self.installation.clone(), set, component: component.clone() };
        let is_elsewhere = self.lock().elsewhere.contains(component);
        let store = if is_elsewhere { faulty_memory().0 } else { self.store.clone() };
        let writer = SetWriter::new(store, Budget::default(), sealing.sealer()?, place);
        let mut artifact = writer.artifact(&ArtifactName::new("dump.fake")?);
        artifact.write(Bytes::from(format!("data of {component}"))).await?;
        let artifact = artifact.finish().await?;
        self.leave(&step)?;
        let report = DumpReport { server: "Fake 1.0".to_owned(), ..DumpReport::default() };
        Ok(DumpRecord { report, artifacts: vec![artifact] })
    }

    async fn stage(&self, order: &LoadOrder<'_>, _: OnProgress<'_>) -> Result<LoadReport> {
        let (step, component) = (order.key.step.as_str(), &order.entry.component);
        self.enter(step).await?;
        self.lock().queues.insert(component.clone(), order.queues);
        self.set(component, Load::Staged);
        self.leave(step)?;
        Ok(LoadReport::default())
    }

    async fn commit(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<LoadReport> {
        self.enter(key.step.as_str()).await?;
        self.set(component, Load::Torn);
        self.leave(key.step.as_str())?;
        self.set(component, Load::New);
        let mut state = self.lock();
        if state.can_undo.contains(component) {
            state.kept.insert(component.clone(), key.run.run);
        }
        Ok(LoadReport::default())
    }

    async fn rollback(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        self.enter(key.step.as_str()).await?;
        if self.lock().forgetful.contains(component) {
            return Ok(());
        }
        let can_undo = self.lock().can_undo.contains(component);
        if !can_undo && matches!(self.load_of(component), Load::Torn | Load::New) {
            return Err(Error::new(Kind::Unsupported, "the live data is gone"));
        }
        self.set(component, Load::Old);
        self.lock().kept.remove(component);
        Ok(())
    }

    async fn finalize(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        self.enter(key.step.as_str()).await?;
        self.lock().kept.remove(component);
        Ok(())
    }

    async fn at_work(&self, _: &Component, _: &RunKey) -> Result<Option<String>> {
        Ok(None)
    }

    async fn cancel_run(&self, component: &Component, _: &RunKey) -> Result<usize> {
        self.lock().calls.push(format!("cancel-{component}"));
        self.cancelled.cancel();
        Ok(1)
    }
}

/// A hold; dropped, it ends.
struct FakeHold {
    fleet: FakeFleet,
    component: Component,
}

impl FakeHold {
    async fn enter(&self, what: &str) -> Result<()> {
        self.fleet.enter(&format!("{what}-{}", self.component)).await
    }

    fn leave(&self, what: &str) -> Result<()> {
        self.fleet.leave(&format!("{what}-{}", self.component))
    }
}

#[async_trait]
impl Hold for FakeHold {
    async fn take(&mut self, _: Duration, _: Duration) -> Result<String> {
        self.enter("take").await?;
        self.fleet.lock().held.insert(self.component.clone());
        self.leave("take")?;
        Ok(format!("hold of {}", self.component))
    }

    async fn renew(&mut self) -> Result<()> {
        self.enter("renew").await?;
        self.leave("renew")
    }

    async fn release(&mut self) -> Result<Duration> {
        self.enter("release").await?;
        self.fleet.lock().held.remove(&self.component);
        self.leave("release")?;
        Ok(Duration::from_millis(1))
    }
}

impl Drop for FakeHold {
    fn drop(&mut self) {
        self.fleet.lock().held.remove(&self.component);
    }
}
