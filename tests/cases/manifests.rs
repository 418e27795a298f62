//! The manifests: every file parses, every overlay is what its types, our rules and the binaries say, and what is wrong on purpose is seen.

mod applied;
mod breaks;
mod combined;
mod flags;
mod network;
mod objects;
mod restricted;
mod sidecars;
mod steps;
mod wiring;

use std::path::Path;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use keepsake_coordinator::topology::{Told, Topology};
use keepsake_coordinator::webhook::Settings;
use keepsake_tests::child::{run, tool_command};
use keepsake_tests::house::programs;
use keepsake_tests::kustomize::{Tree, text};
use keepsake_tests::scratch::Scratch;
use keepsake_tests::webhook::{IMAGE, NO_IMAGE, bare};
use serde_json::Value;

use self::objects::Objects;

/// What an administrator applies.
const OVERLAYS: [&str; 4] = ["operator", "template", "external", "namespaced"];
/// With which components besides.
const S3: &str = "  - ../../components/repository-s3\n";

fn project(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root");
    std::fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("read {file}: {e}"))
}

fn overlay_file(overlay: &str) -> String {
    format!("overlays/{overlay}/kustomization.yaml")
}

/// What is wrong with an overlay.
fn problems(tree: &Tree, overlay: &str) -> Vec<String> {
    problems_with(tree, overlay, false, true)
}

fn problems_with(tree: &Tree, overlay: &str, numbered: bool, seccomp: bool) -> Vec<String> {
    let values = match tree.build(&format!("overlays/{overlay}")) {
        Ok(values) => values,
        Err(why) => return vec![why],
    };
    let (objects, mut wrong) = Objects::of(&values);
    wrong.extend(restricted::problems(&objects, numbered, seccomp));
    wrong.extend(flags::problems(&objects, &project("Containerfile")));
    wrong.extend(wiring::problems(&objects, &project("agent/src/admin.rs")));
    wrong.extend(network::problems(&objects));
    let files = ["certificates/cert-manager.yaml", "certificates/webhook.yaml"];
    match files.iter().map(|file| tree.read(Path::new(file))).collect::<Result<Vec<Vec<Value>>, _>>() {
        Ok(certificates) => wrong.extend(wiring::certificate_problems(&objects, &certificates.concat())),
        Err(why) => wrong.push(why),
    }
    if objects.config_maps.contains_key("keepsake-webhook") {
        wrong.extend(match registration(tree) {
            Ok(found) => {
                sidecars::registration_problems(&objects, &found, &project("coordinator/src/webhook/serve.rs"))
            }
            Err(why) => vec![why],
        });
    }
    wrong.extend(
        values
            .iter()
            .filter(|v| text(v, "/metadata/namespace") != "3scale")
            .map(|v| format!("{} is in another namespace", text(v, "/metadata/name"))),
    );
    if overlay == "namespaced" && !objects.cron_jobs.is_empty() {
        wrong.push("the coordinator runs outside".to_owned());
    }
    wrong
}

/// What makes the API server call the webhook.
fn registration(tree: &Tree) -> Result<MutatingWebhookConfiguration, String> {
    let file = Path::new("components/webhook/registration.yaml");
    let [one] = tree.read::<Value>(file)?.try_into().map_err(|_| "not one registration".to_owned())?;
    objects::typed(&one).map_err(|why| format!("{}: {why}", file.display()))
}

/// An overlay whose agents of MySQL and Redis are in the databases' own pods.
fn with_sidecars(tree: &Tree, overlay: &str) -> Tree {
    let file = overlay_file(overlay);
    ["system-mysql", "backend-redis", "system-redis"]
        .iter()
        .fold(tree.clone(), |tree, c| tree.with(&file, &format!("agents/{c}\n"), &format!("sidecars/{c}\n")))
        .with(&file, S3, &format!("{S3}  - ../../components/webhook\n"))
        .with("components/webhook/settings.yaml", NO_IMAGE, IMAGE)
}

