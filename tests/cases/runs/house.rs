//! Everything that a run needs, in memory: a fleet without agents, a repository, a journal that can refuse.

use std::sync::Mutex;

use async_trait::async_trait;
use keepsake_coordinator::exit::Exit;
use keepsake_coordinator::fleet::{Opening, Progress};
use keepsake_coordinator::inventory::Inventory;
use keepsake_coordinator::plan::restore::Wishes;
use keepsake_coordinator::plan::{self, Plan, Step};
use keepsake_coordinator::run::claim;
use keepsake_coordinator::run::event::{Event, Outcome};
use keepsake_coordinator::run::status::Run;
use keepsake_coordinator::run::story::{Story, unfinished};
use keepsake_coordinator::run::take_over::take_over;
use keepsake_coordinator::run::{Journal, Reporter, Runner, World};
use keepsake_coordinator::topology::{InstallationSettings, Topology};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::SetId;
use keepsake_core::record::Record;
use keepsake_core::repository::runs::{RunLog, Runs};
use keepsake_core::repository::seal::SetKey;
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::repository::testing::faulty_memory;
use keepsake_core::repository::{Encryption, Init, Repository};
use keepsake_tests::fake_fleet::{FakeFleet, Load};
use tokio_util::sync::CancellationToken;

const TOPOLOGY: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    consistency: none
    components:
      - { name: system-mysql, engine: fake, agent: 'http://127.0.0.1:1' }
      - { name: backend-redis, engine: fake, agent: 'http://127.0.0.1:2' }
      - { name: zync-database, engine: fake, agent: 'http://127.0.0.1:3' }
";

/// Everything that a run needs, in memory.
pub struct House {
    pub installation: InstallationSettings,
    pub repository: Repository,
    pub signing: SigningKey,
    pub fleet: FakeFleet,
    pub runs: Runs,
    pub said: Said,
}

#[derive(Default)]
pub struct Said(pub Mutex<Vec<Event>>);

impl Reporter for Said {
    fn event(&self, _: &Plan, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }

    fn progress(&self, _: &Plan, _: &Step, _: Progress) {}

    fn say(&self, _: &Plan, _: &str) {}
}

/// A journal that asks before each entry whether it may be written.
struct Asking<'a, 'h> {
    log: &'a mut RunLog,
    may: May<'h>,
}

/// Says whether an entry may be written.
pub type May<'h> = Box<dyn FnMut(&Event) -> Result<()> + Send + Sync + 'h>;

#[async_trait]
impl Journal for Asking<'_, '_> {
    async fn append(&mut self, event: &Event) -> Result<()> {
        (self.may)(event)?;
        self.log.append(event).await
    }

    async fn cancel_asked(&self) -> Result<bool> {
        Ok(false)
    }
}

/// Refuses the n-th entry and every later one, as if the store were gone.
fn refusing<'h>(mut left: usize) -> May<'h> {
    Box::new(move |_| {
        if left == 0 {
            return Err(Error::new(Kind::Unavailable, "the journal is gone (on purpose)"));
        }
        left -= 1;
        Ok(())
    })
}

/// How an execution ended, as the command line sees it.
pub struct Executed {
    pub ended: Result<(Outcome, String)>,
    pub exit: Exit,
}

impl House {
    pub async fn new() -> Self {
        Self::with(TOPOLOGY).await
    }

    /// Of another topology.
    pub async fn with(topology: &str) -> Self {
        let (store, _) = faulty_memory();
        let (signing, _) = SigningKey::generate().unwrap();
        let encryption = Encryption::Age { recipients: vec![SetKey::generate().recipient().to_owned()], single: true };
        let init = Init { encryption, signers: vec![signing.public()] };
        let (repository, _) = Repository::init(store.clone(), &init).await.unwrap();
        let installation = Topology::parse(topology, std::path::Path::new("/")).unwrap().installations.remove(0);
        let fleet = FakeFleet::new(store.clone(), installation.name.clone());
        Self { installation, repository, signing, fleet, runs: Runs::new(store), said: Said::default() }
    }

    pub async fn plan_backup(&self) -> Plan {
        let inventory = Inventory::ask(&self.installation, &self.fleet).await;
        plan::backup::plan(&self.installation, &inventory, &[], SetId::generate()).unwrap()
    }

