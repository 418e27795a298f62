//! Proving claims: each has cases that must hold and a deliberate break that must be seen to fail, else its cases prove nothing.
//!
//! Every case is a process of its own, this program started again, so that one that hangs or panics is alone in it. The program's last line tells
//! the verdict: `PASS`, `PARTIAL` when something was skipped (status 4), `FAIL` (status 1).

pub mod config;
pub mod cut;
pub mod engines;
mod flaws;
pub mod kube;
mod matrix;
pub mod restore;
mod run;
mod suite;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

/// What a case found, if it did not panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It holds; more about it, or nothing.
    Holds(String),
    /// It cannot be tried on this machine, and why.
    Skipped(String),
}

/// A case at work.
pub type Work = Pin<Box<dyn Future<Output = Finding>>>;

/// Something that is tried.
pub struct Case {
    /// Its name, one word within its claim.
    pub name: String,
    /// What it may take.
    pub limit: Duration,
    /// It takes something of which a machine has one: such cases come one after another, beside the others.
    pub alone: bool,
    /// Tries it; a panic says that it does not hold.
    pub work: Box<dyn Fn() -> Work + Sync>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    /// A case that has nothing to tell but that it holds.
    pub fn new<F: Future<Output = ()> + 'static>(
        name: impl Into<String>,
        limit: Duration,
        work: impl Fn() -> F + Sync + 'static,
    ) -> Self {
        Self::telling(name, limit, move || {
            let work = work();
            async move {
                work.await;
                Finding::Holds(String::new())
            }
        })
    }

    /// A case that tells more, or may be skipped.
    pub fn telling<F: Future<Output = Finding> + 'static>(
        name: impl Into<String>,
        limit: Duration,
        work: impl Fn() -> F + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), limit, alone: false, work: Box::new(move || Box::pin(work())) }
    }

    /// The same, one after another with those like it.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}

/// Something that was broken on purpose.
#[derive(Debug)]
pub struct Break {
    /// Tries it all the same; it must panic.
    pub case: Case,
    /// Words of that panic: a break that is seen for another reason is not seen.
    pub seen: &'static str,
}

/// What is claimed.
#[derive(Debug)]
pub struct Claim {
    /// Its name, one word.
    pub name: &'static str,
    /// In words.
    pub says: &'static str,
    /// What must hold.
    pub cases: Vec<Case>,
    /// What must fail.
    pub breaks: Vec<Break>,
}

/// What a case may take that takes seconds.
const SHORT: Duration = Duration::from_mins(3);
/// A case of many runs, or of all tests of a kind.
const LONG: Duration = Duration::from_mins(6);

/// The whole program: all claims, or one case of them when it was started for that. `subject` begins the last line; all is over `within` that time.
pub fn main(subject: &str, within: Duration, claims: &[Claim]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [run::CASE, claim, case] => run::one(claims, claim, case),
        [] => run::all(subject, within, claims, None),
        ["--only", claim] if claims.iter().any(|c| c.name == *claim) => run::all(subject, within, claims, Some(claim)),
        _ => {
            eprintln!(
                "usage: [--only CLAIM]; claims: {}",
                claims.iter().map(|c| c.name).collect::<Vec<_>>().join(", ")
            );
            ExitCode::from(2)
        }
    }
}
