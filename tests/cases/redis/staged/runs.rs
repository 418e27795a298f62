//! Whose load it is, how far it has come, and what is refused meanwhile.

use super::*;

#[tokio::test]
async fn redis_staged_loads_of_other_runs_make_way_or_stay() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let set = || source(Some(report.clone()), rdb.clone());
    let to = RedisServer::start(&["--appendonly", "yes"]).await;
    to.ask::<()>(&["SET", "old", "1"]).await;
    let before = to.digest().await;
    let (first, second, third) = (run(), run(), run());

    let described = engine(&to).describe().await.unwrap();
    assert_eq!((described.undo, described.loads), (Ok(()), vec![]));
    assert!(described.staging_free.is_some_and(|free| free > 0));
    engine(&to).stage(&first, set(), &context()).await.unwrap();
    assert_eq!(engine(&to).describe().await.unwrap().loads, [(first.run, Staged::Staged)]);
    engine(&to).stage(&second, set(), &context()).await.unwrap();
    assert_eq!(engine(&to).describe().await.unwrap().loads, [(second.run, Staged::Staged)]);
    assert_eq!(engine(&to).staged(&first).await.unwrap(), Staged::Absent);
    let nothing = engine(&to).commit(&first, &context()).await.unwrap_err();
    assert_eq!(nothing.kind(), Kind::Conflict, "{}", nothing.chain());

    // By the run, not by its epoch.
    let later = RunKey { epoch: Epoch(9), ..second.clone() };
    let committed = engine(&to).commit(&later, &context()).await.unwrap();
    assert_eq!(committed.counts, report.counts);
    assert_eq!(engine(&to).commit(&second, &context()).await.unwrap().counts, report.counts);
    for attempt in [set() as Arc<dyn Source>, in_place(&report, &rdb)] {
        let refused = engine(&to).stage(&third, attempt, &context()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Conflict, "{}", refused.chain());
        for word in [&second.run.to_string(), "keepsake finalize", "keepsake rollback"] {
            assert!(refused.chain().contains(word), "{}", refused.chain());
        }
    }
    assert_eq!(engine(&to).describe().await.unwrap().loads, [(second.run, Staged::Committed)]);
    // What is in place can be dumped: it is whole.
    dump(&to).await;
    engine(&to).rollback(&later, &context()).await.unwrap();
    assert_eq!(to.digest().await, before);
    is_free(&to, "rolled back").await;

    engine(&to).stage(&third, set(), &context()).await.unwrap();
    engine(&to).commit(&third, &context()).await.unwrap();
    engine(&to).finalize(&third, &context()).await.unwrap();
    is_free(&to, "finalized").await;
    // Nothing brings it back now, and nothing says that it did.
    engine(&to).rollback(&third, &context()).await.unwrap();
    assert_eq!(to.digest().await, from.digest().await);
}

#[tokio::test]
async fn redis_staged_load_that_is_half_made_is_told_and_nothing_else_is_done() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let set = || source(Some(report.clone()), rdb.clone());
    let to = RedisServer::start(&["--appendonly", "yes"]).await;
    to.ask::<()>(&["SET", "old", "1"]).await;
    let before = to.digest().await;
    let key = run();
    let first = engine(&to);
    first.stage(&key, set(), &context()).await.unwrap();
    cut_commit(&first, &key, "about to touch").await;
    drop(first);

    let next = engine(&to);
    assert_eq!(next.staged(&key).await.unwrap(), Staged::Committing);
    let described = next.describe().await.unwrap();
    assert_eq!(described.loads, [(key.run, Staged::Committing)]);
    assert!(described.problems.iter().any(|p| p.contains("half made")), "{:?}", described.problems);
    assert!(next.ready_to_hold().await.unwrap().is_some_and(|why| why.contains("half made")));
    let conflicts = [
        next.dump(None, &MemorySink::default(), &context()).await.err(),
        next.prepare_hold().await.err(),
        next.finalize(&key, &context()).await.err(),
        next.stage(&run(), set(), &context()).await.err(),
        next.stage(&key, source(Some(report.clone()), [&rdb[..], b"more"].concat()), &context()).await.err(),
        next.stage(&key, in_place(&report, &rdb), &context()).await.err(),
    ];
    for (n, conflict) in conflicts.into_iter().enumerate() {
        let error = conflict.unwrap_or_else(|| panic!("{n} was done"));
        assert!(
            error.kind() == Kind::Conflict && error.chain().contains(&key.run.to_string()),
            "{n} {}",
            error.chain()
        );
    }
    // A stage that is asked for again is still there.
    assert_eq!(next.stage(&key, set(), &context()).await.unwrap().counts, report.counts);
    next.rollback(&key, &context()).await.unwrap();
    assert_eq!(to.digest().await, before);
    is_free(&to, "rolled back").await;
}

#[tokio::test]
async fn redis_staged_files_that_were_damaged_are_not_loaded() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let to = RedisServer::start(&[]).await;
    to.ask::<()>(&["SET", "old", "1"]).await;
    let before = to.digest().await;
    let key = run();
    let folder = to.data().join(format!(".keepsake-{}", key.run));
    let flip = |name: &str| {
        let path = folder.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let set = || source(Some(report.clone()), rdb.clone());
    engine(&to).stage(&key, set(), &context()).await.unwrap();
    flip("staged.rdb");
    let refused = engine(&to).commit(&key, &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.chain());
    assert_eq!((to.digest().await, engine(&to).staged(&key).await.unwrap()), (before.clone(), Staged::Staged));
    // Staged again it is whole.
    engine(&to).stage(&key, set(), &context()).await.unwrap();
    engine(&to).commit(&key, &context()).await.unwrap();
    assert_eq!(to.digest().await, from.digest().await);
    // A safety RDB that is damaged is said to be, and what is live stays.
    flip("safety.rdb");
    let refused = engine(&to).rollback(&key, &context()).await.unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.chain().contains("what was live before"), "{}", refused.chain());
    assert_eq!(to.digest().await, from.digest().await);
    flip("safety.rdb");
    engine(&to).rollback(&key, &context()).await.unwrap();
    assert_eq!(to.digest().await, before);
}

#[tokio::test]
async fn redis_in_place_keeps_nothing_and_says_that_it_cannot_be_undone() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let to = RedisServer::start(&["--appendonly", "yes"]).await;
    to.ask::<()>(&["SET", "old", "1"]).await;
    // What the same run staged before is dropped.
    let (engine, key) = (engine(&to), run());
    engine.stage(&key, source(Some(report.clone()), rdb.clone()), &context()).await.unwrap();
    engine.stage(&key, in_place(&report, &rdb), &context()).await.unwrap();
    assert_eq!(leftovers(&to), Vec::<String>::new());
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Staged);
    engine.commit(&key, &context()).await.unwrap();
    assert_eq!(to.digest().await, from.digest().await);
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committed);
    let refused = engine.rollback(&key, &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
    engine.finalize(&key, &context()).await.unwrap();
    is_free(&to, "in place").await;
}
