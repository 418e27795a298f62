//! An installation in memory, for the crash loop: stores that keep the engines' contract, applications that write, agents that fence, and
//! faults at every step. Deterministic: nothing in it waits.
//!
//! What must never happen at all is noted as it happens ([`FakeWorld::violations`]); what must hold in the end is asked for then.

mod config;
mod fleet;
pub mod journal;
pub mod judge;
pub mod lab;
mod look;
mod plans;
mod platform;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use keepsake_coordinator::topology::kubernetes::ResyncTask;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, Epoch, Installation, RunId};
use keepsake_core::record::{DumpRecord, Record};
use keepsake_core::repository::Store;

/// How a step goes wrong, every time until it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It fails and has no effect.
    Before,
    /// It has its effect and fails.
    After,
    /// It has its effect, and its answer is lost.
    Lost,
}

/// What is broken on purpose in world, journal or plan: the crash loop must see each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// `Started` is acknowledged and not written.
    StartedIsNotDurable,
    /// The failure that turns a run is not written.
    CauseIsLost,
    /// A step that failed is not undone.
    FailedIsNotUndone,
    /// Agents listen to any epoch.
    AgentsDoNotFence,
    /// A journal that was taken over takes entries all the same.
    JournalDoesNotFence,
    /// The plan has no point of no return: whatever fails is undone.
    NothingIsFinal,
    /// An interrupted unwinding forgets that it goes back.
    UnwindingIsForgotten,
    /// What follows on the data is done before the point of no return.
    FollowsTooEarly,
    /// Where only System's database is restored, Backend's Config is not made equal again when it is taken back.
    ConfigIsNotRemembered,
    /// The second plan of a run is not written.
    PlannedIsNotDurable,
    /// The worker is stopped whatever waits for it.
    QueuesAreNotAwaited,
    /// The Routes are not closed.
    RoutesStayOpen,
}

/// The data of the set that is restored.
pub const NEW: &str = "new";
/// The data that is there before.
pub const OLD: &str = "old";

/// The Config of Backend before: not quite what System says.
pub const DRIFTED: &str = "drifted";
/// The Config of Backend in the set.
pub const OF_THE_SET: &str = "of the set";

/// One store and its agent.
#[derive(Debug, Clone)]
pub struct FakeStore {
    /// Its data: what it was filled with, and the rows that applications wrote.
    pub live: Vec<String>,
    /// Which run has staged beside it.
    pub staged: Option<RunId>,
    /// Which run's load is live, and what was there before.
    pub kept: Option<(RunId, Vec<String>)>,
    /// Which run has loaded over it.
    pub touched: Option<RunId>,
    /// A load goes over the live data.
    pub in_place: bool,
    /// The highest epoch that its agent has seen.
    pub epoch: Epoch,
    /// Of Backend's storage: whose Config it has.
    pub config: String,
    /// The Config beside the data that is kept.
    kept_config: String,
}

impl FakeStore {
    fn new(in_place: bool) -> Self {
        let live = vec![OLD.to_owned()];
        let (config, kept_config) = (DRIFTED.to_owned(), DRIFTED.to_owned());
        Self { live, staged: None, kept: None, touched: None, in_place, epoch: Epoch(0), config, kept_config }
    }

    /// What it was filled with.
    pub fn base(&self) -> &str {
        self.live.first().map_or("", String::as_str)
    }

    /// What a run has left here, in words; empty when nothing is.
    pub fn left(&self) -> String {
        let mut left = Vec::new();
        // Of a load over the live data, what was staged is in memory only.
        left.extend(self.staged.filter(|_| self.touched.is_none()).map(|_| "staged"));
        left.extend(self.kept.as_ref().map(|_| "old data"));
        left.extend(self.touched.map(|_| "touched"));
        left.join(" and ")
    }
}

