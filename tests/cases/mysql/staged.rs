//! Loads beside the live data: whose they are, what stands in their way, and that nothing is lost.

use keepsake_agent::engine::Staged;
use keepsake_core::error::Kind;
use keepsake_core::id::Epoch;
use keepsake_tests::own_mounts::{fill, make_room, may_mount, mount};
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::steps;
use mysql_async::prelude::Queryable;

use super::faults::{client, filled, no_schema_is_left};
use super::*;

/// The schema of a load's notes.
async fn notes(server: &MysqlServer) -> String {
    let sql = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '%keepsake%' \
               AND schema_name NOT LIKE '%new' AND schema_name NOT LIKE '%old'";
    server.value(sql).await.expect("the schema of a load")
}

#[tokio::test]
async fn a_load_belongs_to_its_run() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let made = Arc::new(steps::dump(&engine).await);
    server.run(&["UPDATE system.small SET note = 'old'"]).await;
    let (old, cx) = (server.state().await, steps::context());
    let [first, second, third] = [key(), key(), key()];
    let first_report = engine.stage(&first, made.clone(), &cx).await.unwrap();
    assert!(first_report.bytes > 1_000_000);
    // Again, also in a later epoch: it is there, and no client is started.
    let idle = client(&server, "idle", "exit 9");
    let later = RunKey { epoch: Epoch(7), ..first.clone() };
    assert_eq!(idle.stage(&later, made.clone(), &cx).await.unwrap().counts, first_report.counts);
    // Unless it is not whole.
    server.run(&[&format!("DELETE FROM {}_new.small WHERE id = 1", notes(&server).await)]).await;
    assert!(idle.stage(&first, made.clone(), &cx).await.unwrap_err().chain().contains("exit status: 9"));
    assert_eq!(engine.stage(&first, made.clone(), &cx).await.unwrap().counts, first_report.counts);

    // What another run did not commit gives way.
    engine.stage(&second, made.clone(), &cx).await.unwrap();
    assert_eq!(engine.staged(&first).await.unwrap(), Staged::Absent);
    assert_eq!(engine.commit(&first, &cx).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(engine.describe().await.unwrap().loads, [(second.run, Staged::Staged)]);
    engine.commit(&second, &cx).await.unwrap();
    let new = server.state().await;
    assert_ne!(new, old);
    assert_eq!(server.engine().staged(&second).await.unwrap(), Staged::Committed);
    // What another run committed does not, whether beside it or in place; a half made one neither, nor is it dumped.
    let refused = async || {
        for source in [made.clone() as Arc<dyn Source>, Arc::new(InPlace(made.clone()))] {
            let error = engine.stage(&third, source, &cx).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict);
            let words = [&second.run.to_string(), "keepsake finalize", "keepsake rollback"];
            assert!(words.iter().all(|w| error.chain().contains(w)), "{}", error.chain());
        }
    };
    refused().await;
    steps::dump(&engine).await;
    let progress = format!("{}.progress", notes(&server).await);
    server.run(&[&format!("UPDATE {progress} SET phase = 'committing'")]).await;
    refused().await;
    assert_eq!(steps::try_dump(&engine).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(engine.finalize(&second, &cx).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(server.state().await, new);
    engine.rollback(&second, &cx).await.unwrap();
    assert_eq!(server.state().await, old);
    no_schema_is_left(&server).await;

    // The dump of another database's load is in no dump.
    engine.stage(&third, made.clone(), &cx).await.unwrap();
    let beside = steps::dump(&engine).await;
    assert!(!beside.artifacts.values().any(|bytes| contains(bytes, b"keepsake")));
    engine.commit(&third, &cx).await.unwrap();
    engine.finalize(&third, &cx).await.unwrap();
    assert_eq!(server.state().await, new);
    no_schema_is_left(&server).await;
}

#[tokio::test]
async fn a_client_in_the_way_is_named_and_nothing_is_changed() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let made = Arc::new(steps::dump(&engine).await);
    server.run(&["UPDATE system.small SET note = 'old'", "CREATE VIEW system.v AS SELECT * FROM system.small"]).await;
    let (old, cx, key) = (server.state().await, steps::context(), key());
    engine.stage(&key, made.clone(), &cx).await.unwrap();
    let holds = async || {
        let mut holder = server.conn().await;
        for sql in ["USE system", "BEGIN", "SELECT * FROM small"] {
            holder.query_drop(sql).await.unwrap();
        }
        holder
    };
    let holder = holds().await;
    let error = engine.commit(&key, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{}", error.chain());
    assert!(told(&error).contains(&format!("connection {}", holder.id())), "{}", error.chain());
    assert_eq!((server.state().await, engine.staged(&key).await.unwrap()), (old.clone(), Staged::Staged));
    drop(holder);
    engine.commit(&key, &cx).await.unwrap();
    let new = server.state().await;
    let holder = holds().await;
    let error = engine.rollback(&key, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{}", error.chain());
    assert!(told(&error).contains(&format!("connection {}", holder.id())), "{}", error.chain());
    assert_eq!((server.state().await, engine.staged(&key).await.unwrap()), (new, Staged::Committed));
    drop(holder);
    engine.rollback(&key, &cx).await.unwrap();
    assert_eq!(server.state().await, old);
    no_schema_is_left(&server).await;
}

#[tokio::test]
async fn foreign_keys_that_would_lead_astray_are_refused() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let (cx, key) = (steps::context(), key());
    let made = Arc::new(steps::dump(&engine).await);
    server
        .run(&[
            "CREATE DATABASE other",
            "CREATE TABLE other.t (id bigint, FOREIGN KEY (id) REFERENCES system.big (id))",
            "UPDATE system.small SET note = 'old'",
        ])
        .await;
    let old = server.state().await;
    engine.stage(&key, made, &cx).await.unwrap();
    let error = engine.commit(&key, &cx).await.unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.chain().contains("other.t"), "{}", error.chain());
    assert_eq!((server.state().await, engine.staged(&key).await.unwrap()), (old.clone(), Staged::Staged));
    server.run(&["DROP DATABASE other"]).await;
    engine.commit(&key, &cx).await.unwrap();
    engine.rollback(&key, &cx).await.unwrap();
    assert_eq!(server.state().await, old);

    let mut conn = server.conn().await;
    for sql in [
        "SET foreign_key_checks = 0",
        "CREATE TABLE system.dangling (id bigint, CONSTRAINT nowhere FOREIGN KEY (id) REFERENCES system.nowhere (id)) ENGINE = InnoDB",
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    let made = steps::dump(&engine).await;
    let error = engine.stage(&key, Arc::new(made), &cx).await.unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.chain().contains("foreign key to nowhere"), "{}", error.chain());
    no_schema_is_left(&server).await;
}

