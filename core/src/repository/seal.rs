//! Sealing: who can read what was stored.
//!
//! Segments are sealed to the set's own age recipient; the set's identity is sealed to the administrators' recipients. So an
//! agent that backs up knows a public key and can read no backup, and a restore gives an agent one set's identity and no more.
//! This is the one file that knows the crate `age`; what is promised is the format (age-encryption.org/v1).

use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::x25519;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::secret::Secret;

/// Seals segments.
#[derive(Clone)]
pub struct Sealer(Option<x25519::Recipient>);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Sealer(age)" } else { "Sealer(none)" })
    }
}

impl Sealer {
    /// To an age recipient (`age1…`).
    ///
    /// # Errors
    /// `Invalid` when it is not one.
    pub fn age(recipient: &str) -> Result<Self> {
        Ok(Self(Some(recipient_of(recipient)?)))
    }

    /// Leaves everything in the clear.
    pub fn none() -> Self {
        Self(None)
    }

    /// Seals a whole segment.
    pub(super) fn seal(&self, plain: Vec<u8>) -> Result<Vec<u8>> {
        let Some(recipient) = &self.0 else { return Ok(plain) };
        seal_to(std::iter::once(recipient), &plain)
    }
}

/// Opens segments.
#[derive(Clone)]
pub struct Unsealer(Option<x25519::Identity>);

impl std::fmt::Debug for Unsealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Unsealer(age)" } else { "Unsealer(none)" })
    }
}

impl Unsealer {
    /// With the set's age identity.
    ///
    /// # Errors
    /// `Invalid` when it is not one.
    pub fn age(identity: &Secret) -> Result<Self> {
        Ok(Self(Some(one_identity(identity)?)))
    }

    /// For a repository without encryption.
    pub fn none() -> Self {
        Self(None)
    }

    /// A reader of what was sealed.
    pub(super) fn open<'a>(&self, sealed: &'a [u8]) -> Result<Box<dyn Read + 'a>> {
        let Some(identity) = &self.0 else { return Ok(Box::new(sealed)) };
        let opened = age::Decryptor::new(sealed)
            .and_then(|d| d.decrypt(std::iter::once(identity as &dyn age::Identity)))
            .or_kind(Kind::Corrupt, "it does not open with the set's identity")?;
        Ok(Box::new(opened))
    }
}

/// A set's own identity, for as long as the set is being made or restored.
#[derive(Debug)]
pub struct SetKey {
    identity: Secret,
    recipient: String,
}

impl SetKey {
    /// A new one.
    pub fn generate() -> Self {
        let identity = x25519::Identity::generate();
        Self {
            recipient: identity.to_public().to_string(),
            identity: Secret::new(identity.to_string().expose_secret()),
        }
    }

    /// One that somebody else has opened.
    ///
    /// # Errors
    /// `Invalid` when it is not an age identity.
    pub fn of(identity: &Secret) -> Result<Self> {
        let recipient = one_identity(identity)?.to_public().to_string();
        Ok(Self { identity: Secret::new(identity.expose().trim()), recipient })
    }

    /// The public half.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    /// The private half: given to a restoring agent over TLS, never stored.
    pub fn identity(&self) -> &Secret {
        &self.identity
    }

    /// The bytes of `key.age`: the identity, sealed to the recipients.
    ///
    /// # Errors
    /// `Invalid` when a recipient is not an age recipient or there is none.
    pub fn seal(&self, recipients: &[String]) -> Result<Vec<u8>> {
        let recipients = recipients.iter().map(|r| recipient_of(r)).collect::<Result<Vec<_>>>()?;
        if recipients.is_empty() {
            return Err(Error::new(Kind::Invalid, "there is no recipient to seal the set's key to"));
        }
        let text = format!("{}\n", self.identity.expose());
        seal_to(recipients.iter(), text.as_bytes())
    }

    /// Opens `key.age` with one of the identities held.
    ///
    /// # Errors
    /// `Denied` when none of them opens it, `Corrupt` when what it holds is not an identity.
    pub fn open(key_age: &[u8], identities: &Identities) -> Result<Self> {
        let decryptor = age::Decryptor::new(key_age).or_kind(Kind::Corrupt, "key.age is not an age file")?;
        let mut reader = decryptor.decrypt(identities.0.iter().map(|i| i as &dyn age::Identity)).or_kind(
            Kind::Denied,
            "none of the identities given opens key.age: give the one whose recipient the repository names",
        )?;
        let mut text = String::new();
        reader.read_to_string(&mut text).or_kind(Kind::Corrupt, "key.age does not open to its end")?;
        let identity = Secret::new(text.trim());
        let recipient = one_identity(&identity)
            .map_err(|e| Error::caused(Kind::Corrupt, "key.age does not hold an age identity", e))?
            .to_public()
            .to_string();
        Ok(Self { identity, recipient })
    }
}

/// Identities held by an administrator: a file as `age-keygen` writes it.
#[derive(Clone)]
pub struct Identities(Vec<x25519::Identity>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// Reads lines `AGE-SECRET-KEY-1…`; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// `Invalid` when a line is something else or there is none. The line itself is not told.
    pub fn parse(text: &Secret) -> Result<Self> {
        let mut found = Vec::new();
        for (n, line) in text.expose().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = x25519::Identity::from_str(line)
                .map_err(|why| Error::new(Kind::Invalid, format!("line {} is not an age identity: {why}", n + 1)))?;
            found.push(identity);
        }
        if found.is_empty() {
            return Err(Error::new(Kind::Invalid, "there is no age identity in it"));
        }
        Ok(Self(found))
    }

    /// Adds those of another file.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Their public halves.
    pub fn recipients(&self) -> Vec<String> {
        self.0.iter().map(|i| i.to_public().to_string()).collect()
    }
}

/// Checks that a text is an age recipient of the kind that is used here.
///
/// # Errors
/// `Invalid` when it is not.
pub fn check_recipient(text: &str) -> Result<()> {
    recipient_of(text).map(|_| ())
}

fn recipient_of(text: &str) -> Result<x25519::Recipient> {
    x25519::Recipient::from_str(text)
        .map_err(|why| Error::new(Kind::Invalid, format!("{text:?} is not an age recipient (age1…): {why}")))
}

fn one_identity(text: &Secret) -> Result<x25519::Identity> {
    x25519::Identity::from_str(text.expose().trim())
        .map_err(|why| Error::new(Kind::Invalid, format!("this is not an age identity: {why}")))
}

fn seal_to<'a>(recipients: impl Iterator<Item = &'a x25519::Recipient>, plain: &[u8]) -> Result<Vec<u8>> {
    let encryptor = age::Encryptor::with_recipients(recipients.map(|r| r as &dyn age::Recipient))
        .or_kind(Kind::Internal, "begin to seal")?;
    // The header is about 200 bytes a recipient; every 64 KiB carry a tag of 16 bytes.
    let mut sealed = Vec::with_capacity(plain.len() + plain.len() / 4096 + 1024);
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|e| Error::io("seal", e))?;
    writer.write_all(plain).map_err(|e| Error::io("seal", e))?;
    writer.finish().map_err(|e| Error::io("finish sealing", e))?;
    Ok(sealed)
}
