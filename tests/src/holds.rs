//! Holds of every engine on its real server: writers wait, readers do not, and whatever becomes of the holder, the datastore frees its writers.

pub mod stopped;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::memory::MemorySink;
use crate::root::Root;
use crate::servers::mysql::MysqlServer;
use crate::servers::postgres::{PostgresServer, programs};
use crate::servers::redis::RedisServer;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine, Hold};
use keepsake_core::Kind;
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

const BUDGET: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_secs(1);
/// What may pass beside a lease: MySQL counts whole seconds, and the machine is busy.
const SLACK: Duration = Duration::from_secs(4);

/// Something that is done on a connection of its own.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;
/// Something that stays as long as what comes of it.
pub type Opening = Pin<Box<dyn Future<Output = Box<dyn std::any::Any>>>>;

/// A server that is held, and what others do to it.
pub trait Server {
    /// An engine on it.
    fn engine(&self) -> Arc<dyn Engine>;
    /// Writes once, on a connection of its own.
    fn write(&self) -> Work;
    /// Reads once, on a connection of its own.
    fn read(&self) -> Work;
    /// A transaction that has written and stays open until it is dropped; none where the datastore has no transactions.
    fn open_transaction(&self) -> Option<Opening>;
}

/// Mysql.
#[derive(Debug)]
pub struct Mysql(pub MysqlServer);
/// Postgres.
#[derive(Debug)]
pub struct Postgres(pub PostgresServer);
/// Redis.
#[derive(Debug)]
pub struct Redis(pub RedisServer);

/// A server of a root, with a table.
pub async fn mysql(root: &Root) -> Mysql {
    let server = MysqlServer::start_in(root, &[]).await;
    server
        .run(&[
            "CREATE DATABASE `system`",
            "CREATE TABLE `system`.held (id int PRIMARY KEY, n bigint) ENGINE=InnoDB",
            "INSERT INTO `system`.held VALUES (1, 0), (2, 0)",
        ])
        .await;
    Mysql(server)
}

impl Server for Mysql {
    fn engine(&self) -> Arc<dyn Engine> {
        self.0.engine()
    }

    fn write(&self) -> Work {
        let opts = crate::servers::mysql::opts(self.0.port());
        Box::pin(async move {
            let mut conn = mysql_async::Conn::new(opts).await.expect("a connection that works");
            conn.query_drop("UPDATE `system`.held SET n = n + 1 WHERE id = 1").await.expect("a connection that works");
        })
    }

    fn read(&self) -> Work {
        let opts = crate::servers::mysql::opts(self.0.port());
        Box::pin(async move {
            let mut conn = mysql_async::Conn::new(opts).await.expect("a connection that works");
            conn.query_drop("SELECT * FROM `system`.held").await.expect("a connection that works");
        })
    }

    fn open_transaction(&self) -> Option<Opening> {
        let opts = crate::servers::mysql::opts(self.0.port());
        Some(Box::pin(async move {
            let mut conn = mysql_async::Conn::new(opts).await.expect("a connection that works");
            conn.query_drop("BEGIN").await.expect("a connection that works");
            conn.query_drop("UPDATE `system`.held SET n = n + 1 WHERE id = 2").await.expect("a connection that works");
            Box::new(conn) as Box<dyn std::any::Any>
        }))
    }
}

/// A server with zync's database and a table.
pub async fn postgres() -> Postgres {
    let server = PostgresServer::start().await;
    server.create_owner_and_database("zync", "zync_production").await;
    let table = "CREATE TABLE held (id int PRIMARY KEY, n bigint)".to_owned();
    server.run_as("zync", "zync_production", &[table, "INSERT INTO held VALUES (1, 0), (2, 0)".to_owned()]).await;
    Postgres(server)
}

impl Postgres {
    /// What an agent beside it is told.
    pub fn settings(&self) -> keepsake_agent::engine::postgres::Settings {
        keepsake_agent::engine::postgres::Settings {
            postgres_port: self.0.port(),
            postgres_user: "zync".to_owned(),
            postgres_password_file: Some(self.0.password_file().to_owned()),
            postgres_bin_dir: Some(programs()),
            ..Default::default()
        }
    }
}

impl Server for Postgres {
    fn engine(&self) -> Arc<dyn Engine> {
        self.settings().open(self.0.scratch().to_owned()).expect("an engine")
    }

    fn write(&self) -> Work {
        let port = self.0.port();
        Box::pin(async move {
            let client =
                crate::servers::postgres::connect(port, "zync_production").await.expect("a connection that works");
            client.batch_execute("UPDATE held SET n = n + 1 WHERE id = 1").await.expect("a connection that works");
        })
    }

    fn read(&self) -> Work {
        let port = self.0.port();
        Box::pin(async move {
            let client =
                crate::servers::postgres::connect(port, "zync_production").await.expect("a connection that works");
            client.batch_execute("SELECT * FROM held").await.expect("a connection that works");
        })
    }

    fn open_transaction(&self) -> Option<Opening> {
        let port = self.0.port();
        Some(Box::pin(async move {
            let client =
                crate::servers::postgres::connect(port, "zync_production").await.expect("a connection that works");
            client
                .batch_execute("BEGIN; UPDATE held SET n = n + 1 WHERE id = 2")
                .await
                .expect("a connection that works");
            Box::new(client) as Box<dyn std::any::Any>
        }))
    }
}

