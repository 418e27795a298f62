//! The one table between kinds of failure and gRPC's status codes.
//!
//! The kind's stable name rides along in the metadata, so the other side gets exactly the kind back; the code is for tooling that knows only
//! gRPC.

use keepsake_core::{Error, Kind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use uuid::Uuid;

/// The metadata key with the kind's name.
pub const KIND_KEY: &str = "keepsake-kind";

/// A message is cut off after so many bytes: HTTP/2 headers are bounded, and the text rides in one.
const TEXT_BYTES: usize = 3 * 1024;

/// The code of a kind.
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::AlreadyExists,
        Kind::Conflict => Code::FailedPrecondition,
        Kind::Busy => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Timeout => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Denied => Code::PermissionDenied,
        Kind::Corrupt => Code::DataLoss,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}

/// The kind of a code that came without a kind's name: from a proxy, from the transport, from an older peer.
fn kind(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::Exists,
        Code::FailedPrecondition => Kind::Conflict,
        Code::ResourceExhausted | Code::Aborted => Kind::Busy,
        // An agent names the kind of everything it answers: an unknown or internal one without it is the transport's, for a connection that was cut.
        Code::Unavailable | Code::Unknown | Code::Internal => Kind::Unavailable,
        // tonic says `Cancelled` of a deadline that has passed, and of a connection that went away before the answer.
        Code::DeadlineExceeded | Code::Cancelled => Kind::Timeout,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::DataLoss => Kind::Corrupt,
        Code::Unimplemented => Kind::Unsupported,
        Code::Ok => Kind::Internal,
    }
}

/// What goes over the wire for an error. The text of an internal one stays here, in the log, under a reference.
pub fn to_status(error: &Error) -> Status {
    let mut text = error.chain();
    if error.kind() == Kind::Internal {
        let reference = Uuid::now_v7();
        tracing::error!(%reference, "{text}");
        text = format!("internal error; the agent's log has it under reference {reference}");
    }
    if text.len() > TEXT_BYTES {
        let end = (0..=TEXT_BYTES).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    let mut status = Status::new(code(error.kind()), text);
    status.metadata_mut().insert(KIND_KEY, MetadataValue::from_static(error.kind().as_str()));
    status
}

/// The error behind a status.
pub fn from_status(status: &Status) -> Error {
    let named = status.metadata().get(KIND_KEY).and_then(|v| v.to_str().ok()).map(Kind::from_name);
    let kind = named.unwrap_or_else(|| kind(status.code()));
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text = format!("the agent answered {:?}", status.code());
    }
    // A transport error has its cause behind it (refused, wrong certificate), and that is what helps.
    let mut cause = std::error::Error::source(status);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back() {
        for kind in Kind::ALL {
            let back = from_status(&to_status(&Error::new(kind, "something")));
            assert_eq!(back.kind(), kind);
            assert_eq!(back.chain().contains("something"), kind != Kind::Internal, "{}", back.chain());
        }
    }

    #[test]
    fn a_status_without_a_kind_goes_by_its_code() {
        for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Cancelled | Kind::Internal)) {
            assert_eq!(from_status(&Status::new(code(kind), "x")).kind(), kind);
        }
        assert_eq!(from_status(&Status::cancelled("Timeout expired")).kind(), Kind::Timeout);
        assert_eq!(from_status(&Status::unauthenticated("x")).kind(), Kind::Denied);
        assert_eq!(from_status(&Status::internal("stream reset by a proxy")).kind(), Kind::Unavailable);
        assert_eq!(from_status(&Status::unknown("h2 protocol error: connection reset")).kind(), Kind::Unavailable);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let status = to_status(&Error::new(Kind::Corrupt, "ü".repeat(5_000)));
        assert!(status.message().len() < 4_000);
    }
}
