//! A load is struck between every two changes that it makes to the volume: by an agent that is killed there, and by a system that refuses the change.
//!
//! Whatever was struck, a new agent brings it to its end in either direction: all of the old files or all of the new ones, and nothing left over.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use keepsake_agent::engine::files::{Settings, Steps};
use keepsake_agent::engine::{Engine, Staged};
use keepsake_core::error::Result;
use keepsake_core::id::RunKey;
use keepsake_tests::child::is_root;
use keepsake_tests::manifest::Manifest;
use keepsake_tests::memory::MemorySource;
use keepsake_tests::own_mounts::{may_mount, mount, unmount};

use super::load::{inodes, without_ours};
use super::unprivileged::done_as_nobody;
use super::{Volume, context, run, write};

/// An engine on the volume that asks before every change.
pub(super) fn engine_asking(
    volume: &Volume,
    ask: impl Fn(&'static str) -> std::io::Result<()> + Send + Sync + 'static,
) -> Arc<dyn Engine> {
    let settings = Settings { files_root: volume.root.clone(), files_preserve_owner: is_root() };
    settings.open_asking(Steps::asking(ask)).expect("open the engine")
}

/// Ends the thread that changes the volume, there and then.
pub(super) fn kill() -> std::io::Result<()> {
    std::panic::resume_unwind(Box::new("killed on purpose"))
}

fn refuse() -> std::io::Result<()> {
    Err(std::io::Error::from_raw_os_error(5))
}

/// Counts steps, and strikes at one of them.
#[derive(Debug, Default, Clone)]
pub(super) struct Counted {
    count: Arc<AtomicU64>,
    struck: Arc<AtomicU64>,
}

impl Counted {
    pub(super) fn at(
        &self,
        step: u64,
        blow: fn() -> std::io::Result<()>,
    ) -> impl Fn(&'static str) -> std::io::Result<()> + Send + Sync + 'static {
        let counted = self.clone();
        move |_| {
            if counted.count.fetch_add(1, Ordering::SeqCst) != step {
                return Ok(());
            }
            counted.struck.store(1, Ordering::SeqCst);
            blow()
        }
    }

    pub(super) fn struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst) == 1
    }
}

/// What is done to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Stage,
    Commit,
    Rollback,
    Finalize,
}

/// A volume where a load meets every combination, and the load's source.
struct Arena {
    volume: Volume,
    source: MemorySource,
    old: Manifest,
    old_numbers: std::collections::BTreeMap<std::path::PathBuf, u64>,
    new: Manifest,
    /// What is said of the root is not compared: without leave to set it, a load goes on.
    any_root: bool,
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set a mode");
}

/// Makes what is live; as another one, what the set has.
fn fill(root: &Path, other: bool) {
    let word = if other { "from the set" } else { "live" };
    let odd = |name: &[u8]| root.join(std::ffi::OsStr::from_bytes(name));
    write(&root.join("both/file"), word);
    write(&odd(b"both-\xff\n"), word);
    symlink(word, root.join("both-link")).unwrap();
    write(&root.join("read-only/file"), word);
    set_mode(&root.join("read-only"), if other { 0o555 } else { 0o500 });
    if other {
        write(&root.join("only-set/below/file"), word);
        write(&root.join("kind"), word);
        write(&odd(b"a-\xe9"), word);
    } else {
        write(&root.join("only-live/below/file"), word);
        write(&root.join("kind/file"), word);
        write(&odd(b"z-\xe9"), word);
        write(&root.join("lost+found/x"), "of the filesystem");
        write(&root.join("only-live-read-only/file"), word);
        set_mode(&root.join("only-live-read-only"), 0o555);
    }
    set_mode(root, if other { 0o775 } else { 0o2755 });
}

impl Arena {
    async fn new() -> Self {
        let from = Volume::new();
        fill(&from.root, true);
        let (_, source) = from.dump().await;
        let new = from.manifest();
        let volume = Volume::new();
        fill(&volume.root, false);
        let (old, old_numbers) = (volume.manifest(), inodes(&volume.root));
        Self { volume, source, old, old_numbers, new, any_root: false }
    }

    /// Does it with this engine; what must come before was done by another.
    async fn act(&self, engine: &Arc<dyn Engine>, key: &RunKey, deed: Deed) -> Result<()> {
        match deed {
            Deed::Stage => engine.stage(key, Arc::new(self.source.clone()), &context()).await.map(drop),
            Deed::Commit => engine.commit(key, &context()).await.map(drop),
            Deed::Rollback => engine.rollback(key, &context()).await,
            Deed::Finalize => engine.finalize(key, &context()).await,
        }
    }