fn sound(tree: &Tree, overlay: &str) {
    let wrong = problems(tree, overlay);
    assert!(wrong.is_empty(), "{overlay}:\n{}", wrong.join("\n"));
}

/// `make prove-kube` runs it: the rules must see it.
#[test]
#[ignore = "broken on purpose"]
fn manifests_broken_a_flag() {
    let tree = Tree::of_the_project();
    sound(&tree.with("base/backup.yaml", "KEEPSAKE_LOG", "KEEPSAKE_NO_SUCH_FLAG"), "operator");
}

#[test]
fn manifests_every_file_parses() {
    let tree = Tree::of_the_project();
    for file in tree.0.keys() {
        let documents: Vec<Value> = tree.read(file).unwrap_or_else(|e| panic!("{e}"));
        assert!(
            !documents.is_empty() && documents.iter().all(|d| !d.is_null()),
            "{} has an empty document",
            file.display()
        );
    }
}

#[test]
fn manifests_overlays_are_sound() {
    let tree = Tree::of_the_project();
    for overlay in OVERLAYS {
        sound(&tree, overlay);
        // What lets an agent load is added for a restore, and taken away.
        let (objects, _) = Objects::of(&tree.build(&format!("overlays/{overlay}")).expect("an overlay"));
        let allowed = &objects.config_maps["keepsake-agents"]["KEEPSAKE_ALLOW"];
        assert!(!allowed.contains("restore"), "{overlay}: {allowed}");
        assert!(!objects.config_maps["keepsake-agents"].contains_key("KEEPSAKE_S3_READ_CREDENTIALS"), "{overlay}");
    }
}

#[test]
fn manifests_overlays_with_other_components_are_sound() {
    let tree = Tree::of_the_project();
    let with = |overlay: &str, components: &str| tree.with(&overlay_file(overlay), S3, components);
    for overlay in OVERLAYS {
        let restore = "  - ../../components/repository-s3\n  - ../../components/restore-from-s3\n";
        sound(&with(overlay, restore), overlay);
    }
    for (overlay, repository) in [("operator", S3), ("external", "  - ../../components/repository-claim\n")] {
        sound(&with(overlay, &format!("  - ../../components/init\n{repository}")), overlay);
    }
    let claim = "  - ../../components/repository-claim\n  - ../../components/restore-from-claim\n";
    for overlay in ["operator", "external"] {
        sound(&with(overlay, claim), overlay);
    }
    sound(&with("operator", &format!("{S3}  - ../../components/objects\n")), "operator");
    for overlay in ["operator", "namespaced"] {
        sound(&with(overlay, &format!("{S3}  - ../../components/redis-data\n")), overlay);
    }
    for overlay in OVERLAYS {
        let plain = with(overlay, &format!("{S3}  - ../../components/plain-kubernetes\n"));
        assert_eq!(problems_with(&plain, overlay, true, true), Vec::<String>::new(), "{overlay} on plain Kubernetes");
        let old = with(overlay, &format!("{S3}  - ../../components/openshift-before-4.11\n"));
        assert_eq!(problems_with(&old, overlay, false, false), Vec::<String>::new(), "{overlay} on OpenShift 4.7");
    }
}

