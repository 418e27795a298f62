//! Redis before 6.2, which cannot pause writes alone: it is stopped altogether for a moment, in one transaction with its save.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keepsake_agent::engine::redis::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine};
use keepsake_core::Kind;
use tokio_util::sync::CancellationToken;

use super::{BUDGET, LEASE};
use crate::memory::MemorySink;
use crate::poll::wait_for;
use crate::root::Root;
use crate::servers::redis::RedisServer;

/// When each of a writer's writes was answered, the first at index 0.
#[derive(Debug, Clone, Default)]
struct Answers(Arc<Mutex<Vec<Instant>>>);

impl Answers {
    fn before(&self, instant: Instant) -> usize {
        self.0.lock().expect("answers").iter().filter(|at| **at < instant).count()
    }

    async fn next(&self) {
        let before = self.before(Instant::now());
        wait_for("the next write", Duration::from_secs(10), async || {
            let now = self.before(Instant::now());
            if now > before { Ok(()) } else { Err(format!("still {now}")) }
        })
        .await;
    }
}

fn engine(server: &RedisServer, with_folder: bool) -> Arc<dyn Engine> {
    let settings = Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_data_dir: with_folder.then(|| server.data().to_owned()),
        ..Default::default()
    };
    settings.open(server.scratch().to_owned()).expect("an engine")
}

/// Counts up for ever, each number when the one before it was answered.
async fn write(server: &RedisServer, answers: Answers) {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let mut connection =
        server.client().get_multiplexed_async_connection_with_config(&config).await.expect("a connection");
    loop {
        redis::cmd("INCR").arg("stopped").query_async::<u64>(&mut connection).await.expect("a write");
        answers.0.lock().expect("answers").push(Instant::now());
    }
}

/// Beside a writer: a dump under the hold is of the instant of the stop, the proof holds only while nobody can have written, and nobody is left waiting.
///
/// # Panics
/// When it is not so, or the server could pause writes alone.
pub async fn altogether(root: &Root) {
    let server = RedisServer::start_in(root, &[], None).await;
    let no_folder = engine(&server, false).describe().await.expect("a description").hold;
    assert!(no_folder.is_err_and(|why| why.contains("--redis-data-dir")), "it can be held over the network");
    let answers = Answers::default();
    tokio::select! {
        () = write(&server, answers.clone()) => {}
        () = held(&server, &answers) => {}
    }
}

async fn held(server: &RedisServer, answers: &Answers) {
    let engine = engine(server, true);
    assert_eq!(engine.describe().await.expect("a description").hold, Ok(()));
    for _ in 0..5 {
        answers.next().await;
        ready(&engine).await;
        let mut hold = engine.prepare_hold().await.unwrap_or_else(|e| panic!("prepare: {}", e.chain()));
        let prepared = hold.take(BUDGET, LEASE).await.unwrap_or_else(|e| panic!("take: {}", e.chain()));
        let held = Instant::now();
        let (sink, (cx, progress)) = (MemorySink::default(), Context::new(CancellationToken::new()));
        let dumping = engine.dump(Some(prepared), &sink, &cx);
        let releasing = async {
            let mut progress = progress.clone();
            progress.wait_for(|p| p.snapshot_open).await.expect("the snapshot opens");
            hold.renew().await.unwrap_or_else(|e| panic!("renew: {}", e.chain()));
            let (before, now) = (answers.before(held), answers.before(Instant::now()));
            assert_eq!(before, now, "a write was let through");
            hold.release().await.unwrap_or_else(|e| panic!("release: {}", e.chain()));
            before
        };
        let (report, before) = tokio::join!(dumping, releasing);
        report.unwrap_or_else(|e| panic!("dump: {}", e.chain()));
        let saved = number_in(&sink).await;
        // The answer to the last one may have been on its way.
        assert!((before..=before + 1).contains(&saved), "{saved} in the dump, {before} were answered before the stop");
        answers.next().await;
    }

    // Nobody asks for its proof in time.
    ready(&engine).await;
    let mut hold = engine.prepare_hold().await.unwrap_or_else(|e| panic!("prepare: {}", e.chain()));
    let _prepared = hold.take(BUDGET, LEASE).await.unwrap_or_else(|e| panic!("take: {}", e.chain()));
    // The first may have been on its way; what is answered next was asked after that, and waits for the end of the stop.
    answers.next().await;
    answers.next().await;
    assert_eq!(hold.renew().await.expect_err("a hold through which a write went").kind(), Kind::Timeout);
    hold.release().await.expect("release");
}

async fn ready(engine: &Arc<dyn Engine>) {
    wait_for("nothing to be in the way", Duration::from_secs(30), async || {
        match engine.ready_to_hold().await.expect("an answer") {
            None => Ok(()),
            Some(why) => Err(why),
        }
    })
    .await;
}

/// The writer's number in a dump.
async fn number_in(sink: &MemorySink) -> usize {
    let scratch = crate::scratch::Scratch::new();
    let rdb = scratch.path().join("stopped.rdb");
    std::fs::write(&rdb, sink.finished().values().next().expect("an artifact")).expect("write the dump");
    let server = RedisServer::start_with_rdb(&[], Some(&rdb)).await;
    server.ask::<Option<usize>>(&["GET", "stopped"]).await.expect("the writer's number")
}
