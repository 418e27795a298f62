//! A zync-database as 3scale has it: its role owns it and may make no other beside it, so its load goes over the live data, whole and last.

use std::time::Duration;

use keepsake_tests::house::{House, State};
use keepsake_tests::kills::Watched;
use keepsake_tests::poll::wait_for;
use keepsake_tests::threescale::Size;

/// An installation whose zync-database's agent has 3scale's own role, with a set, and wrecked since.
struct Wrecked {
    house: House,
    /// What the set holds.
    before: State,
    /// What is live.
    wrecked: State,
}

async fn wrecked() -> Wrecked {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let agent = house.installations[0].agent("zync-database");
    agent.arguments.extend(["--postgres-user".to_owned(), "zync".to_owned()]);
    agent.restart();
    house.write_topology();
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    Wrecked { house, before, wrecked }
}

#[tokio::test]
async fn installation_whose_zync_may_make_no_database_is_restored_whole_and_last() {
    let Wrecked { house, before, wrecked } = wrecked().await;
    let identity = house.path("identity-1");
    let restore = ["restore", "--yes", "prod", "--identity", &identity];

    // Nothing would remember what is there.
    let refused = house.keepsake(&[&restore[..], &["--no-safety"]].concat());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("CREATEDB") && told.contains("--in-place"), "{told}");

    let refused = house.keepsake(&[&restore[..], &["--keep-old"]].concat());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("leave out --keep-old"), "{told}");

    let plan = house.must(&["plan", "restore"]);
    let at = |words: &str| plan.find(words).unwrap_or_else(|| panic!("{words:?} is not in {plan}"));
    // Nothing that could turn the restore comes after it.
    let last = at("load zync-database, which cannot be undone");
    assert!(
        last > at("look whether the Config in backend-redis") && last > at("look whether system-storage answers with"),
        "{plan}"
    );
    assert!(
        plan[last..].find("point of no return").is_some_and(|end| !plan[last..last + end].contains("look")),
        "{plan}"
    );

    // It fails within its transaction: a function of another's that hangs on what is dropped is none of zync's.
    let zync = house.installations[0].zync.client("zync_production").await;
    let hindrance =
        "CREATE SCHEMA a; CREATE TABLE a.holds (id int); CREATE VIEW a.of_models AS SELECT * FROM public.models";
    zync.batch_execute(hindrance).await.expect("put something of another's in the way");
    let failed = house.keepsake(&restore);
    assert!(!failed.status.success(), "{}", String::from_utf8_lossy(&failed.stdout));
    zync.batch_execute("DROP SCHEMA a CASCADE").await.expect("take it away");
    State::of(&house.installations[0]).await.assert_is(&wrecked, "all of it is as it was");

    house.must(&restore);
    State::of(&house.installations[0]).await.assert_is(&before, "restored");
}

/// Waits until so many rows are counted by this in zync's server.
async fn until_counted(client: &tokio_postgres::Client, what: &str, sql: &str) {
    wait_for(what, Duration::from_secs(90), async || {
        let n: i64 = client.query_one(sql, &[]).await.expect("ask").get(0);
        if n > 0 { Ok(()) } else { Err(n) }
    })
    .await;
}

/// The agent is killed, and another one in its place has an empty scratch folder: its pod is another.
fn another_pod(house: &mut House) {
    let agent = house.installations[0].agent("zync-database");
    agent.kill9();
    let at = agent.arguments.iter().position(|a| a == "--scratch").expect("a scratch folder") + 1;
    let scratch = std::path::PathBuf::from(&agent.arguments[at]);
    std::fs::remove_dir_all(&scratch).expect("empty the scratch folder");
    std::fs::create_dir(&scratch).expect("make the scratch folder anew");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&scratch, private).expect("make it private");
    agent.replace();
}

#[tokio::test]
async fn installation_whose_zync_agent_gets_another_pod_while_it_loads_is_restored_or_put_back_and_never_stuck() {
    let Wrecked { mut house, before, wrecked } = wrecked().await;
    let identity = house.path("identity-1");
    let restore = ["restore", "--yes", "prod", "--identity", &identity].map(str::to_owned);
    let zync = house.installations[0].zync.client("zync_production").await;

    // Before its COMMIT: somebody reads a table that is to be dropped, and the load waits.
    zync.batch_execute("BEGIN; LOCK TABLE models IN ACCESS SHARE MODE").await.expect("lock a table");
    let other = house.installations[0].zync.client("postgres").await;
    let mut run = Watched::start(&house, &restore);
    let waits =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND mode = 'AccessExclusiveLock'";
    until_counted(&other, "the load to wait for a table", waits).await;
    another_pod(&mut house);
    zync.batch_execute("ROLLBACK").await.expect("unlock it");
    let status = run.end();
    assert_eq!(status.code(), Some(1), "it was put back, which is known: {:#?}", run.said());
    State::of(&house.installations[0]).await.assert_is(&wrecked, "all of it is as it was");

    // In its COMMIT, which waits for a standby that never comes.
    other.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.expect("want a standby");
    other.batch_execute("SELECT pg_reload_conf()").await.expect("reload");
    let mut run = Watched::start(&house, &restore);
    let commits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until_counted(&other, "the COMMIT to wait", commits).await;
    another_pod(&mut house);
    let asks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until_counted(&other, "the next agent to wait for the COMMIT", asks).await;
    other.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("want none");
    other.batch_execute("SELECT pg_reload_conf()").await.expect("reload");
    let status = run.end();
    assert!(status.success(), "the load was committed, and the next agent goes on: {:#?}", run.said());
    State::of(&house.installations[0]).await.assert_is(&before, "restored");
    let comment = "SELECT count(*) FROM pg_shdescription WHERE description LIKE '%keepsake%'";
    let left: i64 = other.query_one(comment, &[]).await.expect("ask").get(0);
    assert_eq!(left, 0, "something is still written on the database");
}
