//! Backend's Config in a real Redis, compared with what is expected and made equal.

mod changes;
mod large;
mod twice;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use keepsake_agent::engine::config_target::{Applied, Compared};
use keepsake_agent::engine::redis::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine};
use keepsake_core::config::{ConfigEntry, ConfigKind, Counters, Difference, Must, Tally, Wrong, Wrongs};
use keepsake_core::{Kind, Result};
use keepsake_tests::config_target::{Given, Told, Wanted, lists, member, service, short, text, write, write_others};
use keepsake_tests::servers::redis::RedisServer;
use tokio_util::sync::CancellationToken;

fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

fn engine(server: &RedisServer) -> Arc<dyn Engine> {
    let settings = Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_data_dir: Some(server.data().to_owned()),
        ..Settings::default()
    };
    settings.open(server.scratch().to_owned()).unwrap()
}

async fn compared(server: &RedisServer, mut given: Given) -> (Vec<Difference>, Result<Compared>) {
    let engine = engine(server);
    let mut told = Told::default();
    let compared = engine.config_target().unwrap().compare(&mut given, &mut told, 0, &context()).await;
    (told.0, compared)
}

async fn differences(server: &RedisServer, entries: &[ConfigEntry]) -> Vec<Difference> {
    // Of any size, so that keys are cut apart in the middle.
    let (differences, compared) = self::compared(server, Given::all(entries, 97)).await;
    let compared = compared.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(compared.differences, differences.len() as u64);
    differences
}

async fn applied(server: &RedisServer, changes: Vec<Difference>, at_least: Counters) -> Result<Applied> {
    let mut wanted = Wanted { changes, at_least };
    engine(server).config_target().unwrap().apply(&mut wanted, 0, false, &context()).await
}

/// Ids that a careless scan, split or pattern stumbles over.
fn odd_ids() -> Vec<String> {
    let odd = [
        "a/b",
        "a:b",
        "{a}",
        "*",
        "a*",
        "?",
        "[a]",
        "state",
        "x/keys",
        "/",
        "\"'\\%",
        "id:a/state",
        "key:u/id",
        "a/plan_id",
        "0",
    ];
    odd.iter().map(ToString::to_string).chain((0..40).map(|n| format!("{n:08x}"))).chain(["x".repeat(255)]).collect()
}

/// Two services, everything that stands beside them, and the entries.
async fn filled(server: &RedisServer) -> Vec<ConfigEntry> {
    let mut entries = lists(&[7, 12]);
    entries.extend(service(7, &odd_ids()));
    entries.extend(service(12, &[]));
    write(server, &entries).await;
    write_others(server).await;
    entries
}

#[tokio::test]
async fn config_that_is_as_expected_has_no_difference() {
    let server = RedisServer::start(&[]).await;
    let entries = filled(&server).await;
    let before = server.digest().await;
    let (differences, done) = compared(&server, Given::all(&entries, 97)).await;
    assert_eq!(differences.iter().map(short).collect::<Vec<_>>(), Vec::<String>::new());
    let keys: std::collections::BTreeSet<_> = entries.iter().map(|e| &e.key).collect();
    let done = done.unwrap();
    assert_eq!((done.keys, done.found), (keys.len() as u64, Counters { events: 17, alerts: 4 }));
    assert_eq!(done.scanned, server.ask::<u64>(&["DBSIZE"]).await);
    assert_eq!(server.digest().await, before);
    // The state of a service may be absent.
    server.ask::<()>(&["DEL", "service/id:7/state"]).await;
    let (differences, done) = compared(&server, Given::all(&entries, 1)).await;
    assert_eq!((differences.len(), done.unwrap().keys), (0, keys.len() as u64 - 1));
    assert_eq!(leftovers(&server), Vec::<String>::new());
}

fn leftovers(server: &RedisServer) -> Vec<String> {
    let entries = std::fs::read_dir(server.scratch()).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| !["data", "password", "redis.conf"].contains(&n.as_str())).collect()
}

/// One thing that is changed in Redis, and what must be told of it.
type Mutation = (&'static [&'static str], &'static [&'static str]);

