//! What the administrator says of the agents that are added: one strict YAML file.
//!
//! It is checked so that nothing the API server would refuse can come of it: a pod that was changed badly would not be made at all.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use keepsake_core::error::{Context, Error, Kind, Result, ResultExt};
use keepsake_core::id::{Component, EngineName};
use serde::Deserialize;

use super::patch::{OWN_VARIABLES, PROGRAM, SCRATCH, TLS, TOKEN};

/// What is never beside its store in one pod, with the reason.
const NEVER: [(&str, &str); 2] = [("system-app", APPLICATION), ("system-storage", APPLICATION)];
const APPLICATION: &str = "system-app is stopped during a restore, and its pod's agent with it; use a Deployment of its own, as agents/system-storage";

/// The whole file, checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The image that the agent is copied from.
    pub image: String,
    /// A pod need not ask: 3scale's own labels are enough.
    #[serde(default)]
    pub by_labels: bool,
    /// Containers say that their seccomp profile is the runtime's. OpenShift before 4.11 admits no pod that says so.
    #[serde(default = "yes")]
    pub seccomp: bool,
    /// A limit of CPU, where a quota wants every container to have one.
    #[serde(default)]
    pub cpu_limit: Option<String>,
    /// MiB of memory that an agent asks for, and that it may have: more where a range of limits wants more, or rows are large.
    #[serde(default)]
    pub memory: Memory,
    /// The address of the pod's own at which agents listen: `0.0.0.0`, or `::` where a cluster has IPv6 alone.
    #[serde(default = "everywhere")]
    pub listen: IpAddr,
    /// What all agents have.
    #[serde(default)]
    pub all: Given,
    /// The components, each with its agent.
    pub components: BTreeMap<Component, Sidecar>,
}

/// MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// What it asks for.
    pub request: u32,
    /// What it may have.
    pub limit: u32,
}

/// What an agent is measured to take.
impl Default for Memory {
    fn default() -> Self {
        Self { request: 48, limit: 64 }
    }
}

/// One component's agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// What the agent is: `mysql`, `postgres` or `redis`.
    pub engine: EngineName,
    /// The pod's container whose image has the tools: the database's.
    pub container: String,
    /// Where its data is.
    pub data: Data,
    /// The Secret of the agent's certificate: `ca.crt`, `tls.crt`, `tls.key`.
    pub tls: String,
    /// Arguments of the agent beside the engine.
    #[serde(default)]
    pub args: Vec<String>,
    /// What this agent has beside what all have.
    #[serde(default)]
    pub own: Given,
}

/// What an agent is told and given. Everything named is in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// ConfigMaps whose keys are variables of the agent.
    pub config_maps: Vec<String>,
    /// Variables of the agent; they go before those of ConfigMaps. No secrets: those are files.
    pub env: BTreeMap<String, String>,
    /// Secrets, each a folder of files.
    pub secrets: Vec<SecretFiles>,
    /// Volume claims, as of a repository that is a volume.
    pub claims: Vec<Claim>,
}

/// Where a database's data is in its pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The pod's volume.
    pub volume: String,
    /// Where the database has it.
    pub mount: String,
    /// The agent needs it, too, at the same place.
    #[serde(default)]
    pub shared: bool,
}

/// A Secret as files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFiles {
    /// The Secret's name.
    pub name: String,
    /// The folder.
    pub mount: String,
    /// Only these keys, each as a file of that name; all keys if absent.
    #[serde(default)]
    pub items: BTreeMap<String, String>,
}

/// A volume claim.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The claim's name.
    pub name: String,
    /// The folder.
    pub mount: String,
}

fn yes() -> bool {
    true
}

fn everywhere() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

