//! What a staged load needs of the server, and there is not: connections, room, rights.

use std::time::Duration;

use keepsake_tests::own_mounts::{fill, make_room, may_mount, mount};
use keepsake_tests::poll::wait_for;

use super::staged::{commit, dumped, left, rows, stage, texts};
use super::*;

#[tokio::test]
async fn a_server_out_of_connections_is_busy_and_loses_nothing() {
    let (server, engine, made) = dumped(&[], "zync").await;
    let old = server.digests(DATABASE).await;
    let taken = async || {
        let mut all = Vec::new();
        while let Ok(client) = keepsake_tests::servers::postgres::connect(server.port(), "postgres").await {
            all.push(client);
        }
        all
    };
    let key = run();
    let all = taken().await;
    let refused = engine.stage(&key, source(made.0.clone(), made.1.clone()), &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{}", refused.chain());
    drop(all);
    let free = async || {
        wait_for("connections to end", Duration::from_secs(20), async || {
            engine.describe().await.map(drop).map_err(|e| e.chain())
        })
        .await;
    };
    free().await;
    engine.stage(&key, source(made.0.clone(), made.1.clone()), &context()).await.unwrap();
    for committed in [false, true] {
        let all = taken().await;
        let refused = engine.commit(&key, &context()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Busy, "{}", refused.chain());
        let refused = engine.rollback(&key, &context()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Busy, "{}", refused.chain());
        drop(all);
        free().await;
        if committed {
            engine.rollback(&key, &context()).await.unwrap();
        } else {
            commit(&engine, &key).await;
        }
    }
    assert_eq!(server.digests(DATABASE).await, old);
    assert_eq!(left(&server).await, Vec::<String>::new());
}

#[tokio::test]
async fn no_room_for_a_database_beside_leaves_the_live_one() {
    if !may_mount("postgres::limits::no_room_for_a_database_beside_leaves_the_live_one") {
        return;
    }
    let server = PostgresServer::start().await;
    let small = server.scratch().join("small");
    mount(&small, "64m");
    keepsake_tests::child::give_to_servers(&small);
    server.create_owner_and_database("zync", "first").await;
    let make = [
        format!("CREATE TABLESPACE small LOCATION '{}'", small.display()),
        "ALTER ROLE zync CREATEDB".to_owned(),
        "GRANT CREATE ON TABLESPACE small TO zync".to_owned(),
        format!("CREATE DATABASE {DATABASE} OWNER zync TABLESPACE small"),
    ];
    server.run_as("postgres", "postgres", &make).await;
    server.run_as("zync", DATABASE, &zync::statements(1, Size { applications: 20_000, ..Size::TINY })).await;
    let engine = engine(&server, "zync");
    let made = dump(&engine).await;
    let full = rows(&server).await;
    server.run_as("zync", DATABASE, &zync::wreck()).await;
    let old = server.digests(DATABASE).await;
    for kilobytes in [1_000, 7_000, 9_000] {
        fill(&small, kilobytes * 1_000);
        let key = run();
        let staged = engine.stage(&key, source(made.0.clone(), made.1.clone()), &context()).await;
        let refused = staged.expect_err(&format!("{kilobytes} kB are room enough"));
        let told = refused.chain();
        assert!(refused.kind() == Kind::Busy && told.contains("make room"), "{kilobytes}: {:?} {told}", refused.kind());
        // PostgreSQL itself needs some room to let anybody in, and to drop anything.
        make_room(&small);
        engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{kilobytes}: {}", e.chain()));
        assert_eq!((server.digests(DATABASE).await, left(&server).await), (old.clone(), Vec::new()), "{kilobytes}");
    }
    let key = stage(&engine, &made).await;
    commit(&engine, &key).await;
    engine.finalize(&key, &context()).await.unwrap();
    assert_eq!(rows(&server).await, full);
    let at = texts(&server, "SELECT spcname::text FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = 'zync_production'").await;
    assert_eq!(at, ["small"]);
}

#[tokio::test]
async fn who_may_not_stage_is_told_why_before_anything_is_made() {
    let (server, engine, made) = dumped(&[], "zync").await;
    server
        .run_as(
            "postgres",
            "postgres",
            &["CREATE ROLE stranger LOGIN CREATEDB PASSWORD 'canary-postgres-password'".to_owned()],
        )
        .await;
    let stranger = super::engine(&server, "stranger");
    let why = stranger.describe().await.unwrap().undo.expect_err("a stranger may rename it");
    assert!(why.contains("does not own") && why.contains("its owner zync"), "{why}");
    let refused = stranger.stage(&run(), source(made.0.clone(), made.1.clone()), &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
    // What the set says and this server does not have is told, not fatal; what belongs to nobody here is refused.
    let mut foreign = made.clone();
    foreign.0.facts.insert("collate".to_owned(), "xx_XX.UTF-8".to_owned());
    foreign.0.facts.insert("owner".to_owned(), "nobody_here".to_owned());
    let key = run();
    let staged =
        engine.stage(&key, source(foreign.0, foreign.1), &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(staged.warnings.iter().any(|w| w.contains("collate xx_XX.UTF-8 there")), "{:?}", staged.warnings);
    assert!(staged.warnings.iter().any(|w| w.contains("belonged to nobody_here")), "{:?}", staged.warnings);
    engine.rollback(&key, &context()).await.unwrap();
    server.run_as("postgres", DATABASE, &["ALTER ROLE zync RENAME TO zync_gone".to_owned()]).await;
    let other = super::engine(&server, "postgres");
    let refused = other.stage(&run(), source(made.0.clone(), made.1.clone()), &context()).await.unwrap_err();
    assert!(refused.kind() == Kind::Unsupported && refused.chain().contains("CREATE ROLE"), "{}", refused.chain());
    assert_eq!(left(&server).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_server_leaves_no_process_behind_whatever_its_processes_do() {
    use keepsake_tests::child::children;
    use rustix::process::{Signal, kill_process};
    let server = PostgresServer::start().await;
    let all = children(server.process().pid());
    assert!(all.len() > 2, "{all:?}");
    // One that looks after nothing, as a background writer on a full disk.
    kill_process(all[0], Signal::STOP).unwrap();
    drop(server);
    // One that nobody has waited for yet has no words any more.
    let words = format!("/proc/{}/cmdline", all[0].as_raw_nonzero());
    let gone = async || if std::fs::read(&words).is_ok_and(|w| !w.is_empty()) { Err(words.clone()) } else { Ok(()) };
    keepsake_tests::poll::wait_for("it to go", std::time::Duration::from_secs(20), gone).await;
}
