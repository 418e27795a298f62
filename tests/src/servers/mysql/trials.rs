//! What a server of the family must be tried with, whichever it is: each panics at the first surprise.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use keepsake_agent::engine::Engine;
use keepsake_agent::engine::mysql::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::error::Kind;
use mysql_async::prelude::Queryable;

use super::MysqlServer;
use super::odd::ODD;
use super::replica::Replica;
use crate::memory::MemorySource;
use crate::root::Root;
use crate::steps::{dump, held_dump, must_restore, restore};
use crate::threescale::{Size, system};

/// The database of all trials.
pub const DATABASE: &str = "system";

impl MysqlServer {
    /// An engine with the tools of a root.
    pub fn engine_with(&self, tools: &Root, change: impl FnOnce(&mut Settings)) -> Arc<dyn Engine> {
        let find = |names: &[&str]| tools.program(names).expect("the tools are in the root");
        let programs = [find(&["mariadb-dump", "mysqldump"]), find(&["mariadb", "mysql"])];
        let folder = self.scratch().join(format!("tools-{}", tools.name()));
        let folder = tools.tools(&folder, &programs.each_ref().map(PathBuf::as_path));
        let tool = |n: usize| Some(folder.join(programs[n].file_name().expect("a name")).display().to_string());
        let mut settings = self.settings();
        (settings.mysql_dump_program, settings.mysql_program) = (tool(0), tool(1));
        change(&mut settings);
        settings.open(self.scratch().to_owned()).expect("open the mysql engine")
    }

    /// Everything in the database that must be as it was.
    pub async fn state(&self) -> [BTreeMap<String, String>; 2] {
        [self.checksums(DATABASE).await, self.schema_digest(DATABASE).await]
    }

    /// Whether it is MySQL's, and not MariaDB's.
    pub async fn is_mysql(&self) -> bool {
        !self.value("SELECT VERSION()").await.expect("a version").contains("MariaDB")
    }

    /// Its version's numbers, as far as they are compared.
    pub async fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let version = self.value("SELECT VERSION()").await.expect("a version");
        let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().expect("a number"));
        (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
    }

    /// Fills the database, made anew, as porta does.
    pub async fn fill(&self, seed: u64) {
        self.run(&[
            "DROP DATABASE IF EXISTS `system`",
            "CREATE DATABASE `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin",
        ])
        .await;
        let statements = system::statements(seed, Size::TINY);
        let mut all = vec!["USE `system`"];
        all.extend(statements.iter().map(String::as_str));
        self.run(&all).await;
    }
}

fn sql(made: &MemorySource) -> String {
    String::from_utf8_lossy(made.artifacts.values().next().expect("an artifact")).into_owned()
}

/// Odd names, values, modes and definitions come back, and dump again as they did.
pub async fn odd_data(root: &Root) {
    let server = MysqlServer::start_in(root, &[]).await;
    server.run(ODD).await;
    let every_byte: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    let mut conn = server.conn().await;
    conn.exec_drop("INSERT INTO `system`.odd (b) VALUES (?)", (every_byte,)).await.expect("insert every byte");
    let (engine, before) = (server.engine_with(root, |_| {}), server.state().await);
    let made = dump(&engine).await;
    server
        .run(&["DROP TABLE `system`.odd", "ALTER DATABASE `system` CHARACTER SET latin1", "DROP EVENT `system`.e"])
        .await;
    must_restore(&engine, &made).await;
    assert_eq!(server.state().await, before);
    let again = dump(&engine).await;
    assert_eq!(again.recorded.expect("a record").counts, made.recorded.as_ref().expect("a record").counts);
}

/// Several tools under a hold write what one writes, and their artifacts load at once, foreign keys from group to group.
pub async fn several_tools(root: &Root) {
    let server = MysqlServer::start_in(root, &[]).await;
    server.run(ODD).await;
    for processes in [2, 16] {
        let (engine, before) = (server.engine_with(root, |s| s.mysql_dump_processes = processes), server.state().await);
        let (one, several) = (dump(&engine).await, held_dump(&engine).await);
        let data = several.artifacts.keys().filter(|name| name.as_str().starts_with("data-")).count();
        assert_eq!(data, usize::from(processes).min(7));
        assert_eq!(several.recorded.as_ref().expect("a record").counts, one.recorded.expect("a record").counts);
        server
            .run(&[
                "DROP TABLE `system`.odd",
                "ALTER DATABASE `system` CHARACTER SET latin1",
                "DROP VIEW `system`.a_view",
            ])
            .await;
        must_restore(&engine, &several).await;
        assert_eq!(server.state().await, before);
    }
}

