//! What a load keeps in the namespace until it is over: what is to be written, and what was there before. Any coordinator anywhere can go on from it.
//!
//! A Secret `keepsake-<run>` says how far the load is; `keepsake-<run>-new-<n>` has one object that is to be written, and `keepsake-<run>-old-<n>` what was in its
//! place, written before that is touched. All carry the label [`LABEL`].

use std::collections::BTreeMap;

use data_encoding::BASE64;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::format::objects::Object;
use keepsake_core::id::{Epoch, RunId, RunKey};
use kube::core::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::api::{Cluster, Pace};
use super::kinds::secrets;
use crate::inventory::Staged;

/// The label, with the run's id, of everything that is kept.
pub(super) const LABEL: &str = "keepsake/run";
/// A Secret takes no more.
const LARGEST: usize = 1 << 20;
const HEAD: &str = "head";
const OBJECT: &str = "object";
const MADE: &str = "made";
const LEFT: &str = "left";
const OF: &str = "of";

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// What is to be written is not all there.
    Partial,
    /// It is; nothing is written yet.
    Staged,
    /// It is being written.
    Committing,
    /// It is written; what was there before is kept.
    Committed,
    /// What was there before is being put back.
    RollingBack,
    /// It is back; what is kept is being dropped.
    PutBack,
    /// What was there before is being dropped.
    Finalizing,
}

/// What the head says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) state: State,
    /// Who wrote it last; whoever has a lower one was taken over.
    pub(super) epoch: Epoch,
    /// How many objects are to be written.
    pub(super) count: usize,
    /// So many of them are, in their order.
    #[serde(default)]
    pub(super) written: usize,
    /// What was found at the stage, as counts and in words.
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) warnings: Vec<String>,
}

/// An object that is to be written.
#[derive(Debug, Clone)]
pub(super) struct New {
    pub(super) object: Object,
    /// There was none when it was staged: one that somebody has made since is not written over.
    pub(super) is_made: bool,
}

/// What was in the place of one that was to be written.
#[derive(Debug, Clone)]
pub(super) enum Old {
    /// Nothing.
    Absent,
    /// This one.
    Was(Object),
    /// What somebody else has put there since the stage: it stays.
    Left,
}

/// What is kept for one run in one namespace.
pub(super) struct Kept<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: &'a str,
    pub(super) run: &'a RunKey,
}

