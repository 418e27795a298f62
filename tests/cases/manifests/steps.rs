//! What the manuals tell an administrator to do: names that are replaced, Secrets that are made, commands that there are.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use k8s_openapi::api::core::v1::Volume;
use keepsake_coordinator::cli::Args;
use keepsake_tests::child::{run, tool_command};
use keepsake_tests::kustomize::{Tree, text};
use keepsake_tests::scratch::Scratch;
use serde_json::Value;

use super::objects::Objects;
use super::{S3, overlay_file, project, with_sidecars};

const README: &str = "manifests/README.md";
const RUNBOOK: &str = "docs/runbook.md";
/// What is of the whole cluster, names its namespace itself, or asks nobody.
const NAMED: [&str; 10] = [
    "apply -k",
    "delete -k",
    "patch --local",
    "create namespace",
    "label namespace",
    "patch pv",
    "get pv",
    "mutatingwebhookconfiguration",
    "apply -f components/webhook/registration.yaml",
    "create --dry-run=client -f",
];

/// The lines that are code: those that are indented by as much, and are no item of a list.
fn code(page: &str) -> Vec<String> {
    let is_code = |line: &&str| line.starts_with("    ") && !line.trim_start().starts_with("* ");
    project(page).lines().filter(is_code).map(|line| line.trim().to_owned()).collect()
}

/// The commands in such lines, by where a shell begins them.
fn commands(page: &str, program: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in code(page) {
        let line = line.split(" # ").next().unwrap_or_default().replace("&&", "\n").replace("$(", "\n");
        let parts = line.split(['\n', ';', '|', '(', ')']).map(|p| p.trim().trim_start_matches("do ").trim());
        found.extend(parts.filter(|p| p.split(' ').next() == Some(program)).map(str::to_owned));
    }
    assert!(program == "oc" || found.len() > 3, "{page}: {found:?}");
    found
}

#[test]
fn manifests_steps_are_commands_that_there_are() {
    for page in [README, RUNBOOK] {
        for command in commands(page, "keepsake") {
            let words = command.split('>').next().unwrap_or_default().split_whitespace();
            let parsed = Args::try_parse_from(words).map(drop);
            assert!(parsed.is_ok(), "{page}: {command}: {}", parsed.expect_err("an error"));
        }
    }
}

/// What is said of no namespace is done in whatever one somebody was last in.
#[test]
fn manifests_steps_name_the_namespace() {
    for page in [README, RUNBOOK] {
        for program in ["kubectl", "oc"] {
            for command in commands(page, program) {
                let is_named = command.contains(" -n ") || NAMED.iter().any(|words| command.contains(words));
                assert!(is_named, "{page}: {command}");
            }
        }
    }
}

/// Step 0, done as it stands: afterwards nothing is called as it was shipped.
#[test]
fn manifests_steps_replace_every_name() {
    let scratch = Scratch::new();
    let shipped = Tree::of_the_project();
    for (file, text) in &shipped.0 {
        let file = scratch.path().join("manifests").join(file);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make a folder");
        std::fs::write(file, text).expect("write a manifest");
    }
    let lines = code(README);
    let begin = lines.iter().position(|l| l.starts_with("cp -r manifests mine")).expect("step 0");
    let script = lines[begin..begin + 4].join("\n");
    assert!(script.contains("N=3scale I=prod O=operator") && script.matches("sed -i").count() == 2, "{script}");
    let script = script.replace("N=3scale I=prod", "N=elsewhere I=east");
    let mut command = tool_command("sh");
    command.args(["-ec", &script]).env("PATH", "/usr/bin:/bin").current_dir(scratch.path());
    let done = run(&mut command);
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));

    let mut mine = shipped.clone();
    for (file, text) in &mut mine.0 {
        *text = std::fs::read_to_string(scratch.path().join("mine").join(file)).expect("read a manifest");
        for line in text.lines() {
            let said = line.split('#').next().unwrap_or_default();
            let said = said.replace("s3://bucket/3scale", "").replace(".3scale.net", "");
            let old = said.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "3scale" || word == "prod");
            assert!(!old, "{}: {line}", file.display());
        }
    }
    for folder in ["overlays/operator", "overlays/template", "overlays/external", "access", "access/rebuild"] {
        for object in mine.build(folder).expect("it can be built") {
            assert_eq!(text(&object, "/metadata/namespace"), "elsewhere", "{folder}: {}", text(&object, "/kind"));
        }
    }
    let found = with_objects(&mine, "operator");
    let topology = super::wiring::topology(&found).expect("a topology");
    assert_eq!(topology.installations[0].name.as_str(), "east");
    assert_eq!(topology.installations[0].kubernetes.as_ref().expect("a cluster").namespace, "elsewhere");
    assert_eq!(found.config_maps["keepsake-agents"]["KEEPSAKE_INSTALLATION"], "east");
    let registration = super::registration(&mine).expect("the registration");
    let of = |w: &k8s_openapi::api::admissionregistration::v1::MutatingWebhook| {
        w.client_config.service.as_ref().map(|s| s.namespace.clone())
    };
    assert!(registration.webhooks.iter().flatten().all(|w| of(w).as_deref() == Some("elsewhere")));
}

