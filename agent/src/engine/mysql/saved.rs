//! What is made of the live tables: triggers, routines, views and events, written down byte for byte before they are dropped, and made again.

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::record::Counts;

use super::broken;
use super::facts;
use super::server::{Server, name, text};
use super::shadow::Shadow;

/// How many bytes an SQL literal of ours has at most.
const LITERAL: usize = 128 * 1024;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    Package,
    PackageBody,
    Function,
    Procedure,
    Trigger,
    View,
    Event,
}

/// In the order of making.
const OBJECTS: [Object; 7] = [
    Object::Package,
    Object::PackageBody,
    Object::Function,
    Object::Procedure,
    Object::Trigger,
    Object::View,
    Object::Event,
];

impl Object {
    /// As SQL calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Package => "PACKAGE",
            Self::PackageBody => "PACKAGE BODY",
            Self::Function => "FUNCTION",
            Self::Procedure => "PROCEDURE",
            Self::Trigger => "TRIGGER",
            Self::View => "VIEW",
            Self::Event => "EVENT",
        }
    }

    /// The names, in the order of making.
    fn list(self, database: &str) -> String {
        let database = text(database);
        match self {
            Self::Trigger => format!(
                "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = {database} \
                 ORDER BY event_object_table, action_timing, event_manipulation, action_order"
            ),
            Self::View => {
                format!("SELECT table_name FROM information_schema.views WHERE table_schema = {database} ORDER BY 1")
            }
            Self::Event => {
                format!("SELECT event_name FROM information_schema.events WHERE event_schema = {database} ORDER BY 1")
            }
            routine => format!(
                "SELECT routine_name FROM information_schema.routines WHERE routine_schema = {database} \
                 AND routine_type = {} ORDER BY 1",
                text(routine.word())
            ),
        }
    }

    /// Where `SHOW CREATE` has: the statement, then the client's character set, the connection's collation, the database's.
    fn columns(self) -> [usize; 4] {
        match self {
            Self::View => [1, 2, 3, usize::MAX],
            Self::Event => [3, 4, 5, 6],
            _ => [2, 3, 4, 5],
        }
    }
}

/// One object with all that its making depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) kind: Object,
    pub(super) name: String,
    sql_mode: Option<String>,
    client: Option<String>,
    connection: Option<String>,
    /// The database's collation when it was made; a view has none.
    collation: Option<String>,
    zone: Option<String>,
    pub(super) statement: Vec<u8>,
}

/// Kinds and names of everything that is there.
pub(super) async fn list(server: &mut Server, database: &str) -> Result<Vec<(Object, String)>> {
    let mut all = Vec::new();
    for kind in OBJECTS {
        let names = server.column(&format!("list each {}", kind.word()), &kind.list(database)).await?;
        all.extend(names.into_iter().map(|name| (kind, name)));
    }
    Ok(all)
}

/// Reads everything that is there.
///
/// # Errors
/// `Denied` when the account may not see a definition.
pub(super) async fn read(server: &mut Server, database: &str) -> Result<Vec<Saved>> {
    let mut all = Vec::new();
    // Definitions are bytes of the character set that they were made in.
    server.run("have definitions as they are", "SET SESSION character_set_results = NULL").await?;
    let listed = list(server, database).await?;
    for (kind, object) in listed {
        let sql = format!("SHOW CREATE {} {}.{}", kind.word(), name(database), name(&object));
        let rows = server.raw_rows(&format!("read the definition of {} {object}", kind.word()), &sql).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let bytes = |at: usize| row.get(at).cloned().flatten();
        let word = |at: usize| bytes(at).map(|b| String::from_utf8_lossy(&b).into_owned());
        let [statement, client, connection, collation] = kind.columns();
        let statement = bytes(statement).ok_or_else(|| {
            Error::new(
                Kind::Denied,
                format!(
                    "the account may not read the definition of the live {} {object}, which could then not be put back",
                    kind.word()
                ),
            )
        })?;
        all.push(Saved {
            kind,
            sql_mode: word(1).filter(|_| kind != Object::View),
            zone: word(2).filter(|_| kind == Object::Event),
            client: word(client),
            connection: word(connection),
            collation: word(collation),
            name: object,
            statement,
        });
    }
    server.run("have texts as before", "SET SESSION character_set_results = utf8mb4").await?;
    Ok(all)
}

/// Writes them into the load's notes, in the caller's transaction.
pub(super) async fn write(server: &mut Server, shadow: &Shadow, all: &[Saved]) -> Result<()> {
    let table = format!("{}.saved", name(&shadow.notes));
    let doing = "write down what is made of the live tables";
    server.run(doing, &format!("DELETE FROM {table}")).await?;
    for (n, saved) in all.iter().enumerate() {
        let optional = |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".to_owned(), text);
        let mut pieces = saved.statement.chunks(LITERAL);
        let sql = format!(
            "INSERT INTO {table} VALUES ({n}, {}, {}, {}, {}, {}, {}, {}, {})",
            text(saved.kind.word()),
            text(&saved.name),
            optional(&saved.sql_mode),
            optional(&saved.client),
            optional(&saved.connection),
            optional(&saved.collation),
            optional(&saved.zone),
            hex(pieces.next().unwrap_or_default())
        );
        server.run(doing, &sql).await?;
        for piece in pieces {
            let sql = format!("UPDATE {table} SET statement = CONCAT(statement, {}) WHERE n = {n}", hex(piece));
            server.run(doing, &sql).await?;
        }
    }
    Ok(())
}

