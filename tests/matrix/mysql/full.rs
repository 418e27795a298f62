//! Each server in full: odd data, definers, collations, replicas, accounts of every kind, TLS.

use keepsake_core::error::Kind;
use keepsake_tests::root::Root;
use keepsake_tests::scratch::Scratch;
use keepsake_tests::servers::mysql::line::Moment;
use keepsake_tests::servers::mysql::torn::{Operation, Victim, every_statement};
use keepsake_tests::servers::mysql::{MysqlServer, trials};
use keepsake_tests::steps::{dump, must_restore};
use keepsake_tests::threescale::system;

use super::server;
use crate::report::{begin, root};

async fn odd_data(name: &str) {
    let Some((root, _, finding)) = server(name, "odd data") else { return };
    trials::odd_data(&root).await;
    finding.works();
}

async fn definers(name: &str) {
    let Some((root, _, finding)) = server(name, "definers") else { return };
    trials::definers(&root).await;
    finding.works();
}

async fn another_collation(name: &str) {
    let Some((root, _, finding)) = server(name, "triggers of another collation") else { return };
    trials::another_collation(&root).await;
    finding.works();
}

async fn long_statements(name: &str) {
    let Some((root, _, finding)) = server(name, "long statements") else { return };
    trials::long_statements(&root).await;
    finding.works();
}

async fn gtids_and_a_replica(name: &str) {
    let Some((root, _, finding)) = server(name, "GTIDs and a replica") else { return };
    trials::gtids_and_a_replica(&root).await;
    finding.works();
}

/// A load that is torn in the middle of a commit or rollback, by an agent or the server that dies: all of the old data, or all of the new.
async fn torn_commits(name: &str) {
    let Some((root, _, finding)) = server(name, "torn commits") else { return };
    assert!(every_statement(&root, Operation::Commit, Victim::Agent(Moment::After), 0, 6).await >= 4);
    assert!(every_statement(&root, Operation::Commit, Victim::Server, 0, 15).await >= 2);
    finding.works();
}

async fn torn_rollbacks(name: &str) {
    let Some((root, _, finding)) = server(name, "torn rollbacks") else { return };
    assert!(every_statement(&root, Operation::Rollback, Victim::Agent(Moment::Before), 0, 6).await >= 4);
    assert!(every_statement(&root, Operation::Rollback, Victim::Server, 0, 15).await >= 2);
    finding.works();
}

async fn torn_stages(name: &str) {
    let Some((root, _, finding)) = server(name, "torn stages and ends") else { return };
    assert!(every_statement(&root, Operation::Stage, Victim::Agent(Moment::While), 0, 10).await >= 2);
    assert!(every_statement(&root, Operation::Finalize, Victim::Server, 0, 2).await >= 2);
    finding.works();
}

/// Whose tools are tried with each kind of account and with TLS.
const TOOLS: [&str; 5] = ["host", "bullseye-mariadb", "sid-mariadb", "ubuntu-mysql-8.0", "sid-mysql"];

/// A round trip with the tools of every root that is here, on a server that has seen nobody yet: a server remembers who has shown
/// its password since it started, and asks less of it then.
async fn by_all_tools(server: &mut MysqlServer, change: impl Fn(&mut keepsake_agent::engine::mysql::Settings)) {
    let expected = server.state().await;
    let all: Vec<Root> = TOOLS.iter().filter_map(|name| root(name)).collect();
    assert!(all.len() > 1, "no tools of another release are here");
    for tools in &all {
        let what = format!("tools of {}", tools.name());
        let engine = server.engine_with(tools, &change);
        server.restart().await;
        let made = dump(&engine).await;
        let told = engine.describe().await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        assert_eq!(told.problems, Vec::<String>::new(), "{what}");
        let wreck = system::wreck();
        let mut all = vec!["USE `system`"];
        all.extend(wreck.iter().map(String::as_str));
        server.run(&all).await;
        server.restart().await;
        must_restore(&engine, &made).await;
        assert_eq!(server.state().await, expected, "{what}");
    }
}

/// An account of an authentication plugin, which has the engine's privileges and no more.
async fn account(name: &str, plugin: &str, options: &[&str]) {
    let Some(root) = root(name) else { return begin("mysql", name, plugin).not_tried() };
    let label = super::label(&root);
    let finding = begin("mysql", &format!("account of {plugin} on {label}"), "account");
    let mut server = MysqlServer::start_in(&root, options).await;
    server.fill(1).await;
    let password = "canary-of-the-account";
    let by = if plugin == "mysql_native_password" && label.starts_with("MariaDB") {
        format!("IDENTIFIED VIA mysql_native_password USING PASSWORD('{password}')")
    } else {
        format!("IDENTIFIED WITH {plugin} BY '{password}'")
    };
    server.run(&[&format!("CREATE USER agent@'%' {by}"), "GRANT ALL ON *.* TO agent@'%'"]).await;
    let file = server.scratch().join("agent-password");
    std::fs::write(&file, password).unwrap();
    by_all_tools(&mut server, |s| {
        s.mysql_user = "agent".to_owned();
        s.mysql_password_file = Some(file.clone());
    })
    .await;
    finding.works();
}

