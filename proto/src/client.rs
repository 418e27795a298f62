//! Reaching an agent: one channel, made anew when the certificate files change.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::server::{CONNECTION_WINDOW, KEEPALIVE_EVERY, KEEPALIVE_LIMIT, MESSAGE_BYTES, STREAM_WINDOW};
use crate::tls::TlsFiles;
use crate::v1::agent_client::AgentClient;

/// How long a connection may take to be made, and again its TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take that answers at once by its nature; streams and `Load` have no such limit.
pub const CALL: Duration = Duration::from_secs(15);

/// Dials one agent.
#[derive(Debug)]
pub struct Dialer {
    address: String,
    name: String,
    tls: Option<TlsFiles>,
    channel: Mutex<Option<(String, Channel)>>,
}

impl Dialer {
    /// An agent at `https://host:port` whose certificate must carry `name`, whatever the host is; or at `http://` on loopback.
    ///
    /// # Errors
    /// `Denied` for an address in the clear that is not on loopback, `Invalid` for https without certificate files.
    pub fn new(address: &str, name: &str, tls: Option<TlsFiles>) -> Result<Self> {
        if let Some(host) = address.strip_prefix("http://") {
            only_loopback(host)?;
        } else if !address.starts_with("https://") {
            return Err(Error::new(Kind::Invalid, format!("{address:?} is not of the form https://host:port")));
        } else if tls.is_none() {
            return Err(Error::new(Kind::Invalid, format!("{address} wants TLS, but no certificate files are given")));
        }
        Ok(Self { address: address.to_owned(), name: name.to_owned(), tls, channel: Mutex::new(None) })
    }

    /// The address without its scheme: `host:port`.
    pub fn host_and_port(&self) -> &str {
        self.address.split_once("://").map_or(self.address.as_str(), |(_, rest)| rest)
    }

    /// The name that the agent's certificate must carry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate files, if it is dialled with TLS.
    pub fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref().filter(|_| self.address.starts_with("https://"))
    }

    /// A client. Connects when it is used, and again after a connection was lost.
    ///
    /// # Errors
    /// The certificate files cannot be read or used.
    pub fn client(&self) -> Result<AgentClient<Channel>> {
        // Too large a request is refused by the agent, which says so; refused here it would be a broken stream to the caller.
        Ok(AgentClient::new(self.channel()?).max_decoding_message_size(MESSAGE_BYTES))
    }

    /// A client on a connection of its own, which shares no window with any stream of data.
    ///
    /// # Errors
    /// As [`Dialer::client`].
    pub fn client_of_its_own(&self) -> Result<AgentClient<Channel>> {
        Ok(AgentClient::new(self.endpoint()?.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES))
    }

    fn channel(&self) -> Result<Channel> {
        let print = self.tls().map(TlsFiles::fingerprint).transpose()?.unwrap_or_default();
        let mut cached = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = cached.as_ref()
            && *known == print
        {
            return Ok(channel.clone());
        }
        let channel = self.endpoint()?.connect_lazy();
        *cached = Some((print, channel.clone()));
        Ok(channel)
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let mut endpoint = Endpoint::from_shared(self.address.clone())
            .or_kind(Kind::Invalid, format!("{} is not an address", self.address))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_LIMIT)
            .keep_alive_while_idle(true);
        if let Some(files) = self.tls() {
            let bytes = files.bytes()?;
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&bytes.ca))
                .identity(Identity::from_pem(&bytes.cert, &bytes.key))
                .domain_name(self.name.clone())
                // The connection of a frozen agent is made by its kernel; the handshake then waits for ever.
                .timeout(CONNECT);
            endpoint = endpoint.tls_config(tls).or_kind(Kind::Invalid, "use the certificate files")?;
        }
        Ok(endpoint)
    }
}

/// In the clear only where nobody listens in: every address that the host means must be on loopback.
///
/// # Errors
/// `Denied` otherwise.
pub fn only_loopback(host_and_port: &str) -> Result<()> {
    let addresses: Vec<IpAddr> = host_and_port
        .to_socket_addrs()
        .map_err(|e| Error::io(format!("look up {host_and_port}"), e))?
        .map(|a| a.ip())
        .collect();
    if !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!("{host_and_port} is not on loopback: without TLS everybody on the way reads and changes the data"),
    ))
}
