//! The load by replication: the agent serves the RDB as a master, the server takes it as a replica and is made a master again.
//!
//! One command, no restart, and no file in the server's folder.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};
use keepsake_core::repository::sign::sha256_hex;
use keepsake_core::secret::Secret;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::ARTIFACT;
use super::super::connection::Server;
use super::super::file::free;
use super::super::settings::{LoadMethod, Settings};
use super::super::stages::step;
use super::durable::Held;
use super::master::{Proof, Replica};
use super::{Load, master};
use crate::engine::only_artifact;

/// The server must begin to fetch within so long.
const FETCH: Duration = Duration::from_secs(30);
/// Who connects must ask for the data within so long.
const GREETING: Duration = Duration::from_secs(10);
/// So many may be about to ask.
const GREETED: usize = 64;
/// The setting with what a replica tells its master.
const WORD: &str = "masterauth";
/// Without any progress for so long the load has failed.
const STALLED: Duration = Duration::from_mins(2);

/// Why it cannot be loaded so.
pub(super) async fn refusal(server: &Server, settings: &Settings) -> Result<Option<String>> {
    if server.follow_command().await?.is_none() {
        return Ok(Some("REPLICAOF was renamed away on this server, as 3scale does from 2.15 on".to_owned()));
    }
    if is_over_tls(server).await? && !settings.redis_replication_host.is_loopback() {
        let why = "the server replicates over TLS (tls-replication), and the agent is not on its loopback: the data would cross the network in the clear";
        return Ok(Some(why.to_owned()));
    }
    Ok(None)
}

async fn is_over_tls(server: &Server) -> Result<bool> {
    Ok(server.config("tls-replication").await?.as_deref() == Some("yes"))
}

/// Loads.
pub(super) async fn load(server: &Server, load: &Load<'_>) -> Result<()> {
    let Load { settings, marker, cx, .. } = *load;
    let (name, length) = only_artifact(load.source, ARTIFACT)?;
    let listener = TcpListener::bind((settings.redis_replication_host, 0)).await.map_err(|e| {
        Error::io(format!("listen on {} (--redis-replication-host)", settings.redis_replication_host), e)
    })?;
    let port = listener.local_addr().map_err(|e| Error::io("ask for the port", e))?.port();
    let reader = load.source.open(&name).await?;
    let Some(follow) = server.follow_command().await? else {
        return Err(Error::new(Kind::Internal, "a load by replication was let pass without REPLICAOF"));
    };
    // Written down even when nothing is changed: an agent that finds it makes durable what the server took.
    let over_tls = is_over_tls(server).await?;
    let word = word(server).await?;
    let changed = [over_tls.then_some("tls-replication"), matches!(word, Word::New(_)).then_some(WORD)];
    load.put_back.note(server, &changed.into_iter().flatten().collect::<Vec<_>>()).await?;
    step(cx, "changing settings").await;
    if over_tls {
        server.set_config("tls-replication", "no").await?;
    }
    let proof = prove(server, settings, word).await?;
    cx.check()?;
    cx.phase("loading", length);
    let asked_for = Arc::new(AtomicBool::new(false));
    let serving = {
        let (cx, asked_for) = (cx.clone(), asked_for.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let came = tokio::time::timeout(FETCH, the_server(&listener, &proof)).await;
            let stream =
                came.or_kind(Kind::Timeout, format!("the server did not come to fetch the data within {FETCH:?}"))??;
            master::serve(stream, reader, length, &asked_for, &cx).await
        }))
    };

    let host = settings.redis_replication_host.to_string();
    marker.set(&format!("{host} {port}"))?;
    (load.touching)(LoadMethod::Replication)?;
    step(cx, "about to touch").await;
    cx.phase("loading", length);
    let loaded = async {
        server.ask::<()>(&[follow, &host, &port.to_string()]).await?;
        wait_for_link(server, serving).await
    };
    let loaded = loaded.await.map_err(|e| no_room(settings, length, e));
    step(cx, "making it a master again").await;
    // Whatever came of it: a server that stays a replica of this agent refuses all writes.
    let freed = server.follow_nobody().await.context("make the server a master again (REPLICAOF NO ONE)");
    if freed.is_ok() {
        marker.clear()?;
        // It dropped nothing of its own before it was promised something else. While the other end of it lives, nobody knows.
        let promised = Arc::into_inner(asked_for).is_none_or(AtomicBool::into_inner);
        if loaded.is_err() && !promised {
            (load.untouched)()?;
        }
    }
    step(cx, "making durable").await;
    let held = if loaded.is_ok() { Held::JustSynchronized } else { Held::Unknown };
    let settled = load.put_back.settle(server, held).await;
    loaded.context("the server took the data as a replica")?;
    freed?;
    settled
}

/// What the server says who it is with.
enum Word {
    /// It has one.
    Known(Secret),
    /// It gets one for this load: what it had, nothing, is put back afterwards.
    New(Secret),
    /// It has no such setting, or does not show it.
    None,
}

async fn word(server: &Server) -> Result<Word> {
    match server.config(WORD).await {
        Ok(Some(word)) if !word.is_empty() => Ok(Word::Known(Secret::new(word))),
        Ok(Some(_)) => {
            let mut random = [0; 32];
            aws_lc_rs::rand::fill(&mut random).or_kind(Kind::Internal, "make a word for this load")?;
            // As text: a setting takes no other bytes.
            Ok(Word::New(Secret::new(sha256_hex(&random))))
        }
        Ok(None) => Ok(Word::None),
        Err(e) if e.kind() == Kind::Denied => Ok(Word::None),
        Err(e) => Err(e),
    }
}

