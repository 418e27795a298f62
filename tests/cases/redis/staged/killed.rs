//! The kill loop: the agent, or agent and server, are killed at every sub-step of a load that can be undone. The next agent ends it forward or back, and the
//! server holds all of the old data or all of the new.

use super::*;
use keepsake_tests::kills::stride;

/// How a server is loaded.
#[derive(Debug, Clone, Copy)]
struct Way {
    method: LoadMethod,
    appendonly: &'static str,
    /// Whether the agent has the data folder.
    folder: bool,
    policy: QueuePolicy,
}

/// What is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Stage,
    Commit,
    Rollback,
    Finalize,
}

/// A blow and what comes after it.
#[derive(Debug, Clone, Copy)]
struct Blow {
    server_too: bool,
    forward: bool,
}

const BLOWS: [Blow; 4] = [
    Blow { server_too: true, forward: false },
    Blow { server_too: false, forward: true },
    Blow { server_too: true, forward: true },
    Blow { server_too: false, forward: false },
];

/// The set, and what it and the old data are.
struct World {
    report: DumpReport,
    rdb: Vec<u8>,
    set: super::super::queues::State,
}

fn open(to: &RedisServer, way: Way) -> Arc<dyn Engine> {
    if way.folder {
        return with(to, way.method);
    }
    Settings { redis_data_dir: None, ..settings(to) }.open(to.scratch().to_owned()).unwrap()
}

/// A server with old data: every kind of value, several databases, times to live, queues.
async fn old_server(way: Way) -> RedisServer {
    let to = RedisServer::start(&["--appendonly", way.appendonly, "--save", "900 1"]).await;
    let mut connection = to.client().get_multiplexed_async_connection().await.unwrap();
    let mut pipe = redis::pipe();
    for db in [0, 1, 9] {
        pipe.cmd("SELECT").arg(db).ignore();
        for n in 0..50 {
            pipe.set(format!("old:{n}"), n).ignore();
        }
        pipe.hset("old:hash", "a", "1").zadd("old:zset", "m", 1.5).sadd("old:set", "x").ignore();
        pipe.rpush("resque:queue:priority", "live").rpush("old:list", "1").ignore();
        pipe.cmd("SET").arg("old:expiring").arg("1").arg("PXAT").arg("2082758400123").ignore();
        pipe.cmd("XADD").arg("old:stream").arg("1-1").arg("a").arg("b").ignore();
    }
    pipe.query_async::<()>(&mut connection).await.unwrap();
    // Without an AOF only what was saved outlives a kill.
    if way.appendonly == "no" {
        to.ask::<()>(&["SAVE"]).await;
    }
    to
}

async fn operate(
    engine: &Arc<dyn Engine>,
    key: &RunKey,
    what: Operation,
    source: Arc<dyn Source>,
    cx: &Context,
) -> keepsake_core::Result<()> {
    match what {
        Operation::Stage => engine.stage(key, source, cx).await.map(drop),
        Operation::Commit => engine.commit(key, cx).await.map(drop),
        Operation::Rollback => engine.rollback(key, cx).await,
        Operation::Finalize => engine.finalize(key, cx).await,
    }
}

/// What has to be done before.
fn before(what: Operation) -> &'static [Operation] {
    match what {
        Operation::Stage => &[],
        Operation::Commit => &[Operation::Stage],
        Operation::Rollback | Operation::Finalize => &[Operation::Stage, Operation::Commit],
    }
}

