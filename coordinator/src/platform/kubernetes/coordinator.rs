//! A coordinator in the cluster: a Job made from a CronJob's template and watched from outside, and the Secret by which a set's identity comes to it.
//!
//! The Job is made first, so that the Secret can belong to it from its first moment; the pod waits for it. It is deleted by whoever watches, as soon as it was
//! read; should nobody watch any more, it goes with the Job.

mod body;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::secret::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

pub use self::body::{COORDINATES, IDENTITY_FILE, Order, RUN, job};
use super::api::Cluster;
use super::pod::{self, Count, Seen};
use super::wait::{is_so, jobs};
use super::{BEFORE, Kubernetes, access};

/// The versions of batch that serve CronJobs, the newest first. Kubernetes before 1.21 has only the second.
const BATCH: [&str; 2] = ["v1", "v1beta1"];

/// How a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing of it runs yet, for this reason.
    Waiting(String),
    /// It runs.
    Running,
    /// It has ended: with which status, if that is known, and in words.
    Ended {
        /// Its exit status.
        code: Option<i32>,
        /// How it ended.
        why: String,
    },
    /// Somebody has taken it away.
    Gone(String),
}

/// A coordinator that was started.
pub struct Coordinator {
    cluster: Cluster,
    namespace: String,
    name: String,
    uid: String,
    container: String,
    /// The Secret is there, as far as is known.
    has_secret: bool,
    /// The pod that was seen to run.
    ran: Option<String>,
    pods: Vec<Seen>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "job/{} in namespace {}", self.name, self.namespace)
    }
}

impl Kubernetes {
    /// Starts a coordinator, and hands over a set's identity if there is one.
    ///
    /// # Errors
    /// `Denied` with what is to be granted, `NotFound` when there is no such CronJob, `Unsupported` when its template cannot be used. Then nothing is left of it.
    pub async fn start_coordinator(&self, order: &Order, identity: Option<&Secret>) -> Result<Coordinator> {
        let namespace = &self.settings.namespace;
        let cluster = self.cluster(BEFORE).await?;
        let needs = access::needs_in_cluster(namespace, order, identity.is_some());
        access::ensure(&cluster, needs).await.context("a coordinator cannot be started in the cluster")?;
        let order = Order { with_identity: identity.is_some(), ..order.clone() };
        let resource = cron_jobs(&cluster).await?;
        let found = cluster.get(&resource, namespace, &order.cron_job).await?.ok_or_else(|| {
            let text = format!(
                "there is no cronjob/{} in namespace {namespace}, from whose template the coordinator is made: apply `manifests/base`, or name another with \
                 --cronjob",
                order.cron_job
            );
            Error::new(Kind::NotFound, text)
        })?;
        let (body, container) = body::job(&found, &order)?;
        ensure_account(&cluster, namespace, &order).await?;
        let uid = make_job(&cluster, namespace, &order, &body).await?;
        let mut made = Coordinator {
            // From here on an API server that does not answer is waited for.
            cluster: self.cluster(self.limit()).await?,
            namespace: namespace.clone(),
            name: order.name.clone(),
            uid,
            container,
            has_secret: false,
            ran: None,
            pods: Vec::new(),
        };
        if let Some(identity) = identity {
            // Also when no answer comes.
            made.has_secret = true;
            let secret = body::secret(&order, &made.uid, identity);
            if let Err(e) = make(&cluster, &secrets(), namespace, &secret, "the Secret with the set's identity").await {
                let back = made.take_back().await.err().map(|b| format!(" (and it is not undone: {})", b.chain()));
                return Err(
                    e.context(format!("{made} was made{}", back.unwrap_or_else(|| ", and is taken back".to_owned())))
                );
            }
        }
        Ok(made)
    }
}

impl Coordinator {
    /// The name of its Job.
    pub fn job(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether a pod of it was seen to run.
    pub fn has_run(&self) -> bool {
        self.ran.is_some()
    }

    /// Whether the set's identity is still in its Secret, as far as is known.
    pub fn holds_identity(&self) -> bool {
        self.has_secret
    }

    /// How it is now.
    ///
    /// # Errors
    /// The API server does not answer for as long as the settings say, or may not be asked.
    pub async fn look(&mut self) -> Result<State> {
        let job = self.cluster.get(&jobs(), &self.namespace, &self.name).await?;
        let job = job.filter(|job| job.metadata.uid.as_deref() == Some(&self.uid));
        let selector = format!("controller-uid={}", self.uid);
        let mut pods = self.cluster.seen(&self.namespace, &selector).await?;
        pods.sort_by(|a, b| a.created.cmp(&b.created));
        self.pods = pods;
        // That which was seen to run, or else the first: whoever is made again begins nothing, and what it says of that is no word of the one that works.
        let judged = match &self.ran {
            Some(ran) => self.pods.iter().find(|p| p.name == *ran),
            None => self.pods.first(),
        };
        if let Some(pod) = judged {
            if let Some(code) = pod.exit_of(&self.container) {
                return Ok(State::Ended { code: Some(code), why: Count::of([pod]).to_string() });
            }
            if matches!(pod.state, pod::State::Failed(_)) {
                return Ok(State::Ended { code: None, why: Count::of([pod]).to_string() });
            }
        }
        if self.ran.is_none() {
            let runs = self.pods.iter().find(|p| p.state == pod::State::Running);
            self.ran = runs.map(|pod| pod.name.clone());
        }
        if let Some(ran) = &self.ran {
            // One that is being taken away brings its run to an orderly end.
            return Ok(if self.pods.iter().any(|p| p.name == *ran) {
                State::Running
            } else {
                State::Gone(format!("pod {ran} of {self} was taken away"))
            });
        }
        let Some(job) = job else { return Ok(State::Gone(format!("{self} was deleted by somebody"))) };
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(State::Gone(format!("{self} is being deleted")));
        }
        if is_so(&job.data, "Failed") {
            return Ok(State::Ended { code: None, why: "the Job has failed, and no pod of it is left".to_owned() });
        }
        if is_so(&job.data, "Complete") {
            return Ok(State::Ended { code: Some(0), why: "done".to_owned() });
        }
        Ok(State::Waiting(self.why_waiting().await?))
    }

