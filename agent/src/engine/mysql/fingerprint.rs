//! A fingerprint of every definition in a database, to notice that one changed while a dump ran.
//!
//! A snapshot holds rows still, not definitions: a table altered half way may be dumped with the new shape and the old rows.

use std::collections::BTreeMap;

use keepsake_core::error::{Error, Kind, Result};

use super::server::{Family, Server, text};

/// One number per kind of definition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(BTreeMap<&'static str, Vec<Option<String>>>);

/// Kind, table of information_schema, the column with the schema's name, what is compared.
const KINDS: &[(&str, &str, &str, &str)] = &[
    ("database", "schemata", "schema_name", "default_character_set_name, default_collation_name"),
    (
        "tables",
        "tables",
        "table_schema",
        "table_name, table_type, engine, table_collation, create_options, create_time, table_comment",
    ),
    (
        "columns",
        "columns",
        "table_schema",
        "table_name, column_name, ordinal_position, column_type, is_nullable, column_default, extra, collation_name, \
         generation_expression, column_comment",
    ),
    (
        "indexes",
        "statistics",
        "table_schema",
        "table_name, index_name, seq_in_index, column_name, non_unique, sub_part, index_type",
    ),
    (
        "foreign keys",
        "referential_constraints",
        "constraint_schema",
        "constraint_name, table_name, referenced_table_name, update_rule, delete_rule",
    ),
    ("views", "views", "table_schema", "table_name, view_definition, definer, security_type"),
    (
        "triggers",
        "triggers",
        "trigger_schema",
        "trigger_name, event_manipulation, event_object_table, action_timing, action_order, action_statement, definer, \
         sql_mode, character_set_client, collation_connection",
    ),
    (
        "routines",
        "routines",
        "routine_schema",
        "specific_name, routine_type, routine_definition, definer, security_type, sql_mode, last_altered",
    ),
    ("events", "events", "event_schema", "event_name, event_definition, definer, status, sql_mode, last_altered"),
];

/// Takes it now.
///
/// # Errors
/// The server does not answer.
pub(super) async fn take(server: &mut Server, database: &str) -> Result<Fingerprint> {
    if server.family == Family::Mysql && server.version >= (8, 0, 0) {
        // Else `create_time` comes from a cache of a day.
        server.run("have fresh answers", "SET SESSION information_schema_stats_expiry = 0").await?;
    }
    let mut all = BTreeMap::new();
    for (kind, table, schema, columns) in KINDS {
        let sql = format!(
            "SELECT COUNT(*), CAST(COALESCE(SUM(CRC32(CONCAT_WS('|', {columns}))), 0) AS CHAR) \
             FROM information_schema.{table} WHERE {schema} = {}",
            text(database)
        );
        let rows = server.rows(&format!("take the fingerprint of the {kind}"), &sql).await?;
        all.insert(*kind, rows.into_iter().next().unwrap_or_default());
    }
    Ok(Fingerprint(all))
}

impl Fingerprint {
    /// Compares with a later one.
    ///
    /// # Errors
    /// `Busy`, saying what kind of definition changed.
    pub(super) fn unchanged(&self, later: &Self) -> Result<()> {
        let changed: Vec<&str> =
            self.0.iter().filter(|(kind, value)| later.0.get(*kind) != Some(value)).map(|(k, _)| *k).collect();
        if changed.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Busy,
            format!(
                "definitions changed while the dump ran ({}): the dump may mix old and new, so it does not count; \
                 dump again when the migration is over",
                changed.join(", ")
            ),
        ))
    }
}