    async fn lead_to(&self, key: &RunKey, deed: Deed) {
        let before: &[Deed] = match deed {
            Deed::Stage => &[],
            Deed::Commit => &[Deed::Stage],
            Deed::Rollback | Deed::Finalize => &[Deed::Stage, Deed::Commit],
        };
        for deed in before {
            self.act(&self.volume.engine, key, *deed).await.unwrap_or_else(|e| panic!("{deed:?}: {}", e.chain()));
        }
    }

    fn forgive(&self, now: &mut Manifest, wanted: &Manifest, root_time: bool) {
        let wanted = &wanted.0[&Vec::new()];
        let root = now.0.get_mut(&Vec::new()).expect("the root");
        if self.any_root {
            root.clone_from(wanted);
        } else if !root_time {
            root.mtime = wanted.mtime;
        }
    }

    fn is_old(&self, root_time: bool, what: &str) {
        let mut now = self.volume.manifest();
        self.forgive(&mut now, &self.old, root_time);
        now.assert_is(&self.old, true, what);
        assert_eq!(inodes(&self.volume.root), self.old_numbers, "{what}");
    }

    fn is_new(&self, root_time: bool, what: &str) {
        let mut now = without_ours(&self.volume);
        now.0.retain(|path, _| !path.starts_with(b"lost+found"));
        self.forgive(&mut now, &self.new, root_time);
        now.assert_is(&self.new, true, what);
        assert!(self.volume.root.join("lost+found/x").try_exists().unwrap(), "{what}");
    }

    /// A new agent goes back: everything is as it was, unless the old files are being dropped.
    async fn go_back(&self, key: &RunKey, deed: Deed, what: &str) {
        let engine = super::open(&self.volume.root, is_root(), self.volume.scratch.path());
        let (state, finalizing) = (engine.staged(key).await.unwrap(), self.is_finalizing(key));
        match engine.rollback(key, &context()).await {
            // Nothing but an empty folder was left, or not even that.
            Ok(()) if deed == Deed::Finalize && matches!(state, Staged::Absent | Staged::Partial) => {
                self.is_new(false, what);
            }
            Ok(()) => {
                assert!(!finalizing, "{what}: what is gone was called undone");
                self.is_old(false, what);
            }
            Err(e) => {
                assert!(finalizing, "{what}: {}", e.chain());
                assert_eq!(e.kind(), keepsake_core::Kind::Unsupported, "{what}: {}", e.chain());
                engine.finalize(key, &context()).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
                self.is_new(false, what);
            }
        }
        self.nothing_is_left(&engine, key, what).await;
    }

    /// A new agent goes on: everything is as in the set.
    async fn go_on(&self, key: &RunKey, deed: Deed, what: &str) {
        let engine = super::open(&self.volume.root, is_root(), self.volume.scratch.path());
        let state = engine.staged(key).await.unwrap();
        if deed != Deed::Finalize || state != Staged::Absent {
            if matches!(state, Staged::Absent | Staged::Partial) {
                self.act(&engine, key, Deed::Stage).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            }
            self.act(&engine, key, Deed::Commit).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            self.is_new(true, what);
        }
        self.act(&engine, key, Deed::Finalize).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        self.is_new(deed != Deed::Finalize, what);
        self.nothing_is_left(&engine, key, what).await;
    }

    async fn nothing_is_left(&self, engine: &Arc<dyn Engine>, key: &RunKey, what: &str) {
        assert_eq!(self.volume.leftovers(), Vec::<String>::new(), "{what}");
        assert_eq!(engine.staged(key).await.unwrap(), Staged::Absent, "{what}");
        let told = engine.describe().await.unwrap();
        assert_eq!((told.loads, told.problems), (Vec::new(), Vec::new()), "{what}");
    }

    fn is_finalizing(&self, key: &RunKey) -> bool {
        self.volume.root.join(format!(".keepsake-{}/finalizing.json", key.run)).try_exists().unwrap()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.volume.root);
    }
}

/// Strikes this deed at every step; returns how many there are.
async fn strike_all(deed: Deed, blow: fn() -> std::io::Result<()>, word: &str) -> u64 {
    for at in 0.. {
        for forward in [true, false] {
            let mut arena = Arena::new().await;
            arena.any_root = word == "refused";
            let key = run();
            arena.lead_to(&key, deed).await;
            let counted = Counted::default();
            let engine = engine_asking(&arena.volume, counted.at(at, blow));
            let done = arena.act(&engine, &key, deed).await;
            drop(engine);
            if !counted.struck() {
                done.unwrap();
                return at;
            }
            let what = format!("{deed:?} {word} at step {at}, then {}", if forward { "on" } else { "back" });
            if forward { arena.go_on(&key, deed, &what).await } else { arena.go_back(&key, deed, &what).await }
        }
    }
    unreachable!("steps end")
}

