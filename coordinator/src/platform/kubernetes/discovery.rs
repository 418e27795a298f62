//! What of a 3scale is in its namespace: looked at in one go, then judged, which is pure.

use keepsake_core::error::{Error, Kind, Result};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Deserialize;

use super::api::Cluster;
use super::names::{DATABASES, STOP, WRITERS, stop_step};
use super::workload::{Sort, Workload};
use crate::topology::KubernetesSettings;

/// The versions of autoscaling, the newest first, in which an autoscaler's target and least replicas stand at the same place.
const AUTOSCALING: [&str; 4] = ["v2", "v2beta2", "v2beta1", "v1"];

/// Which of the groups that not every cluster has are served.
#[derive(Debug, Clone, Default)]
pub(super) struct Served {
    /// `apps.openshift.io/v1`: this is OpenShift, and may have DeploymentConfigs.
    pub(super) configs: bool,
    /// The version of `autoscaling`.
    pub(super) scalers: Option<ApiResource>,
    /// `route.openshift.io/v1`: there may be Routes.
    pub(super) routes: bool,
    /// The version of `apps.3scale.net`: the operator was installed some day.
    pub(super) managers: Option<ApiResource>,
}

/// All that was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) served: Served,
    pub(super) workloads: Vec<Workload>,
    /// The names of APIManagers.
    pub(super) managers: Vec<String>,
    pub(super) operator: Option<Workload>,
    pub(super) scalers: Vec<Scaler>,
}

/// A HorizontalPodAutoscaler.
#[derive(Debug, Clone)]
pub(super) struct Scaler {
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) least: i32,
}

/// What it scales.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Target {
    pub(super) kind: String,
    pub(super) name: String,
}

/// What is to be done with what was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Set aside first.
    pub(super) operator: Option<Workload>,
    /// Stopped in this order, those of a step together.
    pub(super) steps: Vec<Vec<Workload>>,
    /// Never touched.
    pub(super) databases: Vec<String>,
    /// Not stopped, because the topology says so.
    pub(super) left: Vec<String>,
}

/// Asks which groups are served.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn served(cluster: &Cluster) -> Result<Served> {
    let groups = cluster.ask("list the API groups", || cluster.client.list_api_groups()).await?.groups;
    let group = |name: &str| groups.iter().find(|g| g.name == name);
    let has = |name: &str, version: &str| group(name).is_some_and(|g| g.versions.iter().any(|v| v.version == version));
    let resource = |name: &str, version: &str, kind: &str, plural: &str| {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(name, version, kind), plural)
    };
    let scalers = AUTOSCALING.into_iter().find(|v| has("autoscaling", v));
    let managers = group("apps.3scale.net").and_then(|g| {
        let preferred = g.preferred_version.as_ref().or(g.versions.first())?;
        Some(resource("apps.3scale.net", &preferred.version, "APIManager", "apimanagers"))
    });
    Ok(Served {
        configs: has("apps.openshift.io", "v1"),
        routes: has("route.openshift.io", "v1"),
        scalers: scalers.map(|v| resource("autoscaling", v, "HorizontalPodAutoscaler", "horizontalpodautoscalers")),
        managers,
    })
}

/// The workloads of the namespace.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn workloads(cluster: &Cluster, served: &Served, namespace: &str) -> Result<Vec<Workload>> {
    let mut found = Vec::new();
    for sort in [Sort::Deployment, Sort::DeploymentConfig] {
        if sort == Sort::DeploymentConfig && !served.configs {
            continue;
        }
        for object in cluster.list(&sort.resource(), namespace).await? {
            found.push(Workload::read(sort, object)?);
        }
    }
    Ok(found)
}

/// The operator's Deployment, if there is one where the topology says or leaves unsaid.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn operator(cluster: &Cluster, settings: &KubernetesSettings) -> Result<Option<Workload>> {
    let (namespace, name) = settings.operator();
    let found = cluster.get(&Sort::Deployment.resource(), namespace, name).await?;
    found.map(|o| Workload::read(Sort::Deployment, o)).transpose()
}

