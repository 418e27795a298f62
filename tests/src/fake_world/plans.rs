//! The plans that the crash loop runs.

use keepsake_coordinator::inventory::Inventory;
use keepsake_coordinator::plan::restore::Wishes;
use keepsake_coordinator::plan::take_back::{self, Restored};
use keepsake_coordinator::plan::{self, Action, LiveLook, Plan, Stage, Undo};
use keepsake_coordinator::run::claim;
use keepsake_coordinator::run::event::Outcome;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_core::config::AlertLevels;
use keepsake_core::id::{Component, SetId};
use keepsake_core::repository::runs::Runs;

use super::lab::{Begin, Case, Fate, Kinds, Lab, names};
use super::{FakeWorld, Flaw};

/// Where the applications are scaled.
const SCALED: &str = "by: scale, resync: [zync-domains, search-index]";
/// Where a person stops and starts them.
const BY_HAND: &str = "by: none, resync: [cache-flush]";

/// Where Routes lead callers in, and jobs wait in Backend's queues.
const BY_ROUTES: &str = "by: routes, drain: { deadline: 30 }, resync: [zync-domains]";
/// The same where nothing may be left in them.
const DRAINED: &str = "by: routes, drain: { deadline: 30, otherwise: fail }, resync: [zync-domains]";

/// System's database and Backend's storage.
const OF_3SCALE: [(&str, &str); 2] = [("system-mysql", "mysql"), ("backend-redis", "redis")];

fn on_kubernetes(settings: &str, components: [(&str, &str); 2]) -> String {
    let [(first, first_engine), (second, second_engine)] = components;
    format!(
        "
repository: {{ url: 'file:///unused' }}
installations:
  - name: prod
    consistency: preferred
    platform: kubernetes
    kubernetes: {{ namespace: threescale, objects: false, {settings} }}
    components:
      - {{ name: {first}, engine: {first_engine}, agent: 'http://127.0.0.1:1' }}
      - {{ name: {second}, engine: {second_engine}, agent: 'http://127.0.0.1:2' }}
"
    )
}

impl Lab {
    /// As [`Lab::new`], where the applications run on Kubernetes and are scaled.
    pub async fn on_kubernetes() -> Self {
        Self::of(&on_kubernetes(SCALED, [("sql", "fake"), ("redis", "fake")])).await
    }

    /// As [`Lab::on_kubernetes`], where a person stops and starts them.
    pub async fn by_hand() -> Self {
        Self::of(&on_kubernetes(BY_HAND, [("sql", "fake"), ("redis", "fake")])).await
    }

    /// As [`Lab::on_kubernetes`], behind Routes, with System's database and Backend's storage.
    pub async fn by_routes() -> Self {
        Self::of(&on_kubernetes(BY_ROUTES, OF_3SCALE)).await
    }

    /// As [`Lab::by_routes`], where a restore fails if jobs are left in the queues.
    pub async fn drained() -> Self {
        Self::of(&on_kubernetes(DRAINED, OF_3SCALE)).await
    }

    /// The plan of a restore, for whoever looks at that alone.
    pub async fn plan_of_a_restore(&self) -> Plan {
        let world = FakeWorld::new(self.store.clone(), self.installation.name.clone(), &names(&self.installation), &[]);
        self.plan(Kinds::Restore, &world.with_dumps_of(&self.record), &super::lab::runs()).await
    }

    pub(super) fn has_routes(&self) -> bool {
        self.installation.kubernetes.as_ref().is_some_and(|k| k.by == By::Routes)
    }

    pub(super) fn is_by_hand(&self) -> bool {
        self.installation.kubernetes.as_ref().is_some_and(|k| k.by == By::None)
    }

