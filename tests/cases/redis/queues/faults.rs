//! The policy for queues when something is wrong, or stops half way: what was live stays, and no file is left once that is rolled back.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::ArtifactSource;
use keepsake_core::error::Result;
use keepsake_tests::memory::MemorySource;

use super::*;

/// Gives half of the data on its n-th reading, and then nothing more.
struct Stalling {
    source: Arc<MemorySource>,
    queues: QueuePolicy,
    in_place: bool,
    stalls_at: usize,
    opened: AtomicUsize,
}

struct Half(Option<Bytes>);

#[async_trait]
impl Source for Stalling {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.source.artifacts()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.source.recorded()
    }

    fn queues(&self) -> QueuePolicy {
        self.queues
    }

    fn in_place(&self) -> bool {
        self.in_place
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        if self.opened.fetch_add(1, Ordering::Relaxed) + 1 < self.stalls_at {
            return self.source.open(name).await;
        }
        let bytes = &self.source.artifacts[name];
        Ok(Box::new(Half(Some(Bytes::copy_from_slice(&bytes[..bytes.len() / 2])))))
    }
}

#[async_trait]
impl ArtifactSource for Half {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        match self.0.take() {
            Some(half) => Ok(Some(half)),
            None => std::future::pending().await,
        }
    }
}

/// Names in the data folder that are not the server's.
fn ours(server: &RedisServer) -> Vec<String> {
    let names = std::fs::read_dir(server.data()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n != "dump.rdb" && n != "appendonlydir").collect()
}

#[tokio::test]
async fn redis_queues_cancelled_or_dropped_half_way_leave_the_live_data_as_it_was() {
    let from = full(&[], "set", 1).await;
    let (report, rdb) = dump(&from).await;
    for policy in [QueuePolicy::Keep, QueuePolicy::Drop] {
        // Only a load in place reads its source once more when it commits.
        for (in_place, stalls_at, dropped) in
            [(false, 1, false), (false, 1, true), (true, 1, false), (true, 1, true), (true, 2, false), (true, 2, true)]
        {
            let to = full(&["--appendonly", "yes"], "live", 7).await;
            let before = state(&to).await;
            let (engine, key) = (engine(&to), run());
            let source = Arc::new(Stalling {
                source: source(Some(report.clone()), rdb.clone()),
                queues: policy,
                in_place,
                stalls_at,
                opened: AtomicUsize::new(0),
            });
            if stalls_at == 2 {
                engine.stage(&key, source.clone(), &context()).await.unwrap();
            }
            let cancel = CancellationToken::new();
            let (cx, mut progress) = Context::new(cancel.clone());
            let half = (rdb.len() / 2) as u64;
            let stop = async {
                progress.wait_for(|p| p.phase == "splicing" && p.bytes == half).await.unwrap();
                if !dropped {
                    cancel.cancel();
                }
            };
            let work = async {
                if stalls_at == 1 {
                    engine.stage(&key, source, &cx).await.map(drop)
                } else {
                    engine.commit(&key, &cx).await.map(drop)
                }
            };
            if dropped {
                // As when the agent dies: nobody tidies up.
                tokio::select! {
                    done = work => panic!("it ended: {done:?}"),
                    () = stop => {}
                }
            } else {
                let (done, ()) = tokio::join!(work, stop);
                assert_eq!(done.unwrap_err().kind(), Kind::Cancelled, "{policy} {stalls_at}");
            }
            assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new(), "{policy} {stalls_at}");
            let left = if dropped && !in_place { Staged::Partial } else { Staged::Absent };
            assert!(stalls_at == 2 || in_place || engine.staged(&key).await.unwrap() == left, "{policy} {dropped}");
            // Nothing was touched, so it can be undone.
            engine.rollback(&key, &context()).await.unwrap();
            assert_eq!(ours(&to), Vec::<String>::new(), "{policy} {stalls_at}");
            dump(&to).await;
        }
    }
}

#[tokio::test]
async fn redis_queues_a_server_killed_while_its_queues_are_taken_keeps_its_data() {
    let from = full(&[], "set", 1).await;
    let (report, rdb) = dump(&from).await;
    let mut to = full(&["--appendonly", "yes"], "live", 7).await;
    let before = state(&to).await;
    let (engine, key) = (engine(&to), run());
    engine.stage(&key, with_queues(&report, &rdb, QueuePolicy::Keep), &context()).await.unwrap();
    to.ask::<()>(&["CONFIG", "SET", "rdb-key-save-delay", "5000"]).await;
    let (cx, mut progress) = Context::new(CancellationToken::new());
    let commit = engine.commit(&key, &cx);
    let kill = async {
        progress.wait_for(|p| p.snapshot_open).await.unwrap();
        to.kill9();
    };
    let (done, ()) = tokio::join!(commit, kill);
    let error = done.unwrap_err();
    assert!(error.kind().retry(), "{:?} {}", error.kind(), error.chain());
    to.start_again().await;
    assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new());
    // The same run goes on where it was.
    engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let want = expected(&state(&from).await, &before, QueuePolicy::Keep, is_queue_by_hand);
    assert_eq!(differences(&state(&to).await, &want), Vec::<String>::new());
}

