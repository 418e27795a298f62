//! What the topology says of a 3scale that runs on Kubernetes or OpenShift.

use std::path::PathBuf;

use serde::Deserialize;

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
    /// Names of further workloads that are stopped: what 3scale's own list does not know.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Names of workloads that are not stopped: they write to no store.
    #[serde(default)]
    pub leave: Vec<String>,
}

/// How applications are stopped and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Every workload's replicas are set to 0, and back to what they were.
    #[default]
    Scale,
    /// Not at all: a person does it.
    None,
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
    }

    #[test]
    fn much_can_be_said() {
        let settings = parsed(
            "    kubernetes: { namespace: threescale, kubeconfig: admin.conf, context: east, by: none, operator: { namespace: operators }, deadline: 60, \
             stop: [zync-extra], leave: [apicast-staging] }",
        )
        .unwrap();
        assert_eq!(settings.kubeconfig.as_deref(), Some(Path::new("/etc/keepsake/admin.conf")));
        assert_eq!((settings.by, settings.deadline), (By::None, 60));
        assert_eq!(settings.operator(), ("operators", OPERATOR));
        let named = parsed("    kubernetes: { namespace: threescale, operator: { deployment: threescale-operator } }");
        assert_eq!(named.unwrap().operator(), ("threescale", "threescale-operator"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (settings, word) in [
            ("", "`kubernetes`"),
            ("    kubernetes: { namespace: threescale, namspace: x }", "namspace"),
            ("    kubernetes: { namespace: threescale, by: routes }", "routes"),
            ("    kubernetes: { namespace: threescale, operator: { name: x } }", "name"),
            ("    kubernetes: { namespace: '' }", "namespace"),
            ("    kubernetes: { namespace: Threescale }", "Threescale"),
            ("    kubernetes: { namespace: threescale, deadline: 0 }", "deadline"),
            ("    kubernetes: { namespace: threescale, stop: [a], leave: [a] }", "both"),
            ("    kubernetes: { namespace: threescale, leave: [a_b] }", "a_b"),
            ("    kubernetes: { namespace: threescale }\n    hooks: { quiesce: [[stop]], resume: [[start]] }", "hooks"),
        ] {
            let told = parsed(settings).unwrap_err();
            assert!(told.contains(word), "{settings}: {told}");
        }
    }
}
