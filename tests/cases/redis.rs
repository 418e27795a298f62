//! The redis engine on real servers.

mod methods;
mod network;
mod queues;
mod staged;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::engine::redis::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine, Staged};
use keepsake_core::Kind;
use keepsake_core::id::{ArtifactName, Epoch, RunId, RunKey};
use keepsake_core::record::DumpReport;
use keepsake_tests::memory::{MemorySink, MemorySource};
use keepsake_tests::poll::wait_for;
use keepsake_tests::servers::redis::{PASSWORD, RedisServer};
use keepsake_tests::threescale::{Size, backend, system_redis};
use tokio_util::sync::CancellationToken;

fn settings(server: &RedisServer) -> Settings {
    Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_data_dir: Some(server.data().to_owned()),
        ..Settings::default()
    }
}

fn engine(server: &RedisServer) -> Arc<dyn Engine> {
    settings(server).open(server.scratch().to_owned()).unwrap()
}

/// What 3scale's operator writes into redis-config from 2.15 on, and Redis 7's own default for DEBUG.
const AS_IN_2_15: [&str; 8] =
    ["--rename-command", "REPLICAOF", "", "--rename-command", "SLAVEOF", "", "--enable-debug-command", "no"];

fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

fn run() -> RunKey {
    RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) }
}

async fn dump(server: &RedisServer) -> (DumpReport, Vec<u8>) {
    let sink = MemorySink::default();
    let report = engine(server).dump(None, &sink, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let mut artifacts = sink.finished();
    assert_eq!(artifacts.len(), 1);
    (report, artifacts.pop_first().unwrap().1)
}

fn source(report: Option<DumpReport>, rdb: Vec<u8>) -> Arc<MemorySource> {
    Arc::new(MemorySource { artifacts: [(ArtifactName::new("dump.rdb").unwrap(), rdb)].into(), recorded: report })
}

async fn restore(server: &RedisServer, source: Arc<MemorySource>) -> keepsake_core::Result<()> {
    let (engine, key) = (engine(server), run());
    engine.stage(&key, source, &context()).await?;
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Staged);
    engine.commit(&key, &context()).await?;
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committed);
    engine.finalize(&key, &context()).await?;
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
    assert_eq!(leftovers(server), Vec::<String>::new());
    Ok(())
}

/// Files of loads, in the server's folder and the agent's.
fn leftovers(server: &RedisServer) -> Vec<String> {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let ours = |n: &String| [".keepsake", "redis-follows", "touched"].iter().any(|p| n.starts_with(p));
    [names(server.data()), names(server.scratch())].concat().into_iter().filter(ours).collect()
}

async fn fill(server: &RedisServer) {
    backend::fill(&server.client(), 1, Size::TINY).await.unwrap();
    system_redis::fill(&server.client(), 2, Size::TINY).await.unwrap();
}

