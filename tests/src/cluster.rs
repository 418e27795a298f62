//! A genuine control plane: etcd, API server and controllers of Kubernetes as child processes. There is no node, so pods stay pending.
//!
//! The programs come from the folder that `KUBEBUILDER_ASSETS` names, as in other suites, or from the archive beside the project.

pub mod audit;
pub mod faults;
pub mod kubelet;
pub mod objects;
pub mod openshift;
pub mod skeleton;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::certs::Authority;
use crate::child::{Process, run, tool_command};
use crate::poll::wait_for;
use crate::scratch::{Scratch, free_port};

/// Starting all of it may take so long on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);
/// Whoever has it may do everything.
const ADMIN: &str = "token-of-the-admin";
/// Whoever has it may do what bindings of the user `clerk` say.
const CLERK: &str = "token-of-the-clerk";

/// A control plane of a test's own; gone at its end.
#[derive(Debug)]
pub struct ControlPlane {
    controllers: Option<Process>,
    api: Option<Process>,
    _etcd: Process,
    assets: PathBuf,
    port: u16,
    etcd_port: u16,
    is_audited: bool,
    scratch: Scratch,
}

/// The folder of the programs; none, loudly, when there are none.
pub(crate) fn assets(test: &str) -> Option<PathBuf> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kube/unpack");
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None if archive.try_exists().expect("look for the archive") => {
            let folder = std::env::temp_dir().join("kube/bin");
            if !folder.join(".unpacked").try_exists().expect("look for what is unpacked") {
                std::fs::create_dir_all(&folder).expect("make a folder for the programs");
                let mut unpack = tool_command("flock");
                unpack.arg(&folder).arg(&archive).env("KUBEBUILDER_ASSETS", &folder);
                let done = run(&mut unpack);
                assert!(done.status.success(), "unpack: {}", String::from_utf8_lossy(&done.stderr));
            }
            folder
        }
        None => {
            eprintln!(
                "SKIPPED {test}: KUBEBUILDER_ASSETS names no folder with etcd, kube-apiserver and kube-controller-manager"
            );
            return None;
        }
    };
    for program in ["etcd", "kube-apiserver", "kube-controller-manager"] {
        if !folder.join(program).try_exists().expect("look for a program") {
            eprintln!("SKIPPED {test}: there is no {program} in {}", folder.display());
            return None;
        }
    }
    Some(folder)
}

impl ControlPlane {
    /// Starts one; none, loudly, where there are no programs.
    pub async fn start(test: &str) -> Option<Self> {
        Self::start_as(test, false).await
    }

    /// Starts one that writes down who asked it for what; none, loudly, where there are no programs.
    pub async fn start_audited(test: &str) -> Option<Self> {
        Self::start_as(test, true).await
    }

    async fn start_as(test: &str, is_audited: bool) -> Option<Self> {
        let assets = assets(test)?;
        let scratch = Scratch::new();
        let (port, etcd_port, peer_port) = (free_port(), free_port(), free_port());
        Authority::new("cluster").issue(&scratch.path().join("pki"), "127.0.0.1");
        std::fs::write(
            scratch.path().join("tokens.csv"),
            format!("{ADMIN},admin,admin,system:masters\n{CLERK},clerk,clerk\n"),
        )
        .expect("write the tokens");
        let data = scratch.folder("etcd", 0o700);
        let mut etcd = tool_command(assets.join("etcd"));
        etcd.arg("--data-dir").arg(data).args(["--name", "default", "--log-level", "warn", "--logger", "zap"]);
        etcd.args(["--listen-client-urls", &url(etcd_port), "--advertise-client-urls", &url(etcd_port)]);
        etcd.args(["--listen-peer-urls", &url(peer_port), "--initial-advertise-peer-urls", &url(peer_port)]);
        etcd.args(["--initial-cluster", &format!("default={}", url(peer_port))]);
        let etcd = Process::start("etcd", etcd);
        let mut plane =
            Self { controllers: None, api: None, _etcd: etcd, assets, port, etcd_port, is_audited, scratch };
        plane.start_api().await;
        plane.start_controllers();
        Some(plane)
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.scratch.path().join("pki").join(file)
    }

