//! Pods that roll out a DeploymentConfig, and those of its lifecycle hooks: in an installation of DeploymentConfigs a hook of system-app migrates the database.
//!
//! OpenShift gives both the label [`DEPLOYER_FOR`] with the name of the rollout, `<name>-<number>` (`DeployerPodForDeploymentLabel` of github.com/openshift/api).

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};

use super::api::{Cluster, Pace};
use super::discovery::Found;
use super::workload::Sort;

/// Names the rollout for which a pod works.
const DEPLOYER_FOR: &str = "openshift.io/deployer-pod-for.name";

impl Cluster {
    /// Waits until nothing rolls out one of the DeploymentConfigs that are stopped: its pod would start what is stopped, and its hooks write.
    ///
    /// # Errors
    /// `Timeout`, with what to do.
    pub(super) async fn until_no_deployer_runs(&self, found: &Found, limit: Duration) -> Result<()> {
        let configs: Vec<_> = found.steps.iter().flatten().filter(|w| w.sort == Sort::DeploymentConfig).collect();
        let Some(namespace) = configs.first().map(|w| &w.namespace) else { return Ok(()) };
        let mut pace = Pace::new(limit);
        loop {
            let pods = self.labelled(namespace, DEPLOYER_FOR).await?;
            let is_ours = |rollout: &str| configs.iter().any(|w| config_of(rollout) == Some(&w.name));
            let running: Vec<_> =
                pods.into_iter().filter(|(rollout, _)| is_ours(rollout)).map(|(_, pod)| pod).collect();
            if running.is_empty() {
                return Ok(());
            }
            if !pace.go_on().await {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "DeploymentConfigs in namespace {namespace} are rolled out, or their hooks run, for {} s now: {}. Look at their logs; `oc rollout cancel` \
                         ends one that never does",
                        limit.as_secs(),
                        running.join(", ")
                    ),
                ));
            }
        }
    }
}

/// The DeploymentConfig of a rollout.
fn config_of(rollout: &str) -> Option<&str> {
    let (name, number) = rollout.rsplit_once('-')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_of_the_config_whose_name_it_has() {
        assert_eq!(config_of("system-app-12"), Some("system-app"));
        assert_eq!(config_of("zync-que-1"), Some("zync-que"));
        for other in ["system-app", "system-app-", "system-app-x1", ""] {
            assert_eq!(config_of(other), None, "{other}");
        }
    }
}
