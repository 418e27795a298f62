//! PostgreSQL of other releases, with its own client and with others'.

mod full;

use std::sync::Arc;

use keepsake_agent::engine::Engine;
use keepsake_agent::engine::postgres::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_tests::root::Root;
use keepsake_tests::servers::postgres::{PostgresServer, programs_of};
use keepsake_tests::steps::{damaged, describes, dump, must_restore, refused, restore, try_dump};
use keepsake_tests::threescale::{Size, zync};
use tokio_util::sync::CancellationToken;

use crate::report::{Finding, begin, root};

const DATABASE: &str = "zync_production";
const ROLE: &str = "zync";

/// Name and version of a root's server.
fn label(root: &Root) -> String {
    format!("PostgreSQL {}", root.version(&programs_of(root).join("postgres")).major)
}

fn server(name: &str, case: &str) -> Option<(Root, String, Finding)> {
    let Some(root) = root(name) else {
        begin("postgres", name, case).not_tried();
        return None;
    };
    let label = label(&root);
    let finding = begin("postgres", &label, case);
    Some((root, label, finding))
}

/// An engine on a server with the tools of a root, as a role.
fn engine(server: &PostgresServer, tools: &Root, user: &str) -> Arc<dyn Engine> {
    engine_with(server, tools, user, |_| {})
}

fn engine_with(
    server: &PostgresServer,
    tools: &Root,
    user: &str,
    change: impl FnOnce(&mut Settings),
) -> Arc<dyn Engine> {
    let programs = programs_of(tools);
    let paths = ["pg_dump", "pg_restore", "psql"].map(|tool| programs.join(tool));
    let folder = server.scratch().join(format!("tools-{}", tools.name()));
    let mut settings = Settings {
        postgres_host: "127.0.0.1".to_owned(),
        postgres_port: server.port(),
        postgres_user: user.to_owned(),
        postgres_password_file: Some(server.password_file().to_owned()),
        postgres_database: DATABASE.to_owned(),
        postgres_bin_dir: Some(tools.tools(&folder, &paths.each_ref().map(std::path::PathBuf::as_path))),
        ..Settings::default()
    };
    change(&mut settings);
    settings.open(server.scratch().to_owned()).unwrap()
}

/// A server with an empty database of a role that is no superuser and may make databases.
async fn start(root: &Root) -> PostgresServer {
    let server = PostgresServer::start_in(root).await;
    server.create_owner_and_database(ROLE, DATABASE).await;
    server.run_as("postgres", "postgres", &[format!("ALTER ROLE {ROLE} CREATEDB")]).await;
    server
}

async fn fill(server: &PostgresServer, seed: u64) {
    server.run_as(ROLE, DATABASE, &zync::statements(seed, Size::TINY)).await;
}

/// The rows that are to be there after a restore: lockers name processes that were alive then, and are not dumped.
async fn rows(server: &PostgresServer) -> std::collections::BTreeMap<String, String> {
    let mut rows = server.digests(DATABASE).await;
    rows.insert("public.que_lockers".to_owned(), "0 ".to_owned());
    rows
}

async fn describe(name: &str) {
    let Some((root, label, finding)) = server(name, "describe") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    for user in ["postgres", ROLE] {
        describes(&engine(&server, &root, user), &label).await;
    }
    finding.works();
}

async fn empty_and_odd_data_come_back(name: &str) {
    let Some((root, _, finding)) = server(name, "round trip") else { return };
    let server = start(&root).await;
    let empty = dump(&engine(&server, &root, ROLE)).await;
    fill(&server, 1).await;
    let (expected, schema) = (rows(&server).await, server.schema(DATABASE));
    for user in ["postgres", ROLE] {
        let engine = engine(&server, &root, user);
        let full = dump(&engine).await;
        must_restore(&engine, &empty).await;
        assert!(server.digests(DATABASE).await.is_empty(), "as {user}");
        must_restore(&engine, &full).await;
        assert_eq!(server.digests(DATABASE).await, expected, "as {user}");
        assert_eq!(server.schema(DATABASE), schema, "as {user}");
    }
    finding.works();
}

