//! Components together: whatever is chosen, agents and coordinator have one repository, and no component takes away what another has said.

use keepsake_coordinator::topology::Consistency;
use keepsake_coordinator::topology::kubernetes::By;
use keepsake_tests::kustomize::{Tree, text};
use serde_json::{Value, json};

use super::objects::Objects;
use super::restricted::containers;
use super::{S3, overlay_file, problems_with, wiring, with_sidecars};

/// Overlays that have a coordinator.
const WITH_COORDINATOR: [&str; 3] = ["operator", "template", "external"];

/// An overlay with these components in the place of that of the bucket.
fn with(tree: &Tree, overlay: &str, components: &[&str]) -> Tree {
    let list: String = components.iter().map(|c| format!("  - ../../components/{c}\n")).collect();
    tree.with(&overlay_file(overlay), S3, &list)
}

/// The list of components, each choice with the rest.
fn choices(overlay: &str) -> Vec<Vec<&'static str>> {
    let objects = if overlay == "template" { "objects-preferred" } else { "objects" };
    let mut all = Vec::new();
    for (repository, restore) in [("repository-s3", "restore-from-s3"), ("repository-claim", "restore-from-claim")] {
        for of_the_cluster in [vec![repository], vec![repository, objects], vec![objects, repository]] {
            for (first, last) in [("", ""), ("init", "cpu-limits"), ("", restore), ("init", restore)] {
                for platform in ["", "plain-kubernetes", "openshift-before-4.11"] {
                    let list = [vec![first], of_the_cluster.clone(), vec![last, platform]].concat();
                    all.push(list.into_iter().filter(|c| !c.is_empty()).collect());
                }
            }
        }
    }
    all
}

fn objects(tree: &Tree, overlay: &str) -> Objects {
    Objects::of(&tree.build(&format!("overlays/{overlay}")).expect("an overlay")).0
}

#[test]
fn manifests_every_combination_has_one_repository_and_loses_nothing() {
    let tree = Tree::of_the_project();
    for overlay in WITH_COORDINATOR {
        for components in choices(overlay) {
            let tree = with(&tree, overlay, &components);
            let has = |name: &str| components.iter().any(|c| c.starts_with(name));
            let wrong = problems_with(&tree, overlay, has("plain"), !has("openshift"));
            assert!(wrong.is_empty(), "{overlay} with {components:?}:\n{}", wrong.join("\n"));
            let objects = objects(&tree, overlay);
            let topology = wiring::topology(&objects).expect("a topology");
            assert_eq!(topology.repository.url.starts_with("s3://"), has("repository-s3"), "{components:?}");
            let [installation] = topology.installations.as_slice() else { panic!("not one installation") };
            let cluster = installation.kubernetes.as_ref();
            assert_eq!(cluster.is_some(), has("objects"), "{overlay} with {components:?}");
            assert!(cluster.is_none_or(|k| k.by == By::Scale && k.namespace == "3scale" && k.objects));
            let consistency = if overlay == "template" { Consistency::Preferred } else { Consistency::Required };
            assert_eq!(installation.consistency, consistency, "{overlay} with {components:?}");
            let restores = objects.config_maps["keepsake-agents"]["KEEPSAKE_ALLOW"].contains("restore=");
            assert_eq!(restores, has("restore-from"), "{overlay} with {components:?}");
            for pod in objects.pods() {
                let limited = containers(pod.spec).all(|c| {
                    let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
                    limits.is_some_and(|l| l.contains_key("cpu"))
                });
                assert_eq!(limited, has("cpu-limits"), "{}: {components:?}", pod.owner);
            }
        }
    }
}

