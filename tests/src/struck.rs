//! A cut that is struck between any two of its steps, while writers write: whatever happens to whom, they go on within the lease.
//!
//! The places are lines that an agent writes into its log: ready, held, its dump begun, unbroken, released.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::causality::{self, Writers};
use crate::house::House;
use crate::kills::{Watched, end_for_it};
use crate::poll::wait_for;
use crate::threescale::Size;

/// Where it is struck: after this line of an agent.
pub const PLACES: [&str; 5] =
    ["ready to hold", "writes are held", "\"StartDump\"", "the hold is unbroken", "writes go on"];
/// Who is struck.
pub const VICTIMS: [&str; 6] =
    ["coordinator", "system-mysql", "zync-database", "backend-redis", "system-redis", "all agents"];
/// With what. A stopped one goes on when the writers do.
pub const SIGNALS: [Signal; 2] = [Signal::KILL, Signal::STOP];

/// The lease of the cuts that are struck.
const LEASE: Duration = Duration::from_secs(1);
/// What may pass beside it: MySQL counts whole seconds, and the machine is busy.
const SLACK: Duration = Duration::from_secs(5);
/// Several at once.
const WRITERS: usize = 3;

/// An installation whose cuts are struck.
#[derive(Debug)]
pub struct Arena {
    house: House,
    /// Sets that claim a cut.
    cut: Vec<String>,
    /// At the blow somebody locks system-mysql against writing, and never lets go: the checks must find it.
    pub somebody_holds: bool,
}

/// One blow.
#[derive(Debug, Clone, Copy)]
pub struct Blow {
    /// After which line.
    pub place: &'static str,
    /// Of which agent.
    pub watched: &'static str,
    /// Who is struck.
    pub victim: &'static str,
    /// With what.
    pub signal: Signal,
}

/// Every blow: each place is watched for at the agent that is struck, or, where the coordinator or all are, at one after the other.
pub fn blows() -> Vec<Blow> {
    let mut all = Vec::new();
    for place in PLACES {
        for (n, victim) in VICTIMS.into_iter().enumerate() {
            let watched =
                if matches!(victim, "coordinator" | "all agents") { VICTIMS[1 + (n + all.len()) % 4] } else { victim };
            all.extend(SIGNALS.map(|signal| Blow { place, watched, victim, signal }));
        }
    }
    all
}

impl Arena {
    /// Starts one.
    pub async fn open() -> Self {
        let mut house = House::new(&["prod"], Size::TINY).await;
        house.consistency = format!("    cut: {{ lease_ms: {} }}\n", LEASE.as_millis());
        house.write_topology();
        causality::prepare(&house.installations[0], WRITERS).await;
        Self { house, cut: Vec::new(), somebody_holds: false }
    }

    /// Strikes a backup.
    ///
    /// # Panics
    /// When a writer waits longer than it may, or a later backup does not work.
    pub async fn strike(&mut self, blow: Blow) {
        let what = format!("{blow:?}");
        causality::prepare(&self.house.installations[0], WRITERS).await;
        let writers = Writers::start(&self.house.installations[0], WRITERS);
        let known = self.lines(blow.watched);
        let mut run = Watched::start(&self.house, &["backup".to_owned()]);
        let seen = wait_for("the place of the blow", Duration::from_secs(60), async || {
            let lines = self.log(blow.watched);
            let there = lines.iter().skip(known).any(|line| line.contains(blow.place));
            if there { Ok(()) } else { Err(format!("{what}: {:?}", lines.last())) }
        });
        seen.await;
        self.send(&run, blow.victim, blow.signal);
        if blow.signal == Signal::KILL {
            self.supervise(blow.victim);
        }
        let _for_ever = if self.somebody_holds { Some(self.lock_for_ever().await) } else { None };
        let before = writers.rounds();
        // In short steps: whoever is freed is freed for good.
        wait_for("the writers to go on", LEASE + SLACK, async || {
            let now = writers.rounds();
            if now >= before + 20 { Ok(()) } else { Err(format!("{what}: {} rounds since the blow", now - before)) }
        })
        .await;
        if blow.signal == Signal::STOP {
            self.send(&run, blow.victim, Signal::CONT);
        }
        let _status = run.end();
        end_for_it(&self.house, &what);
        let stopped = writers.stop();
        assert!(stopped > 20, "{what}: hardly anything was written: {stopped}");
        self.sets_are_sound(&what);
        let next = self.house.must_json(&["backup"]);
        assert_eq!(next[0]["outcome"], "completed", "{what}: {next:#}");
        self.nothing_is_left(&what).await;
    }

