//! Who may talk to an agent, and whom a client believes.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keepsake_agent::config::{Config, Global, command};
use keepsake_agent::operation::Limits;
use keepsake_core::Kind;
use keepsake_core::id::SetId;
use keepsake_proto::client::{Dialer, only_loopback};
use keepsake_proto::tls::{ServerTls, TlsFiles, peer_certificate};
use keepsake_proto::v1::{self, agent_client::AgentClient};
use keepsake_tests::certs::{Authority, Validity, replace};
use keepsake_tests::fake_engine::Step;
use keepsake_tests::log::Log;
use keepsake_tests::lone_agent::{LoneAgent, NAME, describe, dump_request, key, run, told, watch};
use keepsake_tests::poll::wait_for;
use keepsake_tests::proxy::Proxy;
use keepsake_tests::scratch::Scratch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent with TLS, its authority, and a folder for more certificates.
struct Secured {
    agent: LoneAgent,
    authority: Authority,
    files: TlsFiles,
    scratch: Scratch,
}

impl Secured {
    async fn start() -> Self {
        let (scratch, authority) = (Scratch::new(), Authority::new("ca"));
        let files = authority.issue(&scratch.path().join("agent"), NAME);
        let allow = ["read=reader", "backup=coordinator.keepsake", "restore=restorer"];
        let agent = LoneAgent::start_with(Limits::default(), Some((files.clone(), &allow))).await;
        Self { agent, authority, files, scratch }
    }

    /// A certificate of the right authority.
    fn certificate(&self, name: &str) -> TlsFiles {
        self.authority.issue(&self.scratch.path().join(name), name)
    }

    /// A client with that.
    fn client(&self, name: &str) -> AgentClient<Channel> {
        self.agent.client_as(&self.certificate(name))
    }

    /// Why the first call of a client with these files fails.
    async fn refusal(&self, files: &TlsFiles) -> String {
        let answer = self.agent.client_as(files).describe(v1::DescribeRequest::default()).await;
        told(&answer.expect_err("it was let in")).1
    }
}

#[tokio::test]
async fn the_right_certificates_are_let_in() {
    let secured = Secured::start().await;
    let (mut client, run) = (secured.client("coordinator.keepsake"), run(1));
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    watch(&mut client, key(&run, "dump")).await;
    assert_eq!(describe(&mut secured.client("reader")).await.epoch, 1);
}

#[tokio::test]
async fn a_client_of_another_authority_or_an_expired_one_is_refused_and_the_log_has_why() {
    let log = Log::start();
    let secured = Secured::start().await;
    let stranger = Authority::new("ca");
    let folder = secured.scratch.path().join("x");
    let files = stranger.issue_with(&folder, "coordinator.keepsake", Validity::Good, &secured.authority);
    let text = secured.refusal(&files).await;
    assert!(!log.with(&["TLS handshake refused"]).is_empty(), "{text}: {:#?}", log.lines());
    let expired = secured.authority.issue_with(&folder, "coordinator.keepsake", Validity::Expired, &secured.authority);
    let text = secured.refusal(&expired).await;
    assert!(!log.with(&["TLS handshake refused", "xpired"]).is_empty(), "{text}: {:#?}", log.lines());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let log = Log::start();
    let secured = Secured::start().await;
    let ca = std::fs::read(&secured.files.ca).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(NAME);
    let address = format!("https://{}", secured.agent.running.address);
    let channel = Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap().connect_lazy();
    AgentClient::new(channel).describe(v1::DescribeRequest::default()).await.expect_err("it was let in");
    assert!(!log.with(&["TLS handshake refused", "no certificates"]).is_empty(), "{:#?}", log.lines());
    // Nor one that speaks no TLS at all.
    let mut plain = secured.agent.client();
    plain.describe(v1::DescribeRequest::default()).await.expect_err("it was let in");
}

