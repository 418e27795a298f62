//! What every engine must do, the same for all, on its real server.
//!
//! After whatever went wrong: no artifact that is not whole counts as finished, no tool runs on, no file is left, the old data is there where that
//! is promised, and the next dump and load work.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::engine::{Context, Engine, Source};
use keepsake_core::Kind;
use keepsake_core::error::Result;
use keepsake_core::id::{ArtifactName, Epoch, RunId, RunKey};
use keepsake_core::record::DumpReport;
use keepsake_tests::gate::{Gate, GatedSink, GatedSource};
use keepsake_tests::memory::{MemorySink, MemorySource};
use keepsake_tests::poll::wait_for;
use keepsake_tests::stand::{Contents, Files, Mysql, Postgres, Redis, Stand};
use tokio_util::sync::CancellationToken;

/// Where in a dump or load something happens: parts of its length, in percent.
const PLACES: [u64; 4] = [0, 30, 60, 99];

fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

fn run() -> RunKey {
    RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) }
}

fn source(stand: &dyn Stand, report: &DumpReport, bytes: Vec<u8>) -> Arc<MemorySource> {
    let name = ArtifactName::new(stand.artifact()).unwrap();
    Arc::new(MemorySource { artifacts: [(name, bytes)].into(), recorded: Some(report.clone()) })
}

