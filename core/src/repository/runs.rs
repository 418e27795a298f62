//! Runs: the plan and its events, in the repository, create-only. There is no other lock and no other journal.
//!
//! Creating object 0 under the next free number *is* taking the epoch; the loser of a race takes the next. No epoch is taken before
//! the one below it is: whoever holds one and looks at all lower ones sees everybody who may run. An event is the next free number of
//! its run, so two writers of one run notice each other: the second one's create fails.
//! To resume a run is to take a new epoch that names the one it goes on from, under the same run id and with the same plan.
//! What the plan and the events say is the coordinator's business; here they are JSON.

mod follow;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::layout;
use super::sign::sha256_hex;
use super::store::Store;
use crate::clock;
use crate::error::{Context, Error, Kind, Result, ResultExt};
use crate::id::{Epoch, Installation, RunId};
use crate::record::{FORMAT, check_format_up_to};

/// The format of a run with two plans, the second of which is an event. Whoever reads no more than [`FORMAT`] would take the end of the first plan for that of
/// the run, and the steps of the second for those of the first.
pub const TWO_PLANS: u32 = 2;
/// Between two tries of a patient journal.
const AGAIN: Duration = Duration::from_secs(5);

/// Object 0 of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunHead<P> {
    /// The format of this document.
    pub format: u32,
    /// The run.
    pub run: RunId,
    /// Its installation.
    pub installation: Installation,
    /// Its number.
    pub epoch: Epoch,
    /// The epoch that it goes on from; absent when it begins a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<Epoch>,
    /// When it was begun, for people.
    pub started: Timestamp,
    /// Who runs it: host and process, for people.
    pub by: String,
    /// SHA-256 of the plan's JSON, hex.
    pub plan_sha256: String,
    /// What will be done.
    pub plan: P,
}

impl<P: Serialize> RunHead<P> {
    /// Whether the plan that was read is, to the last word, the one that the run was begun with.
    ///
    /// # Errors
    /// `Corrupt` when it is not: somebody changed it, or another version of Keepsake made it and this one does not know all of its words.
    pub fn check_plan(&self) -> Result<()> {
        if plan_sha256(&self.plan)? == self.plan_sha256 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Corrupt,
            format!(
                "the plan of run {} of {} is not the one that was begun: it was changed, or it is of another version of Keepsake; go on with the \
                 version that began it",
                self.epoch, self.installation
            ),
        ))
    }
}

/// SHA-256 of a plan's JSON, hex.
///
/// # Errors
/// `Internal` when it cannot be written: a defect.
pub fn plan_sha256<P: Serialize>(plan: &P) -> Result<String> {
    Ok(sha256_hex(&serde_json::to_vec(plan).or_kind(Kind::Internal, "write the plan")?))
}

/// Every later object of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEvent<E> {
    /// The format of this document.
    pub format: u32,
    /// Its number in the run, from 1.
    pub n: u32,
    /// When it was written, for people and for telling whether a coordinator is gone.
    pub at: Timestamp,
    /// What happened.
    pub event: E,
}

/// A run as read.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRun<P, E> {
    /// Object 0.
    pub head: RunHead<P>,
    /// The events in order.
    pub events: Vec<RunEvent<E>>,
    /// Whether somebody asked it to stop.
    pub cancel_asked: bool,
}

/// The runs of a repository, or of another store when the repository is read-only.
#[derive(Debug, Clone)]
pub struct Runs {
    store: Store,
}

/// A run that may be continued: its next event is the next free number.
#[derive(Debug)]
pub struct RunLog {
    store: Store,
    installation: Installation,
    run: RunId,
    epoch: Epoch,
    next: u32,
    /// An entry that may have been stored or not. It keeps its number: the next entry under the same one would look like somebody else's.
    unsure: Option<Bytes>,
    /// So long a store that cannot be reached is waited for.
    patience: Duration,
}

