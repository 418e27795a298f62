//! Changes to Backend's Config, each only to a key that is one, and only while it is as it was when it was compared.

use keepsake_core::config::{Change, Difference, Wrong, classify};
use keepsake_core::error::{Error, Kind, Result};

use super::counters;
use super::pace::Pace;
use crate::engine::Context;
use crate::engine::config_target::{Applied, Changes};
use crate::engine::redis::connection::{Batch, Reply, Server};

/// Changes that are made together: nothing else happens on the server between them.
const TOGETHER: usize = 128;
/// How often changes are tried while others change the same keys.
const TRIES: u32 = 20;

/// Makes all changes and raises the counters.
///
/// # Errors
/// `Invalid` for a key that is none of the Config, `Busy` when others change the same keys all the time, or the server's.
pub(super) async fn apply(
    server: &Server,
    changes: &mut dyn Changes,
    keys_per_second: u32,
    unlinks: bool,
    cx: &Context,
) -> Result<Applied> {
    cx.phase("changing", 0);
    let mut work = Work { server, unlinks, pace: Pace::new(keys_per_second), cx, applied: Applied::default() };
    let mut batch: Vec<Difference> = Vec::new();
    while let Some(some) = cx.unless_cancelled(changes.next()).await? {
        for change in some {
            if classify(&change.key).is_none_or(|(kind, _)| kind != change.kind) {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "a key that is to be changed as {} is none of the Config: nothing is done to it",
                        change.kind
                    ),
                ));
            }
            // What is made anew is read again in between.
            let goes_first = change.change == Change::Delete && change.wrong == Wrong::Different;
            batch.push(change);
            if batch.len() >= TOGETHER || goes_first {
                work.make(&batch).await?;
                batch.clear();
            }
        }
    }
    work.make(&batch).await?;
    let (before, after) = counters::raise(server, changes.at_least()?).await?;
    work.applied.made += u64::from(before != after);
    Ok(Applied { before, after, ..work.applied })
}

struct Work<'a> {
    server: &'a Server,
    /// Whether the server can free what is deleted in the background.
    unlinks: bool,
    pace: Pace,
    cx: &'a Context,
    applied: Applied,
}

impl Work<'_> {
    async fn make(&mut self, changes: &[Difference]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.pace.read(changes.len() as u64, self.cx).await?;
        for _ in 0..TRIES {
            if let Some(overtaken) = self.try_to_make(changes).await? {
                self.applied.overtaken += overtaken;
                self.applied.made += (changes.len() as u64).saturating_sub(overtaken);
                self.cx.advance(changes.len() as u64);
                return Ok(());
            }
        }
        Err(Error::new(Kind::Busy, "others change the same keys of the Config all the time: try again later"))
    }

    /// Makes them at once; gives how many were overtaken, or `None` when a text was changed in that moment and nothing was done.
    async fn try_to_make(&self, changes: &[Difference]) -> Result<Option<u64>> {
        let texts: Vec<&[u8]> =
            changes.iter().filter(|d| matches!(d.change, Change::Set { .. })).map(|d| &d.key[..]).collect();
        let mut now = self.watched(&texts).await?.into_iter();
        let mut ask = Batch::new();
        let mut overtaken = 0;
        ask.add(&[b"MULTI"]);
        for difference in changes {
            let key = &difference.key[..];
            match &difference.change {
                Change::Delete if self.unlinks => ask.add(&[b"UNLINK", key]),
                Change::Delete => ask.add(&[b"DEL", key]),
                Change::Set { value, found } => {
                    let there = now.next().flatten();
                    match there {
                        Some(there) if there == value[..] => {}
                        there if there.as_deref() == found.as_deref() => ask.add(&[b"SET", key, value]),
                        _ => overtaken += 1,
                    }
                }
                Change::Add(member) => ask.add(&[b"SADD", key, member]),
                Change::Remove(member) => ask.add(&[b"SREM", key, member]),
                Change::SetField { name, value } => ask.add(&[b"HSET", key, name, value]),
                Change::RemoveField(name) => ask.add(&[b"HDEL", key, name]),
                Change::Persist => ask.add(&[b"PERSIST", key]),
            }
        }
        ask.add(&[b"EXEC"]);
        let what = "change the Config";
        let mut replies = self.server.batch(what, &ask).await?;
        let done = replies.pop();
        for queued in replies {
            queued.taken(what)?;
        }
        match done.map(|reply| reply.taken(what)).transpose()? {
            Some(Reply::List(replies)) => {
                for reply in replies {
                    reply.taken(what)?;
                }
                Ok(Some(overtaken))
            }
            Some(Reply::Nothing) => Ok(None),
            _ => Err(Error::new(Kind::Internal, format!("{what}: the server answers something else than was asked"))),
        }
    }

    /// What these texts are now; changes that are made at once afterwards are not made if one of them is changed before.
    async fn watched(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut ask = Batch::new();
        for key in keys {
            ask.add(&[b"WATCH", key]);
        }
        for key in keys {
            ask.add(&[b"GET", key]);
        }
        let replies = self.server.batch("read what is to be changed", &ask).await?;
        let mut texts = Vec::with_capacity(keys.len());
        for (n, reply) in replies.into_iter().enumerate() {
            match reply.taken("read what is to be changed")? {
                Reply::Nothing if n >= keys.len() => texts.push(None),
                Reply::Bytes(text) if n >= keys.len() => texts.push(Some(text)),
                Reply::Nothing | Reply::Bytes(_) | Reply::Number(_) | Reply::List(_) | Reply::Refused(..) => {}
            }
        }
        if texts.len() == keys.len() {
            return Ok(texts);
        }
        Err(Error::new(Kind::Internal, "read what is to be changed: the server answers something else than was asked"))
    }
}
