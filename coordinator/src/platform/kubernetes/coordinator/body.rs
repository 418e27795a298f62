//! The Job of a coordinator, from a CronJob's template, and the Secret that belongs to it: pure.
//!
//! Of the template the pods are taken as they are, with their labels, by which network policies know them. What makes the Job be tried again or ended is not:
//! a coordinator that has failed must not be started blindly, and a restore ends when it is over.

mod command;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Installation, RunId};
use keepsake_core::secret::Secret;
use kube::core::DynamicObject;
use serde_json::{Map, Value, json};

/// The coordinator's container is called so, or is the only one.
const CONTAINER: &str = "keepsake";
/// Where the set's identity is mounted, and the file in it.
const FOLDER: &str = "/etc/keepsake/set";
const FILE: &str = "identity";
/// The file as the coordinator is told of it.
pub const IDENTITY_FILE: &str = "/etc/keepsake/set/identity";
const VOLUME: &str = "keepsake-set-identity";
/// Labels of such Jobs and their pods. Not those of the Jobs that a restore makes and ends: it would end its own coordinator.
pub const COORDINATES: &str = "keepsake/coordinates";
/// The same, with the id of the run.
pub const RUN: &str = "keepsake/coordinates-run";
/// The annotation that says who made it: host and process.
const BY: &str = "keepsake/made-by";
/// Where the cluster does so, a Job that has ended is taken away after so many seconds, and the Secret that it owns with it.
const KEPT: u32 = 7 * 24 * 3600;
const KEPT_WITH_SECRET: u32 = 3600;

/// What a coordinator is started for.
#[derive(Debug, Clone)]
pub struct Order {
    /// The CronJob whose template is taken.
    pub cron_job: String,
    /// The service account, if it is not the template's.
    pub account: Option<String>,
    /// What the Job is called.
    pub name: String,
    /// For which installation.
    pub installation: Installation,
    /// The run that it begins or goes on with, if that is known.
    pub run: Option<RunId>,
    /// Its arguments, without a secret.
    pub arguments: Vec<String>,
    /// Who makes it, for people.
    pub by: String,
    /// A set's identity is handed over beside it.
    pub with_identity: bool,
}

/// The Job, and the name of the container that is the coordinator.
///
/// # Errors
/// `Unsupported` when the template has no container that can be told to be the coordinator's, or one that would do other than the command line says.
pub fn job(cron_job: &DynamicObject, order: &Order) -> Result<(Value, String)> {
    let template = cron_job.data.pointer("/spec/jobTemplate/spec/template");
    let template = template.and_then(Value::as_object).ok_or_else(|| no_container(order))?;
    let mut pod = object(template.get("spec"));
    let mut containers: Vec<Value> = array(pod.get("containers"));
    let name_of = |c: &Value| c.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let only = (containers.len() == 1).then_some(0);
    let at = containers.iter().position(|c| name_of(c) == CONTAINER).or(only).ok_or_else(|| no_container(order))?;
    let main = containers.get_mut(at).and_then(Value::as_object_mut).ok_or_else(|| no_container(order))?;
    command::ensure_hands_over(main, &order.cron_job)?;
    main.insert("args".to_owned(), json!(order.arguments));
    // What it says last is kept where the log cannot be had any more.
    main.insert("terminationMessagePolicy".to_owned(), "FallbackToLogsOnError".into());
    let mut variables = array(main.get("env"));
    variables.retain(|v| {
        let name = name_of(v);
        !command::is_a_flag(&name)
    });
    main.insert("env".to_owned(), variables.into());
    if order.with_identity {
        let mut mounts = array(main.get("volumeMounts"));
        mounts.push(json!({ "name": VOLUME, "mountPath": FOLDER, "readOnly": true }));
        main.insert("volumeMounts".to_owned(), mounts.into());
    }
    let coordinator = containers.get(at).map(name_of).unwrap_or_default();
    pod.insert("containers".to_owned(), containers.into());
    pod.insert("restartPolicy".to_owned(), "Never".into());
    if order.with_identity {
        let mut volumes = array(pod.get("volumes"));
        // 288 is 0440, as for the other keys. It is not optional: the pod waits for it.
        volumes.push(json!({ "name": VOLUME, "secret": { "secretName": order.name, "defaultMode": 288 } }));
        pod.insert("volumes".to_owned(), volumes.into());
    }
    if let Some(account) = &order.account {
        pod.remove("serviceAccount");
        pod.insert("serviceAccountName".to_owned(), account.as_str().into());
    }
    let metadata = template.get("metadata");
    let of = |field: &str| object(metadata.and_then(|m| m.get(field)));
    let (mut labels, mut annotations) = (of("labels"), of("annotations"));
    labels.extend(own_labels(order));
    annotations.insert(BY.to_owned(), order.by.as_str().into());
    let body = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": order.name, "labels": labels, "annotations": { BY: order.by } },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": if order.with_identity { KEPT_WITH_SECRET } else { KEPT },
            "template": { "metadata": { "labels": labels, "annotations": annotations }, "spec": pod },
        },
    });
    Ok((body, coordinator))
}

