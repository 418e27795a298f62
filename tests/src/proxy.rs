//! A line between client and server that can be held, cut and closed at will.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A TCP proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    line: Arc<Line>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Line {
    /// The server of connections that come from now on.
    upstream: Mutex<SocketAddr>,
    /// Cuts the connections of now.
    cut: Mutex<CancellationToken>,
    /// Nothing passes while it says so.
    held: watch::Sender<bool>,
    /// New connections are closed at once while it says so.
    closed: watch::Sender<bool>,
    accepted: AtomicU64,
    /// Bytes that came from the server.
    down: AtomicU64,
    /// Cuts when so many more have come from it.
    cut_at: AtomicU64,
}

impl Proxy {
    /// A proxy before this server.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("its address");
        let stop = CancellationToken::new();
        let line = Arc::new(Line {
            upstream: Mutex::new(upstream),
            cut: Mutex::new(stop.child_token()),
            held: watch::Sender::new(false),
            closed: watch::Sender::new(false),
            accepted: AtomicU64::new(0),
            down: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
        });
        tokio::spawn(serve(listener, line.clone(), stop.clone()));
        Self { address, line, _stop: stop.drop_guard() }
    }

    /// Cuts every connection that is open now.
    pub fn cut(&self) {
        self.line.cut_all();
    }

    /// New connections go to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.line.upstream.lock().expect("the server") = upstream;
    }

    /// Cuts everything once so many more bytes have come from the server.
    pub fn cut_after(&self, bytes: u64) {
        self.line.cut_at.store(self.line.down.load(Ordering::SeqCst) + bytes, Ordering::SeqCst);
    }

    /// Holds all bytes back, or lets them go on.
    pub fn hold(&self, held: bool) {
        self.line.held.send_replace(held);
    }

    /// Closes new connections at once, or lets them through.
    pub fn close(&self, closed: bool) {
        self.line.closed.send_replace(closed);
    }

    /// Connections that came so far.
    pub fn accepted(&self) -> u64 {
        self.line.accepted.load(Ordering::SeqCst)
    }
}

impl Line {
    fn cut_all(&self) {
        let mut cut = self.cut.lock().expect("the cut");
        cut.cancel();
        *cut = CancellationToken::new();
    }
}

async fn serve(listener: TcpListener, line: Arc<Line>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, _)) = accepted else { continue };
        line.accepted.fetch_add(1, Ordering::SeqCst);
        if *line.closed.borrow() {
            continue;
        }
        let cut = line.cut.lock().expect("the cut").clone();
        let line = line.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = join(client, &line) => {}
            }
        });
    }
    line.cut_all();
}

async fn join(mut client: TcpStream, line: &Line) {
    let upstream = *line.upstream.lock().expect("the server");
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let (mut client_read, mut client_write) = client.split();
    let (mut server_read, mut server_write) = server.split();
    let up = pass(&mut client_read, &mut server_write, line, false);
    let down = pass(&mut server_read, &mut client_write, line, true);
    tokio::join!(up, down);
}

async fn pass(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin), line: &Line, down: bool) {
    let mut held = line.held.subscribe();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        if n == 0 {
            let _gone = to.shutdown().await;
            return;
        }
        if down && line.down.fetch_add(n as u64, Ordering::SeqCst) + n as u64 >= line.cut_at.load(Ordering::SeqCst) {
            line.cut_at.store(u64::MAX, Ordering::SeqCst);
            line.cut_all();
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
