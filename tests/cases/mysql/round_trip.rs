//! What was dumped is what comes back.

use keepsake_agent::engine::Staged;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::error::Kind;
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::servers::mysql::odd::ODD;
use mysql_async::prelude::Queryable;

use super::*;

pub(super) async fn odd_server() -> MysqlServer {
    let server = MysqlServer::start().await;
    server.run(ODD).await;
    let mut conn = server.conn().await;
    let every_byte: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    conn.exec_drop("INSERT INTO system.odd (b) VALUES (?)", (every_byte,)).await.unwrap();
    if server.value("SELECT VERSION()").await.unwrap().contains("MariaDB") {
        conn.query_drop("CREATE SEQUENCE system.seq START WITH 77").await.unwrap();
        conn.query_drop("SELECT NEXT VALUE FOR system.seq").await.unwrap();
    }
    server
}

#[tokio::test]
async fn odd_data_comes_back_as_it_was() {
    let server = odd_server().await;
    let engine = server.engine();
    let (sums, schema) = (server.checksums("system").await, server.schema_digest("system").await);
    let (bytes, report) = dump(&engine).await;
    assert_eq!(report.counts["rows:odd"], 11);
    assert_eq!(report.counts["rows:we`ird name.with ünï; -- 日本"], 3);
    // The trigger wrote once, for the one row that came after it; loading must not fire it again.
    assert_eq!(report.counts["rows:log"], 1);
    assert_eq!(["tables", "views", "triggers", "routines", "events"].map(|k| report.counts[k]), [7, 2, 2, 2, 1]);
    assert!(report.warnings.iter().any(|w| w.contains("isam (MyISAM)")), "{:?}", report.warnings);
    assert_eq!(report.facts["definers"], "o`wner@10.%,root@%");
    assert_eq!(report.facts["database_collation"], "utf8mb3_bin");
    assert_eq!(report.tools[0].exit_status, 0);

    // Back over a database with other things and other defaults.
    server
        .run(&[
            "ALTER DATABASE system CHARACTER SET latin1",
            "DROP TABLE system.odd, system.emoji",
            "CREATE TABLE system.extra (id int)",
            "CREATE PROCEDURE system.extra() SELECT 1",
            "INSERT INTO system.isam VALUES (3)",
        ])
        .await;
    let loaded = load(&engine, source(&bytes, Some(&report))).await.unwrap();
    assert!(loaded.warnings.iter().any(|w| w.contains("1 events")), "{:?}", loaded.warnings);
    assert_eq!(server.checksums("system").await, sums);
    assert_eq!(server.schema_digest("system").await, schema);
    let (again, second) = dump(&engine).await;
    assert_eq!(second.counts, report.counts);
    assert_eq!(lines(&again), lines(&bytes), "the dump of the restored database is another");
}

/// The lines that do not tell the time.
fn lines(dump: &[u8]) -> Vec<&[u8]> {
    dump.split(|b| *b == b'\n').filter(|l| !l.starts_with(b"-- Dump completed")).collect()
}

#[tokio::test]
async fn what_it_is_and_an_empty_database() {
    let server = MysqlServer::with(&["--log-bin=bin", "--server-id=1"]).await;
    let engine = server.engine();
    let found = engine.describe().await.unwrap();
    assert!(found.problems.iter().any(|p| p.contains("no database system")), "{:?}", found.problems);
    let error = engine.dump(None, &MemorySink::default(), &context().0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);

    server.run(&["CREATE DATABASE system CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"]).await;
    let found = engine.describe().await.unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert!(found.server.starts_with("MariaDB 1") || found.server.starts_with("MySQL "), "{}", found.server);
    assert_eq!(found.tools.len(), 2);
    assert!(found.position.is_some());
    assert!(found.undo.is_ok() && found.hold.is_ok());
    assert_eq!(found.loads, []);
    assert!(found.staging_free.is_some_and(|free| free > 0), "the server's folder is here: {:?}", found.staging_free);
    for fact in ["family", "sql_mode", "lower_case_table_names", "max_allowed_packet", "collation_server"] {
        assert!(found.facts.contains_key(fact), "{fact} of {:?}", found.facts);
    }

    let (bytes, report) = dump(&engine).await;
    assert_eq!(report.counts["tables"], 0);
    assert_eq!(report.position, found.position);
    server.run(&["CREATE TABLE system.extra (id int)"]).await;
    let (key, (cx, _)) = (key(), context());
    let source = source(&bytes, Some(&report));
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
    assert_eq!(engine.commit(&key, &cx).await.unwrap_err().kind(), Kind::Conflict);
    engine.stage(&key, source.clone(), &cx).await.unwrap();
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Staged);
    assert_eq!(engine.describe().await.unwrap().loads, [(key.run, Staged::Staged)]);
    engine.rollback(&key, &cx).await.unwrap();
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
    // As on a new server.
    server.run(&["DROP DATABASE system"]).await;
    engine.stage(&key, source, &cx).await.unwrap();
    engine.commit(&key, &cx).await.unwrap();
    engine.rollback(&key, &cx).await.unwrap();
    assert_eq!(server.value("SHOW DATABASES LIKE 'system'").await, None, "there was none before");
    assert_eq!(server.value("SHOW DATABASES LIKE '%keepsake%'").await, None);
    engine.stage(&key, super::source(&bytes, Some(&report)), &cx).await.unwrap();
    engine.commit(&key, &cx).await.unwrap();
    assert!(server.tables("system").await.is_empty());
    assert_eq!(engine.describe().await.unwrap().facts["database_collation"], "utf8mb3_bin");
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committed);
    engine.commit(&key, &cx).await.unwrap();
    engine.finalize(&key, &cx).await.unwrap();
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
    for _ in 0..2 {
        engine.rollback(&key, &cx).await.unwrap();
        engine.finalize(&key, &cx).await.unwrap();
    }
    assert!(server.tables("system").await.is_empty());
    assert_eq!(server.value("SHOW DATABASES LIKE '%keepsake%'").await, None);
}