/// No save of the server is left half done.
fn no_leftovers(data: &Path) {
    let left: Vec<_> = std::fs::read_dir(data)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with("temp-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_empty_server_and_a_full_one_come_back_over_other_data() {
    for appendonly in ["no", "yes"] {
        let from = RedisServer::start(&[]).await;
        let (empty_report, empty) = dump(&from).await;
        assert!(empty_report.counts.values().all(|n| *n == 0), "{:?}", empty_report.counts);
        fill(&from).await;
        let (report, rdb) = dump(&from).await;
        assert!(report.counts["keys:db0"] > 100 && report.counts["keys:db1"] > 5, "{:?}", report.counts);
        assert_eq!(report.counts["expiring:db0"], 1);
        let want = from.digest().await;

        let mut to = RedisServer::start(&["--appendonly", appendonly]).await;
        to.ask::<()>(&["SET", "surplus", "1"]).await;
        restore(&to, source(Some(report), rdb)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(to.digest().await, want, "appendonly {appendonly}");
        to.kill9();
        to.restart().await;
        assert_eq!(to.digest().await, want, "after a kill, appendonly {appendonly}");

        restore(&to, source(Some(empty_report), empty)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(to.ask::<u64>(&["DBSIZE"]).await, 0);
        no_leftovers(to.data());
    }
}

#[tokio::test]
async fn what_is_damaged_is_refused_before_anything_is_touched() {
    let server = RedisServer::start(&[]).await;
    fill(&server).await;
    let (report, rdb) = dump(&server).await;
    let before = server.digest().await;
    let mut flipped = rdb.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut newer = rdb.clone();
    newer[5..9].copy_from_slice(b"0099");
    let mut other_counts = report.clone();
    other_counts.counts.insert("keys:db0".to_owned(), 1);
    for (what, report, rdb) in [
        ("cut", report.clone(), rdb[..rdb.len() - 1].to_vec()),
        ("cut early", report.clone(), rdb[..100].to_vec()),
        ("empty", report.clone(), Vec::new()),
        ("flipped", report.clone(), flipped),
        ("newer", report.clone(), newer),
        ("foreign", report.clone(), b"-- MySQL dump".to_vec()),
        ("other counts", other_counts, rdb.clone()),
    ] {
        let refused = restore(&server, source(Some(report), rdb)).await.unwrap_err();
        assert!(matches!(refused.kind(), Kind::Corrupt | Kind::Unsupported), "{what}: {}", refused.chain());
        assert_eq!(server.digest().await, before, "{what}");
    }
}

#[tokio::test]
async fn a_sink_that_fails_and_a_cancel_leave_nothing_and_the_next_dump_works() {
    let server = RedisServer::start(&[]).await;
    fill(&server).await;
    let sink = MemorySink::failing_after(1_000);
    let failed = engine(&server).dump(None, &sink, &context()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable, "{}", failed.chain());
    assert!(sink.finished().is_empty());

    // A child of the server that takes long keeps the dump waiting; it is cancelled there.
    server.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "5000"]).await;
    let cancel = CancellationToken::new();
    let (cx, mut progress) = Context::new(cancel.clone());
    let sink = MemorySink::default();
    let engine = engine(&server);
    let dump_it = engine.dump(None, &sink, &cx);
    let stop = async {
        progress.wait_for(|p| p.snapshot_open).await.unwrap();
        cancel.cancel();
    };
    let (done, ()) = tokio::join!(dump_it, stop);
    assert_eq!(done.unwrap_err().kind(), Kind::Cancelled);
    assert!(sink.finished().is_empty());
    server.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "0"]).await;
    dump(&server).await;
}

#[tokio::test]
async fn a_save_or_rewrite_in_progress_is_waited_for() {
    let server = RedisServer::start(&["--appendonly", "yes"]).await;
    fill(&server).await;
    server.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]).await;
    for command in ["BGSAVE", "BGREWRITEAOF"] {
        server.ask::<String>(&[command]).await;
        server.ask::<()>(&["SET", "written-after", command]).await;
        server.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "0"]).await;
        let (report, rdb) = dump(&server).await;
        let to = RedisServer::start(&[]).await;
        restore(&to, source(Some(report), rdb)).await.unwrap();
        assert_eq!(to.ask::<String>(&["GET", "written-after"]).await, command, "an older instant was dumped");
        server.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]).await;
    }
}

#[tokio::test]
async fn dumps_under_write_load_are_whole() {
    let server = RedisServer::start(&[]).await;
    fill(&server).await;
    let client = server.client();
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let mut n = 0_u64;
            while !stop.is_cancelled() {
                redis::pipe()
                    .atomic()
                    .set("a", n)
                    .ignore()
                    .set("b", n)
                    .ignore()
                    .query_async::<()>(&mut connection)
                    .await
                    .unwrap();
                n += 1;
            }
        }
    });
    for _ in 0..3 {
        let (report, rdb) = dump(&server).await;
        let to = RedisServer::start(&[]).await;
        restore(&to, source(Some(report), rdb)).await.unwrap();
        let (a, b): (Option<u64>, Option<u64>) = (to.ask(&["GET", "a"]).await, to.ask(&["GET", "b"]).await);
        assert_eq!(a, b);
    }
    stop.cancel();
    writer.await.unwrap();
}

