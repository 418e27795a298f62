//! Keepsake in the cluster, as manifests/README.md has an administrator put it there: certificates, keys, credentials, then the overlay.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use super::images::{KEEPSAKE, STORES};
use super::{ADDRESS, Node};
use crate::child::{run, tool_command};
use crate::cluster::Raw;
use crate::house::{COMPONENTS, COORDINATOR, programs};
use crate::kustomize::Tree;
use crate::poll::wait_for;
use crate::scratch::Scratch;
use crate::servers::s3::{ADMIN, BUCKET, Mishap, Oddity, Rights, S3Server};
use crate::servers::{mysql, postgres};
use crate::webhook::NO_IMAGE;

/// A Job runs to its end in this time.
const PATIENCE: Duration = Duration::from_secs(500);
/// Where the bucket's server is in the node's network.
const S3_PORT: u16 = 9000;
/// What an agent reads the bucket with, and what it writes with.
const READER: (&str, &str) = ("AKIDREADER", "the-reader's-secret");
const WRITER: (&str, &str) = ("AKIDWRITER", "the-writer's-secret");

/// Where agents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agents {
    /// All in Deployments of their own.
    Apart,
    /// Those that can be are put into the databases' pods by the webhook.
    Beside,
}

/// The administrator's machine, and the bucket, which outlives the cluster.
pub struct Administrator {
    /// Certificates, keys, identities, the topology from outside.
    pub scratch: Scratch,
    bucket: S3Server,
    namespace: String,
}

