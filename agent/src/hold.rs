//! Holds as callers see them: one at a time, under a lease, ended by release, by silence or by hanging up.
//!
//! The stream of the call is the hold. What is asked is answered one by one; when the stream ends, however it ends, the hold is released. The
//! datastore frees its writers by itself if this agent does not live to do so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::{Engine, Hold, Prepared};

/// A lease may be so long at most: nobody's writers wait longer for a coordinator that is gone.
pub const LONGEST_LEASE: Duration = Duration::from_secs(10);
/// To get a hold may take so long at most.
pub const LONGEST_BUDGET: Duration = Duration::from_secs(5);
/// A hold that is ready may wait so long to be taken.
pub const READY_FOR: Duration = Duration::from_secs(30);

/// The hold of this agent, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Holds(Arc<Mutex<Slot>>);

#[derive(Default)]
enum Slot {
    #[default]
    Free,
    /// Somebody prepares or has a hold; taken, it has a name, and what the dump under it needs.
    Claimed { run: RunKey, taken: Option<(Token, Option<Prepared>)>, released: CancellationToken },
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Free) { "Free" } else { "Claimed" })
    }
}

type Token = String;

impl Holds {
    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to hold, for one caller at a time.
    ///
    /// # Errors
    /// `Busy` while somebody else has it.
    pub fn claim(&self, run: RunKey) -> Result<Claim> {
        let mut slot = self.lock();
        if let Slot::Claimed { run: other, .. } = &*slot {
            return Err(Error::new(Kind::Busy, format!("run {other} holds the writes, or is about to")));
        }
        let released = CancellationToken::new();
        *slot = Slot::Claimed { run: run.clone(), taken: None, released: released.clone() };
        Ok(Claim { holds: self.clone(), run, released })
    }

    /// What the dump under the hold of this name needs, and what is cancelled when the hold is over; given once, and only while it is in force.
    ///
    /// # Errors
    /// `Conflict` when there is no such hold, or its dump was begun before.
    pub fn prepared(&self, token: &str, run: &RunKey) -> Result<(Prepared, CancellationToken)> {
        let found = match &mut *self.lock() {
            Slot::Claimed { run: holder, taken: Some((name, prepared)), released }
                if holder == run && name == token =>
            {
                prepared.take().map(|prepared| (prepared, released.clone()))
            }
            Slot::Free | Slot::Claimed { .. } => None,
        };
        found.ok_or_else(|| {
            Error::new(Kind::Conflict, "the hold that this dump belongs to is not in force: the cut must be made anew")
        })
    }
}

/// The right to hold; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    holds: Holds,
    run: RunKey,
    /// Tells the dump under the hold that writers go on.
    released: CancellationToken,
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.holds.lock() = Slot::Free;
        self.released.cancel();
    }
}

/// One hold from its preparation to its end.
pub struct Session {
    claim: Claim,
    hold: Box<dyn Hold>,
    /// Since when writes are held, and until when unless it is renewed.
    held: Option<(Instant, Instant)>,
    lease: Duration,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Session {
    /// Makes everything ready.
    ///
    /// # Errors
    /// `Unsupported` when this datastore cannot be held; whatever stands in the way of a dump.
    pub async fn prepare(claim: Claim, engine: &dyn Engine) -> Result<Self> {
        let hold = engine.prepare_hold().await?;
        Ok(Self { claim, hold, held: None, lease: Duration::ZERO })
    }

    /// Whose it is.
    pub fn run(&self) -> &RunKey {
        &self.claim.run
    }

    /// When it ends by itself, if nothing more is asked.
    pub fn ends(&self, since: Instant) -> Instant {
        self.held.map_or(since + READY_FOR, |(_, ends)| ends)
    }

    /// Holds; gives the name by which a dump refers to it.
    ///
    /// # Errors
    /// `Invalid` for a budget or lease that is too long, `Conflict` when it was taken before; as [`Hold::take`].
    pub async fn take(&mut self, budget: Duration, lease: Duration) -> Result<String> {
        if budget > LONGEST_BUDGET || lease > LONGEST_LEASE || budget.is_zero() || lease.is_zero() {
            return Err(Error::new(
                Kind::Invalid,
                format!("a hold has a budget of at most {LONGEST_BUDGET:?} and a lease of at most {LONGEST_LEASE:?}"),
            ));
        }
        if self.held.is_some() {
            return Err(Error::new(Kind::Conflict, "it is held already"));
        }
        let began = Instant::now();
        // From here on a release is owed, whatever comes of it.
        self.held = Some((began, began + budget + lease));
        self.lease = lease;
        let prepared = self.hold.take(budget, lease).await?;
        self.held = Some((began, Instant::now() + lease));
        let token = Uuid::new_v4().to_string();
        if let Slot::Claimed { taken, .. } = &mut *self.claim.holds.lock() {
            *taken = Some((token.clone(), Some(prepared)));
        }
        Ok(token)
    }

    /// Proves that it is unbroken and begins the lease anew.
    ///
    /// # Errors
    /// It is broken, or was not taken.
    pub async fn renew(&mut self) -> Result<()> {
        let Some((began, ends)) = self.held else {
            return Err(Error::new(Kind::Conflict, "nothing is held that could be renewed"));
        };
        let asked = Instant::now();
        if asked >= ends {
            return Err(Error::new(Kind::Timeout, format!("the lease of {:?} was over", self.lease)));
        }
        self.hold.renew().await?;
        self.held = Some((began, asked + self.lease));
        Ok(())
    }

    /// Ends it; gives for how long writes were held. The dump that was begun under it goes on.
    ///
    /// # Errors
    /// As [`Hold::release`].
    pub async fn release(&mut self) -> Result<Duration> {
        let Some((began, _)) = self.held.take() else { return Ok(Duration::ZERO) };
        if let Slot::Claimed { taken, .. } = &mut *self.claim.holds.lock() {
            *taken = None;
        }
        let released = self.hold.release().await;
        self.claim.released.cancel();
        released?;
        Ok(began.elapsed())
    }
}
