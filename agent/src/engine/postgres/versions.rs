//! Tools and servers of different versions: which do not go together, and what of a newer tool's SQL an older server does not know.

use std::borrow::Cow;

use keepsake_core::error::{Error, Kind, Result};

use super::session::Session;
use super::{Settings, tools};

/// Since 17 every script of pg_restore begins with this, whatever server it is for; a server before 17 ends there.
const NOT_BEFORE_17: &[u8] = b"\nSET transaction_timeout = 0;\n";
/// It stands within so many bytes of the start.
const HEAD: usize = 8 << 10;

/// What is wrong with a pg_dump of this version line on this server: an older one refuses to dump it. Loading by older tools works.
pub(super) fn problem(version: &str, server: u32) -> Option<String> {
    let major = tools::major(version)?;
    (major < server).then(|| {
        format!(
            "pg_dump is of PostgreSQL {major}, older than the server ({server}): install the server's own client (--postgres-bin-dir)"
        )
    })
}

/// The version line of pg_dump, which fits the server.
///
/// # Errors
/// `Unsupported` for an older one, before anything was begun.
pub(super) async fn pg_dump_for(settings: &Settings, session: &Session) -> Result<String> {
    let version = tools::version(settings, "pg_dump").await?;
    match problem(&version, session.major()) {
        Some(problem) => Err(Error::new(Kind::Unsupported, problem)),
        None => Ok(version),
    }
}

/// The script that pg_restore prints, without what this server does not know.
#[derive(Debug)]
pub(super) struct Script {
    /// Its begin, until it is known to be clean; nothing of it is kept when there is nothing to look for.
    begin: Option<Vec<u8>>,
}

impl Script {
    /// For a server and the pg_restore that writes it.
    pub(super) fn new(server: u32, version: &str) -> Self {
        let newer = server < 17 && tools::major(version).is_some_and(|tool| tool >= 17);
        Self { begin: newer.then(Vec::new) }
    }

    /// What goes to psql of the next bytes.
    pub(super) fn pass<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(begin) = &mut self.begin else { return Cow::Borrowed(piece) };
        begin.extend_from_slice(piece);
        let found = begin.windows(NOT_BEFORE_17.len()).position(|w| w == NOT_BEFORE_17);
        if let Some(at) = found {
            // The line before keeps its end.
            begin.drain(at + 1..at + NOT_BEFORE_17.len());
        } else if begin.len() < HEAD {
            return Cow::Borrowed(&[]);
        }
        Cow::Owned(self.rest())
    }

    /// What is left at the end.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        self.begin.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(server: u32, tool: &str, script: &[u8], size: usize) -> Vec<u8> {
        let mut passing = Script::new(server, tool);
        let mut out: Vec<u8> = script.chunks(size).flat_map(|piece| passing.pass(piece).into_owned()).collect();
        out.extend(passing.rest());
        out
    }

    #[test]
    fn only_an_older_server_is_spared_and_only_the_first_time() {
        let head = b"--\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET x = 1;\n".as_slice();
        let script = [head, b"COPY t FROM stdin;\nSET transaction_timeout = 0;\n\\.\n"].concat();
        let spared = [
            b"--\nSET lock_timeout = 0;\nSET x = 1;\n".as_slice(),
            b"COPY t FROM stdin;\nSET transaction_timeout = 0;\n\\.\n",
        ]
        .concat();
        for size in [1, 7, 1000] {
            assert_eq!(passed(15, "pg_restore (PostgreSQL) 18.1", &script, size), spared, "chunks of {size}");
            assert_eq!(passed(17, "pg_restore (PostgreSQL) 18.1", &script, size), script, "chunks of {size}");
            assert_eq!(passed(15, "pg_restore (PostgreSQL) 15.2", &script, size), script, "chunks of {size}");
        }
        let long = [b"x\n".repeat(HEAD), NOT_BEFORE_17.to_vec()].concat();
        assert_eq!(passed(15, "pg_restore (PostgreSQL) 18.1", &long, 1000), long);
        assert_eq!(passed(15, "pg_restore (PostgreSQL) 18.1", b"short", 1000), b"short");
    }

    #[test]
    fn an_older_tool_is_a_problem() {
        assert!(problem("pg_dump (PostgreSQL) 13.16", 15).unwrap().contains("13, older than the server (15)"));
        assert_eq!(problem("pg_dump (PostgreSQL) 15.16", 15), None);
        assert_eq!(problem("pg_dump (PostgreSQL) 18.6", 15), None);
    }
}
