//! A line between engine and server that knows PostgreSQL's protocol: it stops right before or right after a statement of the test's choice.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// On which side of the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The server has not seen it.
    Before,
    /// The server has done it, and whoever asked has not heard.
    After,
}

/// Where the line stops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The number of the statement among those that count, from 0.
    pub(super) statement: usize,
    pub(super) side: Side,
}

/// The line. Cut when dropped.
#[derive(Debug)]
pub(super) struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    _cut: DropGuard,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    /// Statements that count begin with one of these.
    counted: &'static [&'static str],
    at: Option<Place>,
    seen: AtomicUsize,
    statements: Mutex<Vec<String>>,
    reached: watch::Sender<Option<String>>,
    cut: CancellationToken,
    /// Cuts the connections of now.
    severed: Mutex<CancellationToken>,
}

impl Line {
    /// Before a server on this port.
    pub(super) async fn start(server: u16, counted: &'static [&'static str], at: Option<Place>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = CancellationToken::new();
        let shared = Arc::new(Shared {
            server,
            counted,
            at,
            seen: AtomicUsize::new(0),
            statements: Mutex::default(),
            reached: watch::Sender::new(None),
            cut: cut.clone(),
            severed: Mutex::new(CancellationToken::new()),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = serving.cut.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                let shared = serving.clone();
                let severed = shared.severed.lock().unwrap().clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = shared.cut.cancelled() => {}
                        () = severed.cancelled() => {}
                        _ended = join(client, &shared) => {}
                    }
                });
            }
        });
        Self { address, shared, _cut: cut.drop_guard() }
    }

    /// Where to connect to.
    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until the place is reached; gives the statement.
    pub(super) async fn reached(&self) -> String {
        let mut reached = self.shared.reached.subscribe();
        reached.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    /// The statements that counted so far.
    pub(super) fn statements(&self) -> Vec<String> {
        self.shared.statements.lock().unwrap().clone()
    }

    /// Cuts every connection that is open now; others may come.
    pub(super) fn sever(&self) {
        std::mem::take(&mut *self.shared.severed.lock().unwrap()).cancel();
    }

    /// Cuts every connection.
    pub(super) fn cut(&self) {
        self.shared.cut.cancel();
    }
}

impl Shared {
    /// Whether the line stops at this statement, and where.
    fn stops(&self, sql: &str) -> Option<Side> {
        if !self.counted.iter().any(|head| sql.starts_with(head)) {
            return None;
        }
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        self.statements.lock().unwrap().push(sql.to_owned());
        self.at.filter(|at| at.statement == number).map(|at| at.side)
    }

    /// Ends only with the connection.
    async fn stop(&self, sql: &str) {
        self.reached.send_replace(Some(sql.to_owned()));
        std::future::pending().await
    }
}

/// How often the server was asked for an answer to wait for, and which of them is to be kept: a client does not wait for each.
#[derive(Debug, Default)]
struct Asked {
    times: usize,
    kept: Option<(usize, String)>,
}

async fn join(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", shared.server)).await?;
    // A script has hundreds of statements, each of which would wait for an acknowledgement.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // Until a session begins, nothing has a type: a question for TLS, answered in one byte, or the start.
    loop {
        let length = from_client.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        from_client.read_exact(&mut body).await?;
        to_server.write_u32(length).await?;
        to_server.write_all(&body).await?;
        if body.get(..4) != Some(&80_877_103_u32.to_be_bytes()) {
            break;
        }
        to_client.write_u8(from_server.read_u8().await?).await?;
    }
    // The start is answered like a question.
    let asked = Mutex::new(Asked { times: 1, kept: None });
    tokio::select! {
        ended = up(from_client, to_server, shared, &asked) => ended,
        ended = down(from_server, to_client, shared, &asked) => ended,
    }
}

async fn message(from: &mut OwnedReadHalf) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let mut body = vec![0; from.read_u32().await? as usize - 4];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

async fn pass(to: &mut OwnedWriteHalf, kind: u8, body: &[u8]) -> std::io::Result<()> {
    let mut whole = vec![kind];
    whole.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    whole.extend(body);
    to.write_all(&whole).await
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    asked: &Mutex<Asked>,
) -> std::io::Result<()> {
    loop {
        let (kind, body) = message(&mut from).await?;
        // A simple query, or the text of a statement that is being prepared after its name.
        let text = match kind {
            b'Q' => body.split(|b| *b == 0).next(),
            b'P' => body.split(|b| *b == 0).nth(1),
            _ => None,
        };
        let sql = text.map(|text| String::from_utf8_lossy(text).trim_start().to_owned()).unwrap_or_default();
        match shared.stops(&sql) {
            Some(Side::Before) => shared.stop(&sql).await,
            Some(Side::After) => {
                let mut asked = asked.lock().unwrap();
                asked.kept = Some((asked.times + 1, sql));
            }
            None => {}
        }
        if matches!(kind, b'Q' | b'S') {
            asked.lock().unwrap().times += 1;
        }
        pass(&mut to, kind, &body).await?;
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    asked: &Mutex<Asked>,
) -> std::io::Result<()> {
    let mut answered = 0;
    loop {
        let (kind, body) = message(&mut from).await?;
        // The server is ready for the next: it has done what it was told.
        answered += usize::from(kind == b'Z');
        let done = asked.lock().unwrap().kept.clone().filter(|(number, _)| kind == b'Z' && *number == answered);
        if let Some((_, sql)) = done {
            shared.stop(&sql).await;
        }
        pass(&mut to, kind, &body).await?;
    }
}
