//! A genuine Kubernetes with a node, on which pods run: the cluster of the folder beside the project, started for one test and gone at its end. Needs root.

pub mod images;
pub mod keepsake;
pub mod threescale;
mod tunnel;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use self::tunnel::Tunnel;
use crate::child::{Process, is_root, run, tool_command, with_last_will};
use crate::cluster::{Raw, assets};
use crate::poll::wait_for;
use crate::scratch::Scratch;

/// A control plane and a node start, beside whatever else this machine does.
const PATIENCE: Duration = Duration::from_secs(280);
/// The address of the node, as pods see it.
pub const ADDRESS: &str = "10.200.0.1";

/// Starts the cluster, says so, and takes it down when it is told to end, also when whoever started it is gone.
const SCRIPT: &str = r#"
trap 'kill $! 2>/dev/null; "$0/down" --wipe "$1"; exit 0' TERM
"$0/up" --node "$1" && echo "it is up" || exit 1
sleep infinity & wait $!
"#;

/// A cluster of one node.
#[derive(Debug)]
pub struct Node {
    lines: Mutex<Vec<Process>>,
    will: Process,
    assets: PathBuf,
    scripts: PathBuf,
    state: PathBuf,
    /// Of the test's own; volumes are in it.
    pub scratch: Scratch,
}

