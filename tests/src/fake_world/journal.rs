//! A journal whose coordinator dies, sleeps or is cancelled at a chosen place of it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keepsake_coordinator::run::Journal;
use keepsake_coordinator::run::event::Event;
use keepsake_core::error::{Kind, Result};
use keepsake_core::repository::runs::RunLog;
use tokio_util::sync::CancellationToken;

use super::{FakeWorld, Flaw};

/// What happens to a coordinator. Places are counted over all epochs of a run: two to an entry, before it is written and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// It is killed, and somebody resumes the run.
    Crash(usize),
    /// It is killed, whoever takes the run over is killed before that is done, and then somebody resumes it.
    CrashTwice(usize),
    /// It is killed, and somebody cancels the run.
    CrashAndCancel(usize),
    /// It is asked to stop.
    Cancel(usize),
    /// It sleeps until somebody else has resumed the run and come to its end, and then tries to go on.
    Sleep(usize),
}

impl Strike {
    /// Where.
    pub fn at(self) -> usize {
        match self {
            Self::Crash(at) | Self::CrashTwice(at) | Self::CrashAndCancel(at) | Self::Cancel(at) | Self::Sleep(at) => {
                at
            }
        }
    }
}

/// How far a run's journal is, over all of its epochs, and what happens next.
#[derive(Debug, Clone)]
pub struct Script(Arc<Mutex<Progress>>);

#[derive(Debug)]
struct Progress {
    place: usize,
    strikes: Vec<Strike>,
    struck: Option<(Strike, Event)>,
    /// The first failure of the run was withheld.
    withheld: bool,
}

impl Script {
    /// Strikes in the order of their places.
    pub fn new(strikes: &[Strike]) -> Self {
        let strikes = strikes.iter().rev().copied().collect();
        Self(Arc::new(Mutex::new(Progress { place: 0, strikes, struck: None, withheld: false })))
    }

    /// How many places there were.
    pub fn places(&self) -> usize {
        self.lock().place
    }

    /// What has struck, and at which entry.
    pub fn struck(&self) -> Option<(Strike, Event)> {
        self.lock().struck.clone()
    }

    fn next(&self, event: &Event) -> Option<Strike> {
        let mut progress = self.lock();
        let place = progress.place;
        progress.place += 1;
        progress.strikes.pop_if(|strike| strike.at() == place).inspect(|strike| {
            progress.struck = Some((*strike, event.clone()));
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.0.lock().expect("the script")
    }
}

/// The journal of one epoch.
pub struct Mortal {
    /// The real one.
    pub log: RunLog,
    /// Learns what is durable.
    pub world: FakeWorld,
    /// What happens.
    pub script: Script,
    /// Tells that the coordinator is dead or asleep.
    pub gone: CancellationToken,
    /// Wakes one that sleeps.
    pub wake: CancellationToken,
    /// The run's own wish to stop.
    pub cancel: CancellationToken,
    /// What is broken on purpose.
    pub flaw: Option<Flaw>,
}

impl Mortal {
    async fn place(&self, event: &Event) {
        match self.script.next(event) {
            None => {}
            Some(Strike::Cancel(_)) => self.cancel.cancel(),
            Some(_) => {
                self.gone.cancel();
                // Who is dead is dropped here.
                self.wake.cancelled().await;
            }
        }
    }

    fn is_withheld(&self, event: &Event) -> bool {
        match (self.flaw, event) {
            (Some(Flaw::StartedIsNotDurable), Event::Started { .. } | Event::UndoStarted { .. })
            | (Some(Flaw::UnwindingIsForgotten), Event::Unwinding { .. })
            | (Some(Flaw::PlannedIsNotDurable), Event::Planned { .. }) => true,
            (Some(Flaw::CauseIsLost), Event::Failed { .. }) => {
                !std::mem::replace(&mut self.script.lock().withheld, true)
            }
            _ => false,
        }
    }
}

/// What an entry announces or ends, as the world calls it.
fn name(event: &Event) -> Option<(String, bool)> {
    let hook = |step: &str| match step {
        "resume-workloads" | "undo-quiesce" | "undo-quiesce-but-worker" => "resume".to_owned(),
        "undo-close-routes" => "open-routes".to_owned(),
        "undo-open-routes" => "close-routes".to_owned(),
        "undo-resume-workloads" => "quiesce".to_owned(),
        // What follows is made anew.
        other => match other.strip_prefix("undo-") {
            Some(step) if ["roll-out", "check-applications"].contains(&step) || step.starts_with("resync-") => {
                step.to_owned()
            }
            Some(_) | None => other.to_owned(),
        },
    };
    match event {
        Event::Started { step } => Some((hook(step.as_str()), true)),
        Event::Succeeded { step, .. } | Event::Failed { step, .. } => Some((hook(step.as_str()), false)),
        Event::UndoStarted { step } => Some((hook(&format!("undo-{step}")), true)),
        Event::Undone { step } | Event::UndoFailed { step, .. } => Some((hook(&format!("undo-{step}")), false)),
        _ => None,
    }
}

#[async_trait]
impl Journal for Mortal {
    async fn append(&mut self, event: &Event) -> Result<()> {
        self.place(event).await;
        if !self.is_withheld(event) {
            match self.log.append(event).await {
                Err(e) if e.kind() == Kind::Conflict && self.flaw == Some(Flaw::JournalDoesNotFence) => {}
                done => done?,
            }
            if matches!(event, Event::Planned { .. }) {
                self.world.is_planned();
            }
            match name(event) {
                Some((step, true)) => self.world.durable(step),
                Some((step, false)) => self.world.over(&step),
                None => {}
            }
        }
        self.place(event).await;
        Ok(())
    }

    async fn cancel_asked(&self) -> Result<bool> {
        Ok(false)
    }
}
