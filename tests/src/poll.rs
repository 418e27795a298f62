//! Waiting on conditions.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Asks until the condition answers `Ok`, at most `limit`.
///
/// # Panics
/// When the limit has passed, with the last status that the condition gave.
pub async fn wait_for<T, S: Display>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match condition().await {
            Ok(found) => return found,
            Err(status) => {
                assert!(started.elapsed() < limit, "waited {limit:?} for {what}; last status: {status}");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
