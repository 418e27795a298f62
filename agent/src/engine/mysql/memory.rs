//! How many dump tools the container has room for.
//!
//! A tool needs about 10 MiB, and the largest row about three times: once as it comes, once more as it is written, twice that in hexadecimal (measured with
//! MariaDB 10.11: 10.2 MiB for small rows, 52.6 MiB for one blob of 15 MiB, 37.5 MiB for one text of 15 MiB).

use std::path::Path;
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};

use super::server::{Family, Server, name, text};

/// The agent's own share, bytes.
const AGENT: u64 = 32 << 20;
/// What each tool takes beside its rows, bytes.
const TOOL: u64 = 11 << 20;
/// How often the largest row is in a tool's memory.
const TIMES: u64 = 3;
/// With so much there is no need to look at the rows: none is so large (`max_allowed_packet` is at most 1 GiB).
const AMPLE: u64 = 8 << 30;
/// To look for a table's largest row may take so long.
const LOOK: Duration = Duration::from_secs(10);
/// Where Linux tells a container's limit: version 2 of control groups, then version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The limit of the container that this process is in, bytes; `None` when there is none.
pub(super) fn limit_of_container() -> Option<u64> {
    let told = LIMITS.iter().find_map(|path| std::fs::read_to_string(Path::new(path)).ok())?;
    told.trim().parse().ok().filter(|limit| *limit < AMPLE)
}

/// The largest row as far as it matters: of the columns that may hold more than 64 KiB, bytes. `None` when it was not found in time.
pub(super) async fn largest_row(server: &mut Server, database: &str) -> Result<Option<u64>> {
    let sql = format!(
        "SELECT c.table_name, c.column_name FROM information_schema.columns c \
         JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
         WHERE c.table_schema = {} AND t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') \
         AND c.data_type IN ('mediumtext', 'longtext', 'mediumblob', 'longblob', 'json') ORDER BY 1",
        text(database)
    );
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for row in server.rows("list the columns that may be large", &sql).await? {
        let Ok([Some(table), Some(column)]) = <[Option<String>; 2]>::try_from(row) else { continue };
        match tables.last_mut() {
            Some((last, columns)) if *last == table => columns.push(column),
            _ => tables.push((table, vec![column])),
        }
    }
    let mut largest = 0;
    for (table, columns) in tables {
        let sum = columns.iter().map(|c| format!("COALESCE(LENGTH({}), 0)", name(c))).collect::<Vec<_>>().join(" + ");
        let from = format!("COALESCE(MAX({sum}), 0) FROM {}.{}", name(database), name(&table));
        let sql = match server.family {
            Family::Mariadb => format!("SET STATEMENT max_statement_time = {} FOR SELECT {from}", LOOK.as_secs()),
            Family::Mysql => format!("SELECT /*+ MAX_EXECUTION_TIME({}) */ {from}", LOOK.as_millis()),
        };
        match server.number(&format!("look for the largest row of {table}"), &sql).await {
            Ok(found) => largest = largest.max(found),
            Err(e) => {
                // A table that cannot be read is for the dump to tell.
                tracing::debug!("{}", e.chain());
                return Ok(None);
            }
        }
    }
    Ok(Some(largest))
}

/// How many tools fit, of those that are wanted. Nothing is known of a row: one, because that is the least that can be.
///
/// # Errors
/// `Unsupported` when there is no room for one, with the figures.
pub(super) fn tools_that_fit(limit: u64, largest: Option<u64>, wanted: usize) -> Result<usize> {
    let Some(largest) = largest else { return Ok(1) };
    let (fit, each) = room_for(limit, largest);
    if fit == 0 {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the largest row has {} MiB, so a dump tool needs about {} MiB beside the agent's {}, and the container has {} (--mysql-memory-limit): \
                 give it at least {} MiB",
                mib(largest),
                mib(each),
                mib(AGENT),
                mib(limit),
                mib(AGENT.saturating_add(each))
            ),
        ));
    }
    Ok(fit.min(wanted))
}

/// How many fit, and what each takes, bytes.
fn room_for(limit: u64, largest: u64) -> (usize, u64) {
    let each = TOOL.saturating_add(largest.saturating_mul(TIMES));
    (usize::try_from(limit.saturating_sub(AGENT) / each).unwrap_or(usize::MAX), each)
}

/// How many clients of a load fit, of those that are wanted. A client holds the longest statement as a dump tool holds a row. One is always tried: what
/// could be dropped is not refused for an estimate.
pub(super) fn clients_that_fit(limit: Option<u64>, longest_statement: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted.max(1) };
    longest_statement.map_or(1, |longest| room_for(limit, longest).0.clamp(1, wanted.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_has_room_for_two_tools_and_small_rows() {
        let fit = |limit: u64, largest| tools_that_fit(limit << 20, largest, 4);
        assert_eq!(fit(64, Some(0)).unwrap(), 2);
        assert_eq!(fit(64, Some(1 << 20)).unwrap(), 2);
        assert_eq!(fit(64, Some(2 << 20)).unwrap(), 1);
        assert_eq!(fit(64, None).unwrap(), 1);
        assert_eq!(fit(1024, Some(0)).unwrap(), 4, "no more than wanted");
        let error = fit(64, Some(15 << 20)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains("give it at least 88 MiB"), "{}", error.chain());
        assert!(fit(1, Some(0)).is_err());
    }

    #[test]
    fn a_load_runs_as_many_clients_as_there_is_room_for_and_at_least_one() {
        let fit = |limit: Option<u64>, longest| clients_that_fit(limit.map(|mib| mib << 20), longest, 4);
        assert_eq!(fit(None, None), 4);
        assert_eq!(fit(Some(64), Some(1 << 20)), 2);
        assert_eq!(fit(Some(64), Some(15 << 20)), 1);
        assert_eq!(fit(Some(64), None), 1, "nothing is known");
        assert_eq!(fit(Some(1024), Some(1 << 20)), 4, "no more than wanted");
    }
}