#[tokio::test]
async fn a_server_that_is_not_the_right_one_is_not_believed() {
    let (scratch, authority, stranger) = (Scratch::new(), Authority::new("ca"), Authority::new("ca"));
    let client = authority.issue(&scratch.path().join("client"), "reader");
    let folder = scratch.path().join("agent");
    let (good, expired) = (Validity::Good, Validity::Expired);
    for (what, issuer, name, validity, expected) in [
        ("another component's name", &authority, "zync.prod", good, "not valid for name"),
        ("another installation's name", &authority, "system-mysql.test", good, "not valid for name"),
        ("expired", &authority, NAME, expired, "expired"),
        ("another CA", &stranger, NAME, good, "invalid peer certificate"),
    ] {
        let files = issuer.issue_with(&folder, name, validity, &authority);
        let agent = LoneAgent::start_with(Limits::default(), Some((files, &["read=reader"]))).await;
        let answer = agent.client_as(&client).describe(v1::DescribeRequest::default()).await;
        let (_, text) = told(&answer.expect_err(what));
        assert!(text.contains(expected), "{what}: {text}");
        let shown = peer_certificate(&client, &agent.running.address.to_string(), NAME).await;
        assert_eq!(shown.expect_err(what).kind(), Kind::Denied, "{what}");
    }
}

#[tokio::test]
async fn the_name_is_verified_whatever_address_is_dialled() {
    let secured = Secured::start().await;
    let files = secured.certificate("reader");
    let port = secured.agent.running.address.port();
    for host in ["127.0.0.1", "localhost"] {
        let address = format!("https://{host}:{port}");
        let mut right = Dialer::new(&address, NAME, Some(files.clone())).unwrap().client().unwrap();
        describe(&mut right).await;
        let wrong = Dialer::new(&address, host, Some(files.clone())).unwrap();
        let answer = wrong.client().unwrap().describe(v1::DescribeRequest::default()).await;
        let (_, text) = told(&answer.expect_err("the address is no name of the certificate"));
        assert!(text.contains("not valid for name"), "{host}: {text}");
    }
}

#[tokio::test]
async fn each_role_may_do_its_own_and_a_refusal_is_in_the_audit_log() {
    let log = Log::start();
    let secured = Secured::start().await;
    let (run, set) = (run(1), SetId::generate());
    let denied = |status: tonic::Status, who: &str, role: &str, call: &str| {
        let (kind, text) = told(&status);
        assert_eq!((status.code(), kind), (tonic::Code::PermissionDenied, Kind::Denied), "{text}");
        assert!(text.contains(&format!("--allow {role}={who}")), "{text}");
        let call = format!("call=\"{call}\"");
        let lines = log.with(&["WARN audit", &call, "refused", who]);
        assert_eq!(lines.len(), 1, "{call} of {who}: {:#?}", log.lines());
    };
    let load = || v1::StartLoadRequest { key: Some(key(&run, "stage")), ..v1::StartLoadRequest::default() };
    let commit = || v1::CommitRequest { key: Some(key(&run, "commit")) };
    let rollback = || v1::RollbackRequest { key: Some(key(&run, "rollback")) };
    let finalize = || v1::FinalizeRequest { key: Some(key(&run, "finalize")) };
    let cancel = || v1::CancelRequest { key: Some(key(&run, "dump")) };

    let mut backup = secured.client("coordinator.keepsake");
    let gate = secured.agent.engine.wait_at(Step::Dump);
    backup.start_dump(dump_request(&run, "dump", set)).await.unwrap();
    gate.reached().await;
    assert_eq!(log.with(&["INFO audit", "call=\"StartDump\"", "coordinator.keepsake", "prod/1 dump", "done"]).len(), 1);

    for who in ["reader", "restorer"] {
        let mut client = secured.client(who);
        describe(&mut client).await;
        denied(client.start_dump(dump_request(&run, "dump", set)).await.unwrap_err(), who, "backup", "StartDump");
        denied(client.cancel(cancel()).await.unwrap_err(), who, "backup", "Cancel");
    }
    // Who asks first is told, and is not in the log for it.
    assert_eq!(describe(&mut secured.client("restorer")).await.cannot_load, "");
    for who in ["reader", "coordinator.keepsake"] {
        let mut client = secured.client(who);
        let told = describe(&mut client).await.cannot_load;
        assert!(told.contains(&format!("--allow restore={who}")), "{told}");
        denied(client.start_load(load()).await.unwrap_err(), who, "restore", "StartLoad");
        denied(client.commit(commit()).await.unwrap_err(), who, "restore", "Commit");
        denied(client.rollback(rollback()).await.unwrap_err(), who, "restore", "Rollback");
        denied(client.finalize(finalize()).await.unwrap_err(), who, "restore", "Finalize");
        denied(client.dump(v1::DumpRequest::default()).await.unwrap_err(), who, "restore", "Dump");
        denied(client.load(futures_util::stream::empty()).await.unwrap_err(), who, "restore", "Load");
    }
    let nobody = secured.client("nobody").describe(v1::DescribeRequest::default()).await.unwrap_err();
    denied(nobody, "nobody", "read", "Describe");
    gate.open();
    watch(&mut secured.client("reader"), key(&run, "dump")).await;
    assert_eq!(secured.agent.engine.calls(Step::Dump), 1);
    assert_eq!(secured.agent.engine.calls(Step::Rollback) + secured.agent.engine.calls(Step::Commit), 0);
}