async fn dump(stand: &dyn Stand) -> (DumpReport, Vec<u8>) {
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

async fn must_load(stand: &dyn Stand, report: &DumpReport, bytes: &[u8]) {
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
async fn nothing_is_left(stand: &dyn Stand, what: &str) {
    wait_for("tools and files to go", Duration::from_secs(20), async || {
        let (tools, files) = (tools_that_run(stand.tools()), stand.leftovers());
        if tools.is_empty() && files.is_empty() { Ok(()) } else { Err(format!("{what}: {tools:?} {files:?}")) }
    })
    .await;
}

fn same(found: &Contents, expected: &Contents, what: &str) {
    let keys: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differ: Vec<_> = keys.into_iter().filter(|k| found.get(*k) != expected.get(*k)).take(5).collect();
    assert!(differ.is_empty(), "{what}: these differ, and perhaps more: {differ:?}");
}

async fn describe(mut stand: impl Stand) {
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

async fn round_trip(stand: impl Stand) {
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

async fn under_write_load(stand: impl Stand) {
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

async fn refused_before_anything_is_touched(stand: impl Stand) {
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

/// What happens in the middle of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Cancel,
    Vanish,
    KillTools,
    StoreFails,
}

const BLOWS: [Blow; 4] = [Blow::Cancel, Blow::Vanish, Blow::KillTools, Blow::StoreFails];

fn kill_tools(tools: &[&str]) -> usize {
    let running = tools_that_run(tools);
    for tool in &running {
        let pid: i32 = tool.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        // One that has just ended needs no killing.
        let _gone = rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).expect("a process"),
            rustix::process::Signal::KILL,
        );
    }
    running.len()
}

async fn blows_to_a_dump(mut stand: impl Stand) {
    stand.fill().await;
    let (_, whole) = dump(&stand).await;
    let mut failures = 0;
    for blow in BLOWS {
        for percent in PLACES {
            let what = format!("{blow:?} at {percent} % of a dump");
            let at = whole.len() as u64 * percent / 100;
            let gate = Gate::at(at);
            let mut inner = MemorySink::default();
            if blow == Blow::StoreFails {
                inner = MemorySink::failing_after(at);
                gate.open();
            }
            let sink = GatedSink { inner: inner.clone(), gate: gate.clone() };
            let cancel = CancellationToken::new();
            let (cx, _) = Context::new(cancel.clone());
            let engine = stand.engine();
            let dumping = engine.dump(None, &sink, &cx);
            let mut killed = 0;
            let strike = async {
                if !gate.reached().await {
                    return;
                }
                match blow {
                    Blow::Cancel => cancel.cancel(),
                    Blow::Vanish => stand.vanish(),
                    Blow::KillTools => killed = kill_tools(stand.tools()),
                    Blow::StoreFails => {}
                }
                gate.open();
            };
            let (done, ()) = tokio::join!(dumping, strike);
            if blow == Blow::Vanish {
                stand.come_back().await;
            }
            match done {
                Err(e) => {
                    failures += 1;
                    assert!(inner.finished().is_empty(), "{what}: a dump that failed has an artifact: {}", e.chain());
                    if blow == Blow::Vanish {
                        assert!(e.kind().retry(), "{what}: {:?} {}", e.kind(), e.chain());
                    }
                    assert_eq!(e.kind() == Kind::Cancelled, blow == Blow::Cancel, "{what}: {}", e.chain());
                }
                // What was read before the server went, or with no tool to kill, is whole.
                Ok(report) => {
                    let allowed = blow == Blow::Vanish || (blow == Blow::KillTools && (killed == 0 || percent == 99));
                    assert!(allowed, "{what}: called a success");
                    let (_, bytes) = inner.finished().pop_first().expect("an artifact");
                    must_load(&stand, &report, &bytes).await;
                }
            }
            nothing_is_left(&stand, &what).await;
        }
    }
    assert!(failures >= PLACES.len() * 2, "only {failures} dumps failed: were they struck at all?");
    dump(&stand).await;
}

async fn blows_to_a_load(mut stand: impl Stand) {
    stand.fill().await;
    let full = stand.contents().await;
    let (report, bytes) = dump(&stand).await;
    let (mut failures, mut old) = (0, Contents::new());
    // A load reads everything twice: to check it, and to load it.
    for blow in BLOWS {
        for percent in PLACES.iter().flat_map(|p| [*p, 100 + p]) {
            let what = format!("{blow:?} at {percent} % of a load");
            if stand.contents().await != old {
                must_load(&stand, &report, &bytes).await;
                same(&stand.contents().await, &full, &format!("before {what}"));
                stand.change().await;
                old = stand.contents().await;
            }
            let at = bytes.len() as u64 * percent / 100;
            let inner = source(&stand, &report, bytes.clone());
            let (gate, gated) = if blow == Blow::StoreFails {
                (None, GatedSource::failing(inner, at))
            } else {
                let gate = Gate::at(at);
                (Some(gate.clone()), GatedSource::waiting(inner, gate))
            };
            let cancel = CancellationToken::new();
            let (cx, _) = Context::new(cancel.clone());
            let (engine, key) = (stand.engine(), run());
            let mut touched = false;
            let loading = async {
                engine.stage(&key, Arc::new(gated), &cx).await?;
                let committed = engine.commit(&key, &cx).await;
                touched = engine.rollback(&key, &context()).await.is_err();
                committed
            };
            let strike = async {
                let Some(gate) = gate else { return };
                if !gate.reached().await {
                    return;
                }
                match blow {
                    Blow::Cancel => cancel.cancel(),
                    Blow::Vanish => stand.vanish(),
                    Blow::KillTools => drop(kill_tools(stand.tools())),
                    Blow::StoreFails => {}
                }
                gate.open();
            };
            let (done, ()) = tokio::join!(loading, strike);
            drop(engine);
            if blow == Blow::Vanish {
                stand.come_back().await;
            }
            // Whatever a load of another agent left is ended by the next one, as after a kill.
            stand.engine().describe().await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            match done {
                Ok(_) => same(&stand.contents().await, &full, &format!("{what}: called a success")),
                Err(e) => {
                    failures += 1;
                    if percent < 100 || stand.keeps_old_data() || !touched {
                        same(&stand.contents().await, &old, &format!("{what}: the old data ({})", e.chain()));
                    }
                }
            }
            nothing_is_left(&stand, &what).await;
        }
    }
    assert!(failures >= PLACES.len() * 4, "only {failures} loads failed: were they struck at all?");
    must_load(&stand, &report, &bytes).await;
    same(&stand.contents().await, &full, "after all the blows");
}

/// The cases of one engine.
macro_rules! conformance {
    ($engine:ident, $stand:expr) => {
        mod $engine {
            use super::*;

            #[tokio::test]
            async fn describe() {
                super::describe($stand).await;
            }

            #[tokio::test]
            async fn round_trip() {
                super::round_trip($stand).await;
            }

            #[tokio::test]
            async fn under_write_load() {
                super::under_write_load($stand).await;
            }

            #[tokio::test]
            async fn refused_before_anything_is_touched() {
                super::refused_before_anything_is_touched($stand).await;
            }

            #[tokio::test]
            async fn blows_to_a_dump() {
                super::blows_to_a_dump($stand).await;
            }

            #[tokio::test]
            async fn blows_to_a_load() {
                super::blows_to_a_load($stand).await;
            }
        }
    };
}

conformance!(redis, Redis::start(true).await);
conformance!(redis_over_the_network, Redis::start(false).await);
conformance!(mysql, Mysql::start().await);
conformance!(postgres, Postgres::start().await);
conformance!(files, Files::start());
