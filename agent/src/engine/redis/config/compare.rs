//! One pass: every expected key is read and judged as it comes, and when all have come, what is surplus is looked for.

use std::path::Path;

use keepsake_core::error::{Error, Kind, Result};

use super::counters;
use super::groups::{Content, Group, Groups};
use super::judge::{There, judge};
use super::pace::Pace;
use super::prints::Prints;
use super::surplus::{self, Listed};
use crate::engine::Context;
use crate::engine::config_target::{Compared, Differences, Expected};
use crate::engine::redis::connection::{Batch, Reply, Server};

/// Commands that are sent together, about: less than a millisecond of the server's time.
const TOGETHER: usize = 256;
/// A set that has more is asked for each expected member instead of for all that it has.
const MOST_READ: i64 = 2_000;
/// A hash that has more is none of ours, and is made anew.
const MOST_FIELDS: i64 = 1_000;

/// One pass.
struct Pass<'a> {
    server: &'a Server,
    out: &'a mut dyn Differences,
    pace: Pace,
    cx: &'a Context,
    prints: Prints,
    /// Sets that may have members that are not expected.
    listed: Listed,
    compared: Compared,
}

/// Compares all that is expected with what is there.
///
/// # Errors
/// The server's or the caller's; then nothing was called surplus that was not told already.
pub(super) async fn compare(
    server: &Server,
    scratch: &Path,
    expected: &mut dyn Expected,
    out: &mut dyn Differences,
    keys_per_second: u32,
    cx: &Context,
) -> Result<Compared> {
    cx.phase("comparing", 0);
    let mut pass = Pass {
        server,
        out,
        pace: Pace::new(keys_per_second),
        cx,
        prints: Prints::new(scratch)?,
        listed: Listed::new(scratch)?,
        compared: Compared::default(),
    };
    let mut groups = Groups::default();
    let mut batch = Vec::new();
    let mut weight = 0;
    while let Some(entries) = cx.unless_cancelled(expected.next()).await? {
        for entry in entries {
            let Some(group) = groups.take(entry)? else { continue };
            weight += group.weight();
            batch.push(group);
            if weight >= TOGETHER {
                pass.examine(std::mem::take(&mut batch)).await?;
                weight = 0;
            }
        }
    }
    // All have come: only now is the last one known to be whole.
    batch.extend(groups.finish());
    pass.examine(batch).await?;
    let end = expected.end()?.clone();
    let Pass { pace, prints, listed, mut compared, .. } = pass;
    let mut search = surplus::Search { server, out, pace, cx, kinds: &end.kinds, found: surplus::Found::default() };
    search.run(prints, listed).await?;
    compared.scanned = search.found.scanned;
    compared.differences += search.found.differences;
    compared.found = counters::read(server).await?;
    Ok(compared)
}

impl Pass<'_> {
    async fn examine(&mut self, groups: Vec<Group>) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        self.pace.read(groups.len() as u64, self.cx).await?;
        let heads = heads(self.server, &groups).await?;
        let theres = contents(self.server, &groups, &heads).await?;
        let printer = self.prints.printer();
        for ((group, head), there) in groups.iter().zip(&heads).zip(theres) {
            if !group.goes_on {
                self.prints.expect(printer.key(&group.key))?;
            }
            if let Content::Members(members) = &group.content {
                for member in members {
                    self.prints.expect(printer.member(&group.key, member))?;
                }
            }
            let judged = judge(group, there, head.expires);
            self.compared.keys += u64::from(judged.counts);
            if judged.may_have_more && !group.goes_on {
                self.listed.add(group)?;
            }
            for difference in judged.differences {
                self.compared.differences += 1;
                self.out.tell(difference).await?;
            }
        }
        self.cx.advance(groups.len() as u64);
        Ok(())
    }
}