#[tokio::test]
async fn a_dump_whose_connection_is_cut_is_an_error_and_no_short_dump() {
    let secured = Secured::start().await;
    let proxy = Proxy::start(secured.agent.running.address).await;
    let dialer =
        Dialer::new(&format!("https://{}", proxy.address), NAME, Some(secured.certificate("restorer"))).unwrap();
    let mut client = dialer.client().unwrap();
    let gate = secured.agent.engine.wait_at(Step::Dump);
    let mut stream = client.dump(v1::DumpRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    gate.reached().await;
    proxy.cut();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a connection that was cut looks like the end of a dump"),
            Err(status) => break status,
        }
    };
    let (kind, text) = told(&status);
    assert!(kind.retry(), "{kind}: {text}");
    wait_for("the dump to end", PATIENCE, async || match secured.agent.engine.busy() {
        0 => Ok(()),
        n => Err(format!("{n} calls")),
    })
    .await;
}

#[tokio::test]
async fn replaced_files_are_seen_by_new_connections_while_old_ones_go_on() {
    let log = Log::start();
    let secured = Secured::start().await;
    let (mut old, old_files) = (secured.client("coordinator.keepsake"), secured.certificate("reader"));
    let gate = secured.agent.engine.wait_at(Step::Dump);
    let run = run(1);
    old.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    gate.reached().await;

    let renewed = Authority::new("ca of next year");
    renewed.issue(&secured.scratch.path().join("agent"), NAME);
    let new_files = renewed.issue(&secured.scratch.path().join("new"), "reader");
    wait_for("the new certificate to be shown", PATIENCE, async || {
        let answer = secured.agent.client_as(&new_files).describe(v1::DescribeRequest::default()).await;
        answer.map(drop).map_err(|s| told(&s).1)
    })
    .await;
    assert!(!log.with(&["INFO", "the certificate files changed"]).is_empty(), "{:#?}", log.lines());
    secured.refusal(&old_files).await;
    gate.open();
    watch(&mut old, key(&run, "dump")).await;
}

#[tokio::test]
async fn a_client_takes_its_own_new_files_for_the_next_call() {
    let secured = Secured::start().await;
    let files = secured.certificate("reader");
    let dialer = Dialer::new(&format!("https://{}", secured.agent.running.address), NAME, Some(files.clone())).unwrap();
    let start = dump_request(&run(1), "dump", SetId::generate());
    let status = dialer.client().unwrap().start_dump(start.clone()).await.unwrap_err();
    assert_eq!(told(&status).0, Kind::Denied);
    let renewed = secured.certificate("coordinator.keepsake");
    std::fs::copy(&renewed.cert, &files.cert).unwrap();
    std::fs::copy(&renewed.key, &files.key).unwrap();
    dialer.client().unwrap().start_dump(start).await.expect("the new certificate");
}