impl Node {
    /// Starts one; none, loudly, where it cannot run.
    pub async fn start(test: &str) -> Option<Self> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kube");
        if !scripts.join("up").try_exists().expect("look for the cluster") || !is_root() {
            eprintln!("SKIPPED {test}: a node takes root and the cluster beside the project (../shared/kube)");
            return None;
        }
        let scripts = scripts.canonicalize().expect("the folder of the cluster");
        let assets = assets(test)?;
        let scratch = Scratch::new();
        let state = scratch.path().join("cluster");
        let mut command = with_last_will("bash");
        command.args(["-c", SCRIPT]).arg(&scripts).arg(&state).env("KUBEBUILDER_ASSETS", &assets);
        // Whatever goes wrong from here on, it is taken down.
        let will = Process::start("cluster", command);
        let mut node = Self { lines: Mutex::default(), will, assets, scripts, state, scratch };
        let is_up = wait_for("the node", PATIENCE, async || {
            let ended = node.will.ended().is_some();
            let said = node.will.output();
            match (said.iter().any(|line| line == "it is up"), ended) {
                (true, _) => Ok(true),
                (false, true) => Ok(false),
                (false, false) => Err(said.last().cloned().unwrap_or_default()),
            }
        })
        .await;
        if !is_up {
            // Not every machine lets pods run.
            eprintln!("SKIPPED {test}: a node does not start here: {:#?}", node.will.output());
            return None;
        }
        // Whoever speaks from the node itself needs a way to addresses of Services, or nobody would translate them.
        let done = run(node.inside().args(["ip", "route", "add", "10.96.0.0/16", "dev", "lo", "src", ADDRESS]));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Some(node)
    }

    /// A command in the node's network.
    fn inside(&self) -> std::process::Command {
        let node = std::fs::read_to_string(self.state.join("pid/node")).expect("the node's pid");
        let mut command = tool_command("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", node.split(' ').next().expect("a pid")));
        command
    }

    /// A kubeconfig file of whoever may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// A client that may do everything.
    pub async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig()).expect("read the kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("use the kubeconfig")).expect("a client")
    }

    /// Runs `kubectl`.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        run(tool_command(self.assets.join("kubectl")).arg("--kubeconfig").arg(self.kubeconfig()).args(args))
    }

    /// Runs `kubectl`, which must succeed; gives what it printed.
    pub fn must<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let done = self.kubectl(args);
        assert!(done.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Applies objects, in a namespace.
    pub fn apply(&self, namespace: &str, objects: &[Value]) {
        let file = tempfile::NamedTempFile::new_in(self.scratch.path()).expect("a file for the objects");
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        std::fs::write(file.path(), list.to_string()).expect("write the objects");
        self.must(&["-n", namespace, "apply", "-f", &file.path().display().to_string()]);
    }

    /// Makes an image of a folder, with this entry point, and loads it into the node.
    pub fn load(&self, name: &str, folder: &Path, entrypoint: &[&str]) {
        let archive = tempfile::NamedTempFile::new_in(self.scratch.path()).expect("a file for the image");
        let mut make = tool_command(self.scripts.join("image"));
        make.arg(name).arg(folder).args(entrypoint);
        make.stdout(archive.reopen().expect("open it again")).stderr(std::process::Stdio::piped());
        let made = make.spawn().and_then(std::process::Child::wait_with_output).expect("make an image");
        assert!(made.status.success(), "image {name}: {}", String::from_utf8_lossy(&made.stderr));
        let mut load = tool_command(self.scripts.join("image"));
        load.arg("--load").arg(archive.path()).arg(&self.state).env("KUBEBUILDER_ASSETS", &self.assets);
        let loaded = run(&mut load);
        assert!(loaded.status.success(), "load {name}: {}", String::from_utf8_lossy(&loaded.stderr));
    }

    /// A port of 127.0.0.1 that leads to a Service's port, whichever pods it has.
    pub async fn tunnel(&self, namespace: &str, service: &str, port: u16) -> Tunnel {
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
        let found = self.client().await.at(&path).await.unwrap_or_else(|| panic!("there is no Service {service}"));
        let address = found["spec"]["clusterIP"].as_str().expect("an address").to_owned();
        Tunnel::start(&self.state.join("egress.sock"), &format!("{address}:{port}")).await
    }

    /// Lends a server of this machine to the pods: they reach it at [`ADDRESS`] and this port.
    pub fn lend(&self, port: u16, server: SocketAddr) {
        let socket = self.state.join(format!("lent-{port}.sock"));
        let relay = self.assets.join("relay");
        let mut here = tool_command(&relay);
        here.arg(format!("unix:{}=tcp:{server}", socket.display()));
        let mut there = self.inside();
        there.arg(relay);
        there.arg(format!("tcp:{ADDRESS}:{port}=unix:{}", socket.display()));
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(Process::start("relay", here));
        lines.push(Process::start("relay of the node", there));
    }

    /// Waits until all Deployments of a namespace have the replicas that they are to have.
    pub async fn rolled_out(&self, namespace: &str) {
        let client = self.client().await;
        wait_for(&format!("the pods of {namespace}"), PATIENCE, async || {
            let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
            let found = client.at(&path).await.expect("the Deployments");
            let number = |value: &Value| value.as_i64().unwrap_or(0);
            let late = found["items"].as_array().into_iter().flatten().find(|d| {
                let (wanted, status) = (number(&d["spec"]["replicas"]), &d["status"]);
                number(&status["observedGeneration"]) < number(&d["metadata"]["generation"])
                    || [&status["readyReplicas"], &status["updatedReplicas"], &status["replicas"]]
                        .iter()
                        .any(|n| number(n) != wanted)
            });
            match late {
                None => Ok(()),
                Some(late) => Err(format!("{}: {}", late["metadata"]["name"], self.pods(namespace))),
            }
        })
        .await;
    }

    /// Deletes the pods with this label, as somebody who drains their node does: they are asked to end.
    pub fn delete_pods(&self, namespace: &str, label: &str) {
        let said = self.must(&["-n", namespace, "delete", "pod", "-l", label, "--wait=false"]);
        assert!(said.contains("deleted"), "there is no pod with {label}: {said}");
    }

    /// Kills whatever runs in the pods with this label, as the kernel does for want of memory; their containers are started again if they may be.
    pub fn kill_pods(&self, namespace: &str, label: &str) {
        let uids = self.must(&["-n", namespace, "get", "pods", "-l", label, "-o", "jsonpath={.items[*].metadata.uid}"]);
        assert!(!uids.is_empty(), "there is no pod with {label}");
        let uids: Vec<String> = uids.split(' ').map(|uid| format!("pod{uid}/")).collect();
        let processes = std::fs::read_dir("/proc").expect("list the processes").filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
            // What ends while it is looked at is none of them.
            let groups = std::fs::read_to_string(path.join("cgroup")).ok()?;
            let program = std::fs::read_to_string(path.join("comm")).ok()?;
            (program.trim() != "pause" && uids.iter().any(|uid| groups.contains(uid))).then_some(pid)
        });
        let processes: Vec<_> = processes.collect();
        let killed = processes.into_iter().filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count();
        assert!(killed > 0, "nothing runs in the pods with {label}: {}", self.pods(namespace));
    }

    /// What the pods of a namespace are at, for messages.
    pub fn pods(&self, namespace: &str) -> String {
        let done = self.kubectl(&["-n", namespace, "get", "pods", "-o", "wide"]);
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Node {
    /// Everything that may say why.
    fn tell(&self) {
        let told = |args: &[&str]| String::from_utf8_lossy(&self.kubectl(args).stdout).into_owned();
        eprintln!("{}", told(&["get", "pods", "-A", "-o", "wide"]));
        eprintln!("{}", told(&["get", "events", "-A", "--field-selector", "type=Warning"]));
        let names = r#"jsonpath={range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{"\n"}{end}"#;
        for pod in told(&["get", "pods", "-A", "-o", names]).lines() {
            let Some((namespace, name)) = pod.split_once(' ') else { continue };
            for previous in ["--previous=false", "--previous=true"] {
                let logs = told(&["-n", namespace, "logs", name, "--all-containers", "--tail=15", previous]);
                if !logs.is_empty() {
                    eprintln!("{name} {previous}:\n{logs}");
                }
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.will.signal(Signal::TERM);
        self.will.wait();
    }
}
