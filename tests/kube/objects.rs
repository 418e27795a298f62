//! Secrets, ConfigMaps and 3scale's own objects: into a set and back, into the same namespace and an empty one, whoever dies between two writes.

mod dies;

use std::collections::BTreeMap;

use keepsake_coordinator::fleet::{DumpOrder, Fleet, LoadOrder, LoadReport, OpKey, Opening};
use keepsake_coordinator::inventory::Staged;
use keepsake_coordinator::plan::objects::ObjectPolicy;
use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::platform::kubernetes::objects::Objects;
use keepsake_core::Kind;
use keepsake_core::error::Result;
use keepsake_core::id::{Component, RunKey, SetId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{ComponentRecord, Sealing};
use keepsake_core::repository::Store;
use keepsake_core::repository::seal::SetKey;
use keepsake_core::secret::Secret;
use keepsake_tests::cluster::{ControlPlane, Raw, objects, openshift, skeleton};
use keepsake_tests::scratch::Scratch;
use kube::Client;
use serde_json::{Value, json};

use super::{run, settings};

pub(super) const NAMESPACE: &str = "threescale";
const REPLACE: ObjectPolicy = ObjectPolicy::Replace { endpoints: false };
pub(super) const REPLACE_ALL: ObjectPolicy = ObjectPolicy::Replace { endpoints: true };

/// A control plane with the objects of an installation, and a set of them.
pub(super) struct Ground {
    plane: ControlPlane,
    pub(super) client: Client,
    store: Store,
    _scratch: Scratch,
    set: SetId,
    key: SetKey,
    pub(super) entry: ComponentRecord,
}

pub(super) type Picture = BTreeMap<String, Value>;

impl Ground {
    pub(super) async fn open(test: &str) -> Option<Self> {
        let plane = ControlPlane::start(test).await?;
        let client = plane.client().await;
        openshift::define_apimanager(&client).await;
        openshift::define_capabilities(&client).await;
        skeleton::namespace(&client, NAMESPACE).await;
        objects::build(&client, NAMESPACE).await;
        let scratch = Scratch::new();
        let store = Store::open(&format!("file://{}", scratch.path().display())).expect("a store");
        let (set, key) = (SetId::generate(), SetKey::generate());
        let component: Component = "objects".parse().expect("a name");
        let entry =
            ComponentRecord { component, engine: "objects".parse().expect("a name"), dump: None, failure: None };
        let mut ground = Self { plane, client, store, _scratch: scratch, set, key, entry };
        ground.entry.dump = Some(ground.dump(NAMESPACE).await.unwrap_or_else(|e| panic!("{}", e.chain())));
        Some(ground)
    }

    pub(super) fn objects(&self, namespace: &str, client: &Client) -> Objects {
        let cluster = Kubernetes::over(settings(namespace, self.plane.kubeconfig()), client.clone());
        Objects::new(cluster, "prod".parse().expect("a name"), self.store.clone())
    }

    async fn dump(&self, namespace: &str) -> Result<keepsake_core::record::DumpRecord> {
        let sealing = Sealing::Age { recipient: self.key.recipient().to_owned(), key_age_base64: String::new() };
        let key = OpKey { run: run(1), step: "dump-objects".parse().expect("a name") };
        let order = DumpOrder { component: &self.entry.component, key, set: self.set, sealing: &sealing, hold: None };
        self.objects(namespace, &self.client).dump(&order, &|_| {}).await
    }

    pub(super) async fn stage(&self, objects: &Objects, run: &RunKey, policy: ObjectPolicy) -> Result<LoadReport> {
        let order = LoadOrder {
            key: self.op(run),
            set: self.set,
            entry: &self.entry,
            opening: &Opening::Age(Secret::new(self.key.identity().expose())),
            queues: QueuePolicy::Restore,
            in_place: false,
            objects: policy,
        };
        objects.stage(&order, &|_| {}).await
    }

    fn op(&self, run: &RunKey) -> OpKey {
        OpKey { run: run.clone(), step: "stage-objects".parse().expect("a name") }
    }

    pub(super) async fn commit(&self, objects: &Objects, run: &RunKey) -> Result<LoadReport> {
        objects.commit(&self.entry.component, &self.op(run), &|_| {}).await
    }

    pub(super) async fn rollback(&self, objects: &Objects, run: &RunKey) -> Result<()> {
        objects.rollback(&self.entry.component, &self.op(run), &|_| {}).await
    }

    pub(super) async fn finalize(&self, objects: &Objects, run: &RunKey) -> Result<()> {
        objects.finalize(&self.entry.component, &self.op(run), &|_| {}).await
    }

    /// Changes some objects and deletes others.
    pub(super) async fn wreck(&self) {
        for gone in ["system-smtp", "system-seed", "my-custom-policy"] {
            self.client.remove(&format!("{}/{gone}", objects::path(NAMESPACE, "secret"))).await;
        }
        self.client.remove(&format!("{}/redis-config", objects::path(NAMESPACE, "configmap"))).await;
        for changed in ["system-app", "system-database", "backend-redis"] {
            let at = format!("{}/{changed}", objects::path(NAMESPACE, "secret"));
            self.client.merge(&at, json!({ "data": { "SURPLUS": "eA==" } })).await;
        }
        let manager = format!("{}/apimanager-sample", objects::path(NAMESPACE, "apimanager"));
        self.client.merge(&manager, json!({ "spec": { "wildcardDomain": "wrecked.example.com" } })).await;
    }

    pub(super) async fn picture(&self) -> Picture {
        objects::picture(&self.client, NAMESPACE).await
    }
}

pub(super) fn told<T>(done: Result<T>) -> T {
    done.unwrap_or_else(|e| panic!("{}", e.chain()))
}

pub(super) fn must_be(found: &Picture, expected: &Picture, what: &str) {
    let names = |p: &Picture| p.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, object) in expected {
        assert_eq!(&found[name], object, "{what}: {name}");
    }
}

