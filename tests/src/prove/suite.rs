//! Tests of a test binary as cases, one at a time or several, in one process; how many there were is told, and what they skipped.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Output;

use super::Finding;
use crate::child::{run, tool_command};

/// Lines of a failure that are shown.
const SHOWN: usize = 60;

/// Runs the tests of a binary whose names have one of these words in them. What must be said of the environment is said so.
///
/// # Panics
/// When it cannot be built.
pub fn of(binary: &str, names: &[&str], threads: usize, environment: &[(&str, &OsStr)]) -> Output {
    // Not by cargo, which does not take its child with it when it is killed.
    let mut command = tool_command(built(binary));
    // Not captured: a test that skips something says so.
    command.args(["--nocapture", "--test-threads", &threads.to_string()]).args(names);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).envs(environment.iter().copied());
    run(&mut command)
}

/// The path of a test binary, which cargo builds if it is not there.
fn built(binary: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = tool_command(cargo);
    command.args(["test", "--locked", "-p", "keepsake-tests", "--no-run", "--message-format=json", "--test", binary]);
    let done = run(command.current_dir(env!("CARGO_MANIFEST_DIR")));
    assert!(done.status.success(), "the tests cannot be built:\n{}", end_of(&done));
    let text = String::from_utf8_lossy(&done.stdout);
    let messages = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let mut paths =
        messages.filter(|m| m["target"]["name"] == binary).filter_map(|m| m["executable"].as_str().map(PathBuf::from));
    paths.next_back().unwrap_or_else(|| panic!("cargo does not tell where {binary} is"))
}

/// Runs tests of the ordinary suite, striking at every place where they strike, or with a `stride` at every so many, beginning with the one of number
/// `first`.
///
/// # Panics
/// When one fails, or there are fewer than `least`.
pub fn soaked(names: &[&str], least: usize, stride: &str, first: &str) -> Finding {
    let places = [("KEEPSAKE_SOAK", OsStr::new(stride)), ("KEEPSAKE_SOAK_FIRST", OsStr::new(first))];
    judged(&of("it", names, 1, &places), names, least)
}

/// Runs tests of a binary as they are.
///
/// # Panics
/// When one fails, or there are fewer than `least`.
pub fn whole(binary: &str, names: &[&str], least: usize) -> Finding {
    judged(&of(binary, names, 1, &[]), names, least)
}

/// Runs a test that is ignored otherwise because it takes long.
///
/// # Panics
/// When it fails, or is not there.
pub fn long(binary: &str, name: &str) -> Finding {
    judged(&of(binary, &["--include-ignored", name], 1, &[]), &[name], 1)
}

/// Runs a test that is ignored otherwise: in it something is broken on purpose.
///
/// # Panics
/// With what it said, when it fails, as it must.
pub fn broken(binary: &str, name: &str) -> Finding {
    let done = of(binary, &["--ignored", name], 1, &[]);
    assert!(done.status.success(), "{}", end_of(&done));
    assert!(passed(&said(&done)) == 1, "there is no test {name}");
    let told = said(&done);
    told.lines()
        .find(|l| l.starts_with("SKIPPED"))
        .map_or_else(|| Finding::Holds(String::new()), |why| Finding::Skipped(why.to_owned()))
}

fn judged(done: &Output, names: &[&str], least: usize) -> Finding {
    assert!(done.status.success(), "tests failed:\n{}", end_of(done));
    let told = said(done);
    let passed = passed(&told);
    assert!(passed >= least, "{passed} tests were run, not {least}: {names:?}");
    let skipped: Vec<&str> = told.lines().filter(|l| l.starts_with("SKIPPED")).collect();
    match skipped.as_slice() {
        [] => Finding::Holds(format!("{passed} tests")),
        [..] => Finding::Skipped(skipped.join("; ")),
    }
}

/// Everything that was said.
fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// How many tests passed.
fn passed(told: &str) -> usize {
    let results = told.lines().filter_map(|l| l.strip_prefix("test result: ok. "));
    results.filter_map(|l| l.split(' ').next()?.parse::<usize>().ok()).sum()
}

/// What was said of tests that failed, and the end.
pub fn end_of(done: &Output) -> String {
    let all = said(done);
    let (of_failures, others): (Vec<&str>, Vec<&str>) =
        all.lines().partition(|l| l.contains("panicked at") || l.ends_with("... FAILED"));
    let words = all.lines().skip_while(|l| !l.contains("panicked at")).take(SHOWN / 2);
    let end = others.iter().skip(others.len().saturating_sub(SHOWN / 4)).copied();
    of_failures.iter().copied().take(SHOWN / 4).chain(words).chain(end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_that_passed_are_counted() {
        let told = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\nx\ntest result: FAILED. 7 passed; 1 failed";
        assert_eq!(passed(told), 2);
        assert_eq!(passed("test result: ok. 0 passed; 0 failed; 300 filtered out"), 0);
    }
}
