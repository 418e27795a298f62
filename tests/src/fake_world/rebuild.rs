//! An installation of the fake world that is gone and built anew: nothing of it answers before it is, and then it holds what its operator made.

use async_trait::async_trait;
use keepsake_coordinator::inventory::Inventory;
use keepsake_coordinator::plan::restore::Wishes;
use keepsake_coordinator::plan::{self, Plan};
use keepsake_coordinator::run::Planner;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;

use super::lab::Lab;
use super::{FakeWorld, NEW, OLD};

const TOPOLOGY: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    consistency: preferred
    platform: kubernetes
    kubernetes: { namespace: threescale, resync: [zync-domains], deadline: 30 }
    components:
      - { name: sql, engine: fake, agent: 'http://127.0.0.1:1' }
      - { name: redis, engine: fake, agent: 'http://127.0.0.1:2' }
";

/// How far an installation is that is built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// There is none of its agents, and nothing runs.
    Empty,
    /// Its stores hold what its operator made.
    Built,
}

/// Whether this is the component of the cluster's objects, which nobody writes to but a load.
pub(super) fn are_objects(component: &Component) -> bool {
    component.as_str() == keepsake_core::format::objects::COMPONENT
}

impl FakeWorld {
    /// There is no installation.
    pub fn is_gone(&self) {
        let mut state = self.lock();
        state.site = Some(Site::Empty);
        state.running = false;
    }

    /// Whether there is no installation (any more, or yet).
    pub fn is_unbuilt(&self) -> bool {
        self.lock().site == Some(Site::Empty)
    }

    /// An agent of an installation that is not there does not answer.
    pub(super) fn must_be_there(&self, component: &Component) -> Result<()> {
        if self.is_unbuilt() && !are_objects(component) {
            return Err(Error::new(Kind::Unavailable, format!("there is no agent of {component} yet")));
        }
        Ok(())
    }

    /// The operator builds of the objects that it finds.
    pub(super) fn build(&self) -> Result<()> {
        self.enter("await-installation", "await-installation")?;
        {
            let mut state = self.lock();
            if state.stores.iter().any(|(name, store)| are_objects(name) && store.base() != NEW) {
                state.violations.push("an installation is waited for that has no objects to be built from".to_owned());
            }
            if state.site == Some(Site::Empty) {
                state.site = Some(Site::Built);
                state.running = true;
                state.since_start.clear();
            }
        }
        self.leave("await-installation")
    }

    /// The second plan is durable. Whoever is fenced may plan, too, as that changes nothing.
    pub(super) fn is_planned(&self) {
        let mut state = self.lock();
        if state.running || state.site != Some(Site::Built) {
            let text = format!("the data is planned while the applications run, or before they can: {:?}", state.site);
            state.violations.push(text);
        }
    }

    /// What is wrong with an installation that was to be built anew, when the run is over.
    pub(super) fn wrongly_built(&self) -> Option<String> {
        let state = self.lock();
        let site = state.site?;
        let bases: Vec<_> = state.stores.iter().map(|(name, s)| (are_objects(name), s.base().to_owned())).collect();
        let is_well = match site {
            Site::Empty => bases.iter().all(|(_, base)| base == OLD),
            Site::Built => bases.iter().all(|(objects, base)| !objects || base == NEW),
        };
        (!is_well).then(|| format!("the installation is {site:?}, and what there is of it is {:?}", state.stores))
    }
}

impl Lab {
    /// An installation whose objects are in the set, too, and that can be built anew from them.
    pub async fn of_a_cluster() -> Self {
        Self::of(TOPOLOGY).await
    }

    /// Both plans of a rebuild, the second as it is expected.
    pub fn two_plans(&self) -> (Plan, Plan) {
        self.two_plans_by(By::Scale, By::Scale).expect("plans")
    }

    /// The same where the topology says at first, and then, how applications are stopped.
    ///
    /// # Errors
    /// As of every plan.
    pub fn two_plans_by(&self, first: By, second: By) -> Result<(Plan, Plan)> {
        let wishes = Wishes { rebuilt: true, ..Wishes::default() };
        let by = |by: By| {
            let mut installation = self.installation.clone();
            installation.kubernetes.as_mut().expect("a cluster").by = by;
            installation
        };
        let built = plan::rebuild::plan(&by(first), &self.record, Some(wishes.clone()))?;
        Ok((built, plan::rebuild::expected(&by(second), &self.record, &wishes)?))
    }

    /// The plan of a rebuild, with its data or without, where a person stops the applications.
    ///
    /// # Errors
    /// As of every plan.
    pub fn rebuild_by_hand(&self, with_data: bool) -> Result<Plan> {
        let mut installation = self.installation.clone();
        installation.kubernetes.as_mut().expect("a cluster").by = By::None;
        plan::rebuild::plan(&installation, &self.record, with_data.then(Wishes::default))
    }

    /// The plan that builds it, and goes on into the data if that is wished for.
    pub(super) fn rebuild(&self, then: Option<Wishes>) -> Plan {
        plan::rebuild::plan(&self.installation, &self.record, then).expect("a plan")
    }
}

/// Who plans the data in the fake world.
pub(super) struct FakePlanner<'a> {
    pub(super) lab: &'a Lab,
    pub(super) world: &'a FakeWorld,
}

#[async_trait]
impl Planner for FakePlanner<'_> {
    async fn plan(&self, wishes: &Wishes) -> Result<Plan> {
        self.world.look("plan")?;
        let inventory = Inventory::ask(&self.lab.installation, self.world).await;
        let plan = plan::restore::plan(&self.lab.installation, &inventory, &self.lab.record, wishes)?;
        self.world.leave("plan")?;
        Ok(plan)
    }
}
