//! Files that rows of 3scale's system database name, told at a dump so that missing ones can be listed.
//!
//! They are read in a transaction of their own, whose snapshot is opened with that of the dump: under a hold both are of one instant. Nothing that
//! goes wrong here fails the dump.

use std::time::Duration;

use keepsake_core::attachments::{Row, path};
use keepsake_core::error::{Error, Kind, Result};

use super::Mysql;
use super::server::{Server, name, text};
use crate::engine::paths::Paths;

/// Opening the snapshot may take so long: writers wait for it.
const OPEN: Duration = Duration::from_millis(200);
/// A row may be waited for so long.
const SILENT: Duration = Duration::from_mins(3);

/// A table whose rows name files.
struct Table {
    name: &'static str,
    /// Its column with the account that the file belongs to, with the file's name, and, in SQL, with what else the path has.
    account: &'static str,
    file: &'static str,
    more: [&'static str; 2],
    /// Columns that must be there besides.
    columns: &'static [&'static str],
}

const TABLES: [Table; 3] = [
    Table {
        name: "cms_files",
        account: "provider_id",
        file: "attachment_file_name",
        more: ["DATE_FORMAT(COALESCE(r.attachment_updated_at, r.created_at), '%Y/%m/%d')", "r.random_secret"],
        columns: &["attachment_updated_at", "created_at", "random_secret"],
    },
    Table {
        name: "invoices",
        account: "provider_account_id",
        file: "pdf_file_name",
        more: ["r.id", "''"],
        columns: &[],
    },
    Table {
        name: "profiles",
        account: "account_id",
        file: "logo_file_name",
        more: ["r.account_id", "''"],
        columns: &[],
    },
];

/// Columns of `accounts`, where the folder of a provider is found.
const ACCOUNTS: [&str; 5] = ["id", "provider", "master", "provider_account_id", "s3_prefix"];

/// A connection that will read them.
pub(super) struct Rows {
    server: Server,
    tables: Vec<(&'static str, String)>,
}

impl Rows {
    /// Looks whether the database has such tables; `None` when it is another.
    pub(super) async fn find(engine: &Mysql, server: &mut Server) -> Result<Option<Self>> {
        let database = &engine.address.database;
        let sql = format!(
            "SELECT CONCAT(LOWER(table_name), '.', LOWER(column_name)) FROM information_schema.columns WHERE table_schema = {}",
            text(database)
        );
        let columns: std::collections::HashSet<String> =
            server.column("ask for the columns of tables", &sql).await?.into_iter().collect();
        let has = |table: &str, column: &str| columns.contains(&format!("{table}.{column}"));
        if !ACCOUNTS.iter().all(|column| has("accounts", column)) {
            return Ok(None);
        }
        let found: Vec<_> = TABLES
            .iter()
            .filter(|t| [&["id", t.account, t.file], t.columns].concat().iter().all(|column| has(t.name, column)))
            .map(|t| (t.name, t.query(database)))
            .collect();
        if found.is_empty() {
            return Ok(None);
        }
        let mut server = Server::connect(&engine.address).await?;
        let session = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        server.run("set the isolation of a transaction", session).await?;
        // A hold may be waited for longer than an idle connection lives.
        server.run("keep a connection", "SET SESSION wait_timeout = 86400").await?;
        Ok(Some(Self { server, tables: found }))
    }

    /// Opens the snapshot.
    pub(super) async fn open(&mut self) -> Result<()> {
        let opened = self.server.run("open a snapshot", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY");
        tokio::time::timeout(OPEN, opened)
            .await
            .map_err(|_| Error::new(Kind::Timeout, format!("no snapshot was had within {OPEN:?}")))?
    }

    /// Tells all paths; returns how many rows name a file.
    pub(super) async fn tell(mut self, paths: &Paths) -> Result<u64> {
        let mut named = 0;
        for (table, sql) in &self.tables {
            let told = self.server.each("read which files rows name", sql, SILENT, |columns| {
                named += 1;
                let id = columns.first().cloned().flatten().unwrap_or_default();
                // An empty path: where the file is cannot be told.
                paths.add(path_of(table, &columns).unwrap_or_default().as_bytes(), &format!("{table} {id}"));
            });
            told.await?;
        }
        Ok(named)
    }
}

impl Table {
    fn query(&self, database: &str) -> String {
        let Self { name: table, account, file, more: [first, second], .. } = self;
        let (rows, accounts) =
            (format!("{}.{}", name(database), name(table)), format!("{}.{}", name(database), name("accounts")));
        format!(
            "SELECT r.id, CASE WHEN a.provider = 1 OR a.master = 1 THEN a.s3_prefix ELSE p.s3_prefix END, r.{file}, {first}, {second} \
             FROM {rows} r LEFT JOIN {accounts} a ON a.id = r.{account} LEFT JOIN {accounts} p ON p.id = a.provider_account_id \
             WHERE r.{file} <> ''"
        )
    }
}

fn path_of(table: &str, columns: &[Option<String>]) -> Option<String> {
    let column = |n: usize| columns.get(n).and_then(Option::as_deref);
    let (id, prefix, file) = (column(0)?, column(1).unwrap_or_default(), column(2)?);
    let row = match table {
        "cms_files" => Row::CmsFile { date: column(3)?, secret: column(4)? },
        "invoices" => Row::Invoice { id },
        _ => Row::Logo { account: column(3)? },
    };
    path(prefix, file, row)
}
