//! Running cases: each in a process of its own, several at a time, and what is told of it.
#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use super::{Case, Claim, Finding};
use crate::child::{run, tool_command};

/// The argument with which this program is started for one case.
pub const CASE: &str = "--case";
/// The statuses of such a process; a panic is 101.
const HOLDS: u8 = 0;
const SKIPPED: u8 = 4;
const PANICKED: i32 = 101;
/// Cases at the same time: most of them wait most of the time, and two cores are never all theirs.
const TOGETHER: usize = 4;
/// Lines of a failed case that are shown.
const SHOWN: usize = 40;

/// Runs one case, as the child of [`all`].
pub fn one(claims: &[Claim], claim: &str, case: &str) -> ExitCode {
    let found = claims
        .iter()
        .filter(|c| c.name == claim)
        .flat_map(|c| c.cases.iter().chain(c.breaks.iter().map(|b| &b.case)))
        .find(|c| c.name == case);
    let Some(found) = found else {
        eprintln!("there is no case {case} of {claim}");
        return ExitCode::from(2);
    };
    let limit = found.limit;
    // The servers that it started die with it.
    std::thread::spawn(move || {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            std::thread::park_timeout(end - Instant::now());
        }
        eprintln!("it took more than {limit:?}");
        // Nothing in it may be able to answer any more.
        let _dead = kill_process(getpid(), Signal::KILL);
    });
    // One thread: servers die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on((found.work)()) {
        Finding::Holds(more) => {
            println!("{more}");
            ExitCode::from(HOLDS)
        }
        Finding::Skipped(why) => {
            println!("{why}");
            ExitCode::from(SKIPPED)
        }
    }
}

/// What came of a case.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Held,
    Skipped,
    Failed,
}

/// One case of one claim, and if it must fail, the words that tell it failed for what was broken.
struct Job<'a> {
    claim: &'a Claim,
    case: &'a Case,
    seen: Option<&'static str>,
}

/// Runs everything, or one claim and counts the others as skipped; prints the verdict as the last line. A case that could not be over `within` that
/// time is not begun, and counts as skipped.
pub fn all(subject: &str, within: Duration, claims: &[Claim], only: Option<&str>) -> ExitCode {
    let began = Instant::now();
    for claim in claims {
        println!("{}: {} ({} cases)", claim.name, claim.says, claim.cases.len());
        assert!(!claim.cases.is_empty() && !claim.breaks.is_empty(), "{}: nothing is proved", claim.name);
    }
    let jobs: Vec<Job<'_>> = claims
        .iter()
        .filter(|c| only.is_none_or(|only| c.name == only))
        .flat_map(|claim| {
            let cases = claim.cases.iter().map(move |case| Job { claim, case, seen: None });
            cases.chain(claim.breaks.iter().map(move |b| Job { claim, case: &b.case, seen: Some(b.seen) }))
        })
        .collect();
    let left_out: usize = claims.iter().filter(|c| only.is_some_and(|o| c.name != o)).map(|c| c.cases.len()).sum();
    let (alone, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.case.alone);
    let next = AtomicUsize::new(0);
    let came = Mutex::new(Vec::new());
    let work = |job: &Job<'_>| {
        let late = began.elapsed() + job.case.limit > within;
        let (result, told) = if late { job.skip("there was no time") } else { job.run() };
        println!("[{:>6.1} s] {told}", began.elapsed().as_secs_f64());
        came.lock().expect("results").push((job.seen.is_some(), result));
    };
    // Children die with the thread that started them; these threads wait for theirs.
    std::thread::scope(|scope| {
        if !alone.is_empty() {
            scope.spawn(|| alone.iter().for_each(work));
        }
        for _ in usize::from(!alone.is_empty())..TOGETHER {
            scope.spawn(|| {
                while let Some(job) = others.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(job);
                }
            });
        }
    });
    let ((word, numbers), status) = verdict(&came.into_inner().expect("results"), left_out);
    println!("{subject}: {word} claims={} {numbers}", claims.len());
    ExitCode::from(status)
}