/// Runs a test on a filesystem in memory where one may mount, because every step of a load waits for the disk; else where temporary files are. As
/// root, and then as nobody, who must make a folder writable to move it.
async fn in_memory(test: &str, work: impl AsyncFnOnce()) {
    if !is_root() {
        return work().await;
    }
    if !may_mount(test) {
        return;
    }
    let at = std::env::temp_dir();
    mount(&at, "256m");
    set_mode(&at, 0o1777);
    work().await;
    assert!(done_as_nobody(test, None));
    unmount(&at);
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_step_can_be_followed_by_another() {
    in_memory("files::killed::an_agent_that_is_killed_at_any_step_can_be_followed_by_another", async || {
        for (deed, least) in [(Deed::Stage, 20), (Deed::Commit, 20), (Deed::Rollback, 20), (Deed::Finalize, 15)] {
            let steps = strike_all(deed, kill, "killed").await;
            println!("{deed:?}: killed at each of {steps} steps");
            assert!(steps >= least, "{deed:?} has only {steps} steps");
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_that_the_system_refuses_can_be_made_later() {
    in_memory("files::killed::a_change_that_the_system_refuses_can_be_made_later", async || {
        for deed in [Deed::Stage, Deed::Commit, Deed::Rollback, Deed::Finalize] {
            let steps = strike_all(deed, refuse, "refused").await;
            println!("{deed:?}: refused at each of {steps} steps");
        }
    })
    .await;
}

/// A commit or rollback that is killed, and then whatever is to bring it to its end is killed, too.
#[tokio::test]
async fn agents_that_are_killed_one_after_the_other() {
    in_memory("files::killed::agents_that_are_killed_one_after_the_other", async || {
        for (first, second) in
            [(Deed::Commit, Deed::Rollback), (Deed::Commit, Deed::Commit), (Deed::Rollback, Deed::Commit)]
        {
            let pairs = strike_twice(first, second, keepsake_tests::kills::stride(5)).await;
            println!("{first:?}, then {second:?}: {pairs} pairs of steps");
            assert!(pairs > 20, "only {pairs} pairs");
        }
    })
    .await;
}

/// Strikes one deed at every step, and the one after it at every `stride`-th; returns how many pairs there were.
async fn strike_twice(first: Deed, second: Deed, stride: usize) -> usize {
    let mut pairs = 0;
    for one in 0.. {
        for two in (one % stride..).step_by(stride) {
            let arena = Arena::new().await;
            let key = run();
            arena.lead_to(&key, first).await;
            let (counted, again) = (Counted::default(), Counted::default());
            let engine = engine_asking(&arena.volume, counted.at(one as u64, kill));
            let _killed = arena.act(&engine, &key, first).await;
            if !counted.struck() {
                return pairs;
            }
            // A rollback that was killed near its end has left nothing to commit.
            let engine = engine_asking(&arena.volume, again.at(two as u64, kill));
            let _killed = arena.act(&engine, &key, second).await;
            if !again.struck() {
                break;
            }
            pairs += 1;
            let what = format!("{first:?} killed at step {one}, {second:?} killed at step {two}");
            if pairs % 2 == 0 {
                arena.go_on(&key, Deed::Commit, &what).await;
            } else {
                arena.go_back(&key, Deed::Commit, &what).await;
            }
        }
    }
    unreachable!("steps end")
}

/// What a crash of the machine may lose: no state is written down before all that it speaks of is on disk.
#[tokio::test]
async fn states_are_written_down_after_what_they_speak_of_is_on_disk() {
    let arena = Arena::new().await;
    let key = run();
    let said = Arc::new(Mutex::new(Vec::new()));
    let engine = engine_asking(&arena.volume, {
        let said = said.clone();
        move |doing| {
            said.lock().unwrap().push(doing);
            Ok(())
        }
    });
    for deed in [Deed::Stage, Deed::Commit, Deed::Rollback, Deed::Stage, Deed::Commit, Deed::Finalize] {
        arena.act(&engine, &key, deed).await.unwrap_or_else(|e| panic!("{deed:?}: {}", e.chain()));
    }
    let said = said.lock().unwrap();
    let mut dirty = None;
    let mut renames = 0;
    for (at, doing) in said.iter().enumerate() {
        match *doing {
            "move" | "unpack an entry" | "move a folder" => {
                // The state before it was put on disk, too.
                let before = said[..at].iter().rposition(|s| *s == "rename the facts");
                let synced = said[..at].iter().rposition(|s| *s == "sync the folder of the load");
                assert!(synced > before, "step {at}, {doing}: the state is not on disk: {said:?}");
                dirty = Some(*doing);
            }
            "sync the volume" | "sync what was unpacked" => dirty = None,
            "rename the facts" => {
                renames += 1;
                assert_eq!(dirty, None, "step {at}: a state speaks of what is not on disk: {said:?}");
            }
            _ => {}
        }
    }
    assert!(renames >= 12, "{said:?}");
}