#[test]
fn manifests_agents_may_be_in_the_databases_own_pods() {
    let tree = Tree::of_the_project();
    for overlay in ["operator", "template", "namespaced"] {
        let tree = with_sidecars(&tree, overlay);
        sound(&tree, overlay);
        let (objects, _) = Objects::of(&tree.build(&format!("overlays/{overlay}")).expect("an overlay"));
        let beside: Vec<_> = objects.sidecars.iter().map(|s| s.component.as_str()).collect();
        assert_eq!(beside.len(), 3, "{beside:?}");
        assert_eq!(objects.budgets.len(), 1);
        let webhook = "  - ../../components/webhook\n";
        let after = |other: &str| {
            tree.with(&overlay_file(overlay), webhook, &format!("{webhook}  - ../../components/{other}\n"))
        };
        let plain = problems_with(&after("plain-kubernetes"), overlay, true, true);
        assert_eq!(plain, Vec::<String>::new(), "{overlay} on plain Kubernetes");
        let old =
            after("openshift-before-4.11").with("components/webhook/settings.yaml", "seccomp: true", "seccomp: false");
        assert_eq!(problems_with(&old, overlay, false, false), Vec::<String>::new(), "{overlay} on OpenShift 4.7");
    }
}

/// An image that nobody has would keep databases from starting: whoever follows the steps and forgets it gets a webhook that does not start.
#[test]
fn manifests_webhook_starts_with_no_image_but_the_administrators() {
    let told = Settings::parse(&bare()).expect_err("no image is named").chain();
    assert!(told.contains("the overlay's `images`"), "{told}");
    let tree = Tree::of_the_project();
    let forgotten = with_sidecars(&tree, "operator").with("components/webhook/settings.yaml", IMAGE, NO_IMAGE);
    let wrong = problems(&forgotten, "operator");
    assert!(wrong.iter().any(|w| w.contains("the webhook's settings")), "{wrong:?}");
}

#[test]
fn manifests_system_database_may_be_postgresql() {
    let tree = Tree::of_the_project();
    let settings = "KEEPSAKE_MYSQL_HOST: system-mysql\n  KEEPSAKE_MYSQL_USER: root\n  KEEPSAKE_MYSQL_DATABASE: system\n  KEEPSAKE_MYSQL_INSECURE: 'true'";
    let others = "KEEPSAKE_POSTGRES_HOST: system-postgresql\n  KEEPSAKE_POSTGRES_USER: system\n  KEEPSAKE_POSTGRES_DATABASE: system\n  KEEPSAKE_POSTGRES_INSECURE: 'true'";
    let tree = tree
        .with(&overlay_file("operator"), "agents/system-mysql\n", "agents/system-postgresql\n")
        .with(&overlay_file("operator"), "tools-of-system-mysql", "tools-of-system-postgresql")
        .with("overlays/operator/settings.yaml", settings, others)
        .with("overlays/operator/settings.yaml", "name: keepsake-system-mysql", "name: keepsake-system-postgresql")
        .with("base/topology.yaml", "name: system-mysql, engine: mysql", "name: system-postgresql, engine: postgres")
        .with("base/topology.yaml", "keepsake-system-mysql", "keepsake-system-postgresql");
    sound(&tree, "operator");
}

#[test]
fn manifests_topologies_are_of_the_same_components() {
    let tree = Tree::of_the_project();
    let told = Told { url: Some("file:///backups".to_owned()), ..Told::default() };
    let of = |text: &str| {
        // The one outside says itself where the repository is.
        let told = if text.contains("url:") { &Told::default() } else { &told };
        let topology = Topology::parse_with(text, Path::new("/"), told).expect("a topology");
        let with_agents = topology.installations[0].components.iter().filter(|c| c.agent.is_some());
        with_agents.map(|c| (c.name.clone(), c.engine.clone())).collect::<Vec<_>>()
    };
    let base: Vec<Value> = tree.read(Path::new("base/topology.yaml")).expect("the topology");
    let base = of(text(&base[0], "/data/keepsake.yaml"));
    let patch: Vec<Value> = tree.read(Path::new("components/consistency-preferred/topology.yaml")).expect("a patch");
    assert_eq!(of(text(&patch[0], "/0/value")), base);
    assert_eq!(of(&tree.0[Path::new("overlays/namespaced/topology-outside.yaml")]), base);
    for component in ["objects", "objects-preferred"] {
        let patch: Vec<Value> =
            tree.read(&Path::new("components").join(component).join("topology.yaml")).expect("a patch");
        let found = Topology::parse_with(text(&patch[0], "/0/value"), Path::new("/"), &told).expect("a topology");
        assert!(found.installations[0].all_of_cluster, "its agents are found");
    }
}

