//! A Job that has System do something: made from the pods' template of one of its workloads, and read again. Pure.
//!
//! Only what a rake task needs is taken from the template (docs/decisions/0021): the container's image and surroundings, the volumes, the account, where it may
//! run. Its labels are not, so that no Service and no selector catches the pod; nor its probes, ports and other containers, with which it would never end.

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::{Epoch, RunId, RunKey};
use kube::core::DynamicObject;
use serde_json::{Map, Value, json};

use super::wait::is_so;
use crate::topology::kubernetes::ResyncTask;

/// Labels of Jobs of ours and of their pods: for which installation and which run, and what it does.
pub(super) const INSTALLATION: &str = "keepsake/installation";
const RUN: &str = "keepsake/run";
const TASK: &str = "keepsake/task";
/// The annotation that says which epoch of the run has made it.
const EPOCH: &str = "keepsake/epoch";
/// Its container.
pub(super) const CONTAINER: &str = "rake";
/// So often it is tried again in a new pod.
const RETRIES: u32 = 2;

/// What of a pod's template says where and as whom it runs. Init containers too: one of 3scale's brings certificates for the database, and what the other waits
/// for is there once the applications run.
const OF_POD: [&str; 14] = [
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "imagePullSecrets",
    "initContainers",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "tolerations",
    "volumes",
];
/// What of its container. The program is the image's own, as in the Jobs of the operator: it prepares the environment.
const OF_CONTAINER: [&str; 9] = [
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// What the Job is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose<'a> {
    pub(super) run: &'a RunKey,
    pub(super) task: ResyncTask,
    /// The rake task.
    pub(super) rake: &'a str,
    /// It is ended after so many seconds.
    pub(super) deadline: u32,
}

/// How far a Job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It has not ended.
    Going,
    /// It has ended, and well.
    Complete,
    /// It makes no more pods; the reason and its words.
    Failed { reason: String, message: String },
    /// It is being taken away.
    Terminating,
}

/// A Job of ours as it was when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) uid: String,
    /// The epoch that made it.
    pub(super) epoch: Epoch,
    pub(super) state: State,
}

/// Its name: the same for whoever asks for the same in the name of the same run.
pub(super) fn name(run: RunId, task: ResyncTask) -> String {
    format!("keepsake-{}-{run}", task.as_str())
}

/// The label selector of all that an installation has.
pub(super) fn of_installation(run: &RunKey) -> String {
    format!("{INSTALLATION}={}", run.installation)
}

/// The Job, from a workload's pod template. `workload` is the name of the container that is meant, if there is one of that name.
///
/// # Errors
/// `Unsupported` when the template has no container.
pub(super) fn body(template: &Value, workload: &str, purpose: Purpose<'_>) -> Result<Value> {
    let of = |value: &Value, keys: &[&str]| -> Map<String, Value> {
        let taken = keys.iter().filter_map(|key| Some(((*key).to_owned(), value.get(*key)?.clone())));
        taken.collect()
    };
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let containers = spec.get("containers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_named = |c: &&Value| c.get("name").and_then(Value::as_str) == Some(workload);
    let main = containers.iter().find(is_named).or(containers.first());
    let main = main.ok_or_else(|| Error::new(Kind::Unsupported, "the template has no container"))?;
    let mut container = of(main, &OF_CONTAINER);
    container.insert("name".to_owned(), CONTAINER.into());
    container.insert("args".to_owned(), json!(["bash", "-c", format!("bundle exec rake {}", purpose.rake)]));
    // What it says last is kept where the log cannot be had any more.
    container.insert("terminationMessagePolicy".to_owned(), "FallbackToLogsOnError".into());
    let mut pod = of(spec, &OF_POD);
    pod.insert("containers".to_owned(), json!([container]));
    pod.insert("restartPolicy".to_owned(), "Never".into());
    // Which nodes are allowed, but nothing that depends on the workload's own pods.
    if let Some(nodes) = spec.pointer("/affinity/nodeAffinity") {
        pod.insert("affinity".to_owned(), json!({ "nodeAffinity": nodes }));
    }
    let RunKey { run, installation, epoch } = purpose.run;
    let labels = json!({
        INSTALLATION: installation.as_str(), RUN: run.to_string(), TASK: purpose.task.as_str(),
        "app.kubernetes.io/managed-by": "keepsake",
    });
    let annotations = json!({ EPOCH: epoch.0.to_string() });
    Ok(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name(*run, purpose.task), "labels": labels, "annotations": annotations },
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": purpose.deadline,
            "template": { "metadata": { "labels": labels, "annotations": annotations }, "spec": pod },
        },
    }))
}

impl Job {
    /// From what the API server gave.
    ///
    /// # Errors
    /// `Corrupt` when it does not say which epoch has made it.
    pub(super) fn read(object: &DynamicObject) -> Result<Self> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let epoch = object.metadata.annotations.as_ref().and_then(|a| a.get(EPOCH));
        let epoch = epoch.map(|text| text.parse()).transpose();
        let corrupt = || format!("the annotation {EPOCH} of job/{name} cannot be read: delete the Job");
        let epoch = epoch.or_kind(Kind::Corrupt, corrupt())?;
        let epoch = epoch.ok_or_else(|| Error::new(Kind::Corrupt, corrupt()))?;
        let state = if object.metadata.deletion_timestamp.is_some() {
            State::Terminating
        } else if is_so(&object.data, "Complete") {
            State::Complete
        } else if is_so(&object.data, "Failed") {
            let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
            let mut conditions = conditions.into_iter().flatten();
            let failed = conditions.find(|c| c.get("type").and_then(Value::as_str) == Some("Failed"));
            let word = |key| failed.and_then(|c| c.get(key)?.as_str()).unwrap_or_default().to_owned();
            State::Failed { reason: word("reason"), message: word("message") }
        } else {
            State::Going
        };
        Ok(Self { name, uid: object.metadata.uid.clone().unwrap_or_default(), epoch: Epoch(epoch), state })
    }
}

