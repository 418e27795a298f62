//! Sets: making one, committing its record, finding and believing records.

use bytes::Bytes;
use data_encoding::BASE64;

use super::layout;
use super::open::Repository;
use super::seal::{Identities, Sealer, SetKey, Unsealer};
use super::sign::SigningKey;
use crate::error::{Context, Error, Kind, Result, ResultExt};
use crate::id::{Installation, SetId};
use crate::record::{Record, Sealing};
use crate::secret::Secret;

/// A set that is being made.
#[derive(Debug)]
pub struct NewSet {
    /// Its id.
    pub id: SetId,
    /// How its segments are sealed, as the record will say.
    pub sealing: Sealing,
}

/// What stands in a set's folder.
#[derive(Debug)]
pub struct SetEntry {
    /// Its id.
    pub id: SetId,
    /// The record, if it is there and can be believed.
    pub state: SetState,
}

/// What can be said of a set.
#[derive(Debug)]
pub enum SetState {
    /// It has a record signed by a trusted signer.
    Recorded(Box<Record>),
    /// It has no record: no backup. It is being made now, or was given up.
    Unfinished,
    /// It has a record that cannot be believed or read: why.
    Unbelievable(Error),
}

impl Sealing {
    /// What an agent needs to seal.
    ///
    /// # Errors
    /// `Invalid` when the recipient is none.
    pub fn sealer(&self) -> Result<Sealer> {
        match self {
            Self::Age { recipient, .. } => Sealer::age(recipient),
            Self::None => Ok(Sealer::none()),
        }
    }
}

impl Repository {
    /// Begins a set: makes its identity, stores it sealed to the recipients, reads it back, and forgets the private half.
    ///
    /// # Errors
    /// The store cannot be written or answers with other bytes.
    pub async fn begin_set(&self, installation: &Installation, id: SetId) -> Result<NewSet> {
        let sealing = self.make_set_key()?;
        self.store_set_key(installation, id, &sealing).await?;
        Ok(NewSet { id, sealing })
    }

    /// Makes a set's identity, seals it to the recipients and forgets it. Nothing is stored yet.
    ///
    /// # Errors
    /// It cannot be sealed.
    pub fn make_set_key(&self) -> Result<Sealing> {
        if !self.is_encrypted() {
            return Ok(Sealing::None);
        }
        let key = SetKey::generate();
        let sealed = key.seal(&self.keys.recipients)?;
        Ok(Sealing::Age { recipient: key.recipient().to_owned(), key_age_base64: BASE64.encode(&sealed) })
    }

    /// Stores a set's sealed identity and reads it back. May be repeated with the same.
    ///
    /// # Errors
    /// `Conflict` when there is another one; the store cannot be written or answers with other bytes.
    pub async fn store_set_key(&self, installation: &Installation, id: SetId, sealing: &Sealing) -> Result<()> {
        let Sealing::Age { key_age_base64, .. } = sealing else { return Ok(()) };
        let sealed = BASE64.decode(key_age_base64.as_bytes()).or_kind(Kind::Corrupt, "a set's key is not base64")?;
        let sealed = Bytes::from(sealed);
        let name = layout::set_key(installation, id, 1);
        // Sealing is randomised, so other bytes under this name are somebody else's key.
        self.store.ensure(&name, &sealed).await?;
        if self.store.read(&name).await? != sealed {
            return Err(Error::new(Kind::Corrupt, format!("{name} does not read back as it was written")));
        }
        Ok(())
    }

    /// Makes a set a backup: the signature, then the record. May be repeated with the same bytes.
    ///
    /// # Errors
    /// `Conflict` when there is a record with other bytes.
    pub async fn commit_record(&self, record: &Record, bytes: &Bytes, signature: &Bytes) -> Result<()> {
        self.keys
            .verify(bytes, signature)
            .context("the record about to be committed is not signed by a signer of this repository")?;
        let (installation, set) = (&record.installation, record.set);
        self.store.ensure(&layout::signature(installation, set), signature).await?;
        let name = layout::record(installation, set);
        let stored = self.store.ensure(&name, bytes).await;
        // It may have been stored by a try whose answer was lost: then it is a backup, and nobody is told that it is not.
        match (stored, self.store.read(&name)) {
            (Err(e), read) if e.kind() != Kind::Conflict => match read.await {
                Ok(found) if found == *bytes => Ok(()),
                Ok(_) | Err(_) => Err(e),
            },
            (stored, _) => stored,
        }
    }