#[derive(Debug)]
struct State {
    stores: BTreeMap<Component, FakeStore>,
    /// The applications run, and write at every moment.
    running: bool,
    rows: u64,
    /// Rows that were written since the applications were last started.
    since_start: Vec<String>,
    wrong: BTreeMap<String, Wrong>,
    held: BTreeSet<Component>,
    open: BTreeSet<String>,
    /// Steps whose beginning is durable, by what they call themselves at the world.
    begun: BTreeSet<String>,
    violations: Vec<String>,
    trace: Vec<String>,
    flaw: Option<Flaw>,
    /// One component alone is restored: the others stay what they are.
    alone: bool,
    /// The Config is changed while applications write.
    live: bool,
    /// A person stops and starts the applications.
    by_hand: bool,
    /// Stores tell themselves whether they were loaded over.
    tells: bool,
    /// Callers come by Routes; whether those are closed.
    routes: Option<bool>,
    /// Jobs that wait, where they are worked off before the worker is stopped; whether that works now.
    jobs: Option<u32>,
    worker: bool,
    /// For which run their pods were made anew, and for which runs that was done so far: for none of them it is done again.
    rolled_out: Option<RunId>,
    marks: BTreeSet<RunId>,
    /// What follows follows on data that is put back.
    puts_back: bool,
    /// What System has made anew, and for which run.
    made_anew: BTreeMap<ResyncTask, RunId>,
    /// All that it ever has: asked again for the same run it takes it for done.
    ever: BTreeSet<(ResyncTask, RunId)>,
    /// The run by which the applications were looked at in the end.
    looked: Option<RunId>,
    /// How far an installation is that is built anew; none where one was there all the time.
    site: Option<rebuild::Site>,
}

/// The installation.
#[derive(Debug, Clone)]
pub struct FakeWorld {
    store: Store,
    installation: Installation,
    state: Arc<Mutex<State>>,
    /// Dumps that were made before: to store each anew would be most of the work.
    dumps: BTreeMap<Component, DumpRecord>,
}

impl FakeWorld {
    /// Stores of old data, and applications that write to them. `in_place` are those whose load cannot be undone.
    pub fn new(store: Store, installation: Installation, components: &[Component], in_place: &[&str]) -> Self {
        let stores = components.iter().map(|c| (c.clone(), FakeStore::new(in_place.contains(&c.as_str())))).collect();
        let state = State {
            stores,
            running: true,
            rows: 0,
            since_start: Vec::new(),
            wrong: BTreeMap::new(),
            held: BTreeSet::new(),
            open: BTreeSet::new(),
            begun: BTreeSet::new(),
            violations: Vec::new(),
            trace: Vec::new(),
            flaw: None,
            alone: false,
            live: false,
            by_hand: false,
            tells: false,
            routes: None,
            jobs: None,
            worker: true,
            rolled_out: None,
            marks: BTreeSet::new(),
            puts_back: false,
            made_anew: BTreeMap::new(),
            ever: BTreeSet::new(),
            looked: None,
            site: None,
        };
        Self { store, installation, state: Arc::new(Mutex::new(state)), dumps: BTreeMap::new() }
    }

    /// With dumps that are those of this set.
    #[must_use]
    pub fn with_dumps_of(mut self, record: &Record) -> Self {
        let dumps = record.components.iter().filter_map(|c| Some((c.component.clone(), c.dump.clone()?)));
        self.dumps = dumps.collect();
        self
    }

    /// The step goes wrong until it is mended.
    pub fn break_step(&self, step: &str, how: Wrong) {
        self.lock().wrong.insert(step.to_owned(), how);
    }

    /// Only one component is restored.
    pub fn restores_one(&self, alone: bool) {
        self.lock().alone = alone;
    }

    /// The Config is changed while applications write.
    pub fn is_live(&self, live: bool) {
        self.lock().live = live;
    }

    /// A person stops and starts the applications, and has stopped them.
    pub fn is_by_hand(&self) {
        let mut state = self.lock();
        state.by_hand = true;
        state.running = false;
    }

    /// Callers come by Routes, and what they leave in queues is to be worked off.
    pub fn has_routes(&self) {
        let mut state = self.lock();
        (state.routes, state.jobs) = (Some(false), Some(3));
    }

    /// From now on old data is put back: what followed on the new one counts no more. A person who stops and starts the applications has stopped them.
    pub fn puts_back(&self) {
        let mut state = self.lock();
        state.running &= !state.by_hand;
        state.puts_back = true;
        (state.rolled_out, state.looked) = (None, None);
        state.made_anew.clear();
    }

    /// Whether Routes are closed.
    pub fn is_closed(&self) -> bool {
        self.lock().routes == Some(true)
    }