/// How large each key is, or what it says, and whether it expires.
async fn heads(server: &Server, groups: &[Group]) -> Result<Vec<Head>> {
    let mut ask = Batch::new();
    for group in groups {
        ask.add(&[b"PTTL", &group.key]);
        match &group.content {
            Content::Text { .. } => ask.add(&[b"GET", &group.key]),
            Content::Members(_) => ask.add(&[b"SCARD", &group.key]),
            Content::Fields(_) => ask.add(&[b"HLEN", &group.key]),
        }
    }
    let mut replies = server.batch("read the Config", &ask).await?.into_iter();
    let mut heads = Vec::with_capacity(groups.len());
    for _ in groups {
        let (Some(expires), Some(value)) = (replies.next(), replies.next()) else { return Err(too_few()) };
        // -1 has no time to live, -2 is not there.
        heads.push(Head { expires: expires.number("PTTL")? >= 0, value });
    }
    Ok(heads)
}

async fn contents(server: &Server, groups: &[Group], heads: &[Head]) -> Result<Vec<There>> {
    let mut ask = Batch::new();
    let mut hows = Vec::with_capacity(groups.len());
    for (group, head) in groups.iter().zip(heads) {
        let how = How::of(group, head)?;
        match (&how, &group.content) {
            (How::AllMembers, _) => ask.add(&[b"SMEMBERS", &group.key]),
            (How::EachMember, Content::Members(members)) => {
                for member in members {
                    ask.add(&[b"SISMEMBER", &group.key, member]);
                }
            }
            (How::AllFields, _) => ask.add(&[b"HGETALL", &group.key]),
            (How::Known(_) | How::EachMember, _) => {}
        }
        hows.push(how);
    }
    let mut replies = server.batch("read the Config", &ask).await?.into_iter();
    let mut theres = Vec::with_capacity(groups.len());
    for (group, how) in groups.iter().zip(hows) {
        let there = match (how, &group.content) {
            (How::Known(there), _) => there,
            (How::AllMembers, _) => There::Members(replies.next().ok_or_else(too_few)?.strings("SMEMBERS")?),
            (How::AllFields, _) => There::Fields(replies.next().ok_or_else(too_few)?.strings("HGETALL")?),
            (How::EachMember, Content::Members(members)) => {
                let mut has = Vec::with_capacity(members.len());
                for _ in members {
                    has.push(replies.next().ok_or_else(too_few)?.number("SISMEMBER")? == 1);
                }
                There::Has(has)
            }
            (How::EachMember, Content::Text { .. } | Content::Fields(_)) => There::Nothing,
        };
        theres.push(there);
    }
    Ok(theres)
}

/// What is known of a key at first.
struct Head {
    expires: bool,
    value: Reply,
}

/// What is still to be asked.
enum How {
    /// Nothing.
    Known(There),
    AllMembers,
    /// It is compared in parts, or has very many.
    EachMember,
    AllFields,
}

impl How {
    fn of(group: &Group, head: &Head) -> Result<Self> {
        let what = "read the Config";
        let is_other = matches!(&head.value, Reply::Refused(code, _) if code == "WRONGTYPE");
        if is_other {
            return Ok(Self::Known(There::Other));
        }
        Ok(match &group.content {
            Content::Text { .. } => Self::Known(match head.value.clone().taken(what)? {
                Reply::Nothing => There::Nothing,
                Reply::Bytes(bytes) => There::Text(bytes),
                Reply::Number(_) | Reply::List(_) | Reply::Refused(..) => return Err(too_few()),
            }),
            Content::Members(_) => match head.value.clone().number(what)? {
                0 => Self::Known(There::Nothing),
                n if n <= MOST_READ && !group.is_part => Self::AllMembers,
                _ => Self::EachMember,
            },
            Content::Fields(_) => match head.value.clone().number(what)? {
                0 => Self::Known(There::Nothing),
                n if n <= MOST_FIELDS => Self::AllFields,
                _ => Self::Known(There::Other),
            },
        })
    }
}

fn too_few() -> Error {
    Error::new(Kind::Internal, "read the Config: the server answers something else than was asked")
}