/// The Secret with the set's identity, and nothing else. It cannot be changed, and is gone with the Job.
pub(super) fn secret(order: &Order, uid: &str, identity: &Secret) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
        "metadata": {
            "name": order.name,
            "labels": own_labels(order),
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": order.name, "uid": uid }],
        },
        "stringData": { FILE: identity.expose() },
    })
}

fn own_labels(order: &Order) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "keepsake".into());
    labels.insert(COORDINATES.to_owned(), order.installation.as_str().into());
    labels.extend(order.run.map(|run| (RUN.to_owned(), run.to_string().into())));
    labels
}

fn object(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn array(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn no_container(order: &Order) -> Error {
    let text = format!(
        "cronjob/{} has no container `{CONTAINER}` in its pods' template, nor one alone: name the CronJob of the coordinator with --cronjob",
        order.cron_job
    );
    Error::new(Kind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(with_identity: bool) -> Order {
        Order {
            cron_job: "keepsake-backup".to_owned(),
            account: None,
            name: "keepsake-restore-1".to_owned(),
            installation: "prod".parse().unwrap(),
            run: Some("01900000-0000-7000-8000-000000000001".parse().unwrap()),
            arguments: vec!["restore".to_owned(), "--yes".to_owned(), "prod".to_owned()],
            by: "here pid 1".to_owned(),
            with_identity,
        }
    }

    fn cron_job(containers: &Value) -> DynamicObject {
        let template = json!({
            "metadata": { "labels": { "app": "coordinator" }, "annotations": { "a": "b" } },
            "spec": {
                "restartPolicy": "OnFailure", "serviceAccountName": "coordinator", "serviceAccount": "coordinator",
                "containers": containers, "volumes": [{ "name": "tls" }],
            },
        });
        let spec = json!({ "template": template, "backoffLimit": 6, "activeDeadlineSeconds": 60, "parallelism": 2 });
        let object = json!({ "metadata": { "name": "keepsake-backup" }, "spec": { "jobTemplate": { "spec": spec } } });
        serde_json::from_value(object).unwrap()
    }

    fn keepsake() -> Value {
        json!({
            "name": "keepsake", "image": "keepsake:1", "command": ["keepsake"], "args": ["backup", "--all"],
            "env": [{ "name": "KEEPSAKE_TOPOLOGY", "value": "t" }, { "name": "KEEPSAKE_ALL", "value": "true" }, { "name": "TZ", "value": "UTC" }],
            "volumeMounts": [{ "name": "tls", "mountPath": "/etc/keepsake/tls" }],
        })
    }

    #[test]
    fn pods_are_the_templates_and_nobody_tries_again() {
        let template = cron_job(&json!([{ "name": "mesh" }, keepsake()]));
        let (job, container) = job(&template, &order(false)).unwrap();
        assert_eq!(container, "keepsake");
        let spec = &job["spec"];
        assert_eq!(
            (&spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"].as_str()),
            (&json!(0), Some("Never"))
        );
        assert!(spec.get("activeDeadlineSeconds").is_none() && spec.get("parallelism").is_none(), "{spec}");
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["containers"][1]["args"], json!(["restore", "--yes", "prod"]));
        assert_eq!(pod["containers"][1]["command"], json!(["keepsake"]));
        let names: Vec<_> =
            pod["containers"][1]["env"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["KEEPSAKE_TOPOLOGY", "TZ"], "what is done is said by the command line alone");
        assert_eq!(
            (pod["serviceAccountName"].as_str(), pod["volumes"].as_array().unwrap().len()),
            (Some("coordinator"), 1)
        );
        for labels in [&spec["template"]["metadata"]["labels"], &job["metadata"]["labels"]] {
            assert_eq!((labels["app"].as_str(), labels[COORDINATES].as_str()), (Some("coordinator"), Some("prod")));
            assert!(
                labels.get(crate::platform::kubernetes::job::INSTALLATION).is_none(),
                "a restore ends Jobs with that label"
            );
        }
    }

    #[test]
    fn the_identity_is_a_file_of_a_secret_that_the_job_owns() {
        let order = Order { account: Some("keepsake-restore".to_owned()), ..order(true) };
        let (job, _) = job(&cron_job(&json!([keepsake()])), &order).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(format!("{FOLDER}/{FILE}"), IDENTITY_FILE);
        assert_eq!(pod["containers"][0]["volumeMounts"][1]["mountPath"], FOLDER);
        assert_eq!(pod["volumes"][1]["secret"]["secretName"], "keepsake-restore-1");
        assert!(pod["volumes"][1]["secret"].get("optional").is_none(), "the pod waits for it");
        assert_eq!(pod["serviceAccountName"], "keepsake-restore");
        assert!(pod.get("serviceAccount").is_none());
        assert!(!job.to_string().contains("AGE-SECRET"));
        let secret = secret(&order, "uid-1", &Secret::new("AGE-SECRET-KEY-1"));
        assert_eq!(secret["stringData"], json!({ "identity": "AGE-SECRET-KEY-1" }));
        assert_eq!(
            (&secret["immutable"], secret["metadata"]["ownerReferences"][0]["uid"].as_str()),
            (&json!(true), Some("uid-1"))
        );
    }

    #[test]
    fn a_template_that_does_more_than_it_is_told_is_none() {
        let with = |field: &str, value: Value| {
            let mut container = keepsake();
            container[field] = value;
            job(&cron_job(&json!([container])), &order(true))
        };
        let told = with("command", json!(["sh", "-c", "keepsake backup"])).unwrap_err();
        assert!(
            told.kind() == Kind::Unsupported && told.chain().contains("cronjob/keepsake-backup"),
            "{}",
            told.chain()
        );
        assert_eq!(with("envFrom", json!([{ "secretRef": { "name": "s" } }])).unwrap_err().kind(), Kind::Unsupported);
        // The arguments come after the wrapper's own.
        let (job, _) = with("command", json!(["tini", "--", "keepsake"])).unwrap();
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["tini", "--", "keepsake"]));
        assert_eq!(container["args"], json!(["restore", "--yes", "prod"]));
    }

    #[test]
    fn a_template_without_a_coordinator_is_none() {
        for containers in [json!([]), json!([{ "name": "a" }, { "name": "b" }])] {
            let told = job(&cron_job(&containers), &order(false)).unwrap_err();
            assert!(told.kind() == Kind::Unsupported && told.chain().contains("--cronjob"), "{}", told.chain());
        }
        let (_, container) = job(&cron_job(&json!([{ "name": "another" }])), &order(false)).unwrap();
        assert_eq!(container, "another");
    }
}
