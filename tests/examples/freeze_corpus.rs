//! Makes the corpus of the fuzz test anew, from real servers: `cargo run -p keepsake-tests --example freeze_corpus`.
//!
//! Small on purpose: each file holds every structure of its format that we know how to make, once.

use std::path::Path;
use std::sync::Arc;

use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine, files, postgres, redis};
use keepsake_tests::memory::MemorySink;
use keepsake_tests::scratch::Scratch;
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::servers::postgres::{PostgresServer, programs};
use keepsake_tests::servers::redis::RedisServer;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    std::fs::create_dir_all(&corpus).expect("make the folder");
    for (name, bytes) in
        [("dump.rdb", rdb().await), ("dump.sql", sql().await), ("dump.pgc", pgc().await), ("files.tar", tar().await)]
    {
        println!("{name}: {} bytes", bytes.len());
        std::fs::write(corpus.join(name), bytes).expect("write the corpus");
    }
}

async fn dump(engine: Arc<dyn Engine>) -> Vec<u8> {
    let sink = MemorySink::default();
    let (cx, _) = Context::new(CancellationToken::new());
    engine.dump(None, &sink, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    sink.finished().pop_first().expect("an artifact").1
}

async fn rdb() -> Vec<u8> {
    let server = RedisServer::start(&[
        "--hash-max-listpack-entries",
        "2",
        "--zset-max-listpack-entries",
        "2",
        "--set-max-intset-entries",
        "2",
    ])
    .await;
    let long = "long ".repeat(40);
    for words in [
        &["SET", "number", "12345"][..],
        &["SET", "text", "a text"],
        &["SET", "compressed", &long],
        &["SET", "soon", "x", "EX", "100000"],
        &["RPUSH", "list", "1", "two", &long],
        &["SADD", "small-set", "1", "2"],
        &["SADD", "set", "1", "two", "three"],
        &["HSET", "small-hash", "a", "1"],
        &["HSET", "hash", "a", "1", "b", "2", "c", "3"],
        &["ZADD", "small-zset", "1", "a"],
        &["ZADD", "zset", "1", "a", "2.5", "b", "inf", "c"],
        &["XADD", "stream", "1-1", "field", "value"],
        &["XGROUP", "CREATE", "stream", "group", "0"],
        &["XREADGROUP", "GROUP", "group", "consumer", "STREAMS", "stream", ">"],
        &["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)"],
        &["COPY", "hash", "other", "DB", "1"],
        &["COPY", "zset", "other", "DB", "15"],
    ] {
        server.ask::<::redis::Value>(words).await;
    }
    let settings = redis::Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_data_dir: Some(server.data().to_owned()),
        ..redis::Settings::default()
    };
    dump(settings.open(server.scratch().to_owned()).expect("an engine")).await
}

async fn sql() -> Vec<u8> {
    let server = MysqlServer::start().await;
    server
        .run(&[
            "CREATE DATABASE `system` CHARACTER SET utf8mb3",
            "USE `system`",
            "CREATE TABLE a (id int PRIMARY KEY, t text, b varbinary(20))",
            "INSERT INTO a VALUES (1, 'it''s; -- a \\\\ text', x'00ff27'), (2, NULL, '')",
            "CREATE TABLE b (a_id int, FOREIGN KEY (a_id) REFERENCES a (id))",
            "INSERT INTO b VALUES (1), (2)",
            "CREATE VIEW v AS SELECT id FROM a",
            "CREATE TRIGGER tr BEFORE INSERT ON a FOR EACH ROW BEGIN SET NEW.t = 'x;y'; END",
            "CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END",
            "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM b",
        ])
        .await;
    dump(server.engine()).await
}

async fn pgc() -> Vec<u8> {
    let server = PostgresServer::start().await;
    server.create_owner_and_database("zync", "zync_production").await;
    let statements = [
        "CREATE TABLE a (id serial PRIMARY KEY, t text, b bytea)",
        "INSERT INTO a (t, b) VALUES (E'tab\\t and \\\\ and \\n line', '\\x00ff'), (NULL, '')",
        "CREATE TABLE empty (id int)",
        "CREATE VIEW v AS SELECT id FROM a",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT lo_from_bytea(0, '\\x0102')",
        "COMMENT ON TABLE a IS 'a comment'",
    ];
    server.run_as("zync", "zync_production", &statements.map(str::to_owned)).await;
    let settings = postgres::Settings {
        postgres_host: "127.0.0.1".to_owned(),
        postgres_port: server.port(),
        postgres_user: "zync".to_owned(),
        postgres_password_file: Some(server.password_file().to_owned()),
        postgres_database: "zync_production".to_owned(),
        postgres_bin_dir: Some(programs()),
        ..postgres::Settings::default()
    };
    dump(settings.open(server.scratch().to_owned()).expect("an engine")).await
}

async fn tar() -> Vec<u8> {
    let scratch = Scratch::new();
    let root = scratch.folder("volume", 0o755);
    std::fs::create_dir(root.join("folder")).expect("a folder");
    std::fs::write(root.join("folder/file"), b"content").expect("a file");
    std::fs::write(root.join(format!("folder/{}", "long-name-".repeat(20))), b"x").expect("a file");
    std::fs::hard_link(root.join("folder/file"), root.join("folder/second")).expect("a link");
    std::os::unix::fs::symlink("../folder/file", root.join("link")).expect("a symlink");
    let sparse = std::fs::File::create(root.join("sparse")).expect("a file");
    sparse.set_len(1 << 20).expect("a hole");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 500_000).expect("data");
    let settings = files::Settings { files_root: root, files_preserve_owner: false };
    dump(settings.open(scratch.path().to_owned()).expect("an engine")).await
}
