//! Every put and every get goes wrong in every way: a call fails and says so, or it has done all of its work.

use std::sync::Arc;

use keepsake_core::error::Kind;
use keepsake_core::repository::Repository;
use keepsake_core::repository::sets::SetState;
use keepsake_core::repository::testing::{Fault, faulty};
use object_store::memory::InMemory;

use super::*;

const PUT_FAULTS: [Fault; 4] = [Fault::Fail, Fault::LoseAnswer, Fault::Stall, Fault::Deny];
const GET_FAULTS: [Fault; 5] = [Fault::Fail, Fault::Deny, Fault::Stall, Fault::Cut, Fault::Flip];

/// What stands in the store must be a whole backup, or none.
async fn assert_no_half_backup(store: &Store, keys: &Keys, what: &str) {
    let Ok(repository) = keys.open(store).await else { return };
    for entry in repository.sets(&prod()).await.expect("list") {
        match entry.state {
            SetState::Recorded(record) => assert_whole(&repository, &record, keys).await,
            SetState::Unfinished => {}
            SetState::Unbelievable(why) => panic!("{what}: an unbelievable set was left: {}", why.chain()),
        }
    }
}

#[tokio::test]
async fn a_set_is_whole_or_is_none_whatever_put_goes_wrong() {
    let keys = Keys::new();
    let objects: Arc<InMemory> = Arc::new(InMemory::new());
    let (store, faults) = faulty(objects);
    let (repository, _) = Repository::init(store.clone(), &keys.init()).await.expect("init");
    let before = faults.puts();
    make_set(&repository, &store, &keys, 1).await.expect("a set without faults");
    let puts = faults.puts() - before;
    assert_eq!(puts, 7, "key, four segments, signature, record");

    let (mut failed, mut succeeded) = (0, 0);
    for n in 0..puts {
        for fault in PUT_FAULTS {
            // Once, and as often as it is tried.
            for times in [1, 40] {
                let what = format!("put {n}, {fault:?} {times} times");
                let (store, faults) = faulty(Arc::new(InMemory::new()));
                let retry = store.retry().clone();
                let store = store.with_patience(retry, Duration::from_millis(100));
                let (repository, _) = Repository::init(store.clone(), &keys.init()).await.expect("init");
                (0..times).for_each(|m| faults.put(n + m, fault));
                match make_set(&repository, &store, &keys, 1).await {
                    Ok(record) => {
                        succeeded += 1;
                        faults.clear();
                        assert_whole(&repository, &record, &keys).await;
                    }
                    Err(e) => {
                        failed += 1;
                        assert_told(&e);
                        assert_no_half_backup(&store, &keys, &what).await;
                        // What was left is in nobody's way.
                        faults.clear();
                        make_set(&repository, &store, &keys, 2)
                            .await
                            .unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
                    }
                }
            }
        }
    }
    assert!(failed > 20 && succeeded > 5, "{failed} failed, {succeeded} succeeded: the faults do not happen");
}

#[tokio::test]
async fn what_is_read_is_right_or_is_an_error_whatever_get_goes_wrong() {
    let keys = Keys::new();
    let (store, faults) = faulty(Arc::new(InMemory::new()));
    let (repository, _) = Repository::init(store.clone(), &keys.init()).await.expect("init");
    let record = make_set(&repository, &store, &keys, 1).await.expect("a set");
    let mut wrong = 0;
    for n in 0..12 {
        for fault in GET_FAULTS {
            for times in [1, 40] {
                let what = format!("get {n}, {fault:?} {times} times");
                (0..times).for_each(|m| faults.get(n + m, fault));
                let read = async {
                    let repository = keys.open(&store).await?;
                    let found = repository.latest(&prod()).await?;
                    let mut all = Vec::new();
                    for which in 0..2 {
                        all.push(read_artifact(&repository, &record, &keys, which).await?);
                    }
                    Ok::<_, Error>((found, all))
                };
                match read.await {
                    Ok((found, all)) => {
                        for (got, (_, _, want)) in all.iter().zip(contents()) {
                            assert!(*got == want, "{what}: other bytes were given out");
                        }
                        // A record that does not read right counts as unbelievable and is listed so; it is never another record.
                        assert!(found.is_none_or(|f| f == record), "{what}: another record was given out");
                    }
                    Err(e) => {
                        wrong += 1;
                        assert_told(&e);
                    }
                }
                faults.clear();
            }
        }
    }
    assert!(wrong > 20, "only {wrong} reads failed: the faults do not happen");
    assert_whole(&repository, &record, &keys).await;
}

#[tokio::test]
async fn a_get_that_goes_wrong_once_does_not_fail_a_restore() {
    let keys = Keys::new();
    let (store, faults) = faulty(Arc::new(InMemory::new()));
    let (repository, _) = Repository::init(store.clone(), &keys.init()).await.expect("init");
    let record = make_set(&repository, &store, &keys, 1).await.expect("a set");
    let (_, _, want) = contents().swap_remove(0);
    for fault in [Fault::Fail, Fault::Stall, Fault::Cut, Fault::Flip] {
        for n in 0..3 {
            faults.get(n, fault);
            let got = read_artifact(&repository, &record, &keys, 0).await;
            assert!(got.unwrap_or_else(|e| panic!("get {n}, {fault:?}: {}", e.chain())) == want);
            assert_eq!(faults.pending(), 0, "the fault did not happen");
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_makes_no_repository() {
    let keys = Keys::new();
    // The probe has 41 puts; what follows are the two documents.
    for n in [0, 20, 40, 41, 42] {
        for fault in [Fault::Fail, Fault::Deny] {
            let (store, faults) = faulty(Arc::new(InMemory::new()));
            // From then on for good: a try of the probe in which a create fails is made again.
            (0..2_000).for_each(|m| faults.put(n + m, fault));
            let error = Repository::init(store.clone(), &keys.init()).await.map(|_| ()).expect_err("puts fail");
            assert!(matches!(error.kind(), Kind::Unavailable | Kind::Denied), "{}", error.chain());
            assert!(keys.open(&store).await.is_err(), "put {n} {fault:?}: half a repository opens");
        }
        // Once is made good.
        let (store, faults) = faulty(Arc::new(InMemory::new()));
        faults.put(n, Fault::Fail);
        Repository::init(store.clone(), &keys.init()).await.unwrap_or_else(|e| panic!("put {n}: {}", e.chain()));
        keys.open(&store).await.unwrap_or_else(|e| panic!("put {n}: {}", e.chain()));
    }
}
