//! Loads that can be undone: what was live comes back as it was, whoever goes on, and nothing of it is left.

mod killed;
mod room;
mod runs;

use std::task::Poll;

use keepsake_agent::engine::redis::{LoadMethod, RestartedBy};
use keepsake_agent::engine::{Progress, Source};
use keepsake_core::queues::QueuePolicy;
use keepsake_tests::memory::InPlace;
use tokio::sync::watch;

use super::methods::{persistence, supervise, with};
use super::queues::{differences, expected, full, is_queue_by_hand, state, with_queues};
use super::*;

const METHODS: [LoadMethod; 3] = [LoadMethod::Replication, LoadMethod::Reload, LoadMethod::Restart];

/// Does it beside somebody who starts the server again, if that is how it is loaded.
async fn beside_supervisor<T>(server: &mut RedisServer, method: LoadMethod, work: impl Future<Output = T>) -> T {
    if method != LoadMethod::Restart {
        return work.await;
    }
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        () = supervise(server) => work.await,
    }
}

pub(super) fn in_place(report: &DumpReport, rdb: &[u8]) -> Arc<dyn Source> {
    Arc::new(InPlace(source(Some(report.clone()), rdb.to_vec())))
}

/// Drops the work where it stands, as a kill of the agent would, when the sub-step of this number begins. Gives what came of it, if it ended before, and the
/// sub-steps that were seen.
async fn cut_at<T>(
    nth: usize,
    mut progress: watch::Receiver<Progress>,
    work: impl Future<Output = T>,
) -> (Option<T>, Vec<String>) {
    let mut work = Box::pin(work);
    let mut seen: Vec<String> = Vec::new();
    let done = std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let phase = progress.borrow_and_update().phase.clone();
        if !phase.is_empty() && seen.last() != Some(&phase) {
            seen.push(phase);
        }
        if seen.len() > nth { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    (done, seen)
}

/// A commit that is cut off when this sub-step begins.
async fn cut_commit(engine: &Arc<dyn Engine>, key: &RunKey, phase: &str) {
    let (cx, progress) = Context::new(CancellationToken::new());
    let mut work = Box::pin(engine.commit(key, &cx));
    std::future::poll_fn(|task| {
        assert!(work.as_mut().poll(task).is_pending(), "it ended before {phase}");
        if progress.borrow().phase == phase { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// It is a master, nobody follows it, and the agent has left nothing.
async fn is_free(server: &RedisServer, what: &str) {
    let info: String = server.ask(&["INFO", "replication"]).await;
    assert!(info.contains("role:master") && info.contains("connected_slaves:0"), "{what}: {info}");
    assert_eq!(leftovers(server), Vec::<String>::new(), "{what}");
}

#[tokio::test]
async fn redis_staged_loads_are_undone_by_every_way_under_every_policy() {
    let from = full(&[], "set", 1).await;
    let (report, rdb) = dump(&from).await;
    let set = state(&from).await;
    for (n, method) in METHODS.into_iter().enumerate() {
        for policy in [QueuePolicy::Restore, QueuePolicy::Keep, QueuePolicy::Drop] {
            let what = format!("{method:?} {policy}");
            let appendonly = if n % 2 == 0 { "yes" } else { "no" };
            let options = ["--appendonly", appendonly, "--save", "900 1", "--masterauth", PASSWORD];
            let mut to = full(&options, "live", 7).await;
            let code = "#!lua name=two\nredis.register_function('two', function() return 'live' end)";
            to.ask::<()>(&["FUNCTION", "LOAD", code]).await;
            let (before, settings_before) = (state(&to).await, persistence(&to).await);
            let key = run();
            // An agent that was started again does each step.
            let engine = || with(&to, method);
            engine().stage(&key, with_queues(&report, &rdb, policy), &context()).await.unwrap();
            assert_eq!(engine().staged(&key).await.unwrap(), Staged::Staged, "{what}");
            assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new(), "{what}: the stage touched it");
            let want = expected(&set, &before, policy, is_queue_by_hand);
            let (engine, cx) = (with(&to, method), context());
            let commit = beside_supervisor(&mut to, method, engine.commit(&key, &cx)).await;
            commit.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            assert_eq!(differences(&state(&to).await, &want), Vec::<String>::new(), "{what}");
            let engine = with(&to, method);
            assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committed, "{what}");
            // What is written meanwhile goes.
            to.ask::<()>(&["SET", "written-after", "1"]).await;
            let cx = context();
            let back = beside_supervisor(&mut to, method, engine.rollback(&key, &cx)).await;
            back.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new(), "{what}, undone");
            assert_eq!(to.ask::<String>(&["FCALL", "two", "0"]).await, "live", "{what}");
            assert_eq!(persistence(&to).await, settings_before, "{what}");
            is_free(&to, &what).await;
            to.kill9();
            to.restart().await;
            assert_eq!(differences(&state(&to).await, &before), Vec::<String>::new(), "{what}, undone, after a kill");
            // Nothing of the run is there: all of it is a success.
            let engine = with(&to, method);
            assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
            engine.rollback(&key, &context()).await.unwrap();
            engine.finalize(&key, &context()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn redis_staged_replicas_follow_forward_and_back() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    for method in [LoadMethod::Replication, LoadMethod::Restart] {
        let mut to = RedisServer::start(&["--appendonly", "yes", "--masterauth", PASSWORD]).await;
        to.ask::<()>(&["SET", "old", "1"]).await;
        let before = to.digest().await;
        let port = to.url().rsplit(':').next().unwrap().to_owned();
        let replica =
            RedisServer::start(&["--replicaof", &format!("127.0.0.1 {port}"), "--masterauth", PASSWORD]).await;
        let follows = async |want: &str| {
            wait_for("the replica to follow", Duration::from_secs(60), async || {
                let digest = replica.digest().await;
                if digest == want { Ok(()) } else { Err(digest) }
            })
            .await;
        };
        follows(&before).await;
        let (engine, key, cx) = (with(&to, method), run(), context());
        engine.stage(&key, source(Some(report.clone()), rdb.clone()), &context()).await.unwrap();
        let done = beside_supervisor(&mut to, method, engine.commit(&key, &cx)).await;
        done.unwrap_or_else(|e| panic!("{method:?}: {}", e.chain()));
        follows(&from.digest().await).await;
        let done = beside_supervisor(&mut to, method, engine.rollback(&key, &cx)).await;
        done.unwrap_or_else(|e| panic!("{method:?}: {}", e.chain()));
        assert_eq!(to.digest().await, before, "{method:?}");
        follows(&before).await;
    }
}

#[tokio::test]
async fn redis_staged_data_goes_back_though_the_server_would_not_take_it_as_new() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let to = RedisServer::start(&["--appendonly", "yes"]).await;
    fill(&to).await;
    to.ask::<()>(&["SET", "old", "1"]).await;
    let before = to.digest().await;
    let (engine, key) = (engine(&to), run());
    engine.stage(&key, source(Some(report.clone()), rdb), &context()).await.unwrap();
    engine.commit(&key, &context()).await.unwrap();
    to.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(to.digest().await, before);
}

#[tokio::test]
async fn redis_staged_commit_whose_server_refuses_to_follow_has_touched_nothing() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let to = RedisServer::start(&[]).await;
    to.ask::<()>(&["SET", "old", "1"]).await;
    let before = to.digest().await;
    let (engine, key) = (with(&to, LoadMethod::Replication), run());
    let set = source(Some(report), rdb);
    engine.stage(&key, set.clone(), &context()).await.unwrap();
    // Told to follow, it refuses, also to follow nobody: nobody knows how it is left.
    to.ask::<()>(&["ACL", "SETUSER", "default", "-replicaof", "-slaveof"]).await;
    let refused = engine.commit(&key, &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert_eq!((to.digest().await, engine.staged(&key).await.unwrap()), (before.clone(), Staged::Committing));
    to.ask::<()>(&["ACL", "SETUSER", "default", "+replicaof", "+slaveof"]).await;
    engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    is_free(&to, "refused").await;

    // It refuses to follow this agent, and is a master for certain: it was promised nothing, so nothing was touched.
    engine.stage(&key, set, &context()).await.unwrap();
    to.ask::<()>(&["ACL", "SETUSER", "default", "-replicaof", "+replicaof|no", "-slaveof"]).await;
    let refused = engine.commit(&key, &context()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert_eq!((to.digest().await, engine.staged(&key).await.unwrap()), (before.clone(), Staged::Staged));
    to.ask::<()>(&["ACL", "SETUSER", "default", "+replicaof", "+slaveof"]).await;
    engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(to.digest().await, from.digest().await);
    engine.rollback(&key, &context()).await.unwrap();
    assert_eq!(to.digest().await, before);
}

#[tokio::test]
async fn redis_staged_server_that_was_shut_down_is_started_by_the_next_agent() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    for forward in [true, false] {
        let mut to = RedisServer::start(&["--appendonly", "yes"]).await;
        to.ask::<()>(&["SET", "old", "1"]).await;
        let before = to.digest().await;
        let asked = to.scratch().join("restart");
        let program = to.scratch().join("restart.sh");
        std::fs::write(&program, format!("#!/bin/sh\n: > {}\n", asked.display())).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let settings = Settings {
            redis_load_method: Some(LoadMethod::Restart),
            redis_restarted_by: Some(RestartedBy::Command),
            redis_restart_command: Some(program),
            ..settings(&to)
        };
        let key = run();
        let engine = settings.clone().open(to.scratch().to_owned()).unwrap();
        engine.stage(&key, source(Some(report.clone()), rdb.clone()), &context()).await.unwrap();
        cut_commit(&engine, &key, "waiting until the server is back").await;
        drop(engine);
        wait_for(
            "the server to shut down",
            Duration::from_secs(30),
            async || {
                if to.runs() { Err("it runs") } else { Ok(()) }
            },
        )
        .await;
        assert!(!asked.is_file());

        let next = settings.open(to.scratch().to_owned()).unwrap();
        let cx = context();
        let work =
            async { if forward { next.commit(&key, &cx).await.map(drop) } else { next.rollback(&key, &cx).await } };
        // Once for what was left, and once for the load of its own.
        let starting = async {
            for _ in 0..2 {
                wait_for("the restart command to run", Duration::from_secs(30), async || {
                    if asked.is_file() { Ok(()) } else { Err("it did not") }
                })
                .await;
                std::fs::remove_file(&asked).unwrap();
                wait_for("the server to shut down", Duration::from_secs(30), async || {
                    if to.runs() { Err("it runs") } else { Ok(()) }
                })
                .await;
                to.start_again().await;
            }
        };
        let work = async {
            work.await.unwrap_or_else(|e| panic!("forward {forward}: {}", e.chain()));
        };
        tokio::join!(work, starting);
        assert_eq!(to.digest().await, if forward { from.digest().await } else { before }, "forward {forward}");
        next.finalize(&key, &context()).await.unwrap();
        let left = leftovers(&to);
        assert_eq!(left, Vec::<String>::new(), "forward {forward}");
    }
}
