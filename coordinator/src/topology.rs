//! The topology: which installations there are, where their agents listen, which repository holds their backups.
//!
//! One strict YAML file. An unknown word is an error, not a wish: a misspelt `recipients` would otherwise be a backup that nobody
//! can open. The file names secrets by path and holds none.

pub mod component;
pub mod kubernetes;
mod repository;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keepsake_core::error::{Context, Error, Kind, Result, ResultExt};
use keepsake_core::format::objects;
use keepsake_core::id::{Component, EngineName, Installation};
use serde::Deserialize;

pub use self::component::ComponentSettings;
use self::component::RawComponent;
pub use self::kubernetes::KubernetesSettings;
use self::repository::RawRepository;
pub use self::repository::{RepositorySettings, Told};
use crate::plan::CutLimits;

/// The whole file, checked.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Where backups are.
    pub repository: RepositorySettings,
    /// How agents are reached; absent when every agent is on loopback in the clear.
    pub tls: Option<TlsFiles>,
    /// The installations, at least one.
    pub installations: Vec<InstallationSettings>,
}

/// Certificate files, PEM.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Who may have signed the agents' certificates.
    pub ca: PathBuf,
    /// The coordinator's certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// One 3scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallationSettings {
    /// Its name.
    pub name: Installation,
    /// Whether a set must stand for one instant.
    pub consistency: Consistency,
    /// How long writers may wait for that.
    pub cut: CutLimits,
    /// How its applications are stopped and started; none, and a person does it.
    pub hooks: Option<Hooks>,
    /// The cluster that it runs on, instead of hooks; none when it runs on no cluster.
    pub kubernetes: Option<KubernetesSettings>,
    /// System has its files in a bucket or elsewhere, and no set has them.
    pub files_external: bool,
    /// The file names no components: they are all that the 3scale in the cluster has, and are to be found there.
    pub all_of_cluster: bool,
    /// Its components, in the order of the file; then the cluster's objects, if it runs on one. At least one, when it is complete.
    pub components: Vec<ComponentSettings>,
}

/// Commands of the administrator that stop everything that writes to the stores, and start it again. Each may be run again when it is not known
/// whether it was run. They stand in plans, which everybody may read who reads the repository: no secrets in them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Stop it, each a program and its arguments, one after another.
    pub quiesce: Vec<Vec<String>>,
    /// Start it again.
    pub resume: Vec<Vec<String>>,
    /// Each command ends within so many seconds, or is killed with everything that it started.
    #[serde(default = "hook_deadline")]
    pub deadline: u32,
}

fn hook_deadline() -> u32 {
    600
}

impl Hooks {
    /// What is wrong with them, if something is.
    fn unsound(&self) -> Option<&'static str> {
        if self.quiesce.is_empty() || self.resume.is_empty() {
            return Some("name commands for both `quiesce` and `resume`: what is stopped must be started again");
        }
        if self.quiesce.iter().chain(&self.resume).any(|argv| argv.first().is_none_or(String::is_empty)) {
            return Some("each command is a list that begins with a program, as in [systemctl, stop, zync]");
        }
        (self.deadline == 0).then_some("deadline is 0: say how many seconds a command may take")
    }
}

/// Whether a set must stand for one instant of all databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Without a cut there is no set.
    #[default]
    Required,
    /// Without a cut the set is made all the same, and says so.
    Preferred,
    /// Every store is dumped at its own moment; nobody's writes are held.
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    repository: RawRepository,
    #[serde(default)]
    tls: Option<TlsFiles>,
    installations: Vec<RawInstallation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInstallation {
    name: Installation,
    #[serde(default)]
    platform: Option<String>,
    #[serde(default)]
    consistency: Consistency,
    #[serde(default)]
    cut: CutLimits,
    #[serde(default)]
    hooks: Option<Hooks>,
    #[serde(default)]
    kubernetes: Option<KubernetesSettings>,
    #[serde(default)]
    files: Files,
    #[serde(default)]
    components: Option<Vec<RawComponent>>,
}

/// Where System has its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Files {
    /// In a component of engine files, if the installation has one.
    #[default]
    Component,
    /// In a bucket, or anywhere that no agent reads.
    External,
}