impl Settings {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// `Invalid`, naming the entry and what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(format!("read the settings {}", path.display()), e))?;
        Self::parse(&text).with_context(|| format!("settings {}", path.display()))
    }

    /// As [`Settings::read`], from text.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str) -> Result<Self> {
        let settings: Self =
            serde_saphyr::from_str(text).or_kind(Kind::Invalid, "they are not those of the webhook")?;
        let refuse = |why: String| Err(Error::new(Kind::Invalid, why));
        if settings.image.is_empty() || settings.image.contains(char::is_whitespace) {
            return refuse(format!(
                "image {:?} is none: write Keepsake's image there, the same that the overlay's `images` name: kustomize does not reach into this file, and a database's \
                 pod that is given an image which cannot be pulled does not start",
                settings.image
            ));
        }
        if settings.components.is_empty() {
            return refuse("there is no component in them".to_owned());
        }
        if let Some(limit) = settings.cpu_limit.as_deref().filter(|limit| !is_cpu(limit)) {
            return refuse(format!("cpu_limit {limit:?} is no amount of CPU: say 500m, or 1"));
        }
        let Memory { request, limit } = settings.memory;
        if !(48..=limit).contains(&request) || limit < 64 {
            return refuse(format!(
                "memory: request {request}, limit {limit} (MiB) is less than an agent takes, or asks for more than it may have: say 48 and 64, or more"
            ));
        }
        if !settings.listen.is_unspecified() {
            return refuse(format!("listen {} is an address of one pod: say 0.0.0.0, or '::'", settings.listen));
        }
        for (component, sidecar) in &settings.components {
            if let Some(why) = settings.unsound(component, sidecar) {
                return refuse(format!("component {component}: {why}"));
            }
        }
        Ok(settings)
    }

    /// What an agent has: what all have, and its own.
    pub(super) fn given<'a>(&'a self, sidecar: &'a Sidecar) -> [&'a Given; 2] {
        [&self.all, &sidecar.own]
    }

    /// What is wrong with a component's agent, if something is.
    fn unsound(&self, component: &Component, sidecar: &Sidecar) -> Option<String> {
        if let Some(why) = never(component.as_str()) {
            return Some(why.to_owned());
        }
        if sidecar.engine.as_str() == "files" {
            return Some(APPLICATION.to_owned());
        }
        let given = self.given(sidecar);
        let maps = given.iter().flat_map(|g| &g.config_maps);
        let secrets = given.iter().flat_map(|g| &g.secrets);
        let claims = given.iter().flat_map(|g| &g.claims);
        let names = maps
            .chain([&sidecar.tls, &sidecar.container, &sidecar.data.volume])
            .chain(secrets.clone().map(|s| &s.name))
            .chain(claims.clone().map(|c| &c.name));
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Some(format!("{name:?} is no name of an object: use at most 253 of a-z, 0-9, - and ."));
        }
        for variable in given.iter().flat_map(|g| g.env.keys()) {
            if !is_variable(variable) {
                return Some(format!(
                    "env: {variable:?} is no variable of the agent, all of which begin with KEEPSAKE_; those of tools stand in KEEPSAKE_TOOL_ENV"
                ));
            }
            if OWN_VARIABLES.contains(&variable.as_str()) {
                return Some(format!("env: {variable} is the webhook's to set: take it out"));
            }
        }
        for (key, file) in secrets.clone().flat_map(|s| &s.items) {
            if !is_file(key) || !is_file(file) {
                return Some(format!("items: {key:?}: {file:?} are not a key and a file's name"));
            }
        }
        let mut taken = vec![PROGRAM, SCRATCH, TLS, TOKEN];
        for mount in secrets.map(|s| &s.mount).chain(claims.map(|c| &c.mount)).chain([&sidecar.data.mount]) {
            if !is_folder(mount) || taken.iter().any(|other| are_nested(mount, other)) {
                return Some(format!(
                    "{mount:?} is no folder to mount something at, or one that is taken: name another, from / on"
                ));
            }
            taken.push(mount);
        }
        None
    }
}

/// Why a component never has its agent in its pod, if so.
pub(super) fn never(component: &str) -> Option<&'static str> {
    NEVER.iter().find(|(name, _)| *name == component).map(|(_, why)| *why)
}

fn is_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = |c: char| edge(c) || c == '-';
    let is_part = |part: &str| part.chars().all(good) && part.starts_with(edge) && part.ends_with(edge);
    name.len() <= 253 && name.split('.').all(is_part)
}

fn is_variable(name: &str) -> bool {
    let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.strip_prefix("KEEPSAKE_").is_some_and(|rest| !rest.is_empty() && rest.chars().all(good))
}

fn is_file(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 253 && name.chars().all(good) && !name.starts_with("..") && name != "."
}

fn is_folder(path: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let plain = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    path.starts_with('/') && plain && path.chars().all(good)
}

fn are_nested(one: &str, other: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within(one, other) || within(other, one)
}

