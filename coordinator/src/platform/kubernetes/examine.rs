//! Looking at a cluster without changing anything, for `keepsake doctor`.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};

use super::api::Cluster;
use super::{ANNOTATION, Kubernetes, access, attached, discovery, routes, webhook};
use crate::topology::kubernetes::By;

/// The oldest Kubernetes that this was tried on.
const FLOOR: (u32, u32) = (1, 20);
/// An API server that does not answer for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// One thing looked at.
#[derive(Debug)]
pub struct Examined {
    /// What was looked at.
    pub check: &'static str,
    /// What was found, or what is wrong with it.
    pub found: Result<String>,
}

impl Kubernetes {
    /// Looks whether the cluster answers and is new enough, what is allowed, what workloads there are, whether some are stopped, and whether databases that
    /// ask for an agent have one, and what the webhook would do. Where nobody is stopped all but the workloads.
    pub async fn examine(&self) -> Vec<Examined> {
        let cluster = match self.cluster(PATIENCE).await {
            Ok(cluster) => cluster,
            Err(e) => return vec![Examined { check: "cluster", found: Err(e) }],
        };
        let version = version(&cluster).await;
        let is_there = version.as_ref().map_or_else(|e| e.kind() == Kind::Unsupported, |_| true);
        let mut examined = vec![Examined { check: "cluster", found: version }];
        if is_there {
            examined.extend(Box::pin(self.workloads(&cluster)).await);
        }
        if is_there {
            let agents = attached::look(&cluster, &self.settings.namespace).await.transpose();
            examined.extend(agents.map(|found| Examined { check: "agents in pods", found }));
            let settings = webhook::look(&cluster, &self.settings.namespace).await.transpose();
            examined.extend(settings.map(|found| Examined { check: "webhook", found }));
        }
        examined
    }

    async fn workloads(&self, cluster: &Cluster) -> Vec<Examined> {
        let mut examined = Vec::new();
        let permissions = self.permissions(cluster).await;
        let is_allowed = permissions.is_ok();
        examined.push(Examined { check: "permissions", found: permissions });
        if !is_allowed || self.settings.by == By::None {
            // What could be seen would be told as missing.
            return examined;
        }
        let look = match discovery::look(cluster, &self.settings).await {
            Ok(look) => look,
            Err(e) => {
                examined.push(Examined { check: "workloads", found: Err(e) });
                return examined;
            }
        };
        let all = look.workloads.iter().chain(&look.operator).filter(|w| w.replicas == 0);
        let mut stopped: Vec<_> = all.filter_map(|w| Some(format!("{w} for {}", w.record.as_ref()?.told()))).collect();
        // Of a run of before, perhaps: the topology may have said `by: routes` then.
        if look.served.routes {
            match routes::closed(cluster, &self.settings.namespace).await {
                Ok(closed) => stopped.extend(closed),
                // Whoever closes none now needs no right to see them.
                Err(e) if self.settings.by != By::Routes && e.kind() == Kind::Denied => {
                    tracing::debug!("whether a Route is closed is not known: {}", e.chain());
                }
                Err(e) => examined.push(Examined { check: "Routes", found: Err(e) }),
            }
        }
        if self.settings.by == By::Routes {
            let found = routes::found(cluster, &self.settings).await;
            examined
                .push(Examined { check: "Routes", found: found.map(|found| format!("would close {}", found.len())) });
        }
        let scalers = look.scalers.len();
        let managers = look.managers.clone();
        let sorts: Vec<_> = [super::workload::Sort::Deployment, super::workload::Sort::DeploymentConfig]
            .into_iter()
            .map(|sort| (sort.word(), look.workloads.iter().filter(|w| w.sort == sort && w.part.is_some()).count()))
            .filter(|(_, count)| *count > 0)
            .map(|(word, count)| format!("{count} {word}s"))
            .collect();
        let found = look.judge(&self.settings).map(|found| {
            let names: Vec<_> = found.steps.iter().flatten().map(|w| format!("{} ({})", w.name, w.replicas)).collect();
            let mut told = format!("{}; would stop {}", sorts.join(" and "), names.join(", "));
            let mut also = |what: &str, names: &[String]| {
                if !names.is_empty() {
                    told.push_str(&format!("; {what} {}", names.join(", ")));
                }
            };
            also("leaves alone", &found.databases);
            also("leaves running", &found.left);
            also("APIManager", &managers);
            also("sets aside", &found.operator.iter().map(ToString::to_string).collect::<Vec<_>>());
            told.push_str(&format!("; {scalers} autoscalers"));
            told
        });
        examined.push(Examined { check: "workloads", found });
        if !stopped.is_empty() {
            let told = format!(
                "stopped: {}. If that run is not at work, `keepsake resume` or `cancel` starts them; if it is over, set the replicas, and the weights of Routes, by \
                 hand and remove the annotation {ANNOTATION}, which says what they were",
                stopped.join("; ")
            );
            examined.push(Examined { check: "applications", found: Err(Error::new(Kind::Conflict, told)) });
        }
        examined
    }

    async fn permissions(&self, cluster: &Cluster) -> Result<String> {
        let served = discovery::served(cluster).await?;
        let with_operator = served.managers.is_some() || self.settings.operator.is_some();
        let mut needs = access::needs_of_place(&self.settings.namespace);
        needs.extend(match self.settings.by {
            By::Scale | By::Routes => access::needs(&self.settings, &served, with_operator),
            By::None => Vec::new(),
        });
        for after in access::needs_after(&self.settings, &served) {
            if !needs.contains(&after) {
                needs.push(after);
            }
        }
        let count = needs.len();
        access::ensure(cluster, needs).await?;
        Ok(format!("all {count} that a restore needs"))
    }
}

pub(super) async fn version(cluster: &Cluster) -> Result<String> {
    let version = cluster.ask("ask for its version", || cluster.client.apiserver_version()).await?;
    judge(&version.major, &version.minor, &version.git_version)
}

/// Whether it is new enough. Vendors write more than digits: `20+`.
fn judge(major: &str, minor: &str, told: &str) -> Result<String> {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    match (number(major), number(minor)) {
        (Some(major), Some(minor)) if (major, minor) >= FLOOR => Ok(format!("Kubernetes {told}")),
        _ => Err(Error::new(
            Kind::Unsupported,
            format!(
                "Kubernetes {told}: it must be {}.{} or newer; use `platform: standalone` with hooks here",
                FLOOR.0, FLOOR.1
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_1_20() {
        for (major, minor, good) in [
            ("1", "20", true),
            ("1", "20+", true),
            ("1", "34", true),
            ("2", "0", true),
            ("1", "19+", false),
            ("", "", false),
        ] {
            let told = judge(major, minor, &format!("v{major}.{minor}"));
            assert_eq!(told.is_ok(), good, "{major}.{minor}");
            if let Err(e) = told {
                assert!(e.chain().contains("standalone"), "{}", e.chain());
            }
        }
    }
}