impl Server for Redis {
    fn engine(&self) -> Arc<dyn Engine> {
        let settings = keepsake_agent::engine::redis::Settings {
            redis_url: self.0.url(),
            redis_password_file: Some(self.0.password_file().to_owned()),
            redis_data_dir: Some(self.0.data().to_owned()),
            ..Default::default()
        };
        settings.open(self.0.scratch().to_owned()).expect("an engine")
    }

    fn write(&self) -> Work {
        let client = self.0.client();
        Box::pin(async move {
            let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection that works");
            redis::cmd("INCR").arg("held").query_async::<u64>(&mut connection).await.expect("a connection that works");
        })
    }

    fn read(&self) -> Work {
        let client = self.0.client();
        Box::pin(async move {
            let mut connection = client.get_multiplexed_async_connection().await.expect("a connection that works");
            redis::cmd("GET")
                .arg("held")
                .query_async::<Option<u64>>(&mut connection)
                .await
                .expect("a connection that works");
        })
    }

    fn open_transaction(&self) -> Option<Opening> {
        None
    }
}

async fn taken(engine: &Arc<dyn Engine>) -> (Box<dyn Hold>, keepsake_agent::engine::Prepared) {
    let mut hold = engine.prepare_hold().await.unwrap_or_else(|e| panic!("prepare: {}", e.chain()));
    let prepared = hold.take(BUDGET, LEASE).await.unwrap_or_else(|e| panic!("take: {}", e.chain()));
    (hold, prepared)
}

/// Whether it is done within so long; a server that holds it back for longer does hold it.
async fn done_within(limit: Duration, work: Work) -> bool {
    tokio::time::timeout(limit, work).await.is_ok()
}

/// Writers wait while it is held and no longer, readers never; the dump under it goes on when it was released.
///
/// # Panics
/// When it is not so.
pub async fn writers_wait_and_readers_do_not(server: impl Server) {
    writers_wait_on(&server).await;
}

/// As [`writers_wait_and_readers_do_not`], on a server that is lent.
///
/// # Panics
/// As there.
pub async fn writers_wait_on(server: &impl Server) {
    let engine = server.engine();
    assert_eq!(engine.describe().await.expect("a description").hold, Ok(()));
    assert_eq!(engine.ready_to_hold().await.expect("an answer"), None);
    for _ in 0..3 {
        let (mut hold, prepared) = taken(&engine).await;
        assert!(done_within(LEASE / 2, server.read()).await, "a reader had to wait");
        let mut waiting = server.write();
        assert!(
            tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err(),
            "a write was let through"
        );
        hold.renew().await.unwrap_or_else(|e| panic!("renew: {}", e.chain()));
        // The dump under the hold goes on when it is released.
        let (sink, (cx, progress)) = (MemorySink::default(), Context::new(CancellationToken::new()));
        let dumping = engine.dump(Some(prepared), &sink, &cx);
        let releasing = async {
            let mut progress = progress.clone();
            progress.wait_for(|p| p.snapshot_open).await.expect("the snapshot opens");
            hold.renew().await.unwrap_or_else(|e| panic!("renew: {}", e.chain()));
            hold.release().await.unwrap_or_else(|e| panic!("release: {}", e.chain()));
        };
        let (report, ()) = tokio::join!(dumping, releasing);
        report.unwrap_or_else(|e| panic!("dump: {}", e.chain()));
        assert!(done_within(SLACK, waiting).await, "the writer waits on after the release");
        hold.release().await.expect("a second release");
    }
}

/// When nothing more is heard from the holder, the datastore frees its writers, and the hold cannot be proven any more.
///
/// # Panics
/// When it is not so.
pub async fn the_datastore_ends_a_hold_that_nobody_asks_for(server: impl Server) {
    let engine = server.engine();
    let (mut hold, _) = taken(&engine).await;
    let began = Instant::now();
    assert!(
        done_within(LEASE + SLACK, server.write()).await,
        "the writer still waits {:?} after the lease began",
        began.elapsed()
    );
    let broken = hold.renew().await.expect_err("a hold through which a write went");
    assert!(
        matches!(broken.kind(), Kind::Timeout | Kind::Unavailable | Kind::Conflict),
        "{:?} {}",
        broken.kind(),
        broken.chain()
    );
    // Ended or not, nothing is left of it.
    let _ended_already = hold.release().await;
    assert!(done_within(Duration::from_secs(5), server.write()).await);
    taken(&engine).await.0.release().await.expect("the next hold");
}

/// Behind a transaction that does not end, a hold is given up in time.
///
/// # Panics
/// When it is not so.
pub async fn a_hold_that_is_not_had_in_time_leaves_nobody_waiting(server: impl Server) {
    let engine = server.engine();
    let Some(opening) = server.open_transaction() else { return };
    let open = opening.await;
    let mut hold = engine.prepare_hold().await.unwrap_or_else(|e| panic!("prepare: {}", e.chain()));
    let began = Instant::now();
    // MariaDB's read lock does not wait for open transactions: it holds their commit.
    match hold.take(BUDGET, LEASE).await {
        Err(e) => assert!(matches!(e.kind(), Kind::Busy | Kind::Timeout), "{:?} {}", e.kind(), e.chain()),
        Ok(_) => hold.release().await.expect("release"),
    }
    assert!(began.elapsed() < BUDGET + SLACK, "it took {:?}", began.elapsed());
    assert!(done_within(Duration::from_secs(2), server.write()).await, "a writer waits for a hold that was given up");
    assert!(done_within(Duration::from_secs(2), server.read()).await, "a reader waits for a hold that was given up");
    drop(open);
    drop(hold);
    taken(&engine).await.0.release().await.expect("the next hold");
}