#[tokio::test]
async fn a_broken_view_that_cannot_be_made_again_is_told_and_given_up_in_words() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let (cx, key) = (steps::context(), key());
    let made = Arc::new(steps::dump(&engine).await);
    // A column that is missing in a table that is there.
    server
        .run(&[
            "CREATE VIEW system.hopeless AS SELECT note FROM system.small",
            "ALTER TABLE system.small DROP COLUMN note",
            "CREATE VIEW system.well AS SELECT id FROM system.small",
            "CREATE EVENT system.e ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DISABLE DO SET @a = 1",
        ])
        .await;
    let old = server.state().await;
    engine.stage(&key, made, &cx).await.unwrap();
    engine.commit(&key, &cx).await.unwrap();
    for _ in 0..2 {
        let error = engine.rollback(&key, &cx).await.unwrap_err();
        assert!(error.kind() == Kind::Conflict && error.chain().contains("hopeless"), "{}", error.chain());
        assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committing);
    }
    server.run(&["ALTER TABLE system.small ADD COLUMN note varchar(100)"]).await;
    engine.rollback(&key, &cx).await.unwrap();
    server.run(&["ALTER TABLE system.small DROP COLUMN note"]).await;
    let found = server.state().await;
    assert_eq!(found[1].keys().collect::<Vec<_>>(), old[1].keys().collect::<Vec<_>>());
    assert_eq!(found[1]["TABLE hopeless"], old[1]["TABLE hopeless"]);
    no_schema_is_left(&server).await;
}

#[tokio::test]
async fn without_connections_or_room_the_old_data_stays() {
    let mut server = filled(&[]).await;
    let made = Arc::new(steps::dump(&server.engine()).await);
    server.run(&["UPDATE system.small SET note = 'old'", "SET GLOBAL max_connections = 10"]).await;
    let (old, cx) = (server.state().await, steps::context());
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(server.conn().await);
    }
    let error = server.engine().stage(&key(), made.clone(), &cx).await.unwrap_err();
    assert!(told(&error).contains("onnections"), "{}", error.chain());
    others[0].query_drop("SET GLOBAL max_connections = 60").await.unwrap();
    drop(others);
    assert_eq!(server.state().await, old);
    no_schema_is_left(&server).await;

    if !may_mount("mysql::staged::without_connections_or_room_the_old_data_stays") {
        return;
    }
    server.kill9();
    let (data, aside) = (server.scratch().join("data"), server.scratch().join("data-before"));
    std::fs::rename(&data, &aside).unwrap();
    mount(&data, "160m");
    let copied = keepsake_tests::child::run(
        keepsake_tests::child::tool_command("cp").arg("-a").arg(format!("{}/.", aside.display())).arg(&data),
    );
    assert!(copied.status.success(), "{copied:?}");
    std::fs::remove_dir_all(&aside).unwrap();
    keepsake_tests::child::give_to_servers(&data);
    server.restart().await;
    // A crash moves the next number of a table on.
    let (engine, old) = (server.engine(), server.state().await);
    for left in [2_000_000, 6_000_000] {
        fill(&data, left);
        let error = engine.stage(&key(), made.clone(), &cx).await.unwrap_err();
        assert!(
            told(&error).contains("make room") && error.kind() == Kind::Busy,
            "{left} bytes left: {}",
            error.chain()
        );
        make_room(&data);
        assert_eq!(server.state().await, old, "{left} bytes left");
        no_schema_is_left(&server).await;
    }
    steps::must_restore(&engine, &made).await;
    assert_ne!(server.state().await, old);
}