/// The programs themselves, with the very arguments and variables of every container: what they miss is the files that the cluster mounts, nothing before.
#[test]
fn manifests_programs_start_as_they_are_told() {
    let tree = Tree::of_the_project();
    let scratch = Scratch::new();
    let with_webhook = with_sidecars(&tree, "operator");
    for (tree, overlay) in OVERLAYS.map(|overlay| (&tree, overlay)).into_iter().chain([(&with_webhook, "operator")]) {
        let (objects, _) = Objects::of(&tree.build(&format!("overlays/{overlay}")).expect("an overlay"));
        for pod in objects.pods() {
            let container = pod.spec.containers.first().expect("a container");
            let program = container.command.as_ref().expect("a program")[0].rsplit('/').next().expect("a name");
            let mut command = tool_command(programs().join(program));
            command.args(container.args.iter().flatten());
            command.envs(flags::environment(container, &objects).expect("variables"));
            command.env("KEEPSAKE_SCRATCH", scratch.path().join("agent"));
            command.env("KEEPSAKE_LISTEN", "127.0.0.1:0").env("KEEPSAKE_ADMIN", "127.0.0.1:0");
            let done = run(&mut command);
            let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
            let missing = said.contains("/etc/keepsake/") && said.contains("No such file");
            assert!(!done.status.success() && missing, "{overlay}, {}: {said}", pod.owner);
        }
    }
}

/// What this module builds is what kustomize builds.
#[test]
fn manifests_are_built_as_kustomize_builds_them() {
    let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let version = tool_command("sh").arg("-c").arg("\"$0\" version --client").arg(&kubectl).output().expect("a shell");
    if !String::from_utf8_lossy(&version.stdout).contains("Kustomize Version: v5") {
        eprintln!(
            "SKIPPED manifests_are_built_as_kustomize_builds_them: there is no kubectl with kustomize 5 (KUBECTL names one)"
        );
        return;
    }
    let tree = Tree::of_the_project();
    let with_webhook = with_sidecars(&tree, "operator");
    for (tree, overlay) in OVERLAYS.map(|overlay| (&tree, overlay)).into_iter().chain([(&with_webhook, "operator")]) {
        let scratch = Scratch::new();
        for (file, text) in &tree.0 {
            let file = scratch.path().join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("make a folder");
            std::fs::write(&file, text).expect("write a manifest");
        }
        let folder = format!("overlays/{overlay}");
        let built = run(tool_command(&kubectl).arg("kustomize").arg(scratch.path().join(&folder)));
        assert!(built.status.success(), "{overlay}: {}", String::from_utf8_lossy(&built.stderr));
        let mut theirs: Vec<Value> =
            serde_saphyr::from_multiple(&String::from_utf8_lossy(&built.stdout)).expect("YAML");
        let mut ours = tree.build(&folder).expect("an overlay");
        for objects in [&mut theirs, &mut ours] {
            objects.sort_by_key(|o| (text(o, "/kind").to_owned(), text(o, "/metadata/name").to_owned()));
        }
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{overlay}");
        }
        assert_eq!(ours.len(), theirs.len(), "{overlay}");
    }
}

/// What the table of the documented procedure says was shown by a test.
#[test]
fn procedure_names_tests_that_there_are() {
    let roots = ["cases", "kube", "node", "../coordinator/src"]
        .map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let (mut pending, mut tests) = (roots.to_vec(), String::new());
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).expect("list a folder").map(|e| e.expect("an entry").path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            tests += &std::fs::read_to_string(&path).expect("read a source");
        }
    }
    let table = project("docs/procedure.md");
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() >= 3).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("fn {name}()")), "there is no test {name}");
    }
}
