//! The postgres engine on a real server.

mod full;
mod in_place;
mod kills;
mod limits;
mod staged;
mod strikes;
mod tls;
mod told;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepsake_agent::engine::postgres::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine, Source};
use keepsake_core::Kind;
use keepsake_core::format::pgc;
use keepsake_core::id::{ArtifactName, Epoch, RunId, RunKey};
use keepsake_core::record::DumpReport;
use keepsake_tests::memory::{InPlace, MemorySink, MemorySource};
use keepsake_tests::servers::postgres::{PostgresServer, programs};
use keepsake_tests::threescale::{Size, zync};
use tokio_util::sync::CancellationToken;

const DATABASE: &str = "zync_production";

fn settings(server: &PostgresServer, user: &str) -> Settings {
    Settings {
        postgres_host: "127.0.0.1".to_owned(),
        postgres_port: server.port(),
        postgres_user: user.to_owned(),
        postgres_password_file: Some(server.password_file().to_owned()),
        postgres_database: DATABASE.to_owned(),
        postgres_bin_dir: Some(programs()),
        ..Settings::default()
    }
}

fn engine(server: &PostgresServer, user: &str) -> Arc<dyn Engine> {
    settings(server, user).open(server.scratch().to_owned()).unwrap()
}

fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

fn run() -> RunKey {
    RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) }
}

