//! The matrix of servers as cases: cargo runs its tests, their findings are read.

use std::path::{Path, PathBuf};

use super::{Finding, suite};
use crate::child::{is_root, run, tool_command};
use crate::scratch::Scratch;

/// Where `tests/matrix` is.
const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/matrix");

/// The folder of unpacked roots: `KEEPSAKE_MATRIX_DIR`, else beside what is built.
fn folder() -> PathBuf {
    std::env::var_os("KEEPSAKE_MATRIX_DIR").map_or_else(
        || crate::house::programs().parent().expect("a target folder").join("matrix"),
        |given| std::path::absolute(given).expect("an absolute path"),
    )
}

/// Why this machine cannot run the matrix, if so.
fn hindrance() -> Option<String> {
    if !is_root() {
        return Some("only root can run servers of other releases under chroot".to_owned());
    }
    let has = |program: &str| run(tool_command("sh").args(["-c", &format!("command -v {program}")])).status.success();
    let missing: Vec<&str> = ["mmdebstrap", "unshare", "apt-get"].into_iter().filter(|p| !has(p)).collect();
    (!missing.is_empty()).then(|| format!("{} is not on this machine", missing.join(", ")))
}

/// Runs the matrix's tests whose names begin so; what cannot be had is not tried.
pub fn engine(engine: &str) -> Finding {
    if let Some(why) = hindrance() {
        return Finding::Skipped(why);
    }
    let folder = folder();
    std::fs::create_dir_all(&folder).expect("make the folder of roots");
    let unpacked = run(tool_command(format!("{MATRIX}/unpack")).arg(&folder));
    if !unpacked.status.success() {
        return Finding::Skipped("no server of another release can be had".to_owned());
    }
    let results = folder.join("results");
    for old in findings(&results, engine) {
        std::fs::remove_file(old).expect("remove an old finding");
    }
    let done = matrix(&folder, &format!("{engine}::"));
    assert!(done.status.success(), "the matrix failed:\n{}", suite::end_of(&done));
    let found: Vec<String> = findings(&results, engine)
        .iter()
        .map(|f| std::fs::read_to_string(f).expect("a finding").trim_end().to_owned())
        .collect();
    let count =
        |word: &str| found.iter().filter(|f| f.rsplit('\t').next().is_some_and(|o| o.starts_with(word))).count();
    let (works, refused, not_tried) = (count("works"), count("refused"), count("*not tried*"));
    assert_eq!(works + refused + not_tried, found.len(), "other findings: {found:#?}");
    assert!(works > 0, "nothing was tried: {found:#?}");
    Finding::Holds(format!("{works} work, {refused} refused as they should be, {not_tried} not tried"))
}

/// A test of the matrix that expects a refusal, on roots of which one is not what its name says: it must fail.
pub fn mislabelled() -> Finding {
    if let Some(why) = hindrance() {
        return Finding::Skipped(why);
    }
    let (roots, scratch) = (folder(), Scratch::new());
    let old = roots.join("bullseye-redis");
    if !old.is_dir() {
        return Finding::Skipped("Redis 6.0 cannot be had, without which nothing is refused".to_owned());
    }
    let wrong = scratch.folder("matrix", 0o755);
    for name in ["bullseye-redis", "sid-redis"] {
        std::os::unix::fs::symlink(&old, wrong.join(name)).expect("a root under another's name");
    }
    let done = matrix(&wrong, "redis::pairs::redis_8_to_6");
    assert!(done.status.success(), "the matrix failed:\n{}", suite::end_of(&done));
    Finding::Holds("nothing was noticed".to_owned())
}

/// One process for all: what a test of nextest's would be is enough, where nothing looks for its own children.
fn matrix(folder: &Path, names: &str) -> std::process::Output {
    suite::of("matrix", &[names], 2, &[("KEEPSAKE_MATRIX_DIR", folder.as_os_str())])
}

fn findings(results: &Path, engine: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(results) else { return Vec::new() };
    let paths = entries.map(|e| e.expect("an entry").path());
    paths.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(engine))).collect()
}
