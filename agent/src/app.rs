//! Wiring, in the order in which it happens: bind, load certificates, serve, answer probes, wait for the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_proto::server::{MESSAGE_BYTES, builder};
use keepsake_proto::tls::{ServerTls, accept};
use keepsake_proto::v1::agent_server::AgentServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Readiness};
use crate::audit::Gate;
use crate::config::Config;
use crate::ending::Ending;
use crate::hold::Holds;
use crate::operation::{Limits, Table};
use crate::service::{Inner, Service};

/// What an orderly end may take: operations are cancelled, streams are drained.
const DRAIN: Duration = Duration::from_secs(20);

/// An agent that serves.
#[derive(Debug)]
pub struct Running {
    /// Where the service listens.
    pub address: SocketAddr,
    /// Where the probes are answered.
    pub admin: SocketAddr,
    stop: CancellationToken,
    tracker: TaskTracker,
    served: JoinHandle<std::result::Result<(), tonic::transport::Error>>,
}

/// Starts an agent.
///
/// # Errors
/// A port is taken, the certificates cannot be used, or there are none and not only loopback could call.
pub async fn start(config: Config) -> Result<Running> {
    start_with(config, Limits::default()).await
}

/// As [`start`], with another patience; for tests.
///
/// # Errors
/// As there.
pub async fn start_with(config: Config, limits: Limits) -> Result<Running> {
    check(&config)?;
    let probes = Probes::start(config.admin)?;
    serve(config, limits, probes).await
}

/// Without TLS only this machine may call.
fn check(config: &Config) -> Result<()> {
    if config.tls.is_none() && !config.listen.ip().is_loopback() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{} is not on loopback: without TLS everybody could do everything there", config.listen),
        ));
    }
    Ok(())
}

/// The admin port, which may be there before the agent is.
#[derive(Debug, Clone)]
pub(crate) struct Probes {
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
}

impl Probes {
    /// Answers from now on: alive, and not ready.
    pub(crate) fn start(address: SocketAddr) -> Result<Self> {
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        readiness.not_yet();
        let address = admin::start(address, readiness.clone(), stop.clone())?;
        Ok(Self { address, readiness, stop })
    }
}

/// Starts what the agent is for, beside probes that are answered already.
///
/// # Errors
/// As [`start`].
pub(crate) async fn serve(config: Config, limits: Limits, probes: Probes) -> Result<Running> {
    check(&config)?;
    let Probes { address: admin, readiness, stop } = probes;
    let listener =
        TcpListener::bind(config.listen).await.map_err(|e| Error::io(format!("listen on {}", config.listen), e))?;
    let address = listener.local_addr().map_err(|e| Error::io("ask for the port", e))?;
    let tls = config.tls.map(ServerTls::load).transpose()?;

    let tracker = TaskTracker::new();
    tracker.spawn(readiness.keep(config.engine.clone(), stop.clone()));

    let table = Table::new(tracker.clone(), stop.clone(), limits);
    let inner = Arc::new(Inner {
        installation: config.installation.clone(),
        component: config.component.clone(),
        engine_name: config.engine_name,
        engine: config.engine,
        gate: Gate::new(config.allow, tls.is_none(), config.stores.as_ref().and_then(|s| s.opened_by.clone())),
        table,
        holds: Holds::default(),
        stores: config.stores,
        budget: config.budget,
        scratch: config.scratch,
        tracker: tracker.clone(),
        stop: stop.clone(),
    });
    tracker.spawn(inner.clone().end_leftover_load());
    let service = Service(inner);
    let agent =
        AgentServer::new(service).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServer<Service>>().await;
    let router = builder().add_service(health_service).add_service(agent);

    let stopped = stop.clone().cancelled_owned();
    let served = match tls {
        Some(tls) => {
            let incoming = accept(listener, Arc::new(tls), &tracker, stop.clone());
            tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
        }
        None => tokio::spawn(router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped)),
    };
    tracing::info!(%address, %admin, installation = %config.installation, component = %config.component, "listening");
    Ok(Running { address, admin, stop, tracker, served })
}

impl Running {
    /// Serves until SIGTERM or SIGINT, also one that came while it was started, then ends in an orderly way; a second signal ends it at once.
    ///
    /// # Errors
    /// The server failed.
    pub async fn until_asked(mut self, end: &mut Ending) -> Result<()> {
        tokio::select! {
            () = end.comes() => {}
            ended = &mut self.served => {
                self.stop.cancel();
                return ended.or_kind(Kind::Internal, "serve")?.or_kind(Kind::Internal, "serve");
            }
        }
        tracing::info!("asked to end: operations are cancelled, streams are drained");
        tokio::select! {
            done = self.stop() => done,
            () = end.comes() => Ok(()),
        }
    }

    /// Ends in an orderly way: cancels operations, drains streams, waits for both, though not for ever.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.tracker.close();
        let drained = async {
            self.tracker.wait().await;
            self.served.await.or_kind(Kind::Internal, "serve")?.or_kind(Kind::Internal, "serve")
        };
        tokio::time::timeout(DRAIN, drained)
            .await
            .or_kind(Kind::Timeout, format!("the agent did not drain in {DRAIN:?}"))?
    }
}
