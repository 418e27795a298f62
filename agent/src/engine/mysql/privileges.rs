//! What the account may do. Some privileges must be asked for beforehand: without TRIGGER the server lists no triggers, and
//! a dump without them looks whole.

use std::collections::BTreeSet;

use keepsake_core::error::Result;

use super::server::{Family, Server, text};

/// What a dump reads with.
const DUMP: &[&str] = &["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];
/// What a load writes with, besides.
const LOAD: &[&str] = &[
    "CREATE",
    "DROP",
    "INSERT",
    "ALTER",
    "INDEX",
    "LOCK TABLES",
    "REFERENCES",
    "CREATE VIEW",
    "CREATE ROUTINE",
    "ALTER ROUTINE",
];

/// What a load beside the live data needs on schemas of its own.
const STAGE: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES"];

/// The account's privileges.
#[derive(Debug)]
pub(super) struct Privileges {
    /// The account as the server knows it, `user@host`.
    pub(super) account: String,
    /// On everything.
    global: BTreeSet<String>,
    /// On the database, or everything.
    here: BTreeSet<String>,
    family: Family,
}

/// Asks for them. Those that come by a role are not seen.
///
/// # Errors
/// The server does not answer.
pub(super) async fn ask(server: &mut Server, database: &str) -> Result<Privileges> {
    const MINE: &str = "grantee = CONCAT('''', SUBSTRING(CURRENT_USER(), 1, CHAR_LENGTH(CURRENT_USER()) - \
                        CHAR_LENGTH(SUBSTRING_INDEX(CURRENT_USER(), '@', -1)) - 1), '''@''', \
                        SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
    let doing = "ask for the account's privileges";
    let upper = |names: Vec<String>| names.into_iter().map(|n| n.to_ascii_uppercase()).collect::<BTreeSet<_>>();
    let sql = format!("SELECT privilege_type FROM information_schema.user_privileges WHERE {MINE}");
    let global = upper(server.column(doing, &sql).await?);
    let sql = format!(
        "SELECT privilege_type FROM information_schema.schema_privileges WHERE {MINE} AND {} LIKE table_schema",
        text(database)
    );
    let mut here = upper(server.column(doing, &sql).await?);
    here.extend(global.iter().cloned());
    let account = server.value(doing, "SELECT CURRENT_USER()").await?.unwrap_or_default();
    Ok(Privileges { account, global, here, family: server.family })
}

impl Privileges {
    /// What a dump lacks, in words with the remedy; `None` when nothing.
    pub(super) fn missing_for_dump(&self) -> Option<String> {
        let mut missing: Vec<&str> = DUMP.iter().copied().filter(|p| !self.here.contains(*p)).collect();
        let routines = match self.family {
            Family::Mariadb => ["SELECT", "SHOW CREATE ROUTINE"],
            Family::Mysql => ["SELECT", "SHOW_ROUTINE"],
        };
        if !routines.iter().any(|p| self.global.contains(*p)) {
            missing.push("SELECT on *.*, to read the routines' definitions");
        }
        self.words("a whole dump", &missing)
    }

    /// What a load lacks.
    pub(super) fn missing_for_load(&self) -> Option<String> {
        let missing: Vec<&str> = LOAD.iter().chain(DUMP).copied().filter(|p| !self.here.contains(*p)).collect();
        self.words("a load", &missing)
    }

    /// What a load beside the live data lacks; asked for one of its schemas.
    pub(super) fn missing_for_staging(&self) -> Option<String> {
        let missing: Vec<&str> = STAGE.iter().copied().filter(|p| !self.here.contains(*p)).collect();
        (!missing.is_empty()).then(|| {
            format!(
                "a load beside the live data, which can be undone, needs schemas of its own, and the account {} lacks {} on them: \
                 GRANT ALL ON `\\_keepsake\\_%`.* to it (roles are not looked into), or load in place",
                self.account,
                missing.join(", ")
            )
        })
    }

    /// Whether it may lock the whole server against writing.
    pub(super) fn may_flush(&self) -> bool {
        self.global.contains("RELOAD")
    }

    /// What a hold by locked tables lacks.
    pub(super) fn missing_for_hold(&self) -> Option<String> {
        let missing: Vec<&str> = ["LOCK TABLES", "SELECT"].into_iter().filter(|p| !self.here.contains(*p)).collect();
        self.words("holding writes", &missing)
    }

    /// Whether it may make objects that run as somebody else.
    pub(super) fn may_set_definer(&self) -> bool {
        ["SUPER", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER"].iter().any(|p| self.global.contains(*p))
    }

    /// Whether it may make objects that run as an account that does not exist.
    pub(super) fn may_set_absent_definer(&self) -> bool {
        ["SUPER", "ALLOW_NONEXISTENT_DEFINER"].iter().any(|p| self.global.contains(*p))
    }

    /// Whether it may name accounts that MySQL protects from others.
    pub(super) fn is_system_user(&self) -> bool {
        self.global.contains("SYSTEM_USER")
    }

    /// Whether it may make triggers and functions whatever the binary log's settings are.
    pub(super) fn is_super(&self) -> bool {
        self.global.contains("SUPER")
    }

    fn words(&self, what: &str, missing: &[&str]) -> Option<String> {
        if missing.is_empty() {
            return None;
        }
        Some(format!(
            "{what} needs privileges that the account {} lacks: {}; grant them to the account itself (roles are not looked into) \
             or use another --mysql-user",
            self.account,
            missing.join(", ")
        ))
    }
}
