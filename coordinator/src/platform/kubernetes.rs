//! Kubernetes and OpenShift: applications are stopped by scaling their workloads to 0, and started by giving back what they had; what follows from the data is made
//! anew by Jobs (`resync`).
//!
//! First the operator is set aside, then the applications stop in steps (`names` has them, and why), each step waiting until no pod of it remains; starting has
//! steps of its own, the operator last. The stores' own workloads are never touched. What a workload had is remembered on the object itself (`record`) before anything is changed, so that any
//! coordinator anywhere can go on or back from any half of it. Everything may be asked again. All that knows Kubernetes is in this folder.

mod access;
pub mod agents;
mod api;
mod attached;
mod built;
mod change;
mod checks;
pub mod coordinator;
mod deployers;
mod discovery;
pub mod examine;
mod job;
mod log;
mod names;
pub mod objects;
mod pod;
mod record;
mod remembered;
mod renewal;
mod resync;
mod rollout;
mod route;
mod routes;
mod wait;
mod webhook;
mod workload;

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::RunKey;

use self::api::Cluster;
use self::discovery::Found;
pub use self::record::ANNOTATION;
use self::record::Me;
pub use self::workload::ROLLED_OUT;
use self::workload::Workload;
use super::{Extent, Intent, Looked, Platform, Stopped};
use crate::plan::WORKER;
use crate::topology::KubernetesSettings;
use crate::topology::kubernetes::{By, ResyncTask};

/// Before anything has begun, an API server that does not answer is not waited for any longer.
const BEFORE: Duration = Duration::from_secs(15);

/// The workloads of one installation.
pub struct Kubernetes {
    settings: KubernetesSettings,
    client: Option<kube::Client>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// By these settings. The cluster is reached when something is asked of it.
    pub fn new(settings: KubernetesSettings) -> Self {
        Self { settings, client: None }
    }