/// Looks at all of it.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn look(cluster: &Cluster, settings: &KubernetesSettings) -> Result<Look> {
    let namespace = &settings.namespace;
    let served = served(cluster).await?;
    let managers = match &served.managers {
        Some(resource) => cluster.list(resource, namespace).await?,
        None => Vec::new(),
    };
    let scalers = match &served.scalers {
        Some(resource) => cluster.list(resource, namespace).await?,
        None => Vec::new(),
    };
    Ok(Look {
        workloads: workloads(cluster, &served, namespace).await?,
        managers: managers.into_iter().filter_map(|m| m.metadata.name).collect(),
        operator: operator(cluster, settings).await?,
        scalers: scalers.into_iter().filter_map(scaler).collect(),
        served,
    })
}

fn scaler(object: DynamicObject) -> Option<Scaler> {
    let spec = object.data.get("spec")?;
    let target = serde_json::from_value(spec.get("scaleTargetRef")?.clone()).ok()?;
    // 1 unless it is said, in every version.
    let least = spec.get("minReplicas").and_then(serde_json::Value::as_i64).unwrap_or(1);
    Some(Scaler { name: object.metadata.name?, target, least: i32::try_from(least).unwrap_or(i32::MAX) })
}

impl Found {
    /// The same without these, which keep running.
    pub(super) fn but(mut self, keeps: &[String]) -> Self {
        for step in &mut self.steps {
            step.retain(|w| !keeps.iter().any(|k| *k == w.name || w.part.as_ref() == Some(k)));
        }
        self.steps.retain(|step| !step.is_empty());
        self
    }
}

