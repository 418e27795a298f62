//! Coordinators in pods, though there is no node: a pod of such a Job is played by the real program with the very arguments that the pod has.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use data_encoding::BASE64;
use jiff::{SignedDuration, Timestamp};
use keepsake_coordinator::platform::kubernetes::coordinator::{COORDINATES, IDENTITY_FILE};
use keepsake_tests::child::{killed_when, run, tool_command};
use keepsake_tests::cluster::Raw;
use keepsake_tests::house::programs;
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::Scratch;
use kube::Client;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);

/// Whoever plays.
pub(crate) struct Stage {
    client: Client,
    namespace: &'static str,
    /// What is mounted in the cluster.
    topology: PathBuf,
    played: BTreeSet<String>,
    scratch: Scratch,
}

/// One that was played.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) arguments: Vec<String>,
    pub(crate) secret: Option<Value>,
    pub(crate) job: Value,
    /// Its exit status, and what it said.
    pub(crate) ended: (i32, String),
}

/// How it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    ToTheEnd,
    /// It is killed when it has said this.
    Killed(&'static str),
    /// It came to run a day after it was asked for, when nobody follows it any more: what it was told of the time is a day older.
    ADayLate,
}

/// The version in which CronJobs are served here.
pub(crate) async fn batch(client: &Client) -> &'static str {
    match client.at("/apis/batch/v1/cronjobs").await {
        Some(_) => "v1",
        None => "v1beta1",
    }
}

/// The CronJob of the manifests.
pub(crate) async fn cron_job(client: &Client, namespace: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root");
    let text = std::fs::read_to_string(root.join("manifests/base/backup.yaml")).expect("read a manifest");
    let mut object: Value = serde_saphyr::from_str(&text).expect("YAML");
    let version = batch(client).await;
    object["apiVersion"] = format!("batch/{version}").into();
    client.create(&format!("/apis/batch/{version}/namespaces/{namespace}/cronjobs"), object).await;
}

/// The objects of a kind in a namespace.
pub(crate) async fn all(client: &Client, path: &str) -> Vec<Value> {
    client.at(path).await.and_then(|found| found["items"].as_array().cloned()).unwrap_or_default()
}

/// The Jobs there.
pub(crate) async fn jobs(client: &Client, namespace: &str) -> Vec<Value> {
    all(client, &format!("/apis/batch/v1/namespaces/{namespace}/jobs")).await
}

/// The Secrets that hand an identity over.
pub(crate) async fn secrets(client: &Client, namespace: &str) -> Vec<Value> {
    all(client, &format!("/api/v1/namespaces/{namespace}/secrets?labelSelector={COORDINATES}")).await
}

impl Stage {
    pub(crate) fn new(client: Client, namespace: &'static str, topology: PathBuf) -> Self {
        Self { client, namespace, topology, played: BTreeSet::new(), scratch: Scratch::new() }
    }

    /// Plays the next pod.
    pub(crate) async fn play(&mut self, how: How) -> Played {
        let pod = self.next().await;
        self.played.insert(name(&pod).to_owned());
        let container = &pod["spec"]["containers"][0];
        let arguments: Vec<String> = container["args"]
            .as_array()
            .expect("arguments")
            .iter()
            .map(|a| a.as_str().expect("a text").to_owned())
            .collect();
        let (file, secret) = match self.secret_of(&pod).await {
            Some(secret) => (Some(self.mounted(&secret)), Some(secret)),
            None => (None, None),
        };
        let told = match how {
            How::ADayLate => a_day_older(&arguments),
            How::ToTheEnd | How::Killed(_) => arguments.clone(),
        };
        let given = told.iter().map(|a| if a == IDENTITY_FILE { file.clone().expect("a mount") } else { a.clone() });
        let mut command = tool_command(programs().join("keepsake"));
        command.env("KEEPSAKE_TOPOLOGY", &self.topology).args(given);
        self.tell(&pod, json!({ "phase": "Running", "containerStatuses": [status(&json!({ "running": {} }))] })).await;
        let code = tokio::task::spawn_blocking(move || carried_out(command, how)).await.expect("it is waited for");
        if let (Some(secret), How::ToTheEnd | How::Killed(_)) = (&secret, how) {
            let path = format!("/api/v1/namespaces/{}/secrets/{}", self.namespace, name(secret));
            // Whoever is told that the pod has ended has deleted it before.
            wait_for("the Secret to be gone", PATIENCE, async || match self.client.at(&path).await {
                Some(_) => Err("it is still there"),
                None => Ok(()),
            })
            .await;
        }
        let state = json!({ "terminated": { "exitCode": code.0, "reason": "Error", "message": code.1 } });
        let phase = if code.0 == 0 { "Succeeded" } else { "Failed" };
        self.tell(&pod, json!({ "phase": phase, "containerStatuses": [status(&state)] })).await;
        let owner = pod["metadata"]["ownerReferences"][0]["name"].as_str().expect("an owner");
        let job = self.client.at(&format!("/apis/batch/v1/namespaces/{}/jobs/{owner}", self.namespace)).await;
        Played { arguments, secret, job: job.expect("its Job"), ended: code }
    }