#[tokio::test]
async fn kube_objects_come_back_as_they_were() {
    let Some(ground) = Ground::open("kube_objects_come_back_as_they_were").await else { return };
    let before = ground.picture().await;
    what_is_in_the_set(&ground);
    comes_back(&ground, &before).await;
    endpoints_stay(&ground, &before).await;
    into_an_empty_namespace(&ground).await;
    what_is_refused(&ground, &before).await;
    somebody_is_faster(&ground, &before).await;
}

fn what_is_in_the_set(ground: &Ground) {
    let dump = ground.entry.dump.as_ref().expect("a dump");
    let mut names: Vec<_> = dump.artifacts.iter().map(|a| a.artifact.to_string()).collect();
    names.sort();
    assert_eq!(names, objects::names());
    assert_eq!(dump.report.counts["objects:secret"], 14);
    assert_eq!(dump.report.facts["release:apimanager-threescale-version"], "2.15");
    assert!(dump.report.warnings.is_empty(), "{:?}", dump.report.warnings);
    assert!(dump.report.server.contains("Kubernetes"), "{}", dump.report.server);
}

/// What is missing is made, what differs is written when that is asked for; each can be taken back.
async fn comes_back(ground: &Ground, before: &Picture) {
    let it = ground.objects(NAMESPACE, &ground.client);
    ground.wreck().await;
    let wrecked = ground.picture().await;

    let first = run(2);
    let report = told(ground.stage(&it, &first, ObjectPolicy::Missing).await);
    assert_eq!(report.counts["objects:written"], 4, "{report:?}");
    assert!(
        report.warnings.iter().any(|w| w.contains("secret/system-app") && w.contains("--objects replace")),
        "{report:?}"
    );
    assert_eq!(told(it.describe(&ground.entry.component).await).loads, [(first.run, Staged::Staged)]);
    told(ground.commit(&it, &first).await);
    assert_eq!(told(it.describe(&ground.entry.component).await).loads, [(first.run, Staged::Committed)]);
    let made = ground.picture().await;
    for name in ["secret/system-smtp", "secret/system-seed", "secret/my-custom-policy", "configmap/redis-config"] {
        assert_eq!(made.get(name), before.get(name), "{name}");
    }
    assert_eq!(made["secret/system-app"], wrecked["secret/system-app"], "it was there");
    told(ground.rollback(&it, &first).await);
    must_be(&ground.picture().await, &wrecked, "taken back");

    let second = run(3);
    told(ground.stage(&it, &second, REPLACE_ALL).await);
    must_be_beside(&ground.picture().await, &wrecked, &second, "only staged");
    told(ground.commit(&it, &second).await);
    told(ground.commit(&it, &second).await);
    told(ground.rollback(&it, &second).await);
    must_be(&ground.picture().await, &wrecked, "replaced, and taken back");

    let third = run(4);
    told(ground.stage(&it, &third, REPLACE_ALL).await);
    told(ground.commit(&it, &third).await);
    let older = RunKey { epoch: keepsake_core::id::Epoch(1), ..third.clone() };
    assert_eq!(ground.finalize(&it, &older).await.expect_err("an older epoch").kind(), Kind::Conflict);
    told(ground.finalize(&it, &third).await);
    told(ground.finalize(&it, &third).await);
    must_be(&ground.picture().await, before, "replaced, and finalized");
    assert_eq!(told(it.describe(&ground.entry.component).await).loads, []);
}

