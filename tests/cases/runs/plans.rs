//! Plans as people read them, and what is refused before anything begins.

use keepsake_coordinator::inventory::Inventory;
use keepsake_coordinator::plan::restore::Wishes;
use keepsake_coordinator::plan::{self, Action, Plan, take_back};
use keepsake_coordinator::topology::kubernetes::ResyncTask;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{RunId, SetId};
use keepsake_core::record::Record;

use super::house::House;

const WITH_HOOKS: &str = "
repository: { url: 'file:///unused' }
installations:
  - name: prod
    hooks: { quiesce: [[systemctl, stop, zync, system-app], [drain, --wait]], resume: [[systemctl, start, system-app, zync]] }
    components:
      - { name: system-mysql, engine: fake, agent: 'http://127.0.0.1:1' }
      - { name: backend-redis, engine: fake, agent: 'http://127.0.0.1:2' }
      - { name: zync-database, engine: fake, agent: 'http://127.0.0.1:3' }
";

/// Two components whose load can be undone, and one whose load cannot.
async fn house() -> (House, Record) {
    let house = House::with(WITH_HOOKS).await;
    house.fleet.can_undo("system-mysql");
    house.fleet.can_undo("zync-database");
    house.back_up().await.unwrap();
    let record = house.latest().await.unwrap();
    (house, record)
}

async fn planned(house: &House, record: &Record, wishes: Wishes) -> Result<Plan> {
    let inventory = Inventory::ask(&house.installation, &house.fleet).await;
    plan::restore::plan(&house.installation, &inventory, record, &wishes)
}

fn safe() -> Wishes {
    Wishes { safety: Some(SetId::generate()), ..Wishes::default() }
}

fn named(plan: &Plan) -> String {
    let text = plan.to_string().replace(&plan.set.expect("a set").to_string(), "SET");
    match plan.made_set() {
        Some((made, _, _)) => text.replace(&made.to_string(), "SAFETY"),
        None => text,
    }
}

#[tokio::test]
async fn plans_read_as_people_need_them() {
    let without_hooks = House::new().await;
    without_hooks.back_up().await.unwrap();
    let record = without_hooks.latest().await.unwrap();
    insta::assert_snapshot!("backup", named(&without_hooks.plan_backup().await));
    insta::assert_snapshot!("restore", named(&without_hooks.plan_restore(&record).await));

    let (house, record) = house().await;
    insta::assert_snapshot!("restore-with-hooks", named(&planned(&house, &record, safe()).await.unwrap()));
    let wishes = Wishes { keep_old: true, only: vec!["zync-database".parse().unwrap()], ..safe() };
    insta::assert_snapshot!("restore-one-keep-old", named(&planned(&house, &record, wishes).await.unwrap()));
    let wishes = Wishes { in_place: true, ..Wishes::default() };
    insta::assert_snapshot!("restore-in-place-without-safety", named(&planned(&house, &record, wishes).await.unwrap()));
}

/// On a cluster more follows once nothing goes back any more.
#[tokio::test]
async fn plans_on_kubernetes_say_what_follows() {
    let on = async |settings: &str| {
        let hooks = WITH_HOOKS.lines().find(|l| l.contains("hooks:")).expect("hooks");
        let platform =
            format!("    platform: kubernetes\n    kubernetes: {{ namespace: threescale, objects: false{settings} }}");
        let house = House::with(&WITH_HOOKS.replace(hooks, &platform)).await;
        house.back_up().await.unwrap();
        let record = house.latest().await.unwrap();
        (house, record)
    };
    let (house, record) = on("").await;
    insta::assert_snapshot!("restore-on-kubernetes", named(&planned(&house, &record, safe()).await.unwrap()));
    let (house, record) = on(", by: none").await;
    insta::assert_snapshot!("restore-on-kubernetes-by-hand", named(&planned(&house, &record, safe()).await.unwrap()));
    let only = vec!["backend-redis".parse().unwrap()];
    let plan = planned(&house, &record, Wishes { only, ..Wishes::default() }).await.unwrap();
    assert!(!plan.to_string().contains("rake"), "nothing of System's database was restored: {plan}");
    let (house, record) = on(", resync: []").await;
    let plan = planned(&house, &record, Wishes::default()).await.unwrap();
    assert!(!plan.to_string().contains("rake"), "{plan}");
    assert!(plan.needs_platform() && plan.follows());
}

/// What a plan of today says is read as it was written, also by whoever goes on with it later.
#[tokio::test]
async fn plans_on_kubernetes_are_read_as_they_were_written() {
    let step = |text: &str| serde_json::from_str::<Action>(text).unwrap();
    let task = r#"{"action":"resync","namespace":"threescale","task":"zync-domains"}"#;
    let read = step(task);
    assert_eq!(read, Action::Resync { namespace: "threescale".to_owned(), task: ResyncTask::ZyncDomains });
    assert_eq!(serde_json::to_string(&read).unwrap(), task);
    assert_eq!(read.step_id().unwrap().as_str(), "resync-zync-domains");
    let rollout = r#"{"action":"roll-out","namespace":"threescale","workloads":["system-app"]}"#;
    assert_eq!(serde_json::to_string(&step(rollout)).unwrap(), rollout);
    let check = r#"{"action":"check-applications","namespace":"threescale"}"#;
    assert_eq!(serde_json::to_string(&step(check)).unwrap(), check);
}

