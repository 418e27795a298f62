//! The smallest HTTP client: one request on one connection, with TLS that believes one authority, or without.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Whom to believe, and under which name.
pub type Trust<'a> = Option<(&'a Path, &'a str)>;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Of what kind it is.
    pub content_type: String,
    /// The text.
    pub body: String,
}

/// Gets what is there.
///
/// # Errors
/// Why there was no answer, in words.
pub async fn get(at: SocketAddr, trust: Trust<'_>, path: &str) -> Result<Answer, String> {
    ask(at, trust, Method::GET, path, Vec::new()).await
}

/// Posts something.
///
/// # Errors
/// As [`get`].
pub async fn post(at: SocketAddr, trust: Trust<'_>, path: &str, body: Vec<u8>) -> Result<Answer, String> {
    ask(at, trust, Method::POST, path, body).await
}

async fn ask(at: SocketAddr, trust: Trust<'_>, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, String> {
    let stream = TcpStream::connect(at).await.map_err(|e| format!("connect: {e}"))?;
    let request = Request::builder().method(method).uri(path).header("host", "test");
    let request = request.body(Full::from(body)).expect("a request");
    let Some((ca, name)) = trust else { return exchange(stream, request).await };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("a CA") {
        roots.add(certificate.expect("a certificate")).expect("a CA's certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    // As the API server offers them.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("HTTP: {e}"))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| format!("ask: {e}"))?;
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = answer.into_body().collect().await.map_err(|e| format!("read the answer: {e}"))?.to_bytes();
    connection.abort();
    Ok(Answer { status, content_type: kind, body: String::from_utf8_lossy(&body).into_owned() })
}