    async fn why_waiting(&self) -> Result<String> {
        let told = Count::of(&self.pods).to_string();
        let uid = self.pods.last().map_or(&self.uid, |pod| &pod.uid);
        let warning = self.cluster.last_warning(&self.namespace, uid).await?;
        Ok(warning.map_or(told.clone(), |warning| format!("{told}; {warning}")))
    }

    /// What it has said so far; nothing while nothing of it has run.
    ///
    /// # Errors
    /// The log cannot be had now.
    pub async fn log(&self) -> Result<String> {
        match self.pods.first() {
            Some(pod) if !matches!(pod.state, pod::State::Pending(_)) => {
                self.cluster.log(&self.namespace, &pod.name, &self.container, None).await
            }
            Some(_) | None => Ok(String::new()),
        }
    }

    /// What it said in the end, or why that cannot be had.
    pub async fn last_words(&self) -> String {
        self.cluster.last_words(&self.namespace, &self.pods, &self.container).await
    }

    /// Deletes the Secret with the set's identity, if it is not known to be gone.
    ///
    /// # Errors
    /// It is still there, with what to do.
    pub async fn drop_identity(&mut self) -> Result<()> {
        if !self.has_secret {
            return Ok(());
        }
        let api = self.cluster.objects(&secrets(), &self.namespace);
        let params = DeleteParams::default();
        let what = format!(
            "delete secret {} in namespace {}, which holds the identity of the set: delete it by hand",
            self.name, self.namespace
        );
        match self.cluster.ask(&what, || api.delete(&self.name, &params)).await {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            Ok(_) | Err(_) => {
                self.has_secret = false;
                Ok(())
            }
        }
    }

    /// Takes the Job away, with its pod, and the Secret.
    ///
    /// # Errors
    /// One of them is still there.
    pub async fn take_back(&mut self) -> Result<()> {
        let secret = self.drop_identity().await;
        self.cluster.delete_job(&self.namespace, &self.name, &self.uid).await?;
        secret
    }
}

/// CronJobs, in the newest version that is served.
async fn cron_jobs(cluster: &Cluster) -> Result<ApiResource> {
    for version in BATCH {
        let group = format!("batch/{version}");
        let what = format!("list the resources of {group}");
        let served = match cluster.ask(&what, || cluster.client.list_api_group_resources(&group)).await {
            Ok(served) => served,
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if served.resources.iter().any(|r| r.name == "cronjobs") {
            return Ok(ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("batch", version, "CronJob"),
                "cronjobs",
            ));
        }
    }
    Err(Error::new(Kind::Unsupported, "this cluster serves CronJobs neither in batch/v1 nor in batch/v1beta1"))
}

fn secrets() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets")
}

/// No pod is ever made for an account that is not there, and only an event would tell.
async fn ensure_account(cluster: &Cluster, namespace: &str, order: &Order) -> Result<()> {
    let Some(account) = &order.account else { return Ok(()) };
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "ServiceAccount"), "serviceaccounts");
    match cluster.get(&resource, namespace, account).await {
        Ok(None) => {}
        // Who may not look is told by the event, later.
        Err(e) if e.kind() != Kind::Denied => return Err(e),
        Ok(Some(_)) | Err(_) => return Ok(()),
    }
    let text = format!(
        "there is no serviceaccount/{account} in namespace {namespace}, as which the coordinator would run: apply `manifests/access`, or name another with \
         --service-account"
    );
    Err(Error::new(Kind::NotFound, text))
}

/// Makes the Job; gives its uid. One that is there already was made by a try whose answer was lost: its name is that of this command alone.
async fn make_job(cluster: &Cluster, namespace: &str, order: &Order, body: &Value) -> Result<String> {
    let told = format!("job/{}", order.name);
    let made = match make(cluster, &jobs(), namespace, body, &told).await? {
        Some(made) => Some(made),
        None => cluster.get(&jobs(), namespace, &order.name).await?,
    };
    let uid = made.and_then(|job| job.metadata.uid);
    uid.ok_or_else(|| Error::new(Kind::Conflict, format!("{told} was made in namespace {namespace} and is gone")))
}

/// Makes an object; none when it is there already.
async fn make(
    cluster: &Cluster,
    resource: &ApiResource,
    namespace: &str,
    body: &Value,
    told: &str,
) -> Result<Option<DynamicObject>> {
    let object: DynamicObject = serde_json::from_value(body.clone())
        .map_err(|_| Error::new(Kind::Internal, format!("{told} that was made here is no object")))?;
    let (api, params) = (cluster.objects(resource, namespace), PostParams::default());
    match cluster.ask(&format!("create {told} in namespace {namespace}"), || api.create(&params, &object)).await {
        Ok(made) => Ok(Some(made)),
        Err(e) if e.kind() == Kind::Exists => Ok(None),
        Err(e) => Err(e),
    }
}
