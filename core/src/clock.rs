//! The one place that asks for the time of day, so that nothing orders or fences by a clock without being seen to.

use jiff::Timestamp;

/// The wall clock, for people to read. Order is by epoch, never by this.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
