//! Coordinators whose pods come to run when whoever asked for them is gone: nothing is begun.

use jiff::SignedDuration;
use keepsake_core::clock;

use super::played::begins_before;
use super::*;

/// The command outside is killed as soon as its Job and its Secret are there, and the pod comes a day later.
pub(super) async fn begins_nothing(house: &House, topology: &Path, client: &Client, args: &[&str], stage: &mut Stage) {
    let runs = house.must(&["runs"]);
    let mut command = in_cluster(topology, args);
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let asked = clock::now();
    let mut child = command.spawn().expect("start keepsake");
    wait_for("the Secret", PATIENCE, async || match secrets(client, NAMESPACE).await.len() {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
    let played = stage.play(How::ADayLate).await;
    // It would have had ten minutes for its pod to run, as the topology says, and as much again to begin.
    let limit = begins_before(&played.arguments).duration_since(asked);
    assert!(limit > SignedDuration::from_mins(20) && limit < SignedDuration::from_mins(30), "{limit:?}");
    let (code, told) = &played.ended;
    assert_eq!(*code, 1, "{told}");
    let again = format!("keepsake --in-cluster {} --installation prod", played.arguments[0]);
    for word in ["came to run too late", "has changed nothing", again.as_str(), "compare the clock"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert_eq!(house.must(&["runs"]), runs, "something was begun");
    // Nobody is there to delete the identity. It goes with the Job that owns it, by the cluster's garbage collector, which does not run here.
    let [secret] = secrets(client, NAMESPACE).await.try_into().expect("one Secret");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], played.job["metadata"]["uid"]);
    client.remove(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/{}", name(&secret))).await;
}

/// What takes back a run, or asks it to stop, may come too late as well: the run that is unfinished then may be another.
pub(super) fn gives_nothing_up(house: &House) {
    let runs = house.must(&["runs"]);
    let before = ["--installation", "prod", "--begin-before", "2001-01-01T00:00:00Z"];
    for command in [
        &["cancel", "--coordinator-is-gone"][..],
        &["cancel", "--coordinator-is-gone", "--leave-as-it-is"],
        &["rollback", "--coordinator-is-gone"],
        &["finalize"],
    ] {
        let late = house.keepsake(&[command, &before[..]].concat());
        assert_eq!(late.status.code(), Some(1), "{command:?}: {}", stderr(&late));
        assert!(stderr(&late).contains("came to run too late"), "{command:?}: {}", stderr(&late));
    }
    assert_eq!(house.must(&["runs"]), runs, "something was begun");
}