/// A repository that is a volume, and agents in the databases' pods: the settings say so as their comments do.
#[test]
fn manifests_agents_in_databases_pods_may_write_to_a_claim() {
    let settings = "components/webhook/settings.yaml";
    let tree = with_sidecars(&Tree::of_the_project(), "operator")
        .with(&overlay_file("operator"), "components/repository-s3\n", "components/repository-claim\n")
        .with(settings, "        KEEPSAKE_ALLOW: backup=coordinator.keepsake,restore=coordinator.keepsake\n", "        KEEPSAKE_ALLOW: backup=coordinator.keepsake\n")
        .with(settings, "        KEEPSAKE_S3_READ_CREDENTIALS: /etc/keepsake/s3-read/credentials\n", "")
        .with(settings, "        - { name: keepsake-agents-s3, mount: /etc/keepsake/s3 }\n        - { name: keepsake-agents-s3-read, mount: /etc/keepsake/s3-read }\n", "")
        .with(settings, "      secrets:\n      #", "      #")
        .with(settings, "      # claims: [{", "      claims: [{");
    let wrong = problems_with(&tree, "operator", false, true);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The Job that restores from what only the cluster can reach: the CronJob's, as `kubectl create job --from` makes it, and the patch.
#[test]
fn manifests_a_job_restores_from_either_repository() {
    let tree = Tree::of_the_project();
    for overlay in WITH_COORDINATOR {
        let found = if overlay == "template" { "objects-preferred" } else { "objects" };
        for components in
            [["repository-s3", "restore-from-s3", found], ["repository-claim", "restore-from-claim", found]]
        {
            let tree = with(&tree, overlay, &components);
            let mut values = tree.build(&format!("overlays/{overlay}")).expect("an overlay");
            let cron_job = values.iter().find(|v| text(v, "/kind") == "CronJob").expect("a CronJob");
            let owner = json!([{ "apiVersion": "batch/v1", "kind": "CronJob", "name": "keepsake-backup", "uid": "1", "controller": true }]);
            let job = json!({
                "apiVersion": "batch/v1", "kind": "Job",
                "metadata": { "name": "restore", "namespace": "3scale", "ownerReferences": owner },
                "spec": cron_job["spec"]["jobTemplate"]["spec"],
            });
            values.push(tree.patched("restore/job.yaml", job).expect("the patch"));
            let of_access = tree.build("access").expect("what a coordinator may do").into_iter();
            values.extend(of_access.filter(|v| text(v, "/kind") == "ServiceAccount"));
            let (objects, wrong) = Objects::of(&values);
            assert_eq!(wrong, Vec::<String>::new());
            let wrong = [
                super::restricted::problems(&objects, false, true),
                super::flags::problems(&objects, &super::project("Containerfile")),
                super::wiring::problems(&objects, &super::project("agent/src/admin.rs")),
                super::network::problems(&objects),
            ]
            .concat();
            assert!(wrong.is_empty(), "{overlay} with {components:?}:\n{}", wrong.join("\n"));
            let [job] = objects.jobs.as_slice() else { panic!("not one Job") };
            assert_eq!(job.metadata.owner_references, None);
            let pod = job.spec.as_ref().and_then(|s| s.template.spec.as_ref()).expect("a pod");
            assert_eq!(pod.service_account_name.as_deref(), Some("keepsake-restore"));
            let mounts: Vec<_> =
                pod.containers[0].volume_mounts.iter().flatten().map(|m| m.mount_path.as_str()).collect();
            let identity = pod.containers[0].args.iter().flatten().next_back().expect("an identity");
            assert!(mounts.iter().any(|m| identity.starts_with(m)), "{identity}: {mounts:?}");
        }
    }
}

/// What is commented there is the topology of somebody outside who restores.
#[test]
fn manifests_topology_outside_may_name_the_cluster() {
    let tree = Tree::of_the_project();
    let file = "overlays/namespaced/topology-outside.yaml";
    let tree =
        tree.with(file, "    # platform: kubernetes\n    # kubernetes:", "    platform: kubernetes\n    kubernetes:");
    let parsed = |text: &str| keepsake_coordinator::topology::Topology::parse(text, std::path::Path::new("/"));
    let text = tree.0[std::path::Path::new(file)].clone();
    let named = parsed(&text).unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(named.installations[0].kubernetes.is_some() && !named.installations[0].all_of_cluster);
    // For `--in-cluster` alone: its end is the list of components.
    let bare = &text[..text.find("    components:").expect("components")];
    let bare = parsed(bare).unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(bare.installations[0].all_of_cluster);
    let values: Vec<Value> = tree.read(std::path::Path::new(file)).expect("YAML");
    assert_eq!(values.len(), 1);
}
