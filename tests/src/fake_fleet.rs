//! A fleet without agents: dumps are real segments in the repository, everything else is a note of what was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_coordinator::fleet::{Fleet, LoadReport, OnProgress, OpKey, Opening, Progress};
use keepsake_coordinator::inventory::Found;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{ArtifactName, Component, Installation, RunKey, SetId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{ComponentRecord, DumpRecord, DumpReport, Sealing};
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
#[derive(Debug)]
pub struct FakeFleet {
    store: Store,
    installation: Installation,
    state: Mutex<State>,
    /// Ends every dump that waits.
    pub cancelled: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    fails: BTreeSet<String>,
    fails_late: BTreeSet<String>,
    waits: BTreeSet<String>,
    calls: Vec<String>,
    loads: BTreeMap<Component, Load>,
    queues: BTreeMap<Component, QueuePolicy>,
}

impl FakeFleet {
    /// A fleet that stores into this repository's store.
    pub fn new(store: Store, installation: Installation) -> Self {
        Self { store, installation, state: Mutex::default(), cancelled: CancellationToken::new() }
    }

    /// The step (`dump-system-mysql`) fails before it has an effect.
    pub fn fail(&self, step: &str) {
        self.lock().fails.insert(step.to_owned());
    }

    /// The step fails after it had its effect.
    pub fn fail_late(&self, step: &str) {
        self.lock().fails_late.insert(step.to_owned());
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
            (state.fails.contains(step), state.waits.contains(step))
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
        if self.lock().fails_late.contains(step) {
            return Err(Error::new(Kind::Timeout, format!("{step} fails late on purpose")));
        }
        Ok(())
    }

    fn set(&self, component: &Component, load: Load) {
        self.lock().loads.insert(component.clone(), load);
    }
}

#[async_trait]
impl Fleet for FakeFleet {
    async fn describe(&self, component: &Component) -> Result<Found> {
        self.enter(&format!("describe-{component}")).await?;
        Ok(Found {
            engine: "fake".parse().expect("engine"),
            server: "Fake 1.0".to_owned(),
            agent_version: "0.1.0".to_owned(),
            size: 10,
            problems: Vec::new(),
            cannot_undo: Some("the live data is gone".to_owned()),
            cannot_hold: None,
        })
    }

    async fn dump(
        &self,
        component: &Component,
        key: &OpKey,
        set: SetId,
        sealing: &Sealing,
        progress: OnProgress<'_>,
    ) -> Result<DumpRecord> {
        self.enter(key.step.as_str()).await?;
        progress(Progress { phase: "dumping".to_owned(), bytes: 1, expected: 10 });
        let place = Place { installation: self.installation.clone(), set, component: component.clone() };
        let writer = SetWriter::new(self.store.clone(), Budget::default(), sealing.sealer()?, place);
        let mut artifact = writer.artifact(&ArtifactName::new("dump.fake")?);
        artifact.write(Bytes::from(format!("data of {component}"))).await?;
        let artifact = artifact.finish().await?;
        self.leave(key.step.as_str())?;
        let report = DumpReport { server: "Fake 1.0".to_owned(), ..DumpReport::default() };
        Ok(DumpRecord { report, artifacts: vec![artifact] })
    }

    async fn stage(
        &self,
        key: &OpKey,
        _: SetId,
        entry: &ComponentRecord,
        _: &Opening,
        queues: QueuePolicy,
        _: OnProgress<'_>,
    ) -> Result<LoadReport> {
        self.enter(key.step.as_str()).await?;
        self.lock().queues.insert(entry.component.clone(), queues);
        self.set(&entry.component, Load::Staged);
        self.leave(key.step.as_str())?;
        Ok(LoadReport::default())
    }

    async fn commit(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<LoadReport> {
        self.enter(key.step.as_str()).await?;
        self.set(component, Load::Torn);
        self.leave(key.step.as_str())?;
        self.set(component, Load::New);
        Ok(LoadReport::default())
    }

    async fn rollback(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        self.enter(key.step.as_str()).await?;
        if matches!(self.load_of(component), Load::Torn | Load::New) {
            return Err(Error::new(Kind::Unsupported, "the live data is gone"));
        }
        self.set(component, Load::Old);
        Ok(())
    }

    async fn finalize(&self, component: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        let _ = component;
        self.enter(key.step.as_str()).await
    }

    async fn cancel_run(&self, component: &Component, _: &RunKey) -> Result<usize> {
        self.lock().calls.push(format!("cancel-{component}"));
        self.cancelled.cancel();
        Ok(1)
    }
}
