//! What may be told of the words of PostgreSQL and its tools: shapes that hold no value of a row.
//!
//! Details, contexts and statements hold rows, and so do messages: they quote the value that is wrong, and a function of the application's raises
//! whatever it likes. So a message is told only as far as it has a shape that is known here.

/// What comes before a message.
const HEADS: &[&str] = &["ERROR:", "FATAL:", "PANIC:", "error:", "fatal:"];
/// Those of the server.
const SERVERS: &[&str] = &["ERROR:", "FATAL:", "PANIC:"];
/// What is said instead of words that may hold data.
const WITHHELD: &str = "words that may hold data and are not told here: see the server's log";
/// Kinds of things that have names.
const KINDS: &[&str] = &[
    "aggregate",
    "cast",
    "collation",
    "column",
    "constraint",
    "conversion",
    "database",
    "event trigger",
    "extension",
    "foreign-data wrapper",
    "index",
    "language",
    "materialized view",
    "operator",
    "publication",
    "relation",
    "role",
    "schema",
    "sequence",
    "table",
    "type",
];
/// What is said of them.
const SAID: &[&str] = &[
    "does not exist",
    "already exists",
    "is not accepting connections",
    "is being accessed by other users",
    "is not permitted to log in",
    "is not available",
];
/// Shapes of messages; `*` is a name: anything without quotes. What comes after a shape is not told.
const SHAPES: &[&str] = &[
    "permission denied for * *",
    "permission denied to *",
    "permission denied: *",
    "must be owner of *",
    "must be superuser to *",
    "must be able to SET ROLE \"*\"",
    "must be member of role \"*\"",
    "duplicate key value violates unique constraint \"*\"",
    "could not create unique index \"*\"",
    "could not create exclusion constraint \"*\"",
    "conflicting key value violates exclusion constraint \"*\"",
    "insert or update on table \"*\" violates foreign key constraint \"*\"",
    "update or delete on table \"*\" violates foreign key constraint \"*\"",
    "new row for relation \"*\" violates check constraint \"*\"",
    "new row for relation \"*\" violates partition constraint",
    "no partition of relation \"*\" found for row",
    "check constraint \"*\" of relation \"*\" is violated by some row",
    "null value in column \"*\" of relation \"*\" violates not-null constraint",
    "null value in column \"*\" violates not-null constraint",
    "column \"*\" of relation \"*\" does not exist",
    "column \"*\" of relation \"*\" contains null values",
    "constraint \"*\" of relation \"*\" does not exist",
    "missing data for column \"*\"",
    "extra data after last expected column",
    "value too long for type *",
    "invalid input syntax for type *",
    "invalid input syntax for *",
    "invalid byte sequence for encoding \"*\"",
    "character with byte sequence",
    "malformed array literal",
    "malformed record literal",
    "invalid memory alloc request size",
    "numeric field overflow",
    "division by zero",
    "integer out of range",
    "bigint out of range",
    "smallint out of range",
    "syntax error",
    "unterminated quoted string",
    "unrecognized configuration parameter \"*\"",
    "unsupported frontend protocol *",
    "canceling statement due to *",
    "canceling authentication due to *",
    "terminating connection due to *",
    "terminating autovacuum process due to *",
    "deadlock detected",
    "could not obtain lock on *",
    "could not serialize access due to *",
    "current transaction is aborted",
    "could not extend file \"*\": *",
    "could not write to file \"*\": *",
    "could not write block * in file \"*\": *",
    "could not read block * in file \"*\": *",
    "could not fsync file \"*\": *",
    "could not write *: No space left on device",
    "could not access file \"*\": *",
    "could not open *",
    "could not load library \"*\": *",
    "could not find function *",
    "out of memory",
    "out of shared memory",
    "sorry, too many clients already",
    "remaining connection slots are reserved *",
    "too many connections for *",
    "the database system is *",
    "password authentication failed for user \"*\"",
    "no pg_hba.conf entry for *",
    "cannot execute * in a read-only transaction",
    "cannot drop * because other objects depend on it",
    "server closed the connection unexpectedly",
];
/// How messages of the tools themselves begin, who read no rows but in the archive: those are told whole.
const OWN: &[&str] = &[
    "connection to server ",
    "could not connect to ",
    "could not read from input file",
    "could not open ",
    "could not read ",
    "could not write ",
    "input file ",
    "unexpected end of file",
    "did not find magic string in file header",
    "unsupported version ",
    "aborting because of server version mismatch",
    "server version: ",
    "could not uncompress data",
];
/// What a tool says first of what it says itself.
const TOOLS: &[&str] = &["pg_dump: ", "pg_restore: ", "psql: "];
/// What else the server says goes with rows, or is of no use.
const ELSE: &[&str] = &[
    "NOTICE:",
    "WARNING:",
    "INFO:",
    "LOG:",
    "DEBUG:",
    "DETAIL:",
    "HINT:",
    "CONTEXT:",
    "STATEMENT:",
    "QUERY:",
    "LOCATION:",
];