    /// This is broken on purpose.
    pub fn flaw(&self, flaw: Flaw) {
        self.lock().flaw = Some(flaw);
    }

    /// Nothing goes wrong any more.
    pub fn mend(&self) {
        self.lock().wrong.clear();
    }

    /// Every agent is started again: what it had only in memory is gone, which epoch it has seen, too.
    pub fn restart_agents(&self) {
        let mut state = self.lock();
        for store in state.stores.values_mut() {
            store.epoch = Epoch(0);
            if store.in_place {
                store.staged = None;
            }
        }
        state.open.clear();
    }

    /// What must never happen, and did.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// What was asked of the world, in order.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// The stores as they are.
    pub fn stores(&self) -> BTreeMap<Component, FakeStore> {
        self.lock().stores.clone()
    }

    /// Whether the applications run.
    pub fn is_running(&self) -> bool {
        self.lock().running
    }

    /// Components whose writes are held.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// Rows that the applications wrote since they were last started, and that a store has not any more.
    pub fn lost_rows(&self) -> Vec<String> {
        let state = self.lock();
        let lost = |(component, store): (&Component, &FakeStore)| {
            let missing = state.since_start.iter().filter(|row| !store.live.contains(row));
            missing.map(|row| format!("{component} lost {row}")).collect::<Vec<_>>()
        };
        state.stores.iter().flat_map(lost).collect()
    }

    /// The beginning of this is durable.
    pub(crate) fn durable(&self, step: String) {
        self.lock().begun.insert(step);
    }

    /// It is over, and its end durable.
    pub(crate) fn over(&self, step: &str) {
        self.lock().begun.remove(step);
    }

    /// An effect that the journal must have announced. The applications write whenever they can.
    fn enter(&self, step: &str, announced: &str) -> Result<()> {
        self.must_be_announced(step, announced);
        self.look(step)
    }

    /// What has an effect is in the journal before.
    fn must_be_announced(&self, step: &str, announced: &str) {
        let mut state = self.lock();
        if !state.begun.contains(announced) {
            state.violations.push(format!("{step} was begun and the journal does not know"));
        }
    }

    /// Whoever only looks may do so at any time.
    fn look(&self, step: &str) -> Result<()> {
        let mut state = self.lock();
        state.trace.push(step.to_owned());
        state.write();
        match state.wrong.get(step) {
            Some(Wrong::Before) => Err(Error::new(Kind::Internal, format!("{step} fails on purpose"))),
            Some(Wrong::After | Wrong::Lost) | None => Ok(()),
        }
    }

    fn leave(&self, step: &str) -> Result<()> {
        let mut state = self.lock();
        state.write();
        match state.wrong.get(step) {
            Some(Wrong::After) => Err(Error::new(Kind::Internal, format!("{step} fails late on purpose"))),
            Some(Wrong::Lost) => Err(Error::new(Kind::Unavailable, format!("the answer of {step} is lost on purpose"))),
            Some(Wrong::Before) | None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("the world's state")
    }
}

impl State {
    fn write(&mut self) {
        if !self.running {
            return;
        }
        self.rows += 1;
        let row = format!("row {}", self.rows);
        for store in self.stores.values_mut() {
            store.live.push(row.clone());
        }
        self.since_start.push(row);
        self.jobs = self.jobs.map(|_| 3);
    }

    /// Backend's Config must be what System's database says, or what it was before if that is what it was before.
    fn config_of_another(&self) -> Option<String> {
        let of = |name: &str| self.stores.iter().find(|(n, _)| n.as_str() == name).map(|(_, store)| store);
        let (system, backend) = (of("system-mysql")?, of("backend-redis")?);
        let right = backend.config == system.base() || (backend.config == DRIFTED && system.base() == OLD);
        (!right).then(|| format!("the Config is {:?}, and System's database {:?}", backend.config, system.base()))
    }

    /// A store's live data becomes other data: never below applications that run.
    fn replace(&mut self, component: &Component, what: &str) {
        if self.running {
            self.violations.push(format!("{what} of {component} while the applications run"));
        }
        if self.routes == Some(false) {
            self.violations.push(format!("{what} of {component} while callers are let in"));
        }
    }
}
