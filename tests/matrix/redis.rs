//! Redis and Valkey of other releases.

mod queues;
mod staged;

use std::collections::BTreeMap;
use std::sync::Arc;

use keepsake_agent::engine::Engine;
use keepsake_agent::engine::redis::{LoadMethod, Settings};
use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::error::Kind;
use keepsake_tests::memory::MemorySource;
use keepsake_tests::root::Root;
use keepsake_tests::servers::redis::RedisServer;
use keepsake_tests::steps::{damaged, describes, dump, must_restore, refused};
use keepsake_tests::threescale::{Size, backend, system_redis};
use tokio_util::sync::CancellationToken;

use crate::report::{Finding, begin, root};

/// Family and version of a root's server.
fn label(root: &Root) -> String {
    let program = RedisServer::program(root);
    let family = if program.ends_with("valkey-server") { "Valkey" } else { "Redis" };
    let version = root.version(&program);
    format!("{family} {}.{}", version.major, version.minor)
}

/// The server of this name, or the finding that it is not there.
fn server(name: &str, case: &str) -> Option<(Root, String, Finding)> {
    let Some(root) = root(name) else {
        begin("redis", name, case).not_tried();
        return None;
    };
    let label = label(&root);
    let finding = begin("redis", &label, case);
    Some((root, label, finding))
}

async fn start(root: &Root, options: &[&str]) -> (RedisServer, Arc<dyn Engine>) {
    let server = RedisServer::start_in(root, options, None).await;
    let engine = engine(&server);
    (server, engine)
}

/// The engine of a server; it is opened anew when the server was started again, on another port.
fn engine(server: &RedisServer) -> Arc<dyn Engine> {
    let settings = Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_data_dir: Some(server.data().to_owned()),
        redis_load_method: Some(LoadMethod::Replication),
        ..Settings::default()
    };
    settings.open(server.scratch().to_owned()).unwrap()
}

async fn fill(server: &RedisServer) {
    backend::fill(&server.client(), 1, Size::TINY).await.unwrap();
    system_redis::fill(&server.client(), 2, Size::TINY).await.unwrap();
}

/// What newer servers have beyond that, as far as this one has it: functions, hashes whose fields expire, streams with groups.
async fn fill_with_novelties(server: &RedisServer) {
    for words in [
        &["XADD", "novel:stream", "1-1", "field", "value"][..],
        &["XGROUP", "CREATE", "novel:stream", "group", "0"],
        &["XREADGROUP", "GROUP", "group", "consumer", "COUNT", "1", "STREAMS", "novel:stream", ">"],
        &["FUNCTION", "LOAD", "#!lua name=novel\nredis.register_function('novel', function() return 1 end)"],
        &["HSET", "novel:hash", "lasting", "1", "expiring", "2"],
        &["HPEXPIRE", "novel:hash", "3600000", "FIELDS", "1", "expiring"],
        &["HSET", "novel:large", "lasting", &"x".repeat(5_000), "expiring", "2"],
        &["HPEXPIRE", "novel:large", "3600000", "FIELDS", "1", "expiring"],
    ] {
        let known: Vec<redis::Value> = server.ask(&["COMMAND", "INFO", words[0]]).await;
        if known.iter().all(|c| *c != redis::Value::Nil) {
            server.ask::<redis::Value>(words).await;
        }
    }
}

/// What no digest covers: functions, and when fields expire.
async fn novelties(server: &RedisServer) -> Vec<redis::Value> {
    let mut all = Vec::new();
    for words in [
        &["FUNCTION", "LIST", "WITHCODE"][..],
        &["HPEXPIRETIME", "novel:hash", "FIELDS", "2", "lasting", "expiring"],
        &["HPEXPIRETIME", "novel:large", "FIELDS", "2", "lasting", "expiring"],
        &["XINFO", "GROUPS", "novel:stream"],
        &["XPENDING", "novel:stream", "group"],
    ] {
        let known: Vec<redis::Value> = server.ask(&["COMMAND", "INFO", words[0]]).await;
        if known.iter().all(|c| *c != redis::Value::Nil) {
            all.push(server.ask(words).await);
        }
    }
    all
}

async fn describe(name: &str) {
    let Some((root, label, finding)) = server(name, "describe") else { return };
    let (_server, engine) = start(&root, &[]).await;
    describes(&engine, &label).await;
    finding.works();
}

