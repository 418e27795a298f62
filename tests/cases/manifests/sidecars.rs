//! Agents that the webhook of an overlay puts into databases' pods: made by its own settings of pods as the operator makes them, and looked at like any other.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Container, Pod};
use keepsake_coordinator::webhook::{CONTAINER, SIDECAR, Settings};
use keepsake_tests::webhook::{answered, applied, asking, typed};
use serde_json::json;

use super::objects::Objects;

/// One of them, in its pod.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) component: String,
    pod: Pod,
}

impl Sidecar {
    /// The agent.
    pub(super) fn agent(&self) -> &Container {
        let spec = self.pod.spec.as_ref().expect("a spec");
        spec.containers.iter().find(|c| c.name == CONTAINER).expect("an agent")
    }

    /// The agent and what copies it.
    pub(super) fn added(&self) -> impl Iterator<Item = &Container> {
        let spec = self.pod.spec.as_ref().expect("a spec");
        spec.init_containers.iter().flatten().chain([self.agent()])
    }

    /// The Secret of its certificate.
    pub(super) fn certificate(&self) -> &str {
        let volumes = self.pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).expect("volumes");
        let tls = volumes.iter().find(|v| v.name == "keepsake-tls").and_then(|v| v.secret.as_ref());
        tls.and_then(|s| s.secret_name.as_deref()).unwrap_or_default()
    }
}

/// Those that have a Service, and what is wrong with the settings.
pub(super) fn of(objects: &Objects) -> (Vec<Sidecar>, Vec<String>) {
    let Some(text) = objects.config_maps.get("keepsake-webhook").and_then(|m| m.get("settings.yaml")) else {
        return (Vec::new(), Vec::new());
    };
    let settings = match Settings::parse(text) {
        Ok(settings) => settings,
        Err(e) => return (Vec::new(), vec![format!("the webhook's settings: {}", e.chain())]),
    };
    let (mut sidecars, mut wrong) = (Vec::new(), Vec::new());
    let webhook = objects
        .pods()
        .iter()
        .find(|p| p.owner == "Deployment keepsake-webhook")
        .map(|p| p.spec.containers[0].image.clone());
    if webhook.flatten().as_ref() != Some(&settings.image) {
        wrong.push(format!("the webhook copies agents from {}, and is of another image itself", settings.image));
    }
    let selectors = objects.services.iter().filter_map(|s| s.spec.as_ref()?.selector.as_ref());
    for component in selectors.filter_map(|selector| selector.get(SIDECAR)) {
        let pod = asking(component);
        let response = answered(&settings, &pod);
        if response["patch"].is_null() {
            wrong.push(format!("{component} has a Service and gets no agent: {}", response["warnings"]));
            continue;
        }
        sidecars.push(Sidecar { component: component.clone(), pod: typed(&applied(&response, &pod)) });
    }
    (sidecars, wrong)
}

/// What is wrong with what makes the API server call: it calls the Service that there is, for pods alone, and no pod waits for an answer.
pub(super) fn registration_problems(
    objects: &Objects,
    registration: &MutatingWebhookConfiguration,
    serve: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let service = objects.services.iter().find(|s| s.metadata.name.as_deref() == Some("keepsake-webhook"));
    let ports = service
        .and_then(|s| s.spec.as_ref()?.ports.as_ref())
        .map_or(Vec::new(), |p| p.iter().map(|p| p.port).collect());
    for webhook in registration.webhooks.iter().flatten() {
        let mut say = |what: &str| wrong.push(format!("{}: {what}", webhook.name));
        let called = webhook.client_config.service.as_ref();
        let reaches = called.is_some_and(|s| {
            let path = s.path.as_deref().unwrap_or_default();
            s.name == "keepsake-webhook"
                && s.namespace == "3scale"
                && ports == [s.port.unwrap_or(443)]
                && serve.contains(&format!("\"{path}\""))
        });
        if !reaches {
            say("calls nothing that there is");
        }
        if webhook.failure_policy.as_deref() != Some("Ignore") || webhook.timeout_seconds.is_none_or(|s| s > 5) {
            say("may keep pods from being made");
        }
        if webhook.side_effects != "None" || webhook.reinvocation_policy.as_deref() != Some("IfNeeded") {
            say("is asked at the wrong moments");
        }
        if webhook.admission_review_versions != ["v1"] {
            say("speaks another version");
        }
        let rules = serde_json::to_value(&webhook.rules).expect("JSON");
        let pods = json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced" }]);
        if rules != pods {
            say("is shown more than new pods");
        }
        let by_label = webhook.namespace_selector.as_ref().and_then(|s| s.match_labels.as_ref());
        let some = webhook.object_selector.as_ref().and_then(|s| s.match_expressions.as_ref());
        if by_label.is_none_or(|l| l.get("keepsake/sidecars").map(String::as_str) != Some("allowed")) || some.is_none()
        {
            say("is shown pods that nobody has allowed");
        }
    }
    wrong
}