async fn other_data_goes(name: &str) {
    let Some((root, _, finding)) = server(name, "load over other data") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let (expected, schema) = (rows(&server).await, server.schema(DATABASE));
    let engine = engine(&server, &root, ROLE);
    let full = dump(&engine).await;
    server.run_as(ROLE, DATABASE, &zync::wreck()).await;
    server.run_as(ROLE, DATABASE, &["CREATE TABLE surplus (id int)".to_owned()]).await;
    must_restore(&engine, &full).await;
    assert_eq!(server.digests(DATABASE).await, expected);
    assert_eq!(server.schema(DATABASE), schema);
    finding.works();
}

async fn a_dump_under_writes_is_of_one_instant(name: &str) {
    let Some((root, _, finding)) = server(name, "dump under writes") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let pair = ["CREATE TABLE a_pair (n bigserial)".to_owned(), "CREATE TABLE z_pair (n bigserial)".to_owned()];
    server.run_as(ROLE, DATABASE, &pair).await;
    let (client, stop) = (server.client(DATABASE).await, CancellationToken::new());
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut written = 0_u64;
        while !stopped.is_cancelled() {
            let both = "BEGIN; INSERT INTO a_pair DEFAULT VALUES; INSERT INTO z_pair DEFAULT VALUES; COMMIT";
            client.batch_execute(both).await.unwrap();
            written += 1;
        }
        written
    });
    let engine = engine(&server, &root, ROLE);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(dump(&engine).await);
    }
    stop.cancel();
    let written = writer.await.unwrap();
    let last = made.pop().unwrap();
    let counts = &last.recorded.as_ref().unwrap().counts;
    let both = [counts["rows:public.a_pair"], counts["rows:public.z_pair"]];
    assert!(both[0] == both[1] && both[0] > 0 && both[0] < written, "{both:?} of {written}");
    must_restore(&engine, &last).await;
    finding.works();
}

async fn what_is_damaged_is_refused(name: &str) {
    let Some((root, _, finding)) = server(name, "damaged dump") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let engine = engine(&server, &root, ROLE);
    let good = dump(&engine).await;
    server.run_as(ROLE, DATABASE, &zync::wreck()).await;
    let before = server.digests(DATABASE).await;
    for (what, bad) in damaged(&good) {
        refused(&engine, &bad, what).await;
        assert_eq!(server.digests(DATABASE).await, before, "{what}");
    }
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
        })*
    };
}

servers! {
    host: "host",
    of_bullseye: "bullseye-postgres",
    of_sid: "sid-postgres",
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
        return begin("postgres", &format!("{from} → {to}"), "load").not_tried();
    };
    let finding = begin("postgres", &format!("{} → {}", label(&from_root), label(&to_root)), "load");
    let (from, to) = (start(&from_root).await, start(&to_root).await);
    fill(&from, 1).await;
    fill(&to, 2).await;
    let made = dump(&engine(&from, &from_root, ROLE)).await;
    let (theirs, before) = (rows(&from).await, to.digests(DATABASE).await);
    assert_ne!(theirs, before);
    let engine = engine(&to, &to_root, ROLE);
    match then {
        Then::Works => {
            must_restore(&engine, &made).await;
            assert_eq!(to.digests(DATABASE).await, theirs);
            finding.works();
        }
        Then::Refused(words) => {
            let why = refused(&engine, &made, "of another server").await;
            assert!(why.contains(words), "{why}");
            assert_eq!(to.digests(DATABASE).await, before);
            finding.refused(&why);
        }
    }
}

