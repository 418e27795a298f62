//! What every engine must do, the same for all, on its real server.
//!
//! After whatever went wrong: no artifact that is not whole counts as finished, no tool runs on, no file is left, the old data is there where that
//! is promised, and the next dump and load work.

mod blows;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::memory::{InPlace, MemorySink, MemorySource};
use crate::poll::wait_for;
use crate::stand::{Contents, Stand};
use keepsake_agent::engine::{Context, Engine, Source};
use keepsake_core::Kind;
use keepsake_core::error::Result;
use keepsake_core::id::{ArtifactName, Epoch, RunId, RunKey};
use keepsake_core::record::DumpReport;
use tokio_util::sync::CancellationToken;

pub use self::blows::{blows_to_a_dump, blows_to_a_load};

pub(crate) fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

pub(crate) fn run() -> RunKey {
    RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) }
}

pub(crate) fn source(stand: &dyn Stand, report: &DumpReport, bytes: Vec<u8>) -> Arc<MemorySource> {
    let name = ArtifactName::new(stand.artifact()).unwrap();
    Arc::new(MemorySource { artifacts: [(name, bytes)].into(), recorded: Some(report.clone()) })
}

pub(crate) async fn dump(stand: &dyn Stand) -> (DumpReport, Vec<u8>) {
    let sink = MemorySink::default();
    let report = stand.engine().dump(None, &sink, &context()).await.unwrap_or_else(|e| panic!("dump: {}", e.chain()));
    let mut artifacts = sink.finished();
    assert_eq!(artifacts.len(), 1);
    (report, artifacts.remove(&ArtifactName::new(stand.artifact()).unwrap()).expect("the artifact"))
}

async fn load(engine: &Arc<dyn Engine>, source: Arc<dyn Source>, cx: &Context) -> Result<()> {
    let key = run();
    engine.stage(&key, source, cx).await?;
    engine.commit(&key, cx).await?;
    engine.finalize(&key, cx).await
}

pub(crate) async fn must_load(stand: &dyn Stand, report: &DumpReport, bytes: &[u8]) {
    let source = source(stand, report, bytes.to_vec());
    load(&stand.engine(), source, &context()).await.unwrap_or_else(|e| panic!("load: {}", e.chain()));
}

/// Children of this process that are one of these tools.
fn tools_that_run(tools: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        // A process that ends while we look is none that runs on.
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        let (name, rest) =
            (stat.split(['(', ')']).nth(1).unwrap_or_default(), stat.rsplit(") ").next().unwrap_or_default());
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if tools.contains(&name) && parent == std::process::id().to_string() && state != "Z" {
            found.push(format!("{name} {}", path.file_name().unwrap_or_default().display()));
        }
    }
    found
}

/// Nothing of an operation that ended is left.
pub(crate) async fn nothing_is_left(stand: &dyn Stand, what: &str) {
    wait_for("tools and files to go", Duration::from_secs(20), async || {
        let (tools, files) = (tools_that_run(stand.tools()), stand.leftovers());
        if tools.is_empty() && files.is_empty() { Ok(()) } else { Err(format!("{what}: {tools:?} {files:?}")) }
    })
    .await;
}

pub(crate) fn same(found: &Contents, expected: &Contents, what: &str) {
    let keys: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differ: Vec<_> = keys.into_iter().filter(|k| found.get(*k) != expected.get(*k)).take(5).collect();
    assert!(differ.is_empty(), "{what}: these differ, and perhaps more: {differ:?}");
}

/// The engine says what the server is, and that it is gone when it is.
pub async fn describe(mut stand: impl Stand) {
    let description = stand.engine().describe().await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(description.problems, Vec::<String>::new());
    assert!(!description.server.is_empty());
    assert_eq!(description.tools.len(), if stand.tools().is_empty() { 0 } else { description.tools.len().max(1) });
    stand.vanish();
    let gone = stand.engine().describe().await;
    assert!(
        gone.is_err() || !gone.unwrap().problems.is_empty(),
        "a server that is gone was described as if it were there"
    );
    stand.come_back().await;
    assert_eq!(stand.engine().describe().await.unwrap().problems, Vec::<String>::new());
}

/// Empty, full and odd data come back as they were, over anything.
pub async fn round_trip(stand: impl Stand) {
    let empty = stand.contents().await;
    let (empty_report, empty_bytes) = dump(&stand).await;
    stand.fill().await;
    let full = stand.contents().await;
    let (report, bytes) = dump(&stand).await;
    same(&stand.contents().await, &full, "a dump changed something");

    stand.change().await;
    assert_ne!(stand.contents().await, full);
    must_load(&stand, &report, &bytes).await;
    same(&stand.contents().await, &full, "over changed data");
    let (again, _) = dump(&stand).await;
    assert_eq!(again.counts, report.counts);

    must_load(&stand, &empty_report, &empty_bytes).await;
    same(&stand.contents().await, &empty, "the empty one over a full one");
    must_load(&stand, &report, &bytes).await;
    same(&stand.contents().await, &full, "over nothing");
    nothing_is_left(&stand, "after round trips").await;
}

