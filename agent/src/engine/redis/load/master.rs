//! Being a master for one replica, just long enough to give it an RDB.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::secret::Secret;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::super::marker::REPLID;
use crate::engine::{ArtifactSource, Context};

/// A replica's words are short.
const LONGEST_WORD: u64 = 64 << 10;

/// Everybody may connect, so the server proves that it is the one which was told to follow: by what only it was given, or was given before.
pub(super) enum Proof {
    /// Its `masterauth`.
    Word(Secret),
    /// No setting can be asked for or changed: it comes from one of these addresses.
    From(Vec<IpAddr>),
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof")
    }
}

/// One that has proved who it is, and asked for the data.
pub(super) type Replica = BufReader<TcpStream>;

/// The handshake, up to the question for the data.
///
/// # Errors
/// `Denied` when it does not prove who it is.
pub(super) async fn greet(stream: TcpStream, proof: &Proof) -> Result<Replica> {
    let io = |e| Error::io("speak with the server as its master", e);
    let peer = stream.peer_addr().map_err(io)?.ip().to_canonical();
    let mut stream = BufReader::new(stream);
    let mut proved = match proof {
        Proof::Word(_) => false,
        Proof::From(addresses) => addresses.contains(&peer),
    };
    loop {
        let words = command(&mut stream).await?;
        let word = words.first().map(|w| w.to_ascii_uppercase()).unwrap_or_default();
        let answer: &[u8] = match word.as_slice() {
            b"PING" => b"+PONG\r\n",
            b"AUTH" => {
                if let Proof::Word(secret) = proof {
                    proved = words.last().is_some_and(|said| is_same(said, secret.expose().as_bytes()));
                }
                b"+OK\r\n"
            }
            b"REPLCONF" => b"+OK\r\n",
            b"PSYNC" if proved => return Ok(stream),
            b"PSYNC" => {
                stream.write_all(b"-NOAUTH this is for another server\r\n").await.map_err(io)?;
                let text = format!("somebody at {peer} asked for the data, and is not the server that is loaded");
                return Err(Error::new(Kind::Denied, text));
            }
            other => {
                return Err(Error::new(
                    Kind::Internal,
                    format!("the server said {:?} in the handshake", String::from_utf8_lossy(other)),
                ));
            }
        };
        stream.write_all(answer).await.map_err(io)?;
    }
}

/// Compares in a time that tells nothing.
fn is_same(said: &[u8], secret: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(said, secret).is_ok()
}

/// Gives the RDB, then nothing more until the replica hangs up. `asked_for` is set before the RDB is promised.
pub(super) async fn serve(
    mut stream: Replica,
    mut source: Box<dyn ArtifactSource>,
    length: u64,
    asked_for: &AtomicBool,
    cx: &Context,
) -> Result<()> {
    let io = |e| Error::io("speak with the server as its master", e);
    asked_for.store(true, Ordering::SeqCst);
    stream.write_all(format!("+FULLRESYNC {REPLID} 0\r\n${length}\r\n").as_bytes()).await.map_err(io)?;
    let mut sent = 0;
    while let Some(chunk) = source.read().await? {
        let chunk: Bytes = chunk;
        sent += chunk.len() as u64;
        stream.write_all(&chunk).await.map_err(io)?;
        cx.advance(chunk.len() as u64);
    }
    if sent != length {
        return Err(Error::new(Kind::Corrupt, format!("the artifact gave {sent} bytes of {length}")));
    }
    stream.flush().await.map_err(io)?;
    // The replica acknowledges now and then; it hangs up when it is told to follow nobody.
    let mut ignored = [0; 1024];
    loop {
        match stream.read(&mut ignored).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

/// One command: an array of strings, or a line.
async fn command(stream: &mut BufReader<TcpStream>) -> Result<Vec<Vec<u8>>> {
    let first = line(stream).await?;
    let Some(count) = first.strip_prefix(b"*") else {
        return Ok(first.split(|b| *b == b' ').map(<[u8]>::to_vec).collect());
    };
    let mut words = Vec::new();
    for _ in 0..number(count)?.min(64) {
        let head = line(stream).await?;
        let n = number(head.strip_prefix(b"$").unwrap_or_default())?;
        if n > LONGEST_WORD {
            return Err(Error::new(Kind::Internal, "the server sent a word that is too long"));
        }
        let mut word = Vec::new();
        stream.take(n).read_to_end(&mut word).await.map_err(|e| Error::io("read from the server", e))?;
        line(stream).await?;
        words.push(word);
    }
    Ok(words)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(LONGEST_WORD).read_until(b'\n', &mut line).await.map_err(|e| Error::io("read from the server", e))?;
    if line.pop() != Some(b'\n') {
        return Err(Error::new(Kind::Unavailable, "the server hung up during the handshake"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

fn number(digits: &[u8]) -> Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok())
        .ok_or_else(|| Error::new(Kind::Internal, "the server sent something else than the protocol allows"))
}