    /// The same over a client that is there already.
    pub fn over(settings: KubernetesSettings, client: kube::Client) -> Self {
        Self { settings, client: Some(client) }
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.settings.deadline.into())
    }

    async fn cluster(&self, patience: Duration) -> Result<Cluster> {
        match &self.client {
            Some(client) => Ok(Cluster { client: client.clone(), patience }),
            None => Cluster::new(&self.settings, patience).await,
        }
    }

    /// What there is to stop but for these, when all of it is known and may be stopped.
    async fn found(&self, cluster: &Cluster, keeps: &[String]) -> Result<Found> {
        let look = discovery::look(cluster, &self.settings).await?;
        let served = look.served.clone();
        let found = look.judge(&self.settings)?;
        access::ensure(cluster, access::needs(&self.settings, &served, found.operator.is_some())).await?;
        Ok(found.but(keeps))
    }

    /// A person does it, says the topology.
    fn must_scale(&self) -> Result<()> {
        match self.settings.by {
            By::Scale | By::Routes => Ok(()),
            By::None => Err(Error::new(
                Kind::Invalid,
                "the plan stops and starts the applications, and the topology says `by: none`: write `by: scale`, or `by: routes`, into it as it was",
            )),
        }
    }

    async fn stop(&self, run: &RunKey, keeps: &[String]) -> Result<Vec<Stopped>> {
        self.must_scale()?;
        let (namespace, limit) = (&self.settings.namespace, self.limit());
        let cluster = self.cluster(limit).await?;
        let me = Me::new(run, namespace);
        // The worker, and what comes with it and after it, is only remembered, if it is to work on for now.
        let is_later = |w: &Workload| keeps.iter().any(|k| k == WORKER) && w.is_after_the_writers();
        let keeps: Vec<_> = keeps.iter().filter(|k| *k != WORKER).cloned().collect();
        let mut found = self.found(&cluster, &keeps).await?;
        for workload in found.operator.iter_mut().chain(found.steps.iter_mut().flatten()) {
            *workload = cluster.remember(workload, &me).await?;
        }
        cluster.end_own_jobs(namespace, run, limit).await?;
        if let Some(operator) = &found.operator {
            let stopped = cluster.scale_to_nothing(operator, &me).await?;
            cluster.until_stopped(&[stopped], limit).await?;
            tracing::info!("{operator} is set aside");
        }
        // They need what is stopped next. Nobody makes new ones any more.
        cluster.until_no_hook_runs(namespace, limit).await?;
        cluster.until_no_deployer_runs(&found, limit).await?;
        for step in found.steps.iter().filter(|step| !step.iter().any(is_later)) {
            let mut stopped = Vec::new();
            for workload in step {
                stopped.push(cluster.scale_to_nothing(workload, &me).await?);
            }
            cluster.until_stopped(&stopped, limit).await?;
            let names: Vec<_> = step.iter().map(|w| w.name.as_str()).collect();
            tracing::info!("stopped in namespace {namespace}: {}", names.join(", "));
        }
        cluster.until_no_deployer_runs(&found, limit).await?;
        let all: Vec<_> = found.steps.into_iter().flatten().chain(found.operator).collect();
        let stopped: Vec<_> = all.iter().filter(|w| !is_later(w)).cloned().collect();
        cluster.until_stopped(&stopped, limit).await?;
        cluster.until_no_hook_runs(namespace, limit).await?;
        Ok(all.iter().filter_map(Workload::stopped).collect())
    }

    /// Whether everything is as `stop` has left it. It is looked at once: what runs now has written already.
    async fn look_whether_stopped(&self, extent: &Extent) -> Result<()> {
        let cluster = self.cluster(self.limit()).await?;
        let look = discovery::look(&cluster, &self.settings).await?;
        let found = look.judge(&self.settings)?.but(&extent.keeps);
        cluster.until_no_deployer_runs(&found, Duration::ZERO).await?;
        let all: Vec<_> = found.steps.into_iter().flatten().chain(found.operator).collect();
        cluster.until_stopped(&all, Duration::ZERO).await?;
        cluster.until_no_hook_runs(&self.settings.namespace, Duration::ZERO).await?;
        if extent.routes { routes::ensure_closed(&cluster, &self.settings).await } else { Ok(()) }
    }

    /// Starts all that can be started, whatever cannot: an application that runs is better than none.
    async fn start(&self, run: &RunKey) -> Result<()> {
        self.must_scale()?;
        let namespace = &self.settings.namespace;
        let cluster = self.cluster(self.limit()).await?;
        let me = Me::new(run, namespace);
        let served = discovery::served(&cluster).await?;
        let mut problems = Vec::new();
        let operator = discovery::operator(&cluster, &self.settings).await.unwrap_or_else(|e| {
            problems.push(e);
            None
        });
        let no_operator = match (&operator, problems.is_empty()) {
            (None, true) => remembered::no_operator(&cluster, &served, &self.settings).await.err(),
            _ => None,
        };
        let is_operator = |w: &Workload| {
            operator.as_ref().is_some_and(|o| (&o.namespace, o.sort, &o.name) == (&w.namespace, w.sort, &w.name))
        };
        let mut stopped = remembered::workloads(&cluster, &served, namespace, &mut problems).await;
        stopped.retain(|w| !is_operator(w));
        stopped.sort_by_key(Workload::start_step);
        for step in stopped.chunk_by(|a, b| a.start_step() == b.start_step()) {
            self.start_together(&cluster, step, &me, &mut problems).await;
        }
        if let Some(operator) = operator.filter(|o| o.record.is_some()) {
            if let Err(e) = cluster.drop_failed_hooks(namespace).await {
                problems.push(e);
            }
            self.start_together(&cluster, &[operator], &me, &mut problems).await;
        }
        problems.extend(no_operator);
        let Some(first) = problems.first() else { return Ok(()) };
        let told: Vec<_> = problems.iter().map(Error::chain).collect();
        Err(Error::new(first.kind(), told.join("; ")))
    }

    async fn start_together(&self, cluster: &Cluster, step: &[Workload], me: &Me, problems: &mut Vec<Error>) {
        let mut pending = Vec::new();
        for workload in step {
            match cluster.scale_back(workload, me).await {
                Ok(wanted) => pending.extend(wanted.map(|wanted| (workload.clone(), wanted))),
                Err(e) => problems.push(e),
            }
        }
        for (workload, ready) in cluster.until_started(pending, me, self.limit()).await {
            let done = match ready {
                Ok(()) => cluster.forget(&workload, me).await,
                Err(e) => Err(e),
            };
            problems.extend(done.err());
        }
    }
}

#[async_trait]
impl Platform for Kubernetes {
    async fn preflight(&self, intent: Intent) -> Result<()> {
        let cluster = self.cluster(BEFORE).await?;
        access::ensure(&cluster, access::needs_of_place(&self.settings.namespace)).await?;
        if self.settings.by != By::None {
            let found = Box::pin(self.found(&cluster, &[])).await;
            found.map(drop).context("the applications could not be stopped")?;
        }
        if self.settings.by == By::Routes {
            let may_close = Box::pin(routes::ensure_may_close(&cluster, &self.settings, intent.rebuilt)).await;
            may_close.context("the Routes could not be closed")?;
        }
        if !intent.follows {
            return Ok(());
        }
        let served = discovery::served(&cluster).await?;
        let allowed = access::ensure(&cluster, access::needs_after(&self.settings, &served)).await;
        allowed.context("what follows on the restore could not be done")
    }

