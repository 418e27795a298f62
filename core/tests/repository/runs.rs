//! Epochs and journals under races and lost answers.

use std::sync::Arc;

use keepsake_core::error::Kind;
use keepsake_core::id::RunId;
use keepsake_core::record::check_format;
use keepsake_core::repository::runs::{Runs, StoredRun, TWO_PLANS};
use keepsake_core::repository::testing::{Fault, faulty};
use object_store::memory::InMemory;

use super::*;

type Run = StoredRun<String, String>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_begins_at_once_gets_an_epoch_of_their_own() {
    let runs = Runs::new(store_over(Arc::new(InMemory::new())));
    let begun: Vec<_> = (0..20)
        .map(|n| {
            let runs = runs.clone();
            tokio::spawn(async move { runs.begin(&prod(), &format!("host {n}"), &format!("plan {n}")).await.unwrap() })
        })
        .collect();
    let mut epochs = Vec::new();
    for task in begun {
        let (head, mut log) = task.await.unwrap();
        log.append(&head.by).await.unwrap();
        epochs.push((head.epoch, head.by));
    }
    epochs.sort();
    assert_eq!(epochs.iter().map(|(e, _)| e.0).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    for (epoch, by) in epochs {
        let run: Run = runs.read(&prod(), epoch).await.unwrap();
        assert_eq!((&run.head.by, &run.events[0].event), (&by, &by), "the run of epoch {epoch} is somebody else's");
    }
}

#[tokio::test]
async fn a_lost_answer_loses_no_epoch_and_no_event_and_doubles_none() {
    for n in 0..5 {
        for fault in [Fault::Fail, Fault::LoseAnswer, Fault::Stall] {
            let (store, faults) = faulty(Arc::new(InMemory::new()));
            let runs = Runs::new(store);
            faults.put(n, fault);
            let (head, mut log) = runs.begin(&prod(), "host", &"plan".to_owned()).await.unwrap();
            assert_eq!(head.epoch, Epoch(1), "put {n}, {fault:?}");
            for event in ["a", "b", "c", "d"] {
                log.append(&event).await.unwrap();
            }
            assert_eq!(faults.pending(), 0);
            let run: Run = runs.read(&prod(), Epoch(1)).await.unwrap();
            let events: Vec<_> = run.events.iter().map(|e| e.event.as_str()).collect();
            assert_eq!(events, ["a", "b", "c", "d"], "put {n}, {fault:?}");
            assert_eq!(runs.epochs(&prod()).await.unwrap(), [Epoch(1)]);
        }
    }
}

#[tokio::test]
async fn the_second_writer_of_a_run_is_told_to_stop() {
    let runs = Runs::new(store_over(Arc::new(InMemory::new())));
    let (_, mut first) = runs.begin(&prod(), "first", &"plan".to_owned()).await.unwrap();
    first.append(&"a").await.unwrap();
    let read: Run = runs.read(&prod(), Epoch(1)).await.unwrap();
    let mut second = runs.continue_log(&read);
    second.append(&"ended by somebody else").await.unwrap();
    assert_eq!(first.append(&"b").await.unwrap_err().kind(), Kind::Conflict);
    assert!(!first.cancel_asked().await.unwrap());
    runs.ask_to_cancel(&prod(), Epoch(1)).await.unwrap();
    assert!(first.cancel_asked().await.unwrap());
}

/// As a folder is between the moment when a local file was written and the one when it got its name.
fn half_created(root: &std::path::Path, epoch: u32) {
    let folder = root.join(format!("runs/prod/{epoch:08}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("000000.json#1"), "half").unwrap();
}

#[tokio::test]
async fn an_epoch_whose_plan_is_still_being_written_is_contended_for_and_not_skipped() {
    for before in 0..2 {
        let root = tempfile::tempdir().unwrap();
        let runs = Runs::new(Store::open(&format!("file://{}", root.path().display())).unwrap());
        for _ in 0..before {
            runs.begin(&prod(), "earlier", &"plan".to_owned()).await.unwrap();
        }
        half_created(root.path(), before + 1);
        let (head, _) = runs.begin(&prod(), "host", &"plan".to_owned()).await.unwrap();
        assert_eq!(head.epoch, Epoch(u64::from(before) + 1), "the other one would look only at lower epochs");
    }
}

#[tokio::test]
async fn a_journal_with_a_hole_is_corrupt_and_not_absent() {
    for missing in 0..3 {
        let inner = Arc::new(InMemory::new());
        let runs = Runs::new(store_over(inner.clone()));
        let (_, mut log) = runs.begin(&prod(), "host", &"plan".to_owned()).await.unwrap();
        for event in ["a", "b", "c"] {
            log.append(&event).await.unwrap();
        }
        let key = format!("runs/prod/00000001/{missing:06}.json");
        object_store::ObjectStoreExt::delete(&inner, &object_store::path::Path::from(key.as_str())).await.unwrap();
        let found = runs.read::<String, String>(&prod(), Epoch(1)).await.unwrap_err();
        assert_eq!(found.kind(), Kind::Corrupt, "{}", found.chain());
        assert!(found.chain().contains(&key), "{}", found.chain());
        if missing == 0 {
            let found = runs.begin(&prod(), "host", &"plan".to_owned()).await.unwrap_err();
            assert_eq!(found.kind(), Kind::Corrupt, "the epoch was given away again: {}", found.chain());
        }
    }
    let runs = Runs::new(store_over(Arc::new(InMemory::new())));
    assert_eq!(runs.read::<String, String>(&prod(), Epoch(1)).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_entry_whose_fate_was_unknown_does_not_fence_its_own_writer() {
    let (store, faults) = faulty(Arc::new(InMemory::new()));
    let runs = Runs::new(store);
    let (_, mut log) = runs.begin(&prod(), "host", &"plan".to_owned()).await.unwrap();
    // It is stored, and nobody learns it.
    faults.put(0, Fault::LoseAnswer);
    for n in 0..3 {
        faults.get(n, Fault::Fail);
    }
    assert!(log.append(&"a").await.unwrap_err().kind().retry());
    assert_eq!(faults.pending(), 0);
    log.append(&"b").await.unwrap();
    // It is not stored, and the next one comes after it all the same.
    for n in 0..4 {
        faults.put(n, Fault::Fail);
    }
    log.append(&"c").await.unwrap_err();
    log.append(&"d").await.unwrap();
    let run: Run = runs.read(&prod(), Epoch(1)).await.unwrap();
    assert_eq!(run.events.iter().map(|e| e.event.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_run_that_is_resumed_keeps_its_id_and_its_plan_and_fences_nobody_yet() {
    let runs = Runs::new(store_over(Arc::new(InMemory::new())));
    let (first, mut log) = runs.begin(&prod(), "first", &"plan".to_owned()).await.unwrap();
    log.append(&"a").await.unwrap();
    let (second, mut later) = runs.resume(&first, "second").await.unwrap();
    assert_eq!((second.run, &second.plan_sha256, second.resumes), (first.run, &first.plan_sha256, Some(first.epoch)));
    assert_eq!((first.resumes, second.epoch, later.run()), (None, Epoch(2), first.run));
    later.append(&"b").await.unwrap();
    log.append(&"still alive").await.unwrap();
    let read: Run = runs.read(&prod(), Epoch(2)).await.unwrap();
    assert_eq!(read.head, second);

    let mut changed = first.clone();
    changed.plan.push('!');
    let refused = runs.resume(&changed, "third").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.chain());
    assert_eq!(runs.epochs(&prod()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_run_with_two_plans_is_refused_by_whoever_knows_only_one() {
    let store = store_over(Arc::new(InMemory::new()));
    let runs = Runs::new(store.clone());
    let (first, _) = runs.begin_as(TWO_PLANS, &prod(), "first", &"plan".to_owned(), RunId::generate()).await.unwrap();
    let (second, _) = runs.resume(&first, "second").await.unwrap();
    assert_eq!((first.format, second.format), (2, 2));
    let read: Run = runs.read(&prod(), Epoch(2)).await.unwrap();
    assert_eq!(read.head, second);
    let bytes = store.read("runs/prod/00000002/000000.json").await.unwrap();
    let refused = check_format(&bytes, "run 2").unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.chain().contains("use a newer Keepsake"), "{}", refused.chain());
    // What comes after it is refused here.
    runs.begin_as(3, &prod(), "later", &"plan".to_owned(), RunId::generate()).await.unwrap();
    let refused = runs.read::<String, String>(&prod(), Epoch(3)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
}
