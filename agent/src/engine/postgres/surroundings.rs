//! What belongs to a database but not to what is in it: its comment, and the settings of ALTER DATABASE and ALTER ROLE … IN DATABASE. pg_restore
//! brings them only with --create, which makes the database anew; a load into the one that is there puts them back by itself.

use keepsake_core::error::{Kind, Result, ResultExt};
use keepsake_core::record::Facts;
use serde::{Deserialize, Serialize};

use super::databases;
use super::session::Session;

/// The settings' place among the facts.
const SETTINGS: &str = "database_settings";
/// The comment's.
const COMMENT: &str = "comment";

/// Settings that are lists of names: each name is quoted for itself. The same list as pg_dump's.
const LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// One setting of a database, or of one role in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    /// Only for this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    name: String,
    value: String,
}

async fn ask(session: &Session, database: &str) -> Result<Vec<Setting>> {
    let sql = "SELECT r.rolname::text, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) FROM pg_db_role_setting s \
               JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c \
               WHERE d.datname = $1 ORDER BY 1 NULLS FIRST, 2";
    let rows = session.rows(sql, &[database]).await?;
    Ok(rows.iter().map(|row| Setting { role: row.get(0), name: row.get(1), value: row.get(2) }).collect())
}

/// Adds the settings of the session's own database to the facts.
pub(super) async fn record(session: &Session, facts: &mut Facts) -> Result<()> {
    let database: String = session.row("SELECT current_database()", &[]).await?.get(0);
    let settings = ask(session, &database).await?;
    let text = serde_json::to_string(&settings).or_kind(Kind::Internal, "write down the database's settings")?;
    facts.insert(SETTINGS.to_owned(), text);
    Ok(())
}

/// Of what was recorded, the settings; nothing where none were.
pub(super) fn recorded(facts: &Facts) -> Facts {
    facts.get_key_value(SETTINGS).map(|(name, text)| (name.clone(), text.clone())).into_iter().collect()
}

/// The comment among the facts.
pub(super) fn comment(facts: &Facts) -> Option<&str> {
    facts.get(COMMENT).map(String::as_str).filter(|text| !text.is_empty())
}

/// The statement that gives a database a comment, or takes it away.
pub(super) fn commenting(database: &str, comment: Option<&str>) -> String {
    format!("COMMENT ON DATABASE {} IS {}", ident(database), comment.map_or_else(|| "NULL".to_owned(), literal))
}

/// Makes comment and settings of the live database those of the record.
pub(super) async fn put_back(session: &Session, database: &str, recorded: &Facts) -> Result<Vec<String>> {
    let mut warnings = settle(session, database, database, recorded).await?;
    let wanted = comment(recorded);
    // As it is written there: what an earlier load has written is not the database's own, and goes.
    let there = databases::live(session, database).await?.and_then(|d| d.comment);
    if recorded.contains_key(SETTINGS) && there.as_deref() != wanted {
        warnings.extend(tell(session, commenting(database, wanted), None).await?);
    }
    Ok(warnings)
}

/// Makes a database's settings those of the record. What this role may not do is a warning with the statement to run, in which the database is called
/// `known_as`: a load is not given up for it.
pub(super) async fn settle(session: &Session, database: &str, known_as: &str, recorded: &Facts) -> Result<Vec<String>> {
    let Some(settings) = recorded.get(SETTINGS) else { return Ok(Vec::new()) };
    let wanted: Vec<Setting> =
        serde_json::from_str(settings).or_kind(Kind::Corrupt, "read the database's settings in the record")?;
    let there = ask(session, database).await?;
    let known_as: String = session.row("SELECT quote_ident($1::text)", &[known_as]).await?.get(0);
    let database = ident(database);
    let mut warnings = Vec::new();
    for setting in wanted.iter().filter(|s| !there.contains(s)) {
        let statement =
            |name: &str| format!("{} SET {} TO {}", of(setting, name), ident(&setting.name), value(setting));
        warnings.extend(tell(session, statement(&database), Some(statement(&known_as))).await?);
    }
    let is_wanted = |s: &&Setting| wanted.iter().any(|w| w.role == s.role && w.name == s.name);
    for surplus in there.iter().filter(|s| !is_wanted(s)) {
        let statement = |name: &str| format!("{} RESET {}", of(surplus, name), ident(&surplus.name));
        warnings.extend(tell(session, statement(&database), Some(statement(&known_as))).await?);
    }
    Ok(warnings)
}

/// Runs a statement; what it says when it may not is a warning, with what the operator can run.
async fn tell(session: &Session, statement: String, for_operator: Option<String>) -> Result<Option<String>> {
    let Err(e) = session.run(&statement).await else { return Ok(None) };
    if e.kind() == Kind::Unavailable {
        return Err(e.context("put the database's settings back"));
    }
    Ok(Some(format!(
        "the database is not set as it was when it was dumped ({}): run `{}` as a superuser",
        e.chain(),
        for_operator.unwrap_or(statement)
    )))
}

/// How texts sort and which letters are one is the database's, which a load does not make anew.
pub(super) fn locale_warning(recorded: &Facts, here: &Facts) -> Option<String> {
    let differing: Vec<String> = ["locale_provider", "collate", "ctype", "locale"]
        .into_iter()
        .filter_map(|name| {
            let (there, here) = (recorded.get(name)?, here.get(name)?);
            (there != here).then(|| format!("{name} {there} there, {here} here"))
        })
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "the dump is of a database with another locale ({}): texts may sort otherwise; create the database with the dump's \
             locale if that matters",
            differing.join(", ")
        )
    })
}

fn of(setting: &Setting, database: &str) -> String {
    match &setting.role {
        None => format!("ALTER DATABASE {database}"),
        Some(role) => format!("ALTER ROLE {} IN DATABASE {database}", ident(role)),
    }
}

fn value(setting: &Setting) -> String {
    if !LISTS.contains(&setting.name.as_str()) {
        return literal(&setting.value);
    }
    let names: Vec<String> = names(&setting.value).iter().map(|name| literal(name)).collect();
    if names.is_empty() { "''".to_owned() } else { names.join(", ") }
}

/// The names of a list as the server keeps it: `"$user", public`.
fn names(list: &str) -> Vec<String> {
    let (mut all, mut name, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            ',' if !quoted => {
                all.push(std::mem::take(&mut name));
                begun = false;
            }
            c if c.is_whitespace() && !quoted => {}
            c => {
                name.push(c);
                begun = true;
            }
        }
    }
    if begun {
        all.push(name);
    }
    all
}

/// A name, quoted; a setting of an extension has a dot between two of them.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    // Whatever standard_conforming_strings is.
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str) -> Setting {
        Setting { role: None, name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn values_are_quoted_as_the_server_reads_them() {
        assert_eq!(value(&setting("search_path", r#""$user", public, "a "", b""#)), r#"'$user', 'public', 'a ", b'"#);
        assert_eq!(value(&setting("search_path", r#""""#)), "''");
        assert_eq!(value(&setting("search_path", "")), "''");
        assert_eq!(value(&setting("work_mem", "64MB")), "'64MB'");
        assert_eq!(value(&setting("app.note", r"it's \ a, b")), r"E'it''s \\ a, b'");
    }

    #[test]
    fn another_locale_is_told() {
        let facts = |collate: &str| Facts::from([("collate".to_owned(), collate.to_owned())]);
        assert_eq!(locale_warning(&facts("C"), &facts("C")), None);
        assert!(locale_warning(&facts("C"), &facts("de_DE")).unwrap().contains("collate C there, de_DE here"));
        assert_eq!(locale_warning(&Facts::new(), &facts("C")), None);
    }
}
