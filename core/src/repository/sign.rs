//! Who made it: Ed25519 signatures over exact bytes, checkable with `openssl pkeyutl -verify -pubin -rawin`.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, ResultExt};
use crate::secret::Secret;

/// What stands before the 32 bytes of an Ed25519 key in a DER `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// SHA-256 as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// The coordinator's private half.
pub struct SigningKey(Ed25519KeyPair);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public().fingerprint())
    }
}

impl SigningKey {
    /// A new key and its PEM (PKCS#8 version 1, the one that `openssl` reads as well).
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<(Self, Secret)> {
        let der =
            Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).or_kind(Kind::Internal, "make a signing key")?;
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
        let pem = Secret::new(pem);
        Ok((Self::parse(&pem)?, pem))
    }

    /// From a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or is not an Ed25519 key in PKCS#8.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::parse(&Secret::whole_file(path)?)
            .map_err(|e| e.context(format!("read the signing key {}", path.display())))
    }

    /// From PEM.
    ///
    /// # Errors
    /// `Invalid` when it is not an Ed25519 key in PKCS#8.
    pub fn parse(text: &Secret) -> Result<Self> {
        let pem = pem::parse(text.expose()).or_kind(Kind::Invalid, "it is not PEM")?;
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents())
            .or_kind(Kind::Invalid, "it is not an Ed25519 key in PKCS#8 (`keepsake keys generate` makes one)")?;
        Ok(Self(key))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut der = SPKI_PREFIX.to_vec();
        der.extend_from_slice(self.0.public_key().as_ref());
        PublicKey { der }
    }

    /// The signature over exactly these bytes: 64 bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }
}

/// The public half of a signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    der: Vec<u8>,
}

impl PublicKey {
    /// As PEM, the form in which it is stored.
    pub fn to_pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("PUBLIC KEY", self.der.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// `sha256:` and the hex digest of its DER form: what an administrator trusts. The same by hand:
    /// `openssl pkey -pubin -in signer.pem -outform DER | sha256sum`.
    pub fn fingerprint(&self) -> String {
        format!("sha256:{}", sha256_hex(&self.der))
    }

    /// Checks a signature over exactly these bytes.
    ///
    /// # Errors
    /// `Corrupt` when it is not this key's signature over them.
    pub fn verify(&self, bytes: &[u8], signature: &[u8]) -> Result<()> {
        let raw = self.der.get(SPKI_PREFIX.len()..).unwrap_or_default();
        UnparsedPublicKey::new(&ED25519, raw)
            .verify(bytes, signature)
            .map_err(|_| Error::new(Kind::Corrupt, format!("it is not signed by {}", self.fingerprint())))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let pem = pem::parse(text).or_kind(Kind::Invalid, "a signer's public key is not PEM")?;
        let der = pem.into_contents();
        if !der.starts_with(&SPKI_PREFIX) || der.len() != SPKI_PREFIX.len() + 32 {
            return Err(Error::new(Kind::Invalid, "a signer's public key is not an Ed25519 key"));
        }
        Ok(Self { der })
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_pem()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_these_bytes_and_this_key_only() {
        let (key, pem) = SigningKey::generate().unwrap();
        let signature = key.sign(b"record");
        let public = SigningKey::parse(&pem).unwrap().public();
        public.verify(b"record", &signature).unwrap();
        assert_eq!(public.verify(b"recorD", &signature).unwrap_err().kind(), Kind::Corrupt);
        let (other, _) = SigningKey::generate().unwrap();
        assert_eq!(other.public().verify(b"record", &signature).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(PublicKey::try_from(public.to_pem()).unwrap(), public);
    }
}
