//! Every object of a set is damaged in every way; reading and verifying find it and name it.

use keepsake_core::error::Kind;
use keepsake_core::repository::Repository;
use tempfile::TempDir;

use super::*;

struct Place1 {
    folder: TempDir,
    keys: Keys,
    repository: Repository,
    record: Record,
}

async fn place() -> Place1 {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::new();
    let store = Store::open(&format!("file://{}", folder.path().display())).expect("a store");
    let (repository, _) = Repository::init(store.clone(), &keys.init()).await.expect("init");
    let record = make_set(&repository, &store, &keys, 1).await.expect("a set");
    Place1 { folder, keys, repository, record }
}

#[tokio::test]
async fn every_damage_to_a_segment_is_found_and_named() {
    let p = place().await;
    let other = make_set(&p.repository, p.repository.store(), &p.keys, 2).await.expect("another set");
    let foreign = other.artifacts().next().expect("an artifact").1.segments[0].key.clone();
    for (which, (component, artifact)) in p.record.artifacts().enumerate() {
        for (n, segment) in artifact.segments.iter().enumerate() {
            let path = p.folder.path().join(&segment.key);
            let good = std::fs::read(&path).expect("a segment");
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 1;
            let neighbour = p.record.artifacts().next().expect("an artifact").1.segments[(n + 1) % 3].key.clone();
            let damages: [(&str, Option<Vec<u8>>); 7] = [
                ("gone", None),
                ("empty", Some(Vec::new())),
                ("half", Some(good[..good.len() / 2].to_vec())),
                ("one byte less", Some(good[..good.len() - 1].to_vec())),
                ("longer", Some([good.as_slice(), b"x"].concat())),
                ("one bit", Some(flipped)),
                ("another segment", Some(std::fs::read(p.folder.path().join(neighbour)).expect("a neighbour"))),
            ];
            let foreign = ("of another set", Some(std::fs::read(p.folder.path().join(&foreign)).expect("a foreigner")));
            for (what, damaged) in damages.into_iter().chain([foreign]) {
                if damaged.as_ref() == Some(&good) {
                    continue;
                }
                std::fs::remove_file(&path).expect("remove");
                if let Some(damaged) = damaged {
                    std::fs::write(&path, damaged).expect("damage");
                }
                let name = format!("{component}/{}", artifact.artifact);
                let error = read_artifact(&p.repository, &p.record, &p.keys, which).await.expect_err(what);
                let told = error.chain();
                assert_eq!(error.kind(), Kind::Corrupt, "{what}: {told}");
                assert!(
                    told.contains(&name) && told.contains(&format!("segment {n}")) && told.contains(&segment.key),
                    "{told}"
                );
                let verified = p.repository.verify(&p.record, |_| {}).await.expect("verify");
                assert_eq!(verified.damaged.len(), 1, "{what}: {:?}", verified.damaged);
                assert_eq!((verified.damaged[0].artifact.as_str(), verified.damaged[0].segment), (name.as_str(), n));
                std::fs::write(&path, &good).expect("mend");
            }
        }
    }
    assert_whole(&p.repository, &p.record, &p.keys).await;
}

#[tokio::test]
async fn what_the_record_does_not_name_is_a_stray_and_harms_nothing() {
    let p = place().await;
    let (_, artifact) = p.record.artifacts().next().expect("an artifact");
    let beside = format!("{}-1", artifact.segments[0].key);
    std::fs::write(p.folder.path().join(&beside), "left by a repeated put").expect("write");
    assert_eq!(p.repository.verify(&p.record, |_| {}).await.expect("verify").strays, [beside]);
    let (_, _, want) = contents().swap_remove(0);
    assert!(read_artifact(&p.repository, &p.record, &p.keys, 0).await.expect("read") == want);
}

#[tokio::test]
async fn a_set_without_its_key_object_still_opens_from_the_record() {
    let p = place().await;
    std::fs::remove_file(p.folder.path().join(format!("sets/prod/{}/key.age", p.record.set))).expect("remove");
    assert_whole(&p.repository, &p.record, &p.keys).await;
}

#[tokio::test]
async fn an_identity_that_is_not_a_recipient_opens_nothing() {
    let p = place().await;
    let stranger = Keys::new();
    let error = p.repository.unsealer(&p.record, Some(&stranger.identities)).await.expect_err("a stranger");
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(p.repository.unsealer(&p.record, None).await.expect_err("nobody").kind(), Kind::Denied);
}
