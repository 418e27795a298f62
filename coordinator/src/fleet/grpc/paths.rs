//! The paths that a dump tells, as they come.

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_proto::convert;
use keepsake_proto::status::from_status;
use keepsake_proto::v1;
use tonic::Streaming;

use super::GrpcFleet;
use super::operation::answered;
use crate::fleet::{NamedPath, OpKey, Paths};

/// An agent that says nothing for so long is not waited for: it only reads a file.
const SILENT: Duration = Duration::from_mins(1);

/// A stream of them.
struct GrpcPaths(Streaming<v1::PathsResponse>);

#[async_trait]
impl Paths for GrpcPaths {
    async fn next(&mut self) -> Result<Option<Vec<NamedPath>>> {
        let late = |_| Error::new(Kind::Timeout, format!("the agent told no paths for {SILENT:?}"));
        let next = tokio::time::timeout(SILENT, self.0.message()).await.map_err(late)?;
        let next = next.map_err(|s| from_status(&s))?;
        Ok(next.map(|batch| {
            batch.paths.into_iter().map(|named| NamedPath { path: named.path.to_vec(), row: named.row }).collect()
        }))
    }
}

impl GrpcFleet {
    pub(super) async fn told_paths(&self, component: &Component, key: &OpKey) -> Result<Box<dyn Paths>> {
        let mut client = self.dialer(component)?.client()?;
        let request = v1::PathsRequest { key: Some(convert::key_to_wire(&key.run, &key.step)) };
        Ok(Box::new(GrpcPaths(answered(client.paths(request)).await?.into_inner())))
    }
}
