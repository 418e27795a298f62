//! What a statement is, from its beginning.

use super::split::Sides;

/// First words of the statements that dump tools write. The client's own commands are not among them.
pub(super) const KNOWN: &[&[u8]] = &[
    b"ALTER",
    b"ANALYZE",
    b"BEGIN",
    b"COMMIT",
    b"CREATE",
    b"DELIMITER",
    b"DO",
    b"DROP",
    b"INSERT",
    b"LOCK",
    b"REPLACE",
    b"SELECT",
    b"SET",
    b"START",
    b"UNLOCK",
    b"USE",
];

/// What a statement does, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// Makes a table.
    Table(String),
    /// Puts rows into a table.
    Rows(String),
    /// Makes a view, or a stand-in for it.
    View(String),
    /// Makes a sequence.
    Sequence(String),
    /// Makes a trigger.
    Trigger,
    /// Makes a procedure or function.
    Routine,
    /// Makes an event.
    Event,
    /// Changes a schema's default character set.
    AlterSchema(String),
    /// Sets the session's sql_mode.
    Mode {
        /// Whether it holds `NO_BACKSLASH_ESCAPES`.
        no_backslash_escapes: bool,
    },
    /// Sets something else in the session.
    Setting,
    /// Anything else that a dump may hold.
    Other,
}

/// A statement, with what else it tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What it does.
    pub(super) statement: Statement,
    /// Whom it runs as, `user@host`.
    pub(super) definer: Option<String>,
    /// A schema that it names, other than by `ALTER DATABASE`.
    pub(super) foreign_schema: Option<String>,
    /// Where it belongs when tables are loaded apart from what is made of them.
    pub(super) sides: Sides,
    /// It makes or drops a table, which in a comment for newer servers is the stand-in of a view.
    pub(super) perhaps_stand_in: bool,
}

impl Found {
    /// Where it belongs, also when all of it stands in an executable comment.
    pub(super) fn sides(&self, in_comment: bool) -> Sides {
        if in_comment && self.perhaps_stand_in { Sides::OBJECTS } else { self.sides }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A bare word; a variable with its `@`.
    Word(String),
    /// A name in backticks; or in double quotes, as objects made with ANSI_QUOTES have them.
    Name(String),
    /// A text in quotes, as it is written.
    Text(String),
    /// Any other byte but white space.
    Mark(u8),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }
}

/// Splits the beginning of a statement. A token that is cut off at the end is left out.
fn tokens(bytes: &[u8]) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = match *first {
            b if b.is_ascii_whitespace() => after,
            quote @ (b'`' | b'\'' | b'"') => {
                let Some((text, after)) = quoted(after, quote) else { break };
                out.push(if quote == b'\'' { Token::Text(text) } else { Token::Name(text) });
                after
            }
            b if is_word(b) => {
                let length = rest.iter().take_while(|b| is_word(**b)).count();
                let (word, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                out.push(Token::Word(String::from_utf8_lossy(word).into_owned()));
                after
            }
            mark => {
                out.push(Token::Mark(mark));
                after
            }
        };
    }
    out
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'@') || byte >= 0x80
}

/// The text up to its closing quote, a doubled one standing for itself, and what follows.
fn quoted(bytes: &[u8], quote: u8) -> Option<(String, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.iter().position(|b| *b == quote)?;
        text.extend_from_slice(rest.get(..end)?);
        rest = rest.get(end + 1..)?;
        match rest.split_first() {
            Some((next, after)) if *next == quote => {
                text.push(quote);
                rest = after;
            }
            _ => return Some((String::from_utf8_lossy(&text).into_owned(), rest)),
        }
    }
}

