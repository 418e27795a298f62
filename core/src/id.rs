//! Names and numbers with a type of their own, checked where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// Defines a newtype over a checked name: letters, digits, `-`, `_` and `.`, starting with a letter or digit.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal) => {
        name! { $(#[$doc])* $type, $what, $max, check_name }
    };
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and takes the name.
            ///
            /// # Errors
            /// `Invalid` when it is empty, too long, or has a character that could not stand in an object's key or a DNS name.
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                $check(&name, $what, $max)?;
                Ok(Self(name))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

fn check_name(name: &str, what: &str, max: usize) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty()
        || name.len() > max
        || !name.chars().all(good)
        || !name.starts_with(edge)
        || !name.ends_with(edge)
    {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "{what} {name:?} is not a name: use 1 to {max} of a-z, 0-9, '-', '_' and '.', with a letter or digit at both ends"
            ),
        ));
    }
    Ok(())
}

/// A name, or two of them with a `/` between.
fn check_path(name: &str, what: &str, max: usize) -> Result<()> {
    match name.split_once('/') {
        Some((folder, name)) if folder.len() + name.len() < max => {
            check_name(folder, what, max)?;
            check_name(name, what, max)
        }
        _ => check_name(name, what, max),
    }
}

name! {
    /// One 3scale.
    Installation, "installation", 63
}
name! {
    /// One server of an installation and its databases, for example `system-mysql`.
    Component, "component", 63
}
name! {
    /// One stored stream of a component, for example `dump.rdb`; of the cluster's objects `<kind>/<name>`, for example `secret/system-seed`. A name in
    /// Kubernetes has up to 253 characters.
    ArtifactName, "artifact", 320, check_path
}
name! {
    /// The key of a step in its plan, for example `dump-system-mysql`.
    StepId, "step", 120
}
name! {
    /// A kind of datastore, for example `redis`. The registry in the agent knows which exist.
    EngineName, "engine", 30
}

/// Defines a newtype over a UUID.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(Uuid);

        impl $type {
            /// A new one; it sorts by the time it was made (UUID version 7).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bytes.
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|e| Error::caused(Kind::Invalid, format!(concat!($what, " id {:?} is not a UUID"), text), e))
            }
        }
    };
}

uuid_id! {
    /// One backup's id. For people; order is by epoch.
    SetId, "set"
}
uuid_id! {
    /// One repository's id.
    RepositoryId, "repository"
}
uuid_id! {
    /// One execution of a plan, unique everywhere.
    RunId, "run"
}

impl RunId {
    /// Under which a run that is taken back does again what it has done already: the same whoever asks, and told from this one by its last digit.
    #[must_use]
    pub fn when_taken_back(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() ^ 1))
    }
}

/// A run's number, rising per installation. A higher one fences every lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is asking: everything an agent does belongs to one run of one installation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunKey {
    /// The run.
    pub run: RunId,
    /// Its installation.
    pub installation: Installation,
    /// Its number.
    pub epoch: Epoch,
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.installation, self.epoch)
    }
}

/// The attempt of an artifact: 8 random hex digits per start of a dump, so that a repeated dump never meets its own leftovers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Attempt(String);

impl Attempt {
    /// A new random one.
    pub fn generate() -> Self {
        let (_, low) = Uuid::new_v4().as_u64_pair();
        Self(format!("{:08x}", low & 0xffff_ffff))
    }

    /// The eight digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Attempt {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        if text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(Self(text));
        }
        Err(Error::new(Kind::Invalid, format!("attempt {text:?} is not 8 lower-case hex digits")))
    }
}

impl From<Attempt> for String {
    fn from(attempt: Attempt) -> Self {
        attempt.0
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_key_are_refused() {
        for bad in ["", "..", "a/b", "A", ".a", "a-", "a b", "ä", &"x".repeat(64)] {
            assert!(Component::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["system-mysql", "a", "3scale.prod", "x_y"] {
            assert!(Component::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn artifacts_may_have_one_folder() {
        for bad in ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "secret/A", &format!("secret/{}", "x".repeat(320))] {
            assert!(ArtifactName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["dump.rdb", "secret/system-seed", &format!("secret/{}", "x".repeat(253))] {
            assert!(ArtifactName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn attempts_are_eight_hex_digits() {
        let attempt = Attempt::generate();
        assert_eq!(Attempt::try_from(String::from(attempt.clone())).unwrap(), attempt);
        assert!(Attempt::try_from("../00000".to_owned()).is_err());
    }
}
