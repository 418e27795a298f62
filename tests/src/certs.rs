//! Certificates, good and bad ones, made in a folder of the test's own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keepsake_proto::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Who signs certificates.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Until when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For the life of this code.
    Good,
    /// It was good once.
    Expired,
}

impl Authority {
    /// A new one; two of the same name are still two.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate with this DNS name. Its holder trusts this authority.
    pub fn issue(&self, folder: &Path, name: &str) -> TlsFiles {
        self.issue_with(folder, name, Validity::Good, self)
    }

    /// A certificate with this DNS name, whose holder trusts another authority perhaps. What is in the folder is replaced.
    pub fn issue_with(&self, folder: &Path, name: &str, validity: Validity, trusts: &Self) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if validity == Validity::Expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::create_dir_all(folder).expect("make a folder");
        let files = TlsFiles { ca: folder.join("ca.crt"), cert: folder.join("tls.crt"), key: folder.join("tls.key") };
        replace(&files.ca, &trusts.pem, 0o644);
        replace(&files.cert, &cert.pem(), 0o644);
        replace(&files.key, &key.serialize_pem(), 0o600);
        files
    }
}

/// Puts a file in the place of another, whole.
pub fn replace(path: &Path, text: &str, mode: u32) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("write a file");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).expect("set a file's mode");
    std::fs::rename(&beside, path).expect("put a file in its place");
}
