//! Making a repository and opening it.

use bytes::Bytes;

use super::budget::Budget;
use super::keys::{self, Config, KeyChange, Keys};
use super::layout;
use super::probe::{Probe, probe_create_only};
use super::seal::check_recipient;
use super::sign::{PublicKey, SigningKey};
use super::store::Store;
use super::trust::Trust;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::id::RepositoryId;
use crate::record::FORMAT;

/// How to get everything back by hand; stored beside the backups, so that it is there when it is needed.
const RESTORE_TEXT: &str = include_str!("RESTORE-1.md");

/// Whether new sets are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// To these age recipients.
    Age {
        /// At least two, unless one was asked for.
        recipients: Vec<String>,
        /// One recipient is enough: whoever loses its identity loses the backups.
        single: bool,
    },
    /// Not at all.
    None,
}

/// What `init` is told.
#[derive(Debug, Clone)]
pub struct Init {
    /// Whether new sets are sealed.
    pub encryption: Encryption,
    /// Who signs.
    pub signers: Vec<PublicKey>,
}

/// A repository whose keys are what the administrator trusts.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) store: Store,
    pub(super) config: Config,
    pub(super) keys: Keys,
    pub(super) budget: Budget,
}

impl Init {
    fn config(&self) -> Result<Config> {
        let (encryption, recipients) = match &self.encryption {
            Encryption::Age { recipients, single } => {
                for recipient in recipients {
                    check_recipient(recipient)?;
                }
                let mut distinct = recipients.clone();
                distinct.sort_unstable();
                distinct.dedup();
                if distinct.is_empty() {
                    return Err(Error::new(
                        Kind::Invalid,
                        "name the age recipients that may open the backups (--recipient age1…)",
                    ));
                }
                if distinct.len() < 2 && !single {
                    return Err(Error::new(
                        Kind::Invalid,
                        "one recipient only: whoever loses its identity loses every backup. Name a second one kept elsewhere, or say \
                         --single-recipient",
                    ));
                }
                ("age", recipients.clone())
            }
            Encryption::None => ("none", Vec::new()),
        };
        if self.signers.is_empty() {
            return Err(Error::new(Kind::Invalid, "name a signing key"));
        }
        Ok(Config {
            format: FORMAT,
            reads_from: FORMAT,
            repository: RepositoryId::generate(),
            created: clock::now(),
            encryption: encryption.to_owned(),
            recipients,
            signers: self.signers.clone(),
        })
    }
}

impl Repository {
    /// Makes a repository: tries that the store is create-only, then writes `RESTORE-1.md` and `keepsake.json`, once.
    ///
    /// # Errors
    /// `Exists` when there is one already; what [`probe_create_only`] finds; `Invalid` for bad keys.
    pub async fn init(store: Store, init: &Init) -> Result<(Self, Probe)> {
        let config = init.config()?;
        if store.find(layout::CONFIG).await?.is_some() {
            return Err(Error::new(
                Kind::Exists,
                format!("there is a repository in {} already; nothing was changed", store.url()),
            ));
        }
        let probe = probe_create_only(&store).await?;
        store.ensure(layout::RESTORE, &Bytes::from_static(RESTORE_TEXT.as_bytes())).await?;
        store
            .ensure(layout::CONFIG, &config.to_bytes()?)
            .await
            .map_err(|e| e.context("somebody else made a repository here at the same moment; open that one"))?;
        let keys = config.follow(&store).await?;
        Ok((Self { store, config, keys, budget: Budget::default() }, probe))
    }

    /// Opens a repository and compares it with what is trusted.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Denied` for an unexplained difference, `Unsupported` for a newer format.
    pub async fn open(store: Store, trust: &Trust) -> Result<Self> {
        let config = Config::read(&store).await?;
        let keys = config.follow(&store).await?;
        trust.check(&config, &keys)?;
        Ok(Self { store, config, keys, budget: Budget::default() })
    }

    /// What a repository says of itself, for pinning it at first use. Believe it only then.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Unsupported` for a newer format.
    pub async fn trust_at_first_use(store: &Store) -> Result<Trust> {
        Ok(Trust::of(&Config::read(store).await?))
    }

    /// The store beneath.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// `keepsake.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The keys that hold now.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether new sets are sealed.
    pub fn is_encrypted(&self) -> bool {
        self.config.encryption != "none"
    }

    /// Changes the keys; signed with a key that is a signer now.
    ///
    /// # Errors
    /// `Denied` when it is not, `Invalid` for a bad recipient or when none would be left.
    pub async fn change_keys(
        &mut self,
        key: &SigningKey,
        add_recipients: Vec<String>,
        retire_recipients: Vec<String>,
        add_signers: Vec<PublicKey>,
    ) -> Result<()> {
        let change = KeyChange {
            format: FORMAT,
            repository: self.config.repository,
            n: self.keys.changes + 1,
            created: clock::now(),
            add_recipients,
            retire_recipients,
            add_signers,
        };
        self.keys = keys::add(&self.store, key, &self.keys, &change).await?;
        Ok(())
    }
}
