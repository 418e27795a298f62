//! What `make prove-config` claims: what differs is told exactly and put right, nothing else is touched, and little is felt of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keepsake_agent::engine::redis::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine};
use keepsake_core::config::{AlertLevels, Change, ConfigEntry, Counters, Difference, Tally, Wrong, Wrongs, classify};
use tokio_util::sync::CancellationToken;

use super::{Break, Case, Claim, Finding, LONG, SHORT};
use crate::causality::quantile;
use crate::child::{give_to_servers, run, tool_command};
use crate::config_source;
use crate::config_target::{Given, Told, Wanted, lists, service, write, write_others};
use crate::house::House;
use crate::servers::mysql::MysqlServer;
use crate::servers::redis::RedisServer;
use crate::threescale::Size;

/// What an agent may have in memory, bytes.
const MEMORY: u64 = 32 << 20;

/// All claims.
pub fn claims() -> Vec<Claim> {
    vec![exact(), whole(), gentle(), scale()]
}

fn fixture(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures").join(name);
    path.is_file().then_some(path)
}

fn engine(server: &RedisServer) -> Arc<dyn Engine> {
    let settings = Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        ..Settings::default()
    };
    settings.open(server.scratch().to_owned()).expect("open the redis engine")
}

async fn differences(
    server: &RedisServer,
    given: Given,
    keys_per_second: u32,
) -> (Vec<Difference>, keepsake_core::Result<u64>) {
    let (mut given, mut told) = (given, Told::default());
    let cx = Context::new(CancellationToken::new()).0;
    let engine = engine(server);
    let target = engine.config_target().expect("a target");
    let compared = target.compare(&mut given, &mut told, keys_per_second, &cx).await;
    (told.0, compared.map(|c| c.keys))
}

async fn apply(server: &RedisServer, changes: Vec<Difference>) {
    let cx = Context::new(CancellationToken::new()).0;
    let mut wanted = Wanted { changes, at_least: Counters::default() };
    let engine = engine(server);
    engine.config_target().expect("a target").apply(&mut wanted, 0, false, &cx).await.expect("change the Config");
}

fn counted(differences: &[Difference]) -> Wrongs {
    let mut tally = Tally::default();
    for difference in differences {
        tally.take(difference);
    }
    tally.total()
}

/// A realistic System, as it is or after this statement, and what it expects.
async fn system(statement: Option<&str>) -> Option<Vec<ConfigEntry>> {
    let script = fixture("system.sql.zst")?;
    let server = MysqlServer::start().await;
    server.run(&["CREATE DATABASE system DEFAULT COLLATE utf8mb3_bin"]).await;
    server.run_script("system", &script);
    if let Some(statement) = statement {
        server.run(&["USE system", statement]).await;
    }
    let (entries, _) = config_source::expected(&server.engine(), AlertLevels::Expected).await.expect("the Config");
    Some(entries)
}

/// A Redis on the data of a fixture.
async fn backend(name: &str) -> Option<RedisServer> {
    let rdb = fixture(name)?;
    let server = RedisServer::start(&[]).await;
    let to = server.data().join("dump.rdb");
    let done = run(tool_command("zstd").args(["-dqf"]).arg(rdb).arg("-o").arg(&to));
    assert!(done.status.success(), "zstd: {}", String::from_utf8_lossy(&done.stderr));
    give_to_servers(&to);
    server.ask::<()>(&["DEBUG", "RELOAD", "NOSAVE"]).await;
    Some(server)
}

const NO_FIXTURES: &str = "the fixtures are not there";

/// The consistent fixture, with System as it is or changed.
async fn equal(statement: Option<&'static str>) -> Finding {
    let (Some(entries), Some(server)) = (system(statement).await, backend("backend-redis.rdb.zst").await) else {
        return Finding::Skipped(NO_FIXTURES.to_owned());
    };
    let (found, keys) = differences(&server, Given::all(&entries, 500), 0).await;
    assert!(found.is_empty(), "not equal: {:?}", counted(&found));
    Finding::Holds(format!("{} keys", keys.expect("to the end")))
}

