//! The policy for queues in plans.

use std::collections::BTreeMap;

use keepsake_coordinator::inventory::{Found, Inventory};
use keepsake_coordinator::plan::restore::{self, Wishes};
use keepsake_coordinator::plan::{Action, Plan};
use keepsake_coordinator::topology::{InstallationSettings, Topology};
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, Epoch, RepositoryId, SetId};
use keepsake_core::queues::{QueuePolicy, job_facts};
use keepsake_core::record::{
    ArtifactRecord, ComponentRecord, DumpRecord, DumpReport, Facts, Purpose, Record, Sealing, Status,
};

const TOPOLOGY: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    consistency: none
    components:
      - { name: system-mysql, engine: mysql, agent: 'http://127.0.0.1:1' }
      - { name: backend-redis, engine: redis, agent: 'http://127.0.0.1:2' }
      - { name: backend-queues, engine: redis, agent: 'http://127.0.0.1:3' }
      - { name: system-redis, engine: redis, agent: 'http://127.0.0.1:4' }
";

fn component(name: &str) -> Component {
    name.parse().unwrap()
}

fn dumped(name: &str, engine: &str, facts: Facts) -> ComponentRecord {
    let artifact = ArtifactRecord {
        artifact: "dump".parse().unwrap(),
        attempt: keepsake_core::id::Attempt::generate(),
        length: 0,
        segments: Vec::new(),
    };
    ComponentRecord {
        component: component(name),
        engine: engine.parse().unwrap(),
        dump: Some(DumpRecord { report: DumpReport { facts, ..DumpReport::default() }, artifacts: vec![artifact] }),
        failure: None,
    }
}

fn record() -> Record {
    let facts = |jobs: &[(&str, u64)]| {
        job_facts(&jobs.iter().map(|(name, n)| (name.as_bytes().to_vec(), *n)).collect::<BTreeMap<_, _>>())
    };
    let now = clock::now();
    Record {
        format: 1,
        reads_from: 1,
        repository: RepositoryId::generate(),
        installation: "prod".parse().unwrap(),
        set: SetId::generate(),
        epoch: Epoch(4),
        plan_sha256: String::new(),
        purpose: Purpose::Backup,
        status: Status::Complete,
        started: now,
        finished: now,
        keepsake_version: "0.1.0".to_owned(),
        sealing: Sealing::None,
        cut: None,
        no_cut: None,
        release: Facts::new(),
        left_out: Vec::new(),
        rows_without_file: None,
        files_elsewhere: None,
        components: vec![
            dumped("system-mysql", "mysql", Facts::new()),
            dumped("backend-redis", "redis", facts(&[("resque:queue:priority", 12), ("resque:failed", 1)])),
            dumped("backend-queues", "redis", facts(&[("resque:queue:priority", 5)])),
            // Dumped by an agent that did not count jobs.
            dumped("system-redis", "redis", Facts::new()),
        ],
    }
}

fn installation() -> InstallationSettings {
    Topology::parse(TOPOLOGY, std::path::Path::new("/")).unwrap().installations.remove(0)
}

fn plan(only: &[&str], queues: &[(&str, QueuePolicy)]) -> Result<Plan> {
    let installation = installation();
    let found = |engine: &str| Found {
        engine: engine.parse().unwrap(),
        server: "Server 1.0".to_owned(),
        agent_version: "0.1.0".to_owned(),
        size: 10,
        facts: Facts::new(),
        problems: Vec::new(),
        cannot_undo: Some("the live data is gone".to_owned()),
        cannot_hold: None,
        cannot_load: None,
        in_place_is_whole: false,
        in_place_is_told: false,
        staging_free: None,
        loads: Vec::new(),
    };
    let inventory =
        Inventory::from_answers(installation.components.iter().map(|c| (c.name.clone(), Ok(found(c.engine.as_str())))));
    let only: Vec<_> = only.iter().map(|n| component(n)).collect();
    let queues: Vec<_> = queues.iter().map(|(n, p)| (component(n), *p)).collect();
    restore::plan(&installation, &inventory, &record(), &Wishes { only, queues, ..Wishes::default() })
}

/// What is staged, and with which policy.
fn staged(plan: &Plan) -> Vec<(&str, QueuePolicy)> {
    plan.steps()
        .filter_map(|s| match &s.action {
            Action::Stage { component, queues, .. } => Some((component.as_str(), *queues)),
            _ => None,
        })
        .collect()
}

#[test]
fn queues_plans_say_what_becomes_of_the_jobs() {
    let named = |plan: Plan| plan.to_string().replace(&plan.set.expect("a set").to_string(), "SET");
    insta::assert_snapshot!("restore", named(plan(&[], &[]).unwrap()));
    let asked = [
        ("backend-redis", QueuePolicy::Keep),
        ("backend-queues", QueuePolicy::Restore),
        ("system-redis", QueuePolicy::Drop),
    ];
    let plan = plan(&[], &asked).unwrap();
    insta::assert_snapshot!("policies", named(plan.clone()));
    // As it is journalled: an older coordinator's plan has no policy and means `restore`.
    let json = serde_json::to_value(&plan).unwrap();
    insta::assert_snapshot!("journalled", serde_json::to_string_pretty(&json["stages"][0]["steps"]).unwrap());
    assert_eq!(serde_json::from_value::<Plan>(json).unwrap(), plan);
}

#[test]
fn queues_server_is_restored_only_when_it_is_named() {
    let restore = QueuePolicy::Restore;
    let all = [("system-mysql", restore), ("backend-redis", restore), ("system-redis", restore)];
    assert_eq!(staged(&plan(&[], &[]).unwrap()), all);
    for policy in [restore, QueuePolicy::Keep, QueuePolicy::Drop] {
        let plan = plan(&[], &[("backend-queues", policy)]).unwrap();
        assert!(staged(&plan).contains(&("backend-queues", policy)));
    }
    assert_eq!(staged(&plan(&["backend-queues"], &[]).unwrap()), [("backend-queues", restore)]);
}

#[test]
fn queues_of_what_has_none_or_is_not_restored_are_refused() {
    let drop = QueuePolicy::Drop;
    let refused = |only: &[&str], queues: &[(&str, QueuePolicy)]| -> Error {
        let error = plan(only, queues).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        error
    };
    assert!(refused(&[], &[("system-mysql", drop)]).chain().contains("no queues"));
    assert!(refused(&[], &[("nobody", drop)]).chain().contains("no component nobody"));
    assert!(refused(&["system-mysql"], &[("system-redis", drop)]).chain().contains("--component"));
    let twice = [("system-redis", drop), ("system-redis", QueuePolicy::Keep)];
    assert!(refused(&[], &twice).chain().contains("two things"));
    // To say nothing in words is not wrong.
    plan(&[], &[("system-mysql", QueuePolicy::Restore)]).unwrap();
}
