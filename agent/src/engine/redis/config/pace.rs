//! So many keys a second and no more, so that other clients of the server feel little.

use std::time::Duration;

use keepsake_core::error::Result;
use tokio::time::Instant;

use crate::engine::Context;

/// A key that is only listed costs the server about so many times less than one that is read.
pub(super) const LISTED: u64 = 5;
/// What was not used up is not saved for later: at most so much is made up for.
const SAVED: Duration = Duration::from_millis(50);

/// The pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// Nanoseconds for one key; 0 without a limit.
    nanos: u64,
    next: Instant,
}

impl Pace {
    /// So many keys a second; 0 is as fast as it goes.
    pub(super) fn new(keys_per_second: u32) -> Self {
        let nanos = 1_000_000_000_u64.checked_div(u64::from(keys_per_second)).unwrap_or(0);
        Self { nanos, next: Instant::now() }
    }

    /// Waits until so many keys may be read.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) async fn read(&mut self, keys: u64, cx: &Context) -> Result<()> {
        self.spend(self.nanos.saturating_mul(keys), cx).await
    }

    /// Waits until so many keys may be listed.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) async fn list(&mut self, keys: u64, cx: &Context) -> Result<()> {
        self.spend(self.nanos.saturating_mul(keys) / LISTED, cx).await
    }

    async fn spend(&mut self, nanos: u64, cx: &Context) -> Result<()> {
        cx.check()?;
        if nanos == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let wait = self.next.saturating_duration_since(now);
        let floor = now.checked_sub(SAVED).unwrap_or(now);
        self.next = self.next.max(floor) + Duration::from_nanos(nanos);
        if wait.is_zero() {
            return Ok(());
        }
        cx.unless_cancelled(async {
            tokio::time::sleep(wait).await;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_keys_take_so_long() {
        let (cx, _progress) = Context::new(CancellationToken::new());
        let began = Instant::now();
        let mut pace = Pace::new(1_000);
        for _ in 0..21 {
            pace.read(100, &cx).await.unwrap();
        }
        assert_eq!(began.elapsed().as_millis(), 2_000);
        let began = Instant::now();
        let mut pace = Pace::new(0);
        pace.read(u64::MAX, &cx).await.unwrap();
        assert!(began.elapsed().is_zero());
    }
}