impl fmt::Debug for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Administrator").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Administrator {
    /// Of a 3scale in this namespace; makes keys and the repository.
    pub fn of(node: &Node, namespace: &str) -> Self {
        let bucket = S3Server::start(Oddity::None);
        bucket.admit(READER.0, READER.1, Rights::Read);
        bucket.admit(WRITER.0, WRITER.1, Rights::Put("3scale/sets/prod/".to_owned()));
        let address = bucket.endpoint();
        node.lend(S3_PORT, address.trim_start_matches("http://").parse().expect("an address"));
        let own = Self { scratch: Scratch::new(), bucket, namespace: namespace.to_owned() };
        for (name, (key, secret)) in [("coordinator-s3", ADMIN), ("agents-s3", WRITER), ("agents-s3-read", READER)] {
            std::fs::create_dir(own.path(name)).expect("make a folder");
            S3Server::credentials(&own.path(name).join("credentials"), key, secret);
        }
        std::fs::write(own.path("keepsake.yaml"), own.outside(node, &address)).expect("write the topology");
        own.must(&["pki", "ca", "--out", "ca"]);
        for component in COMPONENTS {
            own.must(&["pki", "issue", "--ca", "ca", "--name", &format!("{component}.prod"), "--out", component]);
        }
        own.must(&["pki", "issue", "--ca", "ca", "--name", COORDINATOR, "--out", "coordinator"]);
        let webhook = format!("keepsake-webhook.{namespace}.svc");
        own.must(&["pki", "issue", "--ca", "ca", "--name", &webhook, "--out", "webhook"]);
        own.must(&["keys", "generate", "--signing-key", "signing.pem"]);
        let recipient = |name: &str| {
            let made = own.must(&["--output", "json", "keys", "generate", "--identity", name]);
            let made: Value = serde_json::from_str(&made).expect("JSON");
            made["recipient"].as_str().expect("a recipient").to_owned()
        };
        own.must(&["init", "--recipient", &recipient("alice.identity"), "--recipient", &recipient("bob.identity")]);
        own
    }

    /// A file of the administrator's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Lists sets and runs, and has the coordinator in the cluster do the rest: no agent is reached from here.
    fn outside(&self, node: &Node, endpoint: &str) -> String {
        format!(
            "repository:\n  url: s3://{BUCKET}/3scale\n  s3: {{ endpoint: '{endpoint}', credentials: coordinator-s3/credentials }}\n  signing_key: signing.pem\n\
             tls: {{ ca: coordinator/ca.crt, cert: coordinator/tls.crt, key: coordinator/tls.key }}\n\
             installations:\n  - name: prod\n    platform: kubernetes\n    kubernetes: {{ namespace: {}, kubeconfig: {} }}\n\
             {:4}components: [{{ name: system-mysql, engine: mysql, agent: 'https://127.0.0.1:1' }}]\n",
            self.namespace,
            node.kubeconfig().display(),
            ""
        )
    }

    /// The command on the administrator's machine.
    pub fn command(&self) -> Command {
        let mut command = tool_command(programs().join("keepsake"));
        command.current_dir(self.scratch.path()).args(["--topology", "keepsake.yaml"]);
        command
    }

    /// Runs `keepsake` on the administrator's machine, which must succeed; gives all that it told.
    pub fn told<S: AsRef<std::ffi::OsStr> + fmt::Debug>(&self, args: &[S]) -> String {
        let done = run(self.command().args(args));
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "keepsake {args:?}: {told}");
        format!("{told}{}", String::from_utf8_lossy(&done.stdout))
    }

    /// Runs `keepsake` on the administrator's machine, which must succeed; gives what it printed.
    pub fn must<S: AsRef<std::ffi::OsStr> + fmt::Debug>(&self, args: &[S]) -> String {
        let done = run(self.command().args(args));
        assert!(done.status.success(), "keepsake {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// Makes a Secret of a file, or of a folder's files.
    pub fn secret(&self, node: &Node, name: &str, from: &str) {
        let from = format!("--from-file={}", self.path(from).display());
        node.must(&["-n", &self.namespace, "create", "secret", "generic", name, &from]);
    }

    /// Makes the Secrets and ConfigMaps that the manifests name, as manifests/README.md says, but for that of the webhook and that of restores.
    pub fn give_secrets(&self, node: &Node) {
        let secret = |name: &str, from: &str| self.secret(node, name, from);
        secret("keepsake-coordinator-tls", "coordinator");
        for component in COMPONENTS {
            secret(&format!("keepsake-{component}-tls"), component);
        }
        secret("keepsake-signing", "signing.pem");
        for name in ["coordinator-s3", "agents-s3"] {
            secret(&format!("keepsake-{name}"), name);
        }
        for (component, password) in [("system-mysql", mysql::PASSWORD), ("zync-database", postgres::PASSWORD)] {
            std::fs::write(self.path("password"), password).expect("write a password");
            secret(&format!("keepsake-{component}"), "password");
        }
        let trust = format!("--from-file={}", self.path("keepsake.trust.json").display());
        node.must(&["-n", &self.namespace, "create", "configmap", "keepsake-trust", &trust]);
        std::fs::copy(self.path("alice.identity"), self.path("identity")).expect("copy an identity");
        secret("keepsake-identity", "identity");
    }

    /// The manifests with this administrator's values. Where there are applications, a restore stops and starts them, and has what follows done.
    pub fn manifests(&self, agents: Agents, may_restore: bool, has_applications: bool) -> Tree {
        let overlay = "overlays/operator/kustomization.yaml";
        let s3 = "  - ../../components/repository-s3\n";
        let mut components = s3.to_owned();
        if may_restore {
            components.push_str("  - ../../components/restore-from-s3\n");
        }
        components.push_str("  - ../../components/objects\n");
        if agents == Agents::Beside {
            components.push_str("  - ../../components/webhook\n");
        }
        components.push_str("  - ../../components/plain-kubernetes\n");
        let endpoint = format!("http://{ADDRESS}:{S3_PORT}");
        let mut tree = Tree::of_the_project()
            .with(overlay, s3, &components)
            .with(overlay, "namespace: 3scale", &format!("namespace: {}", self.namespace))
            .with("base/backup.yaml", "batch/v1", "batch/v1beta1")
            .with("components/webhook/webhook.yaml", "policy/v1", "policy/v1beta1");
        let digest = ", digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'";
        let (name, tag) = STORES.split_once(':').expect("a tag");
        tree = tree.with(overlay, digest, &format!(", newTag: '{tag}'"));
        for image in ["quay.io/sclorg/mysql-80-c8s", "quay.io/sclorg/postgresql-10-c8s"] {
            tree = tree.with(overlay, image, name);
        }
        let repository = "components/repository-s3/repository.yaml";
        tree = tree.with(repository, "s3://bucket/3scale", &format!("s3://{BUCKET}/3scale")).with(
            repository,
            "https://s3.example.com",
            &endpoint,
        );
        let topology = "components/objects/topology.yaml";
        tree = tree.with(topology, "namespace: 3scale", &format!("namespace: {}", self.namespace));
        tree = if has_applications {
            let operator = format!("operator: {{ namespace: {} }}", super::threescale::OPERATORS);
            tree.with(topology, "# operator: { namespace: openshift-operators }", &operator)
        } else {
            tree.with(topology, "by: scale\n", "by: none\n          resync: []\n")
        };
        if agents == Agents::Beside {
            for component in ["system-mysql", "backend-redis", "system-redis"] {
                tree = tree.with(overlay, &format!("agents/{component}\n"), &format!("sidecars/{component}\n"));
            }
            let image = format!("image: {KEEPSAKE}");
            tree = tree.with("components/webhook/settings.yaml", NO_IMAGE, &image);
            let registration = "components/webhook/registration.yaml";
            tree = tree.with(registration, "namespace: 3scale", &format!("namespace: {}", self.namespace));
        }
        tree
    }

    /// Applies the overlay and what a coordinator may do.
    pub fn apply(&self, node: &Node, tree: &Tree) {
        for folder in ["access", "access/rebuild", "overlays/operator"] {
            let mut objects = tree.build(folder).unwrap_or_else(|e| panic!("{e}"));
            for object in &mut objects {
                object["metadata"]["namespace"] = json!(self.namespace);
            }
            node.apply(&self.namespace, &objects);
        }
        // The Role of the operator's namespace names the account by the namespace that it is in.
        let mut there = tree.build("access/operator").unwrap_or_else(|e| panic!("{e}"));
        for object in &mut there {
            if object["kind"] == "RoleBinding" {
                object["subjects"][0]["namespace"] = json!(self.namespace);
            }
            object["metadata"]["namespace"] = json!(super::threescale::OPERATORS);
        }
        node.apply(super::threescale::OPERATORS, &there);
    }

    /// Has the API server call the webhook.
    pub fn register(&self, node: &Node, tree: &Tree) {
        let file = Path::new("components/webhook/registration.yaml");
        let mut registration: Vec<Value> = tree.read(file).unwrap_or_else(|e| panic!("{e}"));
        let ca = data_encoding::BASE64.encode(&std::fs::read(self.path("ca/ca.crt")).expect("read the CA"));
        for webhook in registration[0]["webhooks"].as_array_mut().expect("webhooks") {
            webhook["clientConfig"]["caBundle"] = json!(ca);
        }
        node.apply(&self.namespace, &registration);
        node.must(&["label", "namespace", &self.namespace, "keepsake/sidecars=allowed", "--overwrite"]);
    }

    /// Makes a Job of the coordinator with these arguments, by the CronJob's template. One that restores has the account for it, and an identity, by the manifests' patch.
    pub async fn job(&self, client: &Client, name: &str, args: &[&str], restores: bool) {
        let path = format!("/apis/batch/v1beta1/namespaces/{}/cronjobs/keepsake-backup", self.namespace);
        let template = client.at(&path).await.expect("the CronJob")["spec"]["jobTemplate"].clone();
        let mut job = json!({ "metadata": { "name": name, "ownerReferences": [] }, "spec": template["spec"] });
        if restores {
            job = Tree::of_the_project().patched("restore/job.yaml", job).unwrap_or_else(|e| panic!("{e}"));
        }
        job["spec"]["template"]["spec"]["containers"][0]["args"] = json!(args);
        client.create(&format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace), job).await;
    }

    /// Waits for a Job's end, and that of its pods: one that is deleted brings its run to an orderly end when its Job has failed already. Gives whether it
    /// succeeded, and what its pods said.
    pub async fn ended(&self, node: &Node, client: &Client, name: &str) -> (bool, String) {
        let path = format!("/apis/batch/v1/namespaces/{}/jobs/{name}", self.namespace);
        let ended = wait_for(&format!("the Job {name}"), PATIENCE, async || {
            let job = client.at(&path).await.expect("the Job");
            let count = |field: &str| job["status"][field].as_u64().unwrap_or(0);
            if count("succeeded") + count("failed") > 0 {
                return Ok(count("succeeded") > 0);
            }
            Err(format!("{}\n{}\n{}", job["status"], node.pods(&self.namespace), self.log(node, name)))
        })
        .await;
        wait_for(&format!("the pods of the Job {name}"), PATIENCE, async || {
            let label = format!("job-name={name}");
            let phases = "jsonpath={.items[*].status.phase}";
            let phases = node.must(&["-n", &self.namespace, "get", "pods", "-l", &label, "-o", phases]);
            let at_work = phases.split(' ').any(|phase| ["Pending", "Running"].contains(&phase));
            if at_work { Err(format!("{phases}\n{}", self.log(node, name))) } else { Ok(()) }
        })
        .await;
        (ended, self.log(node, name))
    }

    /// Kills a Job's pod when it has said this.
    pub async fn killed_when(&self, node: &Node, name: &str, said: &str) {
        assert!(self.has_said(node, name, said).await, "it has ended: {}", self.log(node, name));
        node.kill_pods(&self.namespace, &format!("job-name={name}"));
    }

    /// Waits until a Job's pod has said this; false when the Job has ended without it.
    pub async fn has_said(&self, node: &Node, name: &str, said: &str) -> bool {
        wait_for(&format!("the Job {name} to say {said:?}"), PATIENCE, async || {
            let ended =
                ["-n", &self.namespace, "get", "job", name, "-o", "jsonpath={.status.succeeded}{.status.failed}"];
            let has_ended = !node.must(&ended).is_empty();
            let log = self.log(node, name);
            match (log.contains(said), has_ended) {
                (true, _) => Ok(true),
                (false, true) => Ok(false),
                (false, false) => Err(log),
            }
        })
        .await
    }

    /// What a Job's pods have said so far.
    pub fn log(&self, node: &Node, name: &str) -> String {
        let of = format!("job-name={name}");
        let Output { stdout, stderr, .. } = node.kubectl(&["-n", &self.namespace, "logs", "-l", &of, "--tail=-1"]);
        format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
    }

    /// Runs a Job, which must succeed; gives what it said.
    pub async fn must_job(&self, node: &Node, name: &str, args: &[&str], restores: bool) -> String {
        let client = node.client().await;
        self.job(&client, name, args, restores).await;
        let (succeeded, log) = self.ended(node, &client, name).await;
        assert!(succeeded, "the Job {name} failed:\n{log}");
        log
    }

    /// The image that the manifests name.
    pub const IMAGE: &'static str = KEEPSAKE;

    /// From now on whatever is written to the bucket takes its time, or no longer: who is killed in the middle of something must be in the middle of it for
    /// longer than it takes to kill him.
    pub fn move_the_bucket(&self, far: bool) {
        if far {
            self.bucket.plan(|method, _, _| (*method == hyper::Method::PUT).then_some(Mishap::Far));
        } else {
            self.bucket.recover();
        }
    }

    /// The folder of the bucket's objects.
    pub fn bucket(&self) -> PathBuf {
        self.bucket.objects()
    }
}
