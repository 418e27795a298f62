//! A mounted volume, for example system-storage.
//!
//! A dump is one tar archive, `files.tar`, that any tar can read, made in one pass while applications go on; what changed
//! while it was read is told. A load unpacks beside the live files and swaps by renames, so that nothing is touched before
//! the whole archive was unpacked and counted; then the old files are deleted, so it cannot be undone.
//!
//! Stored are folders, files with their holes, symlinks as they are, hard links, modes, times to the nanosecond and owner
//! numbers. Not stored are sockets, FIFOs and devices (told), extended attributes and ACLs. At the top, `lost+found`,
//! `.snapshot`, other mounts and our own `.keepsake-*` are neither dumped nor touched by a load.
//!
//! The archive format is written and read by code of our own: it must keep any bytes in names, times before 1970 and holes
//! in a form that GNU tar reads, and refuse hostile archives in bounded memory before anything is written.

mod dump;
mod extract;
mod load;
mod mounts;
mod pipe;
mod remove;
mod sparse;
mod staging;
mod swap;
mod tree;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::format::tar::shown;
use keepsake_core::id::{ArtifactName, RunKey};
use keepsake_core::record::{DumpReport, Facts};
use rustix::fs::Access;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::in_place::{CANNOT_BE_UNDONE, InPlace};
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
    fn open(self, scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        if !self.files_root.is_absolute() || self.files_root.parent().is_none() {
            let text = format!(
                "--files-root {}: give the absolute path of the folder where the volume is mounted",
                self.files_root.display()
            );
            return Err(Error::new(Kind::Invalid, text));
        }
        let state = Arc::new(InPlace::new(&scratch));
        Ok(Arc::new(Files { settings: self, state, writing: Arc::new(Mutex::new(())) }))
    }
}

/// The engine.
#[derive(Debug)]
struct Files {
    settings: Settings,
    state: Arc<InPlace>,
    /// Held by whatever may write to the volume, to its very end, even when nobody waits for it any more.
    writing: Arc<Mutex<()>>,
}

#[async_trait]
impl Engine for Files {
    async fn describe(&self) -> Result<Description> {
        let path = self.settings.files_root.clone();
        // The folder of a load that is going on is no leftover.
        let loading = self.writing.try_lock().is_err();
        blocking(move || Ok(describe(&path, loading))).await
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        Err(Error::new(Kind::Unsupported, NO_HOLD))
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        Err(Error::new(Kind::Unsupported, NO_HOLD))
    }

    async fn dump(&self, _held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let root = self.settings.files_root.clone();
        let left = blocking(move || staging::leftover_problems(&tree::Root::open(&root)?)).await?;
        if !left.is_empty() {
            // The only copy of some files is in there, and no dump has it.
            return Err(Error::new(Kind::Conflict, left.join("; ")));
        }
        cx.phase("dumping", 0);
        let mut artifact = cx.unless_cancelled(out.artifact(&artifact_name()?)).await?;
        // The thread only reads; it ends at its next step when this future is dropped or the token is cancelled.
        let stop = cx.cancel.child_token();
        let _stops_with_us = stop.clone().drop_guard();
        let (outlet, mut chunks) = pipe::outlet(stop);
        let root = self.settings.files_root.clone();
        let walk = tokio::task::spawn_blocking(move || dump::dump(&root, outlet));
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
        let writing = self.writing(cx).await?;
        let artifacts = from.artifacts();
        let length = match artifacts.as_slice() {
            [(name, length)] if name.as_str() == ARTIFACT => *length,
            _ => return Err(Error::new(Kind::Corrupt, format!("a dump of files is one artifact, {ARTIFACT}"))),
        };
        self.state.begin(key, from.clone());
        cx.phase("checking", length);
        let root = self.settings.files_root.clone();
        let source = from.clone();
        let (tally, bytes) = feed(from.as_ref(), cx, move |inlet, _stop| {
            let _until_the_end = writing;
            load::check(&root, inlet, source.recorded())
        })
        .await?;
        self.state.staged(key);
        Ok(StageReport { bytes, counts: tally.counts(), warnings: Vec::new() })
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        Ok(self.state.state(key))
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let writing = self.writing(cx).await?;
        let Some(source) = self.state.to_commit(key)? else {
            let path = self.settings.files_root.clone();
            return blocking(move || count(&path)).await;
        };
        cx.phase("loading", source.artifacts().iter().map(|(_, length)| length).sum());
        let (root, owner) = (self.settings.files_root.clone(), self.settings.files_preserve_owner);
        let (key, state, kept) = (key.clone(), self.state.clone(), source.clone());
        // Cancelled or dropped before the first rename, the thread removes what it has unpacked; after it, it goes on to the
        // end and says so in the state.
        let (report, _) = feed(source.as_ref(), cx, move |inlet, stop| {
            let _until_the_end = writing;
            load::Commit { root, key, owner, source: kept, state, stop }.run(inlet)
        })
        .await?;
        Ok(report)
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let _writing = self.writing(cx).await?;
        self.state.rollback(key)
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let _writing = self.writing(cx).await?;
        self.state.finalize(key)
    }
}

