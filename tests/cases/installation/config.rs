//! Backend's Config beside System's database: the real command line, real agents, real servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keepsake_core::config::classify;
use keepsake_tests::child::{give_to_servers, run, tool_command};
use keepsake_tests::house::House;
use keepsake_tests::servers::redis::RedisServer;
use keepsake_tests::threescale::Size;

/// The applications are stopped, or run and there is little to wait for.
const STOPPED: &[&str] = &["--applications-stopped"];
const RUNNING: &[&str] = &["--settle=1", "--keys-per-second=0"];

fn fixture(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures").join(name);
    if path.try_exists().expect("look for the fixtures") {
        return Some(path);
    }
    eprintln!("SKIPPED: there is no {}", path.display());
    None
}

/// Puts the data of an RDB in the place of what the server has.
async fn lay_in(server: &RedisServer, rdb: &Path) {
    let to = server.data().join("dump.rdb");
    let done = run(tool_command("zstd").args(["-dqf"]).arg(rdb).arg("-o").arg(&to));
    assert!(done.status.success(), "zstd: {}", String::from_utf8_lossy(&done.stderr));
    give_to_servers(&to);
    server.ask::<()>(&["DEBUG", "RELOAD", "NOSAVE"]).await;
}

/// What `check` says, and its exit status.
fn checked(house: &House, how: &[&str]) -> (serde_json::Value, Option<i32>) {
    let done = house.keepsake(&[&["--output", "json", "check"], how].concat());
    let told = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&done.stderr)));
    (told, done.status.code())
}

fn wrongs(told: &serde_json::Value) -> [u64; 3] {
    ["missing", "different", "surplus"].map(|field| told[field].as_u64().expect("a number"))
}

/// Everything of both databases but what the Config says, and the counters.
async fn others(server: &RedisServer) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for db in [0, 1] {
        for (key, digest) in server.digests(db, &["events/id", "alerts/current_id"]).await {
            if db == 1 || classify(&key).is_none() {
                all.insert(format!("{db} {}", key.escape_ascii()), digest);
            }
        }
    }
    all
}

#[tokio::test]
async fn installation_config_of_a_realistic_3scale_is_made_equal() {
    let (Some(system), Some(equal), Some(stale)) =
        (fixture("system.sql.zst"), fixture("backend-redis.rdb.zst"), fixture("backend-redis-stale.rdb.zst"))
    else {
        return;
    };
    let house = House::new(&["prod"], Size::TINY).await;
    let servers = &house.installations[0];
    servers.mysql.run(&["DROP DATABASE system", "CREATE DATABASE system DEFAULT COLLATE utf8mb3_bin"]).await;
    servers.mysql.run_script("system", &system);

    lay_in(&servers.backend, &equal).await;
    for how in [STOPPED, RUNNING] {
        let (told, status) = checked(&house, how);
        assert_eq!((wrongs(&told), told["keys"].as_u64(), status), ([0, 0, 0], Some(47_845), Some(0)), "{told:#}");
    }
    let whole = servers.backend.digests(0, &["events/id", "alerts/current_id"]).await;

    lay_in(&servers.backend, &stale).await;
    let before = others(&servers.backend).await;
    assert!(before.len() > 300_000, "only {} other keys", before.len());
    for how in [STOPPED, RUNNING] {
        let (told, status) = checked(&house, how);
        assert_eq!((wrongs(&told), status), ([188, 38, 43], Some(5)), "{told:#}");
        let least = &told["counters_at_least"];
        assert_eq!(least["events"], 1299, "{told:#}");
        assert!(told["counters"]["events"].as_i64() < Some(1299), "{told:#}");
    }
    // Nothing is shown of which somebody could make use.
    let text = house.keepsake(&[&["check"], STOPPED].concat());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("NOT equal") && text.contains("188 keys are missing, 38 different, 43 surplus"), "{text}");
    assert!(!text.contains("2dcf38355739c35f280ab1ea87e5be3f"), "{text}");
    let dry = house.must(&[&["resync", "--dry-run"], STOPPED].concat());
    assert!(dry.contains("188 keys are missing") && dry.contains("make the Config"), "{dry}");
    assert_eq!(wrongs(&checked(&house, STOPPED).0), [188, 38, 43], "a dry run changed something");

    house.must(&[&["resync"], RUNNING].concat());
    let (told, status) = checked(&house, STOPPED);
    assert_eq!(
        (wrongs(&told), status, &told["counters_right"]),
        ([0, 0, 0], Some(0), &serde_json::Value::Bool(true)),
        "{told:#}"
    );
    let events: i64 = servers.backend.ask(&["GET", "events/id"]).await;
    let alerts: i64 = servers.backend.ask(&["GET", "alerts/current_id"]).await;
    assert!(events >= 1299 && Some(alerts) >= told["counters_at_least"]["alerts"].as_i64(), "{events} {alerts}");
    assert_eq!(others(&servers.backend).await, before, "another key was touched");
    assert_eq!(
        servers.backend.digests(0, &["events/id", "alerts/current_id"]).await,
        whole,
        "it is what it was before it was stale"
    );

    // The same with the applications stopped, and again when there is nothing to do.
    lay_in(&servers.backend, &stale).await;
    for _ in 0..2 {
        house.must(&[&["resync"], STOPPED].concat());
        assert_eq!(wrongs(&checked(&house, STOPPED).0), [0, 0, 0]);
        assert_eq!(others(&servers.backend).await, before, "another key was touched");
    }
}