fn with_objects(tree: &Tree, overlay: &str) -> Objects {
    let tree = tree.with(&overlay_file(overlay), S3, &format!("{S3}  - ../../components/objects\n"));
    Objects::of(&tree.build(&format!("overlays/{overlay}")).expect("an overlay")).0
}

/// Every Secret and ConfigMap that a pod mounts and that is in no file, is made in a step, unless it is 3scale's own.
#[test]
fn manifests_steps_make_every_secret() {
    let tree = Tree::of_the_project();
    let restore = format!("{S3}  - ../../components/restore-from-s3\n  - ../../components/objects\n");
    let with = |tree: &Tree, overlay: &str| {
        let tree = tree.with(&overlay_file(overlay), S3, &format!("  - ../../components/init\n{restore}"));
        Objects::of(&tree.build(&format!("overlays/{overlay}")).expect("an overlay")).0
    };
    let all = [with(&tree, "operator"), with(&with_sidecars(&tree, "operator"), "operator"), with(&tree, "template")];
    let (mut secrets, mut maps): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    for objects in &all {
        let pods = objects.pods();
        let volumes = pods.iter().flat_map(|p| p.spec.volumes.iter().flatten());
        for Volume { secret, config_map, .. } in volumes {
            secrets.extend(secret.as_ref().and_then(|s| s.secret_name.clone()));
            let name = config_map.as_ref().map(|m| m.name.clone());
            maps.extend(name.filter(|name| !objects.config_maps.contains_key(name)));
        }
    }
    let job = tree.0[Path::new("restore/job.yaml")].clone();
    let identity = job.split("secretName: ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    secrets.insert(identity.expect("a Secret").to_owned());
    secrets.retain(|name| name != "zync");
    assert!(secrets.len() > 11 && maps.len() == 1, "{secrets:?} {maps:?}");
    let made = commands(README, "kubectl");
    let is_made = |kind: &str, name: &str| {
        let component = name.trim_start_matches("keepsake-").trim_end_matches("-tls");
        let in_a_loop = code(README).iter().any(|l| l.starts_with("for c in ") && l.contains(component));
        let said = |name: &str| made.iter().any(|c| c.contains(&format!("create {kind} {name} ")));
        said(name) || (name.ends_with("-tls") && in_a_loop && said("keepsake-$c-tls"))
    };
    for (kind, names) in [("secret generic", &secrets), ("configmap", &maps)] {
        for name in names {
            assert!(is_made(kind, name), "nothing in {README} makes the {kind} {name}");
        }
    }
}

/// Files and folders that the page names are there, and every folder is named.
#[test]
fn manifests_steps_name_what_there_is() {
    let tree = Tree::of_the_project();
    let page = project(README);
    let folders: BTreeSet<_> = tree.0.keys().filter_map(|f| Some(f.parent()?.display().to_string())).collect();
    let words = page.split(|c: char| c.is_whitespace() || "`()[],;:'\"".contains(c)).map(|w| w.trim_end_matches('.'));
    let ours = ["base/", "components/", "overlays/", "access/", "restore/", "certificates/"];
    let mut named = 0;
    for word in words.filter(|w| ours.iter().any(|folder| w.starts_with(folder))) {
        let is_open = word.contains(['<', '$', '*', '…']);
        let is_there = tree.0.contains_key(Path::new(word)) || folders.contains(word.trim_end_matches('/'));
        assert!(is_open || is_there, "{README} names {word}, which is not there");
        named += 1;
    }
    assert!(named > 40, "{named}");
    for folder in folders.iter().filter(|f| f.contains('/') && !f.starts_with("agents") && !f.starts_with("sidecars")) {
        assert!(
            page.contains(&format!("{folder}`")) || page.contains(&format!("{folder}/")),
            "{README} has no {folder}"
        );
    }
}

/// `kubectl apply` takes nothing away: whoever changes to agents in the databases' pods is told what is left over.
#[test]
fn manifests_steps_delete_the_agents_that_are_left_over() {
    let tree = Tree::of_the_project();
    let names = |tree: &Tree| -> BTreeSet<String> {
        let built: Vec<Value> = tree.build("overlays/operator").expect("an overlay");
        built.iter().map(|o| format!("{} {}", text(o, "/kind").to_lowercase(), text(o, "/metadata/name"))).collect()
    };
    let (apart, beside) = (names(&tree), names(&with_sidecars(&tree, "operator")));
    let told = |word: &str| -> BTreeSet<String> {
        let all = commands(README, "kubectl");
        let line = all.iter().find(|c| c.contains(" delete ") && c.contains(word)).expect("what to delete").clone();
        let (_, what) = line.split_once(" delete ").expect("a list");
        let mut words = what.split(' ');
        let kinds: Vec<_> = words.next().expect("kinds").split(',').collect();
        words.flat_map(|name| kinds.iter().map(move |kind| format!("{kind} {name}"))).collect()
    };
    assert_eq!(told("keepsake-backend-redis"), apart.difference(&beside).cloned().collect());
    assert_eq!(told(",poddisruptionbudget"), beside.difference(&apart).cloned().collect());
}

/// A namespace that is gone: what has to be there before the next is done.
#[test]
fn manifests_steps_of_a_rebuild_are_in_order() {
    let page = project(RUNBOOK);
    let (_, rest) = page.split_once("\n## A namespace that is gone\n").expect("the section");
    let section = rest.split("\n## ").next().expect("its text");
    let mut from = 0;
    for word in [
        "create namespace",
        "keepsake-$c-tls",
        "keepsake-signing",
        "agents-s3-read",
        "keepsake-trust",
        "keepsake objects --into",
        "keepsake-system-mysql",
        "components/restore-from-s3",
        "components/objects",
        "components/redis-data",
        "apply -k access ",
        "apply -k access/rebuild",
        "apply -k overlays/$O",
        "keepsake-webhook-tls",
        "rollout status deployment keepsake-webhook",
        "registration.yaml",
        "keepsake/sidecars=allowed",
        "rebuild --yes",
        "delete -k access/rebuild",
    ] {
        let at = section[from..].find(word).unwrap_or_else(|| panic!("{word} is not there, or too early"));
        from += at;
    }
    // What goes with the namespace, and never with a rebuild.
    assert!(section.contains("never the claim `keepsake-repository`"), "the backups' claim is not spoken of");
    for word in ["signing.pem", "keepsake.trust.json", "credentials of the bucket", "`ca/`", "copy of `manifests`"] {
        let before = page.split("\n## Backups").next().expect("what comes before");
        assert!(before.to_lowercase().contains(word), "{word} is not among what is kept");
    }
}

/// Where one page sends somebody to a chapter of another, there is one.
#[test]
fn manifests_steps_lead_to_chapters_that_there_are() {
    let slug = |heading: &str| -> String {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
    };
    let mut followed = 0;
    for page in [README, RUNBOOK, "README.md"] {
        let text = project(page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()?.split_once('#')) {
            let (file, chapter) = target;
            let file = if file.is_empty() { page.to_owned() } else { file.trim_start_matches("../").to_owned() };
            let headings = project(&file);
            let mut headings =
                headings.lines().filter(|l| l.starts_with('#')).map(|l| slug(l.trim_start_matches('#').trim()));
            assert!(headings.any(|h| h == chapter), "{page} leads to {file}#{chapter}, which is not there");
            followed += 1;
        }
    }
    assert!(followed > 12, "{followed}");
}