    /// Leaves the next pod as it is.
    pub(crate) async fn pass_over(&mut self) {
        let pod = self.next().await;
        self.played.insert(name(&pod).to_owned());
    }

    /// Passes over all that are there.
    pub(crate) async fn forget(&mut self, client: &Client) {
        let pods = all(client, &format!("/api/v1/namespaces/{}/pods", self.namespace)).await;
        self.played.extend(pods.iter().map(|p| name(p).to_owned()));
    }

    async fn next(&self) -> Value {
        let labelled = format!("/api/v1/namespaces/{}/pods?labelSelector={COORDINATES}", self.namespace);
        wait_for("a pod of a coordinator", PATIENCE, async || {
            let found = all(&self.client, &labelled).await;
            let new = found.into_iter().find(|p| !self.played.contains(name(p)));
            new.ok_or("there is none")
        })
        .await
    }

    async fn secret_of(&self, pod: &Value) -> Option<Value> {
        let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        let names = volumes.iter().filter(|v| v["name"] == "keepsake-set-identity");
        let wanted = names.filter_map(|v| v["secret"]["secretName"].as_str()).next()?;
        let path = format!("/api/v1/namespaces/{}/secrets/{wanted}", self.namespace);
        Some(wait_for("its Secret", PATIENCE, async || self.client.at(&path).await.ok_or("it is not there")).await)
    }

    fn mounted(&self, secret: &Value) -> String {
        let text = secret["data"]["identity"].as_str().expect("an identity");
        let path = self.scratch.path().join(name(secret));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).expect("make a file");
        std::io::Write::write_all(&mut file, &BASE64.decode(text.as_bytes()).expect("base64")).expect("write it");
        path.display().to_string()
    }

    async fn tell(&self, pod: &Value, status: Value) {
        let api: kube::Api<k8s_openapi::api::core::v1::Pod> =
            kube::Api::namespaced(self.client.clone(), self.namespace);
        let patch = kube::api::Patch::Merge(json!({ "status": status }));
        api.patch_status(name(pod), &kube::api::PatchParams::default(), &patch).await.expect("the pod's status");
    }
}

fn carried_out(mut command: Command, how: How) -> (i32, String) {
    match how {
        How::ToTheEnd | How::ADayLate => {
            let done = run(&mut command);
            (done.status.code().expect("a status"), String::from_utf8_lossy(&done.stderr).into_owned())
        }
        How::Killed(said) => {
            killed_when(command, said);
            (137, String::new())
        }
    }
}

/// Until when a coordinator with these arguments may begin.
pub(crate) fn begins_before(arguments: &[String]) -> Timestamp {
    let at = arguments.iter().position(|a| a == "--begin-before").expect("until when it may begin") + 1;
    arguments[at].parse().expect("a time")
}

fn a_day_older(arguments: &[String]) -> Vec<String> {
    let before = begins_before(arguments);
    let older = before.checked_sub(SignedDuration::from_hours(24)).expect("a time");
    let said = before.to_string();
    arguments.iter().map(|a| if *a == said { older.to_string() } else { a.clone() }).collect()
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

fn status(state: &Value) -> Value {
    json!({ "name": "keepsake", "image": "keepsake:0.1.0", "imageID": "", "ready": false, "restartCount": 0, "state": state })
}
