//! How long writers may wait for a cut.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long writers may wait for a cut, and how often it is tried. Durations in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CutLimits {
    /// Each hold is had within so long, or the attempt is void.
    pub budget_ms: u32,
    /// A hold that nobody asks for ends by itself after so long.
    pub lease_ms: u32,
    /// Attempts.
    pub attempts: u32,
    /// When the writers have waited so long in all attempts together, there is no further one.
    pub pauses_ms: u32,
    /// Before an attempt, so long is waited for everything that would be in its way; nothing is held meanwhile.
    pub ready_within_ms: u32,
}

impl Default for CutLimits {
    fn default() -> Self {
        Self { budget_ms: 200, lease_ms: 2_000, attempts: 5, pauses_ms: 500, ready_within_ms: 60_000 }
    }
}

impl CutLimits {
    /// What is wrong with them, if something is.
    pub fn unsound(&self) -> Option<String> {
        if self.lease_ms < 500 || self.lease_ms > 10_000 {
            return Some(format!("lease_ms is {}: 500 to 10000 are sound", self.lease_ms));
        }
        if self.budget_ms == 0 || self.budget_ms > self.lease_ms / 2 {
            return Some(format!("budget_ms is {}: 1 to half the lease are sound", self.budget_ms));
        }
        (self.attempts == 0 || self.attempts > 20).then(|| format!("attempts is {}: 1 to 20 are sound", self.attempts))
    }

    /// See there.
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms.into())
    }

    /// See there.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    /// See there.
    pub fn pauses(&self) -> Duration {
        Duration::from_millis(self.pauses_ms.into())
    }

    /// See there.
    pub fn ready_within(&self) -> Duration {
        Duration::from_millis(self.ready_within_ms.into())
    }
}
