//! Repeating what may work later.

use std::time::Duration;

use crate::error::Result;

/// How often and how slowly.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Tries in all, at least 1.
    pub tries: u32,
    /// The first pause; each next is twice as long, with up to a half of itself added at random.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
}

impl Default for Retry {
    /// Eight tries over about half a minute.
    fn default() -> Self {
        Self { tries: 8, first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10) }
    }
}

impl Retry {
    /// Runs `work` until it succeeds, fails in a way that repeating cannot mend, or the tries are used up.
    pub async fn run<T, F: Future<Output = Result<T>>>(&self, mut work: impl FnMut() -> F) -> Result<T> {
        let mut done = 1;
        loop {
            match work().await {
                Err(e) if e.kind().retry() && done < self.tries => {
                    tracing::debug!(tries = done, "{}; trying again", e.chain());
                    self.pause(done).await;
                    done += 1;
                }
                end => return end,
            }
        }
    }

    /// The pause after the n-th try, n from 1.
    pub async fn pause(&self, n: u32) {
        let base = self.first_pause.saturating_mul(1 << (n - 1).min(16)).min(self.longest_pause);
        // Spread, so that many agents do not come back in step.
        let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
        let extra = base / 2 * u32::try_from(random % 1000).unwrap_or(0) / 1000;
        tokio::time::sleep(base + extra).await;
    }
}
