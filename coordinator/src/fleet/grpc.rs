//! The agents over gRPC. (Being written.)

use async_trait::async_trait;
use jiff::Timestamp;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, RunKey, SetId};
use keepsake_core::record::{ComponentRecord, DumpRecord, Sealing};

use super::{Fleet, LoadReport, OnProgress, OpKey, Opening};
use crate::inventory::Found;
use crate::topology::{InstallationSettings, TlsFiles};

/// The agents of one installation.
#[derive(Debug)]
pub struct GrpcFleet {}

/// What `doctor` wants to know.
#[derive(Debug)]
pub struct Seen {
    /// What the agent says of its component.
    pub found: Found,
    /// The agent's clock.
    pub clock: Option<Timestamp>,
    /// Why the agent cannot write to its repository, if so.
    pub cannot_store: Option<String>,
    /// When the certificate that the agent showed expires.
    pub certificate_expires: Option<Timestamp>,
}

impl GrpcFleet {
    pub fn new(_: &InstallationSettings, _: Option<&TlsFiles>) -> Result<Self> {
        Ok(Self {})
    }
    pub async fn examine(&self, _: &Component) -> Result<Seen> {
        Err(Error::new(Kind::Internal, ""))
    }
}
#[async_trait]
impl Fleet for GrpcFleet {
    async fn describe(&self, _: &Component) -> Result<Found> {
        Err(Error::new(Kind::Internal, ""))
    }
    async fn dump(&self, _: &Component, _: &OpKey, _: SetId, _: &Sealing, _: OnProgress<'_>) -> Result<DumpRecord> {
        Err(Error::new(Kind::Internal, ""))
    }
    async fn stage(
        &self,
        _: &OpKey,
        _: SetId,
        _: &ComponentRecord,
        _: &Opening,
        _: OnProgress<'_>,
    ) -> Result<LoadReport> {
        Err(Error::new(Kind::Internal, ""))
    }
    async fn commit(&self, _: &Component, _: &OpKey, _: OnProgress<'_>) -> Result<LoadReport> {
        Err(Error::new(Kind::Internal, ""))
    }
    async fn rollback(&self, _: &Component, _: &OpKey, _: OnProgress<'_>) -> Result<()> {
        Err(Error::new(Kind::Internal, ""))
    }
    async fn finalize(&self, _: &Component, _: &OpKey, _: OnProgress<'_>) -> Result<()> {
        Err(Error::new(Kind::Internal, ""))
    }
    async fn cancel_run(&self, _: &Component, _: &RunKey) -> Result<usize> {
        Err(Error::new(Kind::Internal, ""))
    }
}
