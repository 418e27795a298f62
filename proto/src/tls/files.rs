//! CA, certificate chain and key, PEM.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::repository::sign::sha256_hex;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may have signed the other side's certificate.
    pub ca: PathBuf,
    /// Our chain, our own certificate first.
    pub cert: PathBuf,
    /// Our key.
    pub key: PathBuf,
}

/// What they hold.
pub(super) struct Material {
    pub ca: Vec<CertificateDer<'static>>,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// What tells one content of the files from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Print(String);

impl TlsFiles {
    /// What tells one content of the files from another, as text.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        self.bytes().map(|all| all.print().0)
    }

    /// The bytes of CA, chain and key, for a client that reads PEM itself.
    ///
    /// # Errors
    /// A file cannot be read, or everybody may read the key.
    pub(crate) fn bytes(&self) -> Result<Bytes> {
        check_mode(&self.key)?;
        Ok(Bytes { ca: read(&self.ca)?, cert: read(&self.cert)?, key: read(&self.key)? })
    }

    pub(super) fn read(&self) -> Result<(Material, Print)> {
        let bytes = self.bytes()?;
        let certificates = |bytes: &[u8], path: &Path| {
            let all: Vec<_> = CertificateDer::pem_slice_iter(bytes)
                .collect::<std::result::Result<_, _>>()
                .or_kind(Kind::Invalid, format!("{} is not PEM", path.display()))?;
            if all.is_empty() {
                return Err(Error::new(Kind::Invalid, format!("{} holds no certificate", path.display())));
            }
            Ok(all)
        };
        let key = PrivateKeyDer::from_pem_slice(&bytes.key)
            .or_kind(Kind::Invalid, format!("{} holds no private key", self.key.display()))?;
        let material =
            Material { ca: certificates(&bytes.ca, &self.ca)?, chain: certificates(&bytes.cert, &self.cert)?, key };
        Ok((material, bytes.print()))
    }
}

/// The raw files.
pub(crate) struct Bytes {
    pub ca: Vec<u8>,
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

impl Bytes {
    fn print(&self) -> Print {
        Print([&self.ca, &self.cert, &self.key].map(|b| sha256_hex(b)).concat())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), e))
}

/// Group-readable is allowed: a cluster mounts secrets so. World-readable is not.
fn check_mode(path: &Path) -> Result<()> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(Error::new(
            Kind::Denied,
            format!("everybody on this machine may read the key {}: run chmod 600 on it", path.display()),
        ));
    }
    Ok(())
}
