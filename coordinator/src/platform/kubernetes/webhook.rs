//! Whether the webhook of the namespace would start, and put the right image into databases' pods: its settings are text, which kustomize does not change.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use keepsake_core::error::{Context, Error, Kind, Result};
use kube::Api;
use kube::api::ListParams;

use super::access::{self, Need};
use super::api::Cluster;
use crate::webhook::Settings;

/// ConfigMap and Deployment are called so (`manifests/components/webhook`), and the file in the ConfigMap.
const NAME: &str = "keepsake-webhook";
const FILE: &str = "settings.yaml";

/// Looks at its settings and its own image. None when there are no settings in the namespace, or they may not be looked at.
///
/// # Errors
/// `Invalid` when the webhook would refuse its settings, or when the image that it puts into pods is not its own; as [`Cluster::ask`].
pub(super) async fn look(cluster: &Cluster, namespace: &str) -> Result<Option<String>> {
    let needs = vec![Need::list_config_maps(namespace), Need::list_deployments(namespace)];
    if !access::denied(cluster, needs).await?.is_empty() {
        return Ok(None);
    }
    let params = ListParams::default().fields(&format!("metadata.name={NAME}"));
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let found = cluster.ask(&format!("look for configmap/{NAME}"), || maps.list(&params)).await?.items;
    let Some(map) = found.into_iter().next() else { return Ok(None) };
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let found = cluster.ask(&format!("look for deployment/{NAME}"), || deployments.list(&params)).await?.items;
    let containers = found.into_iter().next().and_then(|d| Some(d.spec?.template.spec?.containers));
    let own = containers.and_then(|c| c.into_iter().next()?.image);
    let text = map.data.and_then(|mut data| data.remove(FILE)).unwrap_or_default();
    judge(&text, own.as_deref()).with_context(|| format!("configmap/{NAME}, {FILE}")).map(Some)
}

/// What is to be said of these settings, and of the image that the webhook itself runs, if it is there.
fn judge(settings: &str, own: Option<&str>) -> Result<String> {
    let image = Settings::parse(settings)?.image;
    match own {
        Some(own) if own != image => Err(Error::new(
            Kind::Invalid,
            format!(
                "databases' pods are given the image {image}, and the webhook itself runs {own}: write the same there, apply it, and `kubectl rollout restart \
                 deployment {NAME}` before any such pod is made anew"
            ),
        )),
        Some(_) => Ok(format!("puts agents of {image} into databases' pods")),
        None => Ok(format!("would put agents of {image} into databases' pods, and there is no deployment/{NAME}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(image: &str) -> String {
        format!(
            "image: {image}\ncomponents:\n  system-redis:\n    engine: redis\n    container: system-redis\n    data: {{ volume: data, mount: /data }}\n    tls: tls\n"
        )
    }

    #[test]
    fn the_image_must_be_there_and_the_webhooks_own() {
        let told = judge(&settings("here/keepsake:1"), Some("here/keepsake:1")).unwrap();
        assert!(told.contains("here/keepsake:1"), "{told}");
        let told = judge(&settings("keepsake:1"), Some("here/keepsake:1")).unwrap_err().chain();
        assert!(told.contains("image keepsake:1,") && told.contains("runs here/keepsake:1"), "{told}");
        let told = judge(&settings("''"), Some("here/keepsake:1")).unwrap_err().chain();
        assert!(told.contains("the overlay's `images`"), "{told}");
        assert!(judge(&settings("a:1"), None).unwrap().contains("no deployment"));
    }
}