    pub async fn plan_restore(&self, record: &Record) -> Plan {
        self.plan_restore_of(record, &[]).await
    }

    /// Executes a plan with a journal that refuses from its n-th entry on.
    pub async fn execute(
        &self,
        plan: &Plan,
        source: Option<&Record>,
        entries: usize,
        cancel: CancellationToken,
    ) -> Result<(Outcome, String)> {
        self.executed(plan, source, refusing(entries), cancel).await?.ended
    }

    /// Executes a plan with a journal that asks before each entry.
    pub async fn executed(
        &self,
        plan: &Plan,
        source: Option<&Record>,
        may: May<'_>,
        cancel: CancellationToken,
    ) -> Result<Executed> {
        let (head, mut log) = claim::begin(&self.runs, &self.installation.name, plan).await?;
        let opening = Opening::None;
        let world = World {
            fleet: &self.fleet,
            platform: None,
            repository: &self.repository,
            signing: Some(&self.signing),
            source: source.map(|r| (r, &opening)),
            planner: None,
        };
        let journal = Asking { log: &mut log, may };
        let runner = Runner::new(&head, world, Box::new(journal), &self.said, cancel);
        let ended = Box::pin(runner.execute()).await;
        let exit = match &ended {
            Ok((outcome, _)) => Exit::of_outcome(*outcome),
            Err(e) => Exit::of_lost_run(e, runner.has_begun().await),
        };
        Ok(Executed { ended, exit })
    }

    /// Goes on with the unfinished run, as `keepsake resume --coordinator-is-gone` does.
    pub async fn resume(&self, source: Option<&Record>) -> Result<(Outcome, String)> {
        let story = unfinished(&self.runs, &self.installation.name, None).await?.expect("an unfinished run");
        let taken = take_over(&self.runs, story, true).await?;
        let opening = Opening::None;
        let world = World {
            fleet: &self.fleet,
            platform: None,
            repository: &self.repository,
            signing: Some(&self.signing),
            source: source.map(|r| (r, &opening)),
            planner: None,
        };
        let cancel = CancellationToken::new();
        let runner = Runner::resumed(&taken.head, &taken.story, world, Box::new(taken.log), &self.said, cancel);
        Box::pin(runner.execute()).await
    }

    pub async fn back_up(&self) -> Result<(Outcome, String)> {
        let plan = self.plan_backup().await;
        self.execute(&plan, None, usize::MAX, CancellationToken::new()).await
    }

    pub async fn restore(&self) -> Result<(Outcome, String)> {
        let record = self.latest().await.unwrap();
        let plan = self.plan_restore(&record).await;
        self.execute(&plan, Some(&record), usize::MAX, CancellationToken::new()).await
    }

    /// Restores these components alone; all, if none is named.
    pub async fn plan_restore_of(&self, record: &Record, only: &[&str]) -> Plan {
        let inventory = Inventory::ask(&self.installation, &self.fleet).await;
        let only: Vec<_> = only.iter().map(|n| n.parse().unwrap()).collect();
        let wishes = Wishes { only, safety: Some(SetId::generate()), ..Wishes::default() };
        plan::restore::plan(&self.installation, &inventory, record, &wishes).unwrap()
    }

    pub async fn latest(&self) -> Option<Record> {
        self.repository.latest(&self.installation.name).await.unwrap()
    }

    pub async fn sets(&self) -> usize {
        self.repository.sets(&self.installation.name).await.unwrap().len()
    }

    pub async fn last_run(&self) -> Run {
        let epoch = *self.runs.epochs(&self.installation.name).await.unwrap().last().unwrap();
        self.runs.read(&self.installation.name, epoch).await.unwrap()
    }

    /// The run that the last epoch belongs to.
    pub async fn last_story(&self) -> Story {
        Story::ending_with(&self.runs, self.last_run().await).await.unwrap()
    }

    /// Ends what a refused journal left, as `keepsake cancel --coordinator-is-gone` does.
    pub async fn end_last(&self) {
        claim::end_abandoned(&self.runs, &self.last_run().await, "test").await.unwrap();
    }

    pub fn loads(&self) -> Vec<Load> {
        self.installation.components.iter().map(|c| self.fleet.load_of(&c.name)).collect()
    }
}
