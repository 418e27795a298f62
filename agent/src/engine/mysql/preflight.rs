//! Whether a server will take a dump, asked before anything is touched.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::DumpReport;

use super::server::{Family, Server, text};
use super::{Mysql, commit, definers, facts, privileges, tools};
use keepsake_core::format::sql::Summary;

/// What a packet has beside the statement: the command's byte, and comments that the client sends along.
pub(super) const PACKET_ROOM: u64 = 1024;

/// Compares the recorded server with this one; returns what an operator should know.
///
/// # Errors
/// `Unsupported` when they do not fit, with the remedy.
pub(super) async fn server(engine: &Mysql, server: &mut Server, recorded: Option<&DumpReport>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let database = &engine.address.database;
    let client = tools::client(&engine.programs, server.family).await?;
    tools::gets_in(&client, &engine.address, engine.address.password()?.as_ref()).await?;
    if let Some(missing) = privileges::ask(server, database).await?.missing_for_load() {
        return Err(Error::new(Kind::Denied, missing));
    }
    writable(server).await?;
    warnings.extend(is_no_replica(server).await?);
    let Some(recorded) = recorded else {
        if facts::defaults(server, database).await?.is_none() {
            return Err(facts::no_database(database).context(
                "a dump without a record does not tell the database's character set: create the database first",
            ));
        }
        warnings.push(
            "the dump came without a record: whether it is of this server's family and name case could not be checked, and the \
             database keeps its character set"
                .to_owned(),
        );
        return Ok(warnings);
    };
    let fact = |key: &str| recorded.facts.get(key).map(String::as_str);
    let refuse = |text: String| Err(Error::new(Kind::Unsupported, text));

    if let Some(family) = fact("family")
        && family != server.family.as_str()
    {
        let crossing = format!("the dump is of {}, and this server is {}", recorded.server, server.name());
        if !engine.allow_cross_family {
            return refuse(format!(
                "{crossing}: they differ in more than the name; to try it all the same, say --mysql-allow-cross-family"
            ));
        }
        warnings.push(format!("{crossing}, as asked for by --mysql-allow-cross-family"));
    }
    let here = server.variable("lower_case_table_names").await?;
    if let (Some(there), Some(here)) = (fact("lower_case_table_names"), here.as_deref())
        && there != here
    {
        return refuse(format!(
            "the dump is of a server with lower_case_table_names = {there}, and this one has {here}: tables would get other \
             names; set up a server with {there}"
        ));
    }
    if let Some(newer) = newer(fact("version"), server) {
        warnings.push(newer);
    }
    if let Some(name) = fact("database")
        && name != database
    {
        warnings.push(format!("the dump is of a database called {name}, and is to be loaded into {database}"));
    }
    let mut collations: Vec<&str> = fact("collations").unwrap_or_default().split(',').collect();
    collations.extend(fact("database_collation"));
    for collation in collations.into_iter().filter(|c| !c.is_empty()) {
        knows_collation(server, collation).await?;
    }
    let supported: Vec<String> = server
        .column(
            "list the storage engines",
            "SELECT engine FROM information_schema.engines WHERE support IN ('YES', 'DEFAULT')",
        )
        .await?;
    for storage in fact("storage_engines").unwrap_or_default().split(',').filter(|e| !e.is_empty()) {
        if !supported.iter().any(|s| s.eq_ignore_ascii_case(storage)) {
            return refuse(format!(
                "the dump has tables of the storage engine {storage}, which this server does not have"
            ));
        }
    }
    Ok(warnings)
}

/// Refuses a server that is read only.
///
/// # Errors
/// `Unsupported`, with the remedy.
pub(super) async fn writable(server: &mut Server) -> Result<()> {
    // An account with SUPER could write all the same, and the replica would no longer be one.
    if server.variable("read_only").await?.is_some_and(|v| v != "OFF" && v != "0") {
        return Err(Error::new(
            Kind::Unsupported,
            "the server is read only, as replicas are: load into its primary, or `SET GLOBAL read_only = 0` if it is none",
        ));
    }
    Ok(())
}

/// Refuses what a rollback could not put back.
///
/// # Errors
/// `Denied`, with what to grant.
pub(super) async fn restorable(engine: &Mysql, server: &mut Server) -> Result<()> {
    commit::could_be_put_back(server, &engine.address.database).await
}

