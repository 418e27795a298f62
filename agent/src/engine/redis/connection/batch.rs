//! Many commands in one round trip, on names and values of any bytes.

use keepsake_core::error::{Error, Kind, Result};
use redis::{Pipeline, Value};

use super::{Server, failed};

/// Commands that are sent together and answered one by one. Between them others may do what they like.
pub(in crate::engine::redis) struct Batch(Pipeline);

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine::redis) enum Reply {
    /// Nothing is there, or nothing was done.
    Nothing,
    /// A number.
    Number(i64),
    /// Bytes, or a word.
    Bytes(Vec<u8>),
    /// Several.
    List(Vec<Self>),
    /// It was refused: the code that the server gave, for example `WRONGTYPE`, and its text.
    Refused(String, String),
}

impl Batch {
    pub(in crate::engine::redis) fn new() -> Self {
        Self(redis::pipe())
    }

    /// Adds a command.
    pub(in crate::engine::redis) fn add(&mut self, words: &[&[u8]]) {
        let Some((name, arguments)) = words.split_first() else { return };
        let mut command = redis::Cmd::new();
        command.arg(*name);
        for argument in arguments {
            command.arg(*argument);
        }
        self.0.add_command(command);
    }

    /// How many commands there are.
    pub(in crate::engine::redis) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Server {
    /// Sends the commands; gives an answer for each, in order.
    ///
    /// # Errors
    /// The server cannot be reached, or answers something else than that many answers. A command that is refused is an answer.
    pub(in crate::engine::redis) async fn batch(&self, what: &str, batch: &Batch) -> Result<Vec<Reply>> {
        let expected = batch.len();
        if expected == 0 {
            return Ok(Vec::new());
        }
        let values =
            self.connection.clone().send_packed_commands(&batch.0, 0, expected).await.map_err(|e| failed(what, e))?;
        let replies: Vec<Reply> = values.into_iter().map(reply).collect();
        if replies.len() == expected {
            return Ok(replies);
        }
        Err(Error::new(Kind::Internal, format!("{what}: {} answers came to {expected} commands", replies.len())))
    }

    /// Works on this database from now on. Only for a connection that nobody else uses.
    pub(in crate::engine::redis) async fn select(&self, db: u64) -> Result<()> {
        self.ask(&["SELECT", &db.to_string()]).await
    }
}

fn reply(value: Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Number(number),
        Value::BulkString(bytes) => Reply::Bytes(bytes),
        Value::SimpleString(word) => Reply::Bytes(word.into_bytes()),
        Value::Okay => Reply::Bytes(b"OK".to_vec()),
        Value::Array(values) | Value::Set(values) => Reply::List(values.into_iter().map(reply).collect()),
        Value::Map(pairs) => Reply::List(pairs.into_iter().flat_map(|(k, v)| [reply(k), reply(v)]).collect()),
        Value::ServerError(error) => {
            Reply::Refused(error.code().to_owned(), error.details().unwrap_or_default().to_owned())
        }
        // RESP3 only, which is not spoken here.
        _ => Reply::Nothing,
    }
}

impl Reply {
    /// The refusal as an error, of a command that should not be refused.
    ///
    /// # Errors
    /// `Denied`, `Busy` or `Internal`, with what the server says; its text never holds what was sent.
    pub(in crate::engine::redis) fn taken(self, what: &str) -> Result<Self> {
        match self {
            Self::Refused(code, text) => {
                let kind = match code.as_str() {
                    "NOAUTH" | "WRONGPASS" | "NOPERM" => Kind::Denied,
                    "LOADING" | "BUSY" | "MASTERDOWN" | "OOM" => Kind::Busy,
                    "READONLY" | "MISCONF" => Kind::Unavailable,
                    _ => Kind::Internal,
                };
                Err(Error::new(kind, format!("{what}: the server says: {code} {text}")))
            }
            other => Ok(other),
        }
    }

    /// A number, or an error.
    pub(in crate::engine::redis) fn number(self, what: &str) -> Result<i64> {
        match self.taken(what)? {
            Self::Number(number) => Ok(number),
            Self::Nothing | Self::Bytes(_) | Self::List(_) | Self::Refused(..) => Err(strange(what, "a number")),
        }
    }

    /// A list of byte strings, or an error.
    pub(in crate::engine::redis) fn strings(self, what: &str) -> Result<Vec<Vec<u8>>> {
        let Self::List(items) = self.taken(what)? else { return Err(strange(what, "a list")) };
        let bytes = items.into_iter().map(|item| match item {
            Self::Bytes(bytes) => Ok(bytes),
            // Some servers answer members that are numbers as numbers.
            Self::Number(number) => Ok(number.to_string().into_bytes()),
            Self::Nothing | Self::List(_) | Self::Refused(..) => Err(strange(what, "a list of strings")),
        });
        bytes.collect()
    }
}

fn strange(what: &str, expected: &str) -> Error {
    Error::new(Kind::Internal, format!("{what}: the server answers something else than {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_answer_and_an_error_where_none_is_expected() {
        let refused = Reply::Refused("WRONGTYPE".to_owned(), "Operation against a key".to_owned());
        assert_eq!(
            refused.clone().taken("GET").unwrap_err().chain(),
            "GET: the server says: WRONGTYPE Operation against a key"
        );
        assert_eq!(refused.number("SCARD").unwrap_err().kind(), Kind::Internal);
        assert_eq!(Reply::Refused("NOPERM".to_owned(), String::new()).taken("GET").unwrap_err().kind(), Kind::Denied);
        let list = Reply::List(vec![Reply::Bytes(b"a".to_vec()), Reply::Number(7)]);
        assert_eq!(list.strings("SMEMBERS").unwrap(), [b"a".to_vec(), b"7".to_vec()]);
        assert!(Reply::Nothing.strings("SMEMBERS").is_err());
    }
}
