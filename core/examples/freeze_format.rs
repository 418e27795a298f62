//! Made the frozen repository of format 1 in `tests/fixtures/format-1`, once: `cargo run -p keepsake-core --example freeze_format -- FOLDER`.
//! For a new format it makes another folder; what exists is never made again.
#![expect(clippy::unwrap_used, reason = "run once, by hand")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use keepsake_core::clock;
use keepsake_core::id::{ArtifactName, Component, EngineName, Epoch, Installation, SetId};
use keepsake_core::record::{ComponentRecord, DumpRecord, DumpReport, FORMAT, Purpose, Record, Status, ToolRecord};
use keepsake_core::repository::seal::SetKey;
use keepsake_core::repository::sets::sign_record;
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::repository::writer::{Place, SetWriter};
use keepsake_core::repository::{Budget, Encryption, Init, Repository, Store};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap());
    std::fs::create_dir_all(folder.join("repository")).unwrap();
    let (signing, _) = SigningKey::generate().unwrap();
    let identity = SetKey::generate();
    std::fs::write(folder.join("identity"), format!("{}\n", identity.identity().expose())).unwrap();
    let store =
        Store::open(&format!("file://{}", folder.join("repository").canonicalize().unwrap().display())).unwrap();
    let recipients = vec![identity.recipient().to_owned()];
    let init = Init { encryption: Encryption::Age { recipients, single: true }, signers: vec![signing.public()] };
    let (repository, _) = Repository::init(store.clone(), &init).await.unwrap();
    let trust = Repository::trust_at_first_use(&store).await.unwrap();
    std::fs::write(folder.join("trust.json"), serde_json::to_vec_pretty(&trust).unwrap()).unwrap();

    let installation = Installation::new("prod").unwrap();
    let set = repository.begin_set(&installation, SetId::generate()).await.unwrap();
    let sql = "INSERT INTO `frozen` VALUES (1,'format 1');\n".repeat(100_000).into_bytes();
    let mut components = Vec::new();
    for (component, engine, artifact, content, counts) in [
        ("system-mysql", "mysql", "dump.sql", sql, ("rows:frozen", 100_000)),
        ("backend-redis", "redis", "dump.rdb", b"REDIS0009, or so".to_vec(), ("keys:db0", 1)),
    ] {
        let component = Component::new(component).unwrap();
        let place = Place { installation: installation.clone(), set: set.id, component: component.clone() };
        let writer = SetWriter::new(store.clone(), Budget::default(), set.sealing.sealer().unwrap(), place);
        let mut artifact = writer.artifact(&ArtifactName::new(artifact).unwrap());
        artifact.write(Bytes::from(content)).await.unwrap();
        let report = DumpReport {
            server: "Frozen 1.0".to_owned(),
            tools: vec![ToolRecord {
                tool: "freeze".to_owned(),
                version: "1".to_owned(),
                exit_status: 0,
                end_marker: "the end".to_owned(),
            }],
            position: Some("0/16B3740".to_owned()),
            snapshot_opened: Some(clock::now()),
            facts: BTreeMap::from([("sql_mode".to_owned(), "STRICT_ALL_TABLES".to_owned())]),
            counts: BTreeMap::from([(counts.0.to_owned(), counts.1)]),
            warnings: vec!["nothing to worry about".to_owned()],
        };
        let artifacts = vec![artifact.finish().await.unwrap()];
        let engine = EngineName::new(engine).unwrap();
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
        installation,
        set: set.id,
        epoch: Epoch(7),
        plan_sha256: "0".repeat(64),
        purpose: Purpose::Backup,
        status: Status::Complete,
        started: clock::now(),
        finished: clock::now(),
        keepsake_version: "0.1.0".to_owned(),
        sealing: set.sealing,
        cut: None,
        no_cut: None,
        release: BTreeMap::new(),
        left_out: Vec::new(),
        rows_without_file: None,
        files_elsewhere: None,
        components,
    };
    let (bytes, signature) = sign_record(&signing, &record).unwrap();
    repository.commit_record(&record, &bytes, &signature).await.unwrap();
}
