//! Every way to load: what comes back, what survives a kill right after, and what an agent that dies in between leaves.

use keepsake_agent::engine::Source;
use keepsake_agent::engine::redis::{LoadMethod, RestartedBy};

use super::staged::in_place;
use super::*;

/// The settings of persistence that a load may change for a while.
pub(super) async fn persistence(server: &RedisServer) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for name in ["save", "appendonly", "masterauth", "tls-replication", "dbfilename"] {
        all.push(server.ask(&["CONFIG", "GET", name]).await);
    }
    all
}

/// Starts the server again, once, when it has shut down.
pub(super) async fn supervise(server: &mut RedisServer) {
    wait_for("the server to shut down", Duration::from_secs(30), async || match server.process().ended() {
        Some(_) => Ok(()),
        None => Err("it runs"),
    })
    .await;
    server.start_again().await;
}

pub(super) fn with(server: &RedisServer, method: LoadMethod) -> Arc<dyn Engine> {
    let restarted_by = (method == LoadMethod::Restart).then_some(RestartedBy::Supervisor);
    Settings { redis_load_method: Some(method), redis_restarted_by: restarted_by, ..settings(server) }
        .open(server.scratch().to_owned())
        .unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// Loads by one way, beside somebody who starts the server again if it is shut down.
pub(super) async fn load(server: &mut RedisServer, method: LoadMethod, source: Arc<dyn Source>) {
    let (engine, key) = (with(server, method), run());
    engine.stage(&key, source, &context()).await.unwrap_or_else(|e| panic!("{method:?}: {}", e.chain()));
    let cx = context();
    let commit = engine.commit(&key, &cx);
    if method == LoadMethod::Restart {
        let (done, ()) = tokio::join!(commit, supervise(server));
        done
    } else {
        commit.await
    }
    .unwrap_or_else(|e| panic!("{method:?}: {}", e.chain()));
    engine.finalize(&key, &context()).await.unwrap();
}

fn nothing_is_left(server: &RedisServer) {
    no_leftovers(server.data());
    assert!(!server.data().join(".keepsake-load").try_exists().unwrap(), "the folder of a load is left");
}

#[tokio::test]
async fn redis_every_way_brings_everything_back_and_keeps_it() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let want = from.digest().await;
    for method in [LoadMethod::Replication, LoadMethod::Reload, LoadMethod::Restart] {
        for options in [
            &["--appendonly", "no"][..],
            &["--appendonly", "yes"],
            &["--appendonly", "yes", "--save", "900 1", "--save", "60 10000"],
            &[
                "--appendonly",
                "yes",
                "--aof-use-rdb-preamble",
                "no",
                "--appenddirname",
                "other",
                "--appendfilename",
                "log",
            ],
            &["--save", "900 1", "--dbfilename", "other.rdb"],
        ] {
            let mut to = RedisServer::start(options).await;
            to.ask::<()>(&["SET", "surplus", "1"]).await;
            let before = persistence(&to).await;
            load(&mut to, method, source(Some(report.clone()), rdb.clone())).await;
            assert_eq!(to.digest().await, want, "{method:?} {options:?}");
            assert_eq!(persistence(&to).await, before, "{method:?} {options:?}");
            nothing_is_left(&to);
            to.kill9();
            to.restart().await;
            assert_eq!(to.digest().await, want, "after a kill: {method:?} {options:?}");
            // What is written afterwards is kept as before.
            to.ask::<()>(&["SET", "after", "1"]).await;
            dump(&to).await;
        }
    }
}

