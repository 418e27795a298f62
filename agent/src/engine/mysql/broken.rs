//! Views that are made again in whatever order they need, those too that were broken.
//!
//! A database that is restored over is often one in which a table is missing, and with it the sense of every view on it. Such a view cannot be
//! made as it was; it is made on stand-ins for what is missing, which are dropped again.

use std::collections::{BTreeMap, BTreeSet};

use keepsake_core::error::{Error, Kind, Result};

use super::saved::{Saved, attempt};
use super::server::{Server, name, text};

/// What a stand-in for a table is marked with.
const STAND_IN: &str = "stands in for a table that a broken view names (keepsake)";
/// More columns than this a table cannot have.
const COLUMNS: usize = 1000;

/// Makes views.
///
/// # Errors
/// `Conflict`, naming the first that cannot be made; all others are made then.
pub(super) async fn make_views(server: &mut Server, database: &str, views: Vec<&Saved>) -> Result<()> {
    let mut waiting = views;
    // Views stand on views.
    loop {
        let before = waiting.len();
        let mut refused = Vec::new();
        for view in waiting {
            if attempt(server, view).await?.is_some() {
                refused.push(view);
            }
        }
        waiting = refused;
        if waiting.is_empty() {
            return Ok(());
        }
        if waiting.len() == before {
            break;
        }
    }
    let mut stand_ins: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut failed = None;
    for view in waiting {
        if let Err(e) = on_stand_ins(server, database, view, &mut stand_ins).await {
            if e.kind() != Kind::Conflict {
                return Err(e);
            }
            failed.get_or_insert(e);
        }
    }
    drop_stand_ins(server, database).await?;
    failed.map_or(Ok(()), Err)
}

async fn on_stand_ins(
    server: &mut Server,
    database: &str,
    view: &Saved,
    stand_ins: &mut BTreeMap<String, BTreeSet<String>>,
) -> Result<()> {
    for _ in 0..COLUMNS {
        let Some((code, why)) = attempt(server, view).await? else { return Ok(()) };
        let named = quoted(&why);
        let missing = named.and_then(|n| n.rsplit('.').next()).unwrap_or_default().to_owned();
        let here =
            named.and_then(|n| n.split_once('.')).is_some_and(|(schema, _)| schema.eq_ignore_ascii_case(database));
        let known = match code {
            1146 if here && !stand_ins.contains_key(&missing) => {
                let sql =
                    format!("CREATE TABLE {} (`keepsake` int) COMMENT = {}", table(database, &missing), text(STAND_IN));
                server.run("make a stand-in", &sql).await?;
                stand_ins.insert(missing, BTreeSet::new());
                true
            }
            1054 => {
                let mut any = false;
                for (stand_in, columns) in stand_ins.iter_mut() {
                    if columns.insert(missing.clone()) {
                        let sql =
                            format!("ALTER TABLE {} ADD COLUMN {} int", table(database, stand_in), name(&missing));
                        server.run("complete a stand-in", &sql).await?;
                        any = true;
                    }
                }
                any
            }
            _ => false,
        };
        if !known {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "the view {} was broken before the load and cannot be made again (error {code}: {why}). Make what it needs and roll back \
                     again, or give it up: DELETE FROM the table `saved` in the schema of the load's notes WHERE name = {}; its definition \
                     is there",
                    view.name,
                    text(&view.name)
                ),
            ));
        }
    }
    Err(Error::new(Kind::Conflict, format!("the view {} needs more columns than a table can have", view.name)))
}

/// Drops stand-ins, also those of an attempt that was cut short.
pub(super) async fn drop_stand_ins(server: &mut Server, database: &str) -> Result<()> {
    let sql = format!(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = {} AND table_type = 'BASE TABLE' \
         AND table_comment = {}",
        text(database),
        text(STAND_IN)
    );
    for stand_in in server.column("look for stand-ins", &sql).await? {
        server.run("drop a stand-in", &format!("DROP TABLE IF EXISTS {}", table(database, &stand_in))).await?;
    }
    Ok(())
}

fn table(database: &str, of: &str) -> String {
    format!("{}.{}", name(database), name(of))
}

/// What a message of the server's has in its first quotes.
fn quoted(message: &str) -> Option<&str> {
    message.split('\'').nth(1)
}
