//! Loads: what is replaced, what is left alone, and what happens when they do not reach their end.

use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::engine::{Context, Staged};
use keepsake_core::error::Kind;
use keepsake_tests::poll::wait_for;
use tokio_util::sync::CancellationToken;

use super::{Gate, GatedSource, Volume, context, names, run, write};

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
    assert_eq!(names(&volume.root), [".snapshot", "changed", "kept", "lost+found"]);
    assert_eq!(names(&volume.root.join("kept")), ["file"]);
    assert_eq!(std::fs::read_to_string(volume.root.join("changed")).unwrap(), "from the set");
    assert!(volume.root.join("lost+found/#123").try_exists().unwrap());

    let again = volume.engine.commit(&key, &cx).await.unwrap();
    assert_eq!(again.counts, first.counts, "a second commit of the same run");
    let error = volume.engine.rollback(&key, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    volume.engine.finalize(&key, &cx).await.unwrap();
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent);
    let error = volume.engine.commit(&key, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);

    let old = volume.engine.prepare_hold().await.err().unwrap();
    assert_eq!(old.kind(), Kind::Unsupported);
}

#[tokio::test]
async fn what_an_interrupted_load_left_is_never_deleted() {
    let volume = Volume::new();
    volume.write("file", "x");
    let (_, source) = volume.dump().await;
    volume.write(".keepsake-dead/old/only-copy", "x");
    volume.write(".keepsake-dead/new/rest", "x");
    let error = volume.engine.stage(&run(), Arc::new(source.clone()), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains("\".keepsake-dead\" in the volume"), "{}", error.chain());
    assert!(volume.root.join(".keepsake-dead/old/only-copy").try_exists().unwrap());
    let problems = volume.engine.describe().await.unwrap().problems;
    assert!(problems[0].contains("Move back what you need"), "{problems:?}");
    std::fs::remove_dir_all(volume.root.join(".keepsake-dead")).unwrap();
    volume.load(source).await;
}

/// A volume with a set of several megabytes, changed since, and a source that stops in the middle of the commit.
async fn half_way() -> (Volume, Arc<GatedSource>, Arc<Gate>) {
    let volume = Volume::new();
    for n in 0..20 {
        write(&volume.root.join(format!("folder/{n}")), vec![1; 200_000]);
    }
    let (_, inner) = volume.dump().await;
    volume.write("folder/0", "live");
    let gate = Arc::new(Gate::default());
    let source = GatedSource { inner, gate: gate.clone(), opened: 0.into() };
    (volume, Arc::new(source), gate)
}

#[tokio::test]
async fn a_load_cancelled_before_the_swap_leaves_everything_as_it_was() {
    let (volume, source, gate) = half_way().await;
    let before = volume.manifest();
    let key = run();
    volume.engine.stage(&key, source, &context()).await.unwrap();
    let cancel = CancellationToken::new();
    let (cx, _) = Context::new(cancel.clone());
    let (result, ()) = tokio::join!(volume.engine.commit(&key, &cx), async {
        gate.reached.notified().await;
        assert_eq!(volume.leftovers().len(), 1, "it is unpacking");
        cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(volume.leftovers(), Vec::<String>::new());
    let mut now = volume.manifest();
    // Only the root's own time shows that a folder came and went.
    now.0.insert(Vec::new(), before.0[&Vec::new()].clone());
    now.assert_is(&before, true, "a cancelled load changed something");
    // It can be tried again, or forgotten.
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Staged);
    volume.engine.commit(&key, &context()).await.unwrap();
    assert_eq!(std::fs::read(volume.root.join("folder/0")).unwrap().len(), 200_000);
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_any_more_cleans_up() {
    let (volume, source, gate) = half_way().await;
    let key = run();
    volume.engine.stage(&key, source, &context()).await.unwrap();
    {
        let cx = context();
        let commit = volume.engine.commit(&key, &cx);
        tokio::select! {
            _ = commit => panic!("it cannot be done"),
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

#[tokio::test]
async fn a_commit_that_gets_another_archive_than_the_stage_leaves_everything_as_it_was() {
    let (volume, source, _) = half_way().await;
    let before = volume.manifest();
    let key = run();
    let other = Volume::new();
    let short = SwitchingSource { first: source.inner.clone(), then: other.dump().await.1, opened: 0.into() };
    volume.engine.stage(&key, Arc::new(short), &context()).await.unwrap();
    let error = volume.engine.commit(&key, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(volume.leftovers(), Vec::<String>::new());
    let mut now = volume.manifest();
    now.0.insert(Vec::new(), before.0[&Vec::new()].clone());
    now.assert_is(&before, true, "a failed load changed something");
    assert!(volume.engine.rollback(&key, &context()).await.is_ok());
}

/// Gives other bytes the second time.
struct SwitchingSource {
    first: keepsake_tests::memory::MemorySource,
    then: keepsake_tests::memory::MemorySource,
    opened: std::sync::atomic::AtomicU64,
}

#[async_trait::async_trait]
impl keepsake_agent::engine::Source for SwitchingSource {
    fn artifacts(&self) -> Vec<(keepsake_core::id::ArtifactName, u64)> {
        self.first.artifacts()
    }

    fn recorded(&self) -> Option<&keepsake_core::record::DumpReport> {
        self.first.recorded()
    }

    async fn open(
        &self,
        name: &keepsake_core::id::ArtifactName,
    ) -> keepsake_core::error::Result<Box<dyn keepsake_agent::engine::ArtifactSource>> {
        let again = self.opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
        if again { self.then.open(name).await } else { self.first.open(name).await }
    }
}
