//! The moments between two changes of a load, so that tests can stop one at each of them.

use std::sync::Arc;

use rustix::io::Errno;

/// Asked before every change that a load makes to the volume, with what it is about to do.
type Ask = dyn Fn(&'static str) -> std::io::Result<()> + Send + Sync;

/// Nothing at all in a real agent. In a test whatever it gives: an error is taken for the system's answer to the change, and one that never returns
/// stands for an agent that was killed there.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<Ask>>);

impl Steps {
    /// Asks this before every change.
    pub fn asking(ask: impl Fn(&'static str) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    pub(super) fn pass(&self, doing: &'static str) -> Result<(), Errno> {
        match &self.0 {
            None => Ok(()),
            Some(ask) => ask(doing).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)),
        }
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}