    pub(super) async fn plan(&self, kind: Kinds, world: &FakeWorld, runs: &Runs) -> Plan {
        let inventory = Inventory::ask(&self.installation, world).await;
        let (installation, record) = (&self.installation, &self.record);
        let only: Vec<Component> = match kind {
            Kinds::OnlySystem | Kinds::KeepSystem | Kinds::RollbackSystem => {
                vec!["system-mysql".parse().expect("a name")]
            }
            Kinds::OnlyBackend => vec!["backend-redis".parse().expect("a name")],
            _ => Vec::new(),
        };
        let restore = |inventory: &Inventory, keep_old| {
            let only = only.clone();
            let wishes = Wishes { safety: Some(SetId::generate()), keep_old, only, ..Wishes::default() };
            plan::restore::plan(installation, inventory, record, &wishes).expect("a plan")
        };
        match kind {
            Kinds::Backup => plan::backup::plan(installation, &inventory, &[], SetId::generate()).expect("a plan"),
            Kinds::Rebuild => {
                let wishes = Wishes { safety: Some(SetId::generate()), rebuilt: true, ..Wishes::default() };
                self.rebuild(Some(wishes))
            }
            Kinds::ObjectsOnly => self.rebuild(None),
            Kinds::Restore | Kinds::Mixed | Kinds::OnlySystem | Kinds::OnlyBackend => restore(&inventory, false),
            Kinds::KeepOld | Kinds::KeepSystem => restore(&inventory, true),
            Kinds::Resync => {
                let pair = plan::config::must_pair(installation, AlertLevels::default()).expect("a pair");
                let live = Some(LiveLook { keys_per_second: 0, settle: 1 });
                plan::resync::plan(installation, &inventory, &pair, live).expect("a plan")
            }
            Kinds::Finalize | Kinds::Rollback | Kinds::RollbackSystem => {
                let plan = restore(&inventory, true);
                let (head, log) = claim::begin(runs, &installation.name, &plan).await.expect("an epoch");
                let (run, epoch, set) = (head.run, head.epoch, plan.set.expect("a set"));
                let begin = Begin { head, log, story: None, turns: None };
                let ended = Box::pin(self.coordinator(world, runs, None, None, begin, &mut Vec::new())).await;
                assert!(matches!(ended, Fate::Ended(Ok((Outcome::Completed, _)))), "the restore before failed");
                let inventory = Inventory::ask(installation, world).await;
                let components = if only.is_empty() { names(installation) } else { only.clone() };
                let of = Restored { run, epoch, set, components };
                let plan = if kind == Kinds::Finalize { take_back::finalize } else { take_back::rollback };
                plan(installation, &inventory, &of).expect("a plan")
            }
        }
    }
}

/// What a flaw of the plan does to it.
pub(super) fn break_plan(plan: &mut Plan, case: &Case) {
    match case.flaw {
        Some(Flaw::FailedIsNotUndone) => {
            for step in plan.stages.iter_mut().flat_map(|s| &mut s.steps) {
                if case.wrong.iter().any(|(name, _)| name == step.id.as_str()) {
                    step.undo = Undo::Nothing;
                }
            }
        }
        Some(Flaw::ConfigIsNotRemembered) => {
            plan.stages.retain(|s| s.steps.iter().all(|step| !matches!(step.action, Action::RememberConfig { .. })));
        }
        Some(Flaw::QueuesAreNotAwaited) => {
            plan.stages.retain(|s| s.steps.iter().all(|step| !matches!(step.action, Action::Drain { .. })));
        }
        Some(Flaw::RoutesStayOpen) => {
            plan.stages.retain(|s| s.steps.iter().all(|step| !matches!(step.action, Action::CloseRoutes { .. })));
        }
        Some(Flaw::FollowsTooEarly) => {
            let follows = |s: &Stage| s.steps.iter().any(|step| matches!(step.action, Action::Resync { .. }));
            if let Some(at) = plan.stages.iter().position(follows) {
                let stage = plan.stages.remove(at);
                plan.stages.insert(1, stage);
            }
        }
        Some(Flaw::NothingIsFinal) => {
            plan.stages.retain(|s| s.steps.iter().all(|step| step.action != Action::PointOfNoReturn));
        }
        _ => {}
    }
}