/// The end of what was said, in one line, without passwords that stand in addresses.
pub(super) fn tail(said: &str, longest: usize) -> String {
    let lines: Vec<_> = said.lines().map(str::trim).filter(|l| !l.is_empty()).map(without_passwords).collect();
    let all = lines.join("; ");
    let surplus = all.chars().count().saturating_sub(longest);
    if surplus == 0 { all } else { format!("… {}", all.chars().skip(surplus).collect::<String>()) }
}

/// A password in an address may have any sign in it, so all up to the last `@` before a space goes.
fn without_passwords(line: &str) -> String {
    let mut told = String::new();
    for (n, word) in line.split(' ').enumerate() {
        if n > 0 {
            told.push(' ');
        }
        match (word.split_once("://"), word.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => told.push_str(&format!("{scheme}://…@{host}")),
            _ => told.push_str(word),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u64) -> RunKey {
        let run = "01900000-0000-7000-8000-000000000001".parse().unwrap();
        RunKey { run, installation: "prod".parse().unwrap(), epoch: Epoch(epoch) }
    }

    fn made(template: &Value) -> Result<Value> {
        let run = key(3);
        let purpose = Purpose { run: &run, task: ResyncTask::ZyncDomains, rake: "zync:resync:domains", deadline: 90 };
        body(template, "system-sidekiq", purpose)
    }

    fn job(metadata: &Value, status: &Value) -> Result<Job> {
        let object = json!({ "metadata": metadata, "status": status });
        Job::read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn names_are_short_enough_for_a_label() {
        for task in
            [ResyncTask::ZyncDomains, ResyncTask::SearchIndex, ResyncTask::CacheFlush, ResyncTask::BackendRewrite]
        {
            assert!(name(RunId::generate(), task).len() <= 63);
        }
    }

    #[test]
    fn what_it_needs_is_taken_and_what_would_hold_it_is_not() {
        let template = json!({
            "metadata": { "labels": { "deployment": "system-sidekiq" }, "annotations": { "inject": "true" } },
            "spec": {
                "serviceAccountName": "amp", "restartPolicy": "Always", "tolerations": [{ "operator": "Exists" }],
                "affinity": { "nodeAffinity": { "a": 1 }, "podAntiAffinity": { "b": 2 } },
                "initContainers": [{ "name": "check-svc" }],
                "containers": [
                    { "name": "logs", "image": "other" },
                    { "name": "system-sidekiq", "image": "porta", "args": ["rake"], "livenessProbe": {}, "ports": [], "env": [{ "name": "A" }] },
                ],
            },
        });
        let job = made(&template).unwrap();
        let pod = job.pointer("/spec/template/spec").unwrap();
        assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
        let container = &pod["containers"][0];
        assert_eq!(container["args"], json!(["bash", "-c", "bundle exec rake zync:resync:domains"]));
        assert_eq!((container["image"].as_str(), &container["env"][0]["name"]), (Some("porta"), &json!("A")));
        assert!(container.get("livenessProbe").is_none() && container.get("ports").is_none());
        assert_eq!((pod["restartPolicy"].as_str(), pod["serviceAccountName"].as_str()), (Some("Never"), Some("amp")));
        assert_eq!(pod["affinity"], json!({ "nodeAffinity": { "a": 1 } }));
        assert_eq!(pod["initContainers"][0]["name"], "check-svc");
        let meta = job.pointer("/spec/template/metadata").unwrap();
        assert!(meta["labels"].get("deployment").is_none() && meta["annotations"].get("inject").is_none());
        assert_eq!(
            (meta["labels"][INSTALLATION].as_str(), &job["spec"]["activeDeadlineSeconds"]),
            (Some("prod"), &json!(90))
        );
        assert_eq!(made(&json!({ "spec": { "containers": [] } })).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn how_far_it_is_is_read() {
        let ours = json!({ "name": "a", "uid": "u", "annotations": { EPOCH: "3" } });
        let is = |status| job(&ours, &status).unwrap().state;
        assert_eq!(is(json!({})), State::Going);
        assert_eq!(is(json!({ "conditions": [{ "type": "Complete", "status": "True" }] })), State::Complete);
        let failed = json!({ "conditions": [{ "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m" }] });
        assert_eq!(is(failed), State::Failed { reason: "BackoffLimitExceeded".to_owned(), message: "m".to_owned() });
        assert_eq!(job(&ours, &json!({})).unwrap().epoch, Epoch(3));
        for annotations in [json!({}), json!({ EPOCH: "three" })] {
            let told = job(&json!({ "name": "a", "annotations": annotations }), &json!({})).unwrap_err();
            assert_eq!(told.kind(), Kind::Corrupt);
            assert!(told.chain().contains("job/a"), "{}", told.chain());
        }
    }

    #[test]
    fn of_a_log_the_end_is_told_without_passwords() {
        let said = "first\n\n  cannot reach redis://:secret@system-redis:6379/1 and mysql2://root:p@ss@db\nat last";
        let told = "first; cannot reach redis://…@system-redis:6379/1 and mysql2://…@db; at last";
        assert_eq!(tail(said, 200), told);
        assert_eq!(tail(said, 7), "… at last");
        assert_eq!(tail("", 7), "");
    }
}
