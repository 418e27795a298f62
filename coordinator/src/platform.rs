//! What runs the applications of an installation, as the coordinator sees it: they are stopped and started.

pub mod kubernetes;
pub mod standalone;

use async_trait::async_trait;
use keepsake_core::error::Result;
use keepsake_core::id::RunKey;

use self::kubernetes::Kubernetes;
use self::standalone::Standalone;
use crate::topology::InstallationSettings;
use crate::topology::kubernetes::By;

/// What runs the applications. Both may be asked again: what is stopped stays stopped, what runs goes on.
#[async_trait]
pub trait Platform: Send + Sync {
    /// Whether both could be done now, as far as that can be told without changing anything: asked before a run begins.
    async fn preflight(&self) -> Result<()> {
        Ok(())
    }
    /// Stops everything that writes to the stores; when it returns, nothing writes any more.
    async fn quiesce(&self, run: &RunKey) -> Result<()>;
    /// Whether still nothing writes: asked again before data is put in the place of other data, which may be hours after it was stopped. Where that cannot be
    /// looked at it is taken for true.
    async fn is_still_quiet(&self, _run: &RunKey) -> Result<()> {
        Ok(())
    }
    /// Starts it again.
    async fn resume(&self, run: &RunKey) -> Result<()>;
}

/// What runs the applications of an installation; none when a person stops and starts them. Nothing is asked yet.
pub fn of(installation: &InstallationSettings) -> Option<Box<dyn Platform + '_>> {
    if let Some(hooks) = &installation.hooks {
        return Some(Box::new(Standalone::new(hooks)));
    }
    let settings = installation.kubernetes.as_ref().filter(|k| k.by == By::Scale)?;
    Some(Box::new(Kubernetes::new(settings.clone())))
}
