//! A zync-database as 3scale has it: its role owns it and may make no other beside it, so its load goes over the live data, whole and last.

use keepsake_tests::house::{House, State};
use keepsake_tests::threescale::Size;

#[tokio::test]
async fn installation_whose_zync_may_make_no_database_is_restored_whole_and_last() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let agent = house.installations[0].agent("zync-database");
    agent.arguments.extend(["--postgres-user".to_owned(), "zync".to_owned()]);
    agent.restart();
    house.write_topology();
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
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
