//! Two looks while applications run: what the coordinator takes for a difference, and what it changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keepsake_coordinator::config::{self, Applications};
use keepsake_coordinator::fleet::config::{ConfigChanged, ConfigChanges, ConfigCompared, ConfigOrder, Differences};
use keepsake_coordinator::fleet::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey};
use keepsake_coordinator::inventory::Found;
use keepsake_core::config::{AlertLevels, Change};
use keepsake_core::error::Error;
use keepsake_core::id::{Component, Epoch, RunId, RunKey, StepId};
use keepsake_core::record::DumpRecord;

use super::*;

/// What each look finds, in order; the last one for ever. What was changed is noted.
#[derive(Default)]
struct Scripted {
    looks: Mutex<VecDeque<Vec<Difference>>>,
    looked: Mutex<Vec<tokio::time::Instant>>,
    changed: Arc<Mutex<Vec<String>>>,
    finished: Arc<Mutex<Vec<Counters>>>,
}

impl Scripted {
    fn of(looks: &[&[Difference]]) -> Self {
        Self { looks: Mutex::new(looks.iter().map(|l| l.to_vec()).collect()), ..Self::default() }
    }

    fn changed(&self) -> Vec<String> {
        self.changed.lock().unwrap().clone()
    }

    fn looks(&self) -> usize {
        self.looked.lock().unwrap().len()
    }
}

struct Noted {
    changed: Arc<Mutex<Vec<String>>>,
    finished: Arc<Mutex<Vec<Counters>>>,
    made: u64,
}

#[async_trait]
impl ConfigChanges for Noted {
    async fn make(&mut self, some: Vec<Difference>) -> Result<()> {
        self.made += some.len() as u64;
        self.changed.lock().unwrap().extend(some.iter().map(short));
        Ok(())
    }

    async fn finish(self: Box<Self>, at_least: Counters) -> Result<ConfigChanged> {
        self.finished.lock().unwrap().push(at_least);
        Ok(ConfigChanged { made: self.made, after: at_least, ..ConfigChanged::default() })
    }
}

fn never<T>() -> Result<T> {
    Err(Error::new(Kind::Internal, "this is not asked for"))
}

#[async_trait]
impl Fleet for Scripted {
    async fn describe(&self, _: &Component) -> Result<Found> {
        never()
    }
    async fn ready_to_hold(&self, _: &Component) -> Result<Option<String>> {
        never()
    }
    async fn prepare_hold(&self, _: &Component, _: &RunKey) -> Result<Box<dyn Hold>> {
        never()
    }
    async fn open_snapshot(&self, _: &DumpOrder<'_>) -> Result<()> {
        never()
    }
    async fn dump(&self, _: &DumpOrder<'_>, _: OnProgress<'_>) -> Result<DumpRecord> {
        never()
    }
    async fn stage(&self, _: &LoadOrder<'_>, _: OnProgress<'_>) -> Result<LoadReport> {
        never()
    }
    async fn commit(&self, _: &Component, _: &OpKey, _: OnProgress<'_>) -> Result<LoadReport> {
        never()
    }
    async fn rollback(&self, _: &Component, _: &OpKey, _: OnProgress<'_>) -> Result<()> {
        never()
    }
    async fn finalize(&self, _: &Component, _: &OpKey, _: OnProgress<'_>) -> Result<()> {
        never()
    }
    async fn compare_config(&self, _: &ConfigOrder<'_>, found: &mut dyn Differences) -> Result<ConfigCompared> {
        self.looked.lock().unwrap().push(tokio::time::Instant::now());
        let look = {
            let mut looks = self.looks.lock().unwrap();
            if looks.len() > 1 { looks.pop_front().unwrap() } else { looks[0].clone() }
        };
        for some in look.chunks(2) {
            found.take(some.to_vec()).await?;
        }
        let at_least = Counters { events: 1299, alerts: 33 };
        Ok(ConfigCompared { keys: 10, scanned: 20, found: Counters::default(), at_least })
    }
    async fn change_config(&self, _: &ConfigOrder<'_>, _: bool) -> Result<Box<dyn ConfigChanges>> {
        Ok(Box::new(Noted { changed: self.changed.clone(), finished: self.finished.clone(), made: 0 }))
    }
    async fn cancel_run(&self, _: &Component, _: &RunKey) -> Result<usize> {
        never()
    }
}

