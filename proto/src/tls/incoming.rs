//! Connections for a server: accepted, handshaken beside each other, given out when they are ready.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerTls;

/// Connections that were handshaken.
pub type Incoming = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// A handshake may take so long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same moment; more wait in the listener's queue.
const HANDSHAKES: usize = 64;

/// Accepts until cancelled.
pub fn accept(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(16);
    let tasks = tracker.clone();
    tracker.spawn(async move {
        let turns = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of file descriptors, mostly: others may be closed meanwhile.
                    tracing::warn!("accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, sender) = (TlsAcceptor::from(tls.current()), sender.clone());
            tasks.spawn(async move {
                if let Err(e) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, "set TCP_NODELAY: {e}");
                }
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        // The server is gone when nobody receives; so is the need for the connection.
                        let _server_gone = sender.send(Ok(stream)).await;
                    }
                    Ok(Err(e)) => tracing::warn!(%peer, "TLS handshake refused: {e}"),
                    Err(_) => tracing::warn!(%peer, "TLS handshake not finished in {HANDSHAKE:?}"),
                }
                drop(turn);
            });
        }
    });
    ReceiverStream::new(receiver)
}
