//! The admin port: `/healthz` and `/readyz` for probes, on a thread of its own so that a busy agent still answers. No data.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use keepsake_core::error::{Error, Kind, Result};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

/// Whether the agent can work: the newest answer of its datastore.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<Mutex<Option<Kind>>>);

impl Readiness {
    /// Asks the datastore now and then until stopped.
    pub(crate) async fn keep(self, engine: Arc<dyn Engine>, stop: CancellationToken) {
        self.not_yet();
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(10), engine.describe()).await;
            let now = match asked {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => {
                    tracing::warn!("the datastore cannot be asked: {}", e.chain());
                    Some(e.kind())
                }
                Err(_) => {
                    tracing::warn!("the datastore did not answer in 10 s");
                    Some(Kind::Timeout)
                }
            };
            self.set(now);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(15)) => {}
            }
        }
    }

    /// Nobody has asked the datastore.
    pub(crate) fn not_yet(&self) {
        self.set(Some(Kind::Unavailable));
    }

    fn set(&self, state: Option<Kind>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn get(&self) -> Option<Kind> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds now, serves on a thread of its own until stopped; gives the address.
pub(crate) fn start(address: SocketAddr, readiness: Readiness, stop: CancellationToken) -> Result<SocketAddr> {
    let listener =
        std::net::TcpListener::bind(address).map_err(|e| Error::io(format!("listen on {address} (--admin)"), e))?;
    listener.set_nonblocking(true).map_err(|e| Error::io("listen without blocking", e))?;
    let address = listener.local_addr().map_err(|e| Error::io("ask for the admin port", e))?;
    let router =
        Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).with_state(readiness);
    let serve = async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
                if let Err(e) = served {
                    tracing::error!("the admin port is gone: {e}");
                }
            }
            Err(e) => tracing::error!("the admin port cannot be served: {e}"),
        }
    };
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(serve),
            Err(e) => tracing::error!("the admin port's runtime cannot start: {e}"),
        })
        .map_err(|e| Error::io("start the admin thread", e))?;
    Ok(address)
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.get() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(kind) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {kind}; the agent's log says why\n")),
    }
}
