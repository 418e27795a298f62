//! What a restore does with the cluster's objects: Secrets, ConfigMaps and 3scale's own.

use std::fmt;
use std::str::FromStr;

use keepsake_core::error::{Error, Kind};
use keepsake_core::format::objects::ENGINE;
use keepsake_core::id::EngineName;
use serde::{Deserialize, Serialize};

/// Secrets that say where the stores are and how they are entered. Those of another moment or place would lead the applications away from the stores that run here.
/// The first three are those that upstream's own restore never writes, for the same reason; zync's has the URL of its database.
const ENDPOINTS: [&str; 4] = ["system-database", "backend-redis", "system-redis", "zync"];

/// What becomes of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectPolicy {
    /// They are not restored.
    Skip,
    /// Those are made that are not there.
    #[default]
    Missing,
    /// Those are made that are not there, and the APIManager too: its operator builds the installation of them.
    Build,
    /// Those that differ are written, too.
    Replace {
        /// Also those that say where the stores are.
        endpoints: bool,
    },
}

impl ObjectPolicy {
    /// Whether it is what is done when nothing is said.
    pub fn is_missing(&self) -> bool {
        *self == Self::Missing
    }
}

impl fmt::Display for ObjectPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skip => "skip",
            Self::Missing => "those that are not there",
            Self::Build => "those that are not there, and the APIManager",
            Self::Replace { endpoints: false } => "those that differ, but for those that say where the stores are",
            Self::Replace { endpoints: true } => "those that differ",
        })
    }
}

impl FromStr for ObjectPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "skip" => Ok(Self::Skip),
            "missing" => Ok(Self::Missing),
            "replace" => Ok(Self::Replace { endpoints: false }),
            _ => Err(Error::new(Kind::Invalid, format!("{text:?} is none of skip, missing and replace"))),
        }
    }
}

/// Whether these are the cluster's objects.
pub fn are_objects(engine: &EngineName) -> bool {
    engine.as_str() == ENGINE
}

/// Whether an object says where a store is.
pub(crate) fn is_endpoint(kind: &str, name: &str) -> bool {
    kind == "Secret" && ENDPOINTS.contains(&name)
}