/// As [`must_be`], but for what the load of this run keeps.
fn must_be_beside(found: &Picture, expected: &Picture, run: &RunKey, what: &str) {
    let kept = format!("secret/keepsake-{}", run.run);
    let rest: Picture =
        found.iter().filter(|(name, _)| !name.starts_with(&kept)).map(|(n, o)| (n.clone(), o.clone())).collect();
    assert!(rest.len() < found.len(), "{what}: nothing is kept");
    must_be(&rest, expected, what);
}

async fn endpoints_stay(ground: &Ground, before: &Picture) {
    let it = ground.objects(NAMESPACE, &ground.client);
    ground.wreck().await;
    let wrecked = ground.picture().await;
    let it_is = run(5);
    let report = told(ground.stage(&it, &it_is, REPLACE).await);
    assert!(
        report.warnings.iter().any(|w| w.contains("--replace-endpoints") && w.contains("secret/system-database")),
        "{report:?}"
    );
    told(ground.commit(&it, &it_is).await);
    told(ground.finalize(&it, &it_is).await);
    let found = ground.picture().await;
    for (name, object) in before {
        let stays = ["secret/system-database", "secret/backend-redis"].contains(&name.as_str());
        assert_eq!(&found[name], if stays { &wrecked[name] } else { object }, "{name}");
    }
    let last = run(6);
    told(ground.stage(&it, &last, REPLACE_ALL).await);
    told(ground.commit(&it, &last).await);
    told(ground.finalize(&it, &last).await);
    must_be(&ground.picture().await, before, "with the endpoints");
}

async fn into_an_empty_namespace(ground: &Ground) {
    skeleton::namespace(&ground.client, "empty").await;
    assert_eq!(ground.dump("empty").await.expect_err("there is no 3scale").kind(), Kind::NotFound);
    let it = ground.objects("empty", &ground.client);
    let first = run(7);
    let report = told(ground.stage(&it, &first, ObjectPolicy::Missing).await);
    assert!(report.warnings.iter().any(|w| w.contains("apimanager/apimanager-sample")), "{report:?}");
    told(ground.commit(&it, &first).await);
    let whole = objects::picture(&ground.client, NAMESPACE).await;
    let made = objects::picture(&ground.client, "empty").await;
    assert!(
        report.warnings.iter().any(|w| w.contains("product/my-product") && w.contains("keepsake objects")),
        "{report:?}"
    );
    for name in objects::names().iter().filter(|n| !n.starts_with("apimanager/") && !n.starts_with("product/")) {
        let stripped = |picture: &Picture| {
            let mut object = picture[name].clone();
            let metadata = object["metadata"].as_object_mut().expect("metadata");
            for other in ["namespace", "ownerReferences", "finalizers"] {
                metadata.remove(other);
            }
            object
        };
        assert_eq!(stripped(&made), stripped(&whole), "{name}");
    }
    told(ground.rollback(&it, &first).await);
    assert!(objects::picture(&ground.client, "empty").await.is_empty());
}