#[tokio::test]
async fn refusals_say_what_to_do_and_no_secret() {
    // As 3scale 2.15 configures Redis 7: nothing but a restart is left, and nobody has said who starts it again.
    let server = RedisServer::start(&AS_IN_2_15).await;
    let (report, rdb) = dump(&server).await;
    let refused = restore(&server, source(Some(report), rdb)).await.unwrap_err();
    for word in ["renamed away", "enable-debug-command", "--redis-restarted-by"] {
        assert!(refused.chain().contains(word), "{}", refused.chain());
    }

    let wrong = server.data().with_file_name("wrong");
    std::fs::write(&wrong, "canary-wrong-password").unwrap();
    let bad = Settings { redis_password_file: Some(wrong), ..settings(&server) }.open(PathBuf::new()).unwrap();
    let refused = bad.describe().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert!(!refused.chain().contains("canary"), "{}", refused.chain());

    let url = Settings { redis_url: format!("redis://:{PASSWORD}@127.0.0.1:1"), ..settings(&server) };
    let refused = url.open(PathBuf::new()).err().unwrap();
    assert!(
        !refused.chain().contains("canary") && refused.chain().contains("--redis-password-file"),
        "{}",
        refused.chain()
    );

    let primary = RedisServer::start(&[]).await;
    let port = primary.url().rsplit(':').next().unwrap().to_owned();
    let replica = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {port}"), "--masterauth", PASSWORD]).await;
    let refused = engine(&replica).dump(None, &MemorySink::default(), &context()).await.unwrap_err();
    assert!(refused.chain().contains("primary"), "{}", refused.chain());
}

#[tokio::test]
async fn a_server_that_vanishes_is_an_error_at_every_stage() {
    let mut server = RedisServer::start(&[]).await;
    fill(&server).await;
    let (report, rdb) = dump(&server).await;
    server.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "5000"]).await;
    let engine = engine(&server);
    let (cx, mut progress) = Context::new(CancellationToken::new());
    let sink = MemorySink::default();
    let dumping = engine.dump(None, &sink, &cx);
    let kill = async {
        progress.wait_for(|p| p.snapshot_open).await.unwrap();
        server.kill9();
    };
    let (done, ()) = tokio::join!(dumping, kill);
    let error = done.unwrap_err();
    assert!(error.kind().retry(), "{:?} {}", error.kind(), error.chain());
    assert!(sink.finished().is_empty());
    let refused = engine.stage(&run(), source(Some(report), rdb), &context()).await.unwrap_err();
    assert!(refused.kind().retry(), "{}", refused.chain());
}

#[tokio::test]
async fn a_server_left_as_a_replica_of_a_dead_agent_is_freed() {
    let server = RedisServer::start(&[]).await;
    fill(&server).await;
    let (report, rdb) = dump(&server).await;
    let engine = engine(&server);
    let key = run();
    engine.stage(&key, source(Some(report), rdb), &context()).await.unwrap();
    // The agent dies when the server has just taken the data: its task is dropped without any clean-up.
    let commit = {
        let (engine, key) = (engine.clone(), key.clone());
        tokio::spawn(async move { engine.commit(&key, &context()).await })
    };
    wait_for("the server to become a replica", Duration::from_secs(20), async || {
        let info: String = server.ask(&["INFO", "replication"]).await;
        if info.contains("role:slave") || info.contains("6b65657073616b65") { Ok(()) } else { Err(info) }
    })
    .await;
    commit.abort();
    let _ = commit.await;
    wait_for("the server to be a master again", Duration::from_secs(20), async || {
        engine.describe().await.map_err(|e| e.chain())?;
        let info: String = server.ask(&["INFO", "replication"]).await;
        if info.contains("role:master") { Ok(()) } else { Err(info) }
    })
    .await;
}

#[tokio::test]
async fn the_fixtures_come_back_as_they_were() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    if !fixtures.is_dir() {
        eprintln!("SKIPPED: there is no {}", fixtures.display());
        return;
    }
    for (name, digest) in [
        ("system-redis", "94e065a18428405f9e38cf410267e0c9373216f0"),
        ("backend-redis", "50d75b70466d1f899127bbc5ef6b33b4962c1061"),
    ] {
        let scratch = keepsake_tests::scratch::Scratch::new();
        let rdb = scratch.path().join("dump.rdb");
        let mut zstd = keepsake_tests::child::tool_command("zstd");
        zstd.args(["-q", "-d", "-o"]).arg(&rdb).arg(fixtures.join(format!("{name}.rdb.zst")));
        assert!(keepsake_tests::child::run(&mut zstd).status.success());
        let from = RedisServer::start_with_rdb(&[], Some(&rdb)).await;
        assert_eq!(from.digest().await, digest, "{name} as delivered");
        let (report, bytes) = dump(&from).await;
        let to = RedisServer::start(&["--appendonly", "yes"]).await;
        restore(&to, source(Some(report), bytes)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(to.digest().await, digest, "{name} restored");
    }
}
