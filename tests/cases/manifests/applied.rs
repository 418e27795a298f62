//! The overlays on a genuine control plane: what it accepts, from whom, and what it makes of it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use keepsake_coordinator::webhook::{Config, Settings, start};
use keepsake_proto::tls::ServerFiles;
use keepsake_tests::certs::Authority;
use keepsake_tests::child::{Process, is_root, run, tool_command};
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::Scratch;
use keepsake_tests::webhook;
use serde_json::{Value, json};

use super::{OVERLAYS, S3, overlay_file, project, with_sidecars};
use keepsake_tests::kustomize::{Tree, text};

/// Starting all of it may take so long on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);
/// The components of a repository that is a volume, and the same with objects.
const CLAIM: &str = "  - ../../components/repository-claim\n";
const FOUND: &str = "  - ../../components/repository-claim\n  - ../../components/objects\n";
/// Who has nothing but the role `edit` in a namespace.
const EDITOR: &str = "editor";

/// API server and controllers in a process namespace of their own: it ends with the test, whatever becomes of that, and they with it.
struct Cluster {
    _processes: Process,
    kubectl: PathBuf,
    scratch: Scratch,
}

impl Cluster {
    /// None, loudly, where there are no programs.
    async fn start(test: &str) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kube");
        let up = folder.join("up");
        if !up.is_file() || !is_root() {
            eprintln!("SKIPPED {test}: there is no {}, or this is not root", up.display());
            return None;
        }
        let assets =
            std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(|| std::env::temp_dir().join("kube/bin"), PathBuf::from);
        std::fs::create_dir_all(&assets).expect("make a folder for the programs");
        let unpacked =
            run(tool_command("flock").arg(&assets).arg(folder.join("unpack")).env("KUBEBUILDER_ASSETS", &assets));
        assert!(unpacked.status.success(), "unpack: {}", String::from_utf8_lossy(&unpacked.stderr));
        let scratch = Scratch::new();
        let state = scratch.path().join("cluster");
        let mut command = tool_command("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "\"$0\" \"$1\" && exec sleep infinity",
        ]);
        command
            .arg(&up)
            .arg(&state)
            .env("KUBEBUILDER_ASSETS", &assets)
            .env("KUBE_PORT", free())
            .env("ETCD_PORT", free());
        let mut processes = Process::start("cluster", command);
        let said = scratch.path().join("cluster/kubeconfig").display().to_string();
        wait_for("the control plane", PATIENCE, async || {
            if let Some(status) = processes.ended() {
                panic!("the control plane ended with {status}");
            }
            let output = processes.output();
            if output.contains(&said) { Ok(()) } else { Err(output.last().cloned().unwrap_or_default()) }
        })
        .await;
        Some(Self { _processes: processes, kubectl: assets.join("kubectl"), scratch })
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = tool_command(&self.kubectl);
        command.env("KUBECONFIG", self.scratch.path().join("cluster/kubeconfig")).env("HOME", self.scratch.path());
        run(command.args(arguments))
    }

    fn must(&self, arguments: &[&str]) -> String {
        let done = self.kubectl(arguments);
        assert!(done.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Applies these objects in this namespace, as this user.
    fn apply(&self, objects: &[Value], namespace: &str, user: &str) -> Output {
        let file = self.scratch.path().join(format!("{namespace}.json"));
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        std::fs::write(&file, list.to_string()).expect("write objects");
        let file = file.display().to_string();
        self.kubectl(&["apply", "--validate=true", "--as", user, "-n", namespace, "-f", &file])
    }

    /// A namespace whose `edit` role this test's user has.
    fn namespace(&self, name: &str) {
        self.must(&["create", "namespace", name]);
        self.must(&["create", "rolebinding", "editors", "-n", name, "--clusterrole=edit", &format!("--user={EDITOR}")]);
    }

    /// An overlay as this cluster serves its kinds.
    fn overlay(&self, tree: &Tree, overlay: &str, namespace: &str) -> Vec<Value> {
        let newest = self.must(&["api-versions"]);
        let jobs = self.must(&["api-resources", "--api-group=batch", "--no-headers"]);
        let older = jobs.lines().any(|l| l.starts_with("cronjobs") && l.contains("v1beta1"));
        assert!(newest.contains("apps/v1"), "{newest}");
        let mut objects = tree.build(&format!("overlays/{overlay}")).expect("an overlay");
        for object in &mut objects {
            object["metadata"]["namespace"] = Value::from(namespace);
            if older && text(object, "/kind") == "CronJob" {
                object["apiVersion"] = Value::from("batch/v1beta1");
            }
            if older && text(object, "/kind") == "PodDisruptionBudget" {
                object["apiVersion"] = Value::from("policy/v1beta1");
            }
        }
        objects
    }
}

fn free() -> String {
    keepsake_tests::scratch::free_port().to_string()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

// The webhook answers while this thread waits for kubectl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_apply_to_a_genuine_api_server() {
    let Some(cluster) = Cluster::start("manifests_apply_to_a_genuine_api_server").await else { return };
    let tree = Tree::of_the_project();
    // The role is put together by a controller.
    wait_for("the role edit", PATIENCE, async || {
        let rules = cluster.must(&["get", "clusterrole", "edit", "-o", "json"]);
        if rules.contains("networkpolicies") { Ok(()) } else { Err("it has no rules yet") }
    })
    .await;

    for overlay in OVERLAYS {
        // Who has the role `edit` needs no more for any of them.
        cluster.namespace(overlay);
        let objects = cluster.overlay(&tree, overlay, overlay);
        let done = cluster.apply(&objects, overlay, EDITOR);
        assert!(done.status.success(), "{overlay}: {}", told(&done));
        assert_eq!(told(&done).lines().filter(|l| l.ends_with(" created")).count(), objects.len(), "{}", told(&done));
        // Again, nothing changes: the server has understood everything as it was written.
        let again = told(&cluster.apply(&objects, overlay, EDITOR));
        assert_eq!(again.lines().filter(|l| l.ends_with(" unchanged")).count(), objects.len(), "{again}");
        // Its controllers make a pod of each Deployment.
        let wanted = objects.iter().filter(|o| text(o, "/kind") == "Deployment").count();
        wait_for("the agents' pods", PATIENCE, async || {
            let pods = cluster.must(&["get", "pods", "-n", overlay, "-o", "name"]);
            if pods.lines().count() == wanted { Ok(()) } else { Err(pods) }
        })
        .await;
    }

    // With the components of a restore, over what is there.
    let restore = format!("{S3}  - ../../components/restore-from-s3\n  - ../../components/redis-data\n");
    let restoring = cluster.overlay(&tree.with(&overlay_file("operator"), S3, &restore), "operator", "operator");
    let done = told(&cluster.apply(&restoring, "operator", EDITOR));
    for changed in ["configmap/keepsake-agents", "deployment.apps/keepsake-system-mysql"] {
        assert!(done.contains(&format!("{changed} configured")), "{done}");
    }

    // The other kind of repository, with what makes it.
    cluster.namespace("claim");
    let claim =
        tree.with(&overlay_file("operator"), S3, "  - ../../components/init\n  - ../../components/repository-claim\n");
    let done = cluster.apply(&cluster.overlay(&claim, "operator", "claim"), "claim", EDITOR);
    assert!(done.status.success(), "{}", told(&done));
    a_job_restores(&cluster, &claim);

    // Agents in the databases' own pods: the webhook is the editor's to apply, what makes the API server call it is not.
    cluster.namespace("sidecars");
    let objects = cluster.overlay(&with_sidecars(&tree, "operator"), "operator", "sidecars");
    let done = cluster.apply(&objects, "sidecars", EDITOR);
    assert!(done.status.success(), "{}", told(&done));
    let again = told(&cluster.apply(&objects, "sidecars", EDITOR));
    assert_eq!(again.lines().filter(|l| l.ends_with(" unchanged")).count(), objects.len(), "{again}");
    let file = Path::new("components/webhook/registration.yaml");
    let registration: Vec<Value> = tree.read(file).expect("the registration");
    let editor = cluster.apply(&registration, "sidecars", EDITOR);
    assert!(!editor.status.success() && told(&editor).contains("orbidden"), "{}", told(&editor));
    let file = cluster.scratch.path().join("registration.json");
    std::fs::write(&file, registration[0].to_string()).expect("write it");
    cluster.must(&["apply", "-f", &file.display().to_string()]);
    // The webhook is not there, and pods are made all the same.
    cluster.must(&["label", "namespace", "sidecars", "keepsake/sidecars=allowed"]);
    cluster.must(&["create", "serviceaccount", "amp", "-n", "sidecars"]);
    let file = cluster.scratch.path().join("pod.json");
    std::fs::write(&file, webhook::asking("system-mysql").to_string()).expect("write a pod");
    cluster.must(&["create", "-n", "sidecars", "-f", &file.display().to_string()]);

    has_no_token(&cluster, registration[0].clone()).await;

    refuses(&cluster, &tree);
}

/// The very line of manifests/README.md that makes a Job which restores from a claim.
fn a_job_restores(cluster: &Cluster, tree: &Tree) {
    let objects = cluster.overlay(&tree.with(&overlay_file("operator"), CLAIM, FOUND), "operator", "claim");
    let done = cluster.apply(&objects, "claim", EDITOR);
    assert!(done.status.success(), "{}", told(&done));
    let page = project("manifests/README.md");
    let line = page.lines().find(|l| l.contains("create job restore --from")).expect("the line");
    let folder = cluster.kubectl.parent().expect("a folder").display();
    let mut command = tool_command("sh");
    command.args(["-ec", line.trim()]).env("N", "claim").env("PATH", format!("{folder}:/usr/bin:/bin"));
    command.env("KUBECONFIG", cluster.scratch.path().join("cluster/kubeconfig")).env("HOME", cluster.scratch.path());
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root").join("manifests");
    let done = run(command.current_dir(manifests));
    assert!(done.status.success(), "{line}: {}", told(&done));
    let job: Value =
        serde_json::from_str(&cluster.must(&["-n", "claim", "get", "job", "restore", "-o", "json"])).expect("JSON");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(text(pod, "/serviceAccountName"), "keepsake-restore");
    assert_eq!(text(pod, "/containers/0/args/0"), "restore");
    assert_eq!(job["metadata"]["ownerReferences"], Value::Null);
    let mounts: Vec<_> = pod["containers"][0]["volumeMounts"].as_array().expect("mounts").iter().collect();
    for path in ["/backups", "/etc/keepsake/identity", "/var/run/secrets/kubernetes.io/serviceaccount"] {
        assert!(mounts.iter().any(|m| m["mountPath"] == path), "{path}: {mounts:?}");
    }
}

/// The API server's own admission gives containers the token of the pod's account, after a webhook once more: the database has it, the agent has not.
async fn has_no_token(cluster: &Cluster, mut registration: Value) {
    let authority = Authority::new("webhook");
    let files = authority.issue(&cluster.scratch.path().join("webhook"), "127.0.0.1");
    let tls = ServerFiles { cert: files.cert.clone(), key: files.key.clone() };
    let settings = Settings::parse(&webhook::shipped()).expect("settings");
    let any = ([127, 0, 0, 1], 0).into();
    let running = start(Config { listen: any, admin: any, tls, settings }).await.expect("a webhook");
    let ca = data_encoding::BASE64.encode(&std::fs::read(&files.ca).expect("read the CA"));
    for one in registration["webhooks"].as_array_mut().expect("webhooks") {
        one["clientConfig"] = json!({ "url": format!("https://{}/mutate", running.address), "caBundle": ca });
    }
    let write = |name: &str, value: &Value| {
        let file = cluster.scratch.path().join(name);
        std::fs::write(&file, value.to_string()).expect("write an object");
        file.display().to_string()
    };
    cluster.must(&["replace", "-f", &write("registration.json", &registration)]);
    let file = write("asking.json", &webhook::asking("system-mysql"));
    let pod: Value = wait_for("a pod to get its agent", PATIENCE, async || {
        let pod = cluster.must(&["create", "-n", "sidecars", "-o", "json", "-f", &file]);
        let pod: Value = serde_json::from_str(&pod).expect("JSON");
        if webhook::containers(&pod).len() == 2 { Ok(pod) } else { Err("it has none") }
    })
    .await;
    let token = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().expect("mounts").iter();
        let at = |m: &&Value| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount";
        let names: Vec<_> = mounts.filter(at).map(|m| m["name"].as_str().expect("a name").to_owned()).collect();
        let [name] = names.as_slice() else { panic!("{names:?}") };
        name.clone()
    };
    assert_ne!(token(&pod["spec"]["containers"][0]), "keepsake-no-token");
    assert_eq!(token(&pod["spec"]["containers"][1]), "keepsake-no-token");
    assert_eq!(token(&pod["spec"]["initContainers"][0]), "keepsake-no-token");
    running.stop(Duration::ZERO).await;
}

