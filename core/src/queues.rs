//! The queues of 3scale in Redis: which keys they are, and what a restore does with them.
//!
//! Pure rules over key names. One rule serves every Redis of an installation, because no name of backend-redis means a queue in system-redis or the other way
//! round: a server that both share, or one of its own for Backend's queues, needs no telling. What is not known is data, never a queue.

mod waiting;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::id::{Component, EngineName};
use crate::record::Facts;

pub use self::waiting::{FAILED, WORKED_OFF, Waiting};

/// What a restore does with the queues of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueuePolicy {
    /// They come back as they were dumped, with everything else: their jobs run again.
    #[default]
    Restore,
    /// Those of the live server stay; the set's are left out.
    Keep,
    /// Neither the set's nor the live server's are there afterwards.
    Drop,
}

impl QueuePolicy {
    /// Whether nothing is chosen: the dump is loaded as it is.
    pub fn is_restore(&self) -> bool {
        *self == Self::Restore
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Keep => "keep",
            Self::Drop => "drop",
        }
    }
}

impl fmt::Display for QueuePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for QueuePolicy {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        [Self::Restore, Self::Keep, Self::Drop].into_iter().find(|p| p.as_str() == word).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{word:?} is no queue policy: say `restore`, `keep` or `drop`"))
        })
    }
}

/// Whether dumps of this engine have queues that can be told apart.
pub fn has_queues(engine: &EngineName) -> bool {
    engine.as_str() == "redis"
}

/// Whether a component is the server of Backend's queues alone (`REDIS_QUEUES_URL` elsewhere than `REDIS_STORAGE_URL`). As the documentation has it, such a
/// server is not restored: a job that ran since the dump would count its usage twice.
pub fn is_queues_server(component: &Component) -> bool {
    component.as_str() == "backend-queues"
}

/// Whether a key belongs to the queues: jobs, and what means nothing without them. Data that lives beside them is not: `webhooks:failures:*`,
/// `billing-summary-*`, `events/queue` (its ids go with Backend's counters), cron schedules, statistics, locks of other things.
///
/// Of a name longer than [`LONGEST_NAME`] the beginning is enough.
pub fn is_queue(name: &[u8]) -> bool {
    is_backend_queue(name) || is_system_queue(name)
}

/// No rule looks further into a name.
pub const LONGEST_NAME: usize = 4096;

/// 3scale-facts, section 3.3: Resque under its fixed namespace, in whatever database `REDIS_QUEUES_URL` names, and the lock of those who try failed jobs again.
fn is_backend_queue(name: &[u8]) -> bool {
    name.starts_with(b"resque:") || name == b"threescale::backend::failedjobsscheduler:lock"
}

/// 3scale-facts, section 5: Sidekiq's jobs; its batches and iterations; its processes, which say what runs; the locks that keep a job from being queued twice
/// and the counters that keep too many from running: left behind without their jobs, they would keep new ones from running.
fn is_system_queue(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 5] = [b"queues", b"schedule", b"retry", b"dead", b"processes"];
    const PREFIXES: [&[u8]; 4] = [b"queue:", b"BID-", b"activejob_uniqueness:", b"throttled:"];
    NAMES.contains(&name)
        || PREFIXES.iter().any(|p| name.starts_with(p))
        || name.strip_prefix(b"it-").is_some_and(|id| id.len() == 24 && is_hex(id))
        || is_process(name)
}

/// `<host>:<pid>:<12 hex digits>`, alone or with what hangs on it.
fn is_process(name: &[u8]) -> bool {
    // The only rule about a name's end, which is not known of a longer one.
    if name.len() >= LONGEST_NAME {
        return false;
    }
    let mut parts = name.rsplit(|b| *b == b':');
    let mut last = parts.next().unwrap_or_default();
    if matches!(last, b"work" | b"workers") {
        last = parts.next().unwrap_or_default();
    }
    let nonce = last.strip_suffix(b"-signals").unwrap_or(last);
    let pid = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    nonce.len() == 12
        && is_hex(nonce)
        && !pid.is_empty()
        && pid.iter().all(u8::is_ascii_digit)
        && !host.is_empty()
        && parts.next().is_none()
}

