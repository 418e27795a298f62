//! TLS to the server: the certificates are read at each connection, so that a rotation needs no restart.

use std::path::Path;
use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connector that takes only a server whose certificate comes from these and names it.
pub(super) fn connector(ca_file: &Path) -> Result<MakeRustlsConnect> {
    let what = || format!("read the certificates of --postgres-ca-file {}", ca_file.display());
    let pem = std::fs::read(ca_file).map_err(|e| Error::io(what(), e))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.or_kind(Kind::Invalid, what())?).or_kind(Kind::Invalid, what())?;
    }
    if roots.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("{}: there is none in it (PEM is expected)", what())));
    }
    // Named, not the process's default: nobody need have installed one.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .or_kind(Kind::Internal, "choose the versions of TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
