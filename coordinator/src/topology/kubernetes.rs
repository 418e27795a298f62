//! What the topology says of a 3scale that runs on Kubernetes or OpenShift.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The operator's Deployment is named so unless the topology says otherwise.
pub const OPERATOR: &str = "threescale-operator-controller-manager-v2";

/// The mapping `kubernetes` of an installation whose platform is `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesSettings {
    /// Where the 3scale runs.
    pub namespace: String,
    /// The kubeconfig file; without it the usual places, and then the service account of the pod that this runs in.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; the current one if absent.
    #[serde(default)]
    pub context: Option<String>,
    /// Whether Secrets, ConfigMaps, the APIManager and 3scale's other objects are in every set.
    #[serde(default = "yes")]
    pub objects: bool,
    /// How applications are stopped and started.
    #[serde(default)]
    pub by: By,
    /// Where the operator is, if it is not in the namespace or has another name.
    #[serde(default)]
    pub operator: Option<OperatorSettings>,
    /// Each wait (for the pods of one step to go, for those of one step to be ready, for an API server that does not answer) ends after so many seconds.
    #[serde(default = "deadline")]
    pub deadline: u32,
    /// How long backend-worker may work off its queues before it is stopped, and what if that is not enough.
    #[serde(default)]
    pub drain: DrainSettings,
    /// Names of further workloads that are stopped: what 3scale's own list does not know.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Names of workloads that are not stopped: they write to no store.
    #[serde(default)]
    pub leave: Vec<String>,
    /// What System makes anew after a restore, each by a Job: if absent, what follows from the components that are restored; if empty, nothing.
    #[serde(default)]
    pub resync: Option<Vec<ResyncTask>>,
    /// Each of those Jobs is ended after so many seconds.
    #[serde(default = "resync_deadline")]
    pub resync_deadline: u32,
}

/// What System can make anew from its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncTask {
    /// The routes: zync is told of every provider and proxy.
    ZyncDomains,
    /// The index of the search.
    SearchIndex,
    /// Memcached is emptied.
    CacheFlush,
    /// Backend's Config, by upstream's own task, which only adds.
    BackendRewrite,
}

impl ResyncTask {
    /// Its word in the topology.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ZyncDomains => "zync-domains",
            Self::SearchIndex => "search-index",
            Self::CacheFlush => "cache-flush",
            Self::BackendRewrite => "backend-rewrite",
        }
    }

    /// The rake task that does it. Of the two that write the Config it is the one whose end is that of the work; the other only queues it.
    pub fn rake(self) -> &'static str {
        match self {
            Self::ZyncDomains => "zync:resync:domains",
            Self::SearchIndex => "searchd:optimal_index",
            Self::CacheFlush => "cache:flush",
            Self::BackendRewrite => "backend:storage:rewrite",
        }
    }
}

/// How applications are stopped and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Every workload's replicas are set to 0, and back to what they were.
    #[default]
    Scale,
    /// The Routes of OpenShift are closed, and what could write to a store that is restored is scaled all the same: callers inside the cluster need no Route.
    Routes,
    /// Not at all: a person does it.
    None,
}

/// How backend-worker is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSettings {
    /// Seconds; 0 only counts what waits.
    #[serde(default = "drain_deadline")]
    pub deadline: u32,
    /// What if jobs are left then.
    #[serde(default)]
    pub otherwise: Undrained,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { deadline: drain_deadline(), otherwise: Undrained::default() }
    }
}

/// What becomes of a run when backend-worker has not worked off its queues in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undrained {
    /// It goes on and tells what is left: the jobs are part of the store, and of the safety set.
    #[default]
    GoOn,
    /// It fails, and what was stopped is started again.
    Fail,
}

/// Where the operator is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorSettings {
    /// Its namespace; the installation's if absent.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The name of its Deployment.
    #[serde(default = "operator")]
    pub deployment: String,
}

fn yes() -> bool {
    true
}

fn deadline() -> u32 {
    600
}

fn drain_deadline() -> u32 {
    120
}

fn resync_deadline() -> u32 {
    3600
}

fn operator() -> String {
    OPERATOR.to_owned()
}

impl KubernetesSettings {
    /// The operator's namespace and the name of its Deployment.
    pub fn operator(&self) -> (&str, &str) {
        match &self.operator {
            Some(o) => (o.namespace.as_deref().unwrap_or(&self.namespace), &o.deployment),
            None => (&self.namespace, OPERATOR),
        }
    }