/// One blow at the n-th sub-step, and all that must hold afterwards. False when there are not so many.
async fn strike(world: &World, way: Way, what: Operation, nth: usize, blow: Blow) -> Option<String> {
    let mut to = old_server(way).await;
    let (old, settings) = (state(&to).await, persistence(&to).await);
    let new = expected(&world.set, &old, way.policy, is_queue_by_hand);
    let source = || with_queues(&world.report, &world.rdb, way.policy);
    let key = run();
    for earlier in before(what) {
        let (engine, cx) = (open(&to, way), context());
        let work = operate(&engine, &key, *earlier, source(), &cx);
        beside_supervisor(&mut to, way.method, work).await.unwrap_or_else(|e| panic!("{earlier:?}: {}", e.chain()));
    }

    let engine = open(&to, way);
    let (cx, progress) = Context::new(CancellationToken::new());
    let work = cut_at(nth, progress, operate(&engine, &key, what, source(), &cx));
    let (done, seen) = beside_supervisor(&mut to, way.method, work).await;
    drop(engine);
    let place = format!("{what:?} at {nth} ({}), {blow:?}, {way:?}", seen.last().map_or("", String::as_str));
    if let Some(done) = done {
        done.unwrap_or_else(|e| panic!("{place}: {}", e.chain()));
        return None;
    }
    if blow.server_too {
        to.kill9();
    }
    // SHUTDOWN may have been on its way.
    let gone = wait_for("the server to answer or to end", Duration::from_secs(20), async || {
        if blow.server_too || !to.runs() {
            return Ok(true);
        }
        let mut connection = to.client().get_multiplexed_async_connection().await.map_err(|e| e.to_string())?;
        redis::cmd("PING").query_async::<String>(&mut connection).await.map(|_| false).map_err(|e| e.to_string())
    })
    .await;
    if gone {
        to.start_again().await;
    }

    let next = open(&to, way);
    let at = next.staged(&key).await.unwrap();
    let cx = context();
    let end = async {
        if !blow.forward {
            next.rollback(&key, &cx).await?;
            return Ok(());
        }
        if what == Operation::Stage {
            next.stage(&key, source(), &cx).await?;
        }
        // A rollback or a finalize that has come to its last files cannot be turned: nothing of the run is there.
        if at != Staged::Absent || what == Operation::Stage {
            next.commit(&key, &cx).await?;
        }
        next.finalize(&key, &cx).await
    };
    let ended: keepsake_core::Result<()> = beside_supervisor(&mut to, way.method, end).await;
    ended.unwrap_or_else(|e| panic!("{place}: from {at:?}: {}", e.chain()));
    let is_new = match (at, what) {
        // It had come to its end before the blow.
        (Staged::Absent, Operation::Rollback) => false,
        (Staged::Absent, Operation::Finalize) => true,
        _ => blow.forward,
    };
    let want = if is_new { &new } else { &old };
    assert_eq!(differences(&state(&to).await, want), Vec::<String>::new(), "{place}: from {at:?}");
    assert_eq!(persistence(&to).await, settings, "{place}");
    is_free(&to, &place).await;
    assert_eq!(next.describe().await.unwrap().problems, Vec::<String>::new(), "{place}");
    // What is there now is there for good, and can be dumped.
    to.kill9();
    to.restart().await;
    assert_eq!(differences(&state(&to).await, want), Vec::<String>::new(), "{place}: after a kill");
    dump(&to).await;
    Some(place)
}

/// Every sub-step of every operation.
async fn everywhere(way: Way) {
    let from = RedisServer::start(&[]).await;
    fill(&from).await;
    from.ask::<()>(&["RPUSH", "resque:queue:priority", "set"]).await;
    let (report, rdb) = dump(&from).await;
    let world = World { set: state(&from).await, report, rdb };
    // One blow at each sub-step, another at each next one; with KEEPSAKE_SOAK=1 all of them at all.
    let stride = stride(4);
    for (what, least) in
        [(Operation::Stage, 4), (Operation::Commit, 10), (Operation::Rollback, 8), (Operation::Finalize, 2)]
    {
        let mut nth = 0;
        'steps: loop {
            for blow in BLOWS.iter().skip(nth % stride).step_by(stride) {
                match strike(&world, way, what, nth, *blow).await {
                    Some(place) => println!("{place}"),
                    None => break 'steps,
                }
            }
            nth += 1;
        }
        assert!(nth >= least, "{what:?} had only {nth} sub-steps by {way:?}");
    }
}

macro_rules! ways {
    ($($name:ident: $method:ident, $appendonly:literal, $folder:literal, $policy:ident;)*) => {
        $(#[tokio::test]
        async fn $name() {
            let way = Way {
                method: LoadMethod::$method,
                appendonly: $appendonly,
                folder: $folder,
                policy: QueuePolicy::$policy,
            };
            everywhere(way).await;
        })*
    };
}

ways! {
    redis_killed_by_replication: Replication, "yes", true, Restore;
    redis_killed_by_replication_without_aof: Replication, "no", true, Drop;
    redis_killed_by_replication_without_folder: Replication, "yes", false, Keep;
    redis_killed_by_replication_without_folder_and_aof: Replication, "no", false, Restore;
    redis_killed_by_reload: Reload, "yes", true, Keep;
    redis_killed_by_reload_without_aof: Reload, "no", true, Restore;
    redis_killed_by_restart: Restart, "yes", true, Restore;
    redis_killed_by_restart_without_aof: Restart, "no", true, Keep;
}