const MUTATIONS: &[Mutation] = &[
    (&["DEL", "service/id:7/backend_version"], &["service Missing service/id:7/backend_version: set 1 (was None)"]),
    (
        &["SET", "service/id:7/backend_version", "oauth"],
        &["service Different service/id:7/backend_version: set 1 (was Some(\"oauth\"))"],
    ),
    (
        &["SET", "service/id:7/state", "suspended"],
        &["service Different service/id:7/state: set active (was Some(\"suspended\"))"],
    ),
    (&["SET", "service/id:13/state", "active"], &["service Surplus service/id:13/state: delete"]),
    (&["SADD", "services_set", "13"], &["global Different services_set: remove 13"]),
    (&["SREM", "services_set", "12"], &["global Different services_set: add 12"]),
    (&["SADD", "provider_keys_set", "old"], &["global Different provider_keys_set: remove old"]),
    (&["SET", "service/provider_key:a/b/id", "7"], &["provider-key Surplus service/provider_key:a/b/id: delete"]),
    (&["SADD", "service/provider_key:old/ids", "7"], &["provider-key Surplus service/provider_key:old/ids: delete"]),
    (
        &["SADD", "service/provider_key:provider000000000000000000000007/ids", "12"],
        &["provider-key Different service/provider_key:provider000000000000000000000007/ids: remove 12"],
    ),
    (
        &["SET", "application/service_id:7/id:a/b/state", "pending"],
        &["application Different application/service_id:7/id:a/b/state: set suspended (was Some(\"pending\"))"],
    ),
    (
        &["SET", "application/service_id:7/id:*/plan_name", "Basic+plan"],
        &["application Different application/service_id:7/id:*/plan_name: set Basic plan (was Some(\"Basic+plan\"))"],
    ),
    (
        &["SET", "application/service_id:7/id:?/redirect_url", "http://old"],
        &["application Surplus application/service_id:7/id:?/redirect_url: delete"],
    ),
    (
        &["SET", "application/service_id:7/id:a*b/state", "active"],
        &["application Surplus application/service_id:7/id:a*b/state: delete"],
    ),
    (
        &["SET", "application/service_id:7/id:id:a/state/state/state", "active"],
        &["application Surplus application/service_id:7/id:id:a/state/state/state: delete"],
    ),
    (
        &["SET", "application/service_id:99/id:a/b/plan_id", "1"],
        &["application Surplus application/service_id:99/id:a/b/plan_id: delete"],
    ),
    (&["SADD", "service_id:7/applications", "gone"], &["application Different service_id:7/applications: remove gone"]),
    (&["SADD", "service_id:12/applications", "gone"], &["application Surplus service_id:12/applications: delete"]),
    (&["SREM", "service_id:7/applications", "[a]"], &["application Different service_id:7/applications: add [a]"]),
    (
        &["SET", "application/service_id:7/key:revoked/id", "a/b"],
        &["user-key Surplus application/service_id:7/key:revoked/id: delete"],
    ),
    (
        &["SET", "application/service_id:7/key:userkey0000000000000000000000002/id", "a/b"],
        &[
            "user-key Different application/service_id:7/key:userkey0000000000000000000000002/id: set {a} (was Some(\"a/b\"))",
        ],
    ),
    (
        &["SADD", "application/service_id:7/id:a/b/keys", "revoked"],
        &["application-keys Different application/service_id:7/id:a/b/keys: remove revoked"],
    ),
    (
        &["SADD", "application/service_id:7/id:a:b/keys", "revoked"],
        &["application-keys Surplus application/service_id:7/id:a:b/keys: delete"],
    ),
    (
        &["SADD", "application/service_id:7/id:*/referrer_filters", "*"],
        &["referrer-filters Surplus application/service_id:7/id:*/referrer_filters: delete"],
    ),
    (
        &["SET", "metric/service_id:7/id:1/parent_id", "2"],
        &["metric Surplus metric/service_id:7/id:1/parent_id: delete"],
    ),
    (
        &["SET", "metric/service_id:7/name:other metric/id", "2"],
        &["metric Surplus metric/service_id:7/name:other metric/id: delete"],
    ),
    (
        &["SREM", "metrics/service_id:7/ids", "1", "2"],
        &["metric Missing metrics/service_id:7/ids: add 1", "metric Missing metrics/service_id:7/ids: add 2"],
    ),
    (
        &["SET", "usage_limit/service_id:7/plan_id:1/metric_id:1/day", "9223372036854775806"],
        &[
            "usage-limit Different usage_limit/service_id:7/plan_id:1/metric_id:1/day: set 9223372036854775807 (was Some(\"9223372036854775806\"))",
        ],
    ),
    (
        &["SET", "usage_limit/service_id:7/plan_id:1/metric_id:1/minute", "1"],
        &["usage-limit Surplus usage_limit/service_id:7/plan_id:1/metric_id:1/minute: delete"],
    ),
    (
        &["HSET", "service_token/token:a/b:c/service_id:7", "permissions", ""],
        &["service-token Surplus service_token/token:a/b:c/service_id:7: delete"],
    ),
    (
        &["HSET", "service_token/token:token000000000000000000000000007/service_id:7", "permissions", "x", "more", "y"],
        &[
            "service-token Different service_token/token:token000000000000000000000000007/service_id:7: field permissions=",
            "service-token Different service_token/token:token000000000000000000000000007/service_id:7: without field more",
        ],
    ),
    (
        &["SADD", "alerts/service_id:7/allowed_set", "80"],
        &["alert-levels Different alerts/service_id:7/allowed_set: remove 80"],
    ),
    (
        &["PEXPIRE", "application/service_id:7/id:a/b/plan_id", "10000000"],
        &["application Different application/service_id:7/id:a/b/plan_id: persist"],
    ),
    (&["PEXPIRE", "services_set", "10000000"], &["global Different services_set: persist"]),
    // Other types than they must have.
    (
        &["MSET", "service_id:7/applications", "text", "services_set", "x"],
        &["global Different services_set: delete", "application Different service_id:7/applications: delete"],
    ),
];