/// Refuses a replica that may be written to: it would differ from its primary from then on, and replication would stop.
pub(super) async fn is_no_replica(server: &mut Server) -> Result<Option<String>> {
    let sql = match server.family {
        // All connections, not only the one without a name.
        Family::Mariadb => "SHOW ALL SLAVES STATUS",
        Family::Mysql if server.version >= (8, 0, 22) => "SHOW REPLICA STATUS",
        Family::Mysql => "SHOW SLAVE STATUS",
    };
    match server.rows("ask whether the server is a replica", sql).await {
        Ok(rows) if rows.is_empty() => Ok(None),
        Ok(_) => Err(Error::new(
            Kind::Unsupported,
            "the server is a replica of another: load into its primary, from which it gets the data; if it is a replica no longer, \
             run RESET REPLICA ALL (before MySQL 8.0.22 and on MariaDB RESET SLAVE ALL)",
        )),
        Err(e) if e.kind() == Kind::Denied => Ok(Some(
            "whether the server is a replica could not be seen: grant the account REPLICATION CLIENT (MariaDB: REPLICA MONITOR)"
                .to_owned(),
        )),
        Err(e) => Err(e),
    }
}

fn newer(version: Option<&str>, server: &Server) -> Option<String> {
    let version = version?;
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let theirs = (parts.next()?, parts.next()?);
    let ours = (server.version.0, server.version.1);
    (theirs > ours).then(|| format!("the dump is of the newer version {version}, and this server is {}", server.name()))
}

async fn knows_collation(server: &mut Server, collation: &str) -> Result<()> {
    let sql = format!("SET SESSION collation_connection = {}", text(collation));
    match server.run(&format!("use the collation {collation}"), &sql).await {
        Err(e) if e.kind() == Kind::Unsupported => Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump uses the collation {collation}, which {} does not have: restore to a server that has it, such as the one \
                 that was dumped",
                server.name()
            ),
        )),
        other => other,
    }
}

/// Compares what was read in the dump with the server; returns what an operator should know.
///
/// # Errors
/// `Unsupported` or `Denied`, with the remedy.
pub(super) async fn dump(engine: &Mysql, server: &mut Server, summary: &Summary) -> Result<Vec<String>> {
    let database = &engine.address.database;
    if let Some(other) = summary.altered_schemas.iter().chain(&summary.foreign_schemas).find(|s| *s != database) {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the dump names the database {other}, and would change it beside {database}: load it where --mysql-database \
                 is {other}"
            ),
        ));
    }
    longest(server, summary.longest_statement).await?;
    definers::may_define(server, database, summary).await?;
    notes(server, summary).await
}

/// Refuses a statement that the server would not take, of so many bytes.
///
/// # Errors
/// `Unsupported`, with the remedy.
pub(super) async fn longest(server: &mut Server, bytes: u64) -> Result<()> {
    let limit: u64 = server.variable("max_allowed_packet").await?.and_then(|v| v.parse().ok()).unwrap_or(0);
    if bytes.saturating_add(PACKET_ROOM) > limit {
        let needed = (bytes.saturating_add(PACKET_ROOM) / (1 << 20) + 1) << 20;
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the longest statement of the dump has {bytes} bytes, and the server's max_allowed_packet is {limit}: run \
                 `SET GLOBAL max_allowed_packet = {needed}` (at most 1073741824) and put it into the server's configuration"
            ),
        ));
    }
    Ok(())
}

/// What an operator should know although the load will work.
pub(super) async fn notes(server: &mut Server, summary: &Summary) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    match definers::absent(server, summary).await? {
        None => notes.push("whether the accounts exist that triggers and routines run as could not be seen".to_owned()),
        Some(absent) => notes.extend(absent.into_iter().map(|definer| {
            format!(
                "triggers, routines, events or views of the dump run as {definer}, an account that this server does not have: \
                 until it is created, writing to their tables fails (error 1449)"
            )
        })),
    }
    if summary.events > 0 {
        let on = server.variable("event_scheduler").await?.as_deref() == Some("ON");
        notes.push(format!(
            "the dump has {} events, and the server's event scheduler is {}: they {} run once they are loaded",
            summary.events,
            if on { "on" } else { "off" },
            if on { "will" } else { "will not" }
        ));
    }
    Ok(notes)
}