async fn empty_and_odd_data_come_back(name: &str) {
    let Some((root, _, finding)) = server(name, "round trip") else { return };
    let (from, from_engine) = start(&root, &[]).await;
    let empty = dump(&from_engine).await;
    fill(&from).await;
    fill_with_novelties(&from).await;
    let full = dump(&from_engine).await;
    let (want, novel) = (from.digest().await, novelties(&from).await);
    assert!(!novel.is_empty());
    for appendonly in ["no", "yes"] {
        let (mut to, to_engine) = start(&root, &["--appendonly", appendonly]).await;
        must_restore(&to_engine, &full).await;
        assert_eq!(to.digest().await, want, "appendonly {appendonly}");
        to.kill9();
        to.restart().await;
        assert_eq!(to.digest().await, want, "after a kill, appendonly {appendonly}");
        assert_eq!(novelties(&to).await, novel, "after a kill, appendonly {appendonly}");
        must_restore(&engine(&to), &empty).await;
        assert_eq!(to.ask::<u64>(&["DBSIZE"]).await, 0);
    }
    finding.works();
}

async fn other_data_goes(name: &str) {
    let Some((root, _, finding)) = server(name, "load over other data") else { return };
    let (server, engine) = start(&root, &["--appendonly", "yes"]).await;
    fill(&server).await;
    let full = dump(&engine).await;
    let want = server.digest().await;
    backend::wreck(&server.client()).await.unwrap();
    system_redis::wreck(&server.client()).await.unwrap();
    server.ask::<()>(&["SET", "surplus", "1"]).await;
    assert_ne!(server.digest().await, want);
    must_restore(&engine, &full).await;
    assert_eq!(server.digest().await, want);
    // It is a master that takes writes, as before.
    server.ask::<()>(&["SET", "written-after", "1"]).await;
    finding.works();
}

async fn a_dump_under_writes_is_of_one_instant(name: &str) {
    let Some((root, _, finding)) = server(name, "dump under writes") else { return };
    let (from, from_engine) = start(&root, &[]).await;
    fill(&from).await;
    let (client, stop) = (from.client(), CancellationToken::new());
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut n = 0_u64;
        while !stopped.is_cancelled() {
            let mut pair = redis::pipe();
            pair.atomic().set("a", n).ignore().set("b", n).ignore();
            pair.query_async::<()>(&mut connection).await.unwrap();
            n += 1;
        }
        n
    });
    let mut last = 0;
    for _ in 0..3 {
        let made = dump(&from_engine).await;
        let (to, to_engine) = start(&root, &[]).await;
        must_restore(&to_engine, &made).await;
        let (a, b): (u64, u64) = (to.ask(&["GET", "a"]).await, to.ask(&["GET", "b"]).await);
        assert_eq!(a, b);
        assert!(a >= last, "an older instant than before was dumped");
        last = a;
    }
    stop.cancel();
    assert!(writer.await.unwrap() > last);
    finding.works();
}

async fn what_is_damaged_is_refused(name: &str) {
    let Some((root, _, finding)) = server(name, "damaged dump") else { return };
    let (server, engine) = start(&root, &[]).await;
    fill(&server).await;
    let good = dump(&engine).await;
    let before = server.digest().await;
    for (what, bad) in damaged(&good) {
        refused(&engine, &bad, what).await;
        assert_eq!(server.digest().await, before, "{what}");
    }
    finding.works();
}

macro_rules! servers {
    ($($name:ident: $root:literal,)*) => {
        $(mod $name {
            #[tokio::test]
            async fn describe() { super::describe($root).await; }
            #[tokio::test]
            async fn empty_and_odd_data_come_back() { super::empty_and_odd_data_come_back($root).await; }
            #[tokio::test]
            async fn other_data_goes() { super::other_data_goes($root).await; }
            #[tokio::test]
            async fn a_dump_under_writes_is_of_one_instant() { super::a_dump_under_writes_is_of_one_instant($root).await; }
            #[tokio::test]
            async fn what_is_damaged_is_refused() { super::what_is_damaged_is_refused($root).await; }
        })*
    };
}

servers! {
    host: "host",
    redis_of_bullseye: "bullseye-redis",
    redis_of_sid: "sid-redis",
    valkey_of_trixie: "trixie-valkey",
    valkey_of_sid: "sid-valkey",
}

