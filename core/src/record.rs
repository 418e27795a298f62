//! The record: the one document whose existence makes a set a backup.
//!
//! Its fields are described for people in `docs/format.md`. Rules of evolution: an unknown field is ignored, a meaning
//! never changes, a number in `format` above [`FORMAT`] is refused unless `reads_from` says an older reader may.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::attachments::RowsWithoutFile;
use crate::error::{Error, Kind, Result};
use crate::id::{ArtifactName, Attempt, Component, EngineName, Epoch, Installation, RepositoryId, SetId};

/// The format this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// Named numbers about a dump that a restored copy must match: `rows:accounts`, `keys:db0`, `files`, `bytes` …
pub type Counts = BTreeMap<String, u64>;

/// Named facts about a server that a restore must compare: `sql_mode`, `rdb_version`, `lower_case_table_names` …
pub type Facts = BTreeMap<String, String>;

/// Everything about one backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format of this document.
    pub format: u32,
    /// The oldest reader's format that may read it.
    pub reads_from: u32,
    /// The repository it was made in.
    pub repository: RepositoryId,
    /// The installation.
    pub installation: Installation,
    /// The set's id.
    pub set: SetId,
    /// The run's number; the order of sets.
    pub epoch: Epoch,
    /// SHA-256 of the plan's bytes, hex.
    pub plan_sha256: String,
    /// Why it was made.
    pub purpose: Purpose,
    /// Whether every component is in it.
    pub status: Status,
    /// When the run started, for people.
    pub started: Timestamp,
    /// When the last dump was done, for people.
    pub finished: Timestamp,
    /// The version of Keepsake that wrote it.
    pub keepsake_version: String,
    /// How its segments are sealed.
    pub sealing: Sealing,
    /// The instant it stands for; absent when every store was dumped at its own moment.
    #[serde(default)]
    pub cut: Option<Cut>,
    /// Why there is no cut although one was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_cut: Option<String>,
    /// The 3scale release as found: `schema_migrations` …
    #[serde(default)]
    pub release: Facts,
    /// What was asked for but is not in the set by choice (`--component`), by name.
    #[serde(default)]
    pub left_out: Vec<Component>,
    /// Rows of the system database whose file is not in the set; absent where the set has not both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_without_file: Option<RowsWithoutFile>,
    /// Where the installation has its files, if the set does not have them because they are on no volume of it: `S3 bucket NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_elsewhere: Option<String>,
    /// One entry per component asked for.
    pub components: Vec<ComponentRecord>,
}

/// Why a set was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// An ordinary backup.
    Backup,
    /// The state before a restore.
    Safety,
    /// A word from a newer version.
    #[serde(other)]
    Unknown,
}

/// Whether a set holds everything that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Every component of the installation was dumped.
    Complete,
    /// A component failed or was left out; never `latest`.
    Partial,
    /// A word from a newer version; treated as not complete.
    #[serde(other)]
    Unknown,
}

/// How segments are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Sealing {
    /// To the set's own age recipient, whose identity is in `key.age`.
    Age {
        /// The set's public half.
        recipient: String,
        /// The bytes of `key.age`, base64, so that the record alone suffices.
        key_age_base64: String,
    },
    /// Not at all, as asked for at `init`.
    None,
}

/// Proof of a consistent cut: an instant at which nothing was written to any of these components, and of which all their snapshots are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// When the last snapshot was open, by the coordinator's clock; for people.
    pub at: Timestamp,
    /// The components that stand for this instant.
    #[serde(default)]
    pub components: Vec<Component>,
    /// Which attempt it was, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// For how long writers waited in this attempt, from the first hold asked for to the last one released; microseconds.
    #[serde(default)]
    pub pause_us: u64,
    /// The same of all attempts together; microseconds.
    #[serde(default)]
    pub pauses_us: u64,
    /// The lease of the holds; microseconds.
    #[serde(default)]
    pub lease_us: u64,
    /// What happened in which order, in microseconds from the first hold asked for, by the coordinator's monotonic clock: `held`, `snapshot-open`,
    /// `unbroken` and `released`, each of every component. Every `unbroken` was asked for after the last `snapshot-open`.
    #[serde(default)]
    pub sequence: Vec<CutMoment>,
    /// Why earlier attempts did not count.
    #[serde(default)]
    pub void: Vec<String>,
}

/// One moment of a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutMoment {
    /// Microseconds from the first hold asked for.
    pub at_us: u64,
    /// Whose.
    pub component: Component,
    /// `held`, `snapshot-open`, `unbroken`, `released`.
    pub what: String,
}

/// What became of one component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentRecord {
    /// Its name.
    pub component: Component,
    /// Its engine.
    pub engine: EngineName,
    /// The dump, when there is one.
    #[serde(default)]
    pub dump: Option<DumpRecord>,
    /// Why there is none.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// A failure as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind's stable name.
    pub kind: Kind,
    /// The whole chain of texts.
    pub text: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), text: error.chain() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.text)
    }
}

/// A finished dump: what an engine says of it, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DumpRecord {
    /// What the engine says.
    #[serde(flatten)]
    pub report: DumpReport,
    /// Where the bytes are.
    pub artifacts: Vec<ArtifactRecord>,
}

