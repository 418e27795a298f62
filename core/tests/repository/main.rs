//! The repository under every fault, every damage and every forgery.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned,
    reason = "a test may stop at the first surprise"
)]

mod damage;
mod faults;
mod frozen;
mod local;
mod properties;
mod runs;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepsake_core::clock;
use keepsake_core::error::{Error, Result};
use keepsake_core::id::{ArtifactName, Component, EngineName, Epoch, Installation, SetId};
use keepsake_core::record::{ArtifactRecord, ComponentRecord, DumpRecord, DumpReport, FORMAT, Purpose, Record, Status};
use keepsake_core::repository::reader::ArtifactReader;
use keepsake_core::repository::seal::{Identities, SetKey};
use keepsake_core::repository::sets::sign_record;
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::repository::trust::Trust;
use keepsake_core::repository::writer::{Place, SetWriter};
use keepsake_core::repository::{Budget, Encryption, Init, Repository, Store};
use keepsake_core::retry::Retry;
use object_store::ObjectStore;

/// What an administrator holds.
struct Keys {
    signing: SigningKey,
    identities: Identities,
}

impl Keys {
    fn new() -> Self {
        let identity = SetKey::generate();
        Self {
            signing: SigningKey::generate().expect("a key").0,
            identities: Identities::parse(identity.identity()).expect("an identity"),
        }
    }

    fn init(&self) -> Init {
        Init {
            encryption: Encryption::Age { recipients: self.identities.recipients(), single: true },
            signers: vec![self.signing.public()],
        }
    }

    async fn open(&self, store: &Store) -> Result<Repository> {
        let trust = Trust {
            repository: None,
            encryption: "age".to_owned(),
            recipients: self.identities.recipients(),
            signers: vec![self.signing.public().fingerprint()],
        };
        Repository::open(store.clone(), &trust).await
    }
}

fn prod() -> Installation {
    Installation::new("prod").expect("a name")
}

/// Bytes that compress a little and differ everywhere.
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state & 0x3f) as u8
    };
    (0..n).map(|_| draw()).collect()
}

/// Two components; the first artifact has three segments, the last of them short.
fn contents() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![("system-mysql", "dump.sql", bytes(1, (8 << 20) + 5)), ("backend-redis", "dump.rdb", bytes(2, 70_000))]
}

/// Impatient, over any store.
fn store_over(objects: Arc<dyn ObjectStore>) -> Store {
    let retry = Retry { tries: 3, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(2) };
    Store::over(objects, "memory:").with_patience(retry, Duration::from_millis(400))
}

/// Makes a whole set, as agents and coordinator do together.
async fn make_set(repository: &Repository, store: &Store, keys: &Keys, epoch: u64) -> Result<Record> {
    let set = repository.begin_set(&prod(), SetId::generate()).await?;
    let mut components = Vec::new();
    for (component, artifact, content) in contents() {
        let component = Component::new(component)?;
        let place = Place { installation: prod(), set: set.id, component: component.clone() };
        let writer = SetWriter::new(store.clone(), Budget::default(), set.sealing.sealer()?, place);
        let mut artifact = writer.artifact(&ArtifactName::new(artifact)?);
        for chunk in content.chunks(1 << 20) {
            artifact.write(Bytes::copy_from_slice(chunk)).await?;
        }
        let artifacts = vec![artifact.finish().await?];
        let report = DumpReport { server: "Test 1".to_owned(), ..DumpReport::default() };
        let engine = EngineName::new("redis")?;
        components.push(ComponentRecord {
            component,
            engine,
            dump: Some(DumpRecord { report, artifacts }),
            failure: None,
        });
    }
    let record = Record {
        format: FORMAT,
        reads_from: FORMAT,
        repository: repository.config().repository,
        installation: prod(),
        set: set.id,
        epoch: Epoch(epoch),
        plan_sha256: String::new(),
        purpose: Purpose::Backup,
        status: Status::Complete,
        started: clock::now(),
        finished: clock::now(),
        keepsake_version: "test".to_owned(),
        sealing: set.sealing,
        cut: None,
        no_cut: None,
        release: BTreeMap::new(),
        left_out: Vec::new(),
        rows_without_file: None,
        files_elsewhere: None,
        components,
    };
    let (bytes, signature) = sign_record(&keys.signing, &record)?;
    repository.commit_record(&record, &bytes, &signature).await?;
    Ok(record)
}

/// Reads one artifact back, whole.
async fn read_artifact(repository: &Repository, record: &Record, keys: &Keys, which: usize) -> Result<Vec<u8>> {
    let (unsealer, _) = repository.unsealer(record, Some(&keys.identities)).await?;
    let (component, artifact): (&Component, &ArtifactRecord) = record.artifacts().nth(which).expect("an artifact");
    let store = repository.store().clone();
    let mut reader = ArtifactReader::new(store, Budget::default(), unsealer, component.clone(), artifact.clone());
    let mut whole = Vec::new();
    while let Some(chunk) = reader.read().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// Everything of a set is there and right.
async fn assert_whole(repository: &Repository, record: &Record, keys: &Keys) {
    let believed = repository.record(&record.installation, record.set).await.expect("believe the record");
    assert_eq!(&believed, record);
    for (n, (_, _, content)) in contents().into_iter().enumerate() {
        assert!(
            read_artifact(repository, record, keys, n).await.expect("read back") == content,
            "artifact {n} differs"
        );
    }
    let verified = repository.verify(record, |_| {}).await.expect("verify");
    assert_eq!((verified.damaged.len(), verified.segments), (0, 4));
}

/// The error says what and where.
fn assert_told(error: &Error) {
    let told = error.chain();
    assert!(
        told.contains('/') || told.contains("keepsake.json") || told.contains("the repository"),
        "the error does not say where: {told}"
    );
}
