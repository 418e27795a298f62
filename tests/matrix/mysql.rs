//! MySQL and MariaDB of other releases, with their own tools and with others'.

mod full;

use std::sync::Arc;

use keepsake_agent::engine::Engine;
use keepsake_tests::root::Root;
use keepsake_tests::servers::mysql::{MysqlServer, trials};
use keepsake_tests::steps::{damaged, describes, dump, must_restore, refused, restore, try_dump};
use keepsake_tests::threescale::{Size, system};
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use crate::report::{Finding, begin, root};

const DATABASE: &str = "system";

/// Family and version of a root's server.
fn label(root: &Root) -> String {
    let program = MysqlServer::program(root);
    let family = if program.ends_with("mariadbd") { "MariaDB" } else { "MySQL" };
    let version = root.version(&program);
    format!("{family} {}.{}", version.major, version.minor)
}

fn server(name: &str, case: &str) -> Option<(Root, String, Finding)> {
    let Some(root) = root(name) else {
        begin("mysql", name, case).not_tried();
        return None;
    };
    let label = label(&root);
    let finding = begin("mysql", &label, case);
    Some((root, label, finding))
}

/// An engine on a server with the tools of a root.
fn engine(server: &MysqlServer, tools: &Root) -> Arc<dyn Engine> {
    server.engine_with(tools, |_| {})
}

/// A server with an empty database, as porta makes it.
async fn start(root: &Root) -> MysqlServer {
    let server = MysqlServer::start_in(root, &[]).await;
    server.run(&["CREATE DATABASE `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"]).await;
    server
}

async fn run(server: &MysqlServer, statements: &[String]) {
    let mut all = vec!["USE `system`"];
    all.extend(statements.iter().map(String::as_str));
    server.run(&all).await;
}

async fn fill(server: &MysqlServer, seed: u64) {
    run(server, &system::statements(seed, Size::TINY)).await;
}

async fn describe(name: &str) {
    let Some((root, label, finding)) = server(name, "describe") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    describes(&engine(&server, &root), &label).await;
    finding.works();
}

async fn empty_and_odd_data_come_back(name: &str) {
    let Some((root, _, finding)) = server(name, "round trip") else { return };
    let server = start(&root).await;
    let engine = engine(&server, &root);
    let empty = dump(&engine).await;
    fill(&server, 1).await;
    let expected = server.state().await;
    let full = dump(&engine).await;
    must_restore(&engine, &empty).await;
    assert!(server.tables(DATABASE).await.is_empty());
    must_restore(&engine, &full).await;
    assert_eq!(server.state().await, expected);
    finding.works();
}

async fn other_data_goes(name: &str) {
    let Some((root, _, finding)) = server(name, "load over other data") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let expected = server.state().await;
    let engine = engine(&server, &root);
    let full = dump(&engine).await;
    run(&server, &system::wreck()).await;
    run(&server, &["CREATE PROCEDURE surplus() SELECT 1".to_owned()]).await;
    assert_ne!(server.state().await, expected);
    must_restore(&engine, &full).await;
    assert_eq!(server.state().await, expected);
    finding.works();
}

async fn a_dump_under_writes_is_of_one_instant(name: &str) {
    let Some((root, _, finding)) = server(name, "dump under writes") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let key = "(id bigint PRIMARY KEY AUTO_INCREMENT)";
    run(&server, &[format!("CREATE TABLE a_pair {key}"), format!("CREATE TABLE z_pair {key}")]).await;
    let (mut conn, stop) = (server.conn().await, CancellationToken::new());
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut written = 0_u64;
        while !stopped.is_cancelled() {
            for sql in ["BEGIN", "INSERT INTO system.a_pair VALUES ()", "INSERT INTO system.z_pair VALUES ()", "COMMIT"]
            {
                conn.query_drop(sql).await.unwrap();
            }
            written += 1;
        }
        written
    });
    let engine = engine(&server, &root);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(dump(&engine).await);
    }
    stop.cancel();
    let written = writer.await.unwrap();
    let last = made.pop().unwrap();
    let counts = &last.recorded.as_ref().unwrap().counts;
    let both = [counts["rows:a_pair"], counts["rows:z_pair"]];
    assert!(both[0] == both[1] && both[0] > 0 && both[0] < written, "{both:?} of {written}");
    must_restore(&engine, &last).await;
    finding.works();
}

async fn what_is_damaged_is_refused(name: &str) {
    let Some((root, _, finding)) = server(name, "damaged dump") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let engine = engine(&server, &root);
    let good = dump(&engine).await;
    run(&server, &system::wreck()).await;
    let before = server.state().await;
    for (what, bad) in damaged(&good) {
        refused(&engine, &bad, what).await;
        assert_eq!(server.state().await, before, "{what}");
    }
    finding.works();
}

