//! One run of the fake world from its beginning to its end, whatever strikes it, and what must hold then.

use std::time::Duration;

use keepsake_coordinator::fleet::{Opening, Progress};
use keepsake_coordinator::inventory::Inventory;
use keepsake_coordinator::plan::{self, Plan, Step};
use keepsake_coordinator::run::event::{Event, Outcome};
use keepsake_coordinator::run::story::{Story, unfinished};
use keepsake_coordinator::run::take_over::{TakenOver, take_over};
use keepsake_coordinator::run::{Reporter, Runner, World, claim};
use keepsake_coordinator::topology::{InstallationSettings, Topology};
use keepsake_core::error::{Kind, Result};
use keepsake_core::id::{Component, SetId};
use keepsake_core::record::Record;
use keepsake_core::repository::runs::{RunHead, RunLog, Runs};
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::repository::testing::faulty_memory;
use keepsake_core::repository::{Encryption, Init, Repository, Store};
use tokio_util::sync::CancellationToken;

use super::journal::{Mortal, Script, Strike};
use super::plans::break_plan;
use super::rebuild::FakePlanner;
use super::{FakeWorld, Flaw, Wrong};

const TOPOLOGY: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    consistency: preferred
    hooks: { quiesce: [[stop]], resume: [[start]] }
    components:
      - { name: sql, engine: fake, agent: 'http://127.0.0.1:1' }
      - { name: redis, engine: fake, agent: 'http://127.0.0.1:2' }
      - { name: files, engine: fake, agent: 'http://127.0.0.1:3' }
";

/// An installation with System's database and Backend's storage.
const OF_3SCALE: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    consistency: preferred
    hooks: { quiesce: [[stop]], resume: [[start]] }
    components:
      - { name: system-mysql, engine: mysql, agent: 'http://127.0.0.1:1' }
      - { name: backend-redis, engine: redis, agent: 'http://127.0.0.1:2' }
      - { name: files, engine: fake, agent: 'http://127.0.0.1:3' }
";

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// A backup.
    Backup,
    /// A restore of which everything can be undone.
    Restore,
    /// A restore of which the last component's load cannot be undone.
    Mixed,
    /// A restore of System's database alone.
    OnlySystem,
    /// A restore of Backend's storage alone.
    OnlyBackend,
    /// A restore of System's database alone that keeps the old data.
    KeepSystem,
    /// What that has kept is put back.
    RollbackSystem,
    /// The Config is made equal while applications write.
    Resync,
    /// A restore that keeps the old data.
    KeepOld,
    /// What a restore has kept is dropped.
    Finalize,
    /// What a restore has kept is put back.
    Rollback,
    /// An installation is built anew and its data brought back: two plans.
    Rebuild,
    /// An installation is built anew.
    ObjectsOnly,
}

/// One run and what befalls it.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is run.
    pub kind: Kinds,
    /// Steps that go wrong until a person mends them, which is when the run halts.
    pub wrong: Vec<(String, Wrong)>,
    /// What happens to its coordinators.
    pub strikes: Vec<Strike>,
    /// Whoever finds the run halted past its point of no return takes it back, and what applications wrote since is lost.
    pub discards: bool,
    /// What is broken on purpose.
    pub flaw: Option<Flaw>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The outcome.
    pub outcome: Outcome,
    /// The step that was the cause.
    pub cause: Option<String>,
    /// Each store: what is live, and what is left of runs.
    pub stores: Vec<(String, String)>,
    /// Whose Config Backend's storage has.
    pub config: Option<String>,
    /// Whether the applications run.
    pub running: bool,
    /// What was done behind the point of no return.
    pub followed: Vec<String>,
    /// Whether the set that the run makes has a record, and of how many dumps.
    pub set: Option<usize>,
    /// Steps that could not be undone.
    pub not_undone: Vec<String>,
    /// Places of the journal.
    pub places: usize,
    /// Everything that may never be, and was.
    pub wrong: Vec<String>,
}

/// What all runs share.
#[derive(Debug)]
pub struct Lab {
    pub(super) store: Store,
    pub(super) repository: Repository,
    signing: SigningKey,
    pub(super) installation: InstallationSettings,
    pub(super) record: Record,
    /// Stores tell themselves whether they were loaded over.
    tells: bool,
}

struct Nobody;

impl Reporter for Nobody {
    fn event(&self, _: &Plan, _: &Event) {}
    fn progress(&self, _: &Plan, _: &Step, _: Progress) {}
    fn say(&self, _: &Plan, _: &str) {}
}

/// What a coordinator begins with.
pub(super) struct Begin {
    pub(super) head: RunHead<Plan>,
    pub(super) log: RunLog,
    /// What was before, if it goes on.
    pub(super) story: Option<Story>,
    /// Somebody gave the run up; whether past the point of no return, too.
    pub(super) turns: Option<bool>,
}

