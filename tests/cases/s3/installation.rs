//! A whole installation in S3, by the command line.

use keepsake_tests::house::{House, RepositoryAt, State};
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
