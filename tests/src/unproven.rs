//! A cut in which one agent is stopped beyond its lease and looks at its clock too late: it opens its snapshot when the writers have long gone on.
//!
//! Only the last step of the protocol can notice, in which every hold proves that it was unbroken. With that step switched off the set claims a cut that
//! it has not.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use keepsake_coordinator::app::App;
use keepsake_coordinator::fleet::whole::WholeFleet;
use keepsake_coordinator::fleet::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey, Paths, Progress};
use keepsake_coordinator::inventory::{Found, Inventory};
use keepsake_coordinator::plan::{self, Plan, Step};
use keepsake_coordinator::run::event::{Event, Outcome};
use keepsake_coordinator::run::{Reporter, Runner, World, claim};
use keepsake_coordinator::topology::Told;
use keepsake_core::error::Result;
use keepsake_core::id::{Component, RunKey, SetId};
use keepsake_core::record::DumpRecord;
use tokio_util::sync::CancellationToken;

use crate::causality::Writers;
use crate::house::House;

/// The lease that agents are given; the coordinator believes in a longer one.
const SHORT_LEASE: Duration = Duration::from_millis(500);
/// Whose agent is late: the store that is written last.
const LATE: &str = "system-redis";

struct Late<'a> {
    inner: WholeFleet,
    writers: &'a Writers,
    /// The last step is switched off.
    proves_nothing: bool,
}

struct Shortened {
    inner: Box<dyn Hold>,
    proves_nothing: bool,
}

#[async_trait]
impl Hold for Shortened {
    async fn take(&mut self, budget: Duration, _: Duration) -> Result<String> {
        self.inner.take(budget, SHORT_LEASE).await
    }

    async fn renew(&mut self) -> Result<()> {
        if self.proves_nothing { Ok(()) } else { self.inner.renew().await }
    }

    async fn release(&mut self) -> Result<Duration> {
        self.inner.release().await
    }
}

impl Late<'_> {
    /// The late one's snapshot is opened under no hold.
    fn order<'b>(order: &DumpOrder<'b>) -> DumpOrder<'b> {
        let hold = order.hold.filter(|_| order.component.as_str() != LATE);
        DumpOrder { hold, ..order.clone() }
    }
}

#[async_trait]
impl Fleet for Late<'_> {
    async fn describe(&self, component: &Component) -> Result<Found> {
        self.inner.describe(component).await
    }

    async fn ready_to_hold(&self, component: &Component) -> Result<Option<String>> {
        self.inner.ready_to_hold(component).await
    }

    async fn prepare_hold(&self, component: &Component, run: &RunKey) -> Result<Box<dyn Hold>> {
        let inner = self.inner.prepare_hold(component, run).await?;
        Ok(Box::new(Shortened { inner, proves_nothing: self.proves_nothing }))
    }

    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()> {
        if order.component.as_str() == LATE {
            let before = self.writers.rounds();
            let end = Instant::now() + Duration::from_secs(20);
            while self.writers.rounds() <= before + 30 {
                assert!(Instant::now() < end, "the writers do not go on: {} rounds", self.writers.rounds() - before);
                tokio::task::yield_now().await;
            }
        }
        self.inner.open_snapshot(&Self::order(order)).await
    }

    async fn dump(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord> {
        self.inner.dump(&Self::order(order), progress).await
    }

    async fn stage(&self, order: &LoadOrder<'_>, progress: OnProgress<'_>) -> Result<LoadReport> {
        self.inner.stage(order, progress).await
    }

    async fn paths(&self, component: &Component, key: &OpKey) -> Result<Box<dyn Paths>> {
        self.inner.paths(component, key).await
    }

    async fn commit(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<LoadReport> {
        self.inner.commit(component, key, progress).await
    }

    async fn rollback(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()> {
        self.inner.rollback(component, key, progress).await
    }

    async fn finalize(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()> {
        self.inner.finalize(component, key, progress).await
    }

    async fn cancel_run(&self, component: &Component, run: &RunKey) -> Result<usize> {
        self.inner.cancel_run(component, run).await
    }

    async fn at_work(&self, component: &Component, run: &RunKey) -> Result<Option<String>> {
        self.inner.at_work(component, run).await
    }
}

struct Silent;

impl Reporter for Silent {
    fn event(&self, _: &Plan, _: &Event) {}
    fn progress(&self, _: &Plan, _: &Step, _: Progress) {}
    fn say(&self, _: &Plan, _: &str) {}
}

/// Backs up the first installation of a house, whose topology must have a lease of ten seconds and one attempt. Gives how that ended.
///
/// # Panics
/// When something else goes wrong than what is wrong on purpose.
pub async fn back_up(house: &House, writers: &Writers, proves_nothing: bool) -> (Outcome, String, SetId) {
    let app = App::load(&house.scratch.path().join("keepsake.yaml"), None, &Told::default()).expect("the topology");
    let installation = app.topology.installation(None).expect("the installation");
    let repository = app.repository().await.expect("the repository");
    let signing = app.signing_key().expect("the signing key");
    let fleet = Late { inner: app.fleet(installation).expect("the agents"), writers, proves_nothing };
    let inventory = Inventory::ask(installation, &fleet).await;
    let plan = plan::backup::plan(installation, &inventory, &[], SetId::generate()).expect("a plan");
    let runs = app.runs().expect("the runs");
    let (head, log) = claim::begin(&runs, &installation.name, &plan).await.expect("an epoch");
    let (fleet, repository) = (&fleet, &repository);
    let world = World { fleet, platform: None, repository, signing: Some(&signing), source: None, planner: None };
    let runner = Runner::new(&head, world, Box::new(log), &Silent, CancellationToken::new());
    let (outcome, note) = Box::pin(runner.execute()).await.expect("a run");
    (outcome, note, plan.set.expect("a set"))
}