impl Topology {
    /// Reads and checks the file, which may leave to flags where the repository is. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// `Invalid`, naming the line or the entry and what to do.
    pub fn read(path: &Path, told: &Told) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(format!("read the topology {}", path.display()), e))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse_with(&text, folder, told).with_context(|| format!("topology {}", path.display()))
    }

    /// As [`Topology::read`], from text that says everything.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        Self::parse_with(text, folder, &Told::default())
    }

    /// As [`Topology::read`], from text.
    ///
    /// # Errors
    /// As there.
    pub fn parse_with(text: &str, folder: &Path, told: &Told) -> Result<Self> {
        let file: File = serde_saphyr::from_str(text).or_kind(Kind::Invalid, "it is not a topology")?;
        let repository = file.repository.settle(folder, told)?;
        let tls =
            file.tls.map(|t| TlsFiles { ca: folder.join(t.ca), cert: folder.join(t.cert), key: folder.join(t.key) });
        let mut names = BTreeSet::new();
        let mut installations = Vec::new();
        for raw in file.installations {
            if !names.insert(raw.name.clone()) {
                return invalid(format!("installation {} is listed twice", raw.name));
            }
            let mut checked = check(raw, tls.is_some())?;
            if let Some(KubernetesSettings { kubeconfig: Some(path), .. }) = &mut checked.kubernetes {
                *path = folder.join(&*path);
            }
            installations.push(checked);
        }
        if installations.is_empty() {
            return invalid("there is no installation in it".to_owned());
        }
        Ok(Self { repository, tls, installations })
    }

    /// The installation of that name; without a name the only one.
    ///
    /// # Errors
    /// `Invalid` when there is none, or several and none was named.
    pub fn installation(&self, name: Option<&Installation>) -> Result<&InstallationSettings> {
        let known = || self.installations.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
        match (name, self.installations.as_slice()) {
            (Some(name), all) => all.iter().find(|i| &i.name == name).ok_or_else(|| {
                Error::new(Kind::Invalid, format!("the topology has no installation {name}; it has: {}", known()))
            }),
            (None, [only]) => Ok(only),
            (None, _) => invalid(format!("name one with --installation: {}", known())),
        }
    }
}

impl InstallationSettings {
    /// Whether it is known where every agent is.
    pub fn is_complete(&self) -> bool {
        !self.all_of_cluster && self.components.iter().all(|c| !c.is_to_be_found())
    }

    /// Why agents without an address are not reached by whoever is outside of the cluster.
    pub fn not_reached_from_outside(&self) -> Error {
        let names: Vec<_> = self.components.iter().filter(|c| c.is_to_be_found()).map(|c| c.name.as_str()).collect();
        let which = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
        let text = format!(
            "the topology has no addresses of installation {}'s agents{which}: in the cluster they are found, and this is outside of it, from where pods are not reached. Run it \
             there (`keepsake --in-cluster` for backup, restore, resume, finalize, rollback and cancel), or forward a port to each, as in `kubectl port-forward \
             service/keepsake-system-mysql 19091:9090`, and name all of them: `components: [{{ name: system-mysql, agent: 'https://localhost:19091' }}, …]`",
            self.name
        );
        Error::new(Kind::Invalid, text)
    }

    /// The same with the addresses of agents that were found, and complete: what has no address then is not in it. The cluster's objects stay the last. Whether
    /// all were found is for the caller to know.
    #[must_use]
    pub fn with_agents(&self, found: Vec<(Component, EngineName, String)>) -> Self {
        let mut whole = self.clone();
        for (name, engine, agent) in found {
            let agent = Some(agent);
            if let Some(known) = whole.components.iter_mut().find(|c| c.name == name) {
                known.agent = agent;
            } else {
                let last = whole.components.iter().position(ComponentSettings::is_of_the_cluster);
                let at = last.unwrap_or(whole.components.len());
                whole.components.insert(at, ComponentSettings { name, engine, agent });
            }
        }
        whole.components.retain(|c| !c.is_to_be_found());
        whole.all_of_cluster = false;
        whole
    }

    /// The component of that name.
    ///
    /// # Errors
    /// `Invalid` when there is none.
    pub fn component(&self, name: &Component) -> Result<&ComponentSettings> {
        self.components.iter().find(|c| &c.name == name).ok_or_else(|| {
            let known = self.components.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::new(Kind::Invalid, format!("installation {} has no component {name}; it has: {known}", self.name))
        })
    }
}

