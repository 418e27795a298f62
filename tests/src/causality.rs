//! Writers whose writes cause one another: what a later store knows, every earlier one knew before.
//!
//! Each writer puts n into system-mysql, then into backend-redis, then into zync-database, then into system-redis, then goes on with n + 1. So at every
//! instant no later store is ahead of an earlier one, and none is behind by more than one. A set that stands for one instant must show the same.

mod sets;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

pub use self::sets::{WRITERS, restored, taken};
use crate::house::Installation;
use crate::servers::{mysql, postgres};

/// The stores in the order in which each number is written.
pub const ORDER: [&str; 4] = ["system-mysql", "backend-redis", "zync-database", "system-redis"];

/// Where the writers write.
#[derive(Debug, Clone)]
struct Places {
    mysql: u16,
    backend: redis::Client,
    zync: u16,
    system_redis: redis::Client,
}

/// Writers that go on until they are stopped. They have a thread and a runtime of their own.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Numbers that went through all stores, of all writers together.
    rounds: AtomicU64,
    /// The longest write of each writer since it was last asked for.
    longest: Mutex<Vec<Duration>>,
}

/// What a set, or the stores now, say of each writer: its number in each store, in the order of [`ORDER`].
pub type Seen = Vec<[u64; 4]>;

/// Makes the places that the writers write to.
pub async fn prepare(installation: &Installation, writers: usize) {
    installation
        .mysql
        .run(&["CREATE TABLE IF NOT EXISTS `system`.causality (w int PRIMARY KEY, n bigint) ENGINE=InnoDB"])
        .await;
    let table = "CREATE TABLE IF NOT EXISTS causality (w int PRIMARY KEY, n bigint)".to_owned();
    installation.zync.run_as("zync", "zync_production", &[table]).await;
    for w in 0..writers {
        installation.mysql.run(&[&format!("REPLACE INTO `system`.causality VALUES ({w}, 0)")]).await;
        let row = format!("INSERT INTO causality VALUES ({w}, 0) ON CONFLICT (w) DO UPDATE SET n = 0");
        installation.zync.run_as("zync", "zync_production", &[row]).await;
        for server in [&installation.backend, &installation.system_redis] {
            server.ask::<()>(&["SET", &key(w), "0"]).await;
        }
    }
}

fn key(writer: usize) -> String {
    format!("causality:{writer}")
}

/// What the stores say now.
pub async fn seen(installation: &Installation, writers: usize) -> Seen {
    let zync = installation.zync.client("zync_production").await;
    let mut all = Seen::new();
    for w in 0..writers {
        let sql = format!("SELECT n FROM `system`.causality WHERE w = {w}");
        let mysql = installation.mysql.value(&sql).await.expect("the writer's row").parse().expect("a number");
        let row =
            zync.query_one("SELECT n FROM causality WHERE w = $1", &[&i32::try_from(w).expect("few writers")]).await;
        let zync = u64::try_from(row.expect("the writer's row").get::<_, i64>(0)).expect("a number");
        let backend = installation.backend.ask(&["GET", &key(w)]).await;
        let system_redis = installation.system_redis.ask(&["GET", &key(w)]).await;
        all.push([mysql, backend, zync, system_redis]);
    }
    all
}

/// How these numbers cannot be of one instant; empty if they can.
pub fn violations(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    for (writer, numbers) in seen.iter().enumerate() {
        for (earlier, later) in [(0, 1), (1, 2), (2, 3)] {
            if numbers[later] > numbers[earlier] {
                found.push(format!("writer {writer}: {} is ahead of {}: {numbers:?}", ORDER[later], ORDER[earlier]));
            }
        }
        if numbers[0].saturating_sub(numbers[3]) > 1 {
            found.push(format!("writer {writer}: {} is behind by more than one: {numbers:?}", ORDER[3]));
        }
    }
    found
}

impl Writers {
    /// Starts them.
    pub fn start(installation: &Installation, writers: usize) -> Self {
        let places = Places {
            mysql: installation.mysql.port(),
            backend: installation.backend.client(),
            zync: installation.zync.port(),
            system_redis: installation.system_redis.client(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared { longest: Mutex::new(vec![Duration::ZERO; writers]), ..Shared::default() });
        let (stopped, of_thread) = (stop.clone(), shared.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let all = (0..writers).map(|w| write(w, &places, &stopped, &of_thread));
            runtime.block_on(futures_util::future::join_all(all));
        });
        Self { stop, shared, thread: Some(thread) }
    }

    /// Numbers that went through all stores so far.
    pub fn rounds(&self) -> u64 {
        self.shared.rounds.load(Ordering::SeqCst)
    }

    /// The longest write of each writer since this was last asked.
    pub fn longest(&self) -> Vec<Duration> {
        let mut longest = self.shared.longest.lock().expect("the longest");
        let fresh = vec![Duration::ZERO; longest.len()];
        std::mem::replace(&mut *longest, fresh)
    }

    /// Stops them and waits for the end of what each is doing.
    ///
    /// # Panics
    /// When a write failed: holds may delay writers and never fail them.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.rounds()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if std::thread::panicking() {
            // A writer may wait for what only the end of this test ends.
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            panic!("a writer failed");
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.end();
    }
}

async fn write(writer: usize, places: &Places, stop: &AtomicBool, shared: &Shared) {
    let mut sql =
        mysql_async::Conn::new(mysql::opts(places.mysql).tcp_nodelay(true)).await.expect("connect to system-mysql");
    let zync = postgres::connect(places.zync, "zync_production").await.expect("connect to zync-database");
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(60)))
        .set_response_timeout(Some(Duration::from_secs(60)));
    let mut backend = places.backend.get_multiplexed_async_connection_with_config(&config).await.expect("connect");
    let mut last = places.system_redis.get_multiplexed_async_connection_with_config(&config).await.expect("connect");
    let key = key(writer);
    let mut n = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let felt = |began: Instant| {
            let mut longest = shared.longest.lock().expect("the longest");
            longest[writer] = longest[writer].max(began.elapsed());
        };
        let began = Instant::now();
        sql.query_drop(format!("UPDATE `system`.causality SET n = {n} WHERE w = {writer}"))
            .await
            .expect("write to system-mysql");
        felt(began);
        let began = Instant::now();
        redis::cmd("SET").arg(&key).arg(n).query_async::<()>(&mut backend).await.expect("write to backend-redis");
        felt(began);
        let began = Instant::now();
        zync.batch_execute(&format!("UPDATE causality SET n = {n} WHERE w = {writer}")).await.expect("write to zync");
        felt(began);
        let began = Instant::now();
        redis::cmd("SET").arg(&key).arg(n).query_async::<()>(&mut last).await.expect("write to system-redis");
        felt(began);
        shared.rounds.fetch_add(1, Ordering::SeqCst);
    }
}

/// The value below which this part (0 to 1) of the durations lie.
pub fn quantile(durations: &mut [Duration], part: f64) -> Duration {
    durations.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among few"
    )]
    let rank = ((durations.len() as f64 * part).ceil() as usize).clamp(1, durations.len()) - 1;
    durations[rank]
}