fn is_hex(digits: &[u8]) -> bool {
    digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether Sidekiq's names stand here behind a prefix, as with `NAMESPACE` up to 3scale 2.14 (3scale-facts, section 5). No rule knows that prefix, so such
/// queues cannot be told from data.
pub fn is_behind_namespace(name: &[u8]) -> bool {
    name.ends_with(b":queues") && !is_queue(name)
}

/// Whether a key holds jobs that run again when it comes back: waiting ones, those of a later time, and failed ones that are tried again. `dead` ones wait for a person.
pub fn holds_jobs(name: &[u8]) -> bool {
    name.starts_with(b"resque:queue:")
        || name == FAILED.as_bytes()
        || name.starts_with(b"queue:")
        || name == b"schedule"
        || name == b"retry"
}

/// What the facts of a dump begin with that say how many jobs it holds: `jobs` all of them, `jobs:<key>` each queue's.
const JOBS: &str = "jobs";
/// So many queues are told one by one.
const TOLD: usize = 100;
/// What stands for a queue whose name cannot be told, and for all beyond [`TOLD`].
const OTHERS: &str = "others";

/// Jobs as facts of a dump. They are no counts: a restore need not bring them back.
pub fn job_facts(jobs: &BTreeMap<Vec<u8>, u64>) -> Facts {
    let mut total = 0_u64;
    let mut told = BTreeMap::<String, u64>::new();
    for (name, n) in jobs {
        total = total.saturating_add(*n);
        // A record is read by people and by jq.
        let name = std::str::from_utf8(name).ok().filter(|n| n.len() <= 100 && n.bytes().all(|b| b.is_ascii_graphic()));
        let name = name.filter(|_| told.len() < TOLD).unwrap_or(OTHERS);
        let sum = told.entry(name.to_owned()).or_default();
        *sum = sum.saturating_add(*n);
    }
    let mut facts = Facts::from([(JOBS.to_owned(), total.to_string())]);
    facts.extend(told.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (format!("{JOBS}:{name}"), n.to_string())));
    facts
}

/// The jobs that a dump holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Jobs {
    /// All of them.
    pub total: u64,
    /// By queue, the fullest first.
    pub queues: Vec<(String, u64)>,
}

/// The jobs that the facts of a dump tell; `None` when an agent made it that did not count them.
pub fn jobs(facts: &Facts) -> Option<Jobs> {
    let total = facts.get(JOBS)?.parse().ok()?;
    let mut queues: Vec<(String, u64)> = facts
        .iter()
        .filter_map(|(name, n)| Some((name.strip_prefix(JOBS)?.strip_prefix(':')?.to_owned(), n.parse().ok()?)))
        .collect();
    queues.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    Some(Jobs { total, queues })
}

