//! Applications stopped, started and made to follow their data on a genuine control plane. Each case has a control plane of its own, and its parts namespaces of their own.

mod access;
mod agents;
mod broken;
mod comes_back;
mod dies;
mod in_cluster;
mod looks;
mod objects;
mod rebuild;
mod restore;
mod resyncs;
mod rollouts;
mod routes;
mod trouble;
mod webhook;

use std::path::PathBuf;

use keepsake_coordinator::platform::Platform;
use keepsake_coordinator::platform::kubernetes::Kubernetes;
use keepsake_coordinator::topology::KubernetesSettings;
use keepsake_coordinator::topology::kubernetes::{By, DrainSettings, OperatorSettings};
use keepsake_core::id::{Epoch, RunId, RunKey};
use keepsake_tests::cluster::skeleton::OPERATOR;

/// The settings of an installation in this namespace.
fn settings(namespace: &str, kubeconfig: PathBuf) -> KubernetesSettings {
    KubernetesSettings {
        namespace: namespace.to_owned(),
        kubeconfig: Some(kubeconfig),
        context: None,
        objects: true,
        by: By::Scale,
        operator: None,
        deadline: 120,
        drain: DrainSettings::default(),
        stop: Vec::new(),
        leave: Vec::new(),
        resync: None,
        resync_deadline: 120,
    }
}

/// The same with the operator in another namespace.
fn with_operator_in(at: &str, settings: KubernetesSettings) -> KubernetesSettings {
    let operator = OperatorSettings { namespace: Some(at.to_owned()), deployment: OPERATOR.to_owned() };
    KubernetesSettings { operator: Some(operator), ..settings }
}

/// An epoch of a run.
fn run(epoch: u64) -> RunKey {
    RunKey { run: RunId::generate(), installation: "prod".parse().expect("a name"), epoch: Epoch(epoch) }
}

/// Stops and, if that is done, is not started.
async fn stop(kubernetes: &Kubernetes, epoch: u64) {
    kubernetes.quiesce(&run(epoch)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}

async fn start(kubernetes: &Kubernetes, epoch: u64) {
    kubernetes.resume(&run(epoch)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}