fn check(raw: RawInstallation, has_tls: bool) -> Result<InstallationSettings> {
    let name = raw.name.clone();
    if let Some(why) = unsound_platform(&raw) {
        return invalid(format!("installation {name}: {why}"));
    }
    if let Some(why) = raw.cut.unsound() {
        return invalid(format!("installation {name}: cut: {why}"));
    }
    let all_of_cluster = raw.components.is_none();
    let mut components = component::check(&name, raw.components, has_tls, raw.kubernetes.is_some())?;
    let files_external = raw.files == Files::External;
    if files_external && let Some(files) = components.iter().find(|c| c.engine.as_str() == "files") {
        return invalid(format!(
            "installation {name}: `files: external` says that System's files are elsewhere, and component {} has files: choose one",
            files.name
        ));
    }
    let RawInstallation { consistency, cut, hooks, kubernetes, .. } = raw;
    if kubernetes.as_ref().is_some_and(|k| k.objects) {
        let name = Component::new(objects::COMPONENT)?;
        components.push(ComponentSettings { name, engine: EngineName::new(objects::ENGINE)?, agent: None });
    }
    Ok(InstallationSettings { name, consistency, cut, hooks, kubernetes, files_external, all_of_cluster, components })
}

/// What is wrong with the platform, if something is.
fn unsound_platform(raw: &RawInstallation) -> Option<String> {
    match (raw.platform.as_deref(), &raw.kubernetes) {
        (None | Some("standalone"), None) => raw.hooks.as_ref()?.unsound().map(|why| format!("hooks: {why}")),
        (None | Some("standalone"), Some(_)) => {
            Some("`kubernetes` is for an installation with `platform: kubernetes`".to_owned())
        }
        (Some("kubernetes"), None) => {
            Some("`platform: kubernetes` needs `kubernetes`, at least `kubernetes: { namespace: NAME }`".to_owned())
        }
        (Some("kubernetes"), Some(_)) if raw.hooks.is_some() => Some(
            "`hooks` are for `platform: standalone`; on Kubernetes `kubernetes: { by: scale }` stops the applications"
                .to_owned(),
        ),
        (Some("kubernetes"), Some(settings)) => settings.unsound().map(|why| format!("kubernetes: {why}")),
        (Some(other), _) => Some(format!("platform {other:?} is none: `standalone` or `kubernetes`")),
    }
}

fn invalid<T>(text: String) -> Result<T> {
    Err(Error::new(Kind::Invalid, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
repository:
  url: file:///backups
  signing_key: signing.pem
tls: { ca: ca.pem, cert: tls.crt, key: tls.key }
installations:
  - name: prod
    platform: standalone
    consistency: none
    components:
      - { name: system-mysql, engine: mysql, agent: 'https://localhost:9090' }
";

    #[test]
    fn one_instant_is_required_unless_something_else_is_asked_for() {
        let consistency = |to: &str| {
            let topology = Topology::parse(&GOOD.replace("    consistency: none\n", to), Path::new("/")).unwrap();
            topology.installations[0].consistency
        };
        assert_eq!(consistency(""), Consistency::Required);
        assert_eq!(consistency("    consistency: required\n"), Consistency::Required);
        assert_eq!(consistency("    consistency: preferred\n"), Consistency::Preferred);
        assert_eq!(consistency("    consistency: none\n"), Consistency::None);
    }

    fn refused(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Topology::parse(&GOOD.replace(from, to), Path::new("/etc/keepsake")).unwrap_err().chain()
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let topology = Topology::parse(GOOD, Path::new("/etc/keepsake")).unwrap();
        assert_eq!(topology.repository.signing_key.as_deref(), Some(Path::new("/etc/keepsake/signing.pem")));
        assert_eq!(topology.tls.unwrap().ca, Path::new("/etc/keepsake/ca.pem"));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        assert!(refused("signing_key", "signing-kee").contains("signing-kee"));
        assert!(refused("consistency: none", "consistency: perhaps").contains("perhaps"));
        assert!(refused("consistency: none", "cut: { lease_ms: 60000 }").contains("lease_ms"));
        assert!(refused("consistency: none", "cut: { lease: 2s }").contains("lease"));
        assert!(refused("consistency: none", "hooks: { quiesce: [[stop]] }").contains("resume"));
        assert!(refused("consistency: none", "hooks: { quiesce: [[stop]], resume: [] }").contains("both"));
        assert!(refused("consistency: none", "hooks: { quiesce: [[]], resume: [[start]] }").contains("program"));
        assert!(refused("consistency: none", "hooks: { quiesce: [stop], resume: [[start]] }").contains("topology"));
        assert!(refused("platform: standalone", "platform: nomad").contains("nomad"));
        assert!(refused("platform: standalone", "kubernetes: { namespace: a }").contains("platform: kubernetes"));
        assert!(refused("name: system-mysql", "name: System").contains("System"));
        assert!(refused("https://localhost", "ftp://localhost").contains("ftp://"));
        assert!(refused("tls: { ca: ca.pem, cert: tls.crt, key: tls.key }\n", "").contains("tls"));
    }
}
