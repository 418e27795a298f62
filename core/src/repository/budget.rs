//! One bound on the bytes that all streams together may hold in memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result};

/// Bytes per permit: a semaphore counts in `u32`, a budget may be larger.
const UNIT: usize = 1024;

/// How many segments are sealed at the same moment: each needs its compressed and its sealed bytes for that while.
const SEALING: usize = 2;

/// A byte budget, shared by cloning.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    sealing: Arc<Semaphore>,
    total: usize,
}

/// A share of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// 16 MiB: four segments in flight, in all streams together.
    pub const DEFAULT_BYTES: usize = 16 << 20;

    /// A budget of so many bytes, at least one segment.
    pub fn new(bytes: usize) -> Self {
        let total = (bytes.max(super::segment::SEGMENT_BYTES) / UNIT).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(total)), sealing: Arc::new(Semaphore::new(SEALING)), total }
    }

    /// Waits for a share. More than the whole budget counts as the whole budget, so that nothing waits for ever.
    pub(super) async fn share(&self, bytes: usize) -> Result<Share> {
        let permit = self.units.clone().acquire_many_owned(self.units_of(bytes)).await;
        permit.map(|permit| Share { _permit: permit }).map_err(closed)
    }

    /// A share if it is there now.
    pub(super) fn try_share(&self, bytes: usize) -> Option<Share> {
        self.units.clone().try_acquire_many_owned(self.units_of(bytes)).ok().map(|permit| Share { _permit: permit })
    }

    /// Waits for a turn to seal.
    pub(super) async fn sealing(&self) -> Result<Share> {
        self.sealing.clone().acquire_owned().await.map(|permit| Share { _permit: permit }).map_err(closed)
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.total)).unwrap_or(u32::MAX)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Self::DEFAULT_BYTES)
    }
}

fn closed(error: tokio::sync::AcquireError) -> Error {
    Error::caused(Kind::Internal, "the byte budget was closed", error)
}