impl Look {
    /// What is to be done, or everything that keeps it from being done.
    ///
    /// # Errors
    /// `NotFound` for what is missing; `Unsupported` for what is not known; each with what the topology can say of it.
    pub(super) fn judge(self, settings: &KubernetesSettings) -> Result<Found> {
        let namespace = &settings.namespace;
        let mut problems = Vec::new();
        let mut kind = Kind::Unsupported;
        let operator = match (self.managers.as_slice(), self.operator) {
            // Without an APIManager nobody here is reconciled; an operator for others is left alone.
            ([], operator) => operator.filter(|_| settings.operator.is_some()),
            ([_], Some(operator)) => Some(operator),
            ([manager], None) => {
                let (at, name) = settings.operator();
                kind = Kind::NotFound;
                problems.push(format!(
                    "APIManager {manager} has an operator, which has to be set aside, and there is no deployment/{name} in namespace {at}: say where it is \
                     with `operator: {{ namespace: NAME, deployment: NAME }}`"
                ));
                None
            }
            (several, _) => {
                problems.push(format!(
                    "there are several APIManagers, {}: which is meant is not known",
                    several.join(", ")
                ));
                None
            }
        };
        let mut found = Found { operator, ..Found::default() };
        let mut steps = vec![Vec::new(); STOP.len() + 1];
        let mut has = Vec::new();
        for workload in self.workloads {
            let is = |w: &Workload| (w.namespace.clone(), w.sort, w.name.clone());
            if found.operator.as_ref().is_some_and(|o| is(o) == is(&workload)) {
                continue;
            }
            let part = workload.part.clone().unwrap_or_else(|| workload.name.clone());
            let (is_left, is_added) = (settings.leave.contains(&workload.name), settings.stop.contains(&workload.name));
            if DATABASES.contains(&part.as_str()) {
                if is_added {
                    problems.push(format!("{workload} is a store and is never stopped: take it out of `stop`"));
                }
                found.databases.push(workload.name);
                continue;
            }
            has.push(part.clone());
            match stop_step(&part) {
                Some(_) if is_left && WRITERS.contains(&part.as_str()) => {
                    problems.push(format!("{workload} writes to stores and cannot be left running: take it out of `leave`"));
                }
                _ if is_left => found.left.push(workload.name),
                Some(step) => steps.get_mut(step + 1).into_iter().for_each(|s| s.push(workload.clone())),
                // What nobody knows may be a client of all others: first.
                None if is_added => steps.get_mut(0).into_iter().for_each(|s| s.push(workload.clone())),
                None if workload.is_labelled => problems.push(format!(
                    "{workload} belongs to 3scale by its labels or owner, and what it does is not known: name it in `stop`, or in `leave` if it \
                     writes to no store"
                )),
                None => {}
            }
        }
        for name in settings.stop.iter().filter(|n| !has.contains(n)) {
            kind = Kind::NotFound;
            problems.push(format!("`stop` names {name}, and there is none"));
        }
        let missing: Vec<_> = WRITERS.into_iter().filter(|w| !has.iter().any(|h| h == w)).collect();
        let missing: Vec<_> = missing.into_iter().filter(|w| !settings.leave.iter().any(|l| l == w)).collect();
        if !missing.is_empty() {
            kind = Kind::NotFound;
            problems.push(format!(
                "there is no {}: is {namespace} the namespace of the 3scale? If it really has none of that, name it in `leave`",
                missing.join(", ")
            ));
        }
        let names: Vec<_> = steps.iter().flatten().collect();
        for scaler in self.scalers.iter().filter(|s| s.least == 0) {
            if names
                .iter()
                .any(|w| w.name == scaler.target.name && w.sort.word().eq_ignore_ascii_case(&scaler.target.kind))
            {
                problems.push(format!(
                    "HorizontalPodAutoscaler {} may scale {} up from 0 (minReplicas is 0), so it would not stay stopped: set minReplicas to 1",
                    scaler.name, scaler.target.name
                ));
            }
        }
        if !problems.is_empty() {
            return Err(Error::new(kind, format!("in namespace {namespace}: {}", problems.join("; "))));
        }
        found.steps = steps.into_iter().filter(|s| !s.is_empty()).collect();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::topology::kubernetes::{By, DrainSettings, OPERATOR, OperatorSettings};

    fn settings() -> KubernetesSettings {
        KubernetesSettings {
            namespace: "threescale".to_owned(),
            kubeconfig: None,
            context: None,
            objects: true,
            by: By::Scale,
            operator: None,
            deadline: 600,
            drain: DrainSettings::default(),
            stop: Vec::new(),
            leave: Vec::new(),
            resync: None,
            resync_deadline: 600,
        }
    }

    fn workload(sort: Sort, namespace: &str, name: &str) -> Workload {
        let selector = match sort {
            Sort::Deployment => json!({ "matchLabels": { "deployment": name } }),
            Sort::DeploymentConfig => json!({ "deploymentConfig": name }),
        };
        let object = json!({
            "metadata": { "name": name, "namespace": namespace, "labels": { "threescale_component": "x" } },
            "spec": { "replicas": 2, "selector": selector },
        });
        Workload::read(sort, serde_json::from_value(object).unwrap()).unwrap()
    }

    /// A whole one, operator-based.
    fn whole(sort: Sort) -> Look {
        let names = STOP.concat().into_iter().chain(DATABASES).filter(|n| *n != "system-sphinx");
        Look {
            workloads: names.map(|n| workload(sort, "threescale", n)).collect(),
            managers: vec!["apimanager-sample".to_owned()],
            operator: Some(workload(Sort::Deployment, "threescale", OPERATOR)),
            ..Look::default()
        }
    }

    fn refused(look: Look, settings: &KubernetesSettings) -> String {
        look.judge(settings).unwrap_err().chain()
    }

    #[test]
    fn a_whole_one_is_stopped_in_order_and_its_stores_are_left_alone() {
        for sort in [Sort::Deployment, Sort::DeploymentConfig] {
            let found = whole(sort).judge(&settings()).unwrap();
            let names: Vec<Vec<_>> = found.steps.iter().map(|s| s.iter().map(|w| w.name.as_str()).collect()).collect();
            assert_eq!(names.first().unwrap(), STOP[0]);
            assert_eq!(names.last().unwrap(), &["backend-worker", "system-memcache", "system-searchd"]);
            assert_eq!(names.len(), STOP.len());
            assert_eq!(found.databases, DATABASES);
            assert_eq!(found.operator.unwrap().name, OPERATOR);
        }
    }

    #[test]
    fn without_an_apimanager_there_is_no_operator_to_set_aside() {
        let mut look = whole(Sort::DeploymentConfig);
        look.managers.clear();
        assert!(look.clone().judge(&settings()).unwrap().operator.is_none());
        let named = KubernetesSettings {
            operator: Some(OperatorSettings { namespace: None, deployment: OPERATOR.to_owned() }),
            ..settings()
        };
        assert!(look.judge(&named).unwrap().operator.is_some(), "it was named");
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let mut look = whole(Sort::Deployment);
        look.operator = None;
        let told = refused(look, &settings());
        assert!(told.contains(OPERATOR) && told.contains("`operator: {"), "{told}");
        let mut look = whole(Sort::Deployment);
        look.workloads.retain(|w| w.name != "zync-que");
        assert!(refused(look.clone(), &settings()).contains("no zync-que"));
        let without = KubernetesSettings { leave: vec!["zync-que".to_owned()], ..settings() };
        assert!(look.judge(&without).is_ok());
        let mut look = whole(Sort::Deployment);
        look.managers.push("another".to_owned());
        assert!(refused(look, &settings()).contains("several"));
        let empty = refused(Look::default(), &settings());
        assert!(empty.contains("backend-listener") && empty.contains("namespace of the 3scale"), "{empty}");
        let absent = KubernetesSettings { stop: vec!["extra".to_owned()], ..settings() };
        assert!(refused(whole(Sort::Deployment), &absent).contains("extra"));
    }

    #[test]
    fn what_is_not_known_is_asked_for() {
        let mut look = whole(Sort::Deployment);
        look.workloads.push(workload(Sort::Deployment, "threescale", "apicast-extra"));
        assert!(refused(look.clone(), &settings()).contains("deployment/apicast-extra"));
        let left = KubernetesSettings { leave: vec!["apicast-extra".to_owned()], ..settings() };
        assert_eq!(look.clone().judge(&left).unwrap().left, ["apicast-extra"]);
        let stopped = KubernetesSettings { stop: vec!["apicast-extra".to_owned()], ..settings() };
        assert_eq!(look.judge(&stopped).unwrap().steps[0][0].name, "apicast-extra");
        let mut look = whole(Sort::Deployment);
        let mut stranger = workload(Sort::Deployment, "threescale", "a-stranger");
        stranger.is_labelled = false;
        look.workloads.push(stranger);
        assert!(look.judge(&settings()).is_ok(), "what is not 3scale's is nobody's business");
    }

    #[test]
    fn neither_a_writer_is_left_running_nor_a_store_stopped() {
        let left = KubernetesSettings { leave: vec!["backend-worker".to_owned()], ..settings() };
        assert!(refused(whole(Sort::Deployment), &left).contains("writes to stores"));
        let stopped = KubernetesSettings { stop: vec!["zync-database".to_owned()], ..settings() };
        assert!(refused(whole(Sort::Deployment), &stopped).contains("never stopped"));
        let gateways = KubernetesSettings { leave: vec!["apicast-production".to_owned()], ..settings() };
        assert_eq!(whole(Sort::Deployment).judge(&gateways).unwrap().left, ["apicast-production"]);
    }

    #[test]
    fn an_autoscaler_that_starts_from_nothing_is_not_accepted() {
        let mut look = whole(Sort::Deployment);
        let target = Target { kind: "Deployment".to_owned(), name: "backend-listener".to_owned() };
        look.scalers.push(Scaler { name: "listener".to_owned(), target, least: 2 });
        assert!(look.clone().judge(&settings()).is_ok(), "one that needs at least one stops at 0");
        look.scalers[0].least = 0;
        assert!(refused(look, &settings()).contains("minReplicas"));
    }
}
