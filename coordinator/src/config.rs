//! Making Backend's Config equal to what System's database says, and finding out whether it is.
//!
//! While applications run, System writes to its database and to Backend one after the other, so one look may see a change half made. There are two: only
//! what both see, the second on a snapshot that was opened when the first had ended, is a difference. Of the first, 8 bytes a difference are kept.

pub mod report;

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::config::Difference;
use keepsake_core::error::{Context as _, Error, Kind, Result};

pub use self::report::Report;
use crate::fleet::Fleet;
use crate::fleet::config::{ConfigChanged, ConfigChanges, ConfigCompared, ConfigOrder, Differences};

/// Whether the applications write meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applications {
    /// They are stopped: one look is enough.
    Stopped,
    /// They may write. Between two looks so long is waited, for what is under way to arrive.
    Running {
        /// How long.
        settle: Duration,
    },
}

/// How often changes are made while applications run, until nothing differs: they change the Config meanwhile.
const ROUNDS: u32 = 4;

/// Looks whether the Config is as it should be.
///
/// # Errors
/// An agent cannot be asked, or the comparison did not come to its end.
pub async fn check(fleet: &dyn Fleet, order: &ConfigOrder<'_>, applications: Applications) -> Result<Report> {
    let mut report = Report::default();
    look(fleet, order, applications, &mut report).await?;
    Ok(report)
}

/// Makes the Config as it should be. The report tells what differed before.
/// While applications run, it is looked at again until nothing differs.
///
/// # Errors
/// As [`check`]; `Conflict` when something differs still, because others change it all the time.
pub async fn resync(
    fleet: &dyn Fleet,
    order: &ConfigOrder<'_>,
    applications: Applications,
    durable: bool,
) -> Result<(Report, ConfigChanged)> {
    let mut first: Option<(Report, ConfigChanged)> = None;
    // With the applications stopped one look is the truth, and whoever wants it proved looks again.
    let mut settled = applications == Applications::Stopped;
    for _ in 0..if settled { 1 } else { ROUNDS } {
        let mut through = Through { fleet, order, durable, changes: None, report: Report::default() };
        let compared = look(fleet, order, applications, &mut through).await?;
        let (changes, report) = through.end().await?;
        let changed = changes.finish(compared.at_least).await.context("change the Config")?;
        let nothing = report.is_equal();
        let (_, all) =
            first.get_or_insert((report, ConfigChanged { before: changed.before, ..ConfigChanged::default() }));
        all.made += changed.made;
        all.overtaken += changed.overtaken;
        all.after = changed.after;
        if nothing {
            settled = true;
            break;
        }
    }
    if !settled {
        let text = format!(
            "after {ROUNDS} rounds the Config differs still: something changes it all the time, or changes it back. Stop the applications and say \
             --applications-stopped"
        );
        return Err(Error::new(Kind::Conflict, text));
    }
    first.ok_or_else(|| Error::new(Kind::Internal, "the Config was not looked at"))
}

/// Takes what is certain.
#[async_trait]
trait Takes: Send {
    async fn take(&mut self, some: Vec<Difference>) -> Result<()>;
    fn compared(&mut self, compared: ConfigCompared);
}

#[async_trait]
impl Takes for Report {
    async fn take(&mut self, some: Vec<Difference>) -> Result<()> {
        for difference in &some {
            self.count(difference);
        }
        Ok(())
    }

    fn compared(&mut self, compared: ConfigCompared) {
        self.compared(compared);
    }
}

/// Counts and changes.
struct Through<'a> {
    fleet: &'a dyn Fleet,
    order: &'a ConfigOrder<'a>,
    durable: bool,
    /// Begun with the first change: while it lasts, its agent does nothing else.
    changes: Option<Box<dyn ConfigChanges>>,
    report: Report,
}

impl Through<'_> {
    async fn changes(&mut self) -> Result<&mut Box<dyn ConfigChanges>> {
        let changes = match self.changes.take() {
            Some(changes) => changes,
            None => self.fleet.change_config(self.order, self.durable).await.context("change the Config")?,
        };
        Ok(self.changes.insert(changes))
    }

    async fn end(mut self) -> Result<(Box<dyn ConfigChanges>, Report)> {
        self.changes().await?;
        let changes = self.changes.ok_or_else(|| Error::new(Kind::Internal, "no change was begun"))?;
        Ok((changes, self.report))
    }
}

#[async_trait]
impl Takes for Through<'_> {
    async fn take(&mut self, some: Vec<Difference>) -> Result<()> {
        for difference in &some {
            self.report.count(difference);
        }
        self.changes().await?.make(some).await.context("change the Config")
    }

    fn compared(&mut self, compared: ConfigCompared) {
        self.report.compared(compared);
    }
}

/// Looks once or twice; what is certain goes to `to`.
async fn look(
    fleet: &dyn Fleet,
    order: &ConfigOrder<'_>,
    applications: Applications,
    to: &mut dyn Takes,
) -> Result<ConfigCompared> {
    let seen = match applications {
        Applications::Stopped => None,
        Applications::Running { settle } => {
            let mut first = First::default();
            let compared = fleet.compare_config(order, &mut first).await.context("compare the Config")?;
            if first.seen.is_empty() {
                to.compared(compared);
                return Ok(compared);
            }
            tokio::time::sleep(settle).await;
            Some(first)
        }
    };
    let mut second = Second { seen, to };
    let compared = fleet.compare_config(order, &mut second).await.context("compare the Config")?;
    to.compared(compared);
    Ok(compared)
}

/// The first look: a fingerprint of every difference.
#[derive(Default)]
struct First {
    seen: HashSet<u64>,
    hasher: RandomState,
}

#[async_trait]
impl Differences for First {
    async fn take(&mut self, some: Vec<Difference>) -> Result<()> {
        self.seen.extend(some.iter().map(|difference| self.hasher.hash_one(difference)));
        Ok(())
    }
}

/// The second look, or the only one.
struct Second<'t> {
    seen: Option<First>,
    to: &'t mut dyn Takes,
}

#[async_trait]
impl Differences for Second<'_> {
    async fn take(&mut self, mut some: Vec<Difference>) -> Result<()> {
        if let Some(First { seen, hasher }) = &self.seen {
            some.retain(|difference| seen.contains(&hasher.hash_one(difference)));
        }
        if some.is_empty() {
            return Ok(());
        }
        self.to.take(some).await
    }
}
