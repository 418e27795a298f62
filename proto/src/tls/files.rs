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

/// Where those of a server are that asks nobody for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its chain, its own certificate first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A chain and its key.
pub(super) struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// What tells one content of the files from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Print(String);

impl Print {
    fn of(files: &[&[u8]]) -> Self {
        Self(files.iter().map(|bytes| sha256_hex(bytes)).collect())
    }
}

impl TlsFiles {
    /// What tells one content of the files from another, as text.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        self.print().map(|print| print.0)
    }

    /// The bytes of CA, chain and key, for a client that reads PEM itself.
    ///
    /// # Errors
    /// A file cannot be read, or everybody may read the key.
    pub(crate) fn bytes(&self) -> Result<Bytes> {
        check_mode(&self.key)?;
        Ok(Bytes { ca: read(&self.ca)?, cert: read(&self.cert)?, key: read(&self.key)? })
    }

    pub(super) fn print(&self) -> Result<Print> {
        self.bytes().map(|all| all.print())
    }

    /// CA and identity.
    pub(super) fn read(&self) -> Result<(Vec<CertificateDer<'static>>, Identity, Print)> {
        let bytes = self.bytes()?;
        let identity = identity(&bytes.cert, &self.cert, &bytes.key, &self.key)?;
        Ok((certificates(&bytes.ca, &self.ca)?, identity, bytes.print()))
    }
}

impl ServerFiles {
    fn bytes(&self) -> Result<[Vec<u8>; 2]> {
        check_mode(&self.key)?;
        Ok([read(&self.cert)?, read(&self.key)?])
    }

    pub(super) fn print(&self) -> Result<Print> {
        self.bytes().map(|[cert, key]| Print::of(&[&cert, &key]))
    }

    pub(super) fn read(&self) -> Result<(Identity, Print)> {
        let [cert, key] = self.bytes()?;
        Ok((identity(&cert, &self.cert, &key, &self.key)?, Print::of(&[&cert, &key])))
    }
}

fn certificates(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<std::result::Result<_, _>>()
        .or_kind(Kind::Invalid, format!("{} is not PEM", path.display()))?;
    if all.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("{} holds no certificate", path.display())));
    }
    Ok(all)
}

fn identity(cert: &[u8], cert_path: &Path, key: &[u8], key_path: &Path) -> Result<Identity> {
    let key = PrivateKeyDer::from_pem_slice(key)
        .or_kind(Kind::Invalid, format!("{} holds no private key", key_path.display()))?;
    Ok(Identity { chain: certificates(cert, cert_path)?, key })
}

/// The raw files.
pub(crate) struct Bytes {
    pub ca: Vec<u8>,
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

impl Bytes {
    fn print(&self) -> Print {
        Print::of(&[&self.ca, &self.cert, &self.key])
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
