//! A Route of OpenShift, and what closing and opening it have to write: pure.
//!
//! A Route is closed when every backend of it has the weight 0: then its router has nobody to ask, and answers 503 (the reference of `route.openshift.io/v1` says
//! so). What the weights were stands beside them in the annotation [`ANNOTATION`], written together with them. One rule, as for workloads (docs/decisions/0020):
//! **all weights 0 means closed by us, anything else is somebody's wish.**

use std::collections::BTreeMap;
use std::fmt;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::record::{ANNOTATION, Holder, Me};

/// One Route as it was when it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The version that a change is made of.
    version: String,
    /// An Ingress of which it was made.
    pub(super) ingress: Option<String>,
    /// `spec.to` and `spec.alternateBackends`, as they are.
    to: Map<String, Value>,
    alternates: Option<Vec<Map<String, Value>>>,
    /// What is remembered of it.
    pub(super) record: Option<Closed>,
}

/// What a Route had, and for whom it is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Closed {
    /// The weights, `spec.to` first.
    weights: Vec<Weight>,
    /// For whom it is closed, as for workloads.
    pub(super) by: BTreeMap<String, Holder>,
}

/// What a backend had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    /// The name of its Service.
    to: String,
    /// None where it was not said.
    weight: Option<i64>,
}

/// How the API server knows Routes.
pub(super) fn routes() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("route.openshift.io", "v1", "Route"), "routes")
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route/{} in namespace {}", self.name, self.namespace)
    }
}

fn weight_of(backend: &Map<String, Value>) -> Option<i64> {
    backend.get("weight").and_then(Value::as_i64)
}

fn name_of(backend: &Map<String, Value>) -> &str {
    backend.get("name").and_then(Value::as_str).unwrap_or_default()
}

