//! What is in the way of a hold: seen beforehand without locking anything, and each with its outcome.

use std::time::Duration;

use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine};
use keepsake_core::Kind;
use keepsake_tests::holds::{Postgres, Redis, Server as _, mysql, postgres};
use keepsake_tests::memory::MemorySink;
use keepsake_tests::poll::wait_for;
use keepsake_tests::root::Root;
use keepsake_tests::servers::postgres::PostgresServer;
use keepsake_tests::servers::redis::RedisServer;
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

const BUDGET: Duration = Duration::from_millis(300);
const LEASE: Duration = Duration::from_secs(2);

/// Waits until the engine says that something with these words is in the way.
async fn is_said(engine: &dyn Engine, words: &str) {
    wait_for("the engine to see what is in the way", Duration::from_secs(20), async || {
        let said = engine.ready_to_hold().await.unwrap_or_else(|e| panic!("{}", e.chain()));
        if said.as_ref().is_some_and(|s| s.contains(words)) { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
}

async fn is_ready(engine: &dyn Engine) {
    wait_for("nothing to be in the way", Duration::from_secs(30), async || match engine.ready_to_hold().await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_stays_open_and_a_definition_being_changed_are_seen_on_mysql() {
    let server = mysql(&Root::host()).await;
    let engine = server.engine();
    let open = server.open_transaction().unwrap().await;
    is_said(engine.as_ref(), "a transaction of connection").await;
    // It waits for the transaction, and would itself be waited for.
    let opts = keepsake_tests::servers::mysql::opts(server.0.port());
    let altering = tokio::spawn(async move {
        let mut conn = mysql_async::Conn::new(opts).await.unwrap();
        conn.query_drop("ALTER TABLE `system`.held ADD COLUMN more int, ALGORITHM = COPY").await
    });
    wait_for("the change to begin", Duration::from_secs(20), async || {
        let said = engine.ready_to_hold().await.unwrap();
        let sees_nothing = "connections in another database are not looked at";
        let info =
            server.0.value("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'ALTER TABLE%'").await;
        if info.as_deref() == Some("1") { Ok(()) } else { Err(format!("{said:?} {sees_nothing}")) }
    })
    .await;
    drop(open);
    altering.await.unwrap().unwrap();
    is_ready(engine.as_ref()).await;
}

#[tokio::test]
async fn a_long_query_is_not_waited_for_and_keeps_no_reader_waiting() {
    let server = mysql(&Root::host()).await;
    let engine = server.engine();
    let opts = keepsake_tests::servers::mysql::opts(server.0.port());
    let querying = tokio::spawn(async move {
        let mut conn = mysql_async::Conn::new(opts).await.unwrap();
        conn.query_drop("SELECT SLEEP(20), n FROM `system`.held").await
    });
    wait_for("the query to run", Duration::from_secs(10), async || {
        let running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
        let n = server.0.value(running).await;
        if n.as_deref() == Some("1") { Ok(()) } else { Err(format!("{n:?}")) }
    })
    .await;
    let mut hold = engine.prepare_hold().await.unwrap();
    let taken = hold.take(BUDGET, LEASE).await;
    tokio::time::timeout(LEASE, server.read()).await.expect("a reader waits behind the hold");
    match taken {
        Ok(_) => hold.release().await.unwrap(),
        Err(e) => assert!(e.kind().retry(), "{:?} {}", e.kind(), e.chain()),
    }
    tokio::time::timeout(LEASE, server.read()).await.expect("a reader waits after the hold");
    tokio::time::timeout(LEASE, server.write()).await.expect("a writer waits after the hold");
    assert!(!querying.is_finished(), "the query was ended");
    querying.abort();
}

#[tokio::test]
async fn a_table_cannot_be_made_while_mariadb_is_held() {
    let server = mysql(&Root::host()).await;
    let engine = server.engine();
    let mut hold = engine.prepare_hold().await.unwrap();
    let _prepared = hold.take(BUDGET, LEASE).await.unwrap();
    let opts = keepsake_tests::servers::mysql::opts(server.0.port());
    let mut making = tokio::spawn(async move {
        let mut conn = mysql_async::Conn::new(opts).await.unwrap();
        conn.query_drop("CREATE TABLE `system`.made_meanwhile (id int)").await
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut making).await.is_err(), "it was made under the hold");
    hold.release().await.unwrap();
    making.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_vacuum_and_a_table_made_meanwhile_are_seen_on_postgres() {
    let server = postgres().await;
    let engine = server.engine();
    let client = server.0.client("zync_production").await;
    // The lock that VACUUM and autovacuum take.
    client.batch_execute("BEGIN; LOCK TABLE held IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    is_said(engine.as_ref(), "tables are locked or written to").await;
    let mut hold = engine.prepare_hold().await.unwrap();
    let busy = hold.take(BUDGET, LEASE).await.expect_err("a hold beside a vacuum");
    assert!(matches!(busy.kind(), Kind::Busy | Kind::Timeout), "{:?} {}", busy.kind(), busy.chain());
    hold.release().await.unwrap();
    tokio::time::timeout(LEASE, server.write()).await.expect("a writer waits for a hold that was given up");
    client.batch_execute("ROLLBACK").await.unwrap();
    is_ready(engine.as_ref()).await;

    let mut hold = engine.prepare_hold().await.unwrap();
    let prepared = hold.take(BUDGET, LEASE).await.unwrap();
    client.batch_execute("CREATE TABLE made_meanwhile (id int)").await.unwrap();
    no_dump_under(engine.as_ref(), prepared).await;
    hold.release().await.unwrap();
    client.batch_execute("DROP TABLE made_meanwhile").await.unwrap();

    // Between its preparation and the hold.
    let mut hold = engine.prepare_hold().await.unwrap();
    client.batch_execute("CREATE TABLE made_before (id int)").await.unwrap();
    let prepared = hold.take(BUDGET, LEASE).await.unwrap();
    no_dump_under(engine.as_ref(), prepared).await;
    hold.release().await.unwrap();
}

/// There is a table that nobody held.
async fn no_dump_under(engine: &dyn Engine, prepared: keepsake_agent::engine::Prepared) {
    let (sink, (cx, _progress)) = (MemorySink::default(), Context::new(CancellationToken::new()));
    let refused = engine.dump(Some(prepared), &sink, &cx).await.expect_err("a dump with a table that nobody held");
    assert_eq!(refused.kind(), Kind::Busy, "{}", refused.chain());
    assert!(sink.finished().is_empty());
}

#[tokio::test]
async fn an_autovacuum_is_seen_and_gives_way_only_to_who_may_hurry_it() {
    // So slow that it goes on until the server is stopped.
    let server = PostgresServer::start_with(
        &Root::host(),
        &[
            "autovacuum=on",
            "autovacuum_naptime=1",
            "autovacuum_vacuum_threshold=1",
            "autovacuum_vacuum_scale_factor=0",
            "autovacuum_vacuum_cost_delay=100ms",
            "autovacuum_vacuum_cost_limit=1",
        ]
        .map(str::to_owned),
    )
    .await;
    server.create_owner_and_database("zync", "zync_production").await;
    let statements = [
        "CREATE TABLE held (id int PRIMARY KEY, n bigint)",
        "INSERT INTO held SELECT i, 0 FROM generate_series(1, 50000) i",
        "DELETE FROM held WHERE id > 2",
    ];
    server.run_as("zync", "zync_production", &statements.map(str::to_owned)).await;
    let server = Postgres(server);
    let owner = server.engine();
    // What kind of process it is, only a superuser sees.
    is_said(owner.as_ref(), "of the server").await;
    // Between two tables it locks none for a moment.
    wait_for("a hold to meet the vacuum", Duration::from_secs(30), async || {
        let mut hold = owner.prepare_hold().await.unwrap();
        let taken = hold.take(BUDGET, LEASE).await;
        hold.release().await.unwrap();
        tokio::time::timeout(LEASE, server.write()).await.expect("a writer waits for a hold that was given up");
        match taken {
            Err(e) if matches!(e.kind(), Kind::Busy | Kind::Timeout) => Ok(()),
            Err(e) => panic!("{:?} {}", e.kind(), e.chain()),
            Ok(_) => Err("it was had"),
        }
    })
    .await;

    // In its way or not.
    let settings =
        keepsake_agent::engine::postgres::Settings { postgres_user: "postgres".to_owned(), ..server.settings() };
    let superuser = settings.open(server.0.scratch().to_owned()).unwrap();
    let mut hold = superuser.prepare_hold().await.unwrap();
    let _prepared = hold.take(BUDGET, LEASE).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    hold.renew().await.unwrap();
    hold.release().await.unwrap();
    tokio::time::timeout(LEASE, server.write()).await.expect("a writer waits after the hold");
}

#[tokio::test]
async fn a_save_and_a_rewrite_in_progress_are_seen_on_redis() {
    let server = Redis(RedisServer::start(&["--appendonly", "yes"]).await);
    let engine = server.engine();
    for n in 0..50 {
        server.0.ask::<()>(&["SET", &format!("key:{n}"), "value"]).await;
    }
    for command in ["BGSAVE", "BGREWRITEAOF"] {
        // Microseconds a key: two seconds and a half.
        server.0.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "50000"]).await;
        server.0.ask::<redis::Value>(&[command]).await;
        is_said(engine.as_ref(), "a child at work").await;
        let busy = engine.prepare_hold().await.err().expect("a hold beside a child");
        assert_eq!(busy.kind(), Kind::Busy, "{command}: {}", busy.chain());
        server.0.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "0"]).await;
        is_ready(engine.as_ref()).await;
    }
    let mut hold = engine.prepare_hold().await.unwrap();
    let _prepared = hold.take(BUDGET, LEASE).await.unwrap();
    hold.release().await.unwrap();
}