/// Whether it is an amount of CPU, and not less than what is asked for (20m).
fn is_cpu(text: &str) -> bool {
    let (digits, least) = text.strip_suffix('m').map_or((text, 1), |digits| (digits, 20));
    let is_number = digits.chars().all(|c| c.is_ascii_digit()) && !digits.starts_with('0');
    is_number && digits.parse::<u32>().is_ok_and(|n| n >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the stores of an installation with its own databases.
    const SETTINGS: &str = "
image: registry.example/keepsake:0.1.0
all:
  config_maps: [keepsake-agents, keepsake-repository]
  secrets: [{ name: keepsake-agents-s3, mount: /etc/keepsake/s3 }]
components:
  system-mysql:
    engine: mysql
    container: system-mysql
    data: { volume: mysql-storage, mount: /var/lib/mysql/data }
    tls: keepsake-system-mysql-tls
    own:
      config_maps: [keepsake-system-mysql]
      env: { KEEPSAKE_MYSQL_HOST: 127.0.0.1, KEEPSAKE_MYSQL_PASSWORD_FILE: /etc/keepsake/database/password }
      secrets: [{ name: keepsake-system-mysql, mount: /etc/keepsake/database }]
  backend-redis:
    engine: redis
    container: backend-redis
    data: { volume: backend-redis-storage, mount: /var/lib/redis/data, shared: true }
    tls: keepsake-backend-redis-tls
    own: { env: { KEEPSAKE_REDIS_DATA_DIR: /var/lib/redis/data, KEEPSAKE_REDIS_RESTARTED_BY: kubelet } }
  system-redis:
    engine: redis
    container: system-redis
    data: { volume: system-redis-storage, mount: /var/lib/redis/data, shared: true }
    tls: keepsake-system-redis-tls
  zync-database:
    engine: postgres
    container: postgresql
    data: { volume: zync-database-data, mount: /var/lib/pgsql/data }
    tls: keepsake-zync-database-tls
    own: { secrets: [{ name: zync, mount: /etc/keepsake/database, items: { ZYNC_DATABASE_PASSWORD: password } }] }
";

    #[test]
    fn much_can_be_said() {
        let settings = Settings::parse(SETTINGS).unwrap();
        assert!(!settings.by_labels && settings.seccomp && settings.cpu_limit.is_none());
        assert_eq!(settings.components.len(), 4);
        let mysql = &settings.components[&"system-mysql".parse().unwrap()];
        assert_eq!((mysql.engine.as_str(), mysql.own.env.len()), ("mysql", 2));
        assert!(!mysql.data.shared);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (from, to, word) in [
            ("image: registry.example/keepsake:0.1.0", "image: ''", "the overlay's `images`"),
            ("image: registry.example/keepsake:0.1.0", "image: two words", "two words"),
            ("all:", "by_label: true\nall:", "by_label"),
            ("all:", "cpu_limit: lots\nall:", "cpu_limit"),
            ("all:", "cpu_limit: 10m\nall:", "cpu_limit"),
            ("all:", "memory: { limit: 32 }\nall:", "memory"),
            ("all:", "memory: { request: 128 }\nall:", "memory"),
            ("all:", "listen: 10.1.2.3\nall:", "listen"),
            ("all:", "listen: localhost\nall:", "listen"),
            ("all:", "everybody:", "everybody"),
            ("    container: postgresql", "    containr: postgresql", "containr"),
            ("    container: postgresql", "    container: Postgresql", "Postgresql"),
            ("engine: postgres", "engine: files", "Deployment of its own"),
            ("  zync-database:", "  system-storage:", "Deployment of its own"),
            ("  zync-database:", "  system-app:", "Deployment of its own"),
            ("  zync-database:", "  Zync:", "Zync"),
            ("KEEPSAKE_REDIS_DATA_DIR", "REDIS_DATA_DIR", "KEEPSAKE_"),
            ("KEEPSAKE_REDIS_DATA_DIR", "KEEPSAKE_LISTEN", "the webhook's"),
            ("mount: /etc/keepsake/s3", "mount: /etc/keepsake/tls", "taken"),
            ("mount: /etc/keepsake/s3", "mount: etc", "from / on"),
            ("mount: /etc/keepsake/s3", "mount: /etc/../s3", "from / on"),
            ("mount: /etc/keepsake/database,", "mount: /etc/keepsake/s3/more,", "taken"),
            ("ZYNC_DATABASE_PASSWORD: password", "ZYNC_DATABASE_PASSWORD: ../password", "file"),
            ("keepsake-agents-s3", "keepsake_agents", "keepsake_agents"),
        ] {
            assert!(SETTINGS.contains(from), "{from}");
            let told = Settings::parse(&SETTINGS.replace(from, to)).unwrap_err().chain();
            assert!(told.contains(word), "{to}: {told}");
        }
        assert!(Settings::parse("image: a:1\ncomponents: {}").is_err());
        assert!(Settings::parse("").is_err());
    }
}