/// The word and the numbers of the last line, and the status, from what came of all cases (`true`: of a break) and how many were left out.
fn verdict(came: &[(bool, Came)], left_out: usize) -> ((&'static str, String), u8) {
    let count = |result: Came| came.iter().filter(|(_, r)| *r == result).count();
    let skipped = left_out + count(Came::Skipped);
    let cases = came.iter().filter(|(is_break, r)| !is_break && *r != Came::Skipped).count();
    let (word, status) = match (count(Came::Failed), skipped) {
        (0, 0) => ("PASS", 0),
        (0, _) => ("PARTIAL", 4),
        (_, _) => ("FAIL", 1),
    };
    ((word, format!("cases={cases} skipped={skipped}")), status)
}

impl Job<'_> {
    fn skip(&self, why: &str) -> (Came, String) {
        (Came::Skipped, format!("{} {} SKIPPED: {why}", self.claim.name, self.case.name))
    }

    fn run(&self) -> (Came, String) {
        let began = Instant::now();
        let mut command = tool_command(std::env::current_exe().expect("this program's path"));
        command.args([CASE, self.claim.name, &self.case.name]).env("RUST_BACKTRACE", "0");
        let done = run(&mut command);
        let said = String::from_utf8_lossy(&done.stdout);
        let last = said.lines().last().unwrap_or_default();
        let name = format!("{} {}", self.claim.name, self.case.name);
        let took = began.elapsed().as_secs_f64();
        let colon = if last.is_empty() { "" } else { ": " };
        let stderr = String::from_utf8_lossy(&done.stderr);
        match (done.status.code(), self.seen) {
            (Some(0), None) => (Came::Held, format!("{name} holds ({took:.1} s){colon}{last}")),
            (Some(PANICKED), Some(words)) if stderr.contains(words) => (
                Came::Held,
                format!("{name}: broken on purpose, and seen ({took:.1} s): {}", line_with(&stderr, words)),
            ),
            (Some(4), _) => self.skip(last),
            (_, Some(words)) => (
                Came::Failed,
                format!("{name}: broken on purpose, and NOT SEEN by {words:?}: {}\n{}", done.status, tail(&stderr)),
            ),
            (_, None) => (Came::Failed, format!("{name} FAILED: {}\n{}", done.status, tail(&stderr))),
        }
    }
}

/// The line that has these words, not too long.
fn line_with(stderr: &str, words: &str) -> String {
    stderr.lines().find(|l| l.contains(words)).unwrap_or(words).trim().chars().take(160).collect()
}

fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().collect();
    let at = lines.iter().position(|l| l.contains("panicked at")).unwrap_or(lines.len().saturating_sub(SHOWN));
    lines.iter().skip(at).take(SHOWN).map(|l| format!("    {l}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_tried_and_held_is_a_pass() {
        let told = |came: &[(bool, Came)], left_out| {
            let ((word, numbers), status) = verdict(came, left_out);
            (format!("{word} {numbers}"), status)
        };
        assert_eq!(told(&[(false, Came::Held), (true, Came::Held)], 0), ("PASS cases=1 skipped=0".to_owned(), 0));
        assert_eq!(told(&[(false, Came::Held), (true, Came::Skipped)], 0).1, 4, "a break that was not tried");
        assert_eq!(told(&[(false, Came::Held)], 3), ("PARTIAL cases=1 skipped=3".to_owned(), 4));
        assert_eq!(told(&[(false, Came::Held), (true, Came::Failed)], 0).1, 1, "a break that nobody saw");
        let failed = told(&[(false, Came::Failed), (false, Came::Skipped)], 0);
        assert_eq!(failed, ("FAIL cases=1 skipped=1".to_owned(), 1));
    }
}