    async fn start_api(&mut self) {
        let mut api = tool_command(self.assets.join("kube-apiserver"));
        api.args(["--etcd-servers", &url(self.etcd_port), "--bind-address", "127.0.0.1"]);
        api.args(["--secure-port", &self.port.to_string(), "--advertise-address", "192.0.2.1"]);
        api.arg("--tls-cert-file").arg(self.pki("tls.crt")).arg("--tls-private-key-file").arg(self.pki("tls.key"));
        api.arg("--service-account-key-file").arg(self.pki("tls.crt"));
        api.arg("--service-account-signing-key-file").arg(self.pki("tls.key"));
        api.args(["--service-account-issuer", "https://kubernetes.default.svc", "--authorization-mode", "RBAC"]);
        api.arg("--token-auth-file").arg(self.scratch.path().join("tokens.csv"));
        api.args(["--service-cluster-ip-range", "10.96.0.0/16"]);
        // Pods need no account here: nothing in them runs.
        api.args(["--disable-admission-plugins", "ServiceAccount"]);
        if self.is_audited {
            audit::write_policy(self.scratch.path());
            api.arg("--audit-policy-file").arg(audit::policy(self.scratch.path()));
            api.arg("--audit-log-path").arg(audit::log(self.scratch.path()));
        }
        let client = self.client().await;
        self.api = Some(Process::start("kube-apiserver", api));
        let api = &mut self.api;
        wait_for("the API server", PATIENCE, async || {
            if let Some(status) = api.as_mut().and_then(Process::ended) {
                panic!("the API server ended with {status}");
            }
            let request = Request::get("/readyz").body(Vec::new()).expect("a request");
            client.request_text(request).await.map_err(|e| e.to_string())
        })
        .await;
    }

    fn start_controllers(&mut self) {
        let mut controllers = tool_command(self.assets.join("kube-controller-manager"));
        controllers.arg("--kubeconfig").arg(self.kubeconfig());
        controllers.args(["--controllers", "deployment,replicaset,job,horizontalpodautoscaling,namespace"]);
        controllers.args(["--leader-elect=false", "--bind-address", "127.0.0.1"]);
        controllers.args(["--secure-port", &free_port().to_string(), "--horizontal-pod-autoscaler-sync-period=1s"]);
        controllers.args(["--kube-api-qps", "200", "--kube-api-burst", "400"]);
        let version = run(tool_command(self.assets.join("kube-controller-manager")).arg("--version"));
        // Where there is a port without TLS it is on by default, and the same for every test; newer ones do not know the flag.
        if minor(&String::from_utf8_lossy(&version.stdout)) < 24 {
            controllers.args(["--port", "0"]);
        }
        self.controllers = Some(Process::start("kube-controller-manager", controllers));
    }

    /// Kills the API server; until it is started again nobody answers.
    pub fn stop_api(&mut self) {
        self.api = None;
    }

    /// Starts it again.
    pub async fn start_api_again(&mut self) {
        self.start_api().await;
    }

    /// A kubeconfig file of whoever may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin", ADMIN)
    }

    /// A kubeconfig file of the user `clerk`, who may do what bindings allow.
    pub fn kubeconfig_of_the_clerk(&self) -> PathBuf {
        self.kubeconfig_of("clerk", CLERK)
    }

    fn kubeconfig_of(&self, user: &str, token: &str) -> PathBuf {
        let path = self.scratch.path().join(format!("{user}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("https://127.0.0.1:{}", self.port), "certificate-authority": self.pki("ca.crt") } }],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
        });
        std::fs::write(&path, config.to_string()).expect("write a kubeconfig");
        path
    }

    /// What this user was answered to, if it is audited.
    pub fn asked_by(&self, user: &str) -> std::collections::BTreeSet<audit::Asked> {
        audit::read(self.scratch.path(), user)
    }

    /// A kubeconfig file of a service account, whose token is asked for.
    pub async fn kubeconfig_of_account(&self, namespace: &str, account: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": ["https://kubernetes.default.svc"] } });
        let answer = self.client().await.create(&path, request).await;
        self.kubeconfig_of(account, answer["status"]["token"].as_str().expect("a token"))
    }

    /// A client that may do everything.
    pub async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig()).expect("read the kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(file, &options).await.expect("use the kubeconfig");
        config.default_retry = false;
        Client::try_from(config).expect("a client")
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// 20 of `Kubernetes v1.20.2`; of what is not understood, as if it were new.
fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(u32::MAX)
}

/// What tests ask of an API server: paths and JSON.
pub trait Raw {
    /// Gets what is there; none when there is nothing.
    fn at(&self, path: &str) -> impl Future<Output = Option<Value>> + Send;
    /// Creates.
    fn create(&self, path: &str, body: Value) -> impl Future<Output = Value> + Send;
    /// Merges into what is there.
    fn merge(&self, path: &str, body: Value) -> impl Future<Output = Value> + Send;
    /// Deletes what is there, if something is.
    fn remove(&self, path: &str) -> impl Future<Output = ()> + Send;
}

impl Raw for Client {
    async fn at(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).body(Vec::new()).expect("a request");
        match self.request(request).await {
            Ok(found) => Some(found),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(e) => panic!("get {path}: {e}"),
        }
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        self.request(request).await.unwrap_or_else(|e| panic!("create {body} at {path}: {e}"))
    }

    async fn merge(&self, path: &str, body: Value) -> Value {
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        self.request(request).await.unwrap_or_else(|e| panic!("merge {body} into {path}: {e}"))
    }

    async fn remove(&self, path: &str) {
        let request = Request::delete(path).body(Vec::new()).expect("a request");
        match self.request::<Value>(request).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(e) => panic!("delete {path}: {e}"),
        }
    }
}