impl Route {
    /// From what the API server gave.
    ///
    /// # Errors
    /// `Unsupported` when it is not of the form that is known; `Corrupt` when our own annotation cannot be read.
    pub(super) fn read(object: DynamicObject) -> Result<Self> {
        let DynamicObject { metadata, mut data, .. } = object;
        let (Some(name), Some(namespace)) = (metadata.name, metadata.namespace) else {
            return Err(Error::new(Kind::Unsupported, "a Route without a name or namespace"));
        };
        let what = format!("route/{name} in namespace {namespace}");
        let unknown = || Error::new(Kind::Unsupported, format!("{what} is not of the form that is known"));
        let Some(Value::Object(to)) = data.pointer_mut("/spec/to").map(Value::take) else { return Err(unknown()) };
        let alternates = match data.pointer_mut("/spec/alternateBackends").map(Value::take) {
            None | Some(Value::Null) => None,
            Some(found) => Some(serde_json::from_value(found).map_err(|_| unknown())?),
        };
        let text = metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION));
        let record = text.map(|text| serde_json::from_str(text)).transpose().or_kind(
            Kind::Corrupt,
            format!(
                "the annotation {ANNOTATION} of {what} cannot be read: it says what weights its backends had before a restore closed it; set them by hand \
                 (`oc set route-backends`) and remove it"
            ),
        )?;
        let owners = metadata.owner_references.into_iter().flatten();
        let ingress = owners.filter(|o| o.kind == "Ingress" && o.controller == Some(true)).map(|o| o.name).next();
        let version = metadata.resource_version.unwrap_or_default();
        Ok(Self { namespace, name, version, ingress, to, alternates, record })
    }

    fn backends(&self) -> impl Iterator<Item = &Map<String, Value>> {
        std::iter::once(&self.to).chain(self.alternates.iter().flatten())
    }

    /// Whether it leads to one of these Services.
    pub(super) fn leads_to(&self, services: &[&str]) -> bool {
        self.backends().any(|b| services.contains(&name_of(b)))
    }

    /// Whether nobody is let through.
    pub(super) fn is_closed(&self) -> bool {
        self.backends().all(|b| weight_of(b) == Some(0))
    }

    fn by(&self) -> Option<&BTreeMap<String, Holder>> {
        self.record.as_ref().map(|r| &r.by)
    }

    /// The write that closes it for us; none when it is.
    ///
    /// # Errors
    /// `Conflict` when a later epoch has it in its hands.
    pub(super) fn close(&self, me: &Me) -> Result<Option<Value>> {
        me.is_not_late(self.is_closed(), self.by())?;
        // Somebody opened it: what is remembered of before is over.
        let before = self.record.as_ref().filter(|_| self.is_closed());
        let live = || self.backends().map(|b| Weight { to: name_of(b).to_owned(), weight: weight_of(b) }).collect();
        let weights = before.map_or_else(live, |r| r.weights.clone());
        let by = me.put_into(&before.map(|r| r.by.clone()).unwrap_or_default());
        let record = Closed { weights, by };
        if self.is_closed() && self.record.as_ref() == Some(&record) {
            return Ok(None);
        }
        self.patch(Some(&record), |_| Some(0)).map(Some)
    }

    /// The write that opens it, if it is closed for us and nobody else; none when there is nothing to do.
    ///
    /// # Errors
    /// `Conflict` when a later epoch has it in its hands.
    pub(super) fn open(&self, me: &Me) -> Result<Option<Value>> {
        me.is_not_late(self.is_closed(), self.by())?;
        let Some(record) = self.record.as_ref().filter(|r| me.is_in(&r.by)) else { return Ok(None) };
        let by = me.taken_out_of(&record.by);
        if !by.is_empty() {
            return self.patch(Some(&Closed { by, ..record.clone() }), weight_of).map(Some);
        }
        if !self.is_closed() {
            return self.patch(None, weight_of).map(Some);
        }
        // A backend that somebody has put there meanwhile has no weight of before: as if none had been said.
        let had = |b: &Map<String, Value>| record.weights.iter().find(|w| w.to == name_of(b)).and_then(|w| w.weight);
        self.patch(None, had).map(Some)
    }

    /// A write of this version of it, of the annotation and all weights together.
    fn patch(&self, record: Option<&Closed>, weight: impl Fn(&Map<String, Value>) -> Option<i64>) -> Result<Value> {
        let text = record.map(serde_json::to_string).transpose();
        let text = text.or_kind(Kind::Internal, format!("write the annotation {ANNOTATION}"))?;
        // A merge takes a null for "not there", but takes lists as they are.
        let mut spec = json!({ "to": { "weight": weight(&self.to) } });
        if let (Some(alternates), Some(spec)) = (&self.alternates, spec.as_object_mut()) {
            let weighed = alternates.iter().map(|backend| {
                let mut backend = backend.clone();
                match weight(&backend) {
                    Some(weight) => backend.insert("weight".to_owned(), weight.into()),
                    None => backend.remove("weight"),
                };
                Value::Object(backend)
            });
            spec.insert("alternateBackends".to_owned(), weighed.collect());
        }
        Ok(json!({
            "metadata": { "resourceVersion": self.version, "annotations": { ANNOTATION: text } },
            "spec": spec,
        }))
    }
}

#[cfg(test)]
mod tests {
    use keepsake_core::id::{Epoch, RunKey};

    use super::*;

    fn me(installation: &str, epoch: u64) -> Me {
        let run = "01900000-0000-7000-8000-000000000001".parse().unwrap();
        Me::new(&RunKey { run, installation: installation.parse().unwrap(), epoch: Epoch(epoch) }, "threescale")
    }

    fn route(spec: &Value) -> Value {
        json!({
            "apiVersion": "route.openshift.io/v1", "kind": "Route",
            "metadata": { "name": "backend", "namespace": "threescale", "resourceVersion": "7" }, "spec": spec,
        })
    }

    fn read(object: &Value) -> Route {
        Route::read(serde_json::from_value(object.clone()).unwrap()).unwrap()
    }

    /// As an API server merges.
    fn merged(object: &Value, patch: &Value) -> Value {
        let Some(patch) = patch.as_object() else { return patch.clone() };
        let mut object = object.as_object().cloned().unwrap_or_default();
        for (key, value) in patch {
            if value.is_null() {
                object.remove(key);
            } else {
                let before = object.get(key).cloned().unwrap_or(Value::Null);
                object.insert(key.clone(), merged(&before, value));
            }
        }
        Value::Object(object)
    }

    fn written(object: &Value, write: Result<Option<Value>>) -> Value {
        write.unwrap().map_or_else(|| object.clone(), |patch| merged(object, &patch))
    }