#[tokio::test]
async fn plans_of_what_becomes_of_the_old_data_read_as_people_need_them() {
    let (house, record) = house().await;
    let run = RunId::generate();
    let components = ["system-mysql", "zync-database"].map(|n| n.parse().unwrap()).to_vec();
    let restored = take_back::Restored { run, epoch: record.epoch.next(), set: record.set, components };
    let finalize = async || {
        let inventory = Inventory::ask(&house.installation, &house.fleet).await;
        take_back::finalize(&house.installation, &inventory, &restored)
    };
    let rollback = async || {
        let inventory = Inventory::ask(&house.installation, &house.fleet).await;
        take_back::rollback(&house.installation, &inventory, &restored)
    };
    assert_eq!(finalize().await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(rollback().await.unwrap_err().kind(), Kind::NotFound);
    house.fleet.keeps("system-mysql", run);
    // A part of it can be dropped; a part of it cannot be put back.
    finalize().await.unwrap();
    let refused = rollback().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.chain().contains("zync-database"), "{}", refused.chain());
    house.fleet.keeps("zync-database", run);
    insta::assert_snapshot!("finalize", named(&finalize().await.unwrap()));
    insta::assert_snapshot!("rollback", named(&rollback().await.unwrap()));
}

#[tokio::test]
async fn what_stands_against_a_restore_is_said_before_it_begins() {
    let (house, mut record) = house().await;
    let refused = async |record: &Record, wishes: Wishes| -> Error {
        let calls = house.fleet.calls().len();
        let error = planned(&house, record, wishes).await.unwrap_err();
        assert!(house.fleet.calls()[calls..].iter().all(|c| c.starts_with("describe-")));
        error
    };

    // Too little room, with figures and the remedy; in place it is enough.
    let length =
        record.component(&"zync-database".parse().unwrap()).unwrap().dump.as_ref().unwrap().artifacts[0].length;
    house.fleet.room("zync-database", length - 1);
    let error = refused(&record, safe()).await;
    assert_eq!(error.kind(), Kind::Busy);
    for word in ["zync-database", "--in-place", &length.to_string(), &(length - 1).to_string()] {
        assert!(error.chain().contains(word), "{word}: {}", error.chain());
    }
    planned(&house, &record, Wishes { in_place: true, ..safe() }).await.unwrap();
    house.fleet.room("zync-database", length);
    planned(&house, &record, safe()).await.unwrap();

    // Another release, unless it is asked for.
    record.release.insert("schema_migrations".to_owned(), "20260619102359".to_owned());
    let unknown = planned(&house, &record, safe()).await.unwrap();
    assert!(unknown.notes.iter().any(|n| n.contains("cannot be told")), "{:?}", unknown.notes);
    house.fleet.fact("system-mysql", "schema_migrations", "20260619102359");
    let same = planned(&house, &record, safe()).await.unwrap();
    assert!(!same.notes.iter().any(|n| n.contains("release")), "{:?}", same.notes);
    house.fleet.fact("system-mysql", "schema_migrations", "20270101000000");
    let error = refused(&record, safe()).await;
    assert_eq!(error.kind(), Kind::Conflict);
    for word in ["20260619102359", "20270101000000", "--other-release"] {
        assert!(error.chain().contains(word), "{word}: {}", error.chain());
    }
    let asked = planned(&house, &record, Wishes { other_release: true, ..safe() }).await.unwrap();
    assert!(asked.notes.iter().any(|n| n.contains("another release")), "{:?}", asked.notes);

    // Old data of an earlier restore, also of a component that is not restored now.
    record.release.clear();
    house.fleet.keeps("system-mysql", RunId::generate());
    let only = vec!["zync-database".parse().unwrap()];
    let error = refused(&record, Wishes { only, ..safe() }).await;
    assert_eq!(error.kind(), Kind::Conflict);
    for word in
        ["system-mysql", "keepsake finalize --installation prod", "rollback --installation prod --discard-writes"]
    {
        assert!(error.chain().contains(word), "{word}: {}", error.chain());
    }
    // A backup works all the same.
    house.back_up().await.unwrap();
}

#[tokio::test]
async fn a_set_of_which_a_segment_is_gone_or_cut_short_is_found_without_reading_it() {
    let (house, record) = house().await;
    let all: Vec<_> = record.components.iter().map(|c| c.component.clone()).collect();
    assert_eq!(house.repository.look_for_segments(&record, &all).await.unwrap(), 3);
    let mut lost = record.clone();
    let mut short = record.clone();
    lost.components[1].dump.as_mut().unwrap().artifacts[0].segments[0].key.push_str("-9");
    short.components[1].dump.as_mut().unwrap().artifacts[0].segments[0].stored += 1;
    for (record, word) in [(&lost, "is missing"), (&short, "bytes instead of")] {
        let error = house.repository.look_for_segments(record, &all).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.chain().contains(word) && error.chain().contains("backend-redis"), "{}", error.chain());
        // What is not restored is not looked at.
        house.repository.look_for_segments(record, &all[..1]).await.unwrap();
    }
}