/// A digest of every value. The server's own of a sorted set hangs on how it writes numbers, which changed in 7.2: scores are compared bit by bit.
async fn contents(server: &RedisServer) -> BTreeMap<(u32, Vec<u8>), String> {
    let mut all = BTreeMap::new();
    let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
    for db in [0_u32, 1] {
        redis::cmd("SELECT").arg(db).query_async::<()>(&mut connection).await.unwrap();
        for (key, mut digest) in server.digests(db, &[]).await {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.unwrap();
            if kind == "zset" {
                let mut range = redis::cmd("ZRANGE");
                range.arg(&key).arg(0).arg(-1).arg("WITHSCORES");
                let scores: Vec<(Vec<u8>, f64)> = range.query_async(&mut connection).await.unwrap();
                let ttl: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
                let bits: Vec<_> = scores.into_iter().map(|(member, score)| (member, score.to_bits())).collect();
                digest = format!("expires: {}, {bits:?}", ttl >= 0);
            }
            all.insert((db, key), digest);
        }
    }
    all
}

/// What is to become of a dump on another server.
enum Then {
    Works,
    /// In words that contain this.
    Refused(&'static str),
}

/// A dump of one server loaded into another, which has other data that must not suffer from a refusal.
async fn crosses(from: &str, to: &str, then: Then) {
    let (Some(from_root), Some(to_root)) = (root(from), root(to)) else {
        return begin("redis", &format!("{from} → {to}"), "load").not_tried();
    };
    let finding = begin("redis", &format!("{} → {}", label(&from_root), label(&to_root)), "load");
    let (from, from_engine) = start(&from_root, &[]).await;
    fill(&from).await;
    let made: MemorySource = dump(&from_engine).await;
    let (mut to, to_engine) = start(&to_root, &["--appendonly", "yes"]).await;
    backend::fill(&to.client(), 7, Size::TINY).await.unwrap();
    let (theirs, before) = (contents(&from).await, contents(&to).await);
    assert_ne!(theirs, before);
    match then {
        Then::Works => {
            must_restore(&to_engine, &made).await;
            assert_eq!(contents(&to).await, theirs);
            to.kill9();
            to.restart().await;
            assert_eq!(contents(&to).await, theirs, "after a kill");
            finding.works();
        }
        Then::Refused(words) => {
            let why = refused(&to_engine, &made, "of another server").await;
            assert!(why.contains(words), "{why}");
            assert_eq!(contents(&to).await, before);
            to.ask::<()>(&["SET", "written-after", "1"]).await;
            finding.refused(&why);
        }
    }
}

macro_rules! pairs {
    ($($name:ident: $from:literal => $to:literal, $then:expr;)*) => {
        mod pairs {
            use super::Then::{Refused, Works};
            use super::crosses;
            $(#[tokio::test]
            async fn $name() { crosses($from, $to, $then).await; })*
        }
    };
}

pairs! {
    redis_6_to_7: "bullseye-redis" => "host", Works;
    redis_7_to_8: "host" => "sid-redis", Works;
    redis_6_to_8: "bullseye-redis" => "sid-redis", Works;
    redis_7_to_6: "host" => "bullseye-redis", Refused("version 10");
    redis_8_to_7: "sid-redis" => "host", Refused("would lose all its data");
    redis_8_to_6: "sid-redis" => "bullseye-redis", Refused("would lose all its data");
    redis_7_to_valkey_8: "host" => "trixie-valkey", Works;
    redis_7_to_valkey_9: "host" => "sid-valkey", Works;
    valkey_8_to_9: "trixie-valkey" => "sid-valkey", Works;
    valkey_9_to_8: "sid-valkey" => "trixie-valkey", Refused("Valkey's own format");
    valkey_9_to_redis_7: "sid-valkey" => "host", Refused("Valkey's own format");
    valkey_9_to_redis_8: "sid-valkey" => "sid-redis", Refused("Valkey's own format");
    valkey_8_to_redis_7: "trixie-valkey" => "host", Refused("would lose all its data");
    valkey_8_to_redis_8: "trixie-valkey" => "sid-redis", Works;
    redis_8_to_valkey_9: "sid-redis" => "sid-valkey", Refused("would lose all its data");
}

#[tokio::test]
async fn another_kind_of_error_is_no_refusal() {
    // What `refused` is worth: a server that is not there is not taken for a dump that does not fit.
    let mut server = RedisServer::start(&[]).await;
    let gone = engine(&server);
    let made = dump(&gone).await;
    server.kill9();
    let error = keepsake_tests::steps::restore(&gone, &made).await.unwrap_err();
    assert!(!matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "{}", error.chain());
}

#[tokio::test]
async fn redis_6_is_stopped_altogether_for_a_cut() {
    let Some((root, _, finding)) = server("bullseye-redis", "hold") else { return };
    keepsake_tests::holds::stopped::altogether(&root).await;
    finding.works();
}