/// Reads them from the load's notes.
pub(super) async fn written(server: &mut Server, shadow: &Shadow) -> Result<Vec<Saved>> {
    let sql = format!(
        "SELECT kind, name, sql_mode, client, connection, collation, zone, statement FROM {}.saved ORDER BY n",
        name(&shadow.notes)
    );
    let rows = server.raw_rows("read what was made of the live tables", &sql).await?;
    let mut all = Vec::new();
    for row in rows {
        let mut values = row.into_iter();
        let mut word = || values.next().flatten().map(|b| String::from_utf8_lossy(&b).into_owned());
        let (kind, name) = (word().unwrap_or_default(), word().unwrap_or_default());
        let kind = OBJECTS.into_iter().find(|k| k.word() == kind).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("the load's notes tell of a {kind}: use the agent that wrote them"))
        })?;
        let (sql_mode, client, connection, collation, zone) = (word(), word(), word(), word(), word());
        let statement = values.next().flatten().unwrap_or_default();
        all.push(Saved { kind, name, sql_mode, client, connection, collation, zone, statement });
    }
    Ok(all)
}

/// Drops everything that is made of tables.
///
/// # Errors
/// `Busy` when a client holds one of the tables.
pub(super) async fn drop_all(server: &mut Server, database: &str) -> Result<()> {
    // Events first: they run by themselves.
    for (kind, object) in list(server, database).await?.into_iter().rev() {
        let sql = format!("DROP {} IF EXISTS {}.{}", kind.word(), name(database), name(&object));
        server.run(&format!("drop the {} {object}", kind.word()), &sql).await?;
    }
    Ok(())
}

/// Makes all of them again in the database, which has this collation now and has it afterwards.
///
/// # Errors
/// `Conflict` for a view that was broken before and cannot be made; everything else has been made then, but events.
pub(super) async fn make(server: &mut Server, database: &str, collation: &str, all: &[Saved]) -> Result<()> {
    server.run("enter the database", &format!("USE {}", name(database))).await?;
    let mut of_database = collation.to_owned();
    let (views, others): (Vec<_>, Vec<_>) = all.iter().partition(|saved| saved.kind == Object::View);
    let (events, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|saved| saved.kind == Object::Event);
    for saved in others {
        one(server, database, &mut of_database, saved).await?;
    }
    broken::make_views(server, database, views).await?;
    for saved in events {
        one(server, database, &mut of_database, saved).await?;
    }
    if of_database != collation {
        set_collation(server, database, collation).await?;
    }
    as_ours(server).await
}

async fn one(server: &mut Server, database: &str, of_database: &mut String, saved: &Saved) -> Result<()> {
    // Each remembers the database's collation of the time when it was made.
    if let Some(collation) = saved.collation.as_ref().filter(|c| *c != of_database) {
        set_collation(server, database, collation).await?;
        of_database.clone_from(collation);
    }
    let refused = attempt(server, saved).await?;
    refused.map_or(Ok(()), |(code, why)| {
        Err(Error::new(Kind::Internal, format!("the server refuses it (error {code}: {why})")))
            .with_context(|| format!("make the {} {} again", saved.kind.word(), saved.name))
    })
}

/// Makes one under the settings that it was made under; what the server has against it is an answer.
pub(super) async fn attempt(server: &mut Server, saved: &Saved) -> Result<Option<(u16, String)>> {
    let mut settings = Vec::new();
    for (variable, value) in [
        ("sql_mode", &saved.sql_mode),
        ("time_zone", &saved.zone),
        ("character_set_client", &saved.client),
        ("collation_connection", &saved.connection),
    ] {
        settings.extend(value.as_deref().map(|value| format!("SESSION {variable} = {}", text(value))));
    }
    let doing = format!("make the {} {} again", saved.kind.word(), saved.name);
    // Our own settings are in ASCII, which every such character set understands.
    as_ours(server).await?;
    if !settings.is_empty() {
        server.run(&doing, &format!("SET {}", settings.join(", "))).await?;
    }
    let refused = server.try_statement(&doing, &saved.statement).await?;
    as_ours(server).await?;
    Ok(refused)
}

async fn as_ours(server: &mut Server) -> Result<()> {
    server.run("have our own settings", "SET NAMES utf8mb4").await?;
    server.run("have our own settings", "SET SESSION sql_mode = '', SESSION time_zone = @@GLOBAL.time_zone").await
}

/// Sets the database's collation, and with it its character set.
pub(super) async fn set_collation(server: &mut Server, database: &str, collation: &str) -> Result<()> {
    let sql = format!("ALTER DATABASE {} COLLATE {}", name(database), facts::word(collation)?);
    server.run("set the database's collation", &sql).await
}

/// Bytes in an SQL statement of ours.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if bytes.is_empty() {
        return "''".to_owned();
    }
    let digit = |n: u8| DIGITS.get(usize::from(n)).map_or('0', |d| char::from(*d));
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("0x");
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// How many there are of each, under the names of [`facts::objects`].
pub(super) fn counted(all: &[Saved]) -> Counts {
    let mut counts: Counts = ["views", "triggers", "routines", "events"].map(|key| (key.to_owned(), 0)).into();
    for saved in all {
        let key = match saved.kind {
            Object::View => "views",
            Object::Trigger => "triggers",
            Object::Event => "events",
            Object::Package | Object::PackageBody | Object::Function | Object::Procedure => "routines",
        };
        if let Some(count) = counts.get_mut(key) {
            *count += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_written_in_hex() {
        assert_eq!(super::hex(b"\x00a\xff"), "0x0061FF");
        assert_eq!(super::hex(b""), "''");
    }
}
