//! The API server's envelope: AdmissionReview (`admission.k8s.io/v1`) in, the same out. Whatever goes wrong, the pod is admitted.

use data_encoding::BASE64;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::judge::{Verdict, judge};
use super::patch::patch;
use super::pod::Pod;
use super::settings::Settings;

/// The version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    version: String,
    #[serde(rename = "resource")]
    plural: String,
}

impl Request {
    /// Whether a pod is to be made.
    fn is_new_pod(&self) -> bool {
        let Resource { group, version, plural } = &self.resource;
        let whole = self.sub_resource.as_deref().unwrap_or_default().is_empty();
        self.operation == "CREATE" && whole && (group.as_str(), version.as_str(), plural.as_str()) == ("", "v1", "pods")
    }
}

/// Answers one review.
///
/// # Errors
/// `Invalid` when it is none: there is nobody to whom it could be answered that the pod is admitted.
pub fn answer(settings: &Settings, body: &[u8]) -> Result<Value> {
    let review: Review = serde_json::from_slice(body).or_kind(Kind::Invalid, "it is no AdmissionReview")?;
    if (review.api_version.as_str(), review.kind.as_str()) != (VERSION, "AdmissionReview") {
        return Err(Error::new(
            Kind::Invalid,
            format!("it is {} of {}, not an AdmissionReview of {VERSION}", review.kind, review.api_version),
        ));
    }
    let request = review.request;
    let mut response = json!({ "uid": request.uid, "allowed": true });
    let also = if request.is_new_pod() { look(settings, &request) } else { Value::Null };
    if let (Some(response), Value::Object(also)) = (response.as_object_mut(), also) {
        response.extend(also);
    }
    Ok(json!({ "apiVersion": VERSION, "kind": "AdmissionReview", "response": response }))
}

/// What is said besides of a new pod.
fn look(settings: &Settings, request: &Request) -> Value {
    let namespace = &request.namespace;
    let pod = match Pod::deserialize(&request.object) {
        Ok(pod) => pod,
        Err(e) => {
            tracing::warn!(namespace, "a pod of a form that is not known is admitted as it is: {e}");
            return warning(&format!("the pod is of a form that is not known: {e}"));
        }
    };
    let name = pod.name();
    match judge(settings, &pod) {
        Verdict::NotAsked => Value::Null,
        Verdict::Attached => {
            tracing::debug!(namespace, pod = name, "it has its agent already");
            Value::Null
        }
        Verdict::Refused(why) => {
            tracing::warn!(namespace, pod = name, "it gets no agent: {why}");
            warning(&why)
        }
        Verdict::Attach(place) => match serde_json::to_vec(&patch(settings, &pod, &place)) {
            Ok(patch) => {
                tracing::info!(namespace, pod = name, component = %place.component, image = place.image, "it gets its agent");
                json!({ "patchType": "JSONPatch", "patch": BASE64.encode(&patch) })
            }
            Err(e) => {
                tracing::error!(namespace, pod = name, "it gets no agent: the change cannot be written: {e}");
                warning("the change cannot be written; the webhook's log says why")
            }
        },
    }
}

/// A word for whoever makes the pod.
fn warning(why: &str) -> Value {
    json!({ "warnings": [format!("keepsake adds no agent: {why}")] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let text = "
image: keepsake:0.1.0
components:
  system-redis: { engine: redis, container: redis, data: { volume: data, mount: /data }, tls: tls }
";
        Settings::parse(text).unwrap()
    }

    fn asked(change: impl FnOnce(&mut Value)) -> Value {
        let mut review = json!({
            "apiVersion": VERSION, "kind": "AdmissionReview",
            "request": {
                "uid": "7", "namespace": "3scale", "operation": "CREATE",
                "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "resource": { "group": "", "version": "v1", "resource": "pods" },
                "object": { "metadata": { "labels": { "keepsake/agent": "a-stranger" } }, "spec": { "containers": [] } },
            },
        });
        change(&mut review);
        answer(&settings(), review.to_string().as_bytes()).unwrap()["response"].clone()
    }

    #[test]
    fn whatever_is_asked_is_allowed() {
        let told = asked(|_| {});
        assert_eq!((told["uid"].as_str(), told["allowed"].as_bool()), (Some("7"), Some(true)));
        assert!(told["warnings"][0].as_str().unwrap().contains("a-stranger") && told["patch"].is_null(), "{told}");
        let bare = json!({ "uid": "7", "allowed": true });
        assert_eq!(asked(|r| r["request"]["operation"] = json!("UPDATE")), bare);
        assert_eq!(asked(|r| r["request"]["subResource"] = json!("ephemeralcontainers")), bare);
        assert_eq!(asked(|r| r["request"]["resource"]["resource"] = json!("deployments")), bare);
        assert_eq!(asked(|r| r["request"]["object"]["metadata"] = json!({})), bare);
        for object in [Value::Null, json!([]), json!({ "spec": { "containers": "none" } })] {
            let told = asked(|r| r["request"]["object"] = object.clone());
            assert_eq!(told["allowed"], true, "{object}");
            assert!(told["warnings"][0].as_str().unwrap().contains("form"), "{told}");
        }
    }

    #[test]
    fn what_is_no_review_is_refused_in_words() {
        let settings = settings();
        for body in ["", "{}", "[1]", r#"{"apiVersion":"v1","kind":"Pod"}"#] {
            assert_eq!(answer(&settings, body.as_bytes()).unwrap_err().kind(), Kind::Invalid, "{body}");
        }
        let old = json!({
            "apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview",
            "request": { "uid": "7", "operation": "CREATE", "resource": { "version": "v1", "resource": "pods" } },
        });
        assert!(answer(&settings, old.to_string().as_bytes()).unwrap_err().chain().contains("v1beta1"));
    }
}
