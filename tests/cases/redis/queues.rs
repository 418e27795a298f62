//! The policy for queues on real servers: what it chooses changes, and not one key besides.

mod faults;

use std::collections::BTreeMap;

use keepsake_agent::engine::Source;
use keepsake_agent::engine::redis::LoadMethod;
use keepsake_core::queues::{QueuePolicy, WORKED_OFF, Waiting, jobs};
use keepsake_tests::memory::WithQueues;

use super::methods::load as load_by;
use super::*;

/// Key by key: DIGEST-VALUE and when it expires.
pub(super) type State = BTreeMap<(u32, Vec<u8>), (String, i64)>;

pub(super) async fn state(server: &RedisServer) -> State {
    let mut all = State::new();
    for db in 0..16 {
        let digests = server.digests(db, &[]).await;
        let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
        redis::cmd("SELECT").arg(db).query_async::<()>(&mut connection).await.unwrap();
        let digests: Vec<_> = digests.into_iter().collect();
        for batch in digests.chunks(5_000) {
            let mut pipe = redis::pipe();
            for (key, _) in batch {
                pipe.cmd("PEXPIRETIME").arg(key);
            }
            let times: Vec<i64> = pipe.query_async(&mut connection).await.unwrap();
            let both = batch.iter().zip(times).map(|((key, digest), at)| ((db, key.clone()), (digest.clone(), at)));
            all.extend(both);
        }
    }
    all
}

/// What differs, by name.
pub(super) fn differences(now: &State, want: &State) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = now.keys().chain(want.keys()).collect();
    names
        .into_iter()
        .filter(|name| now.get(*name) != want.get(*name))
        .map(|(db, key)| format!("{db} {}", key.escape_ascii()))
        .collect()
}

/// What must be there afterwards, by a rule of the test's own.
pub(super) fn expected(set: &State, live: &State, policy: QueuePolicy, is_queue: fn(&[u8]) -> bool) -> State {
    let of = |state: &State, queues: bool| {
        state.clone().into_iter().filter(move |((_, key), _)| is_queue(key) == queues).collect::<Vec<_>>()
    };
    match policy {
        QueuePolicy::Restore => set.clone(),
        QueuePolicy::Keep => of(set, false).into_iter().chain(of(live, true)).collect(),
        QueuePolicy::Drop => of(set, false).into_iter().collect(),
    }
}

pub(super) fn with_queues(report: &DumpReport, rdb: &[u8], queues: QueuePolicy) -> Arc<dyn Source> {
    Arc::new(WithQueues { source: source(Some(report.clone()), rdb.to_vec()), queues })
}

/// Runs commands given as words of bytes.
pub(super) async fn run_all(server: &RedisServer, db: u32, commands: &[&[&[u8]]]) {
    let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(db).ignore();
    for words in commands {
        let mut command = redis::Cmd::new();
        for word in *words {
            command.arg(*word);
        }
        pipe.add_command(command).ignore();
    }
    pipe.query_async::<()>(&mut connection).await.unwrap();
}

/// Far away, so that nothing expires while a test compares.
const LATER: &[u8] = b"2082758400123";

