//! Restores of a whole installation that are interrupted: resumed from another machine, cancelled, and what is refused meanwhile.

use std::path::Path;
use std::process::Output;

use keepsake_tests::child::{killed_when, run, tool_command};
use keepsake_tests::house::{Hooks, House, State, programs};
use keepsake_tests::threescale::Size;

/// What another machine needs.
fn elsewhere(house: &House) -> std::path::PathBuf {
    let folder = house.scratch.folder("elsewhere", 0o700);
    let copy = |from: &Path| {
        let to = folder.join(from.strip_prefix(house.scratch.path()).expect("a file of the house"));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
        std::fs::copy(from, to).expect("copy a file");
    };
    for name in ["keepsake.yaml", "keepsake.trust.json", "signing.pem", "identity-2"] {
        copy(&house.scratch.path().join(name));
    }
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        copy(&house.scratch.path().join("coordinator").join(name));
    }
    folder
}

fn from(folder: &Path, args: &[&str]) -> Output {
    let mut command = tool_command(programs().join("keepsake"));
    run(command.arg("--topology").arg(folder.join("keepsake.yaml")).args(args))
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn installation_restore_that_is_interrupted_is_resumed_or_cancelled() {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let hooks = Hooks::of(&mut house);
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    let identity = house.path("identity-1");
    let restore = || {
        let mut command = house.command();
        command.args(["restore", "--yes", "prod", "--identity", &identity]);
        command
    };

    // Before anything is loaded: cancelled, and nothing is changed.
    killed_when(restore(), "stage-system-mysql done");
    let refused = house.keepsake(&["backup"]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    let alive = house.keepsake(&["resume", "--yes", "prod", "--identity", &identity]);
    assert!(told(&alive).contains("--coordinator-is-gone"), "{}", told(&alive));
    house.must(&["cancel", "--coordinator-is-gone"]);
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after a restore that was cancelled");
    let hooked = hooks.said();
    assert_eq!(hooked.iter().filter(|l| l.starts_with("quiesce prod ")).count(), 1, "{hooked:?}");
    assert!(hooked.last().is_some_and(|l| l.starts_with("resume prod ")), "{hooked:?}");
    let runs = house.must(&["runs"]);
    assert!(runs.contains("cancelled") && runs.contains("resumed"), "{runs}");

    // Half of it is loaded: resumed elsewhere.
    killed_when(restore(), "commit-system-mysql done");
    let folder = elsewhere(&house);
    let other = folder.join("identity-2").display().to_string();
    let resumed = from(&folder, &["resume", "--coordinator-is-gone", "--yes", "prod", "--identity", &other]);
    assert!(resumed.status.success(), "{}", told(&resumed));
    State::of(&house.installations[0]).await.assert_is(&before, "after a restore that was resumed elsewhere");
    let hooked = hooks.said();
    let run = |line: &str| line.rsplit_once(' ').map(|(_, run)| run.to_owned());
    assert!(hooked.first().is_some_and(|l| l.starts_with("quiesce")), "{hooked:?}");
    assert!(hooked.last().is_some_and(|l| l.starts_with("resume")), "{hooked:?}");
    assert_eq!(run(&hooked[0]), run(hooked.last().unwrap()), "a run has one id, whoever goes on with it");

    // Past the point of no return it only goes on, and needs no identity for it.
    house.installations[0].wreck().await;
    killed_when(restore(), "point-of-no-return done");
    let refused = house.keepsake(&["cancel", "--coordinator-is-gone"]);
    assert!(!refused.status.success() && told(&refused).contains("can only go on"), "{}", told(&refused));
    let refused = house.keepsake(&["rollback", "--coordinator-is-gone"]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(told(&refused).contains("--discard-writes"), "{}", told(&refused));
    house.must(&["resume", "--coordinator-is-gone"]);
    State::of(&house.installations[0]).await.assert_is(&before, "after a restore that was finished later");

    // One of which somebody knows that it will never come to its end is ended as it is; what agents keep is told, and goes or comes back.
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    killed_when(restore(), "point-of-no-return done");
    let alive = house.keepsake(&["cancel", "--leave-as-it-is"]);
    assert!(alive.status.code() == Some(1) && told(&alive).contains("is going on"), "{}", told(&alive));
    let left = house.keepsake(&["cancel", "--leave-as-it-is", "--coordinator-is-gone"]);
    assert!(left.status.code() == Some(4) && told(&left).contains("nothing was done"), "{}", told(&left));
    let kept = house.keepsake(&["restore", "--yes", "prod", "--identity", &identity]);
    assert!(told(&kept).contains("keepsake finalize"), "{}", told(&kept));
    house.must(&["rollback", "--discard-writes"]);
    State::of(&house.installations[0]).await.assert_is(&wrecked, "after it was taken back");
    house.must(&["restore", "--yes", "prod", "--identity", &identity]);
    house.must(&["backup"]);
    let nothing = house.keepsake(&["resume"]);
    assert!(told(&nothing).contains("nothing to go on with"), "{}", told(&nothing));
    let nothing = house.keepsake(&["finalize"]);
    assert!(told(&nothing).contains("no component of prod keeps old data"), "{}", told(&nothing));
}
