//! A whole installation in S3, by the command line.

use std::time::Duration;

use keepsake_tests::child::{Process, tool_command};
use keepsake_tests::house::{House, RepositoryAt, State, programs};
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::Scratch;
use keepsake_tests::servers::s3::{ADMIN, BUCKET, Mishap, Oddity, Rights, S3Server};
use keepsake_tests::threescale::Size;

/// Credentials in three files: the coordinator's, the agents' to put, the agents' to read.
fn in_s3(server: &S3Server, scratch: &Scratch) -> RepositoryAt {
    server.admit("AKIDPUT", "canary-put-secret", Rights::Put("keepsake/sets/prod/".into()));
    server.admit("AKIDGET", "canary-get-secret", Rights::Read);
    let file = |name: &str| scratch.path().join(name).display().to_string();
    S3Server::credentials(&scratch.path().join("s3-all"), ADMIN.0, ADMIN.1);
    S3Server::credentials(&scratch.path().join("s3-put"), "AKIDPUT", "canary-put-secret");
    S3Server::credentials(&scratch.path().join("s3-get"), "AKIDGET", "canary-get-secret");
    RepositoryAt {
        url: format!("s3://{BUCKET}/keepsake"),
        topology: format!("  s3: {{ endpoint: '{}', credentials: s3-all }}\n", server.endpoint()),
        agents: [
            ("--s3-endpoint", server.endpoint()),
            ("--s3-credentials", file("s3-put")),
            ("--s3-read-credentials", file("s3-get")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect(),
    }
}

#[tokio::test]
async fn s3_holds_an_installation_through_a_rough_night() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let at = in_s3(&server, &scratch);
    let mut house = House::with(&["prod"], Size::TINY, scratch, at).await;
    let before = State::of(&house.installations[0]).await;
    let doctor = house.must(&["doctor"]);
    assert!(doctor.contains("create-only") && !doctor.contains("BAD"), "{doctor}");

    // Every third put of a new key goes wrong in one of the ways that are mended by repeating.
    let mut n = 0;
    server.plan(move |method, path, before| {
        n += 1;
        let mishaps = [Mishap::Throttled, Mishap::Broken, Mishap::BrokenAfterwards, Mishap::AnswerLost];
        let wrong = *method == hyper::Method::PUT && before == 0 && path.contains("/prod/") && n % 3 == 0;
        wrong.then(|| mishaps[n / 3 % mishaps.len()])
    });
    let done = house.must_json(&["backup"]);
    assert_eq!(done[0]["outcome"], "completed", "{done:#}");
    server.recover();
    house.must(&["verify"]);

    house.installations[0].wreck().await;
    let mut n = 0;
    server.plan(move |method, path, before| {
        n += 1;
        let mishaps = [Mishap::Throttled, Mishap::BodyCut, Mishap::AnswerLost, Mishap::Slow];
        let wrong = *method == hyper::Method::GET && before == 0 && path.contains("/segments/");
        wrong.then(|| mishaps[n % mishaps.len()])
    });
    house.must(&["restore", "--yes", "prod", "--identity", &house.path("identity-1")]);
    server.recover();
    State::of(&house.installations[0]).await.assert_is(&before, "after the restore");

    // A store that stays broken: the backup fails, is not called one, and the next one works.
    server
        .plan(|m, p, _| (*m == hyper::Method::PUT && p.contains("/segments/zync-database/")).then_some(Mishap::Broken));
    let failed = house.keepsake(&["backup"]);
    assert_eq!(failed.status.code(), Some(4), "{}", String::from_utf8_lossy(&failed.stderr));
    server.recover();
    house.must(&["backup"]);
    for agent in &mut house.installations[0].agents {
        for line in agent.process().output() {
            assert!(!line.contains("canary"), "a secret is in the log: {line}");
        }
    }
}

/// Agents as they are in databases' own pods: what is missing when they start may come later, and so may what lets them restore.
#[tokio::test]
async fn s3_installation_of_patient_agents_is_restored_when_somebody_restores() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let mut at = in_s3(&server, &scratch);
    at.agents.push("--patient".to_owned());
    let read = scratch.path().join("s3-get");
    std::fs::remove_file(&read).expect("take the credentials away");
    let mut house = House::with(&["prod"], Size::TINY, scratch, at).await;
    house.must(&["backup"]);
    let before = State::of(&house.installations[0]).await;
    house.installations[0].wreck().await;
    let wrecked = State::of(&house.installations[0]).await;
    let restore = ["restore", "--yes", "prod", "--identity", &house.path("identity-1")];
    let refused = house.keepsake(&restore);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("cannot be loaded now"), "{told}");
    // Before anything was begun.
    assert_eq!(house.must_json(&["runs"]).as_array().map(Vec::len), Some(1), "{told}");
    State::of(&house.installations[0]).await.assert_is(&wrecked, "nothing was restored");
    S3Server::credentials(&read, "AKIDGET", "canary-get-secret");
    house.must(&restore);
    State::of(&house.installations[0]).await.assert_is(&before, "restored");

    // Without its key it waits for it, alive.
    let key = house.scratch.path().join("prod/system-storage/tls.key");
    let elsewhere = house.scratch.path().join("key");
    let agent = house.installations[0].agent("system-storage");
    agent.kill9();
    std::fs::rename(&key, &elsewhere).expect("take the key away");
    let mut command = tool_command(programs().join("keepsake-agent"));
    command.args(&agent.arguments);
    let mut agent = Process::start("agent", command);
    says(&mut agent, "not started, tried again").await;
    std::fs::rename(&elsewhere, &key).expect("bring the key");
    says(&mut agent, "\"listening\"").await;
}

/// Waits until it has said this, and is still there.
async fn says(agent: &mut Process, words: &str) {
    wait_for(words, Duration::from_secs(60), async || {
        assert!(agent.ended().is_none(), "it has ended: {:#?}", agent.output());
        if agent.output().iter().any(|line| line.contains(words)) { Ok(()) } else { Err("it has not") }
    })
    .await;
}