#[tokio::test]
async fn config_that_is_changed_is_told_exactly_and_put_right_while_all_else_stays() {
    let server = RedisServer::start(&["--appendonly", "no"]).await;
    let entries = filled(&server).await;
    let whole = server.digests(0, &[]).await;
    for (mutation, expected) in MUTATIONS {
        server.ask::<redis::Value>(mutation).await;
        let found = differences(&server, &entries).await;
        let mut told: Vec<String> = found.iter().map(short).collect();
        // After the type, all members are missing.
        if mutation[0] == "MSET" {
            told.retain(|t| !t.contains(": add "));
        }
        assert_eq!(told, *expected, "{mutation:?}");
        let done = applied(&server, found, Counters::default()).await.unwrap();
        assert_eq!(done.overtaken, 0);
        assert_eq!(
            differences(&server, &entries).await.iter().map(short).collect::<Vec<_>>(),
            Vec::<String>::new(),
            "{mutation:?}"
        );
        assert_eq!(server.digests(0, &[]).await, whole, "after {mutation:?} was put right");
    }
}

#[tokio::test]
async fn config_is_counted_by_keys_each_once() {
    let server = RedisServer::start(&[]).await;
    let entries = filled(&server).await;
    for mutation in [
        &["SADD", "service_id:7/applications", "gone", "gone too"][..],
        &["SREM", "service_id:7/applications", "a/b", "*"],
        &["DEL", "metrics/service_id:7/ids"],
        &["SET", "application/service_id:7/key:x/id", "a/b"],
        &["SET", "application/service_id:7/key:y/id", "a/b"],
    ] {
        server.ask::<redis::Value>(mutation).await;
    }
    let mut tally = Tally::default();
    for difference in differences(&server, &entries).await {
        tally.take(&difference);
    }
    let seven = |kind| tally.wrongs.get(&(kind, "7".to_owned())).copied().unwrap_or_default();
    assert_eq!(seven(ConfigKind::Application), Wrongs { different: 1, ..Wrongs::default() });
    assert_eq!(seven(ConfigKind::Metric), Wrongs { missing: 1, ..Wrongs::default() });
    assert_eq!(seven(ConfigKind::UserKey), Wrongs { surplus: 2, ..Wrongs::default() });
    assert_eq!(tally.total().total(), 4);
}

#[tokio::test]
async fn config_of_a_cut_stream_is_never_surplus() {
    let server = RedisServer::start(&[]).await;
    let entries = filled(&server).await;
    let removes = |d: &Difference| {
        use keepsake_core::config::Change as C;
        matches!(d.change, C::Delete | C::Remove(_) | C::RemoveField(_)) || d.wrong == Wrong::Surplus
    };
    // Cut anywhere, in the middle of keys too: of what came nothing differs, and nothing is surplus.
    for length in (0..entries.len()).step_by(7) {
        let mut given = Given::all(&entries[..length], 13);
        given.end = None;
        let (differences, done) = compared(&server, given).await;
        assert_eq!(done.unwrap_err().kind(), Kind::Corrupt, "cut after {length}");
        assert!(differences.is_empty(), "cut after {length}: {differences:?}");
    }
    // With an end that says that this is all, everything else is: so the end is what counts.
    let (differences, done) = compared(&server, Given::all(&entries[..entries.len() / 2], 13)).await;
    assert!(done.is_ok() && differences.iter().any(removes));
}

#[tokio::test]
async fn config_of_kinds_that_are_not_named_is_left_alone() {
    let server = RedisServer::start(&[]).await;
    let entries = filled(&server).await;
    server.ask::<()>(&["SET", "application/service_id:7/key:old/id", "x"]).await;
    let without: Vec<_> = entries.into_iter().filter(|e| e.kind != ConfigKind::AlertLevels).collect();
    let mut given = Given::all(&without, 50);
    if let Some(end) = &mut given.end {
        end.kinds.retain(|kind| *kind != ConfigKind::AlertLevels);
    }
    let (differences, _) = compared(&server, given).await;
    let told: Vec<_> = differences.iter().map(short).collect();
    assert_eq!(told, ["user-key Surplus application/service_id:7/key:old/id: delete"]);
}