/// Says what a statement is.
///
/// # Errors
/// No dump tool writes it; what it would be, without any of its text.
pub(super) fn classify(beginning: &[u8]) -> Result<Found, &'static str> {
    let tokens = tokens(beginning);
    let (first, rest) = tokens.split_first().ok_or("an empty statement")?;
    let mut found = Found {
        statement: Statement::Other,
        definer: None,
        foreign_schema: None,
        sides: Sides::TABLES,
        perhaps_stand_in: false,
    };
    let Token::Word(word) = first else { return Err("a statement without a first word") };
    match word.to_ascii_uppercase().as_str() {
        "SET" => {
            found.statement = set(rest)?;
            found.sides = Sides::ALL;
        }
        "CREATE" => create(rest, &mut found)?,
        "ALTER" => match rest.split_first() {
            Some((kind, rest)) if kind.is_any(&["DATABASE", "SCHEMA"]) => {
                found.statement = Statement::AlterSchema(name(rest).map(|(n, _)| n).ok_or("a schema without a name")?);
                found.sides = Sides::OBJECTS_AND_EVENTS;
            }
            Some((kind, rest)) if kind.is("TABLE") => found.foreign_schema = qualifier(rest),
            _ => return Err("an ALTER that no dump tool writes"),
        },
        "DROP" => drop_object(rest, &mut found)?,
        "INSERT" | "REPLACE" => {
            let at = rest.iter().position(|t| t.is("INTO")).map_or(0, |n| n + 1);
            let after = rest.get(at..).unwrap_or_default();
            found.foreign_schema = qualifier(after);
            let table = name(after).map(|(n, _)| n).ok_or("rows of a table without a name")?;
            found.statement = Statement::Rows(table);
        }
        "USE" => {
            found.foreign_schema = Some(name(rest).map(|(n, _)| n).ok_or("a schema without a name")?);
            found.sides = Sides::NONE;
        }
        "LOCK" if rest.first().is_some_and(|t| t.is_any(&["TABLE", "TABLES"])) => {
            found.foreign_schema = qualifier(rest.get(1..).unwrap_or_default());
            found.sides = Sides::NONE;
        }
        "UNLOCK" => found.sides = Sides::NONE,
        // MariaDB's tool sets sequences so; any other query does not belong into a dump.
        "SELECT" | "DO" if rest.first().is_some_and(|t| t.is("SETVAL")) => {}
        "ANALYZE" | "BEGIN" | "COMMIT" | "START" => {}
        _ => return Err("a statement that no dump tool writes"),
    }
    Ok(found)
}

fn set(rest: &[Token]) -> Result<Statement, &'static str> {
    const BEYOND: &[&str] =
        &["GLOBAL", "PERSIST", "PERSIST_ONLY", "PASSWORD", "ROLE", "@@GLOBAL", "@@PERSIST", "@@PERSIST_ONLY"];
    if rest.iter().any(|t| t.is_any(BEYOND)) {
        return Err("a setting of the whole server (dump with --set-gtid-purged=OFF)");
    }
    let mut statement = Statement::Setting;
    let mut after = rest;
    while let Some((first, next)) = after.split_first() {
        after = next;
        if !first.is_any(&["SQL_MODE", "@@SQL_MODE"]) {
            continue;
        }
        if let Some((Token::Mark(b'='), value)) = next.split_first() {
            let holds = |t: &Token| matches!(t, Token::Text(modes) | Token::Name(modes) if modes.contains("NO_BACKSLASH_ESCAPES"));
            statement = Statement::Mode { no_backslash_escapes: value.first().is_some_and(holds) };
        }
    }
    Ok(statement)
}

fn create(rest: &[Token], found: &mut Found) -> Result<(), &'static str> {
    const KINDS: &[&str] =
        &["TABLE", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "PACKAGE", "EVENT", "SEQUENCE", "DATABASE", "SCHEMA"];
    const BEFORE: &[&str] =
        &["OR", "REPLACE", "TEMPORARY", "ALGORITHM", "UNDEFINED", "MERGE", "TEMPTABLE", "SQL", "SECURITY", "DEFINER"];
    const BEFORE_TOO: &[&str] = &["INVOKER", "AGGREGATE", "CURRENT_USER", "CURRENT_ROLE"];
    let mut rest = rest;
    loop {
        let (first, after) = rest.split_first().ok_or("a CREATE without an object")?;
        rest = after;
        match first {
            kind if kind.is_any(KINDS) => return created(kind, after, found),
            word if word.is("DEFINER") => {
                if let [Token::Mark(b'='), tail @ ..] = after {
                    let (definer, tail) = account(tail);
                    found.definer = definer;
                    rest = tail;
                }
            }
            word if word.is_any(BEFORE) || word.is_any(BEFORE_TOO) => {}
            Token::Mark(b'=' | b'(' | b')') => {}
            _ => return Err("a CREATE of something that no dump of a database holds"),
        }
    }
}

