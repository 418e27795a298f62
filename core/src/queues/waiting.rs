//! The jobs that wait for backend-worker: what must be worked off before it is stopped, if nothing of it is to be left over.

use std::collections::BTreeMap;
use std::fmt;

/// Backend's queues, in the order in which backend-worker takes from them (3scale-facts, section 3.3). A job of the first may put one into the second.
pub const WORKED_OFF: [&str; 3] = ["resque:queue:priority", "resque:queue:main", "resque:queue:stats"];

/// Jobs that have failed: nobody takes them but backend-cron, which tries them again.
pub const FAILED: &str = "resque:failed";

/// How many jobs wait at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// By key, those of every database of the server together; none that is empty.
    pub queues: BTreeMap<String, u64>,
    /// Jobs that have failed. They are no reason to wait.
    pub failed: u64,
}

impl Waiting {
    /// All that backend-worker has still to do.
    pub fn total(&self) -> u64 {
        self.queues.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

impl fmt::Display for Waiting {
    /// `12 jobs (main 4, priority 8), and 3 have failed before`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total() {
            0 => f.write_str("no job")?,
            1 => f.write_str("1 job")?,
            n => write!(f, "{n} jobs")?,
        }
        let name = |key: &str| key.rsplit(':').next().unwrap_or_default().to_owned();
        let each: Vec<_> = self.queues.iter().map(|(key, n)| format!("{} {n}", name(key))).collect();
        if !each.is_empty() {
            write!(f, " ({})", each.join(", "))?;
        }
        match self.failed {
            0 => Ok(()),
            1 => f.write_str(", and 1 has failed before"),
            n => write!(f, ", and {n} have failed before"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{holds_jobs, is_queue};
    use super::*;

    #[test]
    fn what_waits_is_told_by_queue() {
        assert_eq!(Waiting::default().to_string(), "no job");
        let queues = BTreeMap::from([(WORKED_OFF[0].to_owned(), 8), (WORKED_OFF[1].to_owned(), 4)]);
        let waiting = Waiting { queues, failed: 3 };
        assert_eq!(waiting.total(), 12);
        assert_eq!(waiting.to_string(), "12 jobs (main 4, priority 8), and 3 have failed before");
    }

    #[test]
    fn every_key_is_one_of_the_queues_rules() {
        assert!(WORKED_OFF.iter().chain([&FAILED]).all(|key| is_queue(key.as_bytes()) && holds_jobs(key.as_bytes())));
    }
}