impl Files {
    async fn writing(&self, cx: &Context) -> Result<OwnedMutexGuard<()>> {
        cx.unless_cancelled(async { Ok(self.writing.clone().lock_owned().await) }).await
    }
}

/// Runs blocking work on the bytes of the artifact; returns its result and how many bytes it was given.
async fn feed<T: Send + 'static>(
    from: &dyn Source,
    cx: &Context,
    work: impl FnOnce(pipe::Inlet, CancellationToken) -> Result<T> + Send + 'static,
) -> Result<(T, u64)> {
    let stop = cx.cancel.child_token();
    let _stops_with_us = stop.clone().drop_guard();
    let (sender, inlet) = pipe::inlet(stop.clone());
    let worker = tokio::task::spawn_blocking(move || work(inlet, stop));
    let mut bytes = 0_u64;
    let fed = cx
        .unless_cancelled(async {
            let mut reader = from.open(&artifact_name()?).await?;
            while let Some(chunk) = reader.read().await? {
                let n = u64::try_from(chunk.len()).unwrap_or(0);
                if sender.send(Some(chunk)).await.is_err() {
                    // The worker has ended; its result says why.
                    return Ok(());
                }
                bytes = bytes.saturating_add(n);
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
    Ok((done?, bytes))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.or_kind(Kind::Internal, "a thread broke off")?
}

fn artifact_name() -> Result<ArtifactName> {
    ArtifactName::new(ARTIFACT)
}

/// Counts the live files.
fn count(path: &std::path::Path) -> Result<CommitReport> {
    let mut counter = walk::Counter::default();
    walk::walk_root(&tree::Root::open(path)?, &mut counter)?;
    Ok(CommitReport { counts: counter.tally.counts(), warnings: Vec::new() })
}

fn describe(path: &std::path::Path, loading: bool) -> Description {
    let mut description = Description {
        server: "files".to_owned(),
        tools: Vec::new(),
        size: 0,
        position: None,
        facts: Facts::new(),
        hold: Err(NO_HOLD.to_owned()),
        undo: Err(CANNOT_BE_UNDONE.to_owned()),
        problems: Vec::new(),
        staging_free: None,
        loads: Vec::new(),
    };
    let root = match tree::Root::open(path) {
        Ok(root) => root,
        Err(e) => {
            description.problems.push(e.chain());
            return description;
        }
    };
    description.facts.insert("filesystem".to_owned(), root.mounts.filesystem.clone());
    match rustix::fs::fstatvfs(&root.dir) {
        Ok(stat) => {
            let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
            description.facts.insert("bytes-used".to_owned(), used.to_string());
            description.facts.insert("entries".to_owned(), stat.f_files.saturating_sub(stat.f_ffree).to_string());
            // On a filesystem that is used for other things too, this would say nothing.
            description.size = if root.mounts.is_mount { used } else { 0 };
        }
        Err(e) => description.problems.push(tree::failed("ask for the space of", b"", e).chain()),
    }
    for (access, what, hinders) in [
        (Access::READ_OK, "read", "dumped"),
        (Access::EXEC_OK, "entered", "dumped"),
        (Access::WRITE_OK, "written to", "loaded"),
    ] {
        if rustix::fs::accessat(&root.dir, c".", access, rustix::fs::AtFlags::EACCESS).is_err() {
            description.problems.push(format!(
                "{} cannot be {what} by the agent's user, so it cannot be {hinders}: check user, group and mount options",
                path.display()
            ));
        }
    }
    if let Some(mount) = root.mounts.deeper() {
        description.problems.push(format!(
            "another filesystem is mounted at {}: it is not dumped, and must be unmounted before a load",
            shown(mount)
        ));
    }
    match staging::leftover_problems(&root) {
        Ok(_) if loading => {}
        Ok(problems) => description.problems.extend(problems),
        Err(e) => description.problems.push(e.chain()),
    }
    description
}
