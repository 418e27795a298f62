//! A connection whose every byte is ours, for what the crate `redis` does not speak: the stream of a replica.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::secret::Secret;
use redis::{ConnectionAddr, IntoConnectionInfo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::settings::Settings;
use super::tls;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for so long is dead.
const SILENT: Duration = Duration::from_mins(2);
/// A line of the protocol is short.
const LONGEST_LINE: u64 = 64 << 10;

/// Either kind of stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The connection.
pub(super) struct Raw {
    stream: BufReader<Box<dyn Stream>>,
}

impl Raw {
    /// Connects and authenticates as the settings say.
    pub(super) async fn connect(settings: &Settings) -> Result<Self> {
        let url = &settings.redis_url;
        let info = url.as_str().into_connection_info().or_kind(Kind::Invalid, "--redis-url")?;
        let (host, port) = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port),
            _ => return Err(Error::new(Kind::Unsupported, "dumps over the network need a redis:// or rediss:// URL")),
        };
        let what = || format!("connect to {url}");
        let config = tls::config(settings)?;
        let connecting = async {
            let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|e| Error::io(what(), e))?;
            let stream: Box<dyn Stream> = match config {
                None => Box::new(tcp),
                Some(config) => {
                    let name = ServerName::try_from(host.clone()).or_kind(Kind::Invalid, what())?;
                    Box::new(TlsConnector::from(config).connect(name, tcp).await.map_err(|e| Error::io(what(), e))?)
                }
            };
            Ok::<_, Error>(stream)
        };
        let stream = tokio::time::timeout(CONNECT, connecting)
            .await
            .map_err(|_| Error::new(Kind::Timeout, format!("{}: no connection within {CONNECT:?}", what())))??;
        let mut raw = Self { stream: BufReader::new(stream) };
        if let Some(path) = &settings.redis_password_file {
            let password = Secret::from_file(path)?;
            let mut words = vec!["AUTH"];
            words.extend(settings.redis_username.as_deref());
            words.push(password.expose());
            raw.ask(&words).await?;
        }
        Ok(raw)
    }

    /// One command; gives the line that answers it, without its `+`.
    pub(super) async fn ask(&mut self, words: &[&str]) -> Result<String> {
        self.send(words).await?;
        let line = self.line().await?;
        match line.strip_prefix('-') {
            // Only the command's name: an argument may be a secret.
            Some(error) => Err(refused(words.first().copied().unwrap_or_default(), error)),
            None => Ok(line.strip_prefix('+').unwrap_or(&line).to_owned()),
        }
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        self.stream.write_all(&out).await.map_err(|e| Error::io("send to the server", e))?;
        self.stream.flush().await.map_err(|e| Error::io("send to the server", e))
    }

    /// The next line that says something: a master that saves sends empty ones to show that it lives.
    pub(super) async fn line(&mut self) -> Result<String> {
        loop {
            let mut line = Vec::new();
            let read = unless_silent((&mut self.stream).take(LONGEST_LINE).read_until(b'\n', &mut line)).await?;
            if read.map_err(|e| Error::io("read from the server", e))? == 0 {
                return Err(Error::new(Kind::Unavailable, "the server hung up"));
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if !text.is_empty() {
                return Ok(text.to_owned());
            }
        }
    }

    /// Some bytes, at most as many as the buffer takes.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match unless_silent(self.stream.read(buffer)).await? {
            Ok(0) => Err(Error::new(
                Kind::Unavailable,
                "the server hung up in the middle of its data: it was restarted, or the dump was too slow for its client-output-buffer-limit \
                 (replica)",
            )),
            done => done.map_err(|e| Error::io("read from the server", e)),
        }
    }
}

/// A master that saves says something every few seconds.
async fn unless_silent<T>(read: impl Future<Output = T>) -> Result<T> {
    let silent = |_| Error::new(Kind::Timeout, format!("the server has sent nothing for {SILENT:?}"));
    tokio::time::timeout(SILENT, read).await.map_err(silent)
}

fn refused(command: &str, error: &str) -> Error {
    let denied = ["NOAUTH", "WRONGPASS", "NOPERM", "ERR invalid password"].iter().any(|code| error.starts_with(code));
    let kind = if denied { Kind::Denied } else { Kind::Unavailable };
    Error::new(kind, format!("{command}: the server says: {error}"))
}