/// An account, `user`@`host`, or a role or function alone.
fn account(tokens: &[Token]) -> (Option<String>, &[Token]) {
    match tokens {
        [Token::Name(user), Token::Word(at), Token::Name(host) | Token::Text(host), rest @ ..] if at == "@" => {
            (Some(format!("{user}@{host}")), rest)
        }
        [Token::Name(role), rest @ ..] => (Some(format!("{role}@")), rest),
        [_, rest @ ..] => (None, rest),
        [] => (None, &[]),
    }
}

fn created(kind: &Token, rest: &[Token], found: &mut Found) -> Result<(), &'static str> {
    let rest = if kind.is("PACKAGE") && rest.first().is_some_and(|t| t.is("BODY")) {
        rest.get(1..).unwrap_or_default()
    } else {
        rest
    };
    let (object, after) = name(rest).ok_or("an object without a name")?;
    let qualified = matches!(after.first(), Some(Token::Mark(b'.')));
    if kind.is_any(&["DATABASE", "SCHEMA"]) || qualified {
        found.foreign_schema = Some(object.clone());
    }
    found.sides = match kind {
        k if k.is_any(&["TABLE", "SEQUENCE"]) => Sides::TABLES,
        k if k.is("EVENT") => Sides::EVENTS,
        k if k.is_any(&["DATABASE", "SCHEMA"]) => Sides::NONE,
        _ => Sides::OBJECTS,
    };
    found.perhaps_stand_in = kind.is("TABLE");
    found.statement = match kind {
        k if k.is("TABLE") => Statement::Table(object),
        k if k.is("VIEW") => Statement::View(object),
        k if k.is("SEQUENCE") => Statement::Sequence(object),
        k if k.is("TRIGGER") => Statement::Trigger,
        k if k.is("EVENT") => Statement::Event,
        k if k.is_any(&["PROCEDURE", "FUNCTION", "PACKAGE"]) => Statement::Routine,
        _ => Statement::Other,
    };
    Ok(())
}

fn drop_object(rest: &[Token], found: &mut Found) -> Result<(), &'static str> {
    const KINDS: &[&str] =
        &["TABLE", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "PACKAGE", "EVENT", "SEQUENCE", "TEMPORARY"];
    let (kind, rest) = rest.split_first().ok_or("a DROP without an object")?;
    if kind.is_any(&["DATABASE", "SCHEMA"]) {
        found.foreign_schema = Some(name(rest).map(|(n, _)| n).ok_or("a schema without a name")?);
        found.sides = Sides::NONE;
        return Ok(());
    }
    if !kind.is_any(KINDS) {
        return Err("a DROP of something that no dump of a database holds");
    }
    found.sides = match kind {
        k if k.is_any(&["TABLE", "SEQUENCE", "TEMPORARY"]) => Sides::TABLES,
        k if k.is("EVENT") => Sides::EVENTS,
        _ => Sides::OBJECTS,
    };
    found.perhaps_stand_in = kind.is("TABLE");
    found.foreign_schema = qualifier(rest);
    Ok(())
}

/// The object's name, after `IF NOT EXISTS` and the like, and what follows it.
fn name(tokens: &[Token]) -> Option<(String, &[Token])> {
    let skipped = tokens.iter().take_while(|t| t.is_any(&["IF", "NOT", "EXISTS", "TABLE"])).count();
    match tokens.get(skipped..)?.split_first()? {
        (Token::Name(name), rest) => Some((name.clone(), rest)),
        (Token::Word(word), rest) => Some((word.clone(), rest)),
        _ => None,
    }
}

/// The schema of a qualified name.
fn qualifier(tokens: &[Token]) -> Option<String> {
    let (schema, rest) = name(tokens)?;
    matches!(rest.first(), Some(Token::Mark(b'.'))).then_some(schema)
}
