//! What `manifests/access` grants is what a backup and a restore use: all of it, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use keepsake_coordinator::fleet::{DumpOrder, Fleet, LoadOrder, OpKey, Opening};
use keepsake_coordinator::plan::objects::ObjectPolicy;
use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::platform::kubernetes::agents::Expect;
use keepsake_coordinator::platform::kubernetes::objects::Objects;
use keepsake_coordinator::platform::{Extent, Intent, Platform};
use keepsake_coordinator::topology::kubernetes::{By, ResyncTask};
use keepsake_coordinator::topology::{KubernetesSettings, Topology};
use keepsake_core::id::{Component, SetId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{ComponentRecord, Sealing};
use keepsake_core::repository::Store;
use keepsake_tests::cluster::audit::Asked;
use keepsake_tests::cluster::kubelet::{Fate, Kubelet};
use keepsake_tests::cluster::openshift::{self, ConfigController, KINDS};
use keepsake_tests::cluster::skeleton::{self, Form, LEAN};
use keepsake_tests::cluster::{ControlPlane, Raw, objects};
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::Scratch;
use kube::Client;
use serde_json::{Value, json};

use super::{run, settings, with_operator_in};

const NAMESPACE: &str = "3scale";
const OPERATORS: &str = "openshift-operators";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Verb, group, resource, namespace.
pub(super) type Right = (String, String, String, String);

/// The objects of a file of the manifests.
fn manifest(file: &str) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root");
    let text = std::fs::read_to_string(root.join("manifests/access").join(file)).expect("read a manifest");
    serde_saphyr::from_multiple(&text).expect("YAML")
}

/// Applies it, each object in the namespace that it names, or the 3scale's; gives what its Roles grant.
pub(super) async fn applied(client: &Client, file: &str) -> BTreeSet<Right> {
    let mut granted = BTreeSet::new();
    for object in manifest(file) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE).to_owned();
        let (base, plural) = match object["kind"].as_str().expect("a kind") {
            "ServiceAccount" => ("api/v1", "serviceaccounts"),
            "Role" => ("apis/rbac.authorization.k8s.io/v1", "roles"),
            "RoleBinding" => ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
            other => panic!("{other} grants something?"),
        };
        for rule in object["rules"].as_array().into_iter().flatten() {
            let texts = |field: &str| {
                rule[field]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|v| v.as_str().expect("a text").to_owned())
                    .collect::<Vec<_>>()
            };
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        granted.insert((verb, group.clone(), resource.clone(), namespace.clone()));
                    }
                }
            }
        }
        let mut object = object;
        // A subject without a namespace is of the binding's, as kustomize writes it.
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            let subject = subject.as_object_mut().expect("a subject");
            subject.entry("namespace").or_insert(json!(namespace));
        }
        client.create(&format!("/{base}/namespaces/{namespace}/{plural}"), object).await;
    }
    granted
}

pub(super) fn used(asked: &BTreeSet<Asked>) -> BTreeSet<Right> {
    assert!(!asked.is_empty(), "nothing is written down");
    let refused: Vec<_> = asked.iter().filter(|a| !a.allowed).collect();
    assert!(refused.is_empty(), "not granted: {refused:?}");
    asked.iter().map(|a| (a.verb.clone(), a.group.clone(), a.resource.clone(), a.namespace.clone())).collect()
}

pub(super) fn must_be_all(granted: &BTreeSet<Right>, used: &BTreeSet<Right>, what: &str) {
    // A star stands for every kind of its group.
    let is = |granted: &Right, used: &Right| {
        (&granted.0, &granted.1, &granted.3) == (&used.0, &used.1, &used.3) && (granted.2 == used.2 || granted.2 == "*")
    };
    let unused: Vec<_> = granted.iter().filter(|g| !used.iter().any(|u| is(g, u))).collect();
    assert!(unused.is_empty(), "{what}: granted and never used: {unused:?}");
    let more: Vec<_> = used.iter().filter(|u| !granted.iter().any(|g| is(g, u))).collect();
    assert!(more.is_empty(), "{what}: used and granted by something else: {more:?}");
}