/// Objects that run as others: an account without the privilege is refused before anything is touched, with it loads them.
pub async fn definers(root: &Root) {
    let server = MysqlServer::start_in(root, &["--log-bin=bin", "--server-id=1"]).await;
    let is_mysql = server.is_mysql().await;
    server.fill(1).await;
    server
        .run(&[
            "CREATE USER other@'10.%'",
            "CREATE DEFINER = other@'10.%' TRIGGER `system`.plans_log BEFORE INSERT ON `system`.plans FOR EACH ROW SET @a = 1",
            "CREATE DEFINER = other@'10.%' SQL SECURITY DEFINER VIEW `system`.of_other AS SELECT id FROM `system`.plans",
            "CREATE DEFINER = other@'10.%' FUNCTION `system`.one() RETURNS int DETERMINISTIC RETURN 1",
            "CREATE DEFINER = other@'10.%' EVENT `system`.of_other ON SCHEDULE EVERY 1 DAY DISABLE DO SET @a = 1",
            "CREATE USER plain@'%'",
            "GRANT ALL ON `system`.* TO plain@'%'",
            r"GRANT ALL ON `\_keepsake\_%`.* TO plain@'%'",
            "GRANT SELECT ON *.* TO plain@'%'",
        ])
        .await;
    let before = server.state().await;
    let plain = server.engine_with(root, |s| {
        s.mysql_user = "plain".to_owned();
        s.mysql_password_file = None;
    });
    // It may dump them, whoever they run as.
    let made = dump(&plain).await;
    assert_eq!(made.recorded.as_ref().expect("a record").facts["definers"], "other@10.%,root@%");
    let refused = async |words: &str| {
        let error = restore(&plain, &made).await.expect_err("a refusal");
        assert!(error.kind() == Kind::Denied && error.chain().contains(words), "{:?} {}", error.kind(), error.chain());
        assert_eq!(server.state().await, before);
    };
    refused("other@10.%").await;
    let privilege = match (is_mysql, server.is_at_least(8, 2).await) {
        (false, _) => "SET USER",
        (true, false) => "SET_USER_ID",
        (true, true) => "SET_ANY_DEFINER",
    };
    server.run(&[&format!("GRANT {privilege} ON *.* TO plain@'%'")]).await;
    if is_mysql {
        refused("root@%, which has the privilege SYSTEM_USER").await;
        server.run(&["GRANT SYSTEM_USER ON *.* TO plain@'%'"]).await;
    }
    refused("log_bin_trust_function_creators").await;
    server.run(&["SET GLOBAL log_bin_trust_function_creators = 1"]).await;
    must_restore(&plain, &made).await;
    assert_eq!(server.state().await, before);
    // An account that is gone: told, or refused where the server would.
    server.run(&["DROP USER other@'10.%'"]).await;
    if is_mysql && server.is_at_least(8, 2).await {
        refused("ALLOW_NONEXISTENT_DEFINER").await;
        server.run(&["GRANT ALLOW_NONEXISTENT_DEFINER ON *.* TO plain@'%'"]).await;
    }
    must_restore(&plain, &made).await;
    assert_eq!(server.state().await, before);
    // Whoever may do everything needs none of it.
    server.run(&["SET GLOBAL log_bin_trust_function_creators = 0", "REVOKE ALL, GRANT OPTION FROM plain@'%'"]).await;
    must_restore(&server.engine_with(root, |_| {}), &made).await;
    assert_eq!(server.state().await, before);
}

/// Objects made while the database had another collation: dumps change the database around each of them, by its name.
pub async fn another_collation(root: &Root) {
    let server = MysqlServer::start_in(root, &[]).await;
    server.fill(1).await;
    server
        .run(&[
            "ALTER DATABASE `system` CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            "CREATE TRIGGER `system`.plans_log BEFORE INSERT ON `system`.plans FOR EACH ROW SET @a = 'ä'",
            "CREATE FUNCTION `system`.late() RETURNS varchar(10) DETERMINISTIC RETURN 'ä'",
        ])
        .await;
    let (engine, before) = (server.engine_with(root, |_| {}), server.state().await);
    let made = dump(&engine).await;
    assert!(sql(&made).contains("ALTER DATABASE `system` CHARACTER SET"), "the dump does not change the database");
    let facts = &made.recorded.as_ref().expect("a record").facts;
    assert_eq!([&facts["altered_schemas"], &facts["database_collation"]], ["system", "utf8mb4_general_ci"]);
    server.run(&["ALTER DATABASE `system` CHARACTER SET latin1", "DROP TRIGGER `system`.plans_log"]).await;
    must_restore(&engine, &made).await;
    assert_eq!(server.state().await, before);
    // Into a database of another name it would change the one beside it.
    server.run(&["CREATE DATABASE elsewhere"]).await;
    let elsewhere = server.engine_with(root, |s| s.mysql_database = "elsewhere".to_owned());
    let error = restore(&elsewhere, &made).await.expect_err("a refusal");
    assert!(
        error.kind() == Kind::Unsupported && error.chain().contains("names the database system"),
        "{}",
        error.chain()
    );
    assert_eq!(server.state().await, before);
}