fn order<'a>(system: &'a Component, backend: &'a Component) -> ConfigOrder<'a> {
    let run = RunKey { run: RunId::generate(), installation: "prod".parse().unwrap(), epoch: Epoch(1) };
    let key = OpKey { run, step: StepId::new("resync").unwrap() };
    ConfigOrder { key, of_a_run: true, system, backend, alert_levels: AlertLevels::LeftAlone, keys_per_second: 0 }
}

const SETTLE: Duration = Duration::from_secs(10);
const RUNNING: Applications = Applications::Running { settle: SETTLE };

fn missing(key: &'static str, value: &'static str) -> Difference {
    let change = Change::Set { value: Bytes::from_static(value.as_bytes()), found: None };
    let (kind, key, wrong) = (ConfigKind::Application, Bytes::from_static(key.as_bytes()), Wrong::Missing);
    Difference { kind, service: "7".to_owned(), key, wrong, change }
}

fn surplus(key: &'static str) -> Difference {
    Difference { wrong: Wrong::Surplus, change: Change::Delete, ..missing(key, "") }
}

#[tokio::test(start_paused = true)]
async fn config_differences_are_what_two_looks_see_with_time_between() {
    let (system, backend) = ("system-mysql".parse().unwrap(), "backend-redis".parse().unwrap());
    let order = order(&system, &backend);
    // Of the first look: written meanwhile, still missing, deleted meanwhile, another value meanwhile, still surplus.
    let first = [missing("a", "1"), missing("b", "1"), surplus("c"), missing("d", "1"), surplus("e")];
    let second = [missing("b", "1"), missing("d", "2"), surplus("e"), surplus("f")];
    let fleet = Scripted::of(&[&first, &second]);
    let report = config::check(&fleet, &order, RUNNING).await.unwrap();
    assert_eq!(report.total(), Wrongs { missing: 1, different: 0, surplus: 1 });
    assert!(!report.is_equal() && !report.counters_are_right());
    let looked = fleet.looked.lock().unwrap().clone();
    assert!(looked.len() == 2 && looked[1] - looked[0] >= SETTLE);
    // Of applications that are stopped one look is the truth.
    let fleet = Scripted::of(&[&first, &second]);
    let report = config::check(&fleet, &order, Applications::Stopped).await.unwrap();
    assert_eq!((report.total().total(), fleet.looks()), (5, 1));
    // What one look finds equal is.
    let fleet = Scripted::of(&[&[], &second]);
    assert!(config::check(&fleet, &order, RUNNING).await.unwrap().is_equal());
    assert_eq!((fleet.looks(), fleet.changed().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn config_is_changed_only_where_two_looks_agree_and_looked_at_until_nothing_differs() {
    let (system, backend) = ("system-mysql".parse().unwrap(), "backend-redis".parse().unwrap());
    let order = order(&system, &backend);
    let (b, f) = ([missing("b", "1"), surplus("c")], [missing("b", "1"), surplus("f")]);
    let fleet = Scripted::of(&[&b, &f, &f, &[], &[]]);
    let (report, changed) = config::resync(&fleet, &order, RUNNING, false).await.unwrap();
    assert_eq!(fleet.changed(), ["application Missing b: set 1 (was None)"]);
    assert_eq!((report.total().total(), changed.made), (1, 1));
    // Two looks, then two of which the second is empty.
    assert_eq!((fleet.looks(), fleet.finished.lock().unwrap().len()), (4, 2));
    assert!(
        fleet.finished.lock().unwrap().iter().all(|c| c.events == 1299),
        "the counters are raised to what was told"
    );
    // Something changes it back all the time.
    let fleet = Scripted::of(&[&b]);
    let refused = config::resync(&fleet, &order, RUNNING, false).await.unwrap_err();
    assert!(
        refused.kind() == Kind::Conflict && refused.chain().contains("--applications-stopped"),
        "{}",
        refused.chain()
    );
    // With the applications stopped everything is changed as it is found, at once.
    let fleet = Scripted::of(&[&b]);
    let (_, changed) = config::resync(&fleet, &order, Applications::Stopped, true).await.unwrap();
    assert_eq!((fleet.looks(), changed.made, fleet.changed().len()), (1, 2, 2));
}