/// What an engine says of a dump that it finished.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DumpReport {
    /// The server's name and version, for example `MariaDB 10.11.19`.
    pub server: String,
    /// The tools that moved the data, each with its end.
    pub tools: Vec<ToolRecord>,
    /// Where the datastore stood (GTID, LSN, offset), comparable text.
    #[serde(default)]
    pub position: Option<String>,
    /// When the snapshot opened, for people.
    #[serde(default)]
    pub snapshot_opened: Option<Timestamp>,
    /// What a restore must compare before it starts.
    pub facts: Facts,
    /// What a restored copy must match.
    pub counts: Counts,
    /// What an operator should know, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One run of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRecord {
    /// Its name, for example `mariadb-dump`.
    pub tool: String,
    /// Its version line.
    pub version: String,
    /// Its exit status; 0, or there would be no record.
    pub exit_status: i32,
    /// The end marker that was seen, in words.
    pub end_marker: String,
}

/// One stored stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// Its name.
    pub artifact: ArtifactName,
    /// The start of a dump that stored it.
    pub attempt: Attempt,
    /// Length of the plaintext, bytes.
    pub length: u64,
    /// Its pieces in order.
    pub segments: Vec<SegmentRecord>,
}

/// One stored piece of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The object's key below the repository's root, in full.
    pub key: String,
    /// Length of the plaintext, bytes.
    pub length: u64,
    /// Length of the stored object, bytes.
    pub stored: u64,
    /// SHA-256 of the stored object, hex. Of the stored bytes, so that it reveals nothing of a short secret.
    pub sha256: String,
}

impl Record {
    /// The entry of a component.
    pub fn component(&self, name: &Component) -> Option<&ComponentRecord> {
        self.components.iter().find(|c| &c.component == name)
    }

    /// Whether this is a complete, ordinary backup: only such a set is ever `latest`.
    pub fn counts_as_backup(&self) -> bool {
        self.status == Status::Complete && self.purpose == Purpose::Backup
    }

    /// Plaintext bytes of all artifacts.
    pub fn plain_bytes(&self) -> u64 {
        self.artifacts().map(|(_, a)| a.length).sum()
    }

    /// Stored bytes of all segments.
    pub fn stored_bytes(&self) -> u64 {
        self.artifacts().flat_map(|(_, a)| &a.segments).map(|s| s.stored).sum()
    }

    /// Every artifact with its component.
    pub fn artifacts(&self) -> impl Iterator<Item = (&Component, &ArtifactRecord)> {
        self.components
            .iter()
            .filter_map(|c| c.dump.as_ref().map(|d| (&c.component, d)))
            .flat_map(|(name, dump)| dump.artifacts.iter().map(move |a| (name, a)))
    }

    /// Reads a record from the exact bytes whose signature was verified, and checks that it holds together.
    ///
    /// # Errors
    /// `Unsupported` for a newer format; `Corrupt` when the bytes are not a record or contradict themselves.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        check_format(bytes, "the record")?;
        let record: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::caused(Kind::Corrupt, "the record cannot be read", e))?;
        record.check()?;
        Ok(record)
    }

    /// The bytes that are signed and stored.
    ///
    /// # Errors
    /// The record contradicts itself: a defect of whoever made it.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::caused(Kind::Internal, "the record cannot be written as JSON", e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What must hold of every record.
    fn check(&self) -> Result<()> {
        let corrupt = |text: String| Err(Error::new(Kind::Corrupt, text));
        let mut names = std::collections::BTreeSet::new();
        for entry in &self.components {
            if !names.insert(&entry.component) {
                return corrupt(format!("the record names the component {} twice", entry.component));
            }
            match (&entry.dump, &entry.failure) {
                (Some(dump), None) => dump.check(&entry.component)?,
                (None, Some(_)) => {}
                (Some(_), Some(_)) | (None, None) => {
                    return corrupt(format!(
                        "component {} must have either a dump or a failure in the record",
                        entry.component
                    ));
                }
            }
        }
        let failed = self.components.iter().any(|c| c.dump.is_none());
        if self.status == Status::Complete && (failed || !self.left_out.is_empty() || self.components.is_empty()) {
            return corrupt("the record says complete, but a component is missing".to_owned());
        }
        Ok(())
    }
}

impl DumpRecord {
    fn check(&self, component: &Component) -> Result<()> {
        let corrupt = |text: String| Err(Error::new(Kind::Corrupt, text));
        let mut names = std::collections::BTreeSet::new();
        for artifact in &self.artifacts {
            if !names.insert(&artifact.artifact) {
                return corrupt(format!("the record names {component}/{} twice", artifact.artifact));
            }
            let mut total = Some(0_u64);
            for segment in &artifact.segments {
                total = total.and_then(|t| t.checked_add(segment.length));
            }
            if total != Some(artifact.length) {
                return corrupt(format!(
                    "the segments of {component}/{} do not add up to its {} bytes",
                    artifact.artifact, artifact.length
                ));
            }
        }
        if self.artifacts.is_empty() {
            return corrupt(format!("component {component} has a dump without artifacts"));
        }
        Ok(())
    }
}

/// Refuses a document whose format is newer than this program, before its other fields are looked at.
///
/// # Errors
/// `Corrupt` when there is no format number, `Unsupported` when it is newer.
pub fn check_format(bytes: &[u8], what: &str) -> Result<()> {
    check_format_up_to(FORMAT, bytes, what)
}

/// The same of documents that have a later format than others.
///
/// # Errors
/// As [`check_format`].
pub fn check_format_up_to(newest: u32, bytes: &[u8], what: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
        #[serde(default)]
        reads_from: Option<u32>,
    }
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|e| Error::caused(Kind::Corrupt, format!("{what} is not JSON with a format number"), e))?;
    if head.reads_from.unwrap_or(head.format) > newest {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{what} has format {}, and this Keepsake reads up to {newest}: use a newer Keepsake", head.format),
        ));
    }
    Ok(())
}