/// TLS with the server's certificate verified, by agent and tools; a server of another certificate is refused.
async fn tls(name: &str) {
    let Some(root) = root(name) else { return begin("mysql", name, "TLS").not_tried() };
    let finding = begin("mysql", &format!("TLS on {}", super::label(&root)), "TLS");
    let folder = Scratch::new();
    let file = |name: &str| folder.path().join(name);
    let certificate = |at: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(file(at), made.cert.pem()).unwrap();
        made.signing_key.serialize_pem()
    };
    std::fs::write(file("key.pem"), certificate("cert.pem")).unwrap();
    certificate("other.pem");
    let (cert, key) =
        (format!("--ssl-cert={}", file("cert.pem").display()), format!("--ssl-key={}", file("key.pem").display()));
    let mut server = MysqlServer::start_in(&root, &[&cert, &key]).await;
    server.fill(1).await;
    // Nobody gets in without TLS, by this account.
    server
        .run(&[
            "CREATE USER agent@'%' IDENTIFIED BY 'canary-of-the-account' REQUIRE SSL",
            "GRANT ALL ON *.* TO agent@'%'",
        ])
        .await;
    let password = file("password");
    std::fs::write(&password, "canary-of-the-account").unwrap();
    let agent = |ca: Option<&str>, host: &str| {
        let (ca, host, password) = (ca.map(file), host.to_owned(), password.clone());
        move |s: &mut keepsake_agent::engine::mysql::Settings| {
            s.mysql_user = "agent".to_owned();
            s.mysql_password_file = Some(password.clone());
            (s.mysql_ca_file, s.mysql_host) = (ca.clone(), host.clone());
        }
    };
    by_all_tools(&mut server, agent(Some("cert.pem"), "localhost")).await;
    for (ca, host, kind) in [
        (None, "localhost", Kind::Denied),
        (Some("other.pem"), "localhost", Kind::Unavailable),
        (Some("cert.pem"), "127.0.0.1", Kind::Unavailable),
    ] {
        let error = server.engine_with(&root, agent(ca, host)).describe().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{ca:?} {host}: {}", error.chain());
        assert!(!error.chain().contains("canary"), "{}", error.chain());
    }
    finding.works();
}

macro_rules! trials {
    ($($name:ident: $root:literal,)*) => {
        $(mod $name {
            #[tokio::test]
            async fn odd_data() { super::odd_data($root).await; }
            #[tokio::test]
            async fn definers() { super::definers($root).await; }
            #[tokio::test]
            async fn another_collation() { super::another_collation($root).await; }
            #[tokio::test]
            async fn long_statements() { super::long_statements($root).await; }
            #[tokio::test]
            async fn gtids_and_a_replica() { super::gtids_and_a_replica($root).await; }
            #[tokio::test]
            async fn tls() { super::tls($root).await; }
            #[tokio::test]
            async fn torn_commits() { super::torn_commits($root).await; }
            #[tokio::test]
            async fn torn_rollbacks() { super::torn_rollbacks($root).await; }
            #[tokio::test]
            async fn torn_stages() { super::torn_stages($root).await; }
        })*
    };
}

trials! {
    mariadb_of_bullseye: "bullseye-mariadb",
    mariadb_of_sid: "sid-mariadb",
    mysql_8_0: "ubuntu-mysql-8.0",
    mysql_8_4: "ubuntu-mysql-8.4",
    mysql_of_sid: "sid-mysql",
}

#[tokio::test]
async fn native_password_on_mariadb() {
    for root in ["host", "bullseye-mariadb", "sid-mariadb"] {
        account(root, "mysql_native_password", &[]).await;
    }
}

#[tokio::test]
async fn native_password_on_mysql_8() {
    account("ubuntu-mysql-8.0", "mysql_native_password", &[]).await;
    // Switched off by default since 8.4, and gone in 9.
    account("ubuntu-mysql-8.4", "mysql_native_password", &["--mysql-native-password=ON"]).await;
}

#[tokio::test]
async fn caching_sha2_password_on_mysql() {
    for root in ["ubuntu-mysql-8.0", "ubuntu-mysql-8.4", "sid-mysql"] {
        account(root, "caching_sha2_password", &[]).await;
    }
}
