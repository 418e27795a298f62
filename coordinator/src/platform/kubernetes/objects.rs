//! The cluster's objects as a component of an installation: Secrets, ConfigMaps, the APIManager and 3scale's other objects.
//!
//! No agent stands beside them, so the coordinator itself reads them into a set and brings them back, by the same steps as any agent: a load is staged, committed,
//! rolled back and finalized, and everything after the stage is derived from what the namespace itself remembers (`kept`).

mod choose;
mod kept;
mod kinds;
mod load;
mod read;
mod release;
mod strip;
mod write;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_core::clock;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::objects::{ENGINE, Object};
use keepsake_core::id::{Component, EngineName, Installation, RunKey};
use keepsake_core::record::{Counts, DumpRecord, DumpReport};
use keepsake_core::repository::seal::Unsealer;
use keepsake_core::repository::writer::{Place, SetWriter};
use keepsake_core::repository::{Budget, Store};

pub(super) use self::kinds::CAPABILITIES;
use self::load::Load;
use super::api::Cluster;
use super::{BEFORE, Kubernetes, access, examine};
use crate::fleet::{DumpOrder, Fleet, Hold, LoadOrder, LoadReport, OnProgress, OpKey, Opening, Progress};
use crate::inventory::Found;
use crate::objects;

/// The objects of one installation.
pub struct Objects {
    cluster: Kubernetes,
    installation: Installation,
    store: Store,
    budget: Budget,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Objects {
    /// Of this installation, into and from sets in this store. Nothing is asked yet.
    pub fn new(cluster: Kubernetes, installation: Installation, store: Store) -> Self {
        Self { cluster, installation, store, budget: Budget::default() }
    }

    /// Whether all is allowed that a load of them takes.
    ///
    /// # Errors
    /// `Denied`, with what is to be granted.
    pub async fn may_write(&self) -> Result<()> {
        let cluster = self.cluster.cluster(BEFORE).await?;
        let kinds = kinds::served(&cluster).await?;
        let needs = access::needs_of_objects(self.namespace(), &kinds, access::Objects::Written);
        let allowed = access::ensure(&cluster, needs).await;
        allowed.context("the cluster's objects could not be brought back (`--objects skip` leaves them as they are)")
    }

    fn namespace(&self) -> &str {
        &self.cluster.settings.namespace
    }

    async fn reach(&self) -> Result<Cluster> {
        self.cluster.cluster(self.cluster.limit()).await
    }

    async fn look(&self) -> Result<Found> {
        let cluster = self.cluster.cluster(BEFORE).await?;
        let server = examine::version(&cluster).await?;
        let kinds = kinds::served(&cluster).await?;
        let mut problems = Vec::new();
        let denied =
            access::denied(&cluster, access::needs_of_objects(self.namespace(), &kinds, access::Objects::Read)).await?;
        let mut facts = keepsake_core::record::Facts::new();
        if denied.is_empty() {
            let read = read::read(&cluster, self.namespace(), kinds).await?;
            problems.extend(choose::lacks(&read.objects, self.namespace()));
            facts = read.facts;
        } else {
            problems.push(access::told(&denied));
        }
        Ok(Found {
            engine: EngineName::new(ENGINE)?,
            // Whoever may not look knows of no loads, and must not be taken for one who has seen that there are none.
            server: if denied.is_empty() { server } else { String::new() },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            size: 0,
            facts,
            problems,
            cannot_undo: None,
            cannot_hold: Some("they have no hold".to_owned()),
            cannot_load: None,
            in_place_is_whole: false,
            in_place_is_told: false,
            staging_free: None,
            loads: if denied.is_empty() { kept::loads(&cluster, self.namespace()).await? } else { Vec::new() },
        })
    }

    async fn read_into(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord> {
        let cluster = self.reach().await?;
        let opened = clock::now();
        let kinds = kinds::served(&cluster).await?;
        let read = read::read(&cluster, self.namespace(), kinds).await?;
        let warnings: Vec<_> = choose::lacks(&read.objects, self.namespace()).into_iter().collect();
        choose::ensure_some(&read.objects, self.namespace())?;
        let place =
            Place { installation: self.installation.clone(), set: order.set, component: order.component.clone() };
        let writer = SetWriter::new(self.store.clone(), self.budget.clone(), order.sealing.sealer()?, place);
        let (mut artifacts, mut counts, mut bytes) = (Vec::new(), Counts::new(), 0);
        for object in &read.objects {
            let mut artifact = writer.artifact(&object.artifact()?);
            artifact.write(Bytes::from(object.to_bytes()?)).await?;
            let stored = artifact.finish().await?;
            bytes += stored.length;
            artifacts.push(stored);
            for (name, n) in object.counts() {
                *counts.entry(name).or_default() += n;
            }
            progress(Progress { phase: "reading objects".to_owned(), bytes, ..Progress::default() });
        }
        let report = DumpReport {
            server: examine::version(&cluster).await?,
            position: Some(read.position),
            snapshot_opened: Some(opened),
            facts: read.facts,
            counts,
            warnings,
            ..DumpReport::default()
        };
        Ok(DumpRecord { report, artifacts })
    }

    async fn read_from(&self, order: &LoadOrder<'_>) -> Result<Vec<Object>> {
        let component = &order.entry.component;
        let dump = order.entry.dump.as_ref();
        let dump = dump.ok_or_else(|| Error::new(Kind::Internal, format!("{component} has no dump in the set")))?;
        let unsealer = match order.opening {
            Opening::Age(identity) => Unsealer::age(identity)?,
            Opening::None => Unsealer::none(),
        };
        objects::read(&self.store, &self.budget, &unsealer, component, dump).await
    }

    async fn load(&self, key: &RunKey) -> Result<Load> {
        let cluster = self.reach().await?;
        let kinds = kinds::served(&cluster).await?;
        Ok(Load::new(cluster, self.namespace(), key, kinds))
    }
}

#[async_trait]
impl Fleet for Objects {
    async fn describe(&self, _: &Component) -> Result<Found> {
        let found = Box::pin(self.look()).await;
        found.with_context(|| format!("look at the objects of namespace {}", self.namespace()))
    }

    async fn ready_to_hold(&self, component: &Component) -> Result<Option<String>> {
        Ok(Some(format!("{component} has no hold")))
    }

    async fn prepare_hold(&self, component: &Component, _: &RunKey) -> Result<Box<dyn Hold>> {
        Err(Error::new(Kind::Unsupported, format!("{component} has no hold")))
    }

    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()> {
        Err(Error::new(Kind::Unsupported, format!("{} has no snapshots", order.component)))
    }

    async fn dump(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord> {
        let dumped = Box::pin(self.read_into(order, progress)).await;
        dumped.with_context(|| format!("dump the objects of namespace {}", self.namespace()))
    }

    async fn stage(&self, order: &LoadOrder<'_>, _: OnProgress<'_>) -> Result<LoadReport> {
        let what = || format!("stage the objects of namespace {}", self.namespace());
        let objects = Box::pin(self.read_from(order)).await.with_context(what)?;
        let load = self.load(&order.key.run).await.with_context(what)?;
        Box::pin(load.stage(objects, order.objects)).await.with_context(what)
    }

    async fn commit(&self, _: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<LoadReport> {
        let what = || format!("write the objects of namespace {}", self.namespace());
        let load = self.load(&key.run).await.with_context(what)?;
        Box::pin(load.commit()).await.with_context(what)
    }

    async fn rollback(&self, _: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        let what = || format!("put the objects of namespace {} back", self.namespace());
        let load = self.load(&key.run).await.with_context(what)?;
        Box::pin(load.rollback()).await.with_context(what)
    }

    async fn finalize(&self, _: &Component, key: &OpKey, _: OnProgress<'_>) -> Result<()> {
        let what = || format!("drop the old objects of namespace {}", self.namespace());
        let load = self.load(&key.run).await.with_context(what)?;
        Box::pin(load.finalize()).await.with_context(what)
    }

    // Nothing is at work for anybody but the step that waits for it.
    async fn cancel_run(&self, _: &Component, _: &RunKey) -> Result<usize> {
        Ok(0)
    }

    async fn at_work(&self, _: &Component, _: &RunKey) -> Result<Option<String>> {
        Ok(None)
    }
}