async fn stale() -> Finding {
    let (Some(entries), Some(server)) = (system(None).await, backend("backend-redis-stale.rdb.zst").await) else {
        return Finding::Skipped(NO_FIXTURES.to_owned());
    };
    let others = async || {
        let mut all = server.digests(0, &["events/id", "alerts/current_id"]).await;
        all.retain(|key, _| classify(key).is_none());
        all
    };
    let before = others().await;
    let (found, _) = differences(&server, Given::all(&entries, 500), 0).await;
    assert_eq!(counted(&found), Wrongs { missing: 188, different: 38, surplus: 43 });
    apply(&server, found).await;
    let (found, _) = differences(&server, Given::all(&entries, 500), 0).await;
    assert!(found.is_empty(), "not equal afterwards: {:?}", counted(&found));
    assert!(others().await == before, "another key was touched");
    Finding::Holds(format!("188 missing, 38 different, 43 surplus; {} other keys as they were", before.len()))
}

fn exact() -> Claim {
    let changed = |name: &str, statement: &'static str| Break {
        case: Case::telling(name, SHORT, move || equal(Some(statement))),
        seen: "not equal",
    };
    Claim {
        name: "exact",
        says: "of a realistic 3scale every key that differs is told and put right, and no other key is touched",
        cases: vec![Case::telling("equal", SHORT, || equal(None)), Case::telling("stale", SHORT, stale)],
        breaks: vec![
            changed(
                "a-state",
                "UPDATE cinstances SET state = 'suspended' WHERE type = 'Cinstance' AND state = 'live' LIMIT 1",
            ),
            changed("a-key", "DELETE FROM application_keys LIMIT 1"),
            changed(
                "a-limit",
                "UPDATE usage_limits SET value = value - 1 WHERE plan_type = 'Plan' AND value > 1 LIMIT 1",
            ),
        ],
    }
}

/// A Redis with the Config of one service, and the Config.
async fn filled(applications: u32) -> (RedisServer, Vec<ConfigEntry>) {
    let server = RedisServer::start(&[]).await;
    let ids: Vec<String> = (0..applications).map(|n| format!("app/{n:08x}")).collect();
    let mut entries = lists(&[7]);
    entries.extend(service(7, &ids));
    write(&server, &entries).await;
    write_others(&server).await;
    (server, entries)
}

/// Streams that are cut after each so many entries.
async fn cut(says_that_it_is_whole: bool) -> Finding {
    let (server, entries) = filled(300).await;
    let mut tried = 0;
    for length in (1..entries.len()).step_by(29) {
        let mut given = Given::all(&entries[..length], 17);
        if !says_that_it_is_whole {
            given.end = None;
        }
        let (found, _) = differences(&server, given, 0).await;
        let surplus =
            found.iter().filter(|d| d.wrong == Wrong::Surplus || matches!(d.change, Change::Remove(_))).count();
        assert_eq!(surplus, 0, "{surplus} keys were called surplus for a stream that was cut");
        tried += 1;
    }
    Finding::Holds(format!("{tried} cuts"))
}

fn whole() -> Claim {
    Claim {
        name: "whole",
        says: "for a stream that is cut anywhere nothing is called surplus",
        cases: vec![Case::telling("cut", SHORT, || cut(false))],
        breaks: vec![Break {
            case: Case::telling("cut-and-says-that-it-is-whole", SHORT, || cut(true)),
            seen: "called surplus for a stream that was cut",
        }],
    }
}

async fn paced(keys_per_second: u32) -> Finding {
    let (server, entries) = filled(2_000).await;
    let began = Instant::now();
    let (found, keys) = differences(&server, Given::all(&entries, 100), keys_per_second).await;
    let (took, keys) = (began.elapsed(), keys.expect("to the end"));
    assert!(found.is_empty());
    assert!(
        took >= Duration::from_secs(keys.saturating_sub(600) / 2_000),
        "{keys} keys were read in {took:?}, faster than they may be"
    );
    Finding::Holds(format!("{keys} keys in {took:.1?}"))
}

fn gentle() -> Claim {
    Claim {
        name: "gentle",
        says: "no more keys a second are read than may be",
        cases: vec![Case::telling("two-thousand", SHORT, || paced(2_000))],
        breaks: vec![Break {
            case: Case::telling("without-a-pace", SHORT, || paced(0)),
            seen: "faster than they may be",
        }],
    }
}

