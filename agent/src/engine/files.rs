//! A mounted volume, for example system-storage.
//!
//! A dump is one tar archive, `files.tar`, that any tar can read, made in one pass while applications go on; what changed
//! while it was read is told. A load unpacks beside the live files, into `.keepsake-<run>/` below the root, where all of it is
//! counted; a commit is one rename out and one in per name at the top, a rollback the same backwards. What was live before is
//! kept until the load is finalized. A load in place, for want of room, removes it first, and cannot be undone.
//!
//! Stored are folders, files with their holes, symlinks as they are, hard links, modes, times to the nanosecond and owner
//! numbers. Not stored are sockets, FIFOs and devices (told), extended attributes and ACLs. At the top, `lost+found`,
//! `.snapshot`, other mounts and our own `.keepsake-*` are neither dumped nor touched by a load.
//!
//! The archive format is written and read by code of our own: it must keep any bytes in names, times before 1970 and holes
//! in a form that GNU tar reads, and refuse hostile archives in bounded memory before anything is written.

mod describe;
mod dump;
mod extract;
mod facts;
mod load;
mod loads;
mod mounts;
mod over;
mod pipe;
mod remove;
mod sparse;
mod staging;
mod steps;
mod swap;
mod tree;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::{ArtifactName, RunKey};
use keepsake_core::record::DumpReport;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use self::load::Stage;
use self::over::Checked;
use self::staging::Folder;
pub use self::steps::Steps;
use self::tree::Root;
use super::{CommitReport, Context, Description, Engine, Hold, Prepared, Sink, Source, StageReport, Staged};

/// What a dump consists of.
const ARTIFACT: &str = "files.tar";
/// Why writes cannot be held.
const NO_HOLD: &str = "files cannot be held: they are read after the databases' cut";

/// The engine's flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The folder where the volume is mounted, for example /opt/system/public/system.
    #[arg(long, env = "KEEPSAKE_FILES_ROOT", value_name = "FOLDER")]
    pub files_root: PathBuf,
    /// Give loaded files the owner numbers that were recorded; needs root. Without it they belong to the agent's user.
    #[arg(long, env = "KEEPSAKE_FILES_PRESERVE_OWNER")]
    pub files_preserve_owner: bool,
}

impl super::registry::Settings for Settings {
    fn open(self, _scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        self.open_asking(Steps::default())
    }
}

impl Settings {
    /// As `open`, asking these before every change to the volume.
    ///
    /// # Errors
    /// `Invalid` for a root that is none.
    pub fn open_asking(self, steps: Steps) -> Result<Arc<dyn Engine>> {
        if !self.files_root.is_absolute() || self.files_root.parent().is_none() {
            let text = format!(
                "--files-root {}: give the absolute path of the folder where the volume is mounted",
                self.files_root.display()
            );
            return Err(Error::new(Kind::Invalid, text));
        }
        Ok(Arc::new(Files { settings: self, steps, checked: Checked::default(), writing: Arc::new(Mutex::new(())) }))
    }
}

/// The engine.
#[derive(Debug)]
struct Files {
    settings: Settings,
    steps: Steps,
    /// Of a load in place.
    checked: Checked,
    /// Held by whatever may write to the volume, to its very end, even when nobody waits for it any more.
    writing: Arc<Mutex<()>>,
}

#[async_trait]
impl Engine for Files {
    async fn describe(&self) -> Result<Description> {
        let path = self.settings.files_root.clone();
        // A load that is going on was not interrupted.
        let loading = self.writing.try_lock().is_err();
        blocking(move || Ok(describe::describe(&path, loading))).await
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        Err(Error::new(Kind::Unsupported, NO_HOLD))
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        Err(Error::new(Kind::Unsupported, NO_HOLD))
    }

