//! What a run of the fake world that was struck must have in common with one that was not.

use keepsake_coordinator::run::event::Outcome;

use super::journal::Strike;
use super::lab::{Case, Kinds, Lab, Told};
use super::{Flaw, NEW, OLD, Wrong};

impl Case {
    /// Runs this, with these steps going wrong and these strikes.
    pub fn new(kind: Kinds, wrong: &[(&str, Wrong)], strikes: &[Strike]) -> Self {
        let wrong = wrong.iter().map(|(step, how)| ((*step).to_owned(), *how)).collect();
        Self { kind, wrong, strikes: strikes.to_vec(), discards: false, flaw: None }
    }
}

impl Told {
    /// What differs between a run that was struck and one that was not.
    pub fn differs_from(&self, smooth: &Self) -> Vec<String> {
        let mut found = self.wrong.clone();
        // It was loading over live data when it was struck, and nobody has heard how that ended: that the next try failed proves nothing.
        if self.outcome == Outcome::Stuck && smooth.outcome == Outcome::Failed && self.not_undone == ["commit-files"] {
            return found;
        }
        let mut compare = |what: &str, struck: String, smooth: String| {
            if struck != smooth {
                found.push(format!("{what}: {struck} instead of {smooth}"));
            }
        };
        compare("outcome", format!("{:?}", self.outcome), format!("{:?}", smooth.outcome));
        compare("cause", format!("{:?}", self.cause), format!("{:?}", smooth.cause));
        compare("stores", format!("{:?}", self.stores), format!("{:?}", smooth.stores));
        compare("Config", format!("{:?}", self.config), format!("{:?}", smooth.config));
        compare("running", format!("{:?}", self.running), format!("{:?}", smooth.running));
        compare("followed", format!("{:?}", self.followed), format!("{:?}", smooth.followed));
        compare("set", format!("{:?}", self.set), format!("{:?}", smooth.set));
        found
    }

    /// Of a run that was given up: it went back, or it was past the point and came to its end.
    pub fn gone_back_or_through(&self, smooth: &Self, kind: Kinds) -> Vec<String> {
        let mut found = self.wrong.clone();
        match self.outcome {
            // What is built stays; before that nothing is.
            Outcome::Cancelled if matches!(kind, Kinds::Rebuild | Kinds::ObjectsOnly) => {
                let [(objects, _), data @ ..] = &self.stores[..] else { panic!("{:?}", self.stores) };
                if data.iter().any(|(base, _)| base != OLD) || self.running != (objects == NEW) {
                    found.push(format!("cancelled, and running: {}, {:?}", self.running, self.stores));
                }
            }
            Outcome::Cancelled => {
                let back = if matches!(kind, Kinds::Finalize | Kinds::Rollback) { NEW } else { OLD };
                if self.stores.iter().any(|(base, _)| base != back) {
                    found.push(format!("cancelled, and {:?}", self.stores));
                }
            }
            // One of them is loaded over its live data already, or nobody knows whether it is.
            Outcome::Stuck if kind == Kinds::Mixed && self.not_undone == ["commit-files"] => {}
            _ => found.extend(self.differs_from(smooth)),
        }
        found
    }
}

/// What is wrong with restores whose coordinator is struck at each place of the journal in turn, while this is broken on purpose; what of the first at
/// which anything is.
pub async fn seen_of(lab: &Lab, flaw: Flaw, wrong: &[(&str, Wrong)], strike: impl Fn(usize) -> Strike) -> Vec<String> {
    seen_of_a(Kinds::Restore, lab, flaw, wrong, strike).await
}

/// The same of runs of this kind.
pub async fn seen_of_a(
    kind: Kinds,
    lab: &Lab,
    flaw: Flaw,
    wrong: &[(&str, Wrong)],
    strike: impl Fn(usize) -> Strike,
) -> Vec<String> {
    let smooth = lab.run(&Case::new(kind, wrong, &[])).await;
    for at in 0..smooth.places {
        let struck = lab.run(&Case { flaw: Some(flaw), ..Case::new(kind, wrong, &[strike(at)]) }).await;
        let found = match strike(at) {
            Strike::CrashAndCancel(_) => struck.gone_back_or_through(&smooth, kind),
            _ => struck.differs_from(&smooth),
        };
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}