/// Odd queues and odd data, in several databases; `who` tells two servers apart.
async fn odd(server: &RedisServer, who: &str) {
    let who = who.as_bytes();
    let long_lock = [b"activejob_uniqueness:worker:", &[b'a'; 300][..]].concat();
    let long_data = [b"ratelimit:", &[b'a'; 300][..], who].concat();
    let huge_name = [b"queue", &vec![b'x'; 50_000][..]].concat();
    let big = vec![b'z'; 3 << 20];
    for db in [0_u32, 1, 3, 15] {
        run_all(
            server,
            db,
            &[
                // Queues of both applications, and what belongs to their jobs.
                &[b"RPUSH", b"resque:queue:priority", b"1", who],
                &[b"RPUSH", b"resque:failed", who],
                &[b"SADD", b"resque:queues", b"priority"],
                &[b"SET", b"threescale::backend::failedjobsscheduler:lock", who, b"PXAT", LATER],
                &[b"RPUSH", &[b"queue:only-", who].concat(), b"job"],
                &[b"RPUSH", b"queue:\0\xff", who, &vec![b'j'; 20_000]],
                &[b"ZADD", b"retry", b"1.5", who],
                &[b"ZADD", b"dead", b"inf", who],
                &[b"HSET", b"BID-x", b"who", who],
                &[b"PEXPIREAT", b"BID-x", LATER],
                &[b"SET", &long_lock, who, b"PXAT", LATER],
                &[b"HSET", b"pod-1:1:0123456789ab", b"who", who],
                &[b"XADD", b"queue:stream", b"1-1", b"who", who],
                // Data whose name or place is near theirs.
                &[b"RPUSH", b"webhooks:failures:provider-9", who],
                &[b"SET", b"billing-summary-7", who, b"PXAT", LATER],
                &[b"SET", b"lock:queue:default", who],
                &[b"SET", b"queue", who],
                &[b"SET", b"xqueues", who],
                &[b"SET", b"queues ", who],
                &[b"HSET", b"cron_job:retry", b"who", who],
                &[b"ZADD", b"events/queue", b"17", who],
                &[b"SET", &long_data, who],
                &[b"SET", &huge_name, who],
                &[b"SET", b"odd:big", &big],
                &[b"SET", b"12345", who],
                &[b"SET", b"", who],
                &[b"XADD", b"odd:log", b"1-1", b"who", who],
                &[b"XGROUP", b"CREATE", b"odd:log", b"g", b"0"],
                &[b"XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS", b"odd:log", b">"],
                &[b"PFADD", b"odd:hll", b"a", who],
                &[b"SET", b"odd:bits\0\xff\r\n", b"\0\xff"],
            ],
        )
        .await;
    }
}

/// By hand, over the names that these tests use.
pub(super) fn is_queue_by_hand(key: &[u8]) -> bool {
    let known: [&[u8]; 12] = [
        b"queues",
        b"schedule",
        b"retry",
        b"dead",
        b"BID-x",
        b"resque:queue:priority",
        b"resque:queue:main",
        b"resque:failed",
        b"resque:queues",
        b"threescale::backend::failedjobsscheduler:lock",
        b"pod-1:1:0123456789ab",
        b"resque:queue:late",
    ];
    known.contains(&key) || key.starts_with(b"queue:") || key.starts_with(b"activejob_uniqueness:worker:a")
}

/// A server with everything; the other one's queues and data are others.
pub(super) async fn full(options: &[&str], who: &str, seed: u64) -> RedisServer {
    let server = RedisServer::start(options).await;
    backend::fill(&server.client(), seed, Size::TINY).await.unwrap();
    system_redis::fill(&server.client(), seed + 1, Size::TINY).await.unwrap();
    odd(&server, who).await;
    server
}

#[tokio::test]
async fn redis_queues_are_restored_kept_or_dropped_and_no_other_key_changes() {
    let from = full(&[], "set", 1).await;
    // A function comes back under every policy; the live server's goes.
    let code = "#!lua name=one\nredis.register_function('one', function() return 'set' end)";
    from.ask::<()>(&["FUNCTION", "LOAD", code]).await;
    let (report, rdb) = dump(&from).await;
    let set = state(&from).await;
    for method in [LoadMethod::Replication, LoadMethod::Reload, LoadMethod::Restart] {
        for policy in [QueuePolicy::Restore, QueuePolicy::Keep, QueuePolicy::Drop] {
            let mut to = full(&["--appendonly", "yes"], "live", 7).await;
            let two = code.replace("one", "two");
            to.ask::<()>(&["FUNCTION", "LOAD", &two]).await;
            let want = expected(&set, &state(&to).await, policy, is_queue_by_hand);
            load_by(&mut to, method, with_queues(&report, &rdb, policy)).await;
            let now = state(&to).await;
            assert_eq!(differences(&now, &want), Vec::<String>::new(), "{method:?} {policy}");
            assert!(want.len() > 200 && (want != set) == (policy != QueuePolicy::Restore), "the servers do not differ");
            assert_eq!(to.ask::<String>(&["FCALL", "one", "0"]).await, "set", "{method:?} {policy}");
            let functions: Vec<redis::Value> = to.ask(&["FUNCTION", "LIST"]).await;
            assert_eq!(functions.len(), 1);
            to.kill9();
            to.restart().await;
            assert_eq!(
                differences(&state(&to).await, &want),
                Vec::<String>::new(),
                "{method:?} {policy}, after a kill"
            );
            no_leftovers(to.data());
        }
    }
}