    /// Locks system-mysql against writing, by a connection that never ends by itself.
    async fn lock_for_ever(&self) -> mysql_async::Conn {
        use mysql_async::prelude::Queryable;
        let mut conn = self.house.installations[0].mysql.conn().await;
        conn.query_drop("LOCK TABLES `system`.causality READ").await.expect("lock");
        conn
    }

    /// Restores every set that claims a cut: what it holds must be of one instant.
    ///
    /// # Panics
    /// When one is not.
    pub async fn every_claim_is_true(&mut self) {
        let identity = self.house.path("identity-1");
        for set in &self.cut {
            self.house.must(&["restore", "--no-safety", "--yes", "prod", "--set", set, "--identity", &identity]);
            let seen = causality::seen(&self.house.installations[0], WRITERS).await;
            let found = causality::violations(&seen);
            assert!(found.is_empty(), "set {set} claims a cut: {found:?}");
        }
    }

    /// How many sets claim one.
    pub fn claims(&self) -> usize {
        self.cut.len()
    }

    fn log(&self, component: &str) -> Vec<String> {
        let agent = self.house.installations[0].agents.iter().find(|a| a.component == component).expect("an agent");
        agent.process().output()
    }

    fn lines(&self, component: &str) -> usize {
        self.log(component).len()
    }

    fn send(&self, run: &Watched, victim: &str, signal: Signal) {
        if victim == "coordinator" {
            return run.signal(signal);
        }
        for agent in &self.house.installations[0].agents {
            if victim == agent.component || victim == "all agents" {
                agent.process().signal(signal);
            }
        }
    }

    /// Agents that were killed are started again at once, as whoever supervises them would.
    fn supervise(&mut self, victim: &str) {
        for agent in &mut self.house.installations[0].agents {
            if victim == agent.component || victim == "all agents" {
                agent.replace();
            }
        }
    }

    /// A set that says it has a cut has its proof, over every database that is in it.
    fn sets_are_sound(&mut self, what: &str) {
        let sets = self.house.must_json(&["sets"]);
        for set in sets.as_array().expect("sets") {
            let (id, status) = (set["set"].as_str().expect("an id"), set["status"].as_str().unwrap_or_default());
            if !matches!(status, "complete" | "partial") || self.cut.iter().any(|known| known == id) {
                continue;
            }
            let record = self.house.must_json(&["show", id]);
            let dumped = |c: &&Value| c["dump"].is_object() && c["engine"] != "files";
            let databases = record["components"].as_array().expect("components").iter().filter(dumped).count();
            let cut = &record["cut"];
            assert!(cut.is_object(), "{what}: a set without a cut although one is required: {record:#}");
            let proven = |word: &str| {
                let moments = cut["sequence"].as_array().expect("a sequence");
                moments.iter().filter(|m| m["what"] == word).count()
            };
            assert!(proven("unbroken") >= databases, "{what}: {cut:#}");
            assert_eq!(proven("unbroken"), proven("snapshot-open"), "{what}: {cut:#}");
            if status == "complete" {
                self.cut.push(id.to_owned());
            }
        }
    }

    /// No lock, pause, transaction or child remains.
    async fn nothing_is_left(&self, what: &str) {
        let prod = &self.house.installations[0];
        let zync = prod.zync.client("postgres").await;
        wait_for("locks and transactions to go", Duration::from_secs(20), async || {
            let mysql = "SELECT COUNT(*) FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db IS NULL AND user = 'root' \
                         AND command <> 'Sleep'";
            let mysql = prod.mysql.value(mysql).await;
            let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keepsake-agent' AND state LIKE 'idle in transaction%'";
            let open: i64 = zync.query_one(open, &[]).await.expect("ask").get(0);
            if mysql.as_deref() == Some("0") && open == 0 { Ok(()) } else { Err(format!("{what}: {mysql:?} {open}")) }
        })
        .await;
    }
}
