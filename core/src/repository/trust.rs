//! Trust from outside the bucket.
//!
//! Whoever can write to the bucket can replace `keepsake.json`. So the recipients and signers that count are those which the
//! administrator names (in the topology, or in a pin file written at first use), and a difference from what the repository says is
//! an error unless a signed change of keys explains it.

use serde::{Deserialize, Serialize};

use super::keys::{Config, Keys};
use crate::error::{Error, Kind, Result};
use crate::id::RepositoryId;

/// What an administrator trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The repository, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryId>,
    /// `age` or `none`.
    pub encryption: String,
    /// The recipients: at `init`, and of changes since if they are to be listed.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// Fingerprints of the signers.
    pub signers: Vec<String>,
}

impl Trust {
    /// What a repository says of itself, to be pinned at first use.
    pub fn of(config: &Config) -> Self {
        Self {
            repository: Some(config.repository),
            encryption: config.encryption.clone(),
            recipients: config.recipients.clone(),
            signers: config.signers.iter().map(super::sign::PublicKey::fingerprint).collect(),
        }
    }

    /// Compares with what the repository says. Each key that either side names must be explained: it is in both, or a signed
    /// change added or retired it.
    ///
    /// # Errors
    /// `Denied`, naming the difference and what it can mean.
    pub(super) fn check(&self, config: &Config, keys: &Keys) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::new(
                Kind::Denied,
                format!(
                    "{what}. If you did not change the repository yourself, somebody else did: nothing is read from it or written \
                     to it. If you did, correct what you trust (topology `repository`, or the pin file)"
                ),
            ))
        };
        if self.repository.is_some_and(|id| id != config.repository) {
            return refuse(format!("this is repository {}, another one than is trusted", config.repository));
        }
        if self.encryption != config.encryption {
            return refuse(format!(
                "the repository says encryption {:?}, trusted is {:?}",
                config.encryption, self.encryption
            ));
        }
        let later: Vec<_> = keys
            .signers
            .iter()
            .filter(|s| !config.signers.contains(s))
            .map(super::sign::PublicKey::fingerprint)
            .collect();
        for signer in &config.signers {
            let print = signer.fingerprint();
            if !self.signers.contains(&print) {
                return refuse(format!("the repository names the signer {print}, which is not trusted"));
            }
        }
        let known: Vec<_> = config.signers.iter().map(super::sign::PublicKey::fingerprint).chain(later).collect();
        for print in &self.signers {
            if !known.contains(print) {
                return refuse(format!("the trusted signer {print} is not named by the repository"));
            }
        }
        for recipient in &config.recipients {
            if !self.recipients.contains(recipient) {
                return refuse(format!("the repository names the recipient {recipient}, which is not trusted"));
            }
        }
        for recipient in &self.recipients {
            if !config.recipients.contains(recipient) && !keys.recipients.contains(recipient) {
                return refuse(format!("the trusted recipient {recipient} is not named by the repository"));
            }
        }
        Ok(())
    }
}
