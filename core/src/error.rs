//! One closed vocabulary of failures.
//!
//! Every error carries a [`Kind`], which alone decides whether to retry and which gRPC code travels (the table is in
//! `keepsake-proto`). The text says what was being done to what, in lower case without a full stop; the cause is kept in
//! `source` and printed once, by [`Error::chain`], where the error is handled.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is. Closed: a new kind must be judged by every `match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The caller asked for something that makes no sense; asking again will not help.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// What was to be created exists already.
    Exists,
    /// The state of the world forbids it: an older epoch, another run, something already committed.
    Conflict,
    /// Somebody else is using it now; later may work.
    Busy,
    /// The other side cannot be reached now.
    Unavailable,
    /// It took longer than it may.
    Timeout,
    /// Somebody asked for it to stop.
    Cancelled,
    /// Not allowed: credentials, certificate, role, file mode.
    Denied,
    /// Data is not what it should be: damaged, cut short, forged, swapped.
    Corrupt,
    /// This server, tool or version cannot do it.
    Unsupported,
    /// A defect of Keepsake, or of a tool in a way that it did not foresee.
    Internal,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::Invalid,
        Self::NotFound,
        Self::Exists,
        Self::Conflict,
        Self::Busy,
        Self::Unavailable,
        Self::Timeout,
        Self::Cancelled,
        Self::Denied,
        Self::Corrupt,
        Self::Unsupported,
        Self::Internal,
    ];

    /// Whether the same request may work if it is made again, unchanged, a little later.
    pub fn retry(self) -> bool {
        match self {
            Self::Busy | Self::Unavailable | Self::Timeout => true,
            Self::Invalid
            | Self::NotFound
            | Self::Exists
            | Self::Conflict
            | Self::Cancelled
            | Self::Denied
            | Self::Corrupt
            | Self::Unsupported
            | Self::Internal => false,
        }
    }

    /// The stable name that is stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }

    /// The kind of that stable name; a name from a newer peer is [`Kind::Internal`].
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|k| k.as_str() == name).unwrap_or(Self::Internal)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure: its kind, what was being done, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure with no deeper cause.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// A failure caused by another error, which is kept.
    pub fn caused(kind: Kind, text: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, text: text.into(), source: Some(source.into()) }
    }

    /// A failure of the local machine's files; the kind follows from the operating system's answer.
    pub fn io(text: impl Into<String>, source: std::io::Error) -> Self {
        let mut text = text.into();
        if is_no_room(&source) {
            text.push_str(MAKE_ROOM);
        }
        Self::caused(io_kind(&source), text, source)
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same failure seen from one level further out; the kind stays.
    #[must_use]
    pub fn context(self, text: impl Into<String>) -> Self {
        let kind = self.kind;
        Self::caused(kind, text, self)
    }

    /// The text and all causes, outermost first, joined by `: `.
    pub fn chain(&self) -> String {
        let mut out = self.text.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries print their cause inside their own text; saying it twice helps nobody.
            if !out.ends_with(&text) {
                out.push_str(": ");
                out.push_str(&text);
            }
            next = cause.source();
        }
        out
    }
}

/// What to do about a filesystem or quota that is full.
pub(crate) const MAKE_ROOM: &str = " (there is no room: make room there, then try again)";

/// Whether a filesystem or quota is full.
pub(crate) fn is_no_room(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn io_kind(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::PermissionDenied => Kind::Denied,
        E::AlreadyExists => Kind::Exists,
        E::TimedOut => Kind::Timeout,
        E::ConnectionRefused | E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::NotConnected => {
            Kind::Unavailable
        }
        E::StorageFull | E::QuotaExceeded => Kind::Busy,
        E::UnexpectedEof | E::InvalidData => Kind::Corrupt,
        _ => Kind::Internal,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Adds a kind or a context to the error of a `Result`.
pub trait ResultExt<T> {
    /// Wraps a foreign error: this kind, this text, the error as cause.
    fn or_kind(self, kind: Kind, text: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    fn or_kind(self, kind: Kind, text: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::caused(kind, text, e))
    }
}

/// Adds a context to a [`Result`] of ours; the kind stays.
pub trait Context<T> {
    /// The same failure with a text from one level further out.
    fn context(self, text: impl Into<String>) -> Result<T>;
    /// As [`Context::context`], the text made only when needed.
    fn with_context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, text: impl Into<String>) -> Result<T> {
        self.map_err(|e| e.context(text))
    }

    fn with_context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.context(text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_is_internal() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.as_str()), kind);
        }
        assert_eq!(Kind::from_name("from-the-future"), Kind::Internal);
    }

    #[test]
    fn a_chain_tells_every_level_once_and_keeps_the_kind() {
        let inner = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = Error::io("read key", inner).context("open repository");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.chain(), "open repository: read key: no such file");
    }
}
