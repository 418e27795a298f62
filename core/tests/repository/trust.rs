//! Forgeries: whoever can write to the bucket can make nobody believe anything.

use keepsake_core::error::Kind;
use keepsake_core::repository::Repository;
use keepsake_core::repository::sets::SetState;
use tempfile::TempDir;

use super::*;

async fn place(keys: &Keys) -> (TempDir, Repository, Record) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&format!("file://{}", folder.path().display())).expect("a store");
    let (repository, _) = Repository::init(store.clone(), &keys.init()).await.expect("init");
    let record = make_set(&repository, &store, keys, 1).await.expect("a set");
    (folder, repository, record)
}

async fn refused(repository: &Repository, record: &Record) -> String {
    let error = repository.record(&prod(), record.set).await.expect_err("a forgery");
    assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
    assert!(repository.latest(&prod()).await.expect("list").is_none(), "a forgery is the latest");
    let entries = repository.sets(&prod()).await.expect("list");
    assert!(matches!(entries[0].state, SetState::Unbelievable(_)), "{:?}", entries[0]);
    error.chain()
}

#[tokio::test]
async fn a_record_is_believed_only_as_it_was_signed() {
    let keys = Keys::new();
    let (folder, repository, record) = place(&keys).await;
    let at = |name: &str| folder.path().join(format!("sets/prod/{}/{name}", record.set));
    let (json, sig) = (std::fs::read(at("record.json")).unwrap(), std::fs::read(at("record.sig")).unwrap());

    // Every byte counts; a sample of them.
    for n in (0..json.len()).step_by(97) {
        let mut forged = json.clone();
        forged[n] ^= 1;
        std::fs::write(at("record.json"), forged).unwrap();
        refused(&repository, &record).await;
    }
    std::fs::write(at("record.json"), [json.as_slice(), b"\n"].concat()).unwrap();
    refused(&repository, &record).await;
    std::fs::write(at("record.json"), &json).unwrap();

    let stranger = SigningKey::generate().unwrap().0;
    for bad in [
        stranger.sign(&json),
        Vec::new(),
        sig[..63].to_vec(),
        [sig.as_slice(), b"x"].concat(),
        keys.signing.sign(b"else"),
    ] {
        std::fs::write(at("record.sig"), bad).unwrap();
        refused(&repository, &record).await;
    }
    std::fs::remove_file(at("record.sig")).unwrap();
    assert!(refused(&repository, &record).await.contains("missing"));
    std::fs::write(at("record.sig"), &sig).unwrap();
    assert_whole(&repository, &record, &keys).await;
}

#[tokio::test]
async fn a_signed_record_is_not_believed_in_another_place() {
    let keys = Keys::new();
    let (folder, repository, record) = place(&keys).await;
    let copy = |to: std::path::PathBuf| {
        std::fs::create_dir_all(&to).unwrap();
        for name in ["record.json", "record.sig"] {
            std::fs::copy(folder.path().join(format!("sets/prod/{}/{name}", record.set)), to.join(name)).unwrap();
        }
    };
    let other = SetId::generate();
    copy(folder.path().join(format!("sets/prod/{other}")));
    assert_eq!(repository.record(&prod(), other).await.unwrap_err().kind(), Kind::Corrupt);
    copy(folder.path().join(format!("sets/staging/{}", record.set)));
    let staging = Installation::new("staging").unwrap();
    assert_eq!(repository.record(&staging, record.set).await.unwrap_err().kind(), Kind::Corrupt);

    // The same keys, another repository.
    let (elsewhere, second, own) = place(&keys).await;
    let target = elsewhere.path().join(format!("sets/prod/{}", record.set));
    copy(target);
    assert_eq!(second.record(&prod(), record.set).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(second.latest(&prod()).await.unwrap().unwrap().set, own.set);
}

#[tokio::test]
async fn keys_that_nobody_trusts_are_an_error() {
    let keys = Keys::new();
    let (folder, repository, _) = place(&keys).await;
    let store = repository.store().clone();
    let stranger = Keys::new();
    let config = folder.path().join("keepsake.json");
    let good = std::fs::read(&config).unwrap();

    // The whole document is another's; a signer or a recipient is slipped in or taken away.
    let (other, _, _) = place(&stranger).await;
    let mut forgeries = vec![std::fs::read(other.path().join("keepsake.json")).unwrap()];
    for change in [
        |c: &mut serde_json::Value, s: &Keys| {
            c["signers"].as_array_mut().unwrap().push(s.signing.public().to_pem().into())
        },
        |c: &mut serde_json::Value, s: &Keys| {
            c["recipients"].as_array_mut().unwrap().push(s.identities.recipients().remove(0).into())
        },
        |c: &mut serde_json::Value, _: &Keys| c["signers"] = serde_json::json!([]),
        |c: &mut serde_json::Value, _: &Keys| c["recipients"] = serde_json::json!([]),
        |c: &mut serde_json::Value, _: &Keys| c["encryption"] = "none".into(),
    ] {
        let mut document: serde_json::Value = serde_json::from_slice(&good).unwrap();
        change(&mut document, &stranger);
        forgeries.push(serde_json::to_vec(&document).unwrap());
    }
    for forged in forgeries {
        std::fs::write(&config, &forged).unwrap();
        let error = keys.open(&store).await.expect_err(&String::from_utf8_lossy(&forged));
        assert_eq!(error.kind(), Kind::Denied, "{}", error.chain());
    }
    std::fs::write(&config, &good).unwrap();
    keys.open(&store).await.unwrap();

    let mut newer: serde_json::Value = serde_json::from_slice(&good).unwrap();
    newer["format"] = 2.into();
    newer["reads_from"] = 2.into();
    std::fs::write(&config, serde_json::to_vec(&newer).unwrap()).unwrap();
    assert_eq!(keys.open(&store).await.unwrap_err().kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_change_of_keys_counts_only_when_a_signer_made_it() {
    let keys = Keys::new();
    let (folder, mut repository, _) = place(&keys).await;
    let store = repository.store().clone();
    let second = Keys::new();
    repository
        .change_keys(&keys.signing, second.identities.recipients(), Vec::new(), vec![second.signing.public()])
        .await
        .unwrap();
    let after = keys.open(&store).await.unwrap();
    assert_eq!((after.keys().recipients.len(), after.keys().signers.len()), (2, 2));
    // A set signed by the new signer is believed, and the new recipient opens it.
    let record = make_set(&after, &store, &second, 2).await.unwrap();
    assert_whole(&after, &record, &second).await;

    let stranger = Keys::new();
    let error =
        repository.change_keys(&stranger.signing, Vec::new(), Vec::new(), vec![stranger.signing.public()]).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Denied);

    // Forged by hand: the body changed, signed by a stranger, moved to another number.
    let first = folder.path().join("keys/1.json");
    let good = std::fs::read(&first).unwrap();
    let mut document: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let body = data_encoding::BASE64.decode(document["body_base64"].as_str().unwrap().as_bytes()).unwrap();
    document["signature_base64"] = data_encoding::BASE64.encode(&stranger.signing.sign(&body)).into();
    std::fs::write(&first, serde_json::to_vec(&document).unwrap()).unwrap();
    assert_eq!(keys.open(&store).await.unwrap_err().kind(), Kind::Corrupt);
    std::fs::write(&first, &good).unwrap();
    std::fs::write(folder.path().join("keys/2.json"), &good).unwrap();
    assert_eq!(keys.open(&store).await.unwrap_err().kind(), Kind::Corrupt);
}