impl Runs {
    /// The runs in this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Epochs of an installation, rising. Some may not be taken yet: a folder can be there before its object 0.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn epochs(&self, installation: &Installation) -> Result<Vec<Epoch>> {
        let folders = self.store.folders(&layout::runs(installation)).await?;
        let mut epochs: Vec<_> = folders.iter().filter_map(|f| f.parse().ok()).map(Epoch).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The last epoch that is taken. A folder alone takes none: a local store makes the folder, then the file, and then gives the file its
    /// name, and whoever went past such a folder would not contend with the one who is about to have it.
    async fn last_taken(&self, installation: &Installation) -> Result<Epoch> {
        for epoch in self.epochs(installation).await?.into_iter().rev() {
            let names = self.store.names(&layout::run(installation, epoch)).await?;
            let head = layout::run_entry(installation, epoch, 0);
            if self.store.find(&head).await?.is_some() {
                return Ok(epoch);
            }
            if last_entry(&names) > 0 {
                return Err(hole(&head));
            }
        }
        Ok(Epoch(0))
    }

    /// Begins a run by taking the next epoch.
    ///
    /// # Errors
    /// The store cannot be written; `Corrupt` when a run has events and no object 0.
    pub async fn begin<P: Serialize + Clone>(
        &self,
        installation: &Installation,
        by: &str,
        plan: &P,
    ) -> Result<(RunHead<P>, RunLog)> {
        self.begin_as(FORMAT, installation, by, plan, RunId::generate()).await
    }

    /// As [`Runs::begin`], of this format and under an id that somebody has given it, so as to find it.
    ///
    /// # Errors
    /// As [`Runs::begin`].
    pub async fn begin_as<P: Serialize + Clone>(
        &self,
        format: u32,
        installation: &Installation,
        by: &str,
        plan: &P,
        run: RunId,
    ) -> Result<(RunHead<P>, RunLog)> {
        self.take(RunHead {
            format,
            run,
            installation: installation.clone(),
            epoch: Epoch(0),
            resumes: None,
            started: clock::now(),
            by: by.to_owned(),
            plan_sha256: plan_sha256(plan)?,
            plan: plan.clone(),
        })
        .await
    }

    /// Takes the next epoch for a run that was begun under `head`'s: the same run, the same plan. Whoever holds `head`'s epoch is not fenced by
    /// that yet: it is when its journal has a next entry that is not its own.
    ///
    /// # Errors
    /// As [`Runs::begin`]; `Corrupt` as [`RunHead::check_plan`].
    pub async fn resume<P: Serialize + Clone>(&self, head: &RunHead<P>, by: &str) -> Result<(RunHead<P>, RunLog)> {
        head.check_plan()?;
        let (resumes, started, by) = (Some(head.epoch), clock::now(), by.to_owned());
        self.take(RunHead { resumes, started, by, ..head.clone() }).await
    }

    /// Takes the next epoch by creating object 0.
    async fn take<P: Serialize>(&self, mut head: RunHead<P>) -> Result<(RunHead<P>, RunLog)> {
        head.epoch = self.last_taken(&head.installation).await?.next();
        loop {
            let bytes = to_bytes(&head)?;
            // `ensure` and not `create`: with a lost answer, "exists with the same bytes" means that this run won.
            match self.store.ensure(&layout::run_entry(&head.installation, head.epoch, 0), &bytes).await {
                Ok(()) => break,
                Err(e) if e.kind() == Kind::Conflict => head.epoch = head.epoch.next(),
                Err(e) => return Err(e.context("take the next epoch")),
            }
        }
        let log = RunLog {
            store: self.store.clone(),
            installation: head.installation.clone(),
            run: head.run,
            epoch: head.epoch,
            next: 1,
            unsure: None,
            patience: Duration::ZERO,
        };
        Ok((head, log))
    }

    /// Reads a run.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Corrupt` when an object cannot be read or is missing below a later one.
    pub async fn read<P: DeserializeOwned, E: DeserializeOwned>(
        &self,
        installation: &Installation,
        epoch: Epoch,
    ) -> Result<StoredRun<P, E>> {
        let folder = layout::run(installation, epoch);
        // Listed first: entries are written in order, so whatever is below a listed one must be there.
        let names = self.store.names(&folder).await?;
        let last = last_entry(&names);
        let key = layout::run_entry(installation, epoch, 0);
        let head: RunHead<P> = match self.parse(&key).await {
            Err(e) if e.kind() == Kind::NotFound && last > 0 => return Err(hole(&key)),
            head => head.with_context(|| format!("read run {epoch} of {installation}"))?,
        };
        let mut events = Vec::new();
        for n in 1..=last {
            let key = layout::run_entry(installation, epoch, n);
            match self.parse(&key).await {
                // Not `NotFound`, which means that there is no such run: this one may be an unfinished restore.
                Err(e) if e.kind() == Kind::NotFound => return Err(hole(&key)),
                event => events.push(event?),
            }
        }
        let cancel_asked = names.iter().any(|n| n == "cancel");
        Ok(StoredRun { head, events, cancel_asked })
    }

