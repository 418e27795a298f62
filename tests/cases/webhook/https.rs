//! How it is called: HTTPS with a real client, bounds, probes, a certificate that is renewed meanwhile, and the program itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use keepsake_coordinator::webhook::{Config, Running, Settings, start};
use keepsake_proto::tls::{ServerFiles, TlsFiles};
use keepsake_tests::certs::{Authority, Validity};
use keepsake_tests::child::{Process, tool_command};
use keepsake_tests::house::programs;
use keepsake_tests::http::{Answer, get, post};
use keepsake_tests::log::Log;
use keepsake_tests::poll::wait_for;
use keepsake_tests::scratch::{Scratch, free_port};
use keepsake_tests::webhook::{applied, asking, containers, review, shipped};
use rustix::process::Signal;
use serde_json::Value;

const NAME: &str = "keepsake-webhook.3scale.svc";
const PATIENCE: Duration = Duration::from_secs(20);

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

async fn started(files: &TlsFiles) -> Running {
    let tls = ServerFiles { cert: files.cert.clone(), key: files.key.clone() };
    let settings = Settings::parse(&shipped()).expect("settings");
    let config = Config { listen: loopback(0), admin: loopback(0), tls, settings };
    start(config).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

async fn asked(at: SocketAddr, ca: &Path, body: &str) -> Result<Answer, String> {
    post(at, Some((ca, NAME)), "/mutate", body.as_bytes().to_vec()).await
}

#[tokio::test]
async fn webhook_answers_over_https_and_is_bounded() {
    let (scratch, authority, log) = (Scratch::new(), Authority::new("ca"), Log::start());
    let files = authority.issue(&scratch.path().join("webhook"), NAME);
    let running = started(&files).await;
    let pod = asking("system-mysql");
    let answer = asked(running.address, &files.ca, &review(&pod).to_string()).await.expect("an answer");
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json"));
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(containers(&applied(&answer["response"], &pod)), ["system-mysql", "keepsake-agent"]);
    assert!(!log.with(&["it gets its agent", "system-mysql"]).is_empty(), "{:#?}", log.lines());
    // Why there is none is in the log, too.
    let answer = asked(running.address, &files.ca, &review(&asking("zync-database")).to_string()).await.expect("one");
    assert!(answer.body.contains("warnings") && !answer.body.contains("patch"), "{}", answer.body);
    assert!(!log.with(&["it gets no agent", "zync-database-data"]).is_empty(), "{:#?}", log.lines());

    for (body, status) in [("{}".to_owned(), 400), (" ".repeat(5 << 20), 413)] {
        assert_eq!(asked(running.address, &files.ca, &body).await.expect("an answer").status, status);
    }
    let trusted = Some((files.ca.as_path(), NAME));
    assert_eq!(get(running.address, trusted, "/mutate").await.expect("an answer").status, 404);
    assert_eq!(
        get(running.address, trusted, "/healthz").await.expect("an answer").status,
        404,
        "that is the other port"
    );
    assert_eq!(post(running.admin, None, "/mutate", Vec::new()).await.expect("an answer").status, 404);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(running.admin, None, path).await.expect("an answer").status, 200, "{path}");
    }
    // Who believes another authority, or asks for another name, does not talk to it; neither does who has no TLS.
    let stranger = Authority::new("ca").issue(&scratch.path().join("stranger"), NAME);
    assert!(asked(running.address, &stranger.ca, "{}").await.is_err());
    assert!(get(running.address, Some((&files.ca, "another.3scale.svc")), "/mutate").await.is_err());
    assert!(get(running.address, None, "/mutate").await.is_err());

    // While it ends it still answers, and says that nobody is to be sent there any more.
    let (at, admin) = (running.address, running.admin);
    let ending = tokio::spawn(running.stop(Duration::from_secs(2)));
    wait_for("it to say that it ends", PATIENCE, async || match get(admin, None, "/readyz").await {
        Ok(answer) if answer.status == 503 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(asked(at, &files.ca, &review(&pod).to_string()).await.expect("an answer").status, 200);
    ending.await.expect("an end");
    assert!(asked(at, &files.ca, "{}").await.is_err());
}

#[tokio::test]
async fn webhook_takes_up_a_renewed_certificate() {
    let (scratch, log) = (Scratch::new(), Log::start());
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = scratch.path().join("webhook");
    let files = old.issue(&folder, NAME);
    let running = started(&files).await;
    let of_old = old.issue(&scratch.path().join("of-old"), NAME).ca;
    let of_new = new.issue(&scratch.path().join("of-new"), NAME).ca;
    let works = async |ca: &Path| get(running.address, Some((ca, NAME)), "/mutate").await.map(drop);
    works(&of_old).await.expect("the first certificate");
    works(&of_new).await.expect_err("it is not there yet");
    new.issue_with(&folder, NAME, Validity::Good, &new);
    wait_for("the new certificate to be shown", PATIENCE, async || works(&of_new).await).await;
    works(&of_old).await.expect_err("the old one is gone");
    // One that cannot be used changes nothing.
    keepsake_tests::certs::replace(&files.key, "nonsense", 0o600);
    wait_for("the new key to be looked at", PATIENCE, async || {
        works(&of_new).await.expect("the last good one");
        let told = log.with(&["cannot be used", "the old ones stay"]);
        if told.is_empty() { Err(format!("{:#?}", log.lines())) } else { Ok(()) }
    })
    .await;
    works(&of_new).await.expect("the last good one");
    running.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn webhook_the_program_serves_and_ends_when_it_is_told() {
    let (scratch, authority) = (Scratch::new(), Authority::new("ca"));
    let files = authority.issue(&scratch.path().join("webhook"), NAME);
    let settings = scratch.path().join("settings.yaml");
    std::fs::write(&settings, shipped()).expect("write settings");
    let (port, admin) = (free_port(), free_port());
    let command = || {
        let mut command = tool_command(programs().join("keepsake"));
        command.arg("webhook").args(["--listen", &loopback(port).to_string(), "--admin", &loopback(admin).to_string()]);
        command.arg("--tls-cert").arg(&files.cert).arg("--tls-key").arg(&files.key).arg("--settings").arg(&settings);
        // It needs nothing of what the other commands need.
        command.current_dir(scratch.path());
        command
    };
    let mut webhook = Process::start("webhook", command());
    wait_for("it to be ready", PATIENCE, async || get(loopback(admin), None, "/readyz").await).await;
    let answer =
        asked(loopback(port), &files.ca, &review(&asking("system-redis")).to_string()).await.expect("an answer");
    assert!(answer.body.contains("JSONPatch"), "{}", answer.body);
    webhook.signal(Signal::TERM);
    assert!(webhook.wait().success(), "{:#?}", webhook.output());

    std::fs::write(&settings, "components: none").expect("write settings");
    let done = keepsake_tests::child::run(&mut command());
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(2) && told.contains("settings.yaml"), "{told}");
}
