//! What runs the applications of an installation, as the coordinator sees it: they are stopped and started.

pub mod standalone;

use async_trait::async_trait;
use keepsake_core::error::Result;
use keepsake_core::id::RunKey;

/// What runs the applications. Both may be asked again: what is stopped stays stopped, what runs goes on.
#[async_trait]
pub trait Platform: Send + Sync {
    /// Stops everything that writes to the stores; when it returns, nothing writes any more.
    async fn quiesce(&self, run: &RunKey) -> Result<()>;
    /// Starts it again.
    async fn resume(&self, run: &RunKey) -> Result<()>;
}