#[tokio::test]
async fn redis_settings_that_were_changed_while_it_runs_are_put_back_after_a_restart() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    // Its configuration file says otherwise.
    for (started, set) in [("no", "yes"), ("yes", "no")] {
        let mut to = RedisServer::start(&["--appendonly", started]).await;
        to.ask::<()>(&["CONFIG", "SET", "appendonly", set]).await;
        to.ask::<()>(&["CONFIG", "SET", "save", "300 7"]).await;
        let before = persistence(&to).await;
        load(&mut to, LoadMethod::Restart, source(Some(report.clone()), rdb.clone())).await;
        assert_eq!(to.digest().await, from.digest().await, "{started} {set}");
        assert_eq!(persistence(&to).await, before, "{started} {set}");
        nothing_is_left(&to);
    }
}

#[tokio::test]
async fn redis_as_in_3scale_2_15_is_loaded_by_a_restart_without_being_told_the_way() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let mut to = RedisServer::start(&[&AS_IN_2_15[..], &["--appendonly", "yes"]].concat()).await;
    let asked = to.scratch().join("restart");
    let program = to.scratch().join("restart.sh");
    std::fs::write(&program, format!("#!/bin/sh\n: > {}\n", asked.display())).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let engine = Settings {
        redis_restarted_by: Some(RestartedBy::Command),
        redis_restart_command: Some(program),
        ..settings(&to)
    }
    .open(to.scratch().to_owned())
    .unwrap();
    assert_eq!(engine.describe().await.unwrap().problems, Vec::<String>::new());
    let key = run();
    engine.stage(&key, source(Some(report.clone()), rdb), &context()).await.unwrap();
    let restart = async {
        wait_for("the restart command to run", Duration::from_secs(30), async || {
            if asked.is_file() { Ok(()) } else { Err("it did not") }
        })
        .await;
        to.start_again().await;
    };
    let cx = context();
    let (done, ()) = tokio::join!(engine.commit(&key, &cx), restart);
    let done = done.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(done.counts, report.counts);
}

#[tokio::test]
async fn redis_restart_command_that_is_the_server_itself_is_neither_waited_for_nor_ended() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let to = RedisServer::start(&["--appendonly", "yes"]).await;
    let program = to.scratch().join("restart.sh");
    // It dies with the test's thread, which starts it.
    std::fs::write(&program, format!("#!/bin/sh\nexec {}\n", to.command_line())).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let engine = Settings {
        redis_load_method: Some(LoadMethod::Restart),
        redis_restarted_by: Some(RestartedBy::Command),
        redis_restart_command: Some(program),
        ..settings(&to)
    }
    .open(to.scratch().to_owned())
    .unwrap();
    let key = run();
    engine.stage(&key, source(Some(report), rdb), &context()).await.unwrap();
    engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    engine.finalize(&key, &context()).await.unwrap();
    drop(engine);
    assert_eq!(to.digest().await, from.digest().await);
}

/// Polls a future so often at most; then it is dropped where it stands, as by a kill of the agent.
async fn cut_after<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = Box::pin(work);
    let mut left = polls;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

