//! Blows in the middle of an operation: cancelled, server gone, tool killed, store failing, each at several places.

use std::sync::Arc;

use keepsake_agent::engine::Context;
use keepsake_core::Kind;
use tokio_util::sync::CancellationToken;

use super::{context, dump, must_load, nothing_is_left, run, same, source, tools_that_run};
use crate::gate::{Gate, GatedSink, GatedSource};
use crate::memory::MemorySink;
use crate::stand::{Contents, Stand};

/// Where in a dump or load something happens: parts of its length, in percent.
const PLACES: [u64; 4] = [0, 30, 60, 99];

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

/// Whatever strikes a dump: it fails and leaves nothing, or what it made is whole.
pub async fn blows_to_a_dump(mut stand: impl Stand) {
    stand.fill().await;
    let (_, whole) = dump(&stand).await;
    let mut failures = 0;
    for blow in BLOWS {
        for percent in PLACES {
            let what = format!("{blow:?} at {percent} % of a dump");
            // Each time anew: a crash moves PostgreSQL's sequences on.
            let full = stand.contents().await;
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
                    assert!(matches!(blow, Blow::Vanish | Blow::KillTools), "{what}: called a success");
                    let (_, bytes) = inner.finished().pop_first().expect("an artifact");
                    must_load(&stand, &report, &bytes).await;
                    // A tool that is killed when all is written and read has made a whole dump.
                    same(&stand.contents().await, &full, &format!("{what}, {killed} tools killed: called a success"));
                }
            }
            nothing_is_left(&stand, &what).await;
        }
    }
    assert!(failures >= PLACES.len() * 2, "only {failures} dumps failed: were they struck at all?");
    dump(&stand).await;
}

/// Whatever strikes a load: the old data stays where that is promised, and the load can be made again.
pub async fn blows_to_a_load(mut stand: impl Stand) {
    stand.fill().await;
    let full = stand.contents().await;
    let (report, bytes) = dump(&stand).await;
    let (mut failures, mut old, mut once) = (0, Contents::new(), false);
    // A load in place reads everything twice: to check it, and to load it.
    for blow in BLOWS {
        for percent in PLACES.iter().flat_map(|p| [*p, 100 + p]) {
            let what = format!("{blow:?} at {percent} % of a load");
            if once && percent >= 100 {
                continue;
            }
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
            let over = CancellationToken::new();
            let loading = async {
                let _over = over.clone().drop_guard();
                engine.stage(&key, Arc::new(gated), &cx).await?;
                let committed = engine.commit(&key, &cx).await;
                if committed.is_err() {
                    touched = engine.rollback(&key, &context()).await.is_err();
                } else {
                    engine.finalize(&key, &context()).await?;
                }
                committed
            };
            let strike = async {
                let Some(gate) = gate else { return };
                tokio::select! {
                    reached = gate.reached() => if !reached { return },
                    // One that reads its source only once is at its end before it gets there, and never will.
                    () = over.cancelled() => {
                        once |= percent >= 100;
                        return;
                    }
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
    assert!(failures >= PLACES.len() * 3, "only {failures} loads failed: were they struck at all?");
    must_load(&stand, &report, &bytes).await;
    same(&stand.contents().await, &full, "after all the blows");
}
