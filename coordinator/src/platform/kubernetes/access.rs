//! Whether we may do what has to be done: asked of the API server before anything is changed, so that nothing is given up half way.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use keepsake_core::error::{Error, Kind, Result};
use kube::Api;
use kube::api::PostParams;

use super::api::Cluster;
use super::discovery::Served;
use crate::topology::KubernetesSettings;

/// One thing that must be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) verb: &'static str,
    group: &'static str,
    resource: &'static str,
    namespace: String,
    name: Option<String>,
}

impl Need {
    /// Looking at the pods of a namespace.
    pub(super) fn list_pods(namespace: &str) -> Self {
        Self { verb: "list", group: "", resource: "pods", namespace: namespace.to_owned(), name: None }
    }

    /// In the words of a Role.
    pub(super) fn told(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let name = self.name.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
        format!("{} {}{group}{name} in namespace {}", self.verb, self.resource, self.namespace)
    }
}

/// All that stopping and starting needs. `with_operator`: it has to be set aside.
pub(super) fn needs(settings: &KubernetesSettings, served: &Served, with_operator: bool) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut need = |verbs: &[&'static str], group, resource, namespace: &str, name: Option<&str>| {
        needs.extend(verbs.iter().map(|verb| Need {
            verb,
            group,
            resource,
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
        }));
    };
    let namespace = &settings.namespace;
    need(&["get", "list", "patch"], "apps", "deployments", namespace, None);
    if served.configs {
        need(&["get", "list", "patch"], "apps.openshift.io", "deploymentconfigs", namespace, None);
    }
    need(&["list"], "", "pods", namespace, None);
    need(&["get", "delete"], "batch", "jobs", namespace, None);
    if served.scalers.is_some() {
        need(&["list"], "autoscaling", "horizontalpodautoscalers", namespace, None);
    }
    if served.managers.is_some() {
        need(&["list"], "apps.3scale.net", "apimanagers", namespace, None);
    }
    let (at, name) = settings.operator();
    if with_operator && at != namespace {
        need(&["get", "patch"], "apps", "deployments", at, Some(name));
        need(&["list"], "", "pods", at, None);
    }
    needs
}

/// Those of them that are not allowed.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn denied(cluster: &Cluster, needs: Vec<Need>) -> Result<Vec<Need>> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let mut denied = Vec::new();
    for need in needs {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(need.verb.to_owned()),
                    group: Some(need.group.to_owned()),
                    resource: Some(need.resource.to_owned()),
                    namespace: Some(need.namespace.clone()),
                    name: need.name.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let params = PostParams::default();
        let answer = cluster.ask("ask what is allowed", || api.create(&params, &review)).await?;
        if !answer.status.is_some_and(|s| s.allowed) {
            denied.push(need);
        }
    }
    Ok(denied)
}

/// Makes sure that all of it is allowed.
///
/// # Errors
/// `Denied`, naming all that is not.
pub(super) async fn ensure(cluster: &Cluster, needs: Vec<Need>) -> Result<()> {
    let denied = denied(cluster, needs).await?;
    if denied.is_empty() { Ok(()) } else { Err(Error::new(Kind::Denied, told(&denied))) }
}

/// What is not allowed, in words.
pub(super) fn told(denied: &[Need]) -> String {
    let each: Vec<_> = denied.iter().map(Need::told).collect();
    format!("these credentials may not {}: grant it with a Role and a RoleBinding there", each.join(", nor "))
}