    /// The log of a run that was read, to append to it.
    pub fn continue_log<P, E>(&self, run: &StoredRun<P, E>) -> RunLog {
        RunLog {
            store: self.store.clone(),
            installation: run.head.installation.clone(),
            run: run.head.run,
            epoch: run.head.epoch,
            next: u32::try_from(run.events.len()).unwrap_or(u32::MAX - 1) + 1,
            unsure: None,
            patience: Duration::ZERO,
        }
    }

    /// Asks a run to stop.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn ask_to_cancel(&self, installation: &Installation, epoch: Epoch) -> Result<()> {
        self.store.ensure(&layout::run_cancel(installation, epoch), &Bytes::from_static(b"{}\n")).await
    }

    async fn parse<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let bytes = self.store.read(key).await?;
        check_format_up_to(TWO_PLANS, &bytes, key)?;
        serde_json::from_slice(&bytes).or_kind(Kind::Corrupt, format!("{key} cannot be read"))
    }
}

impl RunLog {
    /// One that waits so long for a store that cannot be reached, beyond the store's own tries.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The run's number.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The run's id.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Appends an event and waits until it is durable. After a failure that may pass it can be called again: the entry that failed is
    /// then stored first, as it was.
    ///
    /// # Errors
    /// `Conflict` when somebody else wrote to this run: it was ended, and nothing more may be done in its name.
    pub async fn append<E: Serialize>(&mut self, event: &E) -> Result<()> {
        self.settle().await?;
        let entry = RunEvent { format: FORMAT, n: self.next, at: clock::now(), event };
        self.unsure = Some(to_bytes(&entry)?);
        self.settle().await
    }

    /// Stores the entry that is not known to be stored. Kept until it is, also when this future is dropped half way.
    async fn settle(&mut self) -> Result<()> {
        let Some(bytes) = &self.unsure else { return Ok(()) };
        let key = layout::run_entry(&self.installation, self.epoch, self.next);
        let began = tokio::time::Instant::now();
        let stored = loop {
            match self.store.ensure(&key, bytes).await {
                Err(e) if e.kind().retry() && began.elapsed() < self.patience => {
                    tracing::warn!(
                        "the run's journal cannot be written now, so nothing more is begun; trying again: {}",
                        e.chain()
                    );
                    tokio::time::sleep(AGAIN).await;
                }
                done => break done,
            }
        };
        stored.map_err(|e| match e.kind() {
            Kind::Conflict => Error::caused(
                Kind::Conflict,
                format!(
                    "run {}/{} was ended or taken over by another coordinator; this one stops",
                    self.installation, self.epoch
                ),
                e,
            ),
            _ => e.context("write to the run's journal"),
        })?;
        self.unsure = None;
        self.next += 1;
        Ok(())
    }

    /// Whether somebody asked this run to stop.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn cancel_asked(&self) -> Result<bool> {
        Ok(self.store.find(&layout::run_cancel(&self.installation, self.epoch)).await?.is_some())
    }
}

/// The highest number among a run's objects.
fn last_entry(names: &[String]) -> u32 {
    names.iter().filter_map(|n| n.strip_suffix(".json")?.parse().ok()).max().unwrap_or(0)
}

fn hole(key: &str) -> Error {
    Error::new(
        Kind::Corrupt,
        format!(
            "{key} is missing, but later entries of the same run are there: nobody can tell how far that run went, so nothing is begun. Bring \
             the object back from a copy or an older version of the repository"
        ),
    )
}

fn to_bytes<T: Serialize>(value: &T) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec_pretty(value).or_kind(Kind::Internal, "write an entry of the journal")?;
    bytes.push(b'\n');
    Ok(Bytes::from(bytes))
}