/// Two objects of each kind of 3scale's own.
async fn build_kinds(client: &Client) {
    for (group, version, kind, plural) in KINDS {
        for name in ["one", "two"] {
            let object = json!({ "apiVersion": format!("{group}/{version}"), "kind": kind, "metadata": { "name": name }, "spec": { "is": "as it was" } });
            client.create(&format!("/apis/{group}/{version}/namespaces/{NAMESPACE}/{plural}"), object).await;
        }
    }
}

async fn wreck(client: &Client) {
    for (group, version, _, plural) in KINDS {
        let path = format!("/apis/{group}/{version}/namespaces/{NAMESPACE}/{plural}");
        client.remove(&format!("{path}/one")).await;
        client.merge(&format!("{path}/two"), json!({ "spec": { "is": "another" } })).await;
    }
    for kind in ["secret", "configmap"] {
        let [gone, changed] = if kind == "secret" { ["system-seed", "system-app"] } else { ["system", "redis-config"] };
        client.remove(&format!("{}/{gone}", objects::path(NAMESPACE, kind))).await;
        client
            .merge(&format!("{}/{changed}", objects::path(NAMESPACE, kind)), json!({ "data": { "key": "eA==" } }))
            .await;
    }
    let manager = format!("{}/apimanager-sample", objects::path(NAMESPACE, "apimanager"));
    client.merge(&manager, json!({ "spec": { "wildcardDomain": "another.example.com" } })).await;
}

#[tokio::test]
async fn kube_access_is_what_a_backup_and_a_restore_use() {
    must_be_what_is_used("kube_access_is_what_a_backup_and_a_restore_use", None).await;
}

/// Of the Roles of the manifests; with one right more, if one is given, for whoever restores.
pub(super) async fn must_be_what_is_used(name: &str, more: Option<Right>) {
    let Some(plane) = ControlPlane::start_audited(name).await else { return };
    let client = plane.client().await;
    openshift::define_apimanager(&client).await;
    openshift::define_all(&client).await;
    openshift::define(&client).await;
    openshift::define_routes(&client).await;
    for namespace in [NAMESPACE, OPERATORS] {
        skeleton::namespace(&client, namespace).await;
    }
    let _controller = ConfigController::start(client.clone(), NAMESPACE);
    skeleton::build(&client, Form::Deployments, NAMESPACE, LEAN).await;
    skeleton::build(&client, Form::DeploymentConfigs, NAMESPACE, &[("system-searchd", 1)]).await;
    skeleton::build_operator(&client, OPERATORS).await;
    objects::build(&client, NAMESPACE).await;
    openshift::build_route(&client, NAMESPACE, "backend", &[("backend-listener", None)]).await;
    build_kinds(&client).await;
    let coordinator = json!({ "metadata": { "name": "keepsake-coordinator" } });
    client.create(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), coordinator).await;
    applied(&client, "account.yaml").await;
    let to_back_up = applied(&client, "backup.yaml").await;
    let mut to_restore = applied(&client, "restore.yaml").await;
    to_restore.extend(applied(&client, "operator/operator.yaml").await);
    to_restore.extend(more);

    let scratch = Scratch::new();
    let store = Store::open(&format!("file://{}", scratch.path().display())).expect("a store");
    let entry = backs_up(&plane, &store).await;
    let account = |name: &str| format!("system:serviceaccount:{NAMESPACE}:{name}");
    must_be_all(&to_back_up, &used(&plane.asked_by(&account("keepsake-coordinator"))), "backup");
    restores(&plane, &client, &store, &entry).await;
    must_be_all(&to_restore, &used(&plane.asked_by(&account("keepsake-restore"))), "restore");
}

fn platform(settings: KubernetesSettings) -> Kubernetes {
    Kubernetes::new(with_operator_in(OPERATORS, settings))
}

fn told<T>(done: keepsake_core::error::Result<T>) -> T {
    done.unwrap_or_else(|e| panic!("{}", e.chain()))
}