/// The comparison of these tests tells one key more, less or other.
#[tokio::test]
async fn redis_queues_one_key_too_many_is_noticed() {
    let server = full(&[], "set", 1).await;
    let (report, rdb) = dump(&server).await;
    let want = expected(&state(&server).await, &State::new(), QueuePolicy::Drop, is_queue_by_hand);
    let engine = engine(&server);
    let key = run();
    engine.stage(&key, with_queues(&report, &rdb, QueuePolicy::Drop), &context()).await.unwrap();
    let committed = engine.commit(&key, &context()).await.unwrap();
    assert_eq!(differences(&state(&server).await, &want), Vec::<String>::new());
    // The proof by counting was of what was spliced, not of what was dumped.
    assert!(committed.counts["keys:db1"] < report.counts["keys:db1"], "{:?}", committed.counts);
    for (spoil, name) in [
        (&[&b"DEL"[..], b"xqueues"][..], "3 xqueues"),
        (&[b"PERSIST", b"billing-summary-7"], "3 billing-summary-7"),
        (&[b"RPUSH", b"queue:x", b"1"], "3 queue:x"),
        (&[b"XADD", b"odd:log", b"2-1", b"a", b"b"], "3 odd:log"),
    ] {
        let before = state(&server).await;
        run_all(&server, 3, &[spoil]).await;
        assert_eq!(differences(&state(&server).await, &before), [name]);
    }
}

#[tokio::test]
async fn redis_queues_are_kept_and_counted_over_the_network_too() {
    let from = full(&[], "set", 1).await;
    let (report, rdb) = dump(&from).await;
    let set = state(&from).await;
    let to = full(&["--appendonly", "yes", "--repl-diskless-sync", "no"], "live", 7).await;
    let engine = Settings { redis_data_dir: None, ..settings(&to) }.open(to.scratch().to_owned()).unwrap();
    let key = run();
    let staged = engine.stage(&key, with_queues(&report, &rdb, QueuePolicy::Keep), &context()).await.unwrap();
    assert!(staged.warnings.iter().any(|w| w.contains("of the live server are kept")), "{:?}", staged.warnings);
    // What is queued between stage and commit is kept, what else is written is not.
    run_all(&to, 1, &[&[b"RPUSH", b"resque:queue:late", b"job"], &[b"SET", b"late", b"data"]]).await;
    let want = expected(&set, &state(&to).await, QueuePolicy::Keep, is_queue_by_hand);
    assert!(want.contains_key(&(1, b"resque:queue:late".to_vec())));
    engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    engine.finalize(&key, &context()).await.unwrap();
    assert_eq!(differences(&state(&to).await, &want), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(to.scratch()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| ["data", "password", "redis.conf"].iter().any(|known| n == known)), "{left:?}");
}

#[tokio::test]
async fn redis_jobs_are_counted_by_queue_when_dumped() {
    for compress in ["0", "1"] {
        let server = RedisServer::start(&["--list-compress-depth", compress]).await;
        let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
        let mut pipe = redis::pipe();
        for n in 0..30_000 {
            pipe.rpush("queue:long", format!("{{\"class\":\"Job\",\"args\":[{n}]}}")).ignore();
        }
        for n in 0..3_000 {
            pipe.zadd("schedule", format!("job {n}"), n).ignore();
        }
        pipe.rpush("resque:queue:priority", "small").ignore();
        // Too large for a node with others.
        pipe.rpush("resque:queue:main", &["x".repeat(20_000), "y".repeat(20_000), "z".to_owned()]).ignore();
        pipe.zadd("retry", "a", 1).zadd("retry", "b", 2).ignore();
        pipe.zadd("dead", "dead", 1).rpush("errors/service_id:2", "no job").ignore();
        pipe.query_async::<()>(&mut connection).await.unwrap();
        let (report, _) = dump(&server).await;
        let jobs = jobs(&report.facts).unwrap();
        let want = [
            ("queue:long", 30_000),
            ("schedule", 3_000),
            ("resque:queue:main", 3),
            ("retry", 2),
            ("resque:queue:priority", 1),
        ];
        assert_eq!(jobs.queues, want.map(|(name, n)| (name.to_owned(), n)));
        assert_eq!(jobs.total, 33_006);
    }
}

