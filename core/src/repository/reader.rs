//! Reading an artifact back: fetched ahead in parallel, given out in order, every segment checked before a byte of it is.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use super::budget::{Budget, Share};
use super::seal::Unsealer;
use super::segment;
use super::store::Store;
use crate::error::{Context, Error, Kind, Result, ResultExt};
use crate::id::Component;
use crate::record::{ArtifactRecord, SegmentRecord};

/// Segments fetched ahead at most; the budget usually allows fewer.
const AHEAD: usize = 4;

/// Reads one artifact.
#[derive(Debug)]
pub struct ArtifactReader {
    shared: Arc<Shared>,
    next: usize,
    ahead: VecDeque<AbortOnDropHandle<Result<(Bytes, Share)>>>,
    /// The share of the segment given out last: kept until the next is asked for.
    given: Option<Share>,
    total: u64,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    budget: Budget,
    unsealer: Unsealer,
    component: Component,
    artifact: ArtifactRecord,
}

impl ArtifactReader {
    /// A reader at the beginning of the artifact.
    pub fn new(
        store: Store,
        budget: Budget,
        unsealer: Unsealer,
        component: Component,
        artifact: ArtifactRecord,
    ) -> Self {
        let shared = Arc::new(Shared { store, budget, unsealer, component, artifact });
        Self { shared, next: 0, ahead: VecDeque::new(), given: None, total: 0 }
    }

    /// The whole artifact, which must have at most so many bytes.
    ///
    /// # Errors
    /// `Corrupt` when it has more, and as [`ArtifactReader::read`].
    pub async fn read_at_most(mut self, most: u64) -> Result<Vec<u8>> {
        let length = self.shared.artifact.length;
        if length > most {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{} has {length} bytes: that is too much", self.shared.name()),
            ));
        }
        let mut all = Vec::new();
        while let Some(chunk) = self.read().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// The plaintext of the next segment; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` or `NotFound`, naming component, artifact and segment.
    pub async fn read(&mut self) -> Result<Option<Bytes>> {
        self.given = None;
        self.fetch_ahead().await?;
        let Some(task) = self.ahead.pop_front() else {
            if self.total != self.shared.artifact.length {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("{} is not as long as the record says", self.shared.name()),
                ));
            }
            return Ok(None);
        };
        let (plain, share) = task.await.or_kind(Kind::Internal, "a segment's task ended early")??;
        self.total += plain.len() as u64;
        self.given = Some(share);
        Ok(Some(plain))
    }

    /// Begins as many segments as the budget allows, in order; waits for room only when none is on its way.
    async fn fetch_ahead(&mut self) -> Result<()> {
        while self.ahead.len() < AHEAD {
            let Some(segment) = self.shared.artifact.segments.get(self.next).cloned() else { return Ok(()) };
            let need = usize::try_from(segment.stored.saturating_add(segment.length)).unwrap_or(usize::MAX);
            let share = match self.shared.budget.try_share(need) {
                Some(share) => share,
                None if self.ahead.is_empty() => self.shared.budget.share(need).await?,
                None => return Ok(()),
            };
            let (shared, index) = (self.shared.clone(), self.next);
            self.next += 1;
            let task = async move {
                let plain = shared
                    .fetch(&segment)
                    .await
                    .with_context(|| format!("segment {index} of {} ({})", shared.name(), segment.key))?;
                Ok((plain, share))
            };
            self.ahead.push_back(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        Ok(())
    }
}

impl Shared {
    fn name(&self) -> String {
        format!("{}/{}", self.component, self.artifact.artifact)
    }

    async fn fetch(&self, segment: &SegmentRecord) -> Result<Bytes> {
        let stored = read_checked(&self.store, segment).await?;
        let (unsealer, expected) = (self.unsealer.clone(), segment.clone());
        tokio::task::spawn_blocking(move || segment::open(&stored, &expected, &unsealer))
            .await
            .or_kind(Kind::Internal, "open a segment")?
    }
}

/// The stored bytes of a segment, checked against the record. A mismatch may have happened on the way, so it is believed only
/// when it comes twice.
pub(super) async fn read_checked(store: &Store, expected: &SegmentRecord) -> Result<Bytes> {
    let read = || async { store.read_at_most(&expected.key, expected.stored).await.map_err(missing) };
    let first = read().await?;
    if segment::check(&first, expected).is_ok() {
        return Ok(first);
    }
    drop(first);
    let second = read().await?;
    segment::check(&second, expected)?;
    Ok(second)
}

fn missing(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        Error::caused(Kind::Corrupt, "it is missing from the repository", error)
    } else {
        error
    }
}