/// How the server is known when it comes. Where it can be given no word it is known by its address, which a service's name may hide.
async fn prove(server: &Server, settings: &Settings, word: Word) -> Result<Proof> {
    match word {
        Word::Known(word) => return Ok(Proof::Word(word)),
        Word::New(word) => match server.set_config(WORD, word.expose()).await {
            Ok(()) => return Ok(Proof::Word(word)),
            Err(e) if e.kind().retry() => return Err(e),
            Err(e) => tracing::info!("the server is known by its address: {}", e.chain()),
        },
        Word::None => {}
    }
    let mut addresses = vec![settings.redis_replication_host.to_canonical()];
    let (host, port) = Server::host_and_port(settings)?;
    let what = || format!("find the addresses of {host} (--redis-url)");
    let found = tokio::net::lookup_host((host.as_str(), port)).await.map_err(|e| Error::io(what(), e))?;
    addresses.extend(found.map(|address| address.ip().to_canonical()));
    Ok(Proof::From(addresses))
}

/// Waits for the server among all who connect. Others are told, and get nothing.
async fn the_server(listener: &TcpListener, proof: &Proof) -> Result<Replica> {
    let mut greeted = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted.map_err(|e| Error::io("accept the server's connection", e))?;
                if greeted.len() < GREETED {
                    greeted.push(tokio::time::timeout(GREETING, master::greet(stream, proof)));
                } else {
                    tracing::warn!(%peer, "too many connect to what is served to the server; this one was dropped");
                }
            }
            Some(done) = greeted.next() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => tracing::warn!("{}", e.chain()),
                Err(_) => tracing::warn!("somebody connected to what is served to the server, and did not ask for it"),
            },
        }
    }
}

/// The server writes what it takes to its disk first, and hangs up when it cannot; why it did stands in its log only.
fn no_room(settings: &Settings, length: u64, e: Error) -> Error {
    let Some(folder) = &settings.redis_data_dir else { return e };
    match free(folder) {
        Ok(free) if free < length => {
            let text = format!(
                "{} has {free} bytes free, and the server needs {length} there while it takes the data: make room, then commit again or roll back",
                folder.display()
            );
            Error::caused(Kind::Busy, text, e)
        }
        // Of the two failures the first is the one to tell.
        Ok(_) | Err(_) => e,
    }
}

/// Waits until the server has taken everything.
async fn wait_for_link(server: &Server, mut serving: AbortOnDropHandle<Result<()>>) -> Result<()> {
    let mut progress = (Instant::now(), String::new());
    loop {
        match server.info().await {
            Ok(info) => {
                if info.is("role", "slave") && info.is("master_link_status", "up") && info.is("loading", "0") {
                    return Ok(());
                }
                let now = ["master_sync_read_bytes", "master_sync_left_bytes", "loading_loaded_bytes", "loading"]
                    .map(|n| info.get(n).unwrap_or(""))
                    .join(" ");
                if now != progress.1 {
                    progress = (Instant::now(), now);
                }
            }
            // While it loads it may answer nothing else.
            Err(e) if e.kind().retry() => tracing::debug!("{}", e.chain()),
            Err(e) => return Err(e),
        }
        if progress.0.elapsed() >= STALLED {
            return Err(Error::new(
                Kind::Timeout,
                format!(
                    "the load has not moved for {STALLED:?} (bytes read, left, loaded; loading: {}): see the server's log",
                    progress.1
                ),
            ));
        }
        tokio::select! {
            ended = &mut serving => {
                // Serving ends by itself only when it failed or the server hung up.
                ended.or_kind(Kind::Internal, "serve the data")??;
                return Err(Error::new(
                    Kind::Unavailable,
                    "the server hung up before it had loaded the data: see its log (without room on its disk for them it cannot take them)",
                ));
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    /// Says this and gives what came until the line was closed, or until so many bytes.
    async fn says(listener: &TcpListener, words: &[&str], bytes: usize) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.write_all((words.join("\r\n") + "\r\n").as_bytes()).await.unwrap();
        let mut said = vec![0; bytes];
        let mut at = 0;
        while at < bytes {
            match stream.read(&mut said[at..]).await.unwrap() {
                0 => break,
                n => at += n,
            }
        }
        said.truncate(at);
        (stream, String::from_utf8(said).unwrap())
    }

    #[tokio::test]
    async fn the_data_is_for_the_server_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proof = Proof::Word(Secret::new("right"));
        let others = async {
            // One that says nothing is in nobody's way.
            let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            for words in [
                &["PSYNC ? -1"][..],
                &["PING", "AUTH wrong", "PSYNC ? -1"],
                &["AUTH right", "AUTH wrong", "PSYNC ? -1"],
            ] {
                let (_, said) = says(&listener, words, 1000).await;
                assert!(said.contains("-NOAUTH") && !said.contains("FULLRESYNC"), "{words:?}: {said}");
            }
            let (server, said) =
                says(&listener, &["PING", "AUTH user right", "REPLCONF capa eof", "PSYNC ? -1"], 17).await;
            assert_eq!(said, "+PONG\r\n+OK\r\n+OK\r\n");
            (silent, server)
        };
        let (found, (_silent, server)) = tokio::join!(the_server(&listener, &proof), others);
        assert_eq!(found.unwrap().get_ref().peer_addr().unwrap(), server.local_addr().unwrap());
    }

    #[tokio::test]
    async fn without_a_word_the_address_decides() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (address, is_it) in [([127, 0, 0, 1], true), ([192, 0, 2, 1], false)] {
            let proof = Proof::From(vec![address.into()]);
            let (accepted, (_stream, said)) = tokio::join!(
                async { master::greet(listener.accept().await.unwrap().0, &proof).await },
                says(&listener, &["PING", "PSYNC ? -1"], 7)
            );
            assert_eq!((accepted.is_ok(), said.as_str()), (is_it, "+PONG\r\n"));
        }
    }
}