async fn dump(engine: &Arc<dyn Engine>) -> (DumpReport, Vec<u8>) {
    let sink = MemorySink::default();
    let report = engine.dump(None, &sink, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    (report, sink.finished().pop_first().unwrap().1)
}

fn source(report: DumpReport, archive: Vec<u8>) -> Arc<MemorySource> {
    Arc::new(MemorySource {
        artifacts: [(ArtifactName::new("dump.pgc").unwrap(), archive)].into(),
        recorded: Some(report),
    })
}

fn in_place(source: Arc<MemorySource>) -> Arc<dyn Source> {
    Arc::new(InPlace(source))
}

async fn restore(engine: &Arc<dyn Engine>, source: Arc<dyn Source>) -> keepsake_core::Result<()> {
    let key = run();
    engine.stage(&key, source, &context()).await?;
    engine.commit(&key, &context()).await?;
    engine.finalize(&key, &context()).await
}

/// Makes a database of a role that is no superuser and may make databases.
async fn owned(server: &PostgresServer, role: &str, database: &str) {
    server.create_owner_and_database(role, database).await;
    server.run_as("postgres", "postgres", &[format!("ALTER ROLE {role} CREATEDB")]).await;
}

/// A server with zync's database.
async fn zync_server() -> PostgresServer {
    let server = PostgresServer::start().await;
    owned(&server, "zync", DATABASE).await;
    server.run_as("zync", DATABASE, &zync::statements(1, Size::TINY)).await;
    server
}

/// What PostgreSQL has beyond plain tables.
fn oddities() -> Vec<String> {
    [
        "CREATE SCHEMA \"Odd schema\"",
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
        "CREATE TABLE \"Odd schema\".\"Table with \"\"quotes\"\"\" (id integer GENERATED ALWAYS AS IDENTITY, b bytea, f double precision, a text[], m mood, \
         p positive, g integer GENERATED ALWAYS AS (p * 2) STORED)",
        "INSERT INTO \"Odd schema\".\"Table with \"\"quotes\"\"\" (b, f, a, m, p) VALUES ('\\x00ff5c', 'NaN', '{a,NULL,\"x y\"}', 'ok', 7), (NULL, '-Infinity', '{}', NULL, 1)",
        "CREATE TABLE parts (id integer, at date) PARTITION BY RANGE (at)",
        "CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "INSERT INTO parts VALUES (1, '2026-11-23')",
        "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM parts",
        "CREATE VIEW shown AS SELECT n FROM counted",
        "SELECT lo_from_bytea(0, '\\x6b656570')",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn everything_comes_back_over_other_data_as_superuser_and_as_owner() {
    let server = zync_server().await;
    server.run_as("zync", DATABASE, &oddities()).await;
    let (rows, schema) = (server.digests(DATABASE).await, server.schema(DATABASE));
    for user in ["postgres", "zync"] {
        let engine = engine(&server, user);
        assert_eq!(engine.describe().await.unwrap().problems, Vec::<String>::new());
        let (report, archive) = dump(&engine).await;
        assert_eq!(report.counts["rows:public.models"], 40);
        assert!(!report.counts.contains_key("rows:public.que_lockers"));
        server.run_as("zync", DATABASE, &zync::wreck()).await;
        assert_ne!(server.digests(DATABASE).await, rows);
        restore(&engine, source(report.clone(), archive)).await.unwrap_or_else(|e| panic!("{user}: {}", e.chain()));
        let mut expected = rows.clone();
        // The lockers name processes that were alive then.
        expected.insert("public.que_lockers".to_owned(), "0 ".to_owned());
        assert_eq!(server.digests(DATABASE).await, expected, "as {user}");
        assert_eq!(server.schema(DATABASE), schema, "as {user}");
        let (again, _) = dump(&engine).await;
        assert_eq!(again.counts, report.counts);
        server
            .run_as(
                "zync",
                DATABASE,
                &["INSERT INTO que_lockers VALUES (4711, 10, '{default,integrations}')".to_owned()],
            )
            .await;
    }
    let left: Vec<(i64,)> = server
        .client(DATABASE)
        .await
        .query("SELECT count(*) FROM pg_largeobject_metadata", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| (r.get(0),))
        .collect();
    assert_eq!(left, [(1,)]);
}

#[tokio::test]
async fn an_empty_database_comes_back() {
    let server = PostgresServer::start().await;
    owned(&server, "zync", DATABASE).await;
    let engine = engine(&server, "zync");
    let (report, archive) = dump(&engine).await;
    server.run_as("zync", DATABASE, &["CREATE TABLE surplus (id int)".to_owned()]).await;
    restore(&engine, source(report, archive)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(server.digests(DATABASE).await.is_empty());
}

#[tokio::test]
async fn what_is_damaged_is_refused_before_anything_is_touched() {
    let server = zync_server().await;
    let engine = engine(&server, "postgres");
    let (report, archive) = dump(&engine).await;
    let before = server.digests(DATABASE).await;
    let mut newer_server = report.clone();
    newer_server.facts.insert("server_version_num".to_owned(), "990000".to_owned());
    let mut other_encoding = report.clone();
    other_encoding.facts.insert("encoding".to_owned(), "LATIN1".to_owned());
    for (what, report, archive) in [
        ("cut", report.clone(), archive[..archive.len() - 10].to_vec()),
        ("cut early", report.clone(), archive[..2_000].to_vec()),
        ("empty", report.clone(), Vec::new()),
        ("foreign", report.clone(), b"REDIS0011".repeat(1_000)),
        ("newer server", newer_server, archive.clone()),
        ("other encoding", other_encoding, archive.clone()),
    ] {
        let refused = restore(&engine, source(report, archive)).await.unwrap_err();
        assert!(
            matches!(refused.kind(), Kind::Corrupt | Kind::Unsupported),
            "{what}: {:?} {}",
            refused.kind(),
            refused.chain()
        );
        assert_eq!(server.digests(DATABASE).await, before, "{what}");
    }
}

#[tokio::test]
async fn rows_and_passwords_are_never_told() {
    let server = zync_server().await;
    server
        .run_as(
            "zync",
            DATABASE,
            &[
                "CREATE TABLE unique_once (v text)".to_owned(),
                "INSERT INTO unique_once VALUES ('canary-row'), ('canary-row')".to_owned(),
            ],
        )
        .await;
    let wrong = server.scratch().join("wrong");
    std::fs::write(&wrong, "canary-wrong-password").unwrap();
    let bad =
        Settings { postgres_password_file: Some(wrong), ..settings(&server, "postgres") }.open(PathBuf::new()).unwrap();
    let refused = bad.describe().await.err().unwrap();
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert!(
        !refused.chain().contains("canary") && refused.chain().contains("--postgres-password-file"),
        "{}",
        refused.chain()
    );
    let absent = Settings { postgres_database: "absent".to_owned(), ..settings(&server, "postgres") }
        .open(PathBuf::new())
        .unwrap();
    assert_eq!(absent.describe().await.err().unwrap().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_sink_that_fails_a_cancel_and_a_vanished_server_leave_no_dump() {
    let mut server = zync_server().await;
    let engine = engine(&server, "postgres");
    let sink = MemorySink::failing_after(1_000);
    assert_eq!(engine.dump(None, &sink, &context()).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(sink.finished().is_empty());

    let (cx, mut progress) = Context::new(CancellationToken::new());
    let sink = MemorySink::default();
    // A table that nobody may read for now keeps pg_dump waiting.
    let blocker = server.client(DATABASE).await;
    blocker.batch_execute("BEGIN; LOCK TABLE models").await.unwrap();
    let dumping = engine.dump(None, &sink, &cx);
    let stop = async {
        progress.wait_for(|p| p.snapshot_open).await.unwrap();
        cx.cancel.cancel();
    };
    let (done, ()) = tokio::join!(dumping, stop);
    assert_eq!(done.unwrap_err().kind(), Kind::Cancelled);
    assert!(sink.finished().is_empty());
    drop(blocker);
    let client = server.client("postgres").await;
    keepsake_tests::poll::wait_for("pg_dump to be gone", std::time::Duration::from_secs(20), async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('pg_dump', 'keepsake-agent')";
        let left: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        if left == 0 { Ok(()) } else { Err(format!("{left} sessions")) }
    })
    .await;
    dump(&engine).await;

    server.kill9();
    let gone = engine.dump(None, &sink, &context()).await.unwrap_err();
    assert!(gone.kind().retry(), "{:?} {}", gone.kind(), gone.chain());
}

#[tokio::test]
async fn the_fixture_comes_back_as_it_was() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/zync.sql.zst");
    if !fixture.is_file() {
        eprintln!("SKIPPED: there is no {}", fixture.display());
        return;
    }
    let server = PostgresServer::start().await;
    server.create_owner_and_database("zync", DATABASE).await;
    let plain = server.scratch().join("zync.sql");
    let mut zstd = keepsake_tests::child::tool_command("zstd");
    zstd.args(["-q", "-d", "-o"]).arg(&plain).arg(&fixture);
    assert!(keepsake_tests::child::run(&mut zstd).status.success());
    server.run_file(DATABASE, &plain);
    let mut rows = server.digests(DATABASE).await;
    rows.insert("public.que_lockers".to_owned(), "0 ".to_owned());
    let schema = server.schema(DATABASE);
    let engine = engine(&server, "postgres");
    let (report, archive) = dump(&engine).await;
    for (table, count) in [("applications", 10_000), ("models", 11_804), ("notifications", 10_084), ("que_jobs", 75)] {
        assert_eq!(report.counts[&format!("rows:public.{table}")], count);
    }
    server
        .run_as("postgres", DATABASE, &["TRUNCATE models CASCADE".to_owned(), "DROP TABLE que_jobs CASCADE".to_owned()])
        .await;
    restore(&engine, source(report, archive)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(server.digests(DATABASE).await, rows);
    assert_eq!(server.schema(DATABASE), schema);
}

#[tokio::test]
async fn postgres_archive_that_is_cut_or_changed_in_its_structure_is_found() {
    let server = zync_server().await;
    server.run_as("zync", DATABASE, &oddities()).await;
    let (report, archive) = dump(&engine(&server, "zync")).await;
    let walked = pgc::walk(archive.as_slice()).unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(walked.length, archive.len() as u64);
    assert!(walked.owners.contains("zync") && walked.entries["TABLE DATA"] as usize == walked.rows.len(), "{walked:?}");
    for (table, rows) in walked.counts() {
        assert_eq!(report.counts.get(&table), Some(&rows), "{table}");
    }
    // Cut anywhere: at every byte of the end, at many of the rest.
    for length in (0..archive.len()).step_by(61).chain(archive.len().saturating_sub(400)..archive.len()) {
        let error = pgc::walk(&archive[..length]).expect_err("a cut archive");
        assert_eq!(error.kind(), Kind::Corrupt, "{length}: {}", error.chain());
    }
    let mut longer = archive.clone();
    longer.push(0);
    assert_eq!(pgc::walk(longer.as_slice()).expect_err("bytes after the end").kind(), Kind::Corrupt);
    // A row without its end is not taken for two, nor its table for whole. The end mark has a chunk of its own, with a length of five bytes.
    let mark = archive.windows(5).rposition(|w| w == b"\\.\n\n\n").expect("the end of a table");
    let end = (0..mark).rev().find(|at| archive[*at] == b'\n' && archive[at + 1..mark].len() == 5);
    if let Some(end) = end {
        let mut other = archive.clone();
        other[end] = b'x';
        assert_eq!(pgc::walk(other.as_slice()).expect_err("a row without its end").kind(), Kind::Corrupt);
    }
    let mut other = archive.clone();
    other[mark] = b'x';
    assert_eq!(pgc::walk(other.as_slice()).expect_err("a table without its end").kind(), Kind::Corrupt);
}