/// The tools of one release on the server of another: a round trip, or a refusal before anything was dumped.
async fn with_tools(tools: &str, on: &str, then: Then) {
    let (Some(tools_root), Some(root)) = (root(tools), root(on)) else {
        return begin("postgres", &format!("tools of {tools} on {on}"), "round trip").not_tried();
    };
    let version = tools_root.version(&programs_of(&tools_root).join("pg_dump")).major;
    let finding = begin("postgres", &format!("tools of {version} on {}", label(&root)), "round trip");
    let server = start(&root).await;
    fill(&server, 1).await;
    let (expected, schema) = (rows(&server).await, server.schema(DATABASE));
    let engine = engine(&server, &tools_root, ROLE);
    let told = engine.describe().await.unwrap_or_else(|e| panic!("describe: {}", e.chain())).problems;
    match then {
        Then::Works => {
            assert_eq!(told, Vec::<String>::new());
            let full = dump(&engine).await;
            server.run_as(ROLE, DATABASE, &zync::wreck()).await;
            must_restore(&engine, &full).await;
            assert_eq!(server.digests(DATABASE).await, expected);
            assert_eq!(server.schema(DATABASE), schema);
            finding.works();
        }
        Then::Refused(words) => {
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
            use super::Then::{Refused, Works};
            use super::$what;
            $(#[tokio::test]
            async fn $name() { $what($one, $other, $then).await; })*
        }
    };
}

pairs! { pairs, crosses:
    from_13_to_15: "bullseye-postgres", "host", Works;
    from_13_to_18: "bullseye-postgres", "sid-postgres", Works;
    from_15_to_18: "host", "sid-postgres", Works;
    from_15_to_13: "host", "bullseye-postgres", Refused("at least as new");
    from_18_to_13: "sid-postgres", "bullseye-postgres", Refused("at least as new");
    from_18_to_15: "sid-postgres", "host", Refused("at least as new");
}

pairs! { tools, with_tools:
    of_13_on_15: "bullseye-postgres", "host", Refused("older than the server");
    of_13_on_18: "bullseye-postgres", "sid-postgres", Refused("older than the server");
    of_15_on_13: "host", "bullseye-postgres", Works;
    of_15_on_18: "host", "sid-postgres", Refused("older than the server");
    of_18_on_13: "sid-postgres", "bullseye-postgres", Works;
    of_18_on_15: "sid-postgres", "host", Works;
}

/// Older tools cannot dump a newer server, but a restore must not fail for want of newer ones.
#[tokio::test]
async fn older_tools_load_into_a_newer_server() {
    let (Some(older), Some(newer)) = (root("bullseye-postgres"), root("sid-postgres")) else {
        return begin("postgres", "a load by older tools", "load").not_tried();
    };
    let version = older.version(&programs_of(&older).join("pg_restore")).major;
    let subject = format!("{} → {} by tools of {version}", label(&older), label(&newer));
    let finding = begin("postgres", &subject, "load");
    let (from, to) = (start(&older).await, start(&newer).await);
    fill(&from, 1).await;
    fill(&to, 2).await;
    let made = dump(&engine(&from, &older, ROLE)).await;
    must_restore(&engine(&to, &older, ROLE), &made).await;
    assert_eq!(to.digests(DATABASE).await, rows(&from).await);
    finding.works();
}

/// A dump that newer tools made of an older server: its archive is too new for the older server's own tools.
#[tokio::test]
async fn an_archive_of_newer_tools_is_refused_by_older_ones() {
    let (Some(newer), Some(older)) = (root("sid-postgres"), root("bullseye-postgres")) else {
        return begin("postgres", "an archive of newer tools", "load").not_tried();
    };
    let version = newer.version(&programs_of(&newer).join("pg_dump")).major;
    let finding = begin("postgres", &format!("archive of tools of {version} → {}", label(&older)), "load");
    let server = start(&older).await;
    fill(&server, 1).await;
    let made = dump(&engine(&server, &newer, ROLE)).await;
    server.run_as(ROLE, DATABASE, &zync::wreck()).await;
    let before = server.digests(DATABASE).await;
    let error = restore(&engine(&server, &older, ROLE), &made).await.expect_err("older tools cannot read it");
    assert!(error.chain().contains("pg_restore"), "{}", error.chain());
    assert_eq!(server.digests(DATABASE).await, before);
    finding.refused(&error.chain());
}