/// How one coordinator ended.
pub(super) enum Fate {
    Ended(Result<(Outcome, String)>),
    Dead,
    /// Others came to the end while it slept.
    Slept,
}

impl Lab {
    /// A repository with the set that is restored.
    pub async fn new() -> Self {
        Self::of(TOPOLOGY).await
    }

    /// As [`Lab::new`], of an installation with System's database and Backend's storage.
    pub async fn of_3scale() -> Self {
        Self::of(OF_3SCALE).await
    }

    /// As [`Lab::new`], where stores tell themselves whether they were loaded over.
    pub async fn telling() -> Self {
        Self { tells: true, ..Self::new().await }
    }

    pub(super) async fn of(topology: &str) -> Self {
        let (store, _) = faulty_memory();
        let (signing, _) = SigningKey::generate().expect("a key");
        let init = Init { encryption: Encryption::None, signers: vec![signing.public()] };
        let (repository, _) = Repository::init(store.clone(), &init).await.expect("a repository");
        let topology = Topology::parse(topology, std::path::Path::new("/")).expect("a topology");
        let installation = topology.installations.into_iter().next().expect("an installation");
        let world = FakeWorld::new(store.clone(), installation.name.clone(), &names(&installation), &[]);
        let inventory = Inventory::ask(&installation, &world).await;
        let set = SetId::generate();
        let plan = plan::backup::plan(&installation, &inventory, &[], set).expect("a plan");
        let runs = runs();
        let (head, log) = claim::begin(&runs, &installation.name, &plan).await.expect("an epoch");
        let hands = World {
            fleet: &world,
            platform: None,
            repository: &repository,
            signing: Some(&signing),
            source: None,
            planner: None,
        };
        let cancel = CancellationToken::new();
        let runner = Runner::new(&head, hands, Box::new(log), &Nobody, cancel);
        Box::pin(runner.execute()).await.expect("a set");
        drop(runner);
        let record = repository.record(&installation.name, set).await.expect("the set");
        Self { store, repository, signing, installation, record, tells: false }
    }

    /// Runs a case to its end.
    pub async fn run(&self, case: &Case) -> Told {
        let in_place: &[&str] = if case.kind == Kinds::Mixed { &["files"] } else { &[] };
        let components = names(&self.installation);
        let world = FakeWorld::new(self.store.clone(), self.installation.name.clone(), &components, in_place)
            .with_dumps_of(&self.record);
        world.restores_one(matches!(
            case.kind,
            Kinds::OnlySystem | Kinds::OnlyBackend | Kinds::KeepSystem | Kinds::RollbackSystem
        ));
        world.is_live(case.kind == Kinds::Resync);
        if self.is_by_hand() {
            world.is_by_hand();
        }
        if matches!(case.kind, Kinds::Rebuild | Kinds::ObjectsOnly) {
            world.is_gone();
        }
        if self.has_routes() {
            world.has_routes();
        }
        if self.tells {
            world.tells();
        }
        let runs = runs();
        let mut plan = self.plan(case.kind, &world, &runs).await;
        if matches!(case.kind, Kinds::Rollback | Kinds::RollbackSystem) {
            world.puts_back();
        }
        break_plan(&mut plan, case);
        if let Some(flaw) = case.flaw {
            world.flaw(flaw);
        }
        for (step, how) in &case.wrong {
            world.break_step(step, *how);
        }
        let script = Script::new(&case.strikes);
        let mut told = Vec::new();
        let (head, log) = claim::begin(&runs, &self.installation.name, &plan).await.expect("an epoch");
        let mut begin = Begin { head, log, story: None, turns: None };
        let mut discards = None;
        for _ in 0..12 {
            let fate = Box::pin(self.coordinator(&world, &runs, Some(&script), case.flaw, begin, &mut told)).await;
            let mut cancels = false;
            match fate {
                Fate::Slept => break,
                // Those two may wait for a person.
                Fate::Ended(Ok((outcome @ (Outcome::Halted | Outcome::Stuck), _))) => {
                    world.mend();
                    if case.discards && outcome == Outcome::Halted && discards.is_none() {
                        discards = Some(true);
                        world.puts_back();
                    }
                }
                Fate::Ended(Ok(_)) => break,
                Fate::Ended(Err(e)) => {
                    told.push(format!("the journal was lost: {}", e.chain()));
                    break;
                }
                Fate::Dead => {
                    let (strike, _) = script.struck().expect("a strike");
                    if strike.at().is_multiple_of(4) {
                        world.restart_agents();
                    }
                    if let (Strike::CrashTwice(_), Some(story)) = (strike, self.unfinished(&runs).await) {
                        runs.resume(&story.tail().head, "killed at once").await.expect("an epoch");
                    }
                    cancels = matches!(strike, Strike::CrashAndCancel(_));
                }
            }
            let Some(story) = self.unfinished(&runs).await else { break };
            let cancels = (cancels && story.status().may_turn(story.plan())).then_some(false);
            begin = next(&runs, story, discards.or(cancels)).await;
        }
        self.look(&world, &runs, &script, told).await
    }