/// That the server would have said so.
fn refuses(cluster: &Cluster, tree: &Tree) {
    cluster.namespace("refused");
    let objects = cluster.overlay(tree, "namespaced", "refused");
    let stranger = cluster.apply(&objects, "refused", "stranger");
    assert!(!stranger.status.success() && told(&stranger).contains("Forbidden"), "{}", told(&stranger));

    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "more" },
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }],
    });
    let more = cluster.apply(&[role], "refused", EDITOR);
    assert!(!more.status.success() && told(&more).contains("Forbidden"), "{}", told(&more));

    let wrong = tree.with("agents/system-mysql/agent.yaml", "revisionHistoryLimit", "revisionHistoryLimits");
    let wrong = cluster.apply(&cluster.overlay(&wrong, "namespaced", "refused"), "refused", EDITOR);
    assert!(!wrong.status.success() && told(&wrong).contains("revisionHistoryLimits"), "{}", told(&wrong));

    let unselected = tree.with("agents/system-redis/agent.yaml", "    matchLabels:\n      app.kubernetes.io/name: keepsake-agent\n      keepsake/component: system-redis\n  template", "    matchLabels:\n      keepsake/component: redis\n  template");
    let unselected = cluster.apply(&cluster.overlay(&unselected, "namespaced", "refused"), "refused", EDITOR);
    assert!(!unselected.status.success() && told(&unselected).contains("selector"), "{}", told(&unselected));
}