    async fn dump(&self, _held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let root = self.settings.files_root.clone();
        let torn = blocking(move || loads::torn(&Root::open(&root, &Steps::default())?)).await?;
        if !torn.is_empty() {
            return Err(Error::new(Kind::Conflict, torn.join("; ")));
        }
        cx.phase("dumping", 0);
        let mut artifact = cx.unless_cancelled(out.artifact(&artifact_name()?)).await?;
        // The thread only reads; it ends at its next step when this future is dropped or the token is cancelled.
        let stop = cx.cancel.child_token();
        let _stops_with_us = stop.clone().drop_guard();
        let (outlet, mut chunks) = pipe::outlet(stop);
        let root = self.settings.files_root.clone();
        let paths = cx.paths.clone();
        let walk = tokio::task::spawn_blocking(move || dump::dump(&root, outlet, paths));
        let written = cx
            .unless_cancelled(async {
                let mut written = 0_u64;
                while let Some(chunk) = chunks.recv().await {
                    let n = u64::try_from(chunk.len()).unwrap_or(0);
                    artifact.write(chunk).await?;
                    written = written.saturating_add(n);
                    cx.advance(n);
                }
                Ok(written)
            })
            .await?;
        let dumped = walk.await.or_kind(Kind::Internal, "the thread that reads the files broke off")??;
        let stored = cx.unless_cancelled(artifact.finish()).await?;
        if stored != dumped.length || written != dumped.length {
            let text = format!("{ARTIFACT} has {} bytes, and {stored} were stored", dumped.length);
            return Err(Error::new(Kind::Internal, text));
        }
        Ok(DumpReport {
            server: "files".to_owned(),
            counts: dumped.tally.counts(),
            warnings: dumped.warnings,
            ..DumpReport::default()
        })
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        super::no_queues(from.as_ref())?;
        let (_, length) = super::only_artifact(from.as_ref(), ARTIFACT)?;
        let writing = self.writing(cx).await?;
        self.checked.forget();
        let (run, owner, source) = (key.run, self.settings.files_preserve_owner, from.clone());
        let work = move |root: &Root, stop: &CancellationToken, input: Option<pipe::Inlet>| {
            let stage = Stage { root, run, owner, recorded: source.recorded(), length, stop };
            match input {
                None if source.in_place() => Ok(None),
                None => stage.ready(),
                Some(input) if source.in_place() => {
                    let counts = over::check(&stage, input)?.counts();
                    Ok(Some(StageReport { bytes: length, counts, warnings: Vec::new() }))
                }
                Some(input) => Ok(Some(load::report(length, &stage.run(input)?))),
            }
        };
        let (path, steps) = (self.settings.files_root.clone(), self.steps.clone());
        let (first, stop) = (work.clone(), cx.cancel.clone());
        // Wherever these are dropped, the volume's lock goes before the turn: the next one finds it free.
        let (root, writing, ready) = blocking(move || {
            let root = Root::open(&path, &steps)?;
            root.lock()?;
            let ready = first(&root, &stop, None)?;
            Ok((root, writing, ready))
        })
        .await?;
        let (writing, root) = (writing, root);
        if let Some(report) = ready {
            return Ok(report);
        }
        cx.phase(if from.in_place() { "checking" } else { "unpacking" }, length);
        let report = feed(from.as_ref(), cx, move |inlet, stop| {
            let _until_the_end = writing;
            let root = root;
            work(&root, &stop, Some(inlet))
        })
        .await?;
        if from.in_place() {
            self.checked.set(key.run, from);
        }
        report.ok_or_else(|| Error::new(Kind::Internal, "the files were staged and nothing was counted"))
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        let (path, run) = (self.settings.files_root.clone(), key.run);
        let found = blocking(move || Folder::find(&Root::open(&path, &Steps::default())?, &run)).await?;
        let otherwise = if self.checked.get(&key.run).is_some() { Staged::Staged } else { Staged::Absent };
        Ok(found.map_or(otherwise, |folder| folder.staged()))
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let (run, owner) = (key.run, self.settings.files_preserve_owner);
        let Some(source) = self.checked.get(&run) else {
            cx.phase("swapping", 0);
            let stop = cx.cancel.child_token();
            // Dropped before the first rename, it changes nothing; after it, it goes on to the end.
            let _stops_with_us = stop.clone().drop_guard();
            return self.change(cx, move |root| load::commit(root, &run, owner, &stop)).await;
        };
        let writing = self.writing(cx).await?;
        let (_, length) = super::only_artifact(source.as_ref(), ARTIFACT)?;
        cx.phase("loading", length);
        let (path, steps, kept) = (self.settings.files_root.clone(), self.steps.clone(), source.clone());
        let done = feed(source.as_ref(), cx, move |inlet, stop| {
            let _until_the_end = writing;
            let root = Root::open(&path, &steps)?;
            root.lock()?;
            over::commit(&Stage { root: &root, run, owner, recorded: kept.recorded(), length, stop: &stop }, inlet)
        })
        .await?;
        self.checked.forget();
        Ok(done)
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let (run, owner) = (key.run, self.settings.files_preserve_owner);
        self.change(cx, move |root| load::rollback(root, &run, owner)).await?;
        if self.checked.get(&run).is_some() {
            self.checked.forget();
        }
        Ok(())
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let run = key.run;
        self.change(cx, move |root| load::finalize(root, &run)).await
    }
}

impl Files {
    async fn writing(&self, cx: &Context) -> Result<OwnedMutexGuard<()>> {
        cx.unless_cancelled(async { Ok(self.writing.clone().lock_owned().await) }).await
    }

    /// Changes the volume, in a thread that goes on to its end even when nobody waits for it any more.
    async fn change<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let writing = self.writing(cx).await?;
        let (path, steps) = (self.settings.files_root.clone(), self.steps.clone());
        blocking(move || {
            let _until_the_end = writing;
            let root = Root::open(&path, &steps)?;
            root.lock()?;
            work(&root)
        })
        .await
    }
}

/// Runs blocking work on the bytes of the artifact.
async fn feed<T: Send + 'static>(
    from: &dyn Source,
    cx: &Context,
    work: impl FnOnce(pipe::Inlet, CancellationToken) -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = cx.cancel.child_token();
    let _stops_with_us = stop.clone().drop_guard();
    let (sender, inlet) = pipe::inlet(stop.clone());
    let worker = tokio::task::spawn_blocking(move || work(inlet, stop));
    let fed = cx
        .unless_cancelled(async {
            let mut reader = from.open(&artifact_name()?).await?;
            while let Some(chunk) = reader.read().await? {
                let n = u64::try_from(chunk.len()).unwrap_or(0);
                if sender.send(Some(chunk)).await.is_err() {
                    // The worker has ended; its result says why.
                    return Ok(());
                }
                cx.advance(n);
            }
            // As above.
            let _ended = sender.send(None).await;
            Ok(())
        })
        .await;
    drop(sender);
    // Waited for in any case: it cleans up behind itself.
    let done = worker.await.or_kind(Kind::Internal, "the thread that loads the files broke off")?;
    fed?;
    done
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.or_kind(Kind::Internal, "a thread broke off")?
}

fn artifact_name() -> Result<ArtifactName> {
    ArtifactName::new(ARTIFACT)
}
