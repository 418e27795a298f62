//! Proof that a store creates and never overwrites.
//!
//! Some S3 servers ignore `If-None-Match`, and on such a store two coordinators could write one record. So `init` and `doctor` try
//! it: of many creates of one key at the same moment exactly one must win, and its bytes must be what is read.

use bytes::Bytes;
use futures_util::future::join_all;
use uuid::Uuid;

use super::layout;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::id::{Component, Installation};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Creates at the same moment.
    pub creates: usize,
    /// The probe's key, when it could not be removed (append-only credentials cannot); it can be deleted by hand.
    pub left: Option<String>,
}

/// Creates at the same moment; [tried] on a server that checks and then writes, 15 of 40 won.
const CREATES: usize = 40;
/// Large enough that the creates overlap.
const BYTES: usize = 4 << 20;

/// Tries it. A try in which the outcome of a create is not known proves nothing, and is made again under another key.
///
/// # Errors
/// `Unsupported` when the store is not create-only; anything else when it cannot be written or read.
pub async fn probe_create_only(store: &Store) -> Result<Probe> {
    store.retry().run(|| try_once(store)).await
}

async fn try_once(store: &Store) -> Result<Probe> {
    let key = format!("probe/{}", Uuid::now_v7());
    let body = |n: usize| {
        let mut bytes = vec![0_u8; BYTES];
        bytes.iter_mut().zip(n.to_le_bytes()).for_each(|(b, x)| *b = x);
        Bytes::from(bytes)
    };
    let proven = create_many(store, &key, body).await;
    let left = match store.remove_probe(&key).await {
        Ok(()) => None,
        Err(e) => {
            tracing::info!("{}; it can be deleted by hand", e.chain());
            Some(key)
        }
    };
    proven?;
    Ok(Probe { creates: CREATES, left })
}

async fn create_many(store: &Store, key: &str, body: impl Fn(usize) -> Bytes) -> Result<()> {
    let results = join_all((0..CREATES).map(|n| {
        let body = body(n);
        async move { (n, store.create(key, body).await) }
    }))
    .await;

    let mut winners = Vec::new();
    let mut unknown = None;
    for (n, result) in results {
        match result {
            Ok(()) => winners.push(n),
            Err(e) if e.kind() == Kind::Exists => {}
            Err(e) => unknown = Some(e.context("try whether the store is create-only")),
        }
    }
    let refuse = |what: String| {
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "{what}: this store overwrites, so two coordinators could destroy each other's backup. Use another store"
            ),
        ))
    };
    if winners.len() > 1 {
        return refuse(format!("of {CREATES} creates of one key at the same moment {} succeeded", winners.len()));
    }
    if let Some(unknown) = unknown {
        return Err(unknown);
    }
    let [winner] = winners.as_slice() else {
        return refuse(format!("of {CREATES} creates of one key at the same moment none succeeded"));
    };
    match store.create(key, body(CREATES)).await {
        Err(e) if e.kind() == Kind::Exists => {}
        Ok(()) => return refuse("a second create of one key succeeded".to_owned()),
        Err(e) => return Err(e.context("try a second create")),
    }
    if store.read(key).await? != body(*winner) {
        return refuse("the bytes read are not those of the create that succeeded".to_owned());
    }
    Ok(())
}

/// Whether an agent can write below its installation's sets: a create under one fixed key, answered by success or "exists".
///
/// # Errors
/// The create could not be made.
pub async fn probe_put(store: &Store, installation: &Installation, component: &Component) -> Result<()> {
    match store.create(&layout::agent_probe(installation, component), Bytes::from_static(b"keepsake\n")).await {
        Err(e) if e.kind() == Kind::Exists => Ok(()),
        done => done,
    }
}