    /// A set's record, believed only with the signature of a trusted signer over its exact bytes.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Corrupt` when it cannot be believed, `Unsupported` for a newer format.
    pub async fn record(&self, installation: &Installation, id: SetId) -> Result<Record> {
        let bytes = self.store.read(&layout::record(installation, id)).await.map_err(|e| {
            if e.kind() == Kind::NotFound {
                Error::caused(
                    Kind::NotFound,
                    format!("set {id} of {installation} has no record, so it is no backup"),
                    e,
                )
            } else {
                e
            }
        })?;
        let name = layout::signature(installation, id);
        let signature =
            self.store.find(&name).await?.ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("{name} is missing: the record cannot be believed"))
            })?;
        self.keys.verify(&bytes, &signature).with_context(|| format!("believe the record of set {id}"))?;
        let record = Record::parse(&bytes)?;
        if &record.installation != installation || record.set != id || record.repository != self.config.repository {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the record found for set {id} of {installation} is that of set {} of {} in repository {}: somebody moved it",
                    record.set, record.installation, record.repository
                ),
            ));
        }
        Ok(record)
    }

    /// Installations that have sets, sorted.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn installations(&self) -> Result<Vec<Installation>> {
        Ok(self.store.folders(layout::SETS).await?.into_iter().filter_map(|n| Installation::new(n).ok()).collect())
    }

    /// All sets of an installation: recorded ones by epoch, newest last; others before them.
    ///
    /// # Errors
    /// The store cannot be listed or read. A record that cannot be believed is an entry, not an error.
    pub async fn sets(&self, installation: &Installation) -> Result<Vec<SetEntry>> {
        let mut entries = Vec::new();
        for name in self.store.folders(&layout::sets(installation)).await? {
            let Ok(id) = name.parse::<SetId>() else { continue };
            let state = match self.record(installation, id).await {
                Ok(record) => SetState::Recorded(Box::new(record)),
                Err(e) if e.kind() == Kind::NotFound => SetState::Unfinished,
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unsupported) => SetState::Unbelievable(e),
                Err(e) => return Err(e),
            };
            entries.push(SetEntry { id, state });
        }
        let epoch = |entry: &SetEntry| match &entry.state {
            SetState::Recorded(record) => Some(record.epoch),
            SetState::Unfinished | SetState::Unbelievable(_) => None,
        };
        entries.sort_by_key(epoch);
        Ok(entries)
    }

    /// The newest complete backup of an installation, by epoch. Partial and safety sets are never the latest.
    ///
    /// # Errors
    /// The store cannot be listed or read.
    pub async fn latest(&self, installation: &Installation) -> Result<Option<Record>> {
        let newest = self.sets(installation).await?.into_iter().rev().find_map(|entry| match entry.state {
            SetState::Recorded(record) if record.counts_as_backup() => Some(*record),
            SetState::Recorded(_) | SetState::Unfinished | SetState::Unbelievable(_) => None,
        });
        Ok(newest)
    }

    /// Opens a set's key with identities held. The record's own copy is tried first, then those of later re-keyings.
    ///
    /// # Errors
    /// `Denied` when no identity opens any of them; `Corrupt` when what opens is not the key that the record names.
    pub async fn open_set_key(&self, record: &Record, identities: &Identities) -> Result<Option<SetKey>> {
        let Sealing::Age { recipient, key_age_base64 } = &record.sealing else { return Ok(None) };
        let own = BASE64
            .decode(key_age_base64.as_bytes())
            .or_kind(Kind::Corrupt, "the record's copy of key.age is not base64")?;
        let mut answer = SetKey::open(&own, identities);
        let mut n = 2;
        while answer.as_ref().is_err_and(|e| e.kind() == Kind::Denied) {
            let Some(later) = self.store.find(&layout::set_key(&record.installation, record.set, n)).await? else {
                break;
            };
            answer = SetKey::open(&later, identities);
            n += 1;
        }
        let key = answer.with_context(|| format!("open the key of set {}", record.set))?;
        if key.recipient() != recipient {
            return Err(Error::new(
                Kind::Corrupt,
                format!("key.age of set {} holds another key than the record names", record.set),
            ));
        }
        Ok(Some(key))
    }

    /// The set's own key, from an identity that somebody else has taken out of `key.age`; none of a set that is not sealed.
    ///
    /// # Errors
    /// `Denied` when it is that of another set, or no identity at all.
    pub fn set_key_of(record: &Record, identity: &Secret) -> Result<Option<SetKey>> {
        let Sealing::Age { recipient, .. } = &record.sealing else { return Ok(None) };
        let key =
            SetKey::of(identity).map_err(|e| Error::caused(Kind::Denied, "the set's identity cannot be read", e))?;
        if key.recipient() == recipient {
            return Ok(Some(key));
        }
        let text = format!("the identity that was handed over is not that of set {}: it opens another one", record.set);
        Err(Error::new(Kind::Denied, text))
    }

    /// What an agent needs to open a set's segments.
    ///
    /// # Errors
    /// As [`Repository::open_set_key`]; `Denied` when the set is sealed and no identity was given.
    pub async fn unsealer(
        &self,
        record: &Record,
        identities: Option<&Identities>,
    ) -> Result<(Unsealer, Option<SetKey>)> {
        if record.sealing == Sealing::None {
            return Ok((Unsealer::none(), None));
        }
        let identities = identities.ok_or_else(|| {
            Error::new(Kind::Denied, format!("set {} is sealed: give an identity file (--identity)", record.set))
        })?;
        let key = self.open_set_key(record, identities).await?;
        let unsealer = key.as_ref().map_or_else(|| Ok(Unsealer::none()), |k| Unsealer::age(k.identity()))?;
        Ok((unsealer, key))
    }

    /// Seals a set's key to the recipients that hold now, as `key.<n>.age`. Takes nothing away from those who could read it before.
    ///
    /// # Errors
    /// As [`Repository::open_set_key`].
    pub async fn rekey(&self, record: &Record, identities: &Identities) -> Result<Option<String>> {
        let Some(key) = self.open_set_key(record, identities).await? else { return Ok(None) };
        let sealed = Bytes::from(key.seal(&self.keys.recipients)?);
        let mut n = 2;
        loop {
            let name = layout::set_key(&record.installation, record.set, n);
            match self.store.create(&name, sealed.clone()).await {
                Ok(()) => return Ok(Some(name)),
                Err(e) if e.kind() == Kind::Exists => n += 1,
                Err(e) => return Err(e),
            }
        }
    }
}

/// Signs a record's bytes.
pub fn sign_record(key: &SigningKey, record: &Record) -> Result<(Bytes, Bytes)> {
    let bytes = Bytes::from(record.to_bytes()?);
    let signature = Bytes::from(key.sign(&bytes));
    Ok((bytes, signature))
}
