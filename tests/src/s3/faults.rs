//! Whatever the server or the network does, nothing is called stored that is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::scratch::Scratch;
use crate::servers::s3::{BUCKET, Mishap, Oddity, S3Server};
use hyper::Method;
use keepsake_core::error::Kind;
use keepsake_core::repository::seal::SetKey;
use keepsake_core::repository::{Repository, probe_create_only};

use super::{content, init, patient_store, place, read, store, write};

const PUT_MISHAPS: [Mishap; 5] =
    [Mishap::Throttled, Mishap::Broken, Mishap::BrokenAfterwards, Mishap::AnswerLost, Mishap::Stalls];
const GET_MISHAPS: [Mishap; 7] = [
    Mishap::Throttled,
    Mishap::Broken,
    Mishap::AnswerLost,
    Mishap::Stalls,
    Mishap::BodyCut,
    Mishap::BodyStalls,
    Mishap::Slow,
];

/// Lets the n-th request of a method go wrong, and counts them.
fn nth(server: &S3Server, method: Method, n: usize, mishap: Mishap) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    server.plan(move |m, _, _| (m == method && counter.fetch_add(1, Ordering::SeqCst) == n).then_some(mishap));
    seen
}

/// A put that goes wrong once is repeated, and what is stored is right.
pub async fn put_that_goes_wrong_once_is_made_good() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let store = store(&server, &scratch);
    for mishap in PUT_MISHAPS {
        for n in 0..3 {
            let (place, key) = (place(), SetKey::generate());
            let seen = nth(&server, Method::PUT, n, mishap);
            let record = write(&store, &place, &key).await.unwrap_or_else(|e| panic!("{mishap:?} {n}: {}", e.chain()));
            assert!(seen.load(Ordering::SeqCst) > 3, "{mishap:?} {n} did not happen");
            server.recover();
            assert!(read(&store, &place, &key, &record).await.expect("read back") == content(), "{mishap:?} {n}");
        }
    }
    // An agent's writer has read nothing.
    assert!(server.requests().iter().filter(|(m, _)| *m == Method::GET).count() <= PUT_MISHAPS.len() * 3 * 3);
}

/// A get that goes wrong once is repeated, and what is read is right.
pub async fn get_that_goes_wrong_once_is_made_good() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let store = store(&server, &scratch);
    let (place, key) = (place(), SetKey::generate());
    let record = write(&store, &place, &key).await.expect("write");
    for mishap in GET_MISHAPS {
        for n in 0..3 {
            let seen = nth(&server, Method::GET, n, mishap);
            let back = read(&store, &place, &key, &record).await;
            assert!(seen.load(Ordering::SeqCst) > n, "{mishap:?} {n} did not happen");
            assert!(back.unwrap_or_else(|e| panic!("{mishap:?} {n}: {}", e.chain())) == content(), "{mishap:?} {n}");
        }
    }
}

/// Where every put fails there is an error and no artifact.
pub async fn storm_that_does_not_end_is_an_error_and_no_artifact() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let store = store(&server, &scratch);
    for (mishap, kind) in [
        (Mishap::Throttled, Kind::Unavailable),
        (Mishap::Broken, Kind::Unavailable),
        (Mishap::BrokenAfterwards, Kind::Unavailable),
        (Mishap::AnswerLost, Kind::Unavailable),
        (Mishap::Stalls, Kind::Timeout),
    ] {
        let (place, key) = (place(), SetKey::generate());
        server.plan(move |m, _, _| (m == Method::PUT).then_some(mishap));
        let error = write(&store, &place, &key).await.expect_err("a storm");
        assert_eq!(error.kind(), kind, "{mishap:?}: {}", error.chain());
        assert!(error.chain().contains("segments/backend-redis"), "{}", error.chain());
        server.recover();
        write(&store, &place, &key).await.expect("after the storm");
    }
}

/// A create whose answer was lost neither fails nor overwrites.
pub async fn document_whose_answer_was_lost_is_created_once() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let store = store(&server, &scratch);
    for (n, mishap) in PUT_MISHAPS.into_iter().enumerate() {
        let key = format!("sets/prod/record-{n}.json");
        nth(&server, Method::PUT, 0, mishap);
        store.ensure(&key, &"mine".into()).await.unwrap_or_else(|e| panic!("{mishap:?}: {}", e.chain()));
        let other = store.ensure(&key, &"another's".into()).await.expect_err("other bytes");
        assert_eq!(other.kind(), Kind::Conflict);
        assert_eq!(store.read(&key).await.expect("read"), "mine");
    }
}

/// A listing that goes wrong once is repeated.
pub async fn listing_that_stalls_or_fails_is_repeated() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let store = store(&server, &scratch);
    store.ensure("runs/prod/1/000000.json", &"{}".into()).await.expect("create");
    for mishap in [Mishap::Throttled, Mishap::Stalls, Mishap::AnswerLost, Mishap::BodyCut, Mishap::BodyStalls] {
        nth(&server, Method::GET, 0, mishap);
        assert_eq!(store.tree("runs").await.unwrap_or_else(|e| panic!("{mishap:?}: {}", e.chain())).len(), 1);
        nth(&server, Method::GET, 0, mishap);
        assert_eq!(store.folders("runs/prod").await.expect("list"), ["1"]);
    }
}

/// The probe does not take a lost answer for an overwriting server.
pub async fn probe_whose_creates_are_not_answered_is_tried_again() {
    let (server, scratch) = (S3Server::start(Oddity::None), Scratch::new());
    let store = patient_store(&server, &scratch);
    // The first of the creates at once, and the one after all of them.
    for (n, mishap) in [(0, Mishap::AnswerLost), (0, Mishap::BrokenAfterwards), (40, Mishap::AnswerLost)] {
        let seen = nth(&server, Method::PUT, n, mishap);
        let probe = probe_create_only(&store).await.unwrap_or_else(|e| panic!("{mishap:?} {n}: {}", e.chain()));
        assert_eq!(probe.left, None);
        assert_eq!(seen.load(Ordering::SeqCst), n + 1 + if n == 0 { 39 } else { 0 } + 41, "{mishap:?} {n}");
    }
}

/// A server that ignores `If-None-Match` gets no repository.
pub async fn server_that_overwrites_is_refused() {
    let (server, scratch) = (S3Server::start(Oddity::IgnoresIfNoneMatch), Scratch::new());
    let store = patient_store(&server, &scratch);
    let refused = probe_create_only(&store).await.expect_err("a server that overwrites");
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.chain().contains("overwrites"), "{}", refused.chain());
    let refused = Repository::init(store, &init()).await.expect_err("no repository there");
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
    let written = server.requests().iter().any(|(m, p)| *m == Method::PUT && p.contains("keepsake.json"));
    assert!(!written, "a repository was begun on a server that overwrites in {BUCKET}");
}