#[tokio::test]
async fn redis_agent_that_dies_while_it_loads_in_place_leaves_one_of_both_and_a_server_that_keeps_it() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let new = from.digest().await;
    for method in [LoadMethod::Replication, LoadMethod::Reload, LoadMethod::Restart] {
        let (mut polls, mut cuts, mut olds) = (1, 0, 0);
        loop {
            let mut to = RedisServer::start(&["--appendonly", "yes", "--save", "900 1"]).await;
            to.ask::<()>(&["SET", "old", "1"]).await;
            let (old, before) = (to.digest().await, persistence(&to).await);
            let (engine, key) = (with(&to, method), run());
            engine.stage(&key, in_place(&report, &rdb), &context()).await.unwrap();
            let cx = context();
            let work = cut_after(polls, engine.commit(&key, &cx));
            let done = if method == LoadMethod::Restart {
                tokio::pin!(work);
                tokio::select! {
                    biased;
                    done = &mut work => done,
                    () = supervise(&mut to) => work.await,
                }
            } else {
                work.await
            };
            drop(engine);
            // SHUTDOWN may still have been on its way.
            let gone = wait_for("the server to answer or to end", Duration::from_secs(20), async || {
                if !to.runs() {
                    return Ok(true);
                }
                let mut connection = to.client().get_multiplexed_async_connection().await.map_err(|e| e.to_string())?;
                let pong: redis::RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
                pong.map(|_| false).map_err(|e| e.to_string())
            })
            .await;
            if gone {
                to.start_again().await;
            }
            let next = with(&to, method);
            wait_for("the next agent to end what was left", Duration::from_secs(30), async || {
                next.describe().await.map_err(|e| e.chain())?;
                let info: String = to.ask(&["INFO", "replication"]).await;
                if info.contains("role:master") { Ok(()) } else { Err(info) }
            })
            .await;
            let now = to.digest().await;
            // A server that was cut off as a replica in the middle of a copy may be empty: such a commit is told to be impossible to undo.
            let half = method == LoadMethod::Replication && now == "0".repeat(40);
            assert!(now == old || now == new || half, "{method:?} {polls}: neither the old data nor the new");
            assert_eq!(persistence(&to).await, before, "{method:?} {polls}");
            nothing_is_left(&to);
            to.kill9();
            to.restart().await;
            assert_eq!(to.digest().await, now, "{method:?} {polls}: after a kill");
            match done {
                Some(done) => {
                    done.unwrap_or_else(|e| panic!("{method:?}: {}", e.chain()));
                    assert_eq!(now, new, "{method:?}");
                    break;
                }
                None => {
                    cuts += 1;
                    olds += usize::from(now == old);
                }
            }
            polls += polls / 4 + 1;
        }
        assert!(cuts > 6 && olds > 2, "{method:?}: only {cuts} cuts, {olds} of them before the data was touched");
    }
}

#[tokio::test]
async fn redis_ways_that_do_not_fit_are_refused_with_the_reason() {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    let (report, rdb) = dump(&from).await;
    let refused = async |engine: Arc<dyn Engine>, words: &[&str]| {
        let error = engine.stage(&run(), source(Some(report.clone()), rdb.clone()), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{}", error.chain());
        for word in words {
            assert!(error.chain().contains(word), "{word}: {}", error.chain());
        }
    };

    // A replica would keep the old data after a reload.
    let to = RedisServer::start(&["--masterauth", PASSWORD]).await;
    let port = to.url().rsplit(':').next().unwrap().to_owned();
    let replica = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {port}"), "--masterauth", PASSWORD]).await;
    wait_for("the replica to follow", Duration::from_secs(20), async || {
        let info: String = replica.ask(&["INFO", "replication"]).await;
        if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
    })
    .await;
    refused(with(&to, LoadMethod::Reload), &["replicas are attached", "detach"]).await;
    // By replication it copies the new data.
    restore(&to, source(Some(report.clone()), rdb.clone())).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    wait_for("the replica to have the new data", Duration::from_secs(30), async || {
        let digest = replica.digest().await;
        if digest == to.digest().await { Ok(()) } else { Err(digest) }
    })
    .await;

    // More data than the server may hold.
    let small = RedisServer::start(&["--maxmemory", "1mb"]).await;
    refused(engine(&small), &["maxmemory"]).await;

    // Flags that cannot work are refused when the agent starts.
    for (settings, word) in [
        (Settings { redis_load_method: Some(LoadMethod::Restart), ..settings(&to) }, "--redis-restarted-by"),
        (Settings { redis_restarted_by: Some(RestartedBy::Command), ..settings(&to) }, "--redis-restart-command"),
        (
            Settings { redis_load_method: Some(LoadMethod::Reload), redis_data_dir: None, ..settings(&to) },
            "--redis-data-dir",
        ),
        (Settings { redis_url: "rediss://localhost:1".into(), ..settings(&to) }, "--redis-ca"),
    ] {
        let error = settings.open(PathBuf::new()).err().expect(word);
        assert!(error.kind() == Kind::Invalid && error.chain().contains(word), "{}", error.chain());
    }
}