impl Kept<'_> {
    fn name(&self, part: &str) -> String {
        format!("keepsake-{}{part}", self.run.run)
    }

    fn secret(&self, name: &str, data: &BTreeMap<&str, Vec<u8>>) -> Value {
        let data: BTreeMap<_, _> = data.iter().map(|(key, bytes)| (*key, BASE64.encode(bytes))).collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
            "metadata": {
                "name": name,
                "labels": { LABEL: self.run.run.to_string(), "app.kubernetes.io/part-of": "keepsake" },
            },
        })
    }

    /// The head and its version; none when nothing of the run is here.
    ///
    /// # Errors
    /// As [`Cluster::ask`]; `Corrupt` when it cannot be read.
    pub(super) async fn head(&self) -> Result<Option<(Head, String)>> {
        let Some(found) = self.cluster.get(&secrets(), self.namespace, &self.name("")).await? else { return Ok(None) };
        let version = found.metadata.resource_version.clone().unwrap_or_default();
        Ok(Some((read_head(&found)?, version)))
    }

    /// The head, claimed by this epoch.
    ///
    /// # Errors
    /// `Conflict` when a later epoch has it.
    pub(super) async fn claim(&self) -> Result<Option<Head>> {
        loop {
            let Some((mut head, version)) = self.head().await? else { return Ok(None) };
            if head.epoch == self.run.epoch {
                return Ok(Some(head));
            }
            self.judge(&head)?;
            head.epoch = self.run.epoch;
            if self.write_head(&head, Some(&version)).await? {
                return Ok(Some(head));
            }
        }
    }

    /// Whether this epoch still has it: asked before every write.
    ///
    /// # Errors
    /// `Conflict` when a later one has it, or it is gone.
    pub(super) async fn ensure_ours(&self) -> Result<()> {
        match self.head().await? {
            Some((head, _)) => self.judge(&head),
            None => Err(Error::new(Kind::Conflict, format!("what run {} kept is gone", self.run))),
        }
    }

    fn judge(&self, head: &Head) -> Result<()> {
        if head.epoch > self.run.epoch {
            let text = format!("epoch {} of this run has taken over: this one changes nothing any more", head.epoch);
            return Err(Error::new(Kind::Conflict, text));
        }
        Ok(())
    }

    /// Moves the head from one state to another.
    ///
    /// # Errors
    /// As [`Kept::claim`].
    pub(super) async fn advance(&self, to: State) -> Result<()> {
        self.change(|head| head.state = to).await
    }

    /// Notes that so many objects are written.
    ///
    /// # Errors
    /// As [`Kept::claim`].
    pub(super) async fn written(&self, n: usize) -> Result<()> {
        self.change(|head| head.written = head.written.max(n)).await
    }

    async fn change(&self, wish: impl Fn(&mut Head)) -> Result<()> {
        loop {
            let Some((mut head, version)) = self.head().await? else {
                return Err(Error::new(Kind::Conflict, format!("what run {} kept is gone", self.run)));
            };
            self.judge(&head)?;
            let before = head.clone();
            wish(&mut head);
            if head == before {
                return Ok(());
            }
            head.epoch = self.run.epoch;
            if self.write_head(&head, Some(&version)).await? {
                return Ok(());
            }
        }
    }

    /// Writes the head: a new one, or over that version. `false` when somebody was faster.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn write_head(&self, head: &Head, over: Option<&str>) -> Result<bool> {
        let text = serde_json::to_vec(head).or_kind(Kind::Internal, "write what is kept")?;
        let mut body = self.secret(&self.name(""), &BTreeMap::from([(HEAD, text)]));
        let done = match over {
            None => self.cluster.create(&secrets(), self.namespace, &body).await.map(drop),
            Some(version) => {
                if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".to_owned(), version.into());
                }
                self.cluster.replace(&secrets(), self.namespace, &self.name(""), &body).await.map(drop)
            }
        };
        match done {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Exists | Kind::NotFound) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Keeps an object that is to be written.
    ///
    /// # Errors
    /// `Unsupported` when it is too large for that.
    pub(super) async fn keep_new(&self, n: usize, new: &New) -> Result<()> {
        let mut data = BTreeMap::from([(OBJECT, fitting(&new.object)?)]);
        if new.is_made {
            data.insert(MADE, Vec::new());
        }
        self.keep(&format!("-new-{n:03}"), &data).await
    }

    /// Keeps what was in its place, over what was kept before.
    ///
    /// # Errors
    /// As [`Kept::keep_new`].
    pub(super) async fn keep_old(&self, n: usize, of: &Object, old: &Old) -> Result<()> {
        let data = match old {
            Old::Absent => BTreeMap::from([(OF, of.to_bytes()?)]),
            Old::Was(object) => BTreeMap::from([(OBJECT, fitting(object)?)]),
            Old::Left => BTreeMap::from([(LEFT, Vec::new())]),
        };
        self.keep(&format!("-old-{n:03}"), &data).await
    }

    /// Makes the Secret that, whatever it is now: another epoch may have begun to keep something else.
    async fn keep(&self, part: &str, data: &BTreeMap<&str, Vec<u8>>) -> Result<()> {
        let name = self.name(part);
        let body = self.secret(&name, data);
        let mut pace = Pace::new(self.cluster.patience);
        loop {
            self.ensure_ours().await?;
            match self.cluster.create(&secrets(), self.namespace, &body).await {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == Kind::Exists => {
                    let found = self.cluster.get(&secrets(), self.namespace, &name).await?;
                    if found.is_some_and(|f| {
                        f.data.get("data") == body.get("data").filter(|d| d.as_object().is_some_and(|d| !d.is_empty()))
                    }) {
                        return Ok(());
                    }
                    self.ensure_ours().await?;
                    self.cluster.remove(&secrets(), self.namespace, &name).await?;
                    if !pace.go_on().await {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// An object that is to be written.
    ///
    /// # Errors
    /// `NotFound` when it is not kept.
    pub(super) async fn new_object(&self, n: usize) -> Result<New> {
        let name = self.name(&format!("-new-{n:03}"));
        let found = self.cluster.get(&secrets(), self.namespace, &name).await?;
        let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("Secret {name} is gone")))?;
        let object = datum(&found, OBJECT)?;
        let object = object.ok_or_else(|| Error::new(Kind::Corrupt, format!("Secret {name} is empty")))?;
        Ok(New { object: Object::parse(&object)?, is_made: datum(&found, MADE)?.is_some() })
    }

    /// What was in its place, if that was kept, and the object that it is about where that was none.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn old(&self, n: usize) -> Result<Option<(Old, Option<Object>)>> {
        let name = self.name(&format!("-old-{n:03}"));
        let Some(found) = self.cluster.get(&secrets(), self.namespace, &name).await? else { return Ok(None) };
        if datum(&found, LEFT)?.is_some() {
            return Ok(Some((Old::Left, None)));
        }
        if let Some(bytes) = datum(&found, OBJECT)? {
            return Ok(Some((Old::Was(Object::parse(&bytes)?), None)));
        }
        let of = datum(&found, OF)?;
        let of = of.ok_or_else(|| Error::new(Kind::Corrupt, format!("Secret {name} does not say what it is about")))?;
        Ok(Some((Old::Absent, Some(Object::parse(&of)?))))
    }

    /// Drops all of it, the head last: as long as that is there the rest is known.
    ///
    /// # Errors
    /// As [`Cluster::ask`]; `Conflict` when a later epoch has it.
    pub(super) async fn drop_all(&self) -> Result<()> {
        self.drop_pieces().await?;
        self.cluster.remove(&secrets(), self.namespace, &self.name("")).await
    }

    /// Drops all but the head.
    ///
    /// # Errors
    /// As [`Kept::drop_all`].
    pub(super) async fn drop_pieces(&self) -> Result<()> {
        let (head, run) = (self.name(""), self.run.run.to_string());
        for secret in self.cluster.list(&secrets(), self.namespace).await? {
            let Some(name) = secret.metadata.name else { continue };
            let is_ours = secret.metadata.labels.is_some_and(|l| l.get(LABEL) == Some(&run));
            if is_ours && name != head {
                self.ensure_ours().await?;
                self.cluster.remove(&secrets(), self.namespace, &name).await?;
            }
        }
        Ok(())
    }
}

/// The loads that have kept something here, and how far they are.
///
/// # Errors
/// As [`Cluster::ask`].
pub(super) async fn loads(cluster: &Cluster, namespace: &str) -> Result<Vec<(RunId, Staged)>> {
    let mut loads = Vec::new();
    for secret in cluster.list(&secrets(), namespace).await? {
        let Some(run) = secret.metadata.labels.as_ref().and_then(|l| l.get(LABEL)) else { continue };
        if secret.metadata.name.as_deref() != Some(&format!("keepsake-{run}")) {
            continue;
        }
        let staged = match read_head(&secret)?.state {
            State::Partial | State::PutBack => Staged::Partial,
            State::Staged => Staged::Staged,
            State::Committing | State::RollingBack => Staged::Committing,
            State::Committed | State::Finalizing => Staged::Committed,
        };
        loads.push((run.parse()?, staged));
    }
    Ok(loads)
}

fn read_head(secret: &DynamicObject) -> Result<Head> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let what = || format!("Secret {name} does not say what is kept: was it changed by hand?");
    let text = datum(secret, HEAD)?.ok_or_else(|| Error::new(Kind::Corrupt, what()))?;
    serde_json::from_slice(&text).or_kind(Kind::Corrupt, what())
}

fn datum(secret: &DynamicObject, key: &str) -> Result<Option<Vec<u8>>> {
    let Some(text) = secret.data.get("data").and_then(|d| d.get(key)).and_then(Value::as_str) else { return Ok(None) };
    BASE64.decode(text.as_bytes()).map(Some).or_kind(Kind::Corrupt, "a Secret whose data is not base64")
}

fn fitting(object: &Object) -> Result<Vec<u8>> {
    let bytes = object.to_bytes()?;
    if bytes.len() > LARGEST {
        let text = format!(
            "{} has {} bytes as JSON, and no more than {LARGEST} can be kept beside what is there: bring it back by hand (`keepsake objects`), and say \
             --objects skip",
            object.artifact()?,
            bytes.len()
        );
        return Err(Error::new(Kind::Unsupported, text));
    }
    Ok(bytes)
}
