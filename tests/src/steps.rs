//! What the tests of all engines do in the same way.

use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::engine::{Context, Engine, Staged};
use keepsake_core::error::{Kind, Result};
use keepsake_core::id::{Epoch, RunId, RunKey};
use keepsake_core::record::DumpReport;
use tokio_util::sync::CancellationToken;

use crate::memory::{MemorySink, MemorySource};

/// A context that nobody cancels.
pub fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

/// A whole dump with its report, as a source.
pub async fn try_dump(engine: &Arc<dyn Engine>) -> Result<MemorySource> {
    let sink = MemorySink::default();
    let made = engine.dump(None, &sink, &context()).await;
    assert!(made.is_ok() || sink.finished().is_empty(), "a dump that failed has finished an artifact");
    let recorded: DumpReport = made?;
    assert!(recorded.tools.iter().all(|t| t.exit_status == 0));
    Ok(MemorySource { artifacts: sink.finished(), recorded: Some(recorded) })
}

/// A whole dump under a hold, which is released as soon as the snapshot is said to be open.
pub async fn try_held_dump(engine: &Arc<dyn Engine>) -> Result<MemorySource> {
    let mut hold = engine.prepare_hold().await?;
    let prepared = hold.take(Duration::from_secs(5), Duration::from_secs(60)).await?;
    let (sink, (cx, mut progress)) = (MemorySink::default(), Context::new(CancellationToken::new()));
    let mut dumping = Box::pin(engine.dump(Some(prepared), &sink, &cx));
    let early = tokio::select! {
        done = &mut dumping => Some(done),
        open = progress.wait_for(|p| p.snapshot_open) => {
            open.expect("the dump goes on");
            None
        }
    };
    if early.is_none() {
        hold.renew().await?;
    }
    hold.release().await?;
    let report = match early {
        Some(done) => done,
        None => dumping.await,
    }?;
    let artifacts = sink.finished();
    assert!(progress.borrow().snapshot_open);
    assert_eq!(progress.borrow().bytes, artifacts.values().map(|b| b.len() as u64).sum::<u64>());
    assert_eq!(report.tools.len(), artifacts.len());
    Ok(MemorySource { artifacts, recorded: Some(report) })
}

/// As [`try_held_dump`], and it must work.
pub async fn held_dump(engine: &Arc<dyn Engine>) -> MemorySource {
    try_held_dump(engine).await.unwrap_or_else(|e| panic!("dump: {}", e.chain()))
}

/// As [`try_dump`], and it must work.
pub async fn dump(engine: &Arc<dyn Engine>) -> MemorySource {
    try_dump(engine).await.unwrap_or_else(|e| panic!("dump: {}", e.chain()))
}

/// Stage, commit, finalize.
pub async fn restore(engine: &Arc<dyn Engine>, source: &MemorySource) -> Result<()> {
    let key = RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) };
    engine.stage(&key, Arc::new(source.clone()), &context()).await?;
    assert_eq!(engine.staged(&key).await?, Staged::Staged);
    engine.commit(&key, &context()).await?;
    assert_eq!(engine.staged(&key).await?, Staged::Committed);
    engine.finalize(&key, &context()).await
}

/// As [`restore`], and it must work.
pub async fn must_restore(engine: &Arc<dyn Engine>, source: &MemorySource) {
    restore(engine, source).await.unwrap_or_else(|e| panic!("restore: {}", e.chain()));
}

/// The restore is refused for what the dump is, and says why.
pub async fn refused(engine: &Arc<dyn Engine>, source: &MemorySource, what: &str) -> String {
    let Err(error) = restore(engine, source).await else { panic!("{what}: it was loaded") };
    assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "{what}: {:?} {}", error.kind(), error.chain());
    assert!(!error.chain().contains("canary"), "{what}: {}", error.chain());
    error.chain()
}

/// The dump, damaged in ways that no server may be touched for.
pub fn damaged(good: &MemorySource) -> Vec<(&'static str, MemorySource)> {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        bad.artifacts.values_mut().for_each(change);
        bad
    };
    let mut other_counts = good.clone();
    let recorded = other_counts.recorded.as_mut().expect("a record");
    recorded.counts.values_mut().for_each(|n| *n += 1);
    vec![
        ("cut at the end", with(&|b| b.truncate(b.len() - 30))),
        ("cut early", with(&|b| b.truncate(b.len() / 2))),
        ("empty", with(&|b| b.clear())),
        ("another format", with(&|b| *b = b"a file of some other program\n".repeat(100))),
        ("other counts", other_counts),
    ]
}

/// What an engine says of its server: nothing is wrong, and it is the one that was meant.
pub async fn describes(engine: &Arc<dyn Engine>, label: &str) {
    let found = engine.describe().await.unwrap_or_else(|e| panic!("describe: {}", e.chain()));
    assert_eq!(found.problems, Vec::<String>::new());
    let told = found.server.strip_prefix(label).unwrap_or_else(|| panic!("{} is not {label}", found.server));
    assert!(told.is_empty() || told.starts_with(['.', ' ']), "{} is not {label}", found.server);
}