#[tokio::test]
async fn a_dump_without_a_record_through_the_socket() {
    let server = MysqlServer::start().await;
    server
        .run(&["CREATE DATABASE other", "CREATE TABLE other.t (id int)", "INSERT INTO other.t VALUES (1), (2)"])
        .await;
    let settings = || {
        let mut settings = server.settings();
        settings.mysql_socket = Some(server.socket());
        settings.mysql_database = "other".to_owned();
        settings
    };
    let engine = settings().open(server.scratch().to_owned()).unwrap();
    let (bytes, _) = dump(&engine).await;
    server.run(&["DELETE FROM other.t"]).await;
    let (key, (cx, _)) = (key(), context());
    let staged = engine.stage(&key, source(&bytes, None), &cx).await.unwrap();
    assert!(staged.warnings.iter().any(|w| w.contains("without a record")), "{:?}", staged.warnings);
    assert_eq!(engine.commit(&key, &cx).await.unwrap().counts["rows:t"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_under_writes_is_of_one_instant() {
    let server = MysqlServer::start().await;
    server
        .run(&[
            "CREATE DATABASE system",
            "CREATE TABLE system.a (id bigint PRIMARY KEY AUTO_INCREMENT, pad varchar(2000))",
            "CREATE TABLE system.m (id bigint PRIMARY KEY AUTO_INCREMENT, pad varchar(2000))",
            "CREATE TABLE system.z (id bigint PRIMARY KEY AUTO_INCREMENT)",
            "INSERT INTO system.m (pad) SELECT REPEAT('x', 2000) FROM information_schema.columns LIMIT 1500",
        ])
        .await;
    let stop = CancellationToken::new();
    let (mut conn, stopped) = (server.conn().await, stop.clone());
    let writer = tokio::spawn(async move {
        let mut written = 0_u64;
        while !stopped.is_cancelled() {
            for sql in ["BEGIN", "INSERT INTO system.a (pad) VALUES ('')", "INSERT INTO system.z VALUES ()", "COMMIT"] {
                conn.query_drop(sql).await.unwrap();
            }
            written += 1;
        }
        written
    });
    let engine = server.engine();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (bytes, report) = dump(&engine).await;
        assert_eq!(report.counts["rows:a"], report.counts["rows:z"]);
        seen.push((bytes, report));
    }
    stop.cancel();
    assert!(writer.await.unwrap() > 0);
    let (bytes, report) = seen.pop().unwrap();
    assert!(report.counts["rows:a"] > 0, "nothing was written before the last dump");
    load(&engine, source(&bytes, Some(&report))).await.unwrap();
}

#[tokio::test]
async fn over_tls_only_to_the_server_whose_certificate_fits() {
    let folder = keepsake_tests::scratch::Scratch::new();
    let (file, made) =
        (|name: &str| folder.path().join(name), rcgen::generate_simple_self_signed(["localhost".to_owned()]));
    let made = made.unwrap();
    std::fs::write(file("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("other.pem"), other.cert.pem()).unwrap();
    let server = MysqlServer::with(&[
        &format!("--ssl-cert={}", file("cert.pem").display()),
        &format!("--ssl-key={}", file("key.pem").display()),
        "--require-secure-transport=OFF",
    ])
    .await;
    server.run(&["CREATE DATABASE system", "CREATE TABLE system.t (id int)", "INSERT INTO system.t VALUES (1)"]).await;
    server.run(&["SET GLOBAL require_secure_transport = ON"]).await;
    let engine = |ca: &str, host: &str| {
        let mut settings = server.settings();
        settings.mysql_ca_file = Some(file(ca));
        settings.mysql_host = host.to_owned();
        settings.open(server.scratch().to_owned()).unwrap()
    };
    let good = engine("cert.pem", "localhost");
    let (bytes, report) = dump(&good).await;
    load(&good, source(&bytes, Some(&report))).await.unwrap();
    for (ca, host) in [("other.pem", "localhost"), ("cert.pem", "127.0.0.1")] {
        let error = engine(ca, host).describe().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", told(&error));
    }
    let mut far = server.settings();
    far.mysql_host = "db.example".to_owned();
    let Err(error) = far.open(server.scratch().to_owned()) else { panic!("plaintext to another machine") };
    assert!(error.chain().contains("--mysql-insecure"));
}
