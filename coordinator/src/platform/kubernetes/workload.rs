//! A Deployment of Kubernetes or a DeploymentConfig of OpenShift, as far as it matters here: both have the same fields where it does.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Selector};
use serde::Deserialize;

use super::names;
use super::record::{ANNOTATION, Live, Record};
use crate::plan::WORKER;
use crate::platform::Stopped;

/// The annotation of a pod template that says for which run its pods were made anew.
pub const ROLLED_OUT: &str = "keepsake/rolled-out";
/// 3scale's own label, on every object and pod of an installation.
const COMPONENT: &str = "threescale_component";
/// The pod label with a workload's name: of Deployments (2.15 and later), and of DeploymentConfigs.
const NAMED_BY: [&str; 2] = ["deployment", "deploymentConfig"];

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Deployment,
    DeploymentConfig,
}

impl Sort {
    /// How the API server knows it.
    pub(super) fn resource(self) -> ApiResource {
        let (group, kind, plural) = match self {
            Self::Deployment => ("apps", "Deployment", "deployments"),
            Self::DeploymentConfig => ("apps.openshift.io", "DeploymentConfig", "deploymentconfigs"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
    }

    /// Its word in messages, as `kubectl` takes it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::DeploymentConfig => "deploymentconfig",
        }
    }
}

/// One workload as it was when it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) sort: Sort,
    pub(super) namespace: String,
    pub(super) name: String,
    /// What of 3scale it is, if its name or its pods' label says so.
    pub(super) part: Option<String>,
    /// Whether labels or owner say that it belongs to a 3scale.
    pub(super) is_labelled: bool,
    /// The version that a change is made of; another one is refused by the server.
    pub(super) version: String,
    pub(super) generation: i64,
    pub(super) uid: Option<String>,
    /// `spec.replicas`; 1 when it is not said, as both controllers take it.
    pub(super) replicas: i32,
    pub(super) paused: bool,
    /// Which pods are its own, as a label selector.
    pub(super) selector: String,
    pub(super) status: WorkloadStatus,
    /// What is remembered of it.
    pub(super) record: Option<Record>,
    /// For which run its pods were last made anew.
    pub(super) rolled_out: Option<String>,
    /// Whether new pods follow when its template is changed.
    pub(super) follows: bool,
}

/// What its controller says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WorkloadStatus {
    pub(super) observed_generation: i64,
    pub(super) replicas: i32,
    pub(super) updated_replicas: i32,
    pub(super) ready_replicas: i32,
}

#[derive(Deserialize)]
struct Body {
    spec: Spec,
    #[serde(default)]
    status: Option<WorkloadStatus>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    replicas: Option<i32>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    selector: serde_json::Value,
    #[serde(default)]
    template: Option<Template>,
    /// Of a DeploymentConfig.
    #[serde(default)]
    triggers: Option<Vec<Trigger>>,
}

#[derive(Deserialize)]
struct Trigger {
    #[serde(rename = "type", default)]
    sort: String,
}

#[derive(Deserialize)]
struct Template {
    #[serde(default)]
    metadata: Option<ObjectMeta>,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} in namespace {}", self.sort.word(), self.name, self.namespace)
    }
}

impl Workload {
    /// From what the API server gave.
    ///
    /// # Errors
    /// `Unsupported` when it is not of that sort's form, or selects every pod; `Corrupt` when our own annotation cannot be read.
    pub(super) fn read(sort: Sort, object: DynamicObject) -> Result<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let (Some(name), Some(namespace)) = (metadata.name, metadata.namespace) else {
            return Err(Error::new(Kind::Unsupported, format!("a {} without a name or namespace", sort.word())));
        };
        let what = format!("{}/{name} in namespace {namespace}", sort.word());
        let Body { spec, status } = serde_json::from_value(data)
            .or_kind(Kind::Unsupported, format!("{what} is not of the form that is known"))?;
        let selector = selector(sort, spec.selector).map_err(|e| e.context(format!("the selector of {what}")))?;
        let annotations = metadata.annotations.unwrap_or_default();
        let record = annotations.get(ANNOTATION).map(|text| Record::parse(text)).transpose();
        let record = record.map_err(|e| {
            e.context(format!(
                "{what}: it says how many replicas it had before a restore stopped it; set them by hand and remove it"
            ))
        })?;
        let pods = spec.template.and_then(|t| t.metadata).unwrap_or_default();
        let rolled_out = pods.annotations.and_then(|mut a| a.remove(ROLLED_OUT));
        let pods = pods.labels.unwrap_or_default();
        // Without a list of triggers it has this one.
        let follows = sort == Sort::Deployment
            || spec.triggers.is_none_or(|triggers| triggers.iter().any(|t| t.sort == "ConfigChange"));
        let labels = metadata.labels.unwrap_or_default();
        let owned = metadata.owner_references.iter().flatten().any(|o| o.kind == "APIManager");
        let part = std::iter::once(&name)
            .chain(NAMED_BY.iter().filter_map(|label| pods.get(*label)))
            .find(|n| names::is_known(n))
            .cloned();
        Ok(Self {
            sort,
            part,
            is_labelled: owned || [&labels, &pods].iter().any(|l| l.contains_key(COMPONENT)),
            version: metadata.resource_version.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            uid: metadata.uid,
            replicas: spec.replicas.unwrap_or(1),
            paused: spec.paused,
            selector,
            status: status.unwrap_or_default(),
            record,
            rolled_out,
            follows,
            namespace,
            name,
        })
    }

    /// What it has now.
    pub(super) fn live(&self) -> Live {
        Live { replicas: self.replicas, ready: self.status.ready_replicas }
    }

    /// What it had, as it is remembered.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        let record = self.record.as_ref()?;
        let (namespace, workload) = (self.namespace.clone(), self.told());
        Some(Stopped { namespace, workload, replicas: record.replicas, ready: record.ready, uid: self.uid.clone() })
    }

    /// Its sort and name.
    pub(super) fn told(&self) -> String {
        format!("{}/{}", self.sort.word(), self.name)
    }

    /// Whether it is backend-worker, or is stopped with it or after it: then nothing is left that puts jobs into Backend's queues.
    pub(super) fn is_after_the_writers(&self) -> bool {
        let step = |name: &str| names::stop_step(name);
        step(self.part.as_deref().unwrap_or(&self.name)).is_some_and(|own| Some(own) >= step(WORKER))
    }

    /// The step in which it is started.
    pub(super) fn start_step(&self) -> usize {
        names::start_step(self.part.as_deref().unwrap_or(&self.name))
    }
}

