//! What a restore costs against what people do by hand, as ratios in one run: MySQL's staged load against `mysql < dump`, Redis' load against the server's
//! own start on the same RDB, PostgreSQL's staged load against `pg_restore`.
//!
//! `make bench-restore` runs it with optimised programs. Sizes in MB as arguments; without any, 256. Components as arguments: only these. Everything of ours
//! comes out of a sealed repository over TLS; what people do reads a plain file.
#![expect(clippy::print_stdout, reason = "a bench speaks")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use keepsake_tests::bulk;
use keepsake_tests::by_hand;
use keepsake_tests::child::{run, tool_command};
use keepsake_tests::house::House;
use keepsake_tests::servers::postgres;
use keepsake_tests::servers::redis::RedisServer;
use keepsake_tests::threescale::Size;
use serde_json::Value;

/// Rounds of each; the median counts.
const ROUNDS: usize = 3;
/// The components that are measured.
const COMPONENTS: [&str; 3] = ["system-mysql", "backend-redis", "zync-database"];

fn main() -> ExitCode {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![256] } else { sizes };
    let named: Vec<String> = std::env::args().skip(1).filter(|a| COMPONENTS.contains(&a.as_str())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for size in sizes {
        runtime.block_on(measure(size, &named));
    }
    ExitCode::SUCCESS
}

async fn measure(megabytes: u64, named: &[String]) {
    let mut house = House::new(&["bench"], Size::TINY).await;
    for component in COMPONENTS.into_iter().filter(|c| named.is_empty() || named.iter().any(|n| n == c)) {
        let installation = &house.installations[0];
        if component == "system-mysql" {
            as_in_production(&house).await;
        }
        bulk::fill(installation, component, megabytes).await;
        let made = house.must_json(&["backup", "--component", component]);
        let set = made[0]["set"].as_str().expect("a set").to_owned();
        let plain = by_tool(&house, component);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            if component == "backend-redis" {
                // What is live is saved first, which is not what is compared.
                installation.backend.ask::<()>(&["FLUSHALL"]).await;
            }
            ours.push(restored(&house, component, &set));
            theirs.push(by_hand(&house, component, &plain).await);
        }
        told(component, megabytes, &ours, &theirs);
        if component == "backend-redis" {
            let said = house.installations[0].backend.process().output();
            println!(
                "  of that the server, by its own log: {:.2} s to fetch, {:.2} s to load, {:.2} s to write its AOF anew",
                between(&said, "MASTER <-> REPLICA sync: receiving", "Loading DB in memory"),
                between(&said, "Loading DB in memory", "MASTER <-> REPLICA sync: Finished with success"),
                between(
                    &said,
                    "Background append only file rewriting started",
                    "Background AOF rewrite finished successfully"
                ),
            );
        }
        std::fs::remove_file(plain).expect("make room");
    }
}

/// Room for the working set, as whoever runs a database of this size gives it. The tests' server has next to none.
async fn as_in_production(house: &House) {
    let mysql = &house.installations[0].mysql;
    mysql.run(&["SET GLOBAL innodb_buffer_pool_size = 268435456"]).await;
}

/// Seconds of the steps of a restore: staged, put in place, the old data dropped, and from beginning to end.
struct Restored {
    stage: f64,
    commit: f64,
    finalize: f64,
    whole: f64,
}

fn restored(house: &House, component: &str, set: &str) -> Restored {
    let identity = house.path("identity-1");
    let restore =
        ["restore", "--yes", "bench", "--set", set, "--component", component, "--no-safety", "--identity", &identity];
    let began = Instant::now();
    let done = house.must_json(&restore);
    let whole = began.elapsed().as_secs_f64();
    let epoch = done["epoch"].as_u64().expect("an epoch").to_string();
    let run = house.must_json(&["runs", &epoch]);
    let events = run["events"].as_array().expect("events");
    let at = |step: &str, word: &str| {
        let step = format!("{step}-{component}");
        let is = |e: &&Value| e["event"]["type"] == word && e["event"]["step"] == step.as_str();
        let text = events.iter().find(is).and_then(|e| e["at"].as_str()).expect("an event");
        text.parse::<jiff::Timestamp>().expect("a time").as_microsecond() as f64 / 1e6
    };
    let took = |step: &str| at(step, "succeeded") - at(step, "started");
    Restored { stage: took("stage"), commit: took("commit"), finalize: took("finalize"), whole }
}

/// Seconds between the last two lines of a Redis log that have these words.
fn between(said: &[String], first: &str, second: &str) -> f64 {
    let at = |words: &str| {
        let line = said.iter().rev().find(|l| l.contains(words)).unwrap_or_else(|| panic!("{words}: {said:#?}"));
        let time = line.split(' ').find(|word| word.matches(':').count() == 2).expect("a time");
        time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("a number"))
    };
    at(second) - at(first)
}

