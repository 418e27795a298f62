//! What others do beside a load: applications that make tables, and clients of a load whose agent was killed.

use std::time::Duration;

use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::error::Kind;
use keepsake_tests::poll::wait_for;
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::steps::{self, held_dump as held};
use mysql_async::prelude::Queryable;

use super::faults::{client, filled, no_schema_is_left};
use super::*;

#[tokio::test]
async fn a_table_that_was_made_anew_since_a_load_does_not_keep_its_rollback_back() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let made = Arc::new(steps::dump(&engine).await);
    server
        .run(&[
            "CREATE TABLE system.extra (id int PRIMARY KEY)",
            "INSERT INTO system.extra VALUES (1)",
            "CREATE TRIGGER system.t BEFORE INSERT ON system.small FOR EACH ROW SET NEW.note = 'x'",
        ])
        .await;
    let (old, cx, key) = (server.state().await, steps::context(), key());
    engine.stage(&key, made, &cx).await.unwrap();
    engine.commit(&key, &cx).await.unwrap();
    // As an application does that makes what it misses.
    server
        .run(&[
            "CREATE TABLE system.extra (id int PRIMARY KEY)",
            "INSERT INTO system.extra VALUES (7)",
            "CREATE TRIGGER system.e BEFORE INSERT ON system.extra FOR EACH ROW SET NEW.id = 9",
        ])
        .await;
    engine.rollback(&key, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(server.state().await, old);
    no_schema_is_left(&server).await;
}

#[tokio::test]
async fn a_load_runs_no_more_clients_than_there_is_memory_for() {
    let server = filled(&[]).await;
    let mut settings = server.settings();
    settings.mysql_dump_processes = 2;
    let made = Arc::new(held(&settings.open(server.scratch().to_owned()).unwrap()).await);
    assert_eq!(made.artifacts.len(), 3, "two parts with tables, and what runs by itself");
    let (one, two) = (server.scratch().join("one"), server.scratch().join("two"));
    // The first waits a little for the second.
    let script = format!(
        r#"mkdir {one} 2>/dev/null || touch {two}
for n in $(seq 20); do [ -e {two} ] && break; sleep 0.1; done
"$real" "$@"; status=$?; rmdir {one} 2>/dev/null; exit $status"#,
        one = one.display(),
        two = two.display()
    );
    for (mib, at_once) in [(1024, true), (48, false)] {
        let mut settings = server.settings();
        settings.mysql_dump_processes = 2;
        settings.mysql_memory_limit = Some(mib);
        settings.mysql_program = Some(client_program(&server, "counting", &script));
        let engine = settings.open(server.scratch().to_owned()).unwrap();
        let (key, cx) = (key(), steps::context());
        engine.stage(&key, made.clone(), &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(two.is_file(), at_once, "{mib} MiB");
        engine.rollback(&key, &cx).await.unwrap();
        let _not_there = std::fs::remove_file(&two);
    }
}

/// How the names of this database's locks begin.
async fn prefix(server: &MysqlServer) -> String {
    let sql =
        "SELECT LEFT(schema_name, 19) FROM information_schema.schemata WHERE schema_name LIKE '%keepsake%' LIMIT 1";
    server.value(sql).await.expect("the schema of a load")
}

#[tokio::test]
async fn what_the_server_still_does_for_a_client_of_an_earlier_load_is_waited_for() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let made = Arc::new(steps::dump(&engine).await);
    let (cx, first, second) = (steps::context(), key(), key());
    engine.stage(&first, made.clone(), &cx).await.unwrap();
    let lock = format!("{}client_0", prefix(&server).await);
    engine.rollback(&first, &cx).await.unwrap();

    // A client has it as long as it is connected.
    let go = server.scratch().join("go");
    let script = format!(r#""$real" "$@" < <(cat; until [ -e {} ]; do sleep 0.05; done)"#, go.display());
    let slow = client(&server, "slow", &script);
    let staged = slow.stage(&second, made, &cx);
    let held = async {
        wait_for("the client to hold its lock", Duration::from_secs(30), async || {
            server.value(&format!("SELECT IS_USED_LOCK('{lock}')")).await.map(drop).ok_or("nobody has it")
        })
        .await;
        std::fs::write(&go, "").unwrap();
    };
    let (staged, ()) = tokio::join!(staged, held);
    staged.unwrap_or_else(|e| panic!("{}", e.chain()));

    let mut left = server.conn().await;
    left.query_drop(format!("DO GET_LOCK('{lock}', 0)")).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(1), engine.rollback(&second, &cx)).await;
    assert!(waiting.is_err(), "{waiting:?}: a client of an earlier load was not waited for");
    let error = engine.rollback(&second, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(told(&error).contains(&format!("connection {}", left.id())), "{}", error.chain());
    drop(left);
    engine.rollback(&second, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    no_schema_is_left(&server).await;
}
