//! Being a master for one replica, just long enough to give it an RDB.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use keepsake_core::error::{Error, Kind, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::super::marker::REPLID;
use crate::engine::{ArtifactSource, Context};

/// A replica's words are short.
const LONGEST_WORD: u64 = 64 << 10;

/// Serves one connection: the handshake, then the RDB, then nothing more until the replica hangs up. `asked_for` is set before the RDB is promised.
pub(super) async fn serve(
    stream: TcpStream,
    mut source: Box<dyn ArtifactSource>,
    length: u64,
    asked_for: &AtomicBool,
    cx: &Context,
) -> Result<()> {
    let io = |e| Error::io("speak with the server as its master", e);
    let mut stream = BufReader::new(stream);
    loop {
        let words = command(&mut stream).await?;
        let word = words.first().map(|w| w.to_ascii_uppercase()).unwrap_or_default();
        let answer: &[u8] = match word.as_slice() {
            b"PING" => b"+PONG\r\n",
            // The server sends its masterauth; whoever it is, it may have this RDB: it was asked to take it.
            b"AUTH" | b"REPLCONF" => b"+OK\r\n",
            b"PSYNC" => break,
            other => {
                return Err(Error::new(
                    Kind::Internal,
                    format!("the server said {:?} in the handshake", String::from_utf8_lossy(other)),
                ));
            }
        };
        stream.write_all(answer).await.map_err(io)?;
    }
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