impl fmt::Display for Jobs {
    /// `16 jobs (resque:queue:priority 12, resque:queue:main 4)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        write!(f, "{} {}", self.total, if self.total == 1 { "job" } else { "jobs" })?;
        for (n, (name, jobs)) in self.queues.iter().take(SHOWN).enumerate() {
            write!(f, "{}{name} {jobs}", if n == 0 { " (" } else { ", " })?;
        }
        match self.queues.len() {
            0 => Ok(()),
            n if n > SHOWN => write!(f, " and {} more)", n - SHOWN),
            _ => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_known_by_name() {
        for name in [
            "resque:queues",
            "resque:queue:priority",
            "resque:failed",
            "resque:stat:processed",
            "resque:worker:pod:1:*",
            "threescale::backend::failedjobsscheduler:lock",
            "queues",
            "queue:default",
            "queue:",
            "schedule",
            "retry",
            "dead",
            "processes",
            "BID-zZsNQOOXoagNkg-jids",
            "activejob_uniqueness:delete_object_hierarchy_worker:01f9901b8eea",
            "throttled:BackendMetricWorker:service:9/metric:107:concurrency.v2",
            "it-0123456789abcdef01234567",
            "system-sidekiq-6c9f7d5b8-abcde:1:c758f0d47ae7",
            "system-sidekiq-6c9f7d5b8-abcde:1:c758f0d47ae7:work",
            "system-sidekiq-6c9f7d5b8-abcde:1:c758f0d47ae7-signals",
        ] {
            assert!(is_queue(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_data() {
        for name in [
            "",
            "resque",
            "Resque:queue:x",
            "xresque:queue:x",
            "queue",
            "queues2",
            "aqueues",
            "schedule:x",
            "retry2",
            "webhooks:failures:provider-2",
            "billing-summary-0123",
            "lock:billing:3",
            "lock:queue:3",
            "cron_jobs",
            "cron_job:retry",
            "stat:processed",
            "stat:processed:2026-11-22",
            "j|20261122|5:30",
            "ratelimit:gid_account_2:reset",
            "events/queue",
            "events/id",
            "notify/aggregator/batch",
            "set_with_services_marked_for_deletion",
            "stats/{service:1}/metric:2/hour:2026",
            "service/id:2/state",
            "application/service_id:2/id:queue:1/state",
            "liveness-probe",
            "it-something",
            "it-0123456789abcdef0123456",
            "host:1:c758f0d47ae",
            "host:x:c758f0d47ae7",
            ":1:c758f0d47ae7",
            "a:host:1:c758f0d47ae7",
            "1:c758f0d47ae7",
        ] {
            assert!(!is_queue(name.as_bytes()), "{name}");
            assert!(!holds_jobs(name.as_bytes()), "{name}");
        }
        assert!(is_behind_namespace(b"porta:queues"));
        assert!(!is_behind_namespace(b"resque:queues"));
        assert!(!is_behind_namespace(b"queues"));
    }

    #[test]
    fn no_rule_looks_further_than_it_says() {
        for name in [&b"resque:"[..], b"queue:", b"webhooks:failures:", b"host:1:", b"it-", b"dead"] {
            let long = [name, &vec![b'a'; LONGEST_NAME + 100]].concat();
            assert_eq!(is_queue(&long), is_queue(&long[..LONGEST_NAME]), "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn jobs_come_back_from_facts() {
        let counted = BTreeMap::from([
            (b"queue:default".to_vec(), 3),
            (b"schedule".to_vec(), 40),
            (b"queue:\xff\0".to_vec(), 2),
            (b"queue:empty".to_vec(), 0),
        ]);
        let facts = job_facts(&counted);
        let jobs = jobs(&facts).unwrap();
        assert_eq!(jobs.total, 45);
        assert_eq!(jobs.to_string(), "45 jobs (schedule 40, queue:default 3, others 2)");
        assert_eq!(super::jobs(&Facts::new()), None);
        assert_eq!(super::jobs(&job_facts(&BTreeMap::new())).unwrap().to_string(), "0 jobs");

        let many = (0..1_000_u32).map(|n| (format!("queue:{n:04}").into_bytes(), 1)).collect();
        let facts = job_facts(&many);
        assert!(facts.len() <= TOLD + 2, "{}", facts.len());
        let jobs = super::jobs(&facts).unwrap();
        assert_eq!(jobs.queues[0], ("others".to_owned(), 900));
        assert!(jobs.to_string().starts_with("1000 jobs (others 900, queue:0000 1, "), "{jobs}");
        assert!(jobs.to_string().ends_with(", queue:0010 1 and 89 more)"), "{jobs}");
        assert_eq!(jobs.queues.iter().map(|(_, n)| n).sum::<u64>(), jobs.total);
    }

    #[test]
    fn policies_are_words() {
        for policy in [QueuePolicy::Restore, QueuePolicy::Keep, QueuePolicy::Drop] {
            assert_eq!(policy.to_string().parse::<QueuePolicy>().unwrap(), policy);
            assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{policy}\""));
        }
        assert!("flush".parse::<QueuePolicy>().unwrap_err().chain().contains("`keep`"));
    }
}