#[tokio::test]
async fn new_files_that_cannot_be_used_keep_the_old_ones_and_say_so() {
    let secured = Secured::start().await;
    let good = std::fs::read_to_string(&secured.files.key).unwrap();
    let stranger = secured.certificate("somebody-else");
    let other_key = std::fs::read_to_string(stranger.key).unwrap();
    let bad: [(&str, &std::path::Path, &str, u32, &str); 4] = [
        ("another's key", &secured.files.key, &other_key, 0o600, "do not go together"),
        ("no key", &secured.files.key, "nonsense", 0o600, "holds no private key"),
        ("everybody's key", &secured.files.key, &good, 0o644, "chmod 600"),
        ("an empty certificate", &secured.files.cert, "", 0o644, "holds no certificate"),
    ];
    for (what, path, text, mode, expected) in bad {
        let log = Log::start();
        let before = std::fs::read_to_string(path).unwrap();
        replace(path, text, mode);
        wait_for("the agent to say so", PATIENCE, async || {
            // Every new connection is served meanwhile.
            describe(&mut secured.client("reader")).await;
            let said = log.with(&["ERROR", "the old ones stay", expected]);
            if said.is_empty() { Err(format!("{what}: {:#?}", log.lines())) } else { Ok(()) }
        })
        .await;
        replace(path, &before, if path == secured.files.key { 0o600 } else { 0o644 });
    }
}

#[tokio::test]
async fn a_key_that_everybody_may_read_is_refused_with_the_remedy() {
    let (scratch, authority) = (Scratch::new(), Authority::new("ca"));
    let files = authority.issue(scratch.path(), NAME);
    for (mode, good) in [(0o600, true), (0o640, true), (0o400, true), (0o644, false), (0o604, false), (0o602, false)] {
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        let dialled = Dialer::new("https://127.0.0.1:1", NAME, Some(files.clone())).unwrap().client().map(drop);
        for loaded in [ServerTls::load(files.clone()).map(drop), dialled] {
            match loaded {
                Ok(()) => assert!(good, "{mode:o} was taken"),
                Err(e) => {
                    assert!(!good && e.kind() == Kind::Denied, "{mode:o}: {}", e.chain());
                    assert!(e.chain().contains("chmod 600") && e.chain().contains("tls.key"), "{}", e.chain());
                }
            }
        }
    }
}

fn configured(more: &[&str]) -> keepsake_core::error::Result<Config> {
    let scratch = Scratch::new();
    let folder = scratch.folder("agent", 0o700).display().to_string();
    let mut words = vec!["keepsake-agent", "--installation", "prod", "--component", "system-storage"];
    words.extend(["--scratch", &folder]);
    words.extend(more);
    words.extend(["files", "--files-root", "/tmp"]);
    let matches = command().try_get_matches_from(words).expect("flags");
    Config::new(Global::read(&matches)?, &matches)
}

#[tokio::test]
async fn plaintext_is_refused_where_others_listen_in() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        configured(&["--plaintext", "--listen", address]).expect(address);
    }
    for address in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090"] {
        let error = configured(&["--plaintext", "--listen", address]).expect_err(address);
        assert!(error.kind() == Kind::Invalid && error.chain().contains("--tls-ca"), "{}", error.chain());
    }
    let error = configured(&[]).expect_err("neither TLS nor --plaintext");
    assert!(error.chain().contains("--plaintext, on loopback only"), "{}", error.chain());

    // Nor does an agent serve so that was configured otherwise than by flags.
    let mut config = configured(&["--plaintext", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).unwrap();
    config.listen = "0.0.0.0:0".parse().unwrap();
    let error = keepsake_agent::app::start(config).await.expect_err("it serves in the clear to everybody");
    assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
}

#[test]
fn plaintext_is_not_dialled_where_others_listen_in() {
    Dialer::new("http://127.0.0.1:9090", NAME, None).unwrap();
    Dialer::new("http://[::1]:9090", NAME, None).unwrap();
    for address in ["http://192.0.2.1:9090", "http://0.0.0.0:9090", "http://[2001:db8::1]:9090"] {
        let error = Dialer::new(address, NAME, None).expect_err(address);
        assert!(error.kind() == Kind::Denied && error.chain().contains("not on loopback"), "{}", error.chain());
    }
    assert_eq!(only_loopback("192.0.2.1:1").unwrap_err().kind(), Kind::Denied);
    assert_eq!(Dialer::new("https://127.0.0.1:9090", NAME, None).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(Dialer::new("127.0.0.1:9090", NAME, None).unwrap_err().kind(), Kind::Invalid);
}