    fn spec_of_two() -> Value {
        json!({
            "host": "api.example.com", "to": { "kind": "Service", "name": "backend-listener", "weight": 7 },
            "alternateBackends": [{ "kind": "Service", "name": "other", "weight": 31 }, { "kind": "Service", "name": "third" }],
        })
    }

    #[test]
    fn what_is_closed_opens_as_it_was() {
        for spec in [
            json!({ "to": { "kind": "Service", "name": "system-provider" }, "port": { "targetPort": "http" } }),
            json!({ "to": { "kind": "Service", "name": "system-provider", "weight": 0 } }),
            spec_of_two(),
        ] {
            let before = route(&spec);
            let closed = written(&before, read(&before).close(&me("prod", 3)));
            assert!(read(&closed).is_closed(), "{closed}");
            assert_eq!(read(&closed).close(&me("prod", 3)).unwrap(), None, "asked again");
            let taken_over = written(&closed, read(&closed).close(&me("prod", 4)));
            let open = written(&taken_over, read(&taken_over).open(&me("prod", 4)));
            assert_eq!(open["spec"], before["spec"]);
            assert_eq!(open["metadata"]["annotations"], json!({}));
            assert_eq!(read(&open).open(&me("prod", 4)).unwrap(), None, "asked again");
        }
    }

    #[test]
    fn what_somebody_wishes_meanwhile_stays() {
        let before = route(&spec_of_two());
        let closed = written(&before, read(&before).close(&me("prod", 3)));
        let mut opened = closed.clone();
        opened["spec"]["to"]["weight"] = json!(5);
        let left = written(&opened, read(&opened).open(&me("prod", 3)));
        assert_eq!(left["spec"], opened["spec"]);
        assert!(read(&left).record.is_none());
        // Closed once more, that is what it had.
        let again = written(&opened, read(&opened).close(&me("prod", 4)));
        let open = written(&again, read(&again).open(&me("prod", 4)));
        assert_eq!(open["spec"], opened["spec"]);
        // A backend was put in the place of another.
        let mut other = closed.clone();
        other["spec"]["alternateBackends"] = json!([{ "kind": "Service", "name": "fourth", "weight": 0 }]);
        let open = written(&other, read(&other).open(&me("prod", 3)));
        assert_eq!(open["spec"]["to"]["weight"], 7);
        assert_eq!(open["spec"]["alternateBackends"], json!([{ "kind": "Service", "name": "fourth" }]));
    }

    #[test]
    fn it_opens_for_whom_it_was_closed_and_with_the_last() {
        let before = route(&spec_of_two());
        assert_eq!(read(&before).open(&me("prod", 3)).unwrap(), None);
        let closed = written(&before, read(&before).close(&me("prod", 3)));
        let both = written(&closed, read(&closed).close(&me("stage", 9)));
        let one = written(&both, read(&both).open(&me("prod", 3)));
        assert!(read(&one).is_closed());
        assert_eq!(read(&one).open(&me("prod", 3)).unwrap(), None);
        let open = written(&one, read(&one).open(&me("stage", 9)));
        assert_eq!(open["spec"], before["spec"]);
    }

    #[test]
    fn whoever_was_taken_over_changes_nothing_any_more() {
        let before = route(&spec_of_two());
        let closed = written(&before, read(&before).close(&me("prod", 4)));
        for told in [read(&closed).open(&me("prod", 3)), read(&closed).close(&me("prod", 3))] {
            assert_eq!(told.unwrap_err().kind(), Kind::Conflict);
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let mut spoilt = route(&spec_of_two());
        spoilt["metadata"]["annotations"] = json!({ ANNOTATION: "open" });
        let told = Route::read(serde_json::from_value(spoilt).unwrap()).unwrap_err();
        assert_eq!(told.kind(), Kind::Corrupt);
        assert!(told.chain().contains("route-backends"), "{}", told.chain());
        let nowhere = route(&json!({ "host": "api.example.com" }));
        assert_eq!(Route::read(serde_json::from_value(nowhere).unwrap()).unwrap_err().kind(), Kind::Unsupported);
        let mut made = route(&spec_of_two());
        made["metadata"]["ownerReferences"] = json!([{ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web", "uid": "u", "controller": true }]);
        assert_eq!(read(&made).ingress.as_deref(), Some("web"));
        assert!(read(&made).leads_to(&["other"]) && !read(&made).leads_to(&["web"]));
    }
}
