//! Waiting until backend-worker has worked off what waits for it, before it is stopped.
//!
//! Nothing depends on it that could be lost: what is left is part of the store, of what a rollback puts back and of the safety set. So jobs that are never worked off,
//! and an agent that cannot tell, keep no restore from happening unless the topology says so (docs/decisions/0026).

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::queues::Waiting;
use tokio::time::Instant;

use super::Runner;
use super::event::Output;
use crate::fleet::Progress;
use crate::plan::{Step, WORKER};
use crate::topology::kubernetes::Undrained;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// So many looks one after another must find nothing: a job that is worked on is in no queue, and may put another into one (3scale-facts, section 3.3).
const LOOKS: u32 = 3;
/// Over so long it is told how many jobs were done.
const SPAN: Duration = Duration::from_secs(10);

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// Looks one after another that found nothing.
    empty: u32,
    /// The newest look.
    last: Option<Waiting>,
    /// Totals of the last [`SPAN`] and a little more.
    totals: Vec<(Instant, u64)>,
    /// Why the newest look could not be made.
    failure: Option<Error>,
}

impl Seen {
    fn take(&mut self, look: Result<Waiting>) {
        match look {
            Ok(waiting) => {
                let now = Instant::now();
                self.empty = if waiting.total() == 0 { self.empty.saturating_add(1) } else { 0 };
                // One of them is that of `SPAN` ago.
                let old = self.totals.iter().filter(|(at, _)| now.duration_since(*at) >= SPAN).count();
                self.totals.drain(..old.saturating_sub(1));
                self.totals.push((now, waiting.total()));
                (self.last, self.failure) = (Some(waiting), None);
            }
            Err(e) => {
                self.empty = 0;
                self.failure = Some(e);
            }
        }
    }

    /// How it stands, with whether it gets on.
    fn told(&self) -> String {
        if let Some(failure) = &self.failure {
            return format!("nobody can tell how many jobs wait: {}", failure.chain());
        }
        let Some(waiting) = &self.last else { return "nobody was asked yet".to_owned() };
        let mut told = format!("{waiting} left");
        if let Some((since, before)) = self.totals.first() {
            let seconds = since.elapsed().as_secs();
            let gets_on = match before.checked_sub(waiting.total()) {
                _ if seconds == 0 => return told,
                Some(0) => "as many as",
                Some(fewer) => return format!("{told}, {fewer} fewer than {seconds} s ago"),
                None => "more than",
            };
            told.push_str(&format!(", {gets_on} {seconds} s ago"));
        }
        told
    }
}

impl Runner<'_> {
    pub(super) async fn drain(
        &self,
        step: &Step,
        component: &Component,
        limit: Duration,
        otherwise: Undrained,
    ) -> Result<Output> {
        let began = Instant::now();
        let mut seen = Seen::default();
        loop {
            let look = self.world.fleet.waiting_jobs(component).await;
            let is_hopeless = matches!(&look, Err(e) if !e.kind().retry());
            seen.take(look);
            let is_over = began.elapsed() >= limit;
            // When the time is over the newest look must do.
            if seen.empty >= LOOKS || (is_over && seen.empty > 0) {
                let failed = seen.last.as_ref().map_or(0, |w| w.failed);
                let told = match failed {
                    0 => "no job was left".to_owned(),
                    n => format!("no job was left; {n} had failed before, which nobody works off"),
                };
                return Ok(Output::Drained { left: Some(0), told });
            }
            if is_over || is_hopeless {
                break;
            }
            self.reporter.progress(self.plan(), step, Progress { phase: seen.told(), ..Progress::default() });
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "the run was asked to stop")),
                () = tokio::time::sleep(EVERY.min(limit.saturating_sub(began.elapsed()))) => {}
            }
        }
        let (seconds, told) = (began.elapsed().as_secs(), seen.told());
        let left = seen.last.filter(|_| seen.failure.is_none()).map(|w| w.total());
        match otherwise {
            Undrained::GoOn => Ok(Output::Drained { left, told: format!("after {seconds} s {told}") }),
            Undrained::Fail => Err(Error::new(
                Kind::Timeout,
                format!(
                    "{WORKER} has not worked off its queues in {component} in {seconds} s: {told}. Look at its log; give it more time with `drain: {{ deadline: \
                     SECONDS }}` in the topology, or go on whatever is left with `otherwise: go-on`"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn waiting(jobs: u64) -> Waiting {
        let queues = (jobs > 0).then(|| ("resque:queue:priority".to_owned(), jobs));
        Waiting { queues: queues.into_iter().collect::<BTreeMap<_, _>>(), failed: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_whether_it_gets_on() {
        let mut seen = Seen::default();
        assert!(seen.told().contains("nobody was asked"));
        seen.take(Ok(waiting(20)));
        assert_eq!(seen.told(), "20 jobs (priority 20) left");
        for jobs in 1..=15_u64 {
            tokio::time::advance(EVERY).await;
            seen.take(Ok(waiting(20 - jobs)));
        }
        assert_eq!(seen.told(), "5 jobs (priority 5) left, 10 fewer than 10 s ago");
        for _ in 0..12 {
            tokio::time::advance(EVERY).await;
            seen.take(Ok(waiting(5)));
        }
        assert_eq!(seen.told(), "5 jobs (priority 5) left, as many as 10 s ago");
        tokio::time::advance(EVERY).await;
        seen.take(Ok(waiting(6)));
        assert_eq!(seen.told(), "6 jobs (priority 6) left, more than 10 s ago");
        seen.take(Err(Error::new(Kind::Unavailable, "it is away")));
        assert!(seen.told().contains("it is away"), "{}", seen.told());
    }

    #[test]
    fn nothing_must_be_found_several_times() {
        let mut seen = Seen::default();
        for (jobs, empty) in [(0, 1), (0, 2), (3, 0), (0, 1)] {
            seen.take(Ok(waiting(jobs)));
            assert_eq!(seen.empty, empty);
        }
        seen.take(Err(Error::new(Kind::Unavailable, "it is away")));
        assert_eq!(seen.empty, 0);
    }
}