async fn several_tools_under_a_hold(name: &str) {
    let Some((root, _, finding)) = server(name, "several dump tools") else { return };
    trials::several_tools(&root).await;
    finding.works();
}

macro_rules! servers {
    ($($name:ident: $root:literal,)*) => {
        $(mod $name {
            #[tokio::test]
            async fn describe() { super::describe($root).await; }
            #[tokio::test]
            async fn empty_and_odd_data_come_back() { super::empty_and_odd_data_come_back($root).await; }
            #[tokio::test]
            async fn other_data_goes() { super::other_data_goes($root).await; }
            #[tokio::test]
            async fn a_dump_under_writes_is_of_one_instant() { super::a_dump_under_writes_is_of_one_instant($root).await; }
            #[tokio::test]
            async fn what_is_damaged_is_refused() { super::what_is_damaged_is_refused($root).await; }
            #[tokio::test]
            async fn several_tools_under_a_hold() { super::several_tools_under_a_hold($root).await; }
        })*
    };
}

servers! {
    host: "host",
    mariadb_of_bullseye: "bullseye-mariadb",
    mariadb_of_sid: "sid-mariadb",
    mysql_8_0: "ubuntu-mysql-8.0",
    mysql_8_4: "ubuntu-mysql-8.4",
    mysql_of_sid: "sid-mysql",
}

