//! Talking to the API server: a client of the settings, its failures in our words, asking again while it does not answer.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::time::Instant;

use crate::topology::KubernetesSettings;

/// What we are called in the list of those who have changed an object.
const MANAGER: &str = "keepsake";
/// What a pod calls the API server of its cluster.
const NAME_IN_A_POD: &str = "kubernetes.default.svc";
/// One answer may take so long.
const ANSWER: Duration = Duration::from_secs(30);
/// The pause before something is asked again, doubled each time up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The API server of one cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: Client,
    /// While it does not answer, it is asked again for so long.
    pub(super) patience: Duration,
}

/// Growing pauses up to a deadline.
#[derive(Debug)]
pub(super) struct Pace {
    until: Instant,
    limit: Duration,
    pause: Duration,
}

impl Pace {
    /// From now on for so long.
    pub(super) fn new(limit: Duration) -> Self {
        Self { until: Instant::now() + limit, limit, pause: FIRST }
    }

    /// Something got on: the limit begins anew.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Waits a little longer than the last time. `false`, at once, when the time is over.
    pub(super) async fn go_on(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep_until(self.until.min(Instant::now() + self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST);
        true
    }
}

impl Cluster {
    /// The cluster of these settings. Nothing is asked of it yet.
    ///
    /// # Errors
    /// `Invalid` when there is no usable kubeconfig, and this is no pod either.
    pub(super) async fn new(settings: &KubernetesSettings, patience: Duration) -> Result<Self> {
        let mut config = configuration(settings).await?;
        if config.accept_invalid_certs {
            tracing::warn!(
                "the kubeconfig says not to check the API server's certificate: anybody on the way can pose as it"
            );
        }
        config.connect_timeout = Some(ANSWER);
        config.read_timeout = Some(ANSWER);
        // Else the time for which a connection was not used would count.
        config.reset_reader_on_write = true;
        // Ours says in the end what it was about.
        config.default_retry = false;
        let client = Client::try_from(config).or_kind(Kind::Invalid, "make a client of the kubeconfig")?;
        Ok(Self { client, patience })
    }

    /// Asks, and asks again while the API server cannot be reached or is too busy to answer.
    ///
    /// # Errors
    /// `Denied` with what is to be granted; the server's own answer; `Unavailable` when patience is at an end.
    pub(super) async fn ask<T, F>(&self, what: &str, question: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut pace = Pace::new(self.patience);
        loop {
            match question().await.map_err(|e| failure(what, e)) {
                Err(e) if e.kind() == Kind::Unavailable => {
                    tracing::debug!("{}", e.chain());
                    if !pace.go_on().await {
                        return Err(e);
                    }
                }
                done => return done,
            }
        }
    }

    /// The objects of a resource in a namespace.
    pub(super) fn objects(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// All of them.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn list(&self, resource: &ApiResource, namespace: &str) -> Result<Vec<DynamicObject>> {
        let api = self.objects(resource, namespace);
        let params = kube::api::ListParams::default();
        let what = format!("list {} in namespace {namespace}", resource.plural);
        let found = self.ask(&what, || api.list(&params)).await?;
        Ok(found.items)
    }

    /// The one of that name, if there is one.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn get(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>> {
        let api = self.objects(resource, namespace);
        let what = format!("get {} {name} in namespace {namespace}", resource.plural);
        self.ask(&what, || api.get_opt(name)).await
    }

    /// Changes it, once, if it still has the version that the patch names.
    ///
    /// # Errors
    /// `Conflict` when it has another; `Unavailable` when it is not known whether it was changed.
    pub(super) async fn patch(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<DynamicObject> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let done = self.objects(resource, namespace).patch(name, &params, &Patch::Merge(patch)).await;
        done.map_err(|e| failure(&format!("patch {} {name} in namespace {namespace}", resource.plural), e))
    }
}

/// Whether this runs in a pod of the cluster of these settings: the API server that they name is the one whose address every pod of it is given. A pod of
/// another cluster, or a machine beside it, is not inside.
///
/// # Errors
/// `Invalid` when there is no usable kubeconfig, and this is no pod either.
pub(super) async fn is_inside(settings: &KubernetesSettings) -> Result<bool> {
    let url = configuration(settings).await?.cluster_url;
    let given = |name: &str| std::env::var(name).ok();
    let own = given("KUBERNETES_SERVICE_HOST").zip(given("KUBERNETES_SERVICE_PORT"));
    let port = url.port_u16().unwrap_or(443);
    Ok(is_own(url.host().unwrap_or_default(), port, own.as_ref().map(|(host, port)| (host.as_str(), port.as_str()))))
}

