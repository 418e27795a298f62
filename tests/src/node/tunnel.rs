//! A port of 127.0.0.1 that leads into the cluster, as the API server itself gets there: by HTTP CONNECT at a socket.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ends when it is dropped. A test that uses it needs a runtime of several threads if it also waits for child processes.
#[derive(Debug)]
pub struct Tunnel {
    /// The port of 127.0.0.1.
    pub port: u16,
    _stop: DropGuard,
}

impl Tunnel {
    /// To this `address:port`, by this socket.
    pub(super) async fn start(socket: &Path, to: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the tunnel");
        let port = listener.local_addr().expect("its number").port();
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, socket.to_owned(), to.to_owned())));
        Self { port, _stop: stop.drop_guard() }
    }
}

async fn serve(listener: TcpListener, socket: PathBuf, to: String) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let (socket, to) = (socket.clone(), to.clone());
        tokio::spawn(async move {
            // Whoever asked sees that it is closed, and tells.
            if let Ok(mut server) = connect(&socket, &to).await {
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

async fn connect(socket: &Path, to: &str) -> std::io::Result<UnixStream> {
    let mut server = UnixStream::connect(socket).await?;
    server.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(server.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 200") || head.starts_with(b"HTTP/1.0 200") {
        return Ok(server);
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned()))
}
