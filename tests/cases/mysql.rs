//! The mysql engine on a real server.

mod faults;
mod fixture;
mod in_place;
mod others;
mod parallel;
mod round_trip;
mod server;
mod staged;
mod torn;

use std::sync::Arc;

use keepsake_agent::engine::{CommitReport, Context, Engine, Progress, Source};
use keepsake_core::error::{Error, Result};
use keepsake_core::id::{ArtifactName, Epoch, Installation, RunId, RunKey};
use keepsake_core::record::DumpReport;
use keepsake_tests::memory::{InPlace, MemorySink, MemorySource};
use keepsake_tests::servers::mysql::PASSWORD;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn context() -> (Context, watch::Receiver<Progress>) {
    Context::new(CancellationToken::new())
}

fn key() -> RunKey {
    RunKey { run: RunId::generate(), installation: Installation::new("test").unwrap(), epoch: Epoch(1) }
}

fn artifact() -> ArtifactName {
    ArtifactName::new("dump.sql").unwrap()
}

/// A dump with its report, as a source.
async fn dump(engine: &Arc<dyn Engine>) -> (Vec<u8>, DumpReport) {
    let sink = MemorySink::default();
    let (cx, progress) = context();
    let report = engine.dump(None, &sink, &cx).await.unwrap_or_else(|e| panic!("dump: {}", e.chain()));
    assert!(progress.borrow().snapshot_open);
    let bytes = sink.finished().remove(&artifact()).expect("the artifact");
    assert_eq!(progress.borrow().bytes, bytes.len() as u64);
    assert!(!contains(&bytes, PASSWORD.as_bytes()));
    (bytes, report)
}

fn source(bytes: &[u8], recorded: Option<&DumpReport>) -> Arc<MemorySource> {
    Arc::new(MemorySource { artifacts: [(artifact(), bytes.to_vec())].into(), recorded: recorded.cloned() })
}

/// Stage, commit and finalize.
async fn load(engine: &Arc<dyn Engine>, source: Arc<MemorySource>) -> Result<CommitReport> {
    let (key, (cx, _)) = (key(), context());
    let recorded = source.recorded.clone();
    let staged = engine.stage(&key, source, &cx).await?;
    let report = engine.commit(&key, &cx).await?;
    engine.finalize(&key, &cx).await?;
    if let Some(recorded) = recorded {
        assert_eq!(staged.counts, recorded.counts);
        assert_eq!(report.counts, recorded.counts);
    }
    Ok(report)
}

/// What an error says; it may hold no secret.
fn told(error: &Error) -> String {
    let text = error.chain();
    assert!(!text.contains("canary"), "{text}");
    text
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

/// A client that answers as the real one, and does what `script` says when it is to load.
fn client_program(server: &keepsake_tests::servers::mysql::MysqlServer, name: &str, script: &str) -> String {
    let real = r#"real=$(command -v mariadb || command -v mysql)
case " $* " in *" --version "*|*" --help "*|*" --execute="*) exec "$real" "$@";; esac"#;
    faults::program(server, name, &format!("{real}\n{script}"))
}
