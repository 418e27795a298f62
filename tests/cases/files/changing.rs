//! Applications go on using the volume while it is dumped.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keepsake_agent::engine::{Context, Staged};
use keepsake_core::error::Kind;
use keepsake_core::record::DumpReport;
use keepsake_tests::memory::{MemorySink, MemorySource};
use tokio_util::sync::CancellationToken;

use super::{Gate, GatedSink, Volume, artifact, context, run};

/// Larger than what lies between the walk and a sink that waits.
const LARGE: usize = 8 << 20;

/// Dumps, and changes the tree while the first large file is being read.
async fn dump_while(volume: &Volume, change: impl FnOnce()) -> (DumpReport, MemorySource) {
    let gate = Arc::new(Gate::default());
    let sink = GatedSink { inner: MemorySink::default(), gate: gate.clone() };
    let cx = context();
    let (report, ()) = tokio::join!(volume.engine.dump(None, &sink, &cx), async {
        gate.reached.notified().await;
        change();
        gate.open.notify_one();
    });
    let report = report.expect("dump");
    (report.clone(), MemorySource { artifacts: sink.inner.finished(), recorded: Some(report) })
}

#[tokio::test]
async fn a_file_that_grows_is_stored_as_it_was_and_told() {
    let volume = Volume::new();
    volume.write("a/large", vec![1; LARGE]);
    let path = volume.root.join("a/large");
    let (report, source) = dump_while(&volume, || {
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[2; 100_000]).unwrap();
    })
    .await;
    assert_eq!(report.counts["bytes"], LARGE as u64);
    assert_eq!(
        report.warnings,
        ["entries that changed while the tree was read: 1", "\"a/large\" was written to or changed while it was read"]
    );
    volume.load(source).await;
    assert!(std::fs::read(&path).unwrap() == vec![1; LARGE]);
}

#[tokio::test]
async fn a_file_that_shrinks_is_filled_with_zeros_and_told() {
    let volume = Volume::new();
    volume.write("a/large", vec![1; LARGE]);
    volume.write("b", "after it");
    let path = volume.root.join("a/large");
    let (report, source) = dump_while(&volume, || {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5_000_000).unwrap();
    })
    .await;
    let zeros = LARGE - 5_000_000;
    assert_eq!(
        report.warnings[1],
        format!("\"a/large\" became shorter while it was read: {zeros} bytes are stored as zeros")
    );
    volume.load(source).await;
    let loaded = std::fs::read(&path).unwrap();
    assert!(
        loaded.len() == LARGE
            && loaded[..5_000_000].iter().all(|b| *b == 1)
            && loaded[5_000_000..].iter().all(|b| *b == 0)
    );
    assert_eq!(std::fs::read(volume.root.join("b")).unwrap(), b"after it");
}