/// Two applications of the house: one whose key is revoked, and one that is new.
const KEYS: &str = "application/service_id:2/id:f1bbcd53/keys";

#[tokio::test]
async fn installation_config_follows_the_database_whichever_of_both_is_restored() {
    let house = House::new(&["prod"], Size::TINY).await;
    let servers = &house.installations[0];
    assert_eq!(checked(&house, STOPPED).1, Some(0), "{:#}", checked(&house, STOPPED).0);
    house.must(&["backup"]);
    let application = servers
        .mysql
        .value("SELECT id FROM system.cinstances WHERE id % 3 = 0 AND state = 'live' LIMIT 1")
        .await
        .unwrap();
    let id = servers
        .mysql
        .value(&format!("SELECT application_id FROM system.cinstances WHERE id = {application}"))
        .await
        .unwrap();
    let revoked = servers
        .mysql
        .value(&format!("SELECT value FROM system.application_keys WHERE application_id = {application}"))
        .await
        .unwrap();
    let keys = KEYS.replace("f1bbcd53", &id);
    let authorizes = async || servers.backend.ask::<bool>(&["SISMEMBER", &keys, &revoked]).await;
    let is_there = async || servers.backend.ask::<bool>(&["SISMEMBER", "service_id:2/applications", "new/app"]).await;
    assert!(authorizes().await && !is_there().await);
    let others_before = others(&servers.backend).await;

    // Since the set was taken a key was revoked and an application made, in both stores, and events were told.
    let statements = [
        format!("DELETE FROM system.application_keys WHERE application_id = {application}"),
        "INSERT INTO system.cinstances SELECT 900001, plan_id, user_account_id, 'new-user-key', state, 'new/app', name, type, redirect_url, service_id, \
         tenant_id FROM system.cinstances WHERE id = 1"
            .to_owned(),
        "INSERT INTO system.backend_events VALUES (1299, '{}')".to_owned(),
    ];
    servers.mysql.run(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
    house.must(&[&["resync"], RUNNING].concat());
    assert!(!authorizes().await && is_there().await);

    // An older Redis beside the newer database: the key does not come back to life, and no event will be dropped.
    let identity = house.path("identity-1");
    let restore = |component: &str| {
        house.must(&["restore", "--yes", "prod", "--identity", &identity, "--component", component]);
        assert_eq!(checked(&house, STOPPED).1, Some(0), "after {component} was restored");
    };
    restore("backend-redis");
    assert!(!authorizes().await && is_there().await);
    assert_eq!(servers.backend.ask::<i64>(&["GET", "events/id"]).await, 1299);
    assert_eq!(others(&servers.backend).await, others_before, "another key was touched");

    // A newer Redis beside the older database: what System does not know any more does not authorize.
    restore("system-mysql");
    assert!(authorizes().await && !is_there().await);
    assert_eq!(others(&servers.backend).await, others_before, "another key was touched");

    // Upstream's way: nothing is done, and that is said.
    servers.backend.ask::<()>(&["SADD", &keys, "left-to-rake"]).await;
    house.must(&["backup"]);
    let plan = house.must(&["plan", "restore", "--resync", "rake"]);
    assert!(plan.contains("backend:storage:rewrite") && !plan.contains("Config in"), "{plan}");
    house.must(&["restore", "--yes", "prod", "--identity", &identity, "--resync", "rake"]);
    assert!(servers.backend.ask::<bool>(&["SISMEMBER", &keys, "left-to-rake"]).await);
    let (told, status) = checked(&house, STOPPED);
    assert_eq!((wrongs(&told), status), ([0, 1, 0], Some(5)), "{told:#}");
    // Both at once, by us.
    house.must(&["restore", "--yes", "prod", "--identity", &identity]);
    assert!(!servers.backend.ask::<bool>(&["SISMEMBER", &keys, "left-to-rake"]).await);
    let story = house.must(&["runs", "7"]);
    assert!(story.contains("resync-config-backend-redis"), "{story}");
}
