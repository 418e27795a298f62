//! An engine on memory that waits, fails and panics where a test wants it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::in_place::{CANNOT_BE_UNDONE, InPlace};
use keepsake_agent::engine::{
    CommitReport, Context, Description, Engine, Hold, Prepared, Sink, Source, StageReport, Staged,
};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{ArtifactName, RunKey};
use keepsake_core::queues::Waiting;
use keepsake_core::record::{Counts, DumpReport, ToolRecord};
use tokio::sync::watch;

/// Artifacts by name.
pub type Data = BTreeMap<ArtifactName, Vec<u8>>;

/// What an engine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Describing.
    Describe,
    /// A dump, when half of its first artifact is written.
    Dump,
    /// A stage, before it reads.
    Stage,
    /// A commit, when the live data is touched.
    Commit,
    /// A rollback.
    Rollback,
    /// The end of what a rollback would need.
    Finalize,
}

/// What happens at a step.
#[derive(Debug, Clone)]
enum Act {
    Wait(Arc<Gate>),
    Panic,
    Fail(Kind),
}

/// Whoever comes waits until it is opened.
#[derive(Debug)]
pub struct Gate {
    came: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// A closed one.
    fn closed() -> Arc<Self> {
        Arc::new(Self { came: watch::Sender::new(0), open: watch::Sender::new(false) })
    }

    /// Waits until somebody has come.
    pub async fn reached(&self) {
        let came = async { self.came.subscribe().wait_for(|n| *n > 0).await.map(drop) };
        tokio::time::timeout(Duration::from_secs(20), came).await.expect("nobody came to the gate").expect("the gate");
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(&self) {
        self.came.send_modify(|n| *n += 1);
        self.open.subscribe().wait_for(|open| *open).await.expect("the gate");
    }
}

/// The engine.
#[derive(Debug, Default)]
pub struct FakeEngine {
    live: Mutex<Data>,
    acts: Mutex<BTreeMap<Step, Act>>,
    calls: Mutex<Vec<Step>>,
    busy: Arc<AtomicUsize>,
    loads: InPlace,
    waiting: Mutex<Option<Waiting>>,
}

/// One call that has not returned; dropped where the call is.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeEngine {
    /// With this data.
    pub fn with(data: Data) -> Arc<Self> {
        Arc::new(Self { live: Mutex::new(data), ..Self::default() })
    }

    /// The data.
    pub fn live(&self) -> Data {
        self.live.lock().expect("data").clone()
    }

    /// From now on it has queues, in which so much waits.
    pub fn waits(&self, waiting: Waiting) {
        *self.waiting.lock().expect("what waits") = Some(waiting);
    }

    /// Replaces the data.
    pub fn put(&self, data: Data) {
        *self.live.lock().expect("data") = data;
    }

    /// From now on this step waits at the gate.
    pub fn wait_at(&self, step: Step) -> Arc<Gate> {
        let gate = Gate::closed();
        self.acts.lock().expect("acts").insert(step, Act::Wait(gate.clone()));
        gate
    }

    /// From now on this step panics.
    pub fn panic_at(&self, step: Step) {
        self.acts.lock().expect("acts").insert(step, Act::Panic);
    }

    /// From now on this step fails.
    pub fn fail_at(&self, step: Step, kind: Kind) {
        self.acts.lock().expect("acts").insert(step, Act::Fail(kind));
    }

    /// From now on nothing is in this step's way.
    pub fn go_on_at(&self, step: Step) {
        self.acts.lock().expect("acts").remove(&step);
    }

    /// How often it was asked for this.
    pub fn calls(&self, step: Step) -> usize {
        self.calls.lock().expect("calls").iter().filter(|s| **s == step).count()
    }

