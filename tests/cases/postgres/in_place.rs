//! Loads over the live data, where there may be no database beside it.

use keepsake_agent::engine::Staged;

use super::*;

#[tokio::test]
async fn a_load_in_place_that_fails_half_way_leaves_the_old_data() {
    let server = zync_server().await;
    let engine = engine(&server, "postgres");
    let (report, archive) = dump(&engine).await;

    // Staged while the role is there, loaded when it is gone: the failure comes in the middle of the transaction.
    let key = run();
    engine.stage(&key, in_place(source(report.clone(), archive.clone())), &context()).await.unwrap();
    let client = server.client(DATABASE).await;
    client.batch_execute("ALTER ROLE zync RENAME TO zync_gone").await.unwrap();
    let before = server.digests(DATABASE).await;
    let failed = engine.commit(&key, &context()).await.unwrap_err();
    assert!(failed.chain().contains("old data is in place"), "{}", failed.chain());
    assert_eq!(server.digests(DATABASE).await, before);
    engine.rollback(&key, &context()).await.expect("nothing was touched");
    let refused = restore(&engine, in_place(source(report.clone(), archive.clone()))).await.unwrap_err();
    assert!(refused.chain().contains("CREATE ROLE"), "{}", refused.chain());
    client.batch_execute("ALTER ROLE zync_gone RENAME TO zync").await.unwrap();

    // Cut while it is loaded: the archive was good when it was staged.
    let key = run();
    engine.stage(&key, in_place(source(report.clone(), archive.clone())), &context()).await.unwrap();
    let (cx, _) = Context::new(CancellationToken::new());
    cx.cancel.cancel();
    assert_eq!(engine.commit(&key, &cx).await.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(server.digests(DATABASE).await, before);
    restore(&engine, in_place(source(report, archive))).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}

#[tokio::test]
async fn a_load_in_place_is_counted_cannot_be_undone_and_is_not_mixed_with_one_beside() {
    let server = zync_server().await;
    let engine = engine(&server, "zync");
    let (report, archive) = dump(&engine).await;
    let full = server.digests(DATABASE).await;
    server.run_as("zync", DATABASE, &zync::wreck()).await;
    let (beside, over) = (run(), run());
    engine.stage(&beside, source(report.clone(), archive.clone()), &context()).await.unwrap();
    // The same run may not do both.
    let both = engine.stage(&beside, in_place(source(report.clone(), archive.clone())), &context()).await.unwrap_err();
    assert_eq!(both.kind(), Kind::Conflict, "{}", both.chain());
    // Another's stage goes: it would be beside a database that is no longer the one it was staged for.
    engine.stage(&over, in_place(source(report.clone(), archive.clone())), &context()).await.unwrap();
    assert_eq!(engine.staged(&beside).await.unwrap(), Staged::Absent);
    assert_eq!(engine.staged(&over).await.unwrap(), Staged::Staged);
    let done = engine.commit(&over, &context()).await.unwrap();
    assert_eq!(done.counts, report.counts);
    assert_eq!(engine.staged(&over).await.unwrap(), Staged::Committed);
    assert_eq!(engine.rollback(&over, &context()).await.unwrap_err().kind(), Kind::Unsupported);
    engine.finalize(&over, &context()).await.unwrap();
    assert_eq!(engine.staged(&over).await.unwrap(), Staged::Absent);
    let mut expected = full;
    expected.insert("public.que_lockers".to_owned(), "0 ".to_owned());
    assert_eq!(server.digests(DATABASE).await, expected);
    // Over what was swapped and is not ended, nothing is loaded either.
    engine.stage(&beside, source(report.clone(), archive.clone()), &context()).await.unwrap();
    engine.commit(&beside, &context()).await.unwrap();
    let refused = engine.stage(&run(), in_place(source(report, archive)), &context()).await.unwrap_err();
    assert!(refused.kind() == Kind::Conflict && refused.chain().contains("keepsake finalize"), "{}", refused.chain());
    engine.finalize(&beside, &context()).await.unwrap();
}
