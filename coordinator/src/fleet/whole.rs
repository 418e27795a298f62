//! All components of an installation: agents serve its stores, the coordinator itself the cluster's objects.

use async_trait::async_trait;
use keepsake_core::error::Result;
use keepsake_core::format::objects;
use keepsake_core::id::{Component, RunKey};
use keepsake_core::queues::Waiting;
use keepsake_core::record::DumpRecord;

use super::config::{ConfigChanges, ConfigCompared, ConfigOrder, Differences};
use super::grpc::GrpcFleet;
use super::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey, Paths};
use crate::inventory::Found;
use crate::platform::kubernetes::objects::Objects;

/// The agents, and beside them whatever serves the objects.
#[derive(Debug)]
pub struct WholeFleet {
    agents: GrpcFleet,
    objects: Option<Objects>,
}

impl WholeFleet {
    /// Of these.
    pub fn new(agents: GrpcFleet, objects: Option<Objects>) -> Self {
        Self { agents, objects }
    }

    /// The agents alone.
    pub fn agents(&self) -> &GrpcFleet {
        &self.agents
    }

    /// Whether the objects may be written, if there are any.
    ///
    /// # Errors
    /// `Denied`, with what is to be granted.
    pub async fn may_write_objects(&self) -> Result<()> {
        match &self.objects {
            Some(objects) => objects.may_write().await,
            None => Ok(()),
        }
    }

    fn of(&self, component: &Component) -> &dyn Fleet {
        match &self.objects {
            Some(objects) if component.as_str() == objects::COMPONENT => objects,
            Some(_) | None => &self.agents,
        }
    }
}

#[async_trait]
impl Fleet for WholeFleet {
    async fn describe(&self, component: &Component) -> Result<Found> {
        self.of(component).describe(component).await
    }

    async fn ready_to_hold(&self, component: &Component) -> Result<Option<String>> {
        self.of(component).ready_to_hold(component).await
    }

    async fn prepare_hold(&self, component: &Component, run: &RunKey) -> Result<Box<dyn Hold>> {
        self.of(component).prepare_hold(component, run).await
    }

    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()> {
        self.of(order.component).open_snapshot(order).await
    }

    async fn dump(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord> {
        self.of(order.component).dump(order, progress).await
    }

    async fn stage(&self, order: &LoadOrder<'_>, progress: OnProgress<'_>) -> Result<LoadReport> {
        self.of(&order.entry.component).stage(order, progress).await
    }

    async fn commit(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<LoadReport> {
        self.of(component).commit(component, key, progress).await
    }

    async fn rollback(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()> {
        self.of(component).rollback(component, key, progress).await
    }

    async fn finalize(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()> {
        self.of(component).finalize(component, key, progress).await
    }

    async fn paths(&self, component: &Component, key: &OpKey) -> Result<Box<dyn Paths>> {
        self.of(component).paths(component, key).await
    }

    async fn compare_config(&self, order: &ConfigOrder<'_>, found: &mut dyn Differences) -> Result<ConfigCompared> {
        self.agents.compare_config(order, found).await
    }

    async fn change_config(&self, order: &ConfigOrder<'_>, durable: bool) -> Result<Box<dyn ConfigChanges>> {
        self.agents.change_config(order, durable).await
    }

    async fn waiting_jobs(&self, component: &Component) -> Result<Waiting> {
        self.of(component).waiting_jobs(component).await
    }

    async fn cancel_run(&self, component: &Component, run: &RunKey) -> Result<usize> {
        self.of(component).cancel_run(component, run).await
    }

    async fn at_work(&self, component: &Component, run: &RunKey) -> Result<Option<String>> {
        self.of(component).at_work(component, run).await
    }
}
