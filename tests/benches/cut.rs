//! What a cut costs whoever writes, and what several dump tools under it gain.
//!
//! `make bench-cut` runs it with optimised programs. Sizes in MB as arguments, added to every database of the demo; without any, 0 and 1024.
#![expect(clippy::print_stdout, reason = "a bench speaks")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use keepsake_tests::bulk;
use keepsake_tests::causality::{WRITERS, Writers, prepare, quantile};
use keepsake_tests::house::{COMPONENTS, House};
use keepsake_tests::threescale::Size;

/// Sets that are taken for the pause.
const SETS: usize = 20;
/// Rounds of each number of tools; the median counts.
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![0, 1024] } else { sizes };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for size in sizes {
        runtime.block_on(async {
            let mut house = House::new(&["bench"], Size::SMALL).await;
            if size > 0 {
                for component in COMPONENTS.into_iter().filter(|c| *c != "system-storage") {
                    bulk::fill(&house.installations[0], component, size).await;
                }
            }
            pause(&mut house, size).await;
            if size > 0 {
                tools(&mut house, size);
            }
        });
    }
    ExitCode::SUCCESS
}

/// The longest write of each of several writers during each backup: it has the cut in it, and everything else that a backup does to a machine of
/// that many processors. Beside it, in turn, the same during a backup without a cut, which is everything else, and without a backup in equally long times; and
/// for how long writes were held, as the record has it.
async fn pause(house: &mut House, size: u64) {
    let sets = if size > 256 { SETS / 4 } else { SETS };
    prepare(&house.installations[0], WRITERS).await;
    let writers = Writers::start(&house.installations[0], WRITERS);
    let (mut with, mut uncut, mut without, mut held, mut attempts) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..sets {
        let _before = writers.longest();
        let began = Instant::now();
        let done = house.must_json(&["backup"]);
        with.extend(writers.longest());
        let took = began.elapsed();
        let set = done[0]["set"].as_str().expect("a set");
        let cut = &house.must_json(&["show", set])["cut"];
        held.push(Duration::from_micros(cut["pause_us"].as_u64().expect("a cut")));
        attempts += cut["attempt"].as_u64().expect("an attempt");
        std::fs::remove_dir_all(house.repository().join("sets/bench").join(set)).expect("make room");
        "    consistency: none\n".clone_into(&mut house.consistency);
        house.write_topology();
        let _before = writers.longest();
        let done = house.must_json(&["backup"]);
        uncut.extend(writers.longest());
        let set = done[0]["set"].as_str().expect("a set");
        std::fs::remove_dir_all(house.repository().join("sets/bench").join(set)).expect("make room");
        house.consistency.clear();
        house.write_topology();
        let _before = writers.longest();
        tokio::time::sleep(took).await;
        without.extend(writers.longest());
    }
    writers.stop();
    let told = |durations: &mut [Duration]| {
        format!("p50 {:.1} p99 {:.1}", ms(quantile(durations, 0.5)), ms(quantile(durations, 0.99)))
    };
    println!(
        "pause, demo + {size} MB in each database, {sets} sets with {WRITERS} writers, ms: longest write {}; without a cut {}; without a backup {}; held {}; \
         {attempts} attempts",
        told(&mut with),
        told(&mut uncut),
        told(&mut without),
        told(&mut held)
    );
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The same dump by one tool and by two, taking turns.
fn tools(house: &mut House, size: u64) {
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (processes, took) in [1, 2].into_iter().zip(&mut took) {
            let agent = house.installations[0].agent("system-mysql");
            agent.arguments.extend(["--mysql-dump-processes".to_owned(), processes.to_string()]);
            agent.restart();
            agent.arguments.truncate(agent.arguments.len() - 2);
            house.write_topology();
            let began = Instant::now();
            let done = house.must_json(&["backup", "--component", "system-mysql"]);
            took.push(began.elapsed());
            let set = done[0]["set"].as_str().expect("a set");
            std::fs::remove_dir_all(house.repository().join("sets/bench").join(set)).expect("make room");
        }
    }
    let [one, two] = took.map(|mut t| quantile(&mut t, 0.5).as_secs_f64());
    println!("system-mysql, {size} MB in 4 tables: one tool {one:.2} s, two {two:.2} s, ratio {:.2}", one / two);
}