    /// What is wrong with them, if something is.
    pub(super) fn unsound(&self) -> Option<String> {
        let (namespace, deployment) = self.operator();
        for (what, name) in [("namespace", self.namespace.as_str()), ("operator: namespace", namespace)] {
            if !is_label(name) {
                return Some(format!("{what} {name:?} is no name of a namespace: at most 63 of a-z, 0-9 and -"));
            }
        }
        let named = self.stop.iter().chain(&self.leave).map(String::as_str).chain([deployment]);
        if let Some(name) = named.into_iter().find(|n| !is_name(n)) {
            return Some(format!("{name:?} is no name of a workload: at most 253 of a-z, 0-9, - and ."));
        }
        if let Some(name) = self.stop.iter().find(|n| self.leave.contains(n)) {
            return Some(format!("{name} stands in both `stop` and `leave`: choose one"));
        }
        let tasks = self.resync.as_deref().unwrap_or_default();
        if let Some((_, task)) = tasks.iter().enumerate().find(|(n, task)| tasks.iter().take(*n).any(|t| t == *task)) {
            return Some(format!("resync lists {} twice", task.as_str()));
        }
        if self.resync_deadline == 0 {
            return Some("resync_deadline is 0: say how many seconds a Job may take".to_owned());
        }
        (self.deadline == 0).then(|| "deadline is 0: say how many seconds a wait may take".to_owned())
    }
}

/// Whether it is a DNS label, as names of namespaces are.
fn is_label(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c != '-');
    let good = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    good && name.len() <= 63 && ends(name.chars().next()) && ends(name.chars().last())
}

/// Whether it is a DNS subdomain, as names of workloads are.
fn is_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::Topology;

    fn parsed(settings: &str) -> Result<KubernetesSettings, String> {
        let text = format!(
            "
repository: {{ url: 'file:///backups' }}
installations:
  - name: prod
    platform: kubernetes
{settings}
    components:
      - {{ name: system-mysql, engine: mysql, agent: 'http://localhost:9090' }}
"
        );
        let topology = Topology::parse(&text, Path::new("/etc/keepsake")).map_err(|e| e.chain())?;
        Ok(topology.installations[0].kubernetes.clone().expect("there are settings"))
    }

    #[test]
    fn little_has_to_be_said() {
        let settings = parsed("    kubernetes: { namespace: threescale }").unwrap();
        assert_eq!(settings.by, By::Scale);
        assert_eq!((settings.deadline, settings.kubeconfig.as_deref()), (600, None));
        assert_eq!(settings.operator(), ("threescale", OPERATOR));
        assert_eq!((settings.resync, settings.resync_deadline), (None, 3600));
        assert_eq!(settings.drain, DrainSettings { deadline: 120, otherwise: Undrained::GoOn });
    }

    #[test]
    fn much_can_be_said() {
        let settings = parsed(
            "    kubernetes: { namespace: threescale, kubeconfig: admin.conf, context: east, by: none, operator: { namespace: operators }, deadline: 60, \
             stop: [zync-extra], leave: [apicast-staging], resync: [zync-domains, search-index, cache-flush, backend-rewrite], resync_deadline: 9 }",
        )
        .unwrap();
        assert_eq!(settings.kubeconfig.as_deref(), Some(Path::new("/etc/keepsake/admin.conf")));
        assert_eq!((settings.by, settings.deadline), (By::None, 60));
        assert_eq!(settings.operator(), ("operators", OPERATOR));
        let words: Vec<_> = settings.resync.unwrap().into_iter().map(ResyncTask::as_str).collect();
        assert_eq!(words, ["zync-domains", "search-index", "cache-flush", "backend-rewrite"]);
        let routes =
            parsed("    kubernetes: { namespace: threescale, by: routes, drain: { otherwise: fail } }").unwrap();
        assert_eq!((routes.by, routes.drain.deadline), (By::Routes, 120));
        assert_eq!(routes.drain.otherwise, Undrained::Fail);
        let off = parsed("    kubernetes: { namespace: threescale, resync: [] }").unwrap();
        assert_eq!(off.resync, Some(Vec::new()));
        let named = parsed("    kubernetes: { namespace: threescale, operator: { deployment: threescale-operator } }");
        assert_eq!(named.unwrap().operator(), ("threescale", "threescale-operator"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (settings, word) in [
            ("", "`kubernetes`"),
            ("    kubernetes: { namespace: threescale, namspace: x }", "namspace"),
            ("    kubernetes: { namespace: threescale, by: ingress }", "ingress"),
            ("    kubernetes: { namespace: threescale, drain: { otherwise: hope } }", "hope"),
            ("    kubernetes: { namespace: threescale, drain: { minutes: 2 } }", "minutes"),
            ("    kubernetes: { namespace: threescale, operator: { name: x } }", "name"),
            ("    kubernetes: { namespace: '' }", "namespace"),
            ("    kubernetes: { namespace: Threescale }", "Threescale"),
            ("    kubernetes: { namespace: threescale, deadline: 0 }", "deadline"),
            ("    kubernetes: { namespace: threescale, stop: [a], leave: [a] }", "both"),
            ("    kubernetes: { namespace: threescale, resync: [everything] }", "everything"),
            ("    kubernetes: { namespace: threescale, resync: [cache-flush, cache-flush] }", "twice"),
            ("    kubernetes: { namespace: threescale, resync_deadline: 0 }", "resync_deadline"),
            ("    kubernetes: { namespace: threescale, leave: [a_b] }", "a_b"),
            ("    kubernetes: { namespace: threescale }\n    hooks: { quiesce: [[stop]], resume: [[start]] }", "hooks"),
        ] {
            let told = parsed(settings).unwrap_err();
            assert!(told.contains(word), "{settings}: {told}");
        }
    }
}
