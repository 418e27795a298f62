//! What a server and its database are: the facts that a restore compares, what is in the database, where the server stands.

use std::collections::BTreeSet;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::{Counts, Facts};

use super::server::{Family, Server, name, text};

/// Where a session variable of the server goes among the facts.
const VARIABLES: &[&str] = &[
    "lower_case_table_names",
    "sql_mode",
    "character_set_server",
    "collation_server",
    "max_allowed_packet",
    "event_scheduler",
    "log_bin",
];

/// The table of a Rails application's migrations, and the fact that names the newest.
const SCHEMA: &str = "schema_migrations";

/// A database's defaults; `None` when there is no such database.
pub(super) async fn defaults(server: &mut Server, database: &str) -> Result<Option<(String, String)>> {
    let sql = format!(
        "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name = {}",
        text(database)
    );
    let row = server.rows("ask for the database's character set", &sql).await?.into_iter().next();
    Ok(row.and_then(|row| match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(charset), Some(collation)]) => Some((charset, collation)),
        _ => None,
    }))
}

/// The error for a database that is not there.
pub(super) fn no_database(database: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("there is no database {database} on the server, or the account may not see it: check --mysql-database"),
    )
}

/// What a restore must compare.
pub(super) async fn facts(server: &mut Server, database: &str) -> Result<Facts> {
    let mut facts = Facts::new();
    let mut add = |key: &str, value: String| facts.insert(key.to_owned(), value);
    add("family", server.family.as_str().to_owned());
    add("version", server.version_text.clone());
    add("database", database.to_owned());
    for variable in VARIABLES {
        if let Some(value) = server.variable(variable).await? {
            add(variable, value);
        }
    }
    if let Some((charset, collation)) = defaults(server, database).await? {
        add("database_character_set", charset);
        add("database_collation", collation);
    }
    if let Some(newest) = newest_migration(server, database).await? {
        add(SCHEMA, newest);
    }
    let database = text(database);
    for (key, sql) in [
        // Those under which triggers, routines, events and views were made too: the dump sets them before it makes each.
        (
            "collations",
            format!(
                "SELECT DISTINCT collation_name FROM information_schema.columns \
                 WHERE table_schema = {database} AND collation_name IS NOT NULL \
                 UNION SELECT DISTINCT table_collation FROM information_schema.tables \
                 WHERE table_schema = {database} AND table_collation IS NOT NULL \
                 UNION SELECT collation_connection FROM information_schema.triggers WHERE trigger_schema = {database} \
                 UNION SELECT database_collation FROM information_schema.triggers WHERE trigger_schema = {database} \
                 UNION SELECT collation_connection FROM information_schema.routines WHERE routine_schema = {database} \
                 UNION SELECT database_collation FROM information_schema.routines WHERE routine_schema = {database} \
                 UNION SELECT collation_connection FROM information_schema.events WHERE event_schema = {database} \
                 UNION SELECT database_collation FROM information_schema.events WHERE event_schema = {database} \
                 UNION SELECT collation_connection FROM information_schema.views WHERE table_schema = {database}"
            ),
        ),
        (
            "storage_engines",
            format!(
                "SELECT DISTINCT engine FROM information_schema.tables \
                 WHERE table_schema = {database} AND engine IS NOT NULL AND table_type <> 'VIEW'"
            ),
        ),
    ] {
        let mut names = server.column(&format!("ask for the {key} in use"), &sql).await?;
        names.sort();
        add(key, names.join(","));
    }
    Ok(facts)
}

/// The newest migration that was applied to the database of a Rails application, which tells its release; `None` for another database.
async fn newest_migration(server: &mut Server, database: &str) -> Result<Option<String>> {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = {} AND table_name = '{SCHEMA}' AND column_name = 'version'",
        text(database)
    );
    if server.number("ask for the table of migrations", &sql).await? == 0 {
        return Ok(None);
    }
    let sql = format!("SELECT MAX(version) FROM {}.{SCHEMA}", name(database));
    match server.value("ask for the newest migration", &sql).await {
        Ok(newest) => Ok(newest),
        Err(e) => {
            // A table that is damaged must not stand in the way of the restore that mends it.
            tracing::warn!("{}", e.chain());
            Ok(None)
        }
    }
}

/// About how many bytes the rows have.
pub(super) async fn size(server: &mut Server, database: &str) -> Result<u64> {
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(data_length), 0) AS UNSIGNED) FROM information_schema.tables WHERE table_schema = {}",
        text(database)
    );
    server.number("ask for the database's size", &sql).await
}

/// Tables that have no snapshot: what is written to them during the dump may be in it in part.
pub(super) async fn not_transactional(server: &mut Server, database: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT CONCAT(table_name, ' (', engine, ')') FROM information_schema.tables \
         WHERE table_schema = {} AND table_type <> 'VIEW' AND engine NOT IN ('InnoDB', 'MyRocks', 'ROCKSDB', 'TokuDB') \
         AND table_type <> 'SEQUENCE' ORDER BY 1",
        text(database)
    );
    server.column("ask for the tables' storage engines", &sql).await
}

/// Tables whose history is not in a dump.
pub(super) async fn versioned(server: &mut Server, database: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT table_name FROM information_schema.tables \
         WHERE table_schema = {} AND table_type = 'SYSTEM VERSIONED' ORDER BY 1",
        text(database)
    );
    server.column("ask for system-versioned tables", &sql).await
}

