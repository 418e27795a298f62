//! A line to a server on which everything ends at a statement of the test's choice, as when the agent dies there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// When everything ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the server sees the statement.
    Before,
    /// While it works on it; nobody hears the answer.
    While,
    /// When it has answered, which nobody hears.
    After,
}

/// A proxy that counts the statements that change something, on all connections together; ends when dropped.
#[derive(Debug)]
pub struct Line {
    /// Its port on the loopback.
    pub port: u16,
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    upstream: u16,
    moment: Moment,
    /// The number of the statement.
    at: u64,
    seen: AtomicU64,
    /// What was being run when it ended.
    last: Mutex<Option<String>>,
    cut: CancellationToken,
}

impl Line {
    /// A line to the server on this port that ends at the statement of this number, from 0.
    pub async fn ending(upstream: u16, at: u64, moment: Moment) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the line");
        let port = listener.local_addr().expect("its address").port();
        let stop = CancellationToken::new();
        let (seen, last, cut) = (AtomicU64::new(0), Mutex::new(None), CancellationToken::new());
        let state = Arc::new(State { upstream, moment, at, seen, last, cut });
        tokio::spawn(serve(listener, state.clone(), stop.clone()));
        Self { port, state, _stop: stop.drop_guard() }
    }

    /// Waits until it has ended; for ever when it does not.
    pub async fn ended(&self) {
        self.state.cut.cancelled().await;
    }

    /// The beginning of the statement at which it ended; `None` when it did not.
    pub fn struck(&self) -> Option<String> {
        self.state.last.lock().expect("the statement").clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, _)) = accepted else { continue };
        if state.cut.is_cancelled() {
            continue;
        }
        let (state, stop) = (state.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = state.cut.cancelled() => {}
                () = join(client, &state) => {}
            }
        });
    }
}

async fn join(client: TcpStream, state: &State) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.upstream)).await else { return };
    for end in [&client, &server] {
        end.set_nodelay(true).expect("no delay");
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let armed = CancellationToken::new();
    tokio::join!(up(from_client, to_server, state, &armed), down(from_server, to_client, state, &armed));
}

/// Packet by packet: three bytes of length, a number, the rest. A statement begins with the number 0 and the byte 3.
async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, armed: &CancellationToken) {
    loop {
        let mut head = [0; 4];
        if from.read_exact(&mut head).await.is_err() {
            let _gone = to.shutdown().await;
            return;
        }
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        let mut packet = head.to_vec();
        packet.resize(4 + length, 0);
        if from.read_exact(&mut packet[4..]).await.is_err() {
            return;
        }
        let is_statement = head[3] == 0 && packet.get(4) == Some(&3) && changes(&packet[5..]);
        if is_statement && state.seen.fetch_add(1, Ordering::SeqCst) == state.at {
            let text = String::from_utf8_lossy(&packet[5..packet.len().min(125)]).into_owned();
            *state.last.lock().expect("the statement") = Some(text);
            match state.moment {
                Moment::Before => return state.cut.cancel(),
                // The answer is not passed on.
                Moment::While | Moment::After => armed.cancel(),
            }
            if to.write_all(&packet).await.is_err() || state.moment == Moment::While {
                state.cut.cancel();
                return;
            }
            continue;
        }
        if to.write_all(&packet).await.is_err() {
            return;
        }
    }
}

/// Takes TLS out of the server's greeting: MySQL's tools use it when it is offered, and nothing could be counted.
fn without_tls(greeting: &mut [u8]) {
    // Header, protocol, version up to its NUL, connection, half of the challenge, a NUL, then the lower capabilities.
    let Some(version) = greeting.iter().skip(5).position(|b| *b == 0) else { return };
    if let Some(high) = greeting.get_mut(5 + version + 1 + 4 + 8 + 1 + 1) {
        *high &= !0x08;
    }
}

/// Whether a statement may change more than its own session: what is between two that do is the same place.
fn changes(statement: &[u8]) -> bool {
    // MySQL's newer tools say first how many attributes a statement has.
    let begun = statement.iter().position(|b| *b > b' ').unwrap_or_default();
    let text = String::from_utf8_lossy(&statement[begun..statement.len().min(begun + 2000)]);
    let code = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("--")).unwrap_or_default();
    let code = code.trim_start_matches(|c: char| c.is_ascii_digit() || "/*! ".contains(c)).to_ascii_uppercase();
    !["SELECT", "SHOW", "SET", "USE"].iter().any(|word| code.starts_with(word))
}

#[test]
fn what_only_asks_or_sets_is_not_counted() {
    for (statement, expected) in [
        ("SELECT 1", false),
        (
            "-- MariaDB dump
--

/*!40101 SET NAMES utf8mb4 */",
            false,
        ),
        ("SHOW CREATE TABLE t", false),
        ("\0\x01/*!50003 SET sql_mode = '' */", false),
        ("/*!50003 CREATE*/ /*!50017 DEFINER=`a`@`b`*/ /*!50003 TRIGGER t", true),
        ("RENAME TABLE a TO b", true),
        ("COMMIT", true),
        ("DO SETVAL(`s`, 1, 0)", true),
    ] {
        assert_eq!(changes(statement.as_bytes()), expected, "{statement}");
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, armed: &CancellationToken) {
    let mut buffer = vec![0; 16 << 10];
    let mut greeted = false;
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        if !std::mem::replace(&mut greeted, true) {
            without_tls(&mut buffer[..n]);
        }
        if armed.is_cancelled() && n > 0 {
            state.cut.cancel();
            return;
        }
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            let _gone = to.shutdown().await;
            return;
        }
    }
}
