//! What a repository in S3 must do, on any server; and, in `faults`, on one that goes wrong.

pub mod faults;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use keepsake_core::error::Result;
use keepsake_core::id::{ArtifactName, Component, Installation, SetId};
use keepsake_core::record::ArtifactRecord;
use keepsake_core::repository::reader::ArtifactReader;
use keepsake_core::repository::seal::{SetKey, Unsealer};
use keepsake_core::repository::writer::{Place, SetWriter};
use keepsake_core::repository::{Budget, Encryption, Init, Repository, S3Settings, Store, probe_create_only};
use keepsake_core::retry::Retry;

use crate::scratch::Scratch;
use crate::servers::s3::{ADMIN, BUCKET, S3Server};

/// A store in a server, with little patience.
pub fn store(server: &S3Server, scratch: &Scratch) -> Store {
    impatient(patient_store(server, scratch))
}

/// As it is used: the probe's 40 creates at once take this server some seconds.
pub fn patient_store(server: &S3Server, scratch: &Scratch) -> Store {
    let file = scratch.path().join("credentials");
    S3Server::credentials(&file, ADMIN.0, ADMIN.1);
    open(&server.endpoint(), &file)
}

/// A store at an endpoint, with the credentials of a file.
pub fn open(endpoint: &str, credentials: &Path) -> Store {
    let settings = S3Settings {
        endpoint: Some(endpoint.to_owned()),
        credentials: Some(credentials.to_path_buf()),
        ..S3Settings::default()
    };
    Store::open_with(&format!("s3://{BUCKET}/some/place"), &settings).expect("a store")
}

/// The same store with little patience.
pub fn impatient(store: Store) -> Store {
    let retry = Retry { tries: 4, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(2) };
    // A put of 4 MiB took more than 2 s where ten programs shared two cores.
    store.with_patience(retry, Duration::from_secs(4))
}

/// A repository without encryption.
pub fn init() -> Init {
    let (signing, _) = keepsake_core::repository::sign::SigningKey::generate().expect("a key");
    Init { encryption: Encryption::None, signers: vec![signing.public()] }
}

/// Where a new set's component goes.
pub fn place() -> Place {
    Place {
        installation: Installation::new("prod").expect("a name"),
        set: SetId::generate(),
        component: Component::new("backend-redis").expect("a name"),
    }
}

/// Three segments, the last of them short, that hardly compress.
pub fn content() -> Bytes {
    let mut state = 1_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..(8 << 20) + 5).map(|_| draw()).collect()
}

/// Writes the content as an agent would.
pub async fn write(store: &Store, place: &Place, key: &SetKey) -> Result<ArtifactRecord> {
    let sealer = keepsake_core::repository::seal::Sealer::age(key.recipient())?;
    let writer = SetWriter::new(store.clone(), Budget::default(), sealer, place.clone());
    let mut artifact = writer.artifact(&ArtifactName::new("dump.rdb")?);
    artifact.write(content()).await?;
    artifact.finish().await
}

/// Reads it back as an agent would.
pub async fn read(store: &Store, place: &Place, key: &SetKey, record: &ArtifactRecord) -> Result<Bytes> {
    let unsealer = Unsealer::age(key.identity())?;
    let mut reader =
        ArtifactReader::new(store.clone(), Budget::default(), unsealer, place.component.clone(), record.clone());
    let mut whole = Vec::new();
    while let Some(chunk) = reader.read().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.into())
}

/// What every S3 server must do for us.
pub async fn conforms(store: &Store) {
    let probe = probe_create_only(store).await.expect("the server is create-only");
    assert_eq!(probe.left, None);
    Repository::init(store.clone(), &init()).await.expect("make a repository");
    let again = Repository::init(store.clone(), &init()).await.expect_err("a second repository");
    assert_eq!(again.kind(), keepsake_core::error::Kind::Exists);

    let (place, key) = (place(), SetKey::generate());
    let record = write(store, &place, &key).await.expect("write");
    assert_eq!(record.segments.len(), 3);
    assert!(read(store, &place, &key, &record).await.expect("read back") == content());

    // More than one page of a listing; names come back whole and sorted.
    let folder = "runs/prod/00000001";
    for n in 0..5 {
        store.ensure(&format!("{folder}/{n:06}.json"), &Bytes::from_static(b"{}")).await.expect("create");
    }
    assert_eq!(store.names(folder).await.expect("list").len(), 5);
    assert_eq!(store.folders("runs/prod").await.expect("list"), ["00000001"]);
    assert_eq!(store.tree("runs").await.expect("list").len(), 5);
    assert_eq!(store.find("runs/nothing").await.expect("look"), None);
}