    /// One coordinator, until it ends or is dead.
    pub(super) async fn coordinator(
        &self,
        world: &FakeWorld,
        runs: &Runs,
        script: Option<&Script>,
        flaw: Option<Flaw>,
        begin: Begin,
        told: &mut Vec<String>,
    ) -> Fate {
        let Begin { head, log, story, turns } = begin;
        let opening = Opening::None;
        let planner = FakePlanner { lab: self, world };
        let hands = World {
            fleet: world,
            platform: Some(world),
            repository: &self.repository,
            signing: Some(&self.signing),
            source: Some((&self.record, &opening)),
            planner: Some(&planner),
        };
        let [gone, wake, cancel] = std::array::from_fn(|_| CancellationToken::new());
        let journal = Mortal {
            log,
            world: world.clone(),
            script: script.cloned().unwrap_or_else(|| Script::new(&[])),
            gone: gone.clone(),
            wake: wake.clone(),
            cancel: cancel.clone(),
            flaw,
        };
        let runner = match &story {
            None => Runner::new(&head, hands, Box::new(journal), &Nobody, cancel),
            Some(story) => Runner::resumed(&head, story, hands, Box::new(journal), &Nobody, cancel),
        };
        let runner = runner.with_patience(Duration::ZERO);
        let work = async {
            if let Some(discards) = turns {
                runner.turn("given up", discards).await?;
            }
            runner.execute().await
        };
        let mut work = Box::pin(work);
        tokio::select! {
            biased;
            () = gone.cancelled() => {}
            ended = &mut work => return Fate::Ended(ended),
        }
        let Some((strike @ Strike::Sleep(at), event)) = script.and_then(Script::struck) else { return Fate::Dead };
        // A hook cannot be fenced, nor what has a cluster do something: whoever sleeps between the word and the deed and then wakes runs it, whatever others have done.
        // And after its last word there is nothing left to stop.
        let last = matches!(event, Event::Ended { .. } | Event::Halted { .. });
        if at % 2 == 1 && (is_hook(&event) || last) {
            return Fate::Dead;
        }
        self.finish(world, runs, flaw, told).await;
        let (stores, running) = (told_of(world), world.is_running());
        wake.cancel();
        match work.await {
            Err(e) if e.kind() == Kind::Conflict => {}
            other => {
                told.push(format!("{strike:?}: it woke, and nobody stopped it: {:?}", other.map_err(|e| e.chain())))
            }
        }
        if (told_of(world), world.is_running()) != (stores, running) {
            told.push(format!("{strike:?}: it woke and did something: {:?}", told_of(world)));
        }
        Fate::Slept
    }

    /// Somebody else resumes the run until it is over, and mends what is broken when it halts.
    async fn finish(&self, world: &FakeWorld, runs: &Runs, flaw: Option<Flaw>, told: &mut Vec<String>) {
        for _ in 0..6 {
            let Some(story) = self.unfinished(runs).await else { return };
            let begin = next(runs, story, None).await;
            if let Fate::Ended(Ok(_)) = Box::pin(self.coordinator(world, runs, None, flaw, begin, told)).await {
                world.mend();
            }
        }
        told.push("it never came to an end".to_owned());
    }

    async fn unfinished(&self, runs: &Runs) -> Option<Story> {
        unfinished(runs, &self.installation.name, None).await.expect("the runs")
    }
}

/// Takes the run over for the next coordinator.
async fn next(runs: &Runs, story: Story, turns: Option<bool>) -> Begin {
    let TakenOver { head, log, story } = take_over(runs, story, true).await.expect("take it over");
    Begin { head, log, story: Some(story), turns }
}

fn is_hook(event: &Event) -> bool {
    let (Event::Started { step } | Event::UndoStarted { step }) = event else { return false };
    let step = step.as_str();
    let asks = ["quiesce", "quiesce-but-worker", "close-routes", "open-routes", "resume-workloads", "roll-out"];
    asks.contains(&step) || ["check-applications", "await-installation"].contains(&step) || step.starts_with("resync-")
}

/// The Config, if there is one.
pub(super) fn config_of(world: &FakeWorld) -> Option<String> {
    world.stores().iter().find(|(name, _)| name.as_str() == "backend-redis").map(|(_, store)| store.config.clone())
}

pub(super) fn told_of(world: &FakeWorld) -> Vec<(String, String)> {
    world.stores().values().map(|s| (s.base().to_owned(), s.left())).collect()
}

pub(super) fn names(installation: &InstallationSettings) -> Vec<Component> {
    installation.components.iter().map(|c| c.name.clone()).collect()
}

pub(super) fn runs() -> Runs {
    let (store, _) = faulty_memory();
    Runs::new(store)
}
