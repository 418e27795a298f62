//! The ids that Backend gives to events and alerts: System keeps them, and drops what comes under an id that it knows. They only rise.

use keepsake_core::config::{ALERTS_CURRENT_ID, Counters, EVENTS_ID};
use keepsake_core::error::{Error, Kind, Result};

use crate::engine::redis::connection::{Batch, Reply, Server};

/// What they are; 0 when absent, as Backend counts.
///
/// # Errors
/// One of them is no number.
pub(super) async fn read(server: &Server) -> Result<Counters> {
    let mut ask = Batch::new();
    ask.add(&[b"GET", EVENTS_ID]);
    ask.add(&[b"GET", ALERTS_CURRENT_ID]);
    let mut replies = server.batch("read the counters", &ask).await?.into_iter();
    let mut one = |name: &[u8]| number(name, replies.next().unwrap_or(Reply::Nothing));
    Ok(Counters { events: one(EVENTS_ID)?, alerts: one(ALERTS_CURRENT_ID)? })
}

/// Raises them where they are lower; gives what they were and what they are. Whoever counts meanwhile only makes them higher.
///
/// # Errors
/// One of them is no number, or the server refuses.
pub(super) async fn raise(server: &Server, at_least: Counters) -> Result<(Counters, Counters)> {
    let before = read(server).await?;
    let mut ask = Batch::new();
    for (name, there, wanted) in
        [(EVENTS_ID, before.events, at_least.events), (ALERTS_CURRENT_ID, before.alerts, at_least.alerts)]
    {
        if wanted > there {
            // Not SET: what was counted in between would be lost.
            ask.add(&[b"INCRBY", name, wanted.saturating_sub(there).to_string().as_bytes()]);
        }
    }
    for reply in server.batch("raise the counters", &ask).await? {
        reply.number("raise the counters")?;
    }
    let after = read(server).await?;
    if after.reach(at_least) {
        return Ok((before, after));
    }
    let text = "a counter is lower than it was made: something else sets it. Stop the applications, then try again";
    Err(Error::new(Kind::Conflict, text))
}

fn number(name: &[u8], reply: Reply) -> Result<i64> {
    let text = match reply.taken("read the counters")? {
        Reply::Nothing => return Ok(0),
        Reply::Bytes(text) => text,
        Reply::Number(number) => return Ok(number),
        Reply::List(_) | Reply::Refused(..) => Vec::new(),
    };
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        Error::new(Kind::Corrupt, format!("{} holds no number: Backend could not count on", name.escape_ascii()))
    })
}
