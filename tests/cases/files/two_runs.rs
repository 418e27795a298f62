//! Loads of several runs, and dumps beside them.

use std::sync::Arc;

use keepsake_agent::engine::Staged;
use keepsake_core::error::Kind;

use super::killed::{engine_asking, kill};
use super::load::without_ours;
use super::{Volume, context, run};

/// A volume with live files, and a set of other ones.
async fn volume() -> (Volume, keepsake_tests::memory::MemorySource) {
    let volume = Volume::new();
    volume.write("both", "from the set");
    volume.write("only-set/file", "from the set");
    let (_, source) = volume.dump().await;
    volume.write("both", "live");
    volume.write("only-live", "live");
    std::fs::remove_dir_all(volume.root.join("only-set")).unwrap();
    (volume, source)
}

#[tokio::test]
async fn what_another_run_has_staged_is_dropped_and_what_it_has_committed_is_refused() {
    let (volume, source) = volume().await;
    let before = volume.manifest();
    let (first, second) = (run(), run());
    let stage = |key: keepsake_core::id::RunKey| {
        let (engine, source) = (volume.engine.clone(), source.clone());
        async move { engine.stage(&key, Arc::new(source), &context()).await }
    };
    stage(first.clone()).await.unwrap();
    stage(second.clone()).await.unwrap();
    assert_eq!(volume.engine.staged(&first).await.unwrap(), Staged::Absent);
    let error = volume.engine.commit(&first, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let told = volume.engine.describe().await.unwrap();
    assert_eq!((told.loads, told.problems), (vec![(second.run, Staged::Staged)], Vec::new()));
    let early = volume.engine.finalize(&second, &context()).await.unwrap_err();
    assert_eq!(early.kind(), Kind::Conflict, "{}", early.chain());

    volume.engine.commit(&second, &context()).await.unwrap();
    let told = volume.engine.describe().await.unwrap();
    assert_eq!((told.loads, told.problems), (vec![(second.run, Staged::Committed)], Vec::new()));
    let refused = stage(first.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    let told = refused.chain();
    for word in [second.run.to_string().as_str(), "`keepsake finalize`", "`keepsake rollback`", "not finalized"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // Of the run itself, too: what it has staged is live already.
    assert_eq!(stage(second.clone()).await.unwrap_err().kind(), Kind::Conflict);
    volume.engine.rollback(&first, &context()).await.expect("nothing of it is there");
    volume.engine.finalize(&first, &context()).await.expect("nothing of it is there");
    assert_eq!(volume.engine.staged(&second).await.unwrap(), Staged::Committed);
    volume.engine.rollback(&second, &context()).await.unwrap();
    volume.manifest().assert_is(&before, true, "rolled back");
    stage(first.clone()).await.unwrap();
    volume.engine.rollback(&first, &context()).await.unwrap();
    volume.manifest().assert_is(&before, true, "rolled back again");
}

#[tokio::test]
async fn a_dump_beside_a_load_is_of_what_is_live_and_is_refused_half_way() {
    let (volume, source) = volume().await;
    let (live_report, _) = volume.dump().await;
    let key = run();
    volume.engine.stage(&key, Arc::new(source.clone()), &context()).await.unwrap();
    let (report, _) = volume.dump().await;
    assert_eq!((&report.counts, report.warnings), (&live_report.counts, Vec::new()));

    // Between the two halves of the swap.
    let struck = engine_asking(&volume, {
        let moves = std::sync::atomic::AtomicU64::new(0);
        move |doing| {
            let so_far = moves.fetch_add(u64::from(doing == "move"), std::sync::atomic::Ordering::SeqCst);
            if doing == "move" && so_far == 1 { kill() } else { Ok(()) }
        }
    });
    assert!(struck.commit(&key, &context()).await.is_err());
    assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Committing);
    let told = volume.engine.describe().await.unwrap();
    assert_eq!(told.loads, [(key.run, Staged::Committing)]);
    let sink = keepsake_tests::memory::MemorySink::default();
    let error = volume.engine.dump(None, &sink, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    for told in [error.chain(), told.problems[0].clone()] {
        assert!(told.contains(&key.run.to_string()) && told.contains("`keepsake resume`"), "{told}");
    }
    assert!(sink.finished().is_empty());
    let refused = volume.engine.stage(&run(), Arc::new(source.clone()), &context()).await.unwrap_err();
    assert!(refused.chain().contains("was interrupted half way"), "{}", refused.chain());

    volume.engine.commit(&key, &context()).await.unwrap();
    let (report, committed) = volume.dump().await;
    assert_eq!(report.warnings, Vec::<String>::new());
    assert!(committed.artifacts == source.artifacts, "what is committed is not what the set has");
    assert_eq!(without_ours(&volume).count('f'), 2);
    volume.engine.finalize(&key, &context()).await.unwrap();
}

#[tokio::test]
async fn a_dump_whose_files_were_swapped_meanwhile_fails() {
    let volume = Volume::new();
    for n in 0..20 {
        volume.write(&format!("folder/{n}"), vec![1; 200_000]);
    }
    let (_, source) = volume.dump().await;
    let key = run();
    volume.engine.stage(&key, Arc::new(source), &context()).await.unwrap();
    let gate = Arc::new(super::Gate::default());
    let sink = super::GatedSink { inner: keepsake_tests::memory::MemorySink::default(), gate: gate.clone() };
    let cx = context();
    let (dumped, ()) = tokio::join!(volume.engine.dump(None, &sink, &cx), async {
        gate.reached.notified().await;
        volume.engine.commit(&key, &context()).await.unwrap();
        gate.open.notify_one();
    });
    let error = dumped.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains("a load moved files while they were dumped"), "{}", error.chain());
    assert!(sink.inner.finished().is_empty());
}

#[tokio::test]
async fn two_agents_do_not_load_into_one_volume_at_once() {
    let (volume, source) = volume().await;
    let gate = Arc::new(super::Gate::default());
    for n in 0..20 {
        volume.write(&format!("folder/{n}"), vec![1; 200_000]);
    }
    let (_, large) = volume.dump().await;
    let gated = super::GatedSource { inner: large, gate: gate.clone(), in_place: false, stops: 1, opened: 0.into() };
    let other = super::open(&volume.root, keepsake_tests::child::is_root(), volume.scratch.path());
    let (key, second) = (run(), run());
    let cx = context();
    let (done, ()) = tokio::join!(volume.engine.stage(&key, Arc::new(gated), &cx), async {
        gate.reached.notified().await;
        let busy = other.stage(&second, Arc::new(source.clone()), &context()).await.unwrap_err();
        assert_eq!(busy.kind(), Kind::Busy, "{}", busy.chain());
        assert_eq!(other.rollback(&key, &context()).await.unwrap_err().kind(), Kind::Busy);
        gate.open.notify_one();
    });
    done.unwrap();
    other.stage(&second, Arc::new(source), &context()).await.unwrap();
    other.rollback(&second, &context()).await.unwrap();
    assert_eq!(volume.leftovers(), Vec::<String>::new());
}
