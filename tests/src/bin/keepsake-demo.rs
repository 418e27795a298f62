//! The main job on real servers, in a scratch folder: fill, back up, wreck, restore, compare, restore by hand.
#![expect(clippy::print_stdout, reason = "a demonstration speaks")]

use std::process::ExitCode;
use std::time::Instant;

use keepsake_tests::by_hand;
use keepsake_tests::house::{COMPONENTS, House, State};
use keepsake_tests::threescale::Size;

/// Two 3scales; the first is wrecked, the second must not notice.
const NAMES: [&str; 2] = ["prod", "staging"];

fn main() -> ExitCode {
    // One thread: servers die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let passed = std::panic::catch_unwind(|| {
        runtime.block_on(async {
            tokio::select! {
                passed = demo() => passed,
                _interrupted = tokio::signal::ctrl_c() => false,
            }
        })
    });
    // A panic has printed what was wrong, and has stopped all servers on its way.
    if passed.unwrap_or(false) {
        println!("demo: PASS");
        ExitCode::SUCCESS
    } else {
        println!("demo: FAIL");
        ExitCode::FAILURE
    }
}

async fn demo() -> bool {
    let mut steps = Steps(Instant::now());
    let house = House::new(&NAMES, Size::SMALL).await;
    let [prod, staging] = [&house.installations[0], &house.installations[1]];
    steps.done(
        "two installations run: 2 × (MySQL, 2 Redis, PostgreSQL, files), an agent with mutual TLS beside each store",
    );
    let before = State::of(prod).await;
    let untouched = State::of(staging).await;
    steps.done("every table, key and file was noted");

    println!("\n$ keepsake doctor --installation prod\n{}", house.must(&["doctor", "--installation", "prod"]));
    println!("$ keepsake backup --all");
    let started = Instant::now();
    house.must(&["backup", "--all"]);
    println!("  {:.1} s\n\n$ keepsake sets\n{}", started.elapsed().as_secs_f64(), house.must(&["sets"]));
    println!("$ keepsake verify --installation prod\n{}", house.must(&["verify", "--installation", "prod"]));
    steps.done("both are backed up");

    prod.wreck().await;
    let wrecked = State::of(prod).await;
    steps.done("prod is wrecked: rows, keys and files changed, deleted and added in every store");

    println!("\n$ keepsake restore --installation prod --yes prod --identity …");
    let started = Instant::now();
    let identity = house.path("identity-1");
    house.must(&["restore", "--installation", "prod", "--yes", "prod", "--identity", &identity]);
    println!("  {:.1} s\n", started.elapsed().as_secs_f64());
    let after = State::of(prod).await;
    let mut passed = compare(&before, &wrecked, &after);
    steps.done("prod was restored and compared with what was noted");

    prod.wreck().await;
    println!(
        "\nwrecked again; system-mysql comes back with jq, age, zstd, openssl and the database's client, as RESTORE-1.md says:"
    );
    let client = by_hand::mysql_client(&house, prod.mysql.port(), &prod.mysql.password_file());
    let by_hand = by_hand::restore(&house, "prod", by_hand::SYSTEM_MYSQL, &[("CLIENT", client)]);
    let told = by_hand.as_ref().unwrap_or_else(|why| why);
    println!("{}\n", told.trim_end().replace('\n', "\n  "));
    let left = State::of(prod).await.differences(&before, "system-mysql");
    println!("system-mysql by hand: {} of {} still different", left.len(), before.size("system-mysql"));
    passed &= by_hand.is_ok() && left.is_empty();
    steps.done("one store was restored by hand");

    let now = State::of(staging).await;
    let noticed: usize = COMPONENTS.iter().map(|c| now.differences(&untouched, c).len()).sum();
    println!("staging, which nobody touched: {noticed} differences");
    passed && noticed == 0
}

/// Prints the table; whether all is as it was, and was not in between.
fn compare(before: &State, wrecked: &State, after: &State) -> bool {
    println!("{:<16} {:>9} {:>9} {:>16}", "component", "compared", "wrecked", "still different");
    let mut passed = true;
    for component in COMPONENTS {
        let broken = wrecked.differences(before, component).len();
        let left = after.differences(before, component);
        println!("{component:<16} {:>9} {broken:>9} {:>16}", before.size(component), left.len());
        for difference in left.iter().take(5) {
            println!("    {difference}");
        }
        passed &= left.is_empty() && broken > 0;
    }
    println!();
    passed
}

/// Says what was done, and how long it took.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        println!("[{:>5.1} s] {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