#[tokio::test]
async fn redis_queues_damage_is_refused_before_anything_is_touched() {
    let from = full(&[], "set", 1).await;
    let (report, rdb) = dump(&from).await;
    let to = full(&[], "live", 7).await;
    let before = state(&to).await;
    let mut flipped = rdb.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut newer = rdb.clone();
    newer[5..9].copy_from_slice(b"0099");
    let mut other_counts = report.clone();
    other_counts.counts.insert("keys:db0".to_owned(), 1);
    for policy in [QueuePolicy::Keep, QueuePolicy::Drop] {
        for (what, report, rdb) in [
            ("cut", &report, &rdb[..rdb.len() - 1]),
            ("empty", &report, &[][..]),
            ("flipped", &report, &flipped),
            ("newer", &report, &newer),
            ("foreign", &report, b"-- MySQL dump"),
            ("other counts", &other_counts, &rdb),
        ] {
            let (engine, key) = (engine(&to), run());
            let refused = engine.stage(&key, with_queues(report, rdb, policy), &context()).await.unwrap_err();
            assert!(matches!(refused.kind(), Kind::Corrupt | Kind::Unsupported), "{what}: {}", refused.chain());
            assert_eq!(engine.commit(&key, &context()).await.unwrap_err().kind(), Kind::Conflict, "{what}");
            assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new(), "{what} {policy}");
            assert_eq!(ours(&to), Vec::<String>::new(), "{what} {policy}");
        }
    }
}

#[tokio::test]
async fn redis_queues_behind_a_namespace_are_refused_by_name() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    run_all(&from, 1, &[&[b"SADD", b"porta:queues", b"default"], &[b"RPUSH", b"porta:queue:default", b"job"]]).await;
    let (report, rdb) = dump(&from).await;
    let to = RedisServer::start(&[]).await;
    let refused =
        engine(&to).stage(&run(), with_queues(&report, &rdb, QueuePolicy::Drop), &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
    assert!(refused.chain().contains("the set has the key \"porta:queues\""), "{}", refused.chain());
    let (report, rdb) = dump(&to).await;
    let refused =
        engine(&from).stage(&run(), with_queues(&report, &rdb, QueuePolicy::Keep), &context()).await.unwrap_err();
    assert!(refused.chain().contains("the live server has the key"), "{}", refused.chain());
}

#[tokio::test]
async fn redis_queues_of_other_engines_are_refused() {
    use keepsake_agent::engine::{files, mysql, postgres};
    let scratch = keepsake_tests::scratch::Scratch::new();
    let files = files::Settings { files_root: scratch.folder("volume", 0o755), files_preserve_owner: false };
    // Nobody listens there: a policy is refused before anybody is asked.
    let mysql = mysql::Settings { mysql_port: 1, ..Default::default() };
    let postgres = postgres::Settings { postgres_port: 1, ..Default::default() };
    let folder = || scratch.path().to_owned();
    for engine in [files.open(folder()), mysql.open(folder()), postgres.open(folder())] {
        let engine = engine.unwrap_or_else(|e| panic!("{}", e.chain()));
        let source = with_queues(&DumpReport::default(), b"", QueuePolicy::Drop);
        let refused = engine.stage(&run(), source, &context()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
        assert!(refused.chain().contains("`drop` is for redis only"), "{}", refused.chain());
    }
}

#[tokio::test]
async fn redis_queues_without_room_are_refused_and_the_live_data_stays() {
    use keepsake_tests::own_mounts::{may_mount, mount, unmount};
    if !may_mount("redis::queues::faults::redis_queues_without_room_are_refused_and_the_live_data_stays") {
        return;
    }
    let from = full(&[], "set", 1).await;
    let (report, rdb) = dump(&from).await;
    let to = full(&[], "live", 7).await;
    // What does not compress.
    let mut numbers = keepsake_tests::threescale::Numbers::new(9);
    for _ in 0..30 {
        run_all(&to, 1, &[&[b"RPUSH", b"queue:low", &numbers.bytes(100_000)]]).await;
    }
    let before = state(&to).await;
    let scratch = keepsake_tests::scratch::Scratch::new();
    let small = scratch.path().join("small");
    // Room for neither; for the live queues, but not for the whole as well; for both.
    for (size, policy, words) in [
        ("1m", QueuePolicy::Keep, Some("take the live server's queues")),
        ("4m", QueuePolicy::Keep, Some("make room before the restore")),
        ("128k", QueuePolicy::Drop, Some("make room before the restore")),
        ("16m", QueuePolicy::Keep, None),
    ] {
        mount(&small, size);
        let engine = Settings { redis_data_dir: None, ..settings(&to) }.open(small.clone()).unwrap();
        let done = engine.stage(&run(), with_queues(&report, &rdb, policy), &context()).await;
        match (done, words) {
            (Ok(_), None) => {}
            (Err(e), Some(words)) => assert!(e.chain().contains(words), "{size} {policy}: {}", e.chain()),
            (done, words) => panic!("{size} {policy}: {done:?}, not {words:?}"),
        }
        assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new(), "{size} {policy}");
        drop(engine);
        unmount(&small);
    }
}