    /// Calls that have begun and neither returned nor been dropped.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    fn enter(&self, step: Step) -> Busy {
        self.calls.lock().expect("calls").push(step);
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self.busy.clone())
    }

    async fn act(&self, step: Step) -> Result<()> {
        let act = self.acts.lock().expect("acts").get(&step).cloned();
        match act {
            None => Ok(()),
            Some(Act::Wait(gate)) => {
                gate.pass().await;
                Ok(())
            }
            Some(Act::Panic) => panic!("a panic on purpose"),
            Some(Act::Fail(kind)) => Err(Error::new(kind, format!("{step:?} fails on purpose"))),
        }
    }

    fn counts(data: &Data) -> Counts {
        data.iter().map(|(name, bytes)| (format!("bytes:{name}"), bytes.len() as u64)).collect()
    }

    async fn read(source: &dyn Source, cx: &Context) -> Result<Data> {
        let mut data = Data::new();
        for (name, _) in source.artifacts() {
            let (mut reader, mut bytes) = (source.open(&name).await?, Vec::new());
            while let Some(chunk) = reader.read().await? {
                cx.advance(chunk.len() as u64);
                bytes.extend_from_slice(&chunk);
            }
            data.insert(name, bytes);
        }
        Ok(data)
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn describe(&self) -> Result<Description> {
        self.act(Step::Describe).await?;
        Ok(Description {
            server: "Fake 1.0".to_owned(),
            tools: vec![("fakedump".to_owned(), "1.0".to_owned())],
            size: self.live().values().map(|b| b.len() as u64).sum(),
            position: Some("p1".to_owned()),
            facts: [("colour".to_owned(), "blue".to_owned())].into(),
            hold: Err("nothing to hold".to_owned()),
            undo: Err(CANNOT_BE_UNDONE.to_owned()),
            in_place_is_whole: false,
            in_place_is_told: false,
            problems: vec!["a problem on purpose".to_owned()],
            staging_free: None,
            loads: Vec::new(),
        })
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        Err(Error::new(Kind::Unsupported, "nothing to hold"))
    }

    async fn waiting_jobs(&self) -> Result<Waiting> {
        let waiting = self.waiting.lock().expect("what waits").clone();
        waiting.ok_or_else(|| Error::new(Kind::Unsupported, "it has no queues"))
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        Err(Error::new(Kind::Unsupported, "nothing to hold"))
    }

    async fn dump(&self, _: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let _busy = self.enter(Step::Dump);
        let data = self.live();
        cx.phase("dumping", data.values().map(|b| b.len() as u64).sum());
        cx.snapshot_open();
        for (n, (name, bytes)) in data.iter().enumerate() {
            let mut artifact = out.artifact(name).await?;
            let (one, two) = bytes.split_at(bytes.len() / 2);
            for (half, part) in [one, two].into_iter().enumerate() {
                if (n, half) == (0, 1) {
                    self.act(Step::Dump).await?;
                }
                for chunk in part.chunks(64 << 10) {
                    artifact.write(Bytes::copy_from_slice(chunk)).await?;
                    cx.advance(chunk.len() as u64);
                }
            }
            artifact.finish().await?;
        }
        Ok(DumpReport {
            server: "Fake 1.0".to_owned(),
            tools: vec![ToolRecord {
                tool: "fakedump".to_owned(),
                version: "1.0".to_owned(),
                exit_status: 0,
                end_marker: "done".to_owned(),
            }],
            position: Some("p1".to_owned()),
            counts: Self::counts(&data),
            ..DumpReport::default()
        })
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        let _busy = self.enter(Step::Stage);
        cx.phase("checking", 0);
        self.act(Step::Stage).await?;
        self.loads.begin(key, from.clone());
        let data = Self::read(from.as_ref(), cx).await?;
        let counts = Self::counts(&data);
        if from.recorded().is_some_and(|r| r.counts != counts) {
            return Err(Error::new(Kind::Corrupt, "the counts are not the record's"));
        }
        self.loads.staged(key);
        Ok(StageReport { bytes: data.values().map(|b| b.len() as u64).sum(), counts, warnings: Vec::new() })
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        Ok(self.loads.state(key))
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let _busy = self.enter(Step::Commit);
        let Some(source) = self.loads.to_commit(key)? else { return Ok(CommitReport::default()) };
        self.loads.touching(key)?;
        self.act(Step::Commit).await?;
        let data = Self::read(source.as_ref(), cx).await?;
        let counts = Self::counts(&data);
        *self.live.lock().expect("data") = data;
        self.loads.committed(key)?;
        Ok(CommitReport { counts, warnings: vec!["a warning on purpose".to_owned()] })
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let _busy = self.enter(Step::Rollback);
        cx.check()?;
        self.act(Step::Rollback).await?;
        self.loads.rollback(key)
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let _busy = self.enter(Step::Finalize);
        cx.check()?;
        self.act(Step::Finalize).await?;
        self.loads.finalize(key)
    }
}
