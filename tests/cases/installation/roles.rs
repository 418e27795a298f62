//! An agent that this coordinator may back up and not restore, as the manifests deploy it: nothing is begun that it would refuse in the middle.

use keepsake_tests::house::{COORDINATOR, Hooks, House, State};
use keepsake_tests::threescale::Size;

/// What the agent of system-storage lets the coordinator do from now on.
fn allow(house: &mut House, roles: &[&str]) {
    let agent = house.installations[0].agent("system-storage");
    let at = agent.arguments.iter().position(|a| a == "--allow").expect("whom it allows what") + 1;
    agent.arguments[at] = roles.iter().map(|role| format!("{role}={COORDINATOR}")).collect::<Vec<_>>().join(",");
    agent.replace();
}

fn must_refuse(house: &House, args: &[&str]) {
    let runs = house.must_json(&["runs"]).as_array().map(Vec::len);
    let done = house.keepsake(args);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{args:?}: {told}");
    for word in ["system-storage cannot be loaded now", "--allow restore=", "restore-from-s3"] {
        assert!(told.contains(word), "{args:?}: {word}: {told}");
    }
    assert_eq!(house.must_json(&["runs"]).as_array().map(Vec::len), runs, "{args:?} has begun");
}

#[tokio::test]
async fn installation_whose_agent_may_not_load_is_refused_before_anything_stops() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let hooks = Hooks::of(&mut house);
    allow(&mut house, &["backup"]);
    house.must(&["backup"]);
    let new = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let old = State::of(&house.installations[0]).await;
    let doctor = house.must(&["doctor"]);
    assert_eq!(doctor.matches("not now: ").count(), 1, "{doctor}");
    let identity = house.path("identity-1");
    let restore = ["restore", "--yes", "prod", "--keep-old", "--identity", &identity];
    must_refuse(&house, &restore);
    must_refuse(&house, &["plan", "restore"]);
    State::of(&house.installations[0]).await.assert_is(&old, "after a restore that was refused");
    assert_eq!(hooks.words(), Vec::<String>::new(), "applications were stopped for nothing");

    allow(&mut house, &["backup", "restore"]);
    house.must(&restore);
    State::of(&house.installations[0]).await.without_what_is_kept().assert_is(&new, "restored");
    assert_eq!(hooks.words(), ["quiesce", "resume"]);
    // The agent is what it was in everyday life, and somebody wants the old data back.
    allow(&mut house, &["backup"]);
    must_refuse(&house, &["rollback", "--discard-writes"]);
    must_refuse(&house, &["finalize"]);
    assert_eq!(hooks.words(), Vec::<String>::new(), "applications were stopped for nothing");
    allow(&mut house, &["backup", "restore"]);
    house.must(&["rollback", "--discard-writes"]);
    State::of(&house.installations[0]).await.assert_is(&old, "taken back");
}