#[tokio::test]
async fn what_goes_or_is_swapped_before_it_is_reached_is_told_and_never_followed() {
    let volume = Volume::new();
    volume.write("a", vec![1; LARGE]);
    volume.write("gone", "x");
    volume.write("gone-folder/x", "x");
    volume.write("swapped/passwd", "mine");
    let root = volume.root.clone();
    let (report, source) = dump_while(&volume, || {
        std::fs::remove_file(root.join("gone")).unwrap();
        std::fs::remove_dir_all(root.join("gone-folder")).unwrap();
        std::fs::remove_dir_all(root.join("swapped")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("swapped")).unwrap();
        std::fs::write(root.join("new"), "came too late for the list").unwrap();
    })
    .await;
    let told = report.warnings.join("\n");
    for words in [
        "\"gone\" was removed or replaced",
        "\"gone-folder\" was removed or replaced",
        "the root had names added or removed",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!((report.counts["files"], report.counts["symlinks"], report.counts["directories"]), (1, 1, 0));
    volume.load(source).await;
    assert_eq!(std::fs::read_link(root.join("swapped")).unwrap(), std::path::Path::new("/etc"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_beside_busy_writers_can_be_loaded() {
    let volume = Volume::new();
    for n in 0..200 {
        volume.write(&format!("folder-{}/file-{n}", n % 10), vec![1; 10_000 + n * 100]);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (root, stop) = (volume.root.clone(), stop.clone());
        std::thread::spawn(move || {
            for n in (0_u64..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                let path = root.join(format!("folder-{}/file-{}", n % 10, n % 200));
                let _may_be_gone = match n % 5 {
                    0 => std::fs::remove_file(&path),
                    1 => std::fs::write(&path, vec![2; 20_000]),
                    2 => std::fs::rename(&path, path.with_extension("moved")),
                    3 => std::fs::write(&path, b"short"),
                    _ => std::fs::hard_link(&path, path.with_extension(format!("{n}"))),
                };
                if n % 1000 == 999 {
                    let _may_be_full = std::fs::remove_dir_all(root.join(format!("folder-{}", n % 7)));
                    let _may_be_there = std::fs::create_dir(root.join(format!("folder-{}", n % 7)));
                }
            }
        })
    };
    let mut sets = Vec::new();
    for _ in 0..8 {
        sets.push(volume.dump().await);
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    let other = Volume::new();
    for (report, source) in sets {
        assert!(report.warnings.len() <= 102, "{} warnings", report.warnings.len());
        other.load(source).await;
    }
}

#[tokio::test]
async fn a_sink_that_fails_fails_the_dump() {
    let volume = Volume::new();
    volume.write("large", vec![1; LARGE]);
    let mut sink = MemorySink::default();
    sink.fail_after = Some(1_000_000);
    let error = volume.engine.dump(None, &sink, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("on purpose"), "{}", error.chain());
    assert!(sink.finished().is_empty());
    assert!(volume.engine.dump(None, &MemorySink::default(), &context()).await.is_ok(), "a second try");
}

#[tokio::test]
async fn a_cancelled_dump_ends_and_stores_nothing() {
    let volume = Volume::new();
    volume.write("large", vec![1; LARGE]);
    let gate = Arc::new(Gate::default());
    let sink = GatedSink { inner: MemorySink::default(), gate: gate.clone() };
    let cancel = CancellationToken::new();
    let (cx, progress) = Context::new(cancel.clone());
    let (result, ()) = tokio::join!(volume.engine.dump(None, &sink, &cx), async {
        gate.reached.notified().await;
        cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    assert!(sink.inner.finished().is_empty());
    assert_eq!(progress.borrow().phase, "dumping");
}

#[tokio::test]
async fn a_cut_or_damaged_archive_is_refused_before_anything_is_touched() {
    let volume = Volume::new();
    volume.write("folder/file", vec![1; 3000]);
    volume.write("folder/other", "x");
    let (report, source) = volume.dump().await;
    volume.write("folder/file", "live");
    let before = volume.manifest();
    let whole = source.artifacts[&artifact()].clone();
    let mut bad: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("something else", b"REDIS0011".repeat(1000)),
        ("no marker", whole[..whole.len() - 1024].to_vec()),
        ("half a marker", whole[..whole.len() - 512].to_vec()),
        ("in the data", whole[..2000].to_vec()),
        ("more after it", [&whole[..], b"x"].concat()),
        ("another set's", Volume::new().dump().await.1.artifacts[&artifact()].clone()),
    ];
    // A byte of the first file's header.
    let mut flipped = whole.clone();
    let header = whole.windows(5).position(|w| w == b"file\0").unwrap();
    flipped[header] ^= 1;
    bad.push(("a flipped byte", flipped));
    for (what, bytes) in bad {
        let key = run();
        let damaged = MemorySource { artifacts: [(artifact(), bytes)].into(), recorded: Some(report.clone()) };
        let error = volume.engine.stage(&key, Arc::new(damaged), &context()).await.expect_err(what);
        assert_eq!(error.kind(), Kind::Corrupt, "{what}: {}", error.chain());
        assert_eq!(volume.engine.staged(&key).await.unwrap(), Staged::Absent, "{what}");
        assert_eq!(volume.engine.commit(&key, &context()).await.unwrap_err().kind(), Kind::Conflict, "{what}");
        assert!(volume.engine.rollback(&key, &context()).await.is_ok(), "{what}");
    }
    volume.manifest().assert_is(&before, true, "a refused archive changed something");
}
