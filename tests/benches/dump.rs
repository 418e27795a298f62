//! What a dump costs: time against the bare tool to /dev/null as a ratio in one run, peak memory of the agent and of it with its tools.
//!
//! `make bench` runs it with optimised programs. Sizes in MB as arguments; without any, 64 and 1024. Components
//! as arguments: only these.
#![expect(clippy::print_stdout, reason = "a bench speaks")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keepsake_tests::bulk;
use keepsake_tests::by_hand;
use keepsake_tests::child::{run, tool_command};
use keepsake_tests::house::House;
use keepsake_tests::servers::postgres;
use keepsake_tests::threescale::Size;

/// Rounds of each; the median counts.
const ROUNDS: usize = 3;
/// Components, one per engine.
const COMPONENTS: [&str; 4] = ["backend-redis", "system-mysql", "zync-database", "system-storage"];

fn main() -> ExitCode {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![64, 1024] } else { sizes };
    let named: Vec<String> = std::env::args().skip(1).filter(|a| COMPONENTS.contains(&a.as_str())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("engine  MB  dump s  (min..max)  tool s  ratio  MB/s  agent peak MiB  with tools MiB");
    for size in sizes {
        runtime.block_on(measure(size, &named));
    }
    ExitCode::SUCCESS
}

async fn measure(megabytes: u64, named: &[String]) {
    let mut house = House::new(&["bench"], Size::TINY).await;
    for component in COMPONENTS.into_iter().filter(|c| named.is_empty() || named.iter().any(|n| n == c)) {
        bulk::fill(&house.installations[0], component, megabytes).await;
        let mut ours = Vec::new();
        let mut bare = Vec::new();
        let (mut peak, mut group) = (0, 0);
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            house.installations[0].agent(component).restart();
            house.write_topology();
            let pid = house.installations[0].agent(component).process().pid().as_raw_nonzero().get();
            let watch = Watch::start(pid);
            let started = Instant::now();
            let done = house.must_json(&["backup", "--component", component]);
            ours.push(started.elapsed());
            group = group.max(watch.stop());
            peak = peak.max(status(pid, "VmHWM:"));
            let set = done[0]["set"].as_str().expect("a set").to_owned();
            bytes = bytes.max(plain_bytes(&house, &set));
            std::fs::remove_dir_all(house.repository().join("sets/bench").join(&set)).expect("make room");
            let started = Instant::now();
            bare_tool(&house, component).await;
            bare.push(started.elapsed());
        }
        ours.sort();
        bare.sort();
        let (ours_s, bare_s) = (ours[ROUNDS / 2].as_secs_f64(), bare[ROUNDS / 2].as_secs_f64());
        println!(
            "{component}  {}  {ours_s:.2}  ({:.2}..{:.2})  {bare_s:.2}  {:.2}  {:.0}  {:.1}  {:.1}",
            bytes >> 20,
            ours[0].as_secs_f64(),
            ours[ROUNDS - 1].as_secs_f64(),
            ours_s / bare_s,
            bytes as f64 / 1e6 / ours_s,
            peak as f64 / 1024.0,
            group as f64 / 1024.0
        );
    }
}

fn plain_bytes(house: &House, set: &str) -> u64 {
    let record = house.must_json(&["show", set]);
    let artifacts = record["components"][0]["dump"]["artifacts"].as_array().expect("artifacts");
    artifacts.iter().map(|a| a["length"].as_u64().expect("a length")).sum()
}

/// What people use, to nowhere.
async fn bare_tool(house: &House, component: &str) {
    let it = &house.installations[0];
    let script = match component {
        "backend-redis" => {
            it.backend.ask::<String>(&["BGSAVE"]).await;
            keepsake_tests::poll::wait_for("the end of BGSAVE", Duration::from_mins(2), async || {
                let info: String = it.backend.ask(&["INFO", "persistence"]).await;
                if info.contains("rdb_bgsave_in_progress:0") { Ok(()) } else { Err(info) }
            })
            .await;
            format!("cat {}/dump.rdb >/dev/null", it.backend.data().display())
        }
        "system-mysql" => {
            let client = by_hand::mysql_client(house, it.mysql.port(), &it.mysql.password_file());
            let options = client.split_once(' ').expect("options").1;
            format!(
                "$(command -v mariadb-dump || command -v mysqldump) {options} --single-transaction --quick --routines --triggers --events \
                 --hex-blob --default-character-set=utf8mb4 system >/dev/null"
            )
        }
        "zync-database" => format!(
            "PGPASSWORD=\"$(cat {})\" {}/pg_dump -h 127.0.0.1 -p {} -U postgres -Fc -Z0 zync_production >/dev/null",
            it.zync.password_file().display(),
            postgres::programs().display(),
            it.zync.port()
        ),
        // GNU tar writes nothing at all when its output is /dev/null itself.
        _ => format!("tar -cf - -C {} . | cat >/dev/null", it.storage.display()),
    };
    let done = run(tool_command("bash").args(["-o", "pipefail", "-c", &script]));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A figure of /proc/<pid>/status, KiB; 0 when the process has gone.
fn status(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find(|l| l.starts_with(field)).and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Adds up what a process and all its descendants hold, often, on a thread of its own.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start(root: i32) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen) = (stop.clone(), peak.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(family(root).iter().map(|pid| status(*pid, "VmRSS:")).sum(), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(10));
            }
        });
        Self { stop, peak, thread }
    }

    /// KiB.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watching thread");
        self.peak.load(Ordering::Relaxed)
    }
}

/// A process and its descendants.
fn family(root: i32) -> Vec<i32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|c| c.parse::<i32>().ok()));
        }
    }
    all
}
