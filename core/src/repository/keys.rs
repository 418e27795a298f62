//! Whose keys a repository names: the initial ones in `keepsake.json`, later ones in `keys/<n>.json`.
//!
//! A later document is signed by a signer that was valid before it, over the exact bytes of its body, so whoever can only write
//! to the bucket can add nobody.

use bytes::Bytes;
use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout;
use super::seal::check_recipient;
use super::sign::{PublicKey, SigningKey};
use super::store::Store;
use crate::error::{Context, Error, Kind, Result, ResultExt};
use crate::id::RepositoryId;
use crate::record::{FORMAT, check_format};

/// `keepsake.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The format of everything in the repository.
    pub format: u32,
    /// The oldest reader's format that may read it.
    pub reads_from: u32,
    /// The repository.
    pub repository: RepositoryId,
    /// When it was made, for people.
    pub created: Timestamp,
    /// `age` or `none`.
    pub encryption: String,
    /// Who can open the sets' keys: age recipients.
    pub recipients: Vec<String>,
    /// Who may sign records.
    pub signers: Vec<PublicKey>,
}

/// The body of `keys/<n>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The format of this document.
    pub format: u32,
    /// The repository, so that it cannot be carried over to another.
    pub repository: RepositoryId,
    /// Its number, from 1.
    pub n: u32,
    /// When it was made, for people.
    pub created: Timestamp,
    /// New recipients.
    #[serde(default)]
    pub add_recipients: Vec<String>,
    /// Recipients to which no new set is sealed. They still open what they could open before.
    #[serde(default)]
    pub retire_recipients: Vec<String>,
    /// New signers.
    #[serde(default)]
    pub add_signers: Vec<PublicKey>,
}

/// `keys/<n>.json` as stored.
#[derive(Debug, Serialize, Deserialize)]
struct SignedChange {
    /// For a reader that must refuse a newer format before it looks further.
    format: u32,
    /// The exact bytes that are signed, base64.
    body_base64: String,
    /// Ed25519 over the body's bytes, base64.
    signature_base64: String,
}

/// The keys that hold after all changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// To whom new sets are sealed.
    pub recipients: Vec<String>,
    /// Who may sign.
    pub signers: Vec<PublicKey>,
    /// How many changes there were.
    pub changes: u32,
}

impl Config {
    /// Reads `keepsake.json`.
    pub(super) async fn read(store: &Store) -> Result<Self> {
        let bytes = store.find(layout::CONFIG).await?.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!(
                    "there is no {} in {}: this is not a repository; make one with `keepsake init`",
                    layout::CONFIG,
                    store.url()
                ),
            )
        })?;
        check_format(&bytes, layout::CONFIG)?;
        serde_json::from_slice(&bytes).or_kind(Kind::Corrupt, format!("{} cannot be read", layout::CONFIG))
    }

    /// The bytes of `keepsake.json`.
    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        let mut bytes = serde_json::to_vec_pretty(self).or_kind(Kind::Internal, "write keepsake.json")?;
        bytes.push(b'\n');
        Ok(Bytes::from(bytes))
    }

    /// Follows the changes from these keys on. A change that is not signed by a signer known so far is an error.
    pub(super) async fn follow(&self, store: &Store) -> Result<Keys> {
        let mut keys = Keys { recipients: self.recipients.clone(), signers: self.signers.clone(), changes: 0 };
        loop {
            let n = keys.changes + 1;
            let name = layout::keys(n);
            let Some(bytes) = store.find(&name).await? else { return Ok(keys) };
            let change = open_change(&bytes, &keys).with_context(|| format!("believe {name}"))?;
            if change.repository != self.repository || change.n != n {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("{name} was made for another place: somebody moved it here"),
                ));
            }
            keys.apply(&change);
        }
    }
}

impl Keys {
    fn apply(&mut self, change: &KeyChange) {
        self.recipients.retain(|r| !change.retire_recipients.contains(r));
        for recipient in &change.add_recipients {
            if !self.recipients.contains(recipient) {
                self.recipients.push(recipient.clone());
            }
        }
        for signer in &change.add_signers {
            if !self.signers.contains(signer) {
                self.signers.push(signer.clone());
            }
        }
        self.changes = change.n;
    }

    /// Checks that one of the signers signed these exact bytes.
    ///
    /// # Errors
    /// `Corrupt` when none did.
    pub fn verify(&self, bytes: &[u8], signature: &[u8]) -> Result<()> {
        if self.signers.iter().any(|s| s.verify(bytes, signature).is_ok()) {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, "the signature is not of any trusted signer over these bytes"))
    }
}

/// Adds a change, signed.
pub(super) async fn add(store: &Store, key: &SigningKey, keys: &Keys, change: &KeyChange) -> Result<Keys> {
    for recipient in &change.add_recipients {
        check_recipient(recipient)?;
    }
    if !keys.signers.contains(&key.public()) {
        return Err(Error::new(
            Kind::Denied,
            format!("{} is not a signer of this repository, so it cannot change its keys", key.public().fingerprint()),
        ));
    }
    let mut after = keys.clone();
    after.apply(change);
    if after.recipients.is_empty() && !keys.recipients.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            "no recipient would be left: new backups could not be opened by anybody",
        ));
    }
    let body = serde_json::to_vec(change).or_kind(Kind::Internal, "write a change of keys")?;
    let signed = SignedChange {
        format: FORMAT,
        signature_base64: BASE64.encode(&key.sign(&body)),
        body_base64: BASE64.encode(&body),
    };
    let bytes = serde_json::to_vec_pretty(&signed).or_kind(Kind::Internal, "write a change of keys")?;
    store.ensure(&layout::keys(change.n), &Bytes::from(bytes)).await?;
    Ok(after)
}

fn open_change(bytes: &[u8], keys: &Keys) -> Result<KeyChange> {
    check_format(bytes, "it")?;
    let signed: SignedChange = serde_json::from_slice(bytes).or_kind(Kind::Corrupt, "it cannot be read")?;
    let decode = |text: &str| BASE64.decode(text.as_bytes()).or_kind(Kind::Corrupt, "it is not base64");
    let body = decode(&signed.body_base64)?;
    keys.verify(&body, &decode(&signed.signature_base64)?)?;
    serde_json::from_slice(&body).or_kind(Kind::Corrupt, "its body cannot be read")
}