/// The label selector of its pods. An empty one would take every pod of the namespace for its own.
fn selector(sort: Sort, value: serde_json::Value) -> Result<String> {
    let selector = match sort {
        Sort::Deployment => {
            let labels: LabelSelector =
                serde_json::from_value(value).or_kind(Kind::Unsupported, "it cannot be read")?;
            Selector::try_from(labels).or_kind(Kind::Unsupported, "it cannot be read")?
        }
        Sort::DeploymentConfig => {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(value).or_kind(Kind::Unsupported, "it cannot be read")?;
            labels.into_iter().collect()
        }
    };
    if selector.selects_all() {
        return Err(Error::new(Kind::Unsupported, "it selects every pod of the namespace"));
    }
    Ok(selector.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(sort: Sort, object: Value) -> Result<Workload> {
        Workload::read(sort, serde_json::from_value(object).unwrap())
    }

    #[test]
    fn both_sorts_are_read() {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "system-app", "namespace": "threescale", "resourceVersion": "7", "generation": 3, "labels": { "threescale_component": "system" } },
            "spec": {
                "replicas": 3,
                "selector": { "matchLabels": { "deployment": "system-app" }, "matchExpressions": [{ "key": "app", "operator": "Exists" }] },
                "template": { "metadata": { "labels": { "deployment": "system-app" } } },
            },
            "status": { "observedGeneration": 3, "replicas": 3, "readyReplicas": 2 },
        });
        let found = read(Sort::Deployment, deployment).unwrap();
        assert_eq!(found.live(), Live { replicas: 3, ready: 2 });
        assert_eq!(found.selector, "deployment=system-app,app");
        assert!(found.is_labelled && found.record.is_none());
        let config = json!({
            "metadata": { "name": "amp-zync", "namespace": "threescale", "ownerReferences": [{ "apiVersion": "v", "kind": "APIManager", "name": "a", "uid": "u" }] },
            "spec": { "selector": { "deploymentConfig": "zync" }, "template": { "metadata": { "labels": { "deploymentConfig": "zync" } } } },
        });
        let found = read(Sort::DeploymentConfig, config).unwrap();
        assert_eq!(
            (found.part.as_deref(), found.replicas, found.selector.as_str()),
            (Some("zync"), 1, "deploymentConfig=zync")
        );
        assert!(found.is_labelled);
        assert_eq!(found.to_string(), "deploymentconfig/amp-zync in namespace threescale");
        assert!(found.follows && found.rolled_out.is_none());
    }

    #[test]
    fn whether_pods_follow_their_template_is_read() {
        let of = |triggers: Value| {
            let template = json!({ "metadata": { "labels": { "a": "b" }, "annotations": { ROLLED_OUT: "a-run" } } });
            let spec = json!({ "selector": { "a": "b" }, "triggers": triggers, "template": template });
            let object = json!({ "metadata": { "name": "zync", "namespace": "a" }, "spec": spec });
            read(Sort::DeploymentConfig, object).unwrap()
        };
        assert_eq!(of(Value::Null).rolled_out.as_deref(), Some("a-run"));
        let image = json!({ "type": "ImageChange", "imageChangeParams": {} });
        assert!(of(Value::Null).follows && of(json!([image, { "type": "ConfigChange" }])).follows);
        assert!(!of(json!([])).follows && !of(json!([image])).follows);
    }

    #[test]
    fn what_would_take_other_pods_for_its_own_is_refused() {
        for selector in [json!({}), Value::Null] {
            let object = json!({ "metadata": { "name": "zync", "namespace": "a" }, "spec": { "selector": selector } });
            for sort in [Sort::Deployment, Sort::DeploymentConfig] {
                assert_eq!(read(sort, object.clone()).unwrap_err().kind(), Kind::Unsupported);
            }
        }
        let spoilt = json!({
            "metadata": { "name": "zync", "namespace": "a", "annotations": { ANNOTATION: "three" } },
            "spec": { "selector": { "matchLabels": { "a": "b" } } },
        });
        let told = read(Sort::Deployment, spoilt).unwrap_err();
        assert_eq!(told.kind(), Kind::Corrupt);
        assert!(told.chain().contains("deployment/zync") && told.chain().contains("by hand"), "{}", told.chain());
    }
}