/// A statement that is longer than the server takes: told by the dump, refused by the load with the setting to change.
pub async fn long_statements(root: &Root) {
    let server = MysqlServer::start_in(root, &[]).await;
    server.fill(1).await;
    let mut conn = server.conn().await;
    let blob: Vec<u8> = (0..=255_u8).cycle().take(5_000_000).collect();
    conn.exec_drop("INSERT INTO `system`.policies (name, `schema`) VALUES ('long', ?)", (blob,)).await.expect("insert");
    let (engine, before) = (server.engine_with(root, |_| {}), server.state().await);
    let made = dump(&engine).await;
    let recorded = made.recorded.as_ref().expect("a record");
    // Two digits a byte.
    let longest: u64 = recorded.facts["longest_statement"].parse().expect("a number");
    assert!((10_000_000..11_000_000).contains(&longest), "{longest}");
    assert!(!recorded.warnings.iter().any(|w| w.contains("max_allowed_packet")), "{:?}", recorded.warnings);
    server.run(&["SET GLOBAL max_allowed_packet = 8388608"]).await;
    let warned = dump(&engine).await.recorded.expect("a record").warnings;
    assert!(warned.iter().any(|w| w.contains("max_allowed_packet of 8388608")), "{warned:?}");
    let error = restore(&engine, &made).await.expect_err("a refusal");
    let told = error.chain();
    let (_, enough) = told.split_once("SET GLOBAL max_allowed_packet = ").expect("the remedy");
    let enough = enough.split('`').next().expect("a number");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(server.state().await, before);
    server.run(&[&format!("SET GLOBAL max_allowed_packet = {enough}"), "DELETE FROM `system`.policies"]).await;
    must_restore(&engine, &made).await;
    assert_eq!(server.state().await, before);
}

/// What a replica must have of it: an event runs on the source only, and says so.
fn replicated([rows, schema]: [BTreeMap<String, String>; 2]) -> [BTreeMap<String, String>; 2] {
    let same = |ddl: String| ddl.replace("DISABLE ON SLAVE", "DISABLE").replace("DISABLE ON REPLICA", "DISABLE");
    [rows, schema.into_iter().map(|(name, ddl)| (name, same(ddl))).collect()]
}

/// A server with GTIDs and a replica: a load reaches the replica, and the replica itself is refused as a target.
pub async fn gtids_and_a_replica(root: &Root) {
    let replica = Replica::start(root).await;
    let source = &replica.source;
    source.fill(1).await;
    replica.has_everything().await;
    let before = source.state().await;
    assert_eq!(replicated(replica.server.state().await), before);
    let engine = source.engine_with(root, |_| {});
    let made = dump(&engine).await;
    // It would be refused by a server that has run anything, and SQL_LOG_BIN would keep the load from the replica.
    for word in ["GTID_PURGED", "gtid_purged", "SQL_LOG_BIN", "gtid_slave_pos"] {
        assert!(!sql(&made).contains(word), "the dump sets {word}");
    }
    assert!(engine.describe().await.expect("a description").position.is_some());
    source
        .run(&["USE `system`", "DROP TABLE application_keys", "DELETE FROM annotations", "DROP VIEW live_applications"])
        .await;
    replica.has_everything().await;
    assert_ne!(replicated(replica.server.state().await), before);
    must_restore(&engine, &made).await;
    assert_eq!(source.state().await, before);
    replica.has_everything().await;
    assert_eq!(replicated(replica.server.state().await), before);

    let of_replica = replica.server.engine_with(root, |_| {});
    dump(&of_replica).await;
    let refused = async || {
        let error = restore(&of_replica, &made).await.expect_err("a refusal");
        let told = error.chain();
        assert!(error.kind() == Kind::Unsupported && told.contains("a replica of another"), "{told}");
        assert_eq!(replicated(replica.server.state().await), before);
    };
    refused().await;
    // Stopped it is still one.
    replica.stop().await;
    refused().await;
    replica.promote().await;
    must_restore(&of_replica, &made).await;
    assert_eq!(replicated(replica.server.state().await), before);
}
