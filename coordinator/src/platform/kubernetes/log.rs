//! What pods say: their logs, and events that tell why there is none.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use keepsake_core::error::{Error, Kind, Result};
use kube::Api;
use kube::api::{ListParams, LogParams};

use super::api::{Cluster, failure};
use super::job::tail;
use super::pod::{Seen, State};

/// A log is waited for so long, and so much of its end is told.
const LOG: Duration = Duration::from_secs(15);
const LINES: i64 = 20;
const LONGEST: usize = 2_000;

impl Cluster {
    /// The log of a pod's container, or so many lines of its end. Asked once: a node that does not answer is not waited for.
    ///
    /// # Errors
    /// `Timeout`, or the API server's own answer.
    pub(super) async fn log(&self, namespace: &str, pod: &str, container: &str, lines: Option<i64>) -> Result<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = LogParams { container: Some(container.to_owned()), tail_lines: lines, ..LogParams::default() };
        let what = format!("read the log of pod {pod} in namespace {namespace}");
        match tokio::time::timeout(LOG, api.logs(pod, &params)).await {
            Ok(answer) => answer.map_err(|e| failure(&what, e)),
            Err(_) => Err(Error::new(Kind::Timeout, format!("{what}: no answer for {} s", LOG.as_secs()))),
        }
    }

    /// What the pod that failed last said in the end; or, where that cannot be had, why not. `main` is the container that is asked if none is in trouble.
    pub(super) async fn last_words(&self, namespace: &str, pods: &[Seen], main: &str) -> String {
        let failed = pods.iter().filter(|p| matches!(p.state, State::Failed(_)));
        let Some(pod) = failed.max_by(|a, b| a.created.cmp(&b.created)) else {
            return "no pod of it is left that could be asked".to_owned();
        };
        let container = pod.container.as_deref().unwrap_or(main);
        let without = match self.log(namespace, &pod.name, container, Some(LINES)).await {
            Ok(log) if log.trim().is_empty() => format!("pod {} has no log", pod.name),
            Ok(log) => return format!("pod {} said at last: {}", pod.name, tail(&log, LONGEST)),
            Err(e) => format!("the log of pod {} cannot be had ({})", pod.name, e.chain()),
        };
        match &pod.message {
            Some(message) => format!("{without}, and its container ended with: {}", tail(message, LONGEST)),
            None => without,
        }
    }

    /// What was last told of an object as a warning: why its pods cannot be made, or its volumes not be had. None when nothing was.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn last_warning(&self, namespace: &str, uid: &str) -> Result<Option<String>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
        let what = format!("list events in namespace {namespace}");
        let found = self.ask(&what, || api.list(&params)).await?.items;
        let when = |e: &Event| {
            let last = e.last_timestamp.as_ref().map(|t| t.0);
            last.or_else(|| e.event_time.as_ref().map(|t| t.0))
                .or_else(|| e.metadata.creation_timestamp.as_ref().map(|t| t.0))
        };
        let last = found.into_iter().max_by_key(|e| when(e));
        Ok(last.map(|e| {
            let reason = e.reason.unwrap_or_default();
            format!("{reason} ({})", tail(&e.message.unwrap_or_default(), LONGEST))
        }))
    }
}
