//! The objects of an overlay as types: every field is one that Kubernetes knows, and pods are looked at as pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodSpec, PodTemplateSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::sidecars::{self, Sidecar};
use keepsake_tests::kustomize::text;

/// An overlay.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) deployments: Vec<Deployment>,
    pub(super) cron_jobs: Vec<CronJob>,
    pub(super) jobs: Vec<Job>,
    pub(super) services: Vec<Service>,
    pub(super) config_maps: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) accounts: Vec<ServiceAccount>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) claims: Vec<PersistentVolumeClaim>,
    pub(super) budgets: Vec<PodDisruptionBudget>,
    /// What its webhook makes.
    pub(super) sidecars: Vec<Sidecar>,
}

/// A pod that an overlay makes.
#[derive(Debug)]
pub(super) struct Pod<'a> {
    pub(super) owner: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) spec: &'a PodSpec,
}

impl Objects {
    /// All of it, and what is wrong with it: a kind that is not ours to make, a field that there is not.
    pub(super) fn of(values: &[Value]) -> (Self, Vec<String>) {
        let (mut all, mut wrong) = (Self::default(), Vec::new());
        for value in values {
            let place = format!("{} {}", text(value, "/kind"), text(value, "/metadata/name"));
            if let Err(why) = all.take(value) {
                wrong.push(format!("{place}: {why}"));
            }
        }
        let (sidecars, unsound) = sidecars::of(&all);
        all.sidecars = sidecars;
        wrong.extend(unsound);
        (all, wrong)
    }

    fn take(&mut self, value: &Value) -> Result<(), String> {
        match (text(value, "/apiVersion"), text(value, "/kind")) {
            ("apps/v1", "Deployment") => self.deployments.push(typed(value)?),
            ("batch/v1", "CronJob") => self.cron_jobs.push(typed(value)?),
            ("batch/v1", "Job") => self.jobs.push(typed(value)?),
            ("v1", "Service") => self.services.push(typed(value)?),
            ("v1", "ServiceAccount") => self.accounts.push(typed(value)?),
            ("v1", "PersistentVolumeClaim") => self.claims.push(typed(value)?),
            ("policy/v1", "PodDisruptionBudget") => self.budgets.push(typed(value)?),
            ("networking.k8s.io/v1", "NetworkPolicy") => self.policies.push(typed(value)?),
            ("v1", "ConfigMap") => {
                let map: ConfigMap = typed(value)?;
                let name = map.metadata.name.unwrap_or_default();
                self.config_maps.insert(name, map.data.unwrap_or_default());
            }
            (version, kind) => return Err(format!("a {kind} of {version} is none of the kinds that are ours to make")),
        }
        Ok(())
    }

    /// Every pod.
    pub(super) fn pods(&self) -> Vec<Pod<'_>> {
        let deployments = self
            .deployments
            .iter()
            .filter_map(|d| Some((format!("Deployment {}", d.metadata.name.as_ref()?), &d.spec.as_ref()?.template)));
        let cron_jobs = self.cron_jobs.iter().filter_map(|c| {
            let template = &c.spec.as_ref()?.job_template.spec.as_ref()?.template;
            Some((format!("CronJob {}", c.metadata.name.as_ref()?), template))
        });
        let jobs = self
            .jobs
            .iter()
            .filter_map(|j| Some((format!("Job {}", j.metadata.name.as_ref()?), &j.spec.as_ref()?.template)));
        let all = deployments.chain(cron_jobs).chain(jobs);
        all.filter_map(|(owner, template)| pod(owner, template)).collect()
    }
}

fn pod(owner: String, template: &PodTemplateSpec) -> Option<Pod<'_>> {
    let labels = template.metadata.as_ref()?.labels.clone().unwrap_or_default();
    Some(Pod { owner, labels, spec: template.spec.as_ref()? })
}

/// As this type, of which nothing is lost: what the type does not know is lost.
pub(super) fn typed<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, String> {
    let object: T = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    let known = serde_json::to_value(&object).map_err(|e| e.to_string())?;
    match lost(value, &known, "") {
        Some(path) => Err(format!("{path} is no field of it")),
        None => Ok(object),
    }
}

/// The first place of the one that is not in the other.
fn lost(one: &Value, other: &Value, path: &str) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => one.iter().find_map(|(key, value)| {
            let path = format!("{path}/{key}");
            match other.get(key) {
                Some(found) => lost(value, found, &path),
                // Empty maps and lists may be left out.
                None if value.as_object().is_some_and(serde_json::Map::is_empty) => None,
                None => Some(path),
            }
        }),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).enumerate().find_map(|(n, (a, b))| lost(a, b, &format!("{path}/{n}")))
        }
        _ => (one != other).then(|| path.to_owned()),
    }
}