/// What is to become of it.
enum Then {
    Works,
    /// In words that contain this.
    Refused(&'static str),
}

/// A dump of one server loaded into another, each with its own tools. A refusal leaves the other's data.
async fn crosses(from: &str, to: &str, then: Then) {
    let (Some(from_root), Some(to_root)) = (root(from), root(to)) else {
        return begin("mysql", &format!("{from} → {to}"), "load").not_tried();
    };
    let finding = begin("mysql", &format!("{} → {}", label(&from_root), label(&to_root)), "load");
    let (from, to) = (start(&from_root).await, start(&to_root).await);
    fill(&from, 1).await;
    fill(&to, 2).await;
    let made = dump(&engine(&from, &from_root)).await;
    let (theirs, before) = (from.checksums(DATABASE).await, to.state().await);
    assert_ne!(theirs, before[0]);
    let engine = engine(&to, &to_root);
    match then {
        Then::Works => {
            must_restore(&engine, &made).await;
            assert_eq!(to.checksums(DATABASE).await, theirs);
            finding.works();
        }
        Then::Refused(words) => {
            let why = refused(&engine, &made, "of another server").await;
            assert!(why.contains(words), "{why}");
            assert_eq!(to.state().await, before);
            finding.refused(&why);
        }
    }
}

/// The tools of one release on the server of another: a round trip, or a refusal before anything was dumped.
async fn with_tools(tools: &str, on: &str, then: Then) {
    let (Some(tools_root), Some(root)) = (root(tools), root(on)) else {
        return begin("mysql", &format!("tools of {tools} on {on}"), "round trip").not_tried();
    };
    let subject = format!("tools of {} on {}", label(&tools_root), label(&root));
    let finding = begin("mysql", &subject, "round trip");
    let server = start(&root).await;
    fill(&server, 1).await;
    let expected = server.state().await;
    let engine = engine(&server, &tools_root);
    match then {
        Then::Works => {
            let full = dump(&engine).await;
            run(&server, &system::wreck()).await;
            must_restore(&engine, &full).await;
            assert_eq!(server.state().await, expected);
            finding.works();
        }
        Then::Refused(words) => {
            let told = engine.describe().await.unwrap_or_else(|e| panic!("describe: {}", e.chain())).problems;
            assert!(told.iter().any(|p| p.contains(words)), "{told:?}");
            let why = try_dump(&engine).await.expect_err("a refusal").chain();
            assert!(why.contains(words), "{why}");
            finding.refused(&why);
        }
    }
}

macro_rules! pairs {
    ($module:ident, $what:ident: $($name:ident: $one:literal, $other:literal, $then:expr;)*) => {
        mod $module {
            use super::{Then, $what};
            $(#[tokio::test]
            async fn $name() { $what($one, $other, $then).await; })*
        }
    };
}

pairs! { pairs, crosses:
    mariadb_10_5_to_10_11: "bullseye-mariadb", "host", Then::Works;
    mariadb_10_5_to_11: "bullseye-mariadb", "sid-mariadb", Then::Works;
    mariadb_10_11_to_11: "host", "sid-mariadb", Then::Works;
    mariadb_10_11_to_10_5: "host", "bullseye-mariadb", Then::Works;
    mariadb_11_to_10_5: "sid-mariadb", "bullseye-mariadb", Then::Refused("uses the collation utf8mb4_uca1400_ai_ci");
    mariadb_11_to_10_11: "sid-mariadb", "host", Then::Works;
    mariadb_10_5_to_mysql: "bullseye-mariadb", "sid-mysql", Then::Refused("--mysql-allow-cross-family");
    mariadb_10_11_to_mysql: "host", "sid-mysql", Then::Refused("--mysql-allow-cross-family");
    mariadb_11_to_mysql: "sid-mariadb", "sid-mysql", Then::Refused("--mysql-allow-cross-family");
    mysql_to_mariadb_10_11: "sid-mysql", "host", Then::Refused("--mysql-allow-cross-family");
    mysql_to_mariadb_11: "sid-mysql", "sid-mariadb", Then::Refused("--mysql-allow-cross-family");
    mysql_8_0_to_mariadb_10_11: "ubuntu-mysql-8.0", "host", Then::Refused("--mysql-allow-cross-family");
    mariadb_10_11_to_mysql_8_0: "host", "ubuntu-mysql-8.0", Then::Refused("--mysql-allow-cross-family");
    mysql_8_0_to_8_4: "ubuntu-mysql-8.0", "ubuntu-mysql-8.4", Then::Works;
    mysql_8_0_to_9: "ubuntu-mysql-8.0", "sid-mysql", Then::Works;
    mysql_8_4_to_9: "ubuntu-mysql-8.4", "sid-mysql", Then::Works;
    mysql_8_4_to_8_0: "ubuntu-mysql-8.4", "ubuntu-mysql-8.0", Then::Works;
    mysql_9_to_8_0: "sid-mysql", "ubuntu-mysql-8.0", Then::Works;
    mysql_9_to_8_4: "sid-mysql", "ubuntu-mysql-8.4", Then::Works;
}

pairs! { tools, with_tools:
    of_10_5_on_10_11: "bullseye-mariadb", "host", Then::Works;
    of_10_5_on_11: "bullseye-mariadb", "sid-mariadb", Then::Works;
    of_10_11_on_10_5: "host", "bullseye-mariadb", Then::Works;
    of_10_11_on_11: "host", "sid-mariadb", Then::Works;
    of_11_on_10_5: "sid-mariadb", "bullseye-mariadb", Then::Works;
    of_11_on_10_11: "sid-mariadb", "host", Then::Works;
    of_10_5_on_mysql: "bullseye-mariadb", "sid-mysql", Then::Works;
    of_10_11_on_mysql: "host", "sid-mysql", Then::Works;
    of_11_on_mysql: "sid-mariadb", "sid-mysql", Then::Works;
    of_mysql_on_10_5: "sid-mysql", "bullseye-mariadb", Then::Works;
    of_mysql_on_10_11: "sid-mysql", "host", Then::Works;
    of_mysql_on_11: "sid-mysql", "sid-mariadb", Then::Works;
    of_10_5_on_mysql_8_0: "bullseye-mariadb", "ubuntu-mysql-8.0", Then::Works;
    of_10_11_on_mysql_8_0: "host", "ubuntu-mysql-8.0", Then::Works;
    of_11_on_mysql_8_0: "sid-mariadb", "ubuntu-mysql-8.0", Then::Works;
    of_mysql_8_0_on_10_11: "ubuntu-mysql-8.0", "host", Then::Works;
    of_mysql_8_0_on_11: "ubuntu-mysql-8.0", "sid-mariadb", Then::Works;
    of_mysql_8_0_on_8_4: "ubuntu-mysql-8.0", "ubuntu-mysql-8.4", Then::Works;
    of_mysql_8_0_on_9: "ubuntu-mysql-8.0", "sid-mysql", Then::Works;
    of_mysql_9_on_8_0: "sid-mysql", "ubuntu-mysql-8.0", Then::Works;
    of_mysql_9_on_8_4: "sid-mysql", "ubuntu-mysql-8.4", Then::Works;
}

/// Asked for in words, a set crosses; what then happens is told here: no promise.
#[tokio::test]
async fn crossing_the_families_when_asked_for() {
    for (from, to) in [("host", "sid-mysql"), ("sid-mysql", "host"), ("sid-mysql", "sid-mariadb")] {
        let (Some(from_root), Some(to_root)) = (root(from), root(to)) else {
            begin("mysql", &format!("{from} → {to} (asked for)"), "load").not_tried();
            continue;
        };
        let subject = format!("{} → {} (asked for, and only counted)", label(&from_root), label(&to_root));
        let finding = begin("mysql", &subject, "load");
        let (from, to) = (start(&from_root).await, start(&to_root).await);
        fill(&from, 1).await;
        let made = dump(&engine(&from, &from_root)).await;
        match restore(&to.engine_with(&to_root, |s| s.mysql_allow_cross_family = true), &made).await {
            Ok(()) => finding.works(),
            Err(e) => finding.refused(&e.chain()),
        }
    }
}