/// Only the message, and of that what is known to hold no row.
pub(super) fn told(line: &str) -> Option<String> {
    let (mut head, mut body) = after_head(line, HEADS)?;
    let before = line.get(..line.len() - body.len())?;
    if ELSE.iter().any(|other| before.contains(other)) {
        return None;
    }
    let mut own = !SERVERS.contains(&head) && TOOLS.iter().any(|tool| line.starts_with(tool));
    // A tool that repeats the server says so first.
    if !SERVERS.contains(&head)
        && let Some((servers, words)) = after_head(body, SERVERS)
    {
        (head, body, own) = (servers, words, false);
    }
    let shown = shape_of(body, own)
        .map_or_else(|| WITHHELD.to_owned(), |length| body.get(..length).unwrap_or_default().to_owned());
    Some(format!("{head} {shown}"))
}

/// The first of these heads, and what comes after it.
fn after_head<'a>(line: &'a str, heads: &[&'static str]) -> Option<(&'static str, &'a str)> {
    let (at, head) = heads.iter().filter_map(|head| line.find(head).map(|at| (at, *head))).min()?;
    Some((head, line.get(at + head.len()..)?.trim_start()))
}

/// How long the part is that has a known shape.
fn shape_of(body: &str, own: bool) -> Option<usize> {
    let named = KINDS.iter().flat_map(|kind| SAID.iter().map(move |said| format!("{kind} \"*\" {said}")));
    let functions = ["function", "procedure", "operator"].map(|kind| format!("{kind} * does not exist"));
    if own && OWN.iter().any(|beginning| body.starts_with(beginning)) {
        return Some(body.len());
    }
    let all = SHAPES.iter().map(|shape| (*shape).to_owned()).chain(named).chain(functions);
    all.filter_map(|shape| matches(body, &shape)).max()
}

/// How long the beginning of the text is that has this shape.
fn matches(text: &str, shape: &str) -> Option<usize> {
    let mut at = 0;
    let mut pieces = shape.split('*');
    let first = pieces.next()?;
    at += text.strip_prefix(first).map(|_| first.len())?;
    for piece in pieces {
        let rest = text.get(at..)?;
        // A name in its quotes ends with them; one without ends before the first.
        let name = rest.find('"').unwrap_or(rest.len());
        let length = if piece.is_empty() { name } else { rest.find(piece).filter(|found| *found <= name)? };
        at += length + piece.len();
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told() {
        for (line, expected) in [
            ("psql:<stdin>:7: ERROR:  relation \"a\" does not exist", "ERROR: relation \"a\" does not exist"),
            ("psql:<stdin>:7: ERROR:  must be owner of table a", "ERROR: must be owner of table a"),
            ("ERROR:  canceling statement due to lock timeout", "ERROR: canceling statement due to lock timeout"),
            (
                "pg_dump: error: query failed: ERROR:  permission denied for table models",
                "ERROR: permission denied for table models",
            ),
            (
                "ERROR:  could not extend file \"base/1/2\": No space left on device",
                "ERROR: could not extend file \"base/1/2\": No space left on device",
            ),
            (
                "ERROR:  duplicate key value violates unique constraint \"models_pkey\"",
                "ERROR: duplicate key value violates unique constraint \"models_pkey\"",
            ),
            (
                "psql: error: connection to server at \"here\", port 1 failed: Connection refused",
                "error: connection to server at \"here\", port 1 failed: Connection refused",
            ),
            (
                "pg_dump: error: connection to server at \"here\" failed: FATAL:  password authentication failed for user \"a\"",
                "FATAL: password authentication failed for user \"a\"",
            ),
            ("ERROR:  function f(integer) does not exist", "ERROR: function f(integer) does not exist"),
        ] {
            assert_eq!(told(line).as_deref(), Some(expected), "{line}");
        }
        assert_eq!(told("psql:<stdin>:7: NOTICE:  something"), None);
    }

    #[test]
    fn no_row_is_told() {
        assert_eq!(told("DETAIL:  Key (id)=(canary) already exists."), None);
        assert_eq!(told("psql:<stdin>:7: NOTICE:  error: could not read canary"), None);
        assert_eq!(told("CONTEXT:  COPY models, line 1: \"canary\""), None);
        for line in [
            "ERROR:  invalid input syntax for type integer: \"canary\"",
            "ERROR:  value \"canary\" is out of range for type integer",
            "ERROR:  date/time field value out of range: \"canary\"",
            "ERROR:  malformed array literal: \"canary\"",
            "ERROR:  invalid input value for enum mood: \"canary\"",
            "ERROR:  syntax error at or near \"canary\"",
            "ERROR:  customer canary may not be stored",
            "ERROR:  canary \"x\" does not exist",
            "error: canary",
            "error: could not read canary",
            "pg_dump: error: canary",
            "ERROR:  error: could not read canary",
            "ERROR:  error: canary",
        ] {
            let said = told(line).unwrap();
            assert!(!said.contains("canary") && said.to_lowercase().starts_with("error: "), "{said}");
        }
        assert!(told("ERROR:  value \"canary\" is out of range").unwrap().contains("see the server's log"));
    }
}