/// A dump made while somebody writes is of one moment.
pub async fn under_write_load(stand: impl Stand) {
    stand.fill().await;
    let stop = CancellationToken::new();
    // Once without writing: the place is there before the first dump.
    stop.cancel();
    stand.write_pairs(stop).await;
    let stop = CancellationToken::new();
    let writing = stand.write_pairs(stop.clone());
    let dumping = async {
        let mut dumps = Vec::new();
        for _ in 0..4 {
            dumps.push(dump(&stand).await);
        }
        stop.cancel();
        dumps
    };
    let ((), dumps) = tokio::join!(writing, dumping);
    let (last, _) = stand.pair().await;
    assert!(last > 10, "hardly anything was written: {last}");
    let mut before = 0;
    for (report, bytes) in dumps {
        must_load(&stand, &report, &bytes).await;
        let (a, b) = stand.pair().await;
        // Files have no transactions: the one written first may be ahead by one.
        let apart = if stand.artifact() == "files.tar" { a.abs_diff(b) <= last } else { a == b };
        assert!(apart, "a dump has one half of a transaction: {a} and {b}");
        assert!(a >= before, "a later dump is older");
        before = a;
    }
}

/// A cut, damaged or foreign artifact is refused at the stage, and the data stays as it is.
pub async fn refused_before_anything_is_touched(stand: impl Stand) {
    stand.fill().await;
    let (report, bytes) = dump(&stand).await;
    stand.change().await;
    let before = stand.contents().await;
    let mut bad: Vec<(String, Vec<u8>)> = Vec::new();
    for percent in [0, 10, 50, 90] {
        bad.push((format!("cut at {percent} %"), bytes[..bytes.len() * percent / 100].to_vec()));
    }
    for cut in [1, 2, 20] {
        bad.push((format!("without its last {cut} bytes"), bytes[..bytes.len() - cut].to_vec()));
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for name in ["dump.rdb", "dump.sql", "dump.pgc", "files.tar"] {
        if name != stand.artifact() {
            bad.push((format!("a {name}"), std::fs::read(corpus.join(name)).unwrap()));
        }
    }
    // Whole, but another one's.
    bad.push(("another dump".to_owned(), std::fs::read(corpus.join(stand.artifact())).unwrap()));
    for (what, bytes) in bad {
        let (engine, key) = (stand.engine(), run());
        let refused = engine.stage(&key, source(&stand, &report, bytes), &context()).await;
        let error = refused.err().unwrap_or_else(|| panic!("{what} was staged"));
        assert!(
            matches!(error.kind(), Kind::Corrupt | Kind::Unsupported),
            "{what}: {:?} {}",
            error.kind(),
            error.chain()
        );
        let committed = engine.commit(&key, &context()).await.expect_err("a commit of what was not staged");
        assert_eq!(committed.kind(), Kind::Conflict, "{what}: {}", committed.chain());
        engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        nothing_is_left(&stand, &what).await;
    }
    same(&stand.contents().await, &before, "after all that was refused");
    must_load(&stand, &report, &bytes).await;
}

/// What a run has put in the place of the old data is not overwritten by the same run: what can be put back would be of no use any more.
pub async fn in_place_is_refused_beside_what_can_be_taken_back(stand: impl Stand) {
    stand.fill().await;
    let (report, bytes) = dump(&stand).await;
    let full = stand.contents().await;
    stand.change().await;
    let before = stand.contents().await;
    let (engine, key) = (stand.engine(), run());
    let beside = source(&stand, &report, bytes);
    let must = |done: Result<()>, what: &str| done.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    must(engine.stage(&key, beside.clone(), &context()).await.map(drop), "stage");
    must(engine.commit(&key, &context()).await.map(drop), "commit");
    for engine in [engine, stand.engine()] {
        let refused = engine.stage(&key, Arc::new(InPlace(beside.clone())), &context()).await;
        let error = refused.expect_err("it was staged in place over what it had put in place");
        assert_eq!(error.kind(), Kind::Conflict, "{}", error.chain());
        assert!(error.chain().contains("roll"), "it does not say what to do: {}", error.chain());
        let mut now = stand.contents().await;
        // Of files the old ones lie among the new ones.
        now.retain(|name, _| !name.starts_with(".keepsake-"));
        same(&now, &full, "after the refusal");
    }
    must(stand.engine().rollback(&key, &context()).await, "roll it back");
    same(&stand.contents().await, &before, "after it was rolled back");
    nothing_is_left(&stand, "after it was rolled back").await;
}