/// Whether an API server's address is that of the pod's own cluster; `own` is what the pod was given.
fn is_own(host: &str, port: u16, own: Option<(&str, &str)>) -> bool {
    let Some((own, own_port)) = own else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host == own && own_port == port.to_string()) || (host == NAME_IN_A_POD && port == 443)
}

async fn configuration(settings: &KubernetesSettings) -> Result<Config> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let Some(path) = &settings.kubeconfig else {
        if settings.context.is_some() {
            return Config::from_kubeconfig(&options).await.or_kind(Kind::Invalid, "read the kubeconfig");
        }
        return Config::infer().await.or_kind(
            Kind::Invalid,
            "there is no kubeconfig, and this is no pod with a service account: name a file with `kubernetes: { kubeconfig: FILE }`",
        );
    };
    let what = || format!("read the kubeconfig {}", path.display());
    let found = Kubeconfig::read_from(path).or_kind(Kind::Invalid, what())?;
    Config::from_custom_kubeconfig(found, &options).await.or_kind(Kind::Invalid, what())
}

/// What the API server said, as one of our kinds.
pub(super) fn failure(what: &str, error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => {
            let kind = match status.code {
                401 | 403 => Kind::Denied,
                404 | 410 => Kind::NotFound,
                409 if status.reason == "AlreadyExists" => Kind::Exists,
                409 => Kind::Conflict,
                400 | 422 => Kind::Invalid,
                408 | 429 | 500..=599 => Kind::Unavailable,
                _ => Kind::Internal,
            };
            let what = match status.code {
                401 => {
                    format!("{what} (the API server does not know these credentials: log in again, or renew the token)")
                }
                403 => format!("{what} (not allowed: grant it with a Role to whom the next words name)"),
                _ => what.to_owned(),
            };
            Error::caused(kind, what, *status)
        }
        kube::Error::Auth(e) => Error::caused(Kind::Denied, format!("{what}: credentials for the API server"), e),
        e @ (kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_)) => {
            Error::caused(Kind::Unavailable, format!("{what}: the API server cannot be reached"), e)
        }
        e => Error::caused(Kind::Internal, what.to_owned(), e),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16, reason: &str) -> Error {
        let status = Status::failure("deployments.apps is forbidden", reason).with_code(code);
        failure("list deployments", kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn answers_are_told_by_kind_and_with_what_to_do() {
        for (code, reason, kind) in [
            (401, "Unauthorized", Kind::Denied),
            (403, "Forbidden", Kind::Denied),
            (404, "NotFound", Kind::NotFound),
            (409, "Conflict", Kind::Conflict),
            (409, "AlreadyExists", Kind::Exists),
            (422, "Invalid", Kind::Invalid),
            (429, "TooManyRequests", Kind::Unavailable),
            (500, "InternalError", Kind::Unavailable),
            (503, "ServiceUnavailable", Kind::Unavailable),
            (418, "Teapot", Kind::Internal),
        ] {
            assert_eq!(answered(code, reason).kind(), kind, "{code} {reason}");
        }
        let told = answered(403, "Forbidden").chain();
        assert!(told.contains("list deployments") && told.contains("grant") && told.contains("is forbidden"), "{told}");
    }

    #[test]
    fn inside_is_who_asks_the_server_of_its_own_cluster() {
        let own = Some(("10.96.0.1", "443"));
        assert!(is_own("10.96.0.1", 443, own) && is_own("kubernetes.default.svc", 443, own));
        assert!(is_own("[fd00::1]", 6443, Some(("fd00::1", "6443"))));
        assert!(!is_own("api.example.com", 6443, own), "a pod of another cluster");
        assert!(!is_own("10.96.0.1", 6443, own) && !is_own("10.96.0.1", 443, None));
    }

    #[tokio::test]
    async fn patience_ends() {
        assert!(!Pace::new(Duration::ZERO).go_on().await, "there is no patience");
        let mut pace = Pace::new(FIRST + FIRST);
        assert!(pace.go_on().await && pace.go_on().await, "the second pause is cut short");
        assert!(!pace.go_on().await);
        pace.begin_anew();
        assert!(pace.go_on().await && pace.go_on().await && !pace.go_on().await, "as long as at first");
    }
}
