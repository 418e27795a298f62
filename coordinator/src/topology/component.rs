//! What the topology says of an installation's components, and what may be left unsaid.

use std::collections::BTreeSet;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::objects;
use keepsake_core::id::{Component, EngineName, Installation};
use serde::Deserialize;

/// 3scale's own stores, with the engines that serve them. By name they are those of the workloads (3scale-operator 2.15, `pkg/3scale/amp/component`); the files
/// are of no workload of their own.
pub const STORES: [(&str, &str); 6] = [
    ("system-mysql", "mysql"),
    ("system-postgresql", "postgres"),
    ("backend-redis", "redis"),
    ("system-redis", "redis"),
    ("zync-database", "postgres"),
    (STORAGE, "files"),
];
/// System's files.
pub const STORAGE: &str = "system-storage";
/// Backend's queues, where somebody has given them a server of their own.
const QUEUES: (&str, &str) = ("backend-queues", "redis");

/// One server of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentSettings {
    /// Its name.
    pub name: Component,
    /// Its engine.
    pub engine: EngineName,
    /// Its agent: `https://host:port`, or `http://` on loopback. None of one that is to be found in the cluster. The cluster's objects have none: the
    /// coordinator itself reads and writes them.
    pub agent: Option<String>,
}

impl ComponentSettings {
    /// Whether its agent is still to be found in the cluster.
    pub fn is_to_be_found(&self) -> bool {
        self.agent.is_none() && !self.is_of_the_cluster()
    }

    /// Whether these are the cluster's objects.
    pub fn is_of_the_cluster(&self) -> bool {
        self.engine.as_str() == objects::ENGINE
    }
}

/// As it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawComponent {
    name: Component,
    #[serde(default)]
    engine: Option<EngineName>,
    #[serde(default)]
    agent: Option<String>,
}

/// The engine of a component with one of 3scale's own names.
///
/// # Errors
/// `Invalid` when the name tells nothing.
pub fn engine_of(name: &Component) -> Result<EngineName> {
    let known = STORES.iter().chain([&QUEUES]).find(|(known, _)| *known == name.as_str());
    let Some((_, engine)) = known else {
        return invalid(format!("the name of component {name} does not tell its engine: say engine: NAME"));
    };
    EngineName::new(*engine)
}

/// Checks them. `may_be_found`: the installation is on a cluster, where agents can be looked for.
///
/// # Errors
/// `Invalid`, naming the component and what to do.
pub(super) fn check(
    of: &Installation,
    raw: Option<Vec<RawComponent>>,
    has_tls: bool,
    may_be_found: bool,
) -> Result<Vec<ComponentSettings>> {
    let raw = match raw {
        Some(raw) if raw.is_empty() => return invalid(format!("installation {of} has an empty list of components")),
        Some(raw) => raw,
        None if may_be_found => Vec::new(),
        None => {
            return invalid(format!(
                "installation {of} has no components: only with `platform: kubernetes` they may be left out, and are looked for in the cluster"
            ));
        }
    };
    let mut seen = BTreeSet::new();
    let mut components = Vec::new();
    for RawComponent { name, engine, agent } in raw {
        if !seen.insert(name.clone()) {
            return invalid(format!("installation {of} lists component {name} twice"));
        }
        if name.as_str() == objects::COMPONENT || engine.as_ref().is_some_and(|e| e.as_str() == objects::ENGINE) {
            return invalid(format!(
                "component {name}: the cluster's objects have no agent and are not listed; with `platform: kubernetes` they are in every set"
            ));
        }
        let engine = engine.map_or_else(|| engine_of(&name), Ok)?;
        match &agent {
            Some(agent) => check_address(&name, agent, has_tls)?,
            None if may_be_found => {}
            None => return invalid(format!("component {name} has no agent: say agent: https://host:port")),
        }
        components.push(ComponentSettings { name, engine, agent });
    }
    Ok(components)
}

fn check_address(name: &Component, agent: &str, has_tls: bool) -> Result<()> {
    if !has_tls && agent.starts_with("https://") {
        return invalid(format!("component {name} is reached over https, but the topology has no `tls` section"));
    }
    if !agent.starts_with("https://") && !agent.starts_with("http://") {
        return invalid(format!("component {name}: agent {agent:?} is not of the form https://host:port"));
    }
    Ok(())
}

fn invalid<T>(text: String) -> Result<T> {
    Err(Error::new(Kind::Invalid, text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::{InstallationSettings, Topology};

    fn read(rest: &str) -> Result<InstallationSettings, String> {
        let text = format!(
            "
repository: {{ url: 'file:///backups' }}
tls: {{ ca: ca.pem, cert: tls.crt, key: tls.key }}
installations:
  - name: prod
{rest}"
        );
        let topology = Topology::parse(&text, Path::new("/")).map_err(|e| e.chain())?;
        Ok(topology.installations[0].clone())
    }

    const ON: &str = "    platform: kubernetes\n    kubernetes: { namespace: threescale }\n";

    fn names(settings: &InstallationSettings) -> Vec<(&str, &str, bool)> {
        settings.components.iter().map(|c| (c.name.as_str(), c.engine.as_str(), c.is_to_be_found())).collect()
    }

    #[test]
    fn on_a_cluster_components_may_be_left_out() {
        for rest in [ON.to_owned(), format!("{ON}    components:\n")] {
            let all = read(&rest).unwrap();
            assert_eq!(names(&all), [("objects", "objects", false)]);
            assert!(all.all_of_cluster && !all.is_complete());
        }
    }

    #[test]
    fn on_a_cluster_addresses_and_known_engines_may_be_left_out() {
        let some = format!(
            "{ON}    components:\n      - {{ name: system-redis }}\n      - {{ name: queues, engine: redis }}\n      - {{ name: system-mysql, agent: 'https://a:1' }}\n"
        );
        let some = read(&some).unwrap();
        let expected = [("system-redis", "redis", true), ("queues", "redis", true), ("system-mysql", "mysql", false)];
        assert_eq!(names(&some)[..3], expected);
        assert!(!some.all_of_cluster && !some.is_complete());
        let whole = read("    components: [{ name: zync-database, agent: 'https://a:1' }]\n").unwrap();
        assert_eq!(names(&whole), [("zync-database", "postgres", false)]);
        assert!(whole.is_complete());
    }

    #[test]
    fn what_is_left_out_elsewhere_is_asked_for() {
        for (rest, word) in [
            ("    consistency: none\n", "platform: kubernetes"),
            ("    components: []\n", "empty list"),
            ("    components: [{ name: system-mysql }]\n", "say agent"),
            ("    components: [{ name: queues, agent: 'https://a:1' }]\n", "say engine"),
            ("    components: [{ name: objects, agent: 'https://a:1' }]\n", "not listed"),
        ] {
            let told = read(rest).unwrap_err();
            assert!(told.contains(word), "{rest}: {told}");
        }
    }
}
