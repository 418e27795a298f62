//! Epochs and journals under races and lost answers.

use std::sync::Arc;

use keepsake_core::error::Kind;
use keepsake_core::repository::runs::{Runs, StoredRun};
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