#[tokio::test]
async fn redis_queues_of_the_fixtures_go_and_everything_else_stays() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    if !fixtures.is_dir() {
        eprintln!("SKIPPED: there is no {}", fixtures.display());
        return;
    }
    let backend: fn(&[u8]) -> bool = |key| key.starts_with(b"resque:");
    // The other way round than the rule: what is data in it, by the fixture's own description.
    let system: fn(&[u8]) -> bool = |key| {
        let data: [&[u8]; 10] = [
            b"deliberate:",
            b"stat:",
            b"j|",
            b"h|",
            b"cron_job",
            b"ratelimit:",
            b"lock:",
            b"webhooks:failures:",
            b"billing-summary-",
            b"nul",
        ];
        !data.iter().any(|p| key.starts_with(p)) && key.is_ascii()
    };
    for (name, is_queue, queues, held) in [
        ("system-redis", system, 121, "2663 jobs (queue:backend_sync 1700, schedule 400, retry 250, "),
        ("backend-redis", backend, 8, "16 jobs (resque:queue:priority 12, resque:queue:main 3, resque:failed 1)"),
    ] {
        let scratch = keepsake_tests::scratch::Scratch::new();
        let rdb = scratch.path().join("dump.rdb");
        let mut zstd = keepsake_tests::child::tool_command("zstd");
        zstd.args(["-q", "-d", "-o"]).arg(&rdb).arg(fixtures.join(format!("{name}.rdb.zst")));
        assert!(keepsake_tests::child::run(&mut zstd).status.success());
        let from = RedisServer::start_with_rdb(&[], Some(&rdb)).await;
        let (report, bytes) = dump(&from).await;
        let jobs = jobs(&report.facts).unwrap();
        assert!(jobs.to_string().starts_with(held), "{jobs}");
        // What must be there is made by the server itself: a DEL of each queue, and for `keep` the live ones after that.
        let mut connection = from.client().get_multiplexed_async_connection().await.unwrap();
        redis::cmd("SELECT").arg(1).query_async::<()>(&mut connection).await.unwrap();
        let mut keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        keys.retain(|key| is_queue(key));
        assert_eq!(keys.len(), queues, "{name}");
        redis::cmd("DEL").arg(&keys).query_async::<()>(&mut connection).await.unwrap();
        let live: [&[&[u8]]; 2] = [&[b"RPUSH", b"resque:queue:main", b"live"], &[b"RPUSH", b"queue:low", b"live"]];
        for policy in [QueuePolicy::Drop, QueuePolicy::Keep] {
            if policy == QueuePolicy::Keep {
                run_all(&from, 1, &live).await;
            }
            let to = RedisServer::start(&["--appendonly", "yes"]).await;
            run_all(&to, 1, &live).await;
            run_all(&to, 1, &[&[b"SET", b"surplus", b"1"]]).await;
            let (engine, key) = (engine(&to), run());
            engine.stage(&key, with_queues(&report, &bytes, policy), &context()).await.unwrap();
            engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
            assert_eq!(to.digest().await, from.digest().await, "{name} {policy}");
        }
    }
}

/// Whatever database `REDIS_QUEUES_URL` names; what has failed is told apart, and nothing is changed.
#[tokio::test]
async fn redis_jobs_that_wait_are_counted_in_every_database() {
    let server = RedisServer::start(&[]).await;
    assert_eq!(engine(&server).waiting_jobs().await.unwrap(), Waiting::default());
    fill(&server).await;
    let before = engine(&server).waiting_jobs().await.unwrap();
    run_all(
        &server,
        1,
        &[&[b"RPUSH", b"resque:queue:priority", b"{}", b"{}"], &[b"RPUSH", b"resque:queue:another", b"{}"]],
    )
    .await;
    run_all(&server, 7, &[&[b"RPUSH", b"resque:queue:priority", b"{}"], &[b"RPUSH", b"resque:failed", b"{}"]]).await;
    let state = state(&server).await;
    let now = engine(&server).waiting_jobs().await.unwrap();
    assert_eq!((now.total(), now.failed), (before.total() + 3, before.failed + 1));
    let of = |waiting: &Waiting| waiting.queues.get(WORKED_OFF[0]).copied().unwrap_or_default();
    assert_eq!(of(&now), of(&before) + 3);
    assert_eq!(differences(&super::queues::state(&server).await, &state), Vec::<String>::new());
}