    async fn quiesce_but(&self, run: &RunKey, keeps: &[String]) -> Result<Vec<Stopped>> {
        Box::pin(self.stop(run, keeps)).await.with_context(|| format!("stop the applications of {}", run.installation))
    }

    async fn close_routes(&self, run: &RunKey) -> Result<usize> {
        let cluster = self.cluster(self.limit()).await?;
        let done = Box::pin(routes::close(&cluster, &self.settings, run)).await;
        done.with_context(|| format!("close the Routes of {}", run.installation))
    }

    async fn open_routes(&self, run: &RunKey) -> Result<()> {
        let cluster = self.cluster(self.limit()).await?;
        let done = Box::pin(routes::open(&cluster, &self.settings, run)).await;
        done.with_context(|| format!("open the Routes of {}", run.installation))
    }

    async fn ensure_same(&self, had: &[Stopped]) -> Result<()> {
        let known: Vec<_> = had.iter().filter_map(|h| h.uid.as_deref()).collect();
        if known.is_empty() {
            return Ok(());
        }
        let cluster = self.cluster(BEFORE).await?;
        let served = discovery::served(&cluster).await?;
        let found = discovery::workloads(&cluster, &served, &self.settings.namespace).await?;
        if found.iter().filter_map(|w| w.uid.as_deref()).any(|uid| known.contains(&uid)) {
            return Ok(());
        }
        let text = format!(
            "none of the {} workloads that this run has stopped is in namespace {} of this cluster: it is another cluster, or they were made anew. Name the right \
             `kubeconfig` and `context` in the topology; if they were made anew, `keepsake cancel --leave-as-it-is` ends the run as it stands",
            known.len(),
            self.settings.namespace
        );
        Err(Error::new(Kind::Conflict, text))
    }

    async fn end_tasks(&self, run: &RunKey) -> Result<()> {
        let cluster = self.cluster(self.limit()).await?;
        cluster.end_own_jobs(&self.settings.namespace, run, self.limit()).await
    }

    async fn ensure_none(&self, follows: bool) -> Result<()> {
        let cluster = self.cluster(BEFORE).await?;
        Box::pin(built::ensure_none(&cluster, &self.settings.namespace)).await?;
        if !follows {
            return Ok(());
        }
        let allowed = Box::pin(built::ensure_may_follow(&cluster, &self.settings)).await;
        allowed.context("the data could not be brought back into what is built (--objects-only builds it without)")
    }

    async fn place(&self) -> Result<Option<String>> {
        let cluster = self.cluster(BEFORE).await?;
        built::uid_of(&cluster, &self.settings.namespace).await.map(Some)
    }

    async fn until_built(&self, run: &RunKey) -> Result<()> {
        let cluster = self.cluster(self.limit()).await?;
        let built = Box::pin(built::until_whole(&cluster, &self.settings, self.limit())).await;
        built.with_context(|| format!("wait for {}, which is built anew", run.installation))
    }

    async fn is_still_quiet(&self, run: &RunKey, extent: &Extent) -> Result<()> {
        let quiet = Box::pin(self.look_whether_stopped(extent)).await;
        quiet.with_context(|| format!("the applications of {} were stopped, and may run again", run.installation))
    }

    async fn resume(&self, run: &RunKey) -> Result<()> {
        Box::pin(self.start(run)).await.with_context(|| format!("start the applications of {}", run.installation))
    }

    async fn roll_out(&self, run: &RunKey, workloads: &[String]) -> Result<()> {
        let cluster = self.cluster(self.limit()).await?;
        let done = Box::pin(renewal::roll_out(&cluster, &self.settings, run, workloads)).await;
        done.with_context(|| format!("roll out the applications of {}", run.installation))
    }

    async fn resync(&self, run: &RunKey, task: ResyncTask) -> Result<String> {
        let cluster = self.cluster(self.limit()).await?;
        Box::pin(resync::resync(&cluster, &self.settings, run, task)).await
    }

    async fn check(&self, run: &RunKey, had: &[Stopped]) -> Result<Vec<Looked>> {
        let cluster = self.cluster(self.limit()).await?;
        Box::pin(checks::look(&cluster, &self.settings, run, had)).await
    }
}
