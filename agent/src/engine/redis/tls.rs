//! TLS to the server: from files, read at each connection.

use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::secret::Secret;
use redis::{ClientTlsConfig, TlsCertificates};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::Settings;

/// Whether the address asks for TLS.
fn is_asked_for(settings: &Settings) -> bool {
    settings.redis_url.starts_with("rediss://")
}

/// The files' bytes, for the crate `redis`; `None` without TLS.
pub(super) fn certificates(settings: &Settings) -> Result<Option<TlsCertificates>> {
    if !is_asked_for(settings) {
        let given = [&settings.redis_ca, &settings.redis_cert, &settings.redis_key];
        if given.iter().any(|file| file.is_some()) {
            return Err(Error::new(Kind::Invalid, "--redis-ca, --redis-cert and --redis-key go with a rediss:// URL"));
        }
        return Ok(None);
    }
    let ca = settings.redis_ca.as_ref().ok_or_else(|| {
        Error::new(Kind::Invalid, "--redis-url is rediss://: name who signed the server's certificate with --redis-ca")
    })?;
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|e| Error::io(format!("read the certificates {}", path.display()), e))
    };
    let client_tls = match (&settings.redis_cert, &settings.redis_key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(cert)?,
            client_key: Secret::whole_file(key)?.expose().as_bytes().to_vec(),
        }),
        _ => None,
    };
    Ok(Some(TlsCertificates { client_tls, root_cert: Some(read(ca)?) }))
}

/// The same for a connection of our own; `None` without TLS.
pub(super) fn config(settings: &Settings) -> Result<Option<Arc<ClientConfig>>> {
    let Some(files) = certificates(settings)? else { return Ok(None) };
    let bad = "the certificates of --redis-ca, --redis-cert and --redis-key";
    let chain = |pem: &[u8]| {
        CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>().or_kind(Kind::Invalid, bad)
    };
    let mut roots = RootCertStore::empty();
    for certificate in chain(&files.root_cert.unwrap_or_default())? {
        roots.add(certificate).or_kind(Kind::Invalid, bad)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .or_kind(Kind::Internal, "TLS versions")?
        .with_root_certificates(roots);
    let config = match files.client_tls {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(&own.client_key).or_kind(Kind::Invalid, bad)?;
            builder.with_client_auth_cert(chain(&own.client_cert)?, key).or_kind(Kind::Invalid, bad)?
        }
    };
    Ok(Some(Arc::new(config)))
}
