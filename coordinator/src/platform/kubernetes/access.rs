//! Whether we may do what has to be done: asked of the API server before anything is changed, so that nothing is given up half way.

use std::borrow::Cow;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use keepsake_core::error::{Error, Kind, Result};
use kube::Api;
use kube::api::PostParams;
use kube::core::ApiResource;

use super::api::Cluster;
use super::coordinator::Order;
use super::discovery::Served;
use super::objects::CAPABILITIES;
use crate::topology::KubernetesSettings;
use crate::topology::kubernetes::By;

/// One thing that must be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) verb: &'static str,
    group: Cow<'static, str>,
    /// With a subresource, as in a Role: `pods/log`.
    resource: Cow<'static, str>,
    namespace: String,
    name: Option<String>,
}

impl Need {
    /// Looking at the pods of a namespace.
    pub(super) fn list_pods(namespace: &str) -> Self {
        Self { verb: "list", group: "".into(), resource: "pods".into(), namespace: namespace.to_owned(), name: None }
    }

    /// Looking at the ConfigMaps of a namespace.
    pub(super) fn list_config_maps(namespace: &str) -> Self {
        Self { resource: "configmaps".into(), ..Self::list_pods(namespace) }
    }

    /// Looking at the Deployments of a namespace.
    pub(super) fn list_deployments(namespace: &str) -> Self {
        Self { group: "apps".into(), resource: "deployments".into(), ..Self::list_pods(namespace) }
    }

    /// In the words of a Role.
    pub(super) fn told(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let name = self.name.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
        format!("{} {}{group}{name} in namespace {}", self.verb, self.resource, self.namespace)
    }
}

/// What must be allowed, as it is gathered.
#[derive(Default)]
struct Needs(Vec<Need>);

impl Needs {
    fn add(&mut self, verbs: &[&'static str], group: &'static str, resource: &'static str, namespace: &str) {
        self.of_one(verbs, group, resource, namespace, None);
    }

    fn of_one(
        &mut self,
        verbs: &[&'static str],
        group: &'static str,
        resource: &'static str,
        namespace: &str,
        name: Option<&str>,
    ) {
        self.0.extend(verbs.iter().map(|verb| Need {
            verb,
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
        }));
    }

    /// Workloads are looked at and changed, and their pods waited for.
    fn workloads(&mut self, served: &Served, namespace: &str) {
        self.add(&["get", "list", "patch"], "apps", "deployments", namespace);
        if served.configs {
            self.add(&["get", "list", "patch"], "apps.openshift.io", "deploymentconfigs", namespace);
        }
        self.add(&["list"], "", "pods", namespace);
        self.add(&["get", "list", "delete"], "batch", "jobs", namespace);
        if served.managers.is_some() {
            self.add(&["list"], "apps.3scale.net", "apimanagers", namespace);
        }
    }
}

/// What telling this cluster's namespace from another's of the same name needs, by its uid. A Role in it grants that.
pub(super) fn needs_of_place(namespace: &str) -> Vec<Need> {
    let mut needs = Needs::default();
    needs.of_one(&["get"], "", "namespaces", namespace, Some(namespace));
    needs.0
}

/// All that stopping and starting needs. `with_operator`: it has to be set aside.
pub(super) fn needs(settings: &KubernetesSettings, served: &Served, with_operator: bool) -> Vec<Need> {
    let mut needs = Needs::default();
    let namespace = &settings.namespace;
    needs.workloads(served, namespace);
    if served.scalers.is_some() {
        needs.add(&["list"], "autoscaling", "horizontalpodautoscalers", namespace);
    }
    if settings.by == By::Routes {
        needs.add(&["list", "patch"], "route.openshift.io", "routes", namespace);
    }
    let (at, name) = settings.operator();
    if with_operator && at != namespace {
        needs.of_one(&["get", "patch"], "apps", "deployments", at, Some(name));
        needs.add(&["list"], "", "pods", at);
    }
    needs.0
}

/// All that rollouts, resyncs and the last look need.
pub(super) fn needs_after(settings: &KubernetesSettings, served: &Served) -> Vec<Need> {
    let mut needs = Needs::default();
    let namespace = &settings.namespace;
    needs.workloads(served, namespace);
    let (at, name) = settings.operator();
    if served.managers.is_some() && at != namespace {
        needs.of_one(&["get"], "apps", "deployments", at, Some(name));
    }
    if settings.resync.as_ref().is_none_or(|tasks| !tasks.is_empty()) {
        needs.add(&["create"], "batch", "jobs", namespace);
        needs.add(&["get"], "", "pods/log", namespace);
    }
    needs.0
}

/// All that a coordinator takes that is started in the cluster and followed from outside. `with_secret`: a set's identity is handed over.
pub(super) fn needs_in_cluster(namespace: &str, order: &Order, with_secret: bool) -> Vec<Need> {
    let mut needs = Needs::default();
    needs.of_one(&["get"], "batch", "cronjobs", namespace, Some(&order.cron_job));
    needs.add(&["get", "create", "delete"], "batch", "jobs", namespace);
    needs.add(&["list"], "", "pods", namespace);
    needs.add(&["get"], "", "pods/log", namespace);
    needs.add(&["list"], "", "events", namespace);
    if with_secret {
        needs.add(&["create", "delete"], "", "secrets", namespace);
    }
    needs.0
}

/// All that finding the agents needs; with what the cluster serves, the stores' workloads are looked at as well.
pub(super) fn needs_of_agents(namespace: &str, served: Option<&Served>) -> Vec<Need> {
    let mut needs = Needs::default();
    needs.add(&["list"], "", "pods", namespace);
    needs.add(&["list"], "", "services", namespace);
    if let Some(served) = served {
        needs.add(&["list"], "apps", "deployments", namespace);
        if served.configs {
            needs.add(&["list"], "apps.openshift.io", "deploymentconfigs", namespace);
        }
    }
    needs.0
}

/// What is done with the cluster's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objects {
    /// They are read into a set.
    Read,
    /// They are brought back from one, and taken back.
    Written,
    /// The same, and the APIManager is made.
    Built,
}

/// All that this needs of objects of these kinds. What a load keeps until it is over is kept in Secrets.
pub(super) fn needs_of_objects(namespace: &str, kinds: &[ApiResource], what: Objects) -> Vec<Need> {
    let verbs = |kind: &ApiResource| -> &'static [&'static str] {
        match what {
            Objects::Read => &["list"],
            // Never written.
            _ if kind.group == CAPABILITIES => &["list"],
            // One that is not there is never made, so never taken away.
            Objects::Written if kind.kind == "APIManager" => &["get", "list", "update"],
            Objects::Written | Objects::Built => &["get", "list", "create", "update", "delete"],
        }
    };
    let of = |kind: &ApiResource, verb: &'static str| Need {
        verb,
        group: kind.group.clone().into(),
        resource: kind.plural.clone().into(),
        namespace: namespace.to_owned(),
        name: None,
    };
    kinds.iter().flat_map(|kind| verbs(kind).iter().map(move |verb| of(kind, verb))).collect()
}

/// Those of them that are not allowed.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn denied(cluster: &Cluster, needs: Vec<Need>) -> Result<Vec<Need>> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let mut denied = Vec::new();
    for need in needs {
        let (resource, subresource) = match need.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (need.resource.as_ref(), None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(need.verb.to_owned()),
                    group: Some(need.group.to_string()),
                    resource: Some(resource.to_owned()),
                    subresource,
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
