//! A repository of format 1 as it was written once. It must be readable for ever: this file and its fixture are never changed.

use keepsake_core::secret::Secret;

use super::*;

#[tokio::test]
async fn the_frozen_set_of_format_1_is_read() {
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    let store = Store::open(&format!("file://{}", fixture.join("repository").display())).unwrap();
    let trust: Trust = serde_json::from_slice(&std::fs::read(fixture.join("trust.json")).unwrap()).unwrap();
    let repository = Repository::open(store, &trust).await.unwrap();
    let identity = Secret::whole_file(&fixture.join("identity")).unwrap();
    let keys = Keys { signing: SigningKey::generate().unwrap().0, identities: Identities::parse(&identity).unwrap() };

    let record = repository.latest(&prod()).await.unwrap().expect("the frozen set");
    assert_eq!((record.epoch, record.status, record.format), (Epoch(7), Status::Complete, 1));
    let verified = repository.verify(&record, |_| {}).await.unwrap();
    assert_eq!((verified.damaged.len(), verified.segments, verified.strays.len()), (0, 3, 0));
    let names: Vec<_> = record.artifacts().map(|(c, a)| format!("{c}/{}", a.artifact)).collect();
    assert_eq!(names, ["system-mysql/dump.sql", "backend-redis/dump.rdb"]);
    let whole = read_artifact(&repository, &record, &keys, 0).await.unwrap();
    let line = b"INSERT INTO `frozen` VALUES (1,'format 1');\n";
    assert!(whole.len() == line.len() * 100_000 && whole.chunks(line.len()).all(|l| l == line));
    assert_eq!(read_artifact(&repository, &record, &keys, 1).await.unwrap(), b"REDIS0009, or so");
    let dump = record.components[0].dump.as_ref().unwrap();
    assert_eq!(
        (dump.report.counts["rows:frozen"], dump.report.facts["sql_mode"].as_str()),
        (100_000, "STRICT_ALL_TABLES")
    );
}