async fn backs_up(plane: &ControlPlane, store: &Store) -> ComponentRecord {
    let kubeconfig = plane.kubeconfig_of_account(NAMESPACE, "keepsake-coordinator").await;
    let it =
        Objects::new(platform(settings(NAMESPACE, kubeconfig.clone())), "prod".parse().expect("a name"), store.clone());
    let component: Component = "objects".parse().expect("a name");
    let found =
        wait_for("the account to be known", PATIENCE, async || it.describe(&component).await.map_err(|e| e.chain()))
            .await;
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    look_for_agents(&settings(NAMESPACE, kubeconfig)).await;
    let key = OpKey { run: run(1), step: "dump-objects".parse().expect("a name") };
    let order = DumpOrder { component: &component, key, set: SetId::generate(), sealing: &Sealing::None, hold: None };
    let dump = told(it.dump(&order, &|_| {}).await);
    ComponentRecord { component, engine: "objects".parse().expect("a name"), dump: Some(dump), failure: None }
}

/// As a topology without components has it; there are none here.
async fn look_for_agents(settings: &KubernetesSettings) {
    let text = format!(
        "repository: {{ url: 'file:///backups' }}\ninstallations:\n  - {{ name: prod, platform: kubernetes, kubernetes: {{ namespace: {NAMESPACE} }} }}\n"
    );
    let topology = Topology::parse(&text, Path::new("/")).unwrap_or_else(|e| panic!("{}", e.chain()));
    let found = told(platform(settings.clone()).find_agents(&topology.installations[0], Expect::All).await);
    assert!(found.sought.iter().all(|s| s.found.is_err()) && !found.problems.is_empty(), "{found:?}");
}

async fn restores(plane: &ControlPlane, client: &Client, store: &Store, entry: &ComponentRecord) {
    let kubeconfig = plane.kubeconfig_of_account(NAMESPACE, "keepsake-restore").await;
    let settings = KubernetesSettings { by: By::Routes, ..settings(NAMESPACE, kubeconfig) };
    let kubernetes = platform(settings.clone());
    let it = Objects::new(platform(settings.clone()), "prod".parse().expect("a name"), store.clone());
    let key = run(2);
    let op = OpKey { run: key.clone(), step: "stage-objects".parse().expect("a name") };
    let order = |key: OpKey| LoadOrder {
        key,
        set: SetId::generate(),
        entry,
        opening: &Opening::None,
        queues: QueuePolicy::Restore,
        in_place: false,
        objects: ObjectPolicy::Replace { endpoints: true },
    };
    look_for_agents(&settings).await;
    told(kubernetes.preflight(Intent { follows: true, ..Intent::default() }).await);
    told(kubernetes.place().await);
    told(it.describe(&entry.component).await);
    wreck(client).await;
    told(it.stage(&order(op.clone()), &|_| {}).await);
    told(it.commit(&entry.component, &op, &|_| {}).await);
    told(it.rollback(&entry.component, &op, &|_| {}).await);
    told(it.stage(&order(op.clone()), &|_| {}).await);
    told(it.commit(&entry.component, &op, &|_| {}).await);
    told(it.finalize(&entry.component, &op, &|_| {}).await);

    let _kubelets = [NAMESPACE, OPERATORS].map(|n| Kubelet::start(client.clone(), n, &[]));
    for (name, replicas) in LEAN {
        skeleton::ready(client, NAMESPACE, name, *replicas).await;
    }
    let had = told(kubernetes.quiesce(&key).await);
    told(kubernetes.close_routes(&key).await);
    told(kubernetes.is_still_quiet(&key, &Extent { keeps: Vec::new(), routes: true }).await);
    told(kubernetes.open_routes(&key).await);
    told(kubernetes.resume(&key).await);
    told(kubernetes.roll_out(&key, &["system-sidekiq".to_owned()]).await);
    {
        let _done = Kubelet::of_jobs(client.clone(), NAMESPACE, Fate::Succeed);
        told(kubernetes.resync(&key, ResyncTask::CacheFlush).await);
    }
    let _fails = Kubelet::of_jobs(client.clone(), NAMESPACE, Fate::Fail("no"));
    kubernetes.resync(&key, ResyncTask::SearchIndex).await.expect_err("it fails");
    told(kubernetes.check(&key, &had).await);
}
