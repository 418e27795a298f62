//! Loads: what is replaced, what is left alone, what comes back, and what happens when they do not reach their end.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::engine::{Context, Staged};
use keepsake_core::error::Kind;
use keepsake_core::id::{Epoch, RunKey};
use keepsake_tests::poll::wait_for;
use tokio_util::sync::CancellationToken;

use super::{Gate, GatedSource, Volume, context, names, run, write};

/// The number of every file's inode, by path, but for what is ours.
pub(super) fn inodes(root: &Path) -> BTreeMap<std::path::PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let node = std::fs::symlink_metadata(&path).unwrap();
        if node.is_dir() {
            let below = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
            pending.extend(below.filter(|p| !p.to_string_lossy().contains("/.keepsake-")));
        }
        found.insert(path, node.ino());
    }
    found
}

#[tokio::test]
async fn a_load_replaces_everything_but_what_is_not_its_own() {
    let volume = Volume::new();
    volume.write("kept/file", "from the set");
    volume.write("changed", "from the set");
    let (_, source) = volume.dump().await;
    volume.write("changed", "later");
    volume.write("extra-file", "later");
    volume.write("extra/folder/file", "later");
    volume.write("kept/extra", "later");
    volume.write("lost+found/#123", "of the filesystem");
    volume.write(".snapshot/hourly/x", "of the filesystem");
    volume.write(".keepsake-dead-1/new/half", "unpacked by an agent that was killed");
    volume.write(".keepsake-dead-2/gone/x", "being deleted by an agent that was killed");

    let key = run();
    let cx = context();
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent);
    volume.engine.stage(&key, Arc::new(source.clone()), &cx).await.unwrap();
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Staged);
    assert_eq!(std::fs::read_to_string(volume.root.join("changed")).unwrap(), "later");
    let first = volume.engine.commit(&key, &cx).await.unwrap();
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Committed);
    let ours = format!(".keepsake-{}", key.run);
    assert_eq!(names(&volume.root), [ours.as_str(), ".snapshot", "changed", "kept", "lost+found"]);
    assert_eq!(names(&volume.root.join("kept")), ["file"]);
    assert_eq!(std::fs::read_to_string(volume.root.join("changed")).unwrap(), "from the set");
    assert!(volume.root.join("lost+found/#123").try_exists().unwrap());

    let again = volume.engine.commit(&key, &cx).await.unwrap();
    assert_eq!(again.counts, first.counts, "a second commit of the same run");
    volume.engine.finalize(&key, &cx).await.unwrap();
    assert_eq!(names(&volume.root), [".snapshot", "changed", "kept", "lost+found"]);
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent);
    let error = volume.engine.commit(&key, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    volume.engine.finalize(&key, &cx).await.expect("nothing is there");
    volume.engine.rollback(&key, &cx).await.expect("nothing is there");

    let old = volume.engine.prepare_hold().await.err().unwrap();
    assert_eq!(old.kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_rollback_brings_back_the_very_files() {
    let from = Volume::new();
    super::round_trip::odd_tree(&from.root);
    let (_, source) = from.dump().await;
    let volume = Volume::new();
    super::round_trip::odd_tree(&volume.root);
    volume.write("plain/file.txt", "live");
    volume.write("only-live/below/file", "live");
    std::fs::remove_dir_all(volume.root.join("links")).unwrap();
    volume.write("links", "a file where the set has a folder");
    let (before, numbers) = (volume.manifest(), inodes(&volume.root));
    for (what, commits) in [("staged", 0), ("committed", 1), ("committed twice", 2)] {
        let key = run();
        let staged = volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap();
        assert_eq!(staged.bytes, source.artifacts[&super::artifact()].len() as u64);
        for _ in 0..commits {
            volume.engine.commit(&key, &context()).await.unwrap();
            from.manifest().assert_is(&without_ours(&volume), true, what);
        }
        volume.engine.rollback(&key, &context()).await.unwrap();
        volume.manifest().assert_is(&before, true, what);
        assert_eq!(inodes(&volume.root), numbers, "{what}");
        assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent);
        volume.engine.rollback(&key, &context()).await.expect("once more");
    }
}

/// What is live, without the folder of a load.
pub(super) fn without_ours(volume: &Volume) -> keepsake_tests::manifest::Manifest {
    let mut all = volume.manifest();
    all.0.retain(|path, _| !path.starts_with(b".keepsake-"));
    all
}

#[tokio::test]
async fn the_root_keeps_the_time_that_others_gave_it() {
    let volume = Volume::new();
    volume.write("file", "x");
    let (_, source) = volume.dump().await;
    let time = || std::fs::metadata(&volume.root).unwrap().modified().unwrap();
    let key = run();
    volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap();
    volume.write("made by an application", "x");
    let after = time();
    volume.engine.rollback(&key, &context()).await.unwrap();
    assert_eq!(time(), after, "rolled back before the commit");

    volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap();
    volume.write("made by another application", "x");
    let after = time();
    volume.engine.commit(&key, &context()).await.unwrap();
    volume.engine.rollback(&key, &context()).await.unwrap();
    assert_eq!(time(), after, "rolled back after the commit");
    assert_eq!(names(&volume.root), ["file", "made by an application", "made by another application"]);

    volume.engine.stage(&key, Arc::new(source), &context()).await.unwrap();
    volume.engine.commit(&key, &context()).await.unwrap();
    volume.write("made by an application", "x");
    let after = time();
    volume.engine.finalize(&key, &context()).await.unwrap();
    assert_eq!(time(), after, "finalized");
    assert_eq!(names(&volume.root), ["file", "made by an application"]);
}

#[tokio::test]
async fn what_lost_its_notes_is_never_deleted() {
    let volume = Volume::new();
    volume.write("file", "x");
    let (_, source) = volume.dump().await;
    for content in ["old/only-copy", "something/else"] {
        volume.write(&format!(".keepsake-dead/{content}"), "x");
        volume.write(".keepsake-dead/new/rest", "x");
        let error = volume.engine.stage(&run(), Arc::new(source.clone()), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.chain().contains("\".keepsake-dead\" in the volume"), "{}", error.chain());
        assert!(volume.root.join(".keepsake-dead").join(content).try_exists().unwrap());
        let problems = volume.engine.describe().await.unwrap().problems;
        assert!(problems[0].contains("Move back what you need"), "{problems:?}");
        std::fs::remove_dir_all(volume.root.join(".keepsake-dead")).unwrap();
    }
    volume.load(source).await;
}

#[tokio::test]
async fn what_is_staged_already_is_checked_and_staged_anew_when_it_is_not_whole() {
    let volume = Volume::new();
    volume.write("folder/file", "from the set");
    let (report, source) = volume.dump().await;
    let key = run();
    let first = volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap();
    let folder = volume.root.join(format!(".keepsake-{}", key.run));
    let number = std::fs::metadata(folder.join("new/folder")).unwrap().ino();
    // The same run with a higher epoch, by an agent that was started since; the repository is not asked.
    let resumed = RunKey { epoch: Epoch(7), ..key.clone() };
    let engine = super::open(&volume.root, keepsake_tests::child::is_root(), volume.scratch.path());
    assert_eq!(engine.staged(&resumed).await.unwrap(), Staged::Staged);
    let unread = keepsake_tests::gate::GatedSource::failing(Arc::new(source.clone()), 0);
    let again = engine.stage(&resumed, Arc::new(unread), &context()).await.unwrap();
    assert_eq!((again.counts, again.bytes), (first.counts, 0));
    assert_eq!(std::fs::metadata(folder.join("new/folder")).unwrap().ino(), number);
    std::fs::remove_file(folder.join("new/folder/file")).unwrap();
    let anew = engine.stage(&resumed, Arc::new(source.clone()), &context()).await.unwrap();
    assert_eq!(anew.counts, report.counts);
    assert!(anew.bytes > 0);
    engine.commit(&resumed, &context()).await.unwrap();
    engine.finalize(&key, &context()).await.unwrap();
    assert_eq!(std::fs::read_to_string(volume.root.join("folder/file")).unwrap(), "from the set");
    assert_eq!(volume.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_commit_beside_somebody_who_writes_is_told_and_can_be_undone() {
    let volume = Volume::new();
    volume.write("file", "from the set");
    let (_, source) = volume.dump().await;
    volume.write("file", "live");
    volume.write("only-live", "live");
    let (before, numbers) = (volume.manifest(), inodes(&volume.root));
    let key = run();
    volume.engine.stage(&key, Arc::new(source), &context()).await.unwrap();
    let root = volume.root.clone();
    let writes = super::killed::engine_asking(&volume, move |doing| {
        if doing == "settle the root" {
            // After the count; what follows is one that comes too early.
            return Ok(());
        }
        if doing == "rename the facts" && !root.join("only-live").try_exists()? {
            std::fs::write(root.join("made meanwhile"), "x")?;
        }
        Ok(())
    });
    let error = writes.commit(&key, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains("something else writes to the volume (files 2 instead of 1"), "{}", error.chain());
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Committing);
    volume.engine.rollback(&key, &context()).await.unwrap();
    volume.manifest().assert_is(&before, true, "rolled back");
    assert_eq!(inodes(&volume.root), numbers);
}

#[tokio::test]
async fn a_name_made_in_the_middle_of_a_swap_is_never_written_over() {
    for back in [false, true] {
        let volume = Volume::new();
        volume.write("file", "from the set");
        let (_, source) = volume.dump().await;
        volume.write("file", "live");
        let key = run();
        volume.engine.stage(&key, Arc::new(source), &context()).await.unwrap();
        let (root, once) = (volume.root.clone(), std::sync::Mutex::new(false));
        let writes = super::killed::engine_asking(&volume, move |_| {
            let mut done = once.lock().unwrap();
            if !*done && !root.join("file").try_exists()? {
                *done = true;
                std::fs::write(root.join("file"), "made meanwhile")?;
            }
            Ok(())
        });
        let error = writes.commit(&key, &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.chain().contains("move \"file\" out of the volume"), "{}", error.chain());
        assert_eq!(std::fs::read_to_string(volume.root.join("file")).unwrap(), "made meanwhile");
        assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Committing);
        std::fs::remove_file(volume.root.join("file")).unwrap();
        if back {
            volume.engine.rollback(&key, &context()).await.unwrap();
        } else {
            volume.engine.commit(&key, &context()).await.unwrap();
            volume.engine.finalize(&key, &context()).await.unwrap();
        }
        let expected = if back { "live" } else { "from the set" };
        assert_eq!(std::fs::read_to_string(volume.root.join("file")).unwrap(), expected);
        assert_eq!(volume.leftovers(), Vec::<String>::new());
    }
}

/// A volume with a set of several megabytes, changed since, and a source that stops in the middle of the stage.
async fn half_way() -> (Volume, Arc<GatedSource>, Arc<Gate>) {
    let volume = Volume::new();
    for n in 0..20 {
        write(&volume.root.join(format!("folder/{n}")), vec![1; 200_000]);
    }
    let (_, inner) = volume.dump().await;
    volume.write("folder/0", "live");
    let gate = Arc::new(Gate::default());
    let source = GatedSource { inner, gate: gate.clone(), in_place: false, stops: 1, opened: 0.into() };
    (volume, Arc::new(source), gate)
}

#[tokio::test]
async fn a_stage_that_is_cancelled_leaves_everything_as_it_was() {
    let (volume, source, gate) = half_way().await;
    let before = volume.manifest();
    let key = run();
    let cancel = CancellationToken::new();
    let (cx, _) = Context::new(cancel.clone());
    let (result, ()) = tokio::join!(volume.engine.stage(&key, source.clone(), &cx), async {
        gate.reached.notified().await;
        assert_eq!(volume.leftovers().len(), 1, "it is unpacking");
        assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Partial);
        let told = volume.engine.describe().await.unwrap();
        assert_eq!((told.loads, told.problems), (vec![(key.run, Staged::Partial)], Vec::new()));
        cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(volume.leftovers(), Vec::<String>::new());
    volume.manifest().assert_is(&before, true, "a cancelled load changed something");
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent);
    // It can be tried again.
    volume.engine.stage(&key, source, &context()).await.unwrap();
    let (cx, _) = Context::new(cancel);
    assert_eq!(volume.engine.commit(&key, &cx).await.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Staged);
    volume.engine.commit(&key, &context()).await.unwrap();
    assert_eq!(std::fs::read(volume.root.join("folder/0")).unwrap().len(), 200_000);
}

#[tokio::test]
async fn a_stage_that_nobody_waits_for_any_more_cleans_up() {
    let (volume, source, gate) = half_way().await;
    let key = run();
    {
        let cx = context();
        let stage = volume.engine.stage(&key, source, &cx);
        tokio::select! {
            _ = stage => panic!("it cannot be done"),
            () = gate.reached.notified() => {}
        }
    }
    // The next one waits for the one that cleans up.
    volume.engine.rollback(&key, &context()).await.unwrap();
    wait_for("the staging folder to go", Duration::from_secs(10), async || match volume.leftovers() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert_eq!(std::fs::read_to_string(volume.root.join("folder/0")).unwrap(), "live");
}
