//! What runs the applications of an installation, as the coordinator sees it: they are stopped and started, and made to follow the data.

pub mod kubernetes;
pub mod standalone;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use serde::{Deserialize, Serialize};

use self::kubernetes::Kubernetes;
use self::standalone::Standalone;
use crate::topology::InstallationSettings;
use crate::topology::kubernetes::ResyncTask;

/// A workload that was stopped, and what it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Where it is.
    pub namespace: String,
    /// Its sort and name, as `deployment/system-app`.
    pub workload: String,
    /// So many replicas it had.
    pub replicas: i32,
    /// So many of them were ready.
    pub ready: i32,
    /// Which it was of all of that name in all clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What of the applications is not stopped, and what holds callers off besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extent {
    /// Workloads that keep running.
    pub keeps: Vec<String>,
    /// The Routes are closed.
    pub routes: bool,
}

/// What a run that is about to begin, or to go on, wants of the applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Intent {
    /// More than to stop and start them.
    pub follows: bool,
    /// The same run has just built them, or takes back a restore of which that may be so: whoever makes Routes may not have made any yet.
    pub rebuilt: bool,
}

/// One thing that was looked at when a restore was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// What was looked at.
    pub check: String,
    /// What was found.
    pub found: String,
    /// It is not as it should be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warning: bool,
}

/// What runs the applications. Everything may be asked again: what is stopped stays stopped, what runs goes on, what is done is not done twice.
#[async_trait]
pub trait Platform: Send + Sync {
    /// Whether it could be done now, as far as that can be told without changing anything: asked before a run begins.
    async fn preflight(&self, _intent: Intent) -> Result<()> {
        Ok(())
    }
    /// Stops everything that writes to the stores; when it returns, nothing writes any more. Gives back what each had, where that is known.
    async fn quiesce(&self, run: &RunKey) -> Result<Vec<Stopped>> {
        self.quiesce_but(run, &[]).await
    }
    /// The same, but for these workloads; with backend-worker among them, it ends before whatever is stopped after that.
    async fn quiesce_but(&self, run: &RunKey, keeps: &[String]) -> Result<Vec<Stopped>>;
    /// Where it is, told so that no other place of any name is taken for it; none where that cannot be told. Asked when a run begins, and when it is gone on with.
    async fn place(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Closes the Routes: callers from outside the cluster are answered by 503. Gives back how many there are; none is no failure, as then nobody comes by one.
    async fn close_routes(&self, _run: &RunKey) -> Result<usize> {
        Err(only_in_a_cluster())
    }
    /// Gives every Route that was closed for this run back what it had, whatever the topology says by now of how applications are stopped.
    async fn open_routes(&self, _run: &RunKey) -> Result<()> {
        Err(only_in_a_cluster())
    }
    /// Whether what was stopped is still where it is looked for: asked before a run is taken over, which may be elsewhere than where it was begun.
    async fn ensure_same(&self, _had: &[Stopped]) -> Result<()> {
        Ok(())
    }
    /// Ends what this run has had System do and what may still write: asked before data is put back.
    async fn end_tasks(&self, _run: &RunKey) -> Result<()> {
        Ok(())
    }
    /// Whether still nothing of what was stopped runs, and no Route is open that was closed: asked again before data is put in the place of other data, which may be hours after it was stopped. Where that cannot be
    /// looked at it is taken for true.
    async fn is_still_quiet(&self, _run: &RunKey, _extent: &Extent) -> Result<()> {
        Ok(())
    }
    /// Starts it again.
    async fn resume(&self, run: &RunKey) -> Result<()>;
    /// Has the pods of those of these workloads made anew that run; when it returns, the new ones are ready and the old ones gone.
    async fn roll_out(&self, _run: &RunKey, _workloads: &[String]) -> Result<()> {
        Err(only_in_a_cluster())
    }
    /// Has System make something anew; when it returns, that is done. Gives back what was done, in words.
    async fn resync(&self, _run: &RunKey, _task: ResyncTask) -> Result<String> {
        Err(only_in_a_cluster())
    }
    /// Whether there is nothing yet where an installation is to be built anew. `follows`: its data is brought back by the same run, which takes rights of its own.
    async fn ensure_none(&self, _follows: bool) -> Result<()> {
        Err(only_in_a_cluster())
    }
    /// Waits until an installation that somebody builds anew is whole.
    async fn until_built(&self, _run: &RunKey) -> Result<()> {
        Err(only_in_a_cluster())
    }
    /// Looks whether the applications are as they should be; those that were stopped must be as good as they were.
    async fn check(&self, _run: &RunKey, _had: &[Stopped]) -> Result<Vec<Looked>> {
        Err(only_in_a_cluster())
    }
}

/// No plan asks for it elsewhere.
fn only_in_a_cluster() -> Error {
    Error::new(Kind::Unsupported, "this takes an installation with `platform: kubernetes`")
}

/// What runs the applications of an installation; none when nobody knows. Nothing is asked yet.
pub fn of(installation: &InstallationSettings) -> Option<Box<dyn Platform + '_>> {
    if let Some(hooks) = &installation.hooks {
        return Some(Box::new(Standalone::new(hooks)));
    }
    let settings = installation.kubernetes.as_ref()?;
    Some(Box::new(Kubernetes::new(settings.clone())))
}
