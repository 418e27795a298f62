//! TLS from files that may change while we serve: mutual between agents and coordinator, one-sided where anybody may call.
//!
//! The server's whole rustls configuration is swapped when a file changes, the CA of the clients too. A new file that cannot be used keeps the
//! old configuration and is told. Handshakes go on beside each other and may not take long.

mod files;
mod incoming;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keepsake_core::error::{Context, Error, Kind, Result, ResultExt};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

pub use files::{ServerFiles, TlsFiles};
pub use incoming::{Incoming, accept};

use self::files::{Identity, Print};

/// The files are looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A server's configuration, always that of the newest good files.
#[derive(Debug)]
pub struct ServerTls {
    callers: Callers,
    state: Mutex<State>,
}

/// Who may call.
#[derive(Debug)]
enum Callers {
    /// Whoever shows a certificate of the CA.
    Certified(TlsFiles),
    /// Anybody.
    Anybody(ServerFiles),
}

impl Callers {
    fn print(&self) -> Result<Print> {
        match self {
            Self::Certified(files) => files.print(),
            Self::Anybody(files) => files.print(),
        }
    }

    fn read(&self) -> Result<(ServerConfig, Print)> {
        match self {
            Self::Certified(files) => {
                let (ca, identity, print) = files.read()?;
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?))
                    .build()
                    .or_kind(Kind::Invalid, "use the CA of the clients")?;
                Ok((shown(ServerConfig::builder().with_client_cert_verifier(verifier), identity, b"h2")?, print))
            }
            Self::Anybody(files) => {
                let (identity, print) = files.read()?;
                Ok((shown(ServerConfig::builder().with_no_client_auth(), identity, b"http/1.1")?, print))
            }
        }
    }
}

#[derive(Debug)]
struct State {
    print: Print,
    config: Arc<ServerConfig>,
    looked: tokio::time::Instant,
}

impl ServerTls {
    /// Reads the files for the first time. Whoever calls must show a certificate; calls are HTTP/2.
    ///
    /// # Errors
    /// A file cannot be read or used, or everybody may read the key.
    pub fn load(files: TlsFiles) -> Result<Self> {
        Self::of(Callers::Certified(files))
    }

    /// The same for a server that anybody may call, by HTTP/1.1.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn load_for_anybody(files: ServerFiles) -> Result<Self> {
        Self::of(Callers::Anybody(files))
    }

    fn of(callers: Callers) -> Result<Self> {
        let (config, print) = callers.read()?;
        let state = State { print, config: Arc::new(config), looked: tokio::time::Instant::now() };
        Ok(Self { callers, state: Mutex::new(state) })
    }

    /// The configuration for the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = tokio::time::Instant::now();
            match self.renewed(&state.print) {
                Ok(None) => {}
                Ok(Some((config, print))) => {
                    tracing::info!("the certificate files changed; new connections use the new ones");
                    state.config = Arc::new(config);
                    state.print = print;
                }
                Err(e) => tracing::error!(
                    "the certificate files changed and cannot be used; the old ones stay: {}",
                    e.chain()
                ),
            }
        }
        state.config.clone()
    }

    fn renewed(&self, old: &Print) -> Result<Option<(ServerConfig, Print)>> {
        if &self.callers.print()? == old {
            return Ok(None);
        }
        self.callers.read().map(Some)
    }
}

/// The configuration that shows this certificate and speaks this protocol.
fn shown(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    identity: Identity,
    protocol: &[u8],
) -> Result<ServerConfig> {
    let mut config = builder
        .with_single_cert(identity.chain, identity.key)
        .or_kind(Kind::Invalid, "certificate and key do not go together")?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn roots(ca: Vec<CertificateDer<'static>>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate).or_kind(Kind::Invalid, "the CA file holds something that is not a CA's certificate")?;
    }
    Ok(roots)
}

/// The certificate that a server shows, DER, after a handshake in which it was verified under this name.
///
/// # Errors
/// `Unavailable` when it cannot be reached, `Denied` when the handshake fails.
pub async fn peer_certificate(files: &TlsFiles, address: &str, name: &str) -> Result<CertificateDer<'static>> {
    let (ca, identity, _) = files.read()?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(identity.chain, identity.key)
        .or_kind(Kind::Invalid, "certificate and key do not go together")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned()).or_kind(Kind::Invalid, format!("{name:?} is not a DNS name"))?;
    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(|e| Error::io(format!("connect to {address}"), e))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .or_kind(Kind::Denied, format!("TLS with {address}"))?;
        let (_, session) = stream.get_ref();
        session
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(|c| c.clone().into_owned())
            .ok_or_else(|| Error::new(Kind::Denied, "the server showed no certificate"))
    };
    tokio::time::timeout(Duration::from_secs(10), handshake)
        .await
        .or_kind(Kind::Timeout, format!("no TLS handshake with {address} in 10 s"))?
        .context("look at the server's certificate")
}