/// The same data as the bare tool writes it.
fn by_tool(house: &House, component: &str) -> PathBuf {
    let it = &house.installations[0];
    let plain = house.scratch.path().join("plain");
    let script = match component {
        "system-mysql" => {
            let client = by_hand::mysql_client(house, it.mysql.port(), &it.mysql.password_file());
            let options = client.split_once(' ').expect("options").1;
            format!(
                "$(command -v mariadb-dump || command -v mysqldump) {options} --single-transaction --quick --routines --triggers --events \
                 --hex-blob --default-character-set=utf8mb4 system"
            )
        }
        "backend-redis" => {
            let password = it.backend.password_file().display().to_string();
            let url = it.backend.url();
            let port = url.rsplit(':').next().expect("a port");
            format!(
                "REDISCLI_AUTH=\"$(cat {password})\" redis-cli -p {port} SAVE >&2; cat {}/dump.rdb",
                it.backend.data().display()
            )
        }
        _ => format!(
            "{} {}/pg_dump {} -Fc -Z0 zync_production",
            password(house),
            postgres::programs().display(),
            server(house)
        ),
    };
    bash(&format!("{{ {script}; }} >{}", plain.display()));
    plain
}

/// Seconds that it takes by hand, by each way of doing it.
async fn by_hand(house: &House, component: &str, plain: &std::path::Path) -> Vec<(&'static str, f64)> {
    let it = &house.installations[0];
    let plain_name = plain.display();
    match component {
        "system-mysql" => {
            it.mysql.run(&["CREATE DATABASE by_hand CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"]).await;
            let client = by_hand::mysql_client(house, it.mysql.port(), &it.mysql.password_file());
            // It would be another one's procedure and trigger otherwise.
            let took = timed(&format!("{client} --default-character-set=utf8mb4 by_hand <{plain_name}"));
            it.mysql.run(&["DROP DATABASE by_hand"]).await;
            vec![("mysql < dump", took)]
        }
        "backend-redis" => {
            let mut server = RedisServer::start_with_rdb(&[], Some(plain)).await;
            let said = server.process().output();
            let words = "DB loaded from disk: ";
            let line = said.iter().find_map(|l| l.split_once(words)).unwrap_or_else(|| panic!("{said:#?}")).1;
            vec![("start on the RDB", line.split(' ').next().and_then(|s| s.parse().ok()).expect("seconds"))]
        }
        _ => {
            let mut all = Vec::new();
            for (name, jobs) in [("pg_restore", 1), ("pg_restore -j2", 2)] {
                it.zync.run_as("postgres", "postgres", &["CREATE DATABASE by_hand OWNER zync".to_owned()]).await;
                let program = postgres::programs().join("pg_restore").display().to_string();
                all.push((
                    name,
                    timed(&format!(
                        "{} {program} {} -j {jobs} -d by_hand {plain_name}",
                        password(house),
                        server(house)
                    )),
                ));
                it.zync.run_as("postgres", "postgres", &["DROP DATABASE by_hand".to_owned()]).await;
            }
            all
        }
    }
}

fn password(house: &House) -> String {
    format!("PGPASSWORD=\"$(cat {})\"", house.installations[0].zync.password_file().display())
}

fn server(house: &House) -> String {
    format!("-h 127.0.0.1 -p {} -U postgres", house.installations[0].zync.port())
}

fn bash(script: &str) {
    let done = run(tool_command("bash").args(["-o", "pipefail", "-c", script]));
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

fn timed(script: &str) -> f64 {
    let began = Instant::now();
    bash(script);
    began.elapsed().as_secs_f64()
}

fn median(seconds: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = seconds.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn told(component: &str, megabytes: u64, ours: &[Restored], theirs: &[Vec<(&'static str, f64)>]) {
    let of = |what: fn(&Restored) -> f64| median(ours.iter().map(what));
    let (stage, commit, finalize, whole) = (of(|r| r.stage), of(|r| r.commit), of(|r| r.finalize), of(|r| r.whole));
    println!(
        "{component}, {megabytes} MB, s: staged {stage:.2}, put in place {commit:.2}, old data dropped {finalize:.2}, `keepsake restore` {whole:.2}"
    );
    for (n, (name, _)) in theirs[0].iter().enumerate() {
        let bare = median(theirs.iter().map(|round| round[n].1));
        // Redis is loaded when it is put in its place; the others when they are staged.
        let (word, load) = if component == "backend-redis" { ("put in place", commit) } else { ("staged", stage) };
        println!("  {name} {bare:.2}; ratios: {word} {:.2}, whole {:.2}", load / bare, whole / bare);
    }
}
