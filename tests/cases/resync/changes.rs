//! What changes may and may not do.

use keepsake_core::config::Change;

use super::*;

fn change(kind: ConfigKind, key: &str, change: Change) -> Difference {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Difference { kind, service: String::new(), key, wrong: Wrong::Different, change }
}

fn set(value: &'static str, found: Option<&'static str>) -> Change {
    Change::Set { value: Bytes::from_static(value.as_bytes()), found: found.map(|f| Bytes::from_static(f.as_bytes())) }
}

#[tokio::test]
async fn config_changes_of_other_keys_are_refused() {
    let server = RedisServer::start(&[]).await;
    filled(&server).await;
    let before = server.digest().await;
    for key in keepsake_tests::config_target::OTHERS.iter().chain(&["events/id", "events/queue", "errors/service_id:7"])
    {
        for kind in ConfigKind::ALL {
            let refused = applied(&server, vec![change(kind, key, Change::Delete)], Counters::default()).await;
            assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "{key}");
        }
    }
    // The right key as something else.
    let wrong = change(ConfigKind::Metric, "service/id:7/state", Change::Delete);
    assert!(applied(&server, vec![wrong], Counters::default()).await.is_err());
    assert_eq!(server.digest().await, before);
}

#[tokio::test]
async fn config_that_somebody_has_changed_since_is_not_changed_back() {
    let server = RedisServer::start(&[]).await;
    filled(&server).await;
    let key = "application/service_id:7/id:a/b/state";
    let absent = "application/service_id:7/id:new/state";
    for (command, changed, there) in [
        (
            &["SET", key, "active"][..],
            change(ConfigKind::Application, key, set("pending", Some("suspended"))),
            "active",
        ),
        (&["SET", absent, "live"], change(ConfigKind::Application, absent, set("pending", None)), "live"),
        (&["SET", key, "x"], change(ConfigKind::Application, key, set("pending", None)), "x"),
    ] {
        server.ask::<()>(command).await;
        let done = applied(&server, vec![changed.clone()], Counters::default()).await.unwrap();
        assert_eq!((done.made, done.overtaken), (0, 1));
        assert_eq!(server.ask::<String>(&["GET", command[1]]).await, there);
    }
    // It is right already: made again, it is made.
    let again = change(ConfigKind::Application, key, set("x", Some("suspended")));
    assert_eq!(applied(&server, vec![again], Counters::default()).await.unwrap().made, 1);
    // It is gone: what it was is not put back under it.
    server.ask::<()>(&["DEL", key]).await;
    let gone = change(ConfigKind::Application, key, set("pending", Some("x")));
    assert_eq!(applied(&server, vec![gone], Counters::default()).await.unwrap().overtaken, 1);
}

#[tokio::test]
async fn config_counters_are_raised_and_never_lowered() {
    let server = RedisServer::start(&[]).await;
    let counters = |events, alerts| Counters { events, alerts };
    let read = async || {
        let both: Vec<Option<i64>> = server.ask(&["MGET", "events/id", "alerts/current_id"]).await;
        (both[0], both[1])
    };
    applied(&server, vec![], counters(0, 0)).await.unwrap();
    assert_eq!(read().await, (None, None));
    let done = applied(&server, vec![], counters(1299, 0)).await.unwrap();
    assert_eq!((done.before, done.after, done.made), (counters(0, 0), counters(1299, 0), 1));
    assert_eq!(read().await, (Some(1299), None));
    let done = applied(&server, vec![], counters(1200, 33)).await.unwrap();
    assert_eq!((done.before, done.after), (counters(1299, 0), counters(1299, 33)));
    // Backend counts meanwhile: nothing that it counted is lost.
    let counting = async {
        let mut last = 0;
        for _ in 0..2_000 {
            let next: i64 = server.ask(&["INCR", "events/id"]).await;
            assert!(next > last, "{next} after {last}");
            last = next;
        }
    };
    let raising = async {
        for n in 0..40 {
            applied(&server, vec![], counters(1300 + n * 50, 0)).await.unwrap();
        }
    };
    tokio::join!(counting, raising);
    server.ask::<()>(&["SET", "events/id", "many"]).await;
    let refused = applied(&server, vec![], counters(1, 1)).await.unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.chain().contains("events/id"), "{}", refused.chain());
}

#[tokio::test]
async fn config_of_a_replica_is_not_changed() {
    let master = RedisServer::start(&[]).await;
    let port = master.url().rsplit(':').next().unwrap().to_owned();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await;
    let refused = applied(&replica, vec![], Counters { events: 1, alerts: 1 }).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
}

#[tokio::test]
async fn config_of_another_database_is_compared_where_the_agent_is_told_to() {
    let server = RedisServer::start(&[]).await;
    let settings = Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_storage_database: Some(3),
        ..Settings::default()
    };
    let engine = settings.open(server.scratch().to_owned()).unwrap();
    let entries = [text(ConfigKind::Service, "7", "service/id:7/backend_version", "1")];
    let mut told = Told::default();
    let target = engine.config_target().unwrap();
    target.compare(&mut Given::all(&entries, 1), &mut told, 0, &context()).await.unwrap();
    let mut wanted = Wanted { changes: told.0, at_least: Counters::default() };
    target.apply(&mut wanted, 0, true, &context()).await.unwrap();
    let by_database: BTreeMap<u32, usize> =
        BTreeMap::from([(0, server.digests(0, &[]).await.len()), (3, server.digests(3, &[]).await.len())]);
    assert_eq!(by_database, BTreeMap::from([(0, 0), (3, 1)]));
}

#[tokio::test]
async fn config_that_stands_in_a_database_that_nobody_has_named_is_not_written_into_another() {
    let server = RedisServer::start(&[]).await;
    let entries = filled(&server).await;
    server.ask::<()>(&["SWAPDB", "0", "3"]).await;
    // Nor is one deleted because another has more.
    server.ask::<()>(&["SADD", "services_set", "1"]).await;
    let (found, refused) = compared(&server, Given::all(&entries, 97)).await;
    assert_eq!((found.len(), refused.unwrap_err().kind()), (0, Kind::Conflict));
    server.ask::<()>(&["DEL", "services_set"]).await;
    let (found, refused) = compared(&server, Given::all(&entries, 97)).await;
    let refused = refused.unwrap_err();
    assert_eq!((found.len(), refused.kind()), (0, Kind::Conflict));
    assert!(refused.chain().contains("database 3") && refused.chain().contains("--redis-storage-database"));
    let refused = applied(&server, vec![], Counters { events: 99, alerts: 99 }).await.unwrap_err();
    assert_eq!((refused.kind(), server.digests(0, &[]).await.len()), (Kind::Conflict, 0));
    // Where there is none at all it belongs into the first.
    server.ask::<()>(&["FLUSHALL"]).await;
    let (missing, done) = compared(&server, Given::all(&entries, 97)).await;
    assert!(done.is_ok() && !missing.is_empty());
}

#[tokio::test]
async fn config_that_names_one_key_as_two_things_is_refused() {
    let server = RedisServer::start(&[]).await;
    let both = [
        text(ConfigKind::Service, "7", "services_set", "1"),
        ConfigEntry {
            must: Must::Member(Bytes::from_static(b"7")),
            ..text(ConfigKind::Service, "7", "services_set", "1")
        },
    ];
    let (_, refused) = compared(&server, Given::all(&both, 5)).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
}
