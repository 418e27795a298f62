//! Certificates for people without a certificate manager: one CA, and a leaf for each agent and coordinator.
//!
//! Private keys are written once, 0600, and never over another file.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use keepsake_core::clock;
use keepsake_core::error::{Context, Error, Kind, Result, ResultExt};
use keepsake_core::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// File names in a CA's folder.
const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";

/// Makes a CA: `ca.crt` and `ca.key` in a folder.
///
/// # Errors
/// A file exists already, or cannot be written.
pub fn make_ca(folder: &Path, name: &str, days: u32) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(format!("make the folder {}", folder.display()), e))?;
    let key = KeyPair::generate().or_kind(Kind::Internal, "make a key")?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    valid_for(&mut params, days)?;
    let cert = params.self_signed(&key).or_kind(Kind::Internal, "sign the CA's certificate")?;
    write_private(&folder.join(CA_KEY), &Secret::new(key.serialize_pem()))?;
    write_public(&folder.join(CA_CERT), &cert.pem())
}

/// Makes a leaf certificate for these DNS names (the first is also its common name): `tls.crt`, `tls.key` and `ca.crt`.
///
/// # Errors
/// The CA cannot be read, a name is not a DNS name, a file exists already or cannot be written.
pub fn issue(ca: &Path, out: &Path, names: &[String], days: u32) -> Result<()> {
    let ca_pem = std::fs::read_to_string(ca.join(CA_CERT)).map_err(|e| Error::io("read the CA's certificate", e))?;
    let ca_key = Secret::whole_file(&ca.join(CA_KEY)).context("read the CA's key")?;
    let ca_key = KeyPair::from_pem(ca_key.expose()).or_kind(Kind::Invalid, "the CA's key cannot be read")?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca_pem, ca_key).or_kind(Kind::Invalid, "the CA's certificate cannot be read")?;

    let first = names.first().ok_or_else(|| Error::new(Kind::Invalid, "give at least one name"))?;
    let key = KeyPair::generate().or_kind(Kind::Internal, "make a key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, first.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for name in names {
        let dns = name.as_str().try_into().or_kind(Kind::Invalid, format!("{name:?} cannot stand in a certificate"))?;
        params.subject_alt_names.push(SanType::DnsName(dns));
    }
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, days)?;
    let cert = params.signed_by(&key, &issuer).or_kind(Kind::Internal, "sign the certificate")?;
    std::fs::create_dir_all(out).map_err(|e| Error::io(format!("make the folder {}", out.display()), e))?;
    write_private(&out.join("tls.key"), &Secret::new(key.serialize_pem()))?;
    write_public(&out.join("tls.crt"), &cert.pem())?;
    write_public(&out.join("ca.crt"), &ca_pem)
}

/// From an hour ago, because clocks differ, for so many days.
fn valid_for(params: &mut CertificateParams, days: u32) -> Result<()> {
    let now = clock::now();
    let end = now
        .checked_add(jiff::SignedDuration::from_hours(24 * i64::from(days)))
        .or_kind(Kind::Invalid, "too many days")?;
    let start = now.checked_sub(jiff::SignedDuration::from_hours(1)).or_kind(Kind::Internal, "an hour ago")?;
    let date = |t: jiff::Timestamp| {
        let d = t.to_zoned(jiff::tz::TimeZone::UTC).date();
        (i32::from(d.year()), u8::try_from(d.month()).unwrap_or(1), u8::try_from(d.day()).unwrap_or(1))
    };
    // Whole days: from the beginning of the first to the end of the last.
    let (y, m, d) = date(start);
    params.not_before = rcgen::date_time_ymd(y, m, d);
    let (y, m, d) = date(end);
    params.not_after = rcgen::date_time_ymd(y, m, d);
    Ok(())
}

/// Writes a file that only its user can read; refuses to write over another.
///
/// # Errors
/// `Exists` when it is there already.
pub fn write_private(path: &Path, text: &Secret) -> Result<()> {
    write_new(path, text.expose().as_bytes(), 0o600)
}

/// Writes a file that others may read; refuses to write over another.
///
/// # Errors
/// `Exists` when it is there already.
pub fn write_public(path: &Path, text: &str) -> Result<()> {
    write_new(path, text.as_bytes(), 0o644)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(format!("write {}; nothing is written over", path.display()), e))
}
