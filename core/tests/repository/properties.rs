//! Any bytes, in any pieces; any nonsense where a document should be.

use keepsake_core::id::{ArtifactName, Component};
use keepsake_core::record::SegmentRecord;
use keepsake_core::repository::seal::{Sealer, Unsealer};
use keepsake_core::repository::sign::sha256_hex;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;

const SEGMENT: usize = 4 << 20;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn round_trip(content: &[u8], chunks: &[usize], budget: usize, sealed: bool) -> (ArtifactRecord, Vec<u8>) {
    let store = store_over(Arc::new(InMemory::new()));
    let place = Place { installation: prod(), set: SetId::generate(), component: Component::new("x").unwrap() };
    let key = SetKey::generate();
    let sealer = if sealed { Sealer::age(key.recipient()).unwrap() } else { Sealer::none() };
    let unsealer = if sealed { Unsealer::age(key.identity()).unwrap() } else { Unsealer::none() };
    let writer = SetWriter::new(store.clone(), Budget::new(budget), sealer, place.clone());
    let mut artifact = writer.artifact(&ArtifactName::new("a").unwrap());
    let mut rest = content;
    let mut sizes = chunks.iter().cycle();
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((*sizes.next().unwrap()).clamp(1, rest.len()));
        artifact.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        rest = after;
    }
    let record = artifact.finish().await.unwrap();
    let mut reader = ArtifactReader::new(store, Budget::new(budget), unsealer, place.component, record.clone());
    let mut whole = Vec::new();
    while let Some(chunk) = reader.read().await.unwrap() {
        whole.extend_from_slice(&chunk);
    }
    (record, whole)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_in_any_pieces_is_read(
        around in prop_oneof![Just(0_usize), Just(1), Just(SEGMENT), Just(2 * SEGMENT)],
        off in 0_usize..3,
        chunks in prop::collection::vec(1_usize..900_000, 1..5),
        budget in prop_oneof![Just(1_usize), Just(16 << 20)],
        sealed: bool,
    ) {
        let content = bytes(around as u64 + 7, (around + off).saturating_sub(1));
        let (record, whole) = runtime().block_on(round_trip(&content, &chunks, budget, sealed));
        prop_assert!(whole == content);
        prop_assert_eq!(record.length, content.len() as u64);
        prop_assert!(record.segments.iter().rev().skip(1).all(|s| s.length == SEGMENT as u64));
    }

    #[test]
    fn no_bytes_that_claim_to_be_a_segment_make_the_reader_panic_or_give_out_more(
        stored in prop::collection::vec(any::<u8>(), 0..2000),
        length in prop_oneof![0_u64..5000, Just(u64::MAX), Just(SEGMENT as u64 + 1)],
        sealed: bool,
    ) {
        let done = runtime().block_on(async {
            let store = store_over(Arc::new(InMemory::new()));
            let key = "sets/prod/x/segments/x/a/0/000000".to_owned();
            store.create(&key, Bytes::from(stored.clone())).await.unwrap();
            let segment = SegmentRecord { key, length, stored: stored.len() as u64, sha256: sha256_hex(&stored) };
            let artifact = ArtifactRecord {
                artifact: ArtifactName::new("a").unwrap(), attempt: keepsake_core::id::Attempt::generate(), length, segments: vec![segment],
            };
            let unsealer = if sealed { Unsealer::age(SetKey::generate().identity()).unwrap() } else { Unsealer::none() };
            let mut reader = ArtifactReader::new(store, Budget::default(), unsealer, Component::new("x").unwrap(), artifact);
            reader.read().await
        });
        // Random bytes are a zstd frame of the right length only by a miracle, or when both are empty.
        prop_assert!(done.is_err() || length == 0);
    }

    #[test]
    fn no_bytes_that_claim_to_be_a_record_make_the_parser_panic(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Record::parse(&noise).is_err());
    }
}

/// One JSON value somewhere in a document is replaced.
fn mutate(value: &mut serde_json::Value, at: &mut usize, by: &serde_json::Value) {
    if *at == 0 {
        *value = by.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        serde_json::Value::Array(all) => all.iter_mut().for_each(|v| mutate(v, at, by)),
        serde_json::Value::Object(all) => all.values_mut().for_each(|v| mutate(v, at, by)),
        _ => {}
    }
}

#[tokio::test]
async fn a_record_that_holds_together_survives_and_one_that_does_not_is_refused() {
    let keys = Keys::new();
    let store = store_over(Arc::new(InMemory::new()));
    let (repository, _) = Repository::init(store.clone(), &keys.init()).await.unwrap();
    let record = make_set(&repository, &store, &keys, 1).await.unwrap();
    let good = record.to_bytes().unwrap();
    assert_eq!(Record::parse(&good).unwrap(), record);

    let mut document: serde_json::Value = serde_json::from_slice(&good).unwrap();
    document["from_the_future"] = serde_json::json!({ "any": ["thing"] });
    document["status"] = "glorious".into();
    let newer = Record::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
    assert_eq!(newer.status, Status::Unknown);
    assert!(!newer.counts_as_backup(), "a status that nobody knows counts as complete");

    // Every value is replaced by every other kind of value: no panic, and never a longer or shorter artifact unnoticed.
    let document: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let others = [
        serde_json::json!(null),
        serde_json::json!(-1),
        serde_json::json!(u64::MAX),
        serde_json::json!("x"),
        serde_json::json!([]),
        serde_json::json!({}),
    ];
    let mut refused = 0;
    for place in 0..200 {
        for other in &others {
            let mut changed = document.clone();
            mutate(&mut changed, &mut { place }, other);
            match Record::parse(&serde_json::to_vec(&changed).unwrap()) {
                Ok(read) => {
                    assert!(read.artifacts().all(|(_, a)| a.segments.iter().map(|s| s.length).sum::<u64>() == a.length))
                }
                Err(e) => {
                    refused += 1;
                    assert!(!e.chain().is_empty());
                }
            }
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}

#[tokio::test]
async fn many_streams_under_one_small_budget_all_come_to_their_end() {
    let store = store_over(Arc::new(InMemory::new()));
    let budget = Budget::new(1);
    let tasks: Vec<_> = (0..6_u64)
        .map(|n| {
            let (store, budget) = (store.clone(), budget.clone());
            tokio::spawn(async move {
                let place =
                    Place { installation: prod(), set: SetId::generate(), component: Component::new("x").unwrap() };
                let writer = SetWriter::new(store, budget, Sealer::none(), place);
                let mut artifact = writer.artifact(&ArtifactName::new("a").unwrap());
                for chunk in bytes(n + 1, SEGMENT + 1000).chunks(300_000) {
                    artifact.write(Bytes::copy_from_slice(chunk)).await.unwrap();
                    tokio::task::yield_now().await;
                }
                artifact.finish().await.unwrap().length
            })
        })
        .collect();
    for task in tasks {
        let length = tokio::time::timeout(Duration::from_mins(1), task).await.expect("a dead lock").unwrap();
        assert_eq!(length, SEGMENT as u64 + 1000);
    }
}
