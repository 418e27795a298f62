//! Figures, when asked for: `cargo test --release -p keepsake-tests -- --ignored measure_files --nocapture`.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::{ArtifactSink, ArtifactSource, Sink, Source};
use keepsake_core::error::Result;
use keepsake_core::id::ArtifactName;
use keepsake_core::record::DumpReport;
use keepsake_tests::child::{run, tool_command};

use super::{Volume, artifact, context, open};

/// Counts and drops.
struct NullSink;

struct NullArtifact(u64);

#[async_trait]
impl Sink for NullSink {
    async fn artifact(&self, _name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        Ok(Box::new(NullArtifact(0)))
    }
}

#[async_trait]
impl ArtifactSink for NullArtifact {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.0 += chunk.len() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        Ok(self.0)
    }
}

/// Peak resident memory of this process, KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a large tree, named by KEEPSAKE_MEASURE_TREE"]
async fn measure_files_dump() {
    let tree = std::env::var_os("KEEPSAKE_MEASURE_TREE").expect("KEEPSAKE_MEASURE_TREE names the tree");
    let engine = open(tree.as_ref(), false);
    let before = peak();
    for round in 1..=3 {
        let started = Instant::now();
        let report = engine.dump(None, &NullSink, &context()).await.unwrap();
        let ours = started.elapsed();
        let started = Instant::now();
        let mut command = tool_command("sh");
        command.args(["-c", "tar cf - -C \"$1\" . | cat >/dev/null", "sh"]).arg(&tree);
        assert!(run(&mut command).status.success());
        let bare = started.elapsed();
        let ratio = ours.as_secs_f64() / bare.as_secs_f64();
        println!("round {round}: {:?}: {ours:?}, tar {bare:?}, ratio {ratio:.2}", report.counts);
    }
    println!("peak {} KiB, before {before} KiB", peak());
}

/// An archive on disk.
struct FileSource(PathBuf);

struct FileReader(std::fs::File);

#[async_trait]
impl Source for FileSource {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        vec![(artifact(), std::fs::metadata(&self.0).unwrap().len())]
    }

    fn recorded(&self) -> Option<&DumpReport> {
        None
    }

    async fn open(&self, _name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        Ok(Box::new(FileReader(std::fs::File::open(&self.0).unwrap())))
    }
}

#[async_trait]
impl ArtifactSource for FileReader {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let mut chunk = vec![0; 256 * 1024];
        let n = self.0.read(&mut chunk).unwrap();
        chunk.truncate(n);
        Ok((n > 0).then(|| Bytes::from(chunk)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a large archive, named by KEEPSAKE_MEASURE_TAR"]
async fn measure_files_load() {
    let tar = PathBuf::from(std::env::var_os("KEEPSAKE_MEASURE_TAR").expect("KEEPSAKE_MEASURE_TAR names the archive"));
    let volume = Volume::new();
    let key = super::run();
    let started = Instant::now();
    let staged = volume.engine.stage(&key, Arc::new(FileSource(tar.clone())), &context()).await.unwrap();
    println!("stage {:?}: {:?}, peak {} KiB", staged.counts, started.elapsed(), peak());
    let started = Instant::now();
    volume.engine.commit(&key, &context()).await.unwrap();
    println!("commit: {:?}, peak {} KiB", started.elapsed(), peak());
    let into = volume.scratch.folder("by-tar", 0o755);
    let started = Instant::now();
    assert!(run(tool_command("tar").arg("-xpf").arg(&tar).arg("-C").arg(&into)).status.success());
    assert!(run(tool_command("sync").arg("-f").arg(&into)).status.success());
    println!("tar: {:?}", started.elapsed());
}