/// What somebody makes or changes between the stage and the commit is not written over in silence, and comes back with nothing lost.
async fn somebody_is_faster(ground: &Ground, before: &Picture) {
    let it = ground.objects(NAMESPACE, &ground.client);
    ground.wreck().await;
    let first = run(11);
    told(ground.stage(&it, &first, ObjectPolicy::Missing).await);
    let secrets = objects::path(NAMESPACE, "secret");
    ground
        .client
        .create(&secrets, json!({ "metadata": { "name": "system-smtp" }, "data": { "address": "bXk=" } }))
        .await;
    let made = ground.picture().await["secret/system-smtp"].clone();
    let report = told(ground.commit(&it, &first).await);
    assert!(report.warnings.iter().any(|w| w.contains("secret/system-smtp")), "{report:?}");
    assert_eq!(ground.picture().await["secret/system-smtp"], made);
    told(ground.rollback(&it, &first).await);
    assert_eq!(ground.picture().await["secret/system-smtp"], made, "it is not ours to take away");
    assert!(!ground.picture().await.contains_key("secret/system-seed"), "it was not there");

    // What was kept is taken away: that nothing could be put back is no success.
    let second = run(12);
    told(ground.stage(&it, &second, REPLACE_ALL).await);
    told(ground.commit(&it, &second).await);
    ground.client.remove(&format!("{secrets}/keepsake-{}-old-001", second.run)).await;
    let lost = ground.rollback(&it, &second).await.expect_err("something is not kept");
    assert!(lost.chain().contains("not kept any more"), "{}", lost.chain());
    told(ground.finalize(&it, &second).await);
    must_be(&ground.picture().await, before, "after somebody was faster");
}

async fn what_is_refused(ground: &Ground, before: &Picture) {
    let clerk = Kubernetes::new(settings(NAMESPACE, ground.plane.kubeconfig_of_the_clerk()));
    let clerk = Objects::new(clerk, "prod".parse().expect("a name"), ground.store.clone());
    let denied = ground.stage(&clerk, &run(8), REPLACE_ALL).await.expect_err("it may not");
    assert_eq!(denied.kind(), Kind::Denied, "{}", denied.chain());
    assert!(denied.chain().contains("delete secrets in namespace threescale"), "{}", denied.chain());
    let found = told(clerk.describe(&ground.entry.component).await);
    assert!(found.problems.iter().any(|p| p.contains("list secrets")), "{:?}", found.problems);
    // The server would not take it: found out before anything is written.
    let at = format!("{}/system-environment", objects::path(NAMESPACE, "configmap"));
    ground.client.merge(&at, json!({ "data": { "key": "another" }, "immutable": true })).await;
    let wrecked = ground.picture().await;
    let it = ground.objects(NAMESPACE, &ground.client);
    let fixed = run(9);
    let refused = ground.stage(&it, &fixed, REPLACE).await.expect_err("it is immutable");
    assert!(refused.chain().contains("configmap/system-environment"), "{}", refused.chain());
    assert!(ground.commit(&it, &fixed).await.is_err(), "nothing is staged");
    told(ground.rollback(&it, &fixed).await);
    must_be(&ground.picture().await, &wrecked, "refused");
    ground.client.remove(&at).await;
    let mended = run(10);
    told(ground.stage(&it, &mended, REPLACE).await);
    told(ground.commit(&it, &mended).await);
    told(ground.finalize(&it, &mended).await);
    must_be(&ground.picture().await, before, "mended");
}