/// What a process has in memory of its own, bytes. Pages of its program are not: there are more of them in a build for tests, and the system takes them
/// back when it wants to.
fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("what is its own");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

/// Looks at these processes until it is stopped; gives the most that each had of its own.
fn watch<const N: usize>(pids: [u32; N], stop: Arc<AtomicBool>) -> std::thread::JoinHandle<[u64; N]> {
    std::thread::spawn(move || {
        let mut most = [0; N];
        while !stop.load(Ordering::SeqCst) {
            for (most, pid) in most.iter_mut().zip(pids) {
                *most = own_memory(pid).max(*most);
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        most
    })
}

fn pid(process: &crate::child::Process) -> u32 {
    process.pid().as_raw_nonzero().get().unsigned_abs()
}

/// So many applications, written by a resync and looked at by a check, while another client asks.
async fn of_applications(applications: u32, measures_the_server: bool) -> Finding {
    let mut house = House::new(&["prod"], Size::TINY).await;
    let digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 \
                  UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let number = "a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 100000 * g.d";
    let statement = format!(
        "INSERT INTO cinstances SELECT 1000000 + {number}, 1, 2, MD5({number}), 'live', CONCAT('app/', {number}), 'x', 'Cinstance', NULL, 2, 2 \
         FROM {digits} a, {digits} b, {digits} c, {digits} e, {digits} f, {digits} g WHERE {number} < {applications}"
    );
    house.installations[0].mysql.run(&["USE system", &statement]).await;
    let it = &mut house.installations[0];
    let server = measures_the_server.then(|| pid(it.backend.process()));
    let pids = [pid(it.agent("system-mysql").process()), server.unwrap_or(pid(it.agent("backend-redis").process()))];
    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch(pids, stop.clone());
    let began = Instant::now();
    house.must(&["resync", "--applications-stopped"]);
    let written = began.elapsed();
    let client = house.installations[0].backend.client();
    let asking = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut connection = client.get_connection().expect("connect");
            let mut felt = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                redis::cmd("GET").arg("service/id:2/state").query::<Option<String>>(&mut connection).expect("GET");
                felt.push(began.elapsed());
                std::thread::park_timeout(Duration::from_millis(2));
            }
            felt
        })
    };
    let began = Instant::now();
    let told = house.must_json(&["check", "--settle=1", "--keys-per-second=50000"]);
    let checked = began.elapsed();
    stop.store(true, Ordering::SeqCst);
    let mut felt = asking.join().expect("the other client");
    let keys = told["keys"].as_u64().expect("a number of keys");
    assert!(keys > u64::from(applications) * 4 && told["equal"] == true, "{told:#}");
    let [system, backend] = watching.join().expect("the memory");
    let other = if measures_the_server { "the server" } else { "backend-redis' agent" };
    for (whose, bytes) in [("system-mysql's agent", system), (other, backend)] {
        assert!(bytes <= MEMORY, "{whose} had {} MiB in memory", bytes >> 20);
    }
    let (half, most) = (quantile(&mut felt, 0.5), quantile(&mut felt, 0.99));
    Finding::Holds(format!(
        "{keys} keys written in {written:.1?} and looked at in {checked:.1?} ({:.0} a second); agents had {} and {} MiB; another client felt p50 {half:.1?}, \
         p99 {most:.1?}",
        keys as f64 / checked.as_secs_f64(),
        system >> 20,
        backend >> 20
    ))
}

fn scale() -> Claim {
    let mut sizes = vec![200_000];
    // Takes some minutes more, and some GB.
    if crate::kills::is_soaked() {
        sizes.push(1_000_000);
    }
    let case = |n: u32| {
        let limit = if n > 200_000 { LONG * 2 } else { LONG };
        Case::telling(format!("{n}-applications"), limit, move || of_applications(n, false))
    };
    Claim {
        name: "scale",
        says: "200,000 applications are written and compared, and each agent has at most 32 MiB of its own in memory",
        cases: sizes.into_iter().map(case).collect(),
        breaks: vec![Break {
            case: Case::telling("the-server-itself", LONG, || of_applications(80_000, true)),
            seen: "the server had",
        }],
    }
}
