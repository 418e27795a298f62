//! Listening: HTTPS for the API server, plain HTTP for the probes. Both bounded: connections, bodies, time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use keepsake_core::error::{Error, Result};
use keepsake_proto::tls::{ServerFiles, ServerTls, accept};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::review;
use super::settings::Settings;

/// An API server takes no object of more than 3 MiB.
const BODY_BYTES: usize = 4 << 20;
/// Bodies that are read at the same moment.
const BODIES: usize = 4;
/// A body must have come by then; an API server does not wait longer than it was told to.
const BODY: Duration = Duration::from_secs(10);
/// Connections to each port; more wait until one is closed.
const CONNECTIONS: usize = 128;
/// A connection on which nothing is asked for so long is closed. API servers close theirs before.
const IDLE: Duration = Duration::from_mins(2);
/// What a connection keeps of what came and was not read.
const BUFFER: usize = 64 << 10;
/// The time for answers that are under way when it ends.
const DRAIN: Duration = Duration::from_secs(5);

/// What a webhook is started with.
#[derive(Debug)]
pub struct Config {
    /// Where the API server calls.
    pub listen: SocketAddr,
    /// Where the probes are answered.
    pub admin: SocketAddr,
    /// Certificate and key; read again when they change.
    pub tls: ServerFiles,
    /// What the administrator says.
    pub settings: Settings,
}

/// A webhook that serves.
#[derive(Debug)]
pub struct Running {
    /// Where the API server calls.
    pub address: SocketAddr,
    /// Where the probes are answered.
    pub admin: SocketAddr,
    is_ending: Arc<AtomicBool>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// What both ports answer from.
#[derive(Debug, Clone)]
struct Shared {
    settings: Arc<Settings>,
    bodies: Arc<Semaphore>,
    is_ending: Arc<AtomicBool>,
}

/// Which port a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Reviews,
    Probes,
}

/// Starts it.
///
/// # Errors
/// A port is taken, or certificate and key cannot be used.
pub async fn start(config: Config) -> Result<Running> {
    let tls = Arc::new(ServerTls::load_for_anybody(config.tls)?);
    let (listener, address) = listen(config.listen).await?;
    let (probes, admin) = listen(config.admin).await?;
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let is_ending = Arc::new(AtomicBool::new(false));
    let shared = Shared {
        settings: Arc::new(config.settings),
        bodies: Arc::new(Semaphore::new(BODIES)),
        is_ending: is_ending.clone(),
    };

    let mut incoming = accept(listener, tls, &tracker, stop.clone());
    let (tasks, stopped, answers) = (tracker.clone(), stop.clone(), shared.clone());
    tracker.spawn(async move {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        while let (Ok(turn), Some(Ok(stream))) = (turns.clone().acquire_owned().await, incoming.next().await) {
            let connection = serve(stream, Port::Reviews, answers.clone(), stopped.clone());
            tasks.spawn(async move {
                connection.await;
                drop(turn);
            });
        }
    });
    let (tasks, stopped) = (tracker.clone(), stop.clone());
    tracker.spawn(async move {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok(turn) = turns.clone().acquire_owned().await {
            let accepted = tokio::select! {
                () = stopped.cancelled() => return,
                accepted = probes.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors, mostly: others may be closed meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let connection = serve(stream, Port::Probes, shared.clone(), stopped.clone());
            tasks.spawn(async move {
                connection.await;
                drop(turn);
            });
        }
    });
    tracing::info!(%address, %admin, "listening");
    Ok(Running { address, admin, is_ending, stop, tracker })
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|e| Error::io(format!("listen on {address}"), e))?;
    let address = listener.local_addr().map_err(|e| Error::io("ask for the port", e))?;
    Ok((listener, address))
}

impl Running {
    /// Ends it: from now on it says that it is not ready, and goes on answering for so long, until nobody is sent here any more. A pod that is made while
    /// nobody answers gets no agent.
    pub async fn stop(self, linger: Duration) {
        self.is_ending.store(true, Ordering::Relaxed);
        tokio::time::sleep(linger).await;
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(DRAIN, self.tracker.wait()).await.is_err() {
            tracing::warn!("connections were not closed in {DRAIN:?}");
        }
    }
}

async fn serve<S>(stream: S, port: Port, shared: Shared, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.answer(port, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(BUFFER);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection ended early: {e}");
    }
}

impl Shared {
    async fn answer(&self, port: Port, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (port, request.method(), request.uri().path()) {
            (Port::Reviews, &Method::POST, "/mutate") => self.mutate(request).await,
            (Port::Probes, &Method::GET, "/healthz") => plain(StatusCode::OK, "ok\n"),
            (Port::Probes, &Method::GET, "/readyz") if self.is_ending.load(Ordering::Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: it is ending\n")
            }
            (Port::Probes, &Method::GET, "/readyz") => plain(StatusCode::OK, "ready\n"),
            _ => plain(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    async fn mutate(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let whole = async {
            let _turn = self.bodies.acquire().await.ok();
            let body = Limited::new(request.into_body(), BODY_BYTES).collect().await.ok()?.to_bytes();
            Some(review::answer(&self.settings, &body))
        };
        match tokio::time::timeout(BODY, whole).await {
            Ok(Some(Ok(review))) => {
                let mut response = Response::new(Full::from(review.to_string()));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
                response
            }
            Ok(Some(Err(e))) => {
                tracing::warn!("a request is not answered: {}", e.chain());
                plain(StatusCode::BAD_REQUEST, &format!("{}\n", e.chain()))
            }
            Ok(None) => {
                tracing::warn!("a request is not answered: it was cut short, or has more than {BODY_BYTES} bytes");
                plain(StatusCode::PAYLOAD_TOO_LARGE, "cut short, or too large\n")
            }
            Err(_) => {
                tracing::warn!("a request is not answered: it did not come in {BODY:?}");
                plain(StatusCode::REQUEST_TIMEOUT, "it did not come in time\n")
            }
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}