/// How many tables, views, sequences, triggers, routines and events there are: the keys of a dump's counts without rows.
pub(super) async fn objects(server: &mut Server, database: &str) -> Result<Counts> {
    let database = text(database);
    let tables = |types: &str| {
        format!(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = {database} AND table_type IN ({types})"
        )
    };
    let mut counts = Counts::new();
    for (key, sql) in [
        ("tables", tables("'BASE TABLE', 'SYSTEM VERSIONED'")),
        ("views", tables("'VIEW'")),
        ("sequences", tables("'SEQUENCE'")),
        ("triggers", format!("SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = {database}")),
        ("routines", format!("SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = {database}")),
        ("events", format!("SELECT COUNT(*) FROM information_schema.events WHERE event_schema = {database}")),
    ] {
        counts.insert(key.to_owned(), server.number(&format!("count the {key}"), &sql).await?);
    }
    Ok(counts)
}

/// The names of the tables that hold rows.
pub(super) async fn tables(server: &mut Server, database: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT table_name FROM information_schema.tables \
         WHERE table_schema = {} AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 1",
        text(database)
    );
    server.column("list the tables", &sql).await
}

/// The names of everything that RENAME TABLE can move.
pub(super) async fn movable(server: &mut Server, database: &str) -> Result<BTreeSet<String>> {
    let sql = format!(
        "SELECT table_name FROM information_schema.tables \
         WHERE table_schema = {} AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE')",
        text(database)
    );
    Ok(server.column("list tables and sequences", &sql).await?.into_iter().collect())
}

/// A character set's or collation's name, for a statement of ours.
///
/// # Errors
/// `Corrupt` when it is none.
pub(super) fn word(name: &str) -> Result<&str> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(name);
    }
    Err(Error::new(Kind::Corrupt, "the name of a character set or collation is none"))
}

/// Counts everything in a database: rows by COUNT(*), objects by the server's lists.
pub(super) async fn count(server: &mut Server, database: &str) -> Result<Counts> {
    let mut counts = objects(server, database).await?;
    for table in tables(server, database).await? {
        let sql = format!("SELECT COUNT(*) FROM {}.{}", name(database), name(&table));
        let rows = server.number(&format!("count the rows of {table}"), &sql).await?;
        counts.insert(format!("rows:{table}"), rows);
    }
    Ok(counts)
}

/// What a dump by several tools is divided by.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    /// Tables and sequences, with about how many bytes each has.
    pub(super) tables: Vec<(String, u64)>,
    /// Of these the sequences and the tables that use one for a default: the sequence must be made first.
    pub(super) tied: Vec<String>,
    /// The views.
    pub(super) views: Vec<String>,
}

/// Asks for them.
pub(super) async fn parts(server: &mut Server, database: &str) -> Result<Parts> {
    let database = text(database);
    let named = |types: &str, columns: &str| {
        format!(
            "SELECT {columns} FROM information_schema.tables WHERE table_schema = {database} AND table_type IN ({types}) ORDER BY 1"
        )
    };
    let sql =
        named("'BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE'", "table_name, CAST(COALESCE(data_length, 0) AS CHAR)");
    let mut parts = Parts::default();
    for row in server.rows("list the tables with their sizes", &sql).await? {
        if let Ok([Some(table), bytes]) = <[Option<String>; 2]>::try_from(row) {
            parts.tables.push((table, bytes.and_then(|n| n.parse().ok()).unwrap_or_default()));
        }
    }
    parts.views = server.column("list the views", &named("'VIEW'", "table_name")).await?;
    parts.tied = server.column("list the sequences", &named("'SEQUENCE'", "table_name")).await?;
    if !parts.tied.is_empty() {
        let sql = format!(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = {database} \
             AND (column_default LIKE '%nextval(%' OR column_default LIKE '%lastval(%' OR column_default LIKE '%setval(%')"
        );
        parts.tied.extend(server.column("list the tables that use a sequence", &sql).await?);
    }
    Ok(parts)
}

/// Where the server stands: GTIDs, or the place in the binary log; `None` without a binary log or the privilege to ask.
pub(super) async fn position(server: &mut Server) -> Option<String> {
    let gtid = match server.family {
        Family::Mariadb => "gtid_binlog_pos",
        Family::Mysql => "gtid_executed",
    };
    if !matches!(server.variable("log_bin").await, Ok(Some(on)) if on == "ON") {
        return None;
    }
    if let Ok(Some(position)) = server.variable(gtid).await
        && !position.is_empty()
    {
        return Some(position.replace('\n', ""));
    }
    let sql = if server.family == Family::Mysql && server.version >= (8, 2, 0) {
        "SHOW BINARY LOG STATUS"
    } else {
        "SHOW MASTER STATUS"
    };
    match server.rows("ask for the place in the binary log", sql).await {
        Ok(rows) => {
            let mut row = rows.into_iter().next()?.into_iter();
            Some(format!("{}:{}", row.next()??, row.next()??))
        }
        Err(e) => {
            // It is for people only: a dump without it is as good.
            tracing::debug!("no position: {}", e.chain());
            None
        }
    }
}
