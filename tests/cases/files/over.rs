//! Loads in place, for want of room.

use std::sync::Arc;

use keepsake_agent::engine::{Context, Staged};
use keepsake_core::error::Kind;
use keepsake_core::id::RunKey;
use keepsake_tests::memory::MemorySource;
use keepsake_tests::own_mounts::{may_mount, mount, unmount};
use tokio_util::sync::CancellationToken;

use super::killed::{Counted, engine_asking, kill};
use super::{Gate, GatedSource, Volume, context, names, run};

fn in_place(inner: MemorySource) -> Arc<GatedSource> {
    Arc::new(GatedSource { inner, gate: Arc::new(Gate::default()), in_place: true, stops: 0, opened: 0.into() })
}

async fn prepared() -> (Volume, MemorySource, keepsake_tests::manifest::Manifest) {
    let volume = Volume::new();
    volume.write("both", "from the set");
    volume.write("folder/below/file", "from the set");
    let wanted = volume.manifest();
    let (_, source) = volume.dump().await;
    volume.write("both", "live");
    volume.write("only-live/file", "live");
    volume.write("lost+found/x", "of the filesystem");
    (volume, source, wanted)
}

fn is_the_set(volume: &Volume, wanted: &keepsake_tests::manifest::Manifest, what: &str) {
    let mut live = super::load::without_ours(volume);
    live.0.retain(|path, _| !path.starts_with(b"lost+found"));
    live.assert_is(wanted, true, what);
}

#[tokio::test]
async fn a_load_in_place_replaces_everything_and_says_that_it_cannot_be_undone() {
    let (volume, source, wanted) = prepared().await;
    let before = volume.manifest();
    let key = run();
    let staged = volume.engine.stage(&key, in_place(source.clone()), &context()).await.unwrap();
    assert_eq!(&staged.counts, &source.recorded.as_ref().unwrap().counts);
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Staged);
    volume.manifest().assert_is(&before, true, "a stage in place changed something");
    volume.engine.rollback(&key, &context()).await.expect("nothing was changed");
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent);
    assert_eq!(volume.engine.commit(&key, &context()).await.unwrap_err().kind(), Kind::Conflict);

    volume.engine.stage(&key, in_place(source.clone()), &context()).await.unwrap();
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let error = volume.engine.commit(&key, &Context::new(cancelled).0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    volume.manifest().assert_is(&before, true, "a commit that was cancelled changed something");
    volume.engine.commit(&key, &context()).await.unwrap();
    is_the_set(&volume, &wanted, "committed");
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Committed);
    let error = volume.engine.rollback(&key, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    volume.dump().await;
    volume.engine.finalize(&key, &context()).await.unwrap();
    is_the_set(&volume, &wanted, "finalized");
    assert_eq!(volume.leftovers(), Vec::<String>::new());
}

/// Struck at every step, it never calls itself undone once a file is gone, and the same run or another brings it to its end.
#[tokio::test]
async fn a_load_in_place_that_was_struck_is_loaded_again() {
    for at in 0..200 {
        let (volume, source, wanted) = prepared().await;
        let before = volume.manifest();
        let key = run();
        let counted = Counted::default();
        let engine = engine_asking(&volume, counted.at(at, kill));
        engine.stage(&key, in_place(source.clone()), &context()).await.unwrap();
        let committed = engine.commit(&key, &context()).await;
        if !counted.struck() {
            committed.unwrap();
            assert!(at > 10, "only {at} steps");
            return;
        }
        drop(engine);
        let again = super::open(&volume.root, keepsake_tests::child::is_root(), volume.scratch.path());
        let gone =
            before.differences(&super::load::without_ours(&volume), true).iter().any(|d| d.contains("only-live"));
        let state = again.staged(&key).await.unwrap();
        if gone && state != Staged::Committed {
            assert_eq!(state, Staged::Committing, "step {at}");
            let sink = keepsake_tests::memory::MemorySink::default();
            let torn = again.dump(None, &sink, &context()).await.unwrap_err();
            assert!(torn.chain().contains("restore again"), "step {at}: {}", torn.chain());
            let error = again.commit(&key, &context()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "step {at}: {}", error.chain());
        }
        if gone {
            let error = again.rollback(&key, &context()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "step {at}: {}", error.chain());
        }
        let by = if at % 2 == 0 { key.clone() } else { run() };
        let beside = at % 4 == 1;
        if state == Staged::Committed {
            again.finalize(&key, &context()).await.unwrap();
        }
        end(&again, &by, if beside { Arc::new(source) } else { in_place(source) }).await;
        is_the_set(&volume, &wanted, &format!("step {at}"));
        assert_eq!(volume.leftovers(), Vec::<String>::new(), "step {at}");
    }
    panic!("it does not end");
}

async fn end(
    engine: &Arc<dyn keepsake_agent::engine::Engine>,
    key: &RunKey,
    source: Arc<dyn keepsake_agent::engine::Source>,
) {
    engine.stage(key, source, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    engine.commit(key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    engine.dump(None, &keepsake_tests::memory::MemorySink::default(), &context()).await.expect("whole again");
    engine.finalize(key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}

#[tokio::test]
async fn a_load_in_place_fits_where_one_beside_the_live_files_does_not() {
    if !may_mount("files::over::a_load_in_place_fits_where_one_beside_the_live_files_does_not") {
        return;
    }
    let mut volume = Volume::new();
    mount(&volume.root, "4m");
    volume.engine = super::open(&volume.root, true, volume.scratch.path());
    volume.write("large", vec![1; 3_000_000]);
    let (_, source) = volume.dump().await;
    let key = run();
    let error = volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{}", error.chain());
    end(&volume.engine, &key, in_place(source)).await;
    assert_eq!(names(&volume.root), ["large"]);
    // What would not fit even then is refused before anything is removed.
    let other = Volume::new();
    other.write("larger", vec![2; 5_000_000]);
    let (_, larger) = other.dump().await;
    let error = volume.engine.stage(&key, in_place(larger), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{}", error.chain());
    assert_eq!(names(&volume.root), ["large"]);
    unmount(&volume.root);
}
