//! The consistent cut: one instant at which nothing is written to any database, and of which every snapshot is.
//!
//! Every hold is taken, then every snapshot is opened, and only after the last of them is open each hold must prove that it was unbroken since it was
//! taken. So at the moment of the last opening all holds were in force, and whatever clocks say, every snapshot is of that moment. Anything else
//! voids the attempt. Nothing is written to the journal in between: the writers would pay for it. `docs/consistency.md` has the proof.

mod attempt;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, RunKey, SetId, StepId};
use keepsake_core::record::{Cut, Failure, Sealing};
use serde::{Deserialize, Serialize};

use self::attempt::{Attempt, Void};
use crate::fleet::{Fleet, OnProgress, Progress};
use crate::plan::CutLimits;

/// Between attempts; the next is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How often it is asked again whether everything is ready.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// So long is waited for agents to say that they stop what a void attempt has begun.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// What a cut leaves for the dumps that go on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The proof.
    pub cut: Cut,
    /// The name of each component's hold: its dump is asked for by it.
    pub holds: BTreeMap<Component, String>,
    /// Components that could not be held because they cannot be dumped either.
    pub failed: BTreeMap<Component, Failure>,
}

/// The step of a component's dump that was begun in this attempt; each attempt begins its own.
///
/// # Errors
/// The step's name is too long.
pub fn dump_step(step: &StepId, attempt: u32) -> Result<StepId> {
    StepId::new(format!("{step}.{attempt}"))
}

/// What is cut.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) fleet: &'a dyn Fleet,
    pub(super) run: &'a RunKey,
    pub(super) set: SetId,
    pub(super) sealing: &'a Sealing,
    /// In this order they are held; those of a group together.
    pub(super) groups: &'a [Vec<Component>],
    pub(super) limits: CutLimits,
    pub(super) progress: OnProgress<'a>,
}

/// Makes the cut, in several attempts if need be.
///
/// # Errors
/// `Unsupported` when a component can never be held; `Busy` when no attempt succeeded, with the reason of each. Nothing is held any more.
pub(super) async fn make(order: Order<'_>) -> Result<Made> {
    let mut void: Vec<String> = Vec::new();
    let mut pauses = Duration::ZERO;
    let mut failed = BTreeMap::new();
    let mut unreachable = BTreeMap::new();
    for number in 1..=order.limits.attempts {
        if number > 1 {
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow((number - 2).min(6))).await;
        }
        let silent = wait_until_ready(&order, &failed).await?;
        let tried = Attempt::new(&order, number).make(&silent, &mut failed, &mut unreachable).await;
        match tried {
            Ok(mut made) => {
                made.cut.pauses_us = micros(pauses) + made.cut.pause_us;
                made.cut.void = void;
                made.failed = failed;
                return Ok(made);
            }
            Err(Void { why, pause }) => {
                pauses += pause;
                stop_dumps(&order).await;
                if why.kind() == Kind::Unsupported || failed.len() == order.groups.iter().flatten().count() {
                    return Err(why);
                }
                tracing::warn!("attempt {number} at a cut is void: {}", why.chain());
                void.push(format!("attempt {number}, writers waited {pause:?}: {}", why.chain()));
                if pauses >= order.limits.pauses() {
                    void.push(format!("the writers have waited {pauses:?} by now, which is enough"));
                    break;
                }
            }
        }
    }
    Err(Error::new(Kind::Busy, format!("no cut could be made: {}", void.join("; "))))
}

/// Waits until every agent says that a hold would be had at once; gives those that say nothing at all. Nothing is locked meanwhile.
async fn wait_until_ready(
    order: &Order<'_>,
    failed: &BTreeMap<Component, Failure>,
) -> Result<BTreeMap<Component, Failure>> {
    let end = tokio::time::Instant::now() + order.limits.ready_within();
    loop {
        let components = order.groups.iter().flatten().filter(|c| !failed.contains_key(*c));
        let asked = join_all(components.map(async |c| (c, order.fleet.ready_to_hold(c).await))).await;
        let mut waiting = Vec::new();
        let mut silent = BTreeMap::new();
        for (component, answer) in asked {
            match answer {
                Ok(None) => {}
                Ok(Some(why)) => waiting.push(format!("{component}: {why}")),
                Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Timeout) => {
                    silent.insert(component.clone(), Failure::from(&e));
                }
                // What is wrong with it shows when it is prepared.
                Err(e) => tracing::debug!("ask {component} whether it is ready: {}", e.chain()),
            }
        }
        if waiting.is_empty() {
            return Ok(silent);
        }
        let waiting = waiting.join("; ");
        if tokio::time::Instant::now() >= end {
            return Err(Error::new(
                Kind::Busy,
                format!("no cut could be made: not ready for {:?}: {waiting}", order.limits.ready_within()),
            ));
        }
        (order.progress)(Progress { phase: format!("waiting for {waiting}"), ..Progress::default() });
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Ends the dumps that a void attempt has begun.
async fn stop_dumps(order: &Order<'_>) {
    let all = join_all(order.groups.iter().flatten().map(async |component| {
        if let Err(e) = order.fleet.cancel_run(component, order.run).await {
            // It stops by itself when nobody asks for it any more, and the next attempt finds it busy until then.
            tracing::debug!("stop the dump of {component}: {}", e.chain());
        }
    }));
    // An agent that does not answer stops by itself, too.
    if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
        tracing::debug!("not every agent has answered within {STOP_WITHIN:?} that it stops");
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
