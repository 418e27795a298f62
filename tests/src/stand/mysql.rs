//! MySQL and MariaDB.

use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::Engine;
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use super::{Contents, SIZE, Stand};
use crate::servers::mysql::MysqlServer;
use crate::threescale::system;

/// A server with the database `system`.
#[derive(Debug)]
pub struct Mysql(MysqlServer);

impl Mysql {
    /// With an empty database.
    pub async fn start() -> Self {
        let server = MysqlServer::start().await;
        server.run(&["CREATE DATABASE `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"]).await;
        Self(server)
    }

    async fn run(&self, statements: &[String]) {
        let mut all = vec!["USE `system`"];
        all.extend(statements.iter().map(String::as_str));
        self.0.run(&all).await;
    }
}

#[async_trait(?Send)]
impl Stand for Mysql {
    fn engine(&self) -> Arc<dyn Engine> {
        self.0.engine()
    }

    fn artifact(&self) -> &'static str {
        "dump.sql"
    }

    fn tools(&self) -> &'static [&'static str] {
        &["mariadb-dump", "mysqldump", "mariadb", "mysql"]
    }

    fn keeps_old_data(&self) -> bool {
        true
    }

    async fn fill(&self) {
        self.run(&system::statements(1, SIZE)).await;
    }

    async fn change(&self) {
        self.run(&system::wreck()).await;
    }

    async fn contents(&self) -> Contents {
        let mut all = self.0.checksums("system").await;
        all.extend(self.0.schema_digest("system").await);
        all
    }

    async fn write_pairs(&self, stop: CancellationToken) {
        let mut conn = self.0.conn().await;
        conn.query_drop("CREATE TABLE IF NOT EXISTS `system`.pair (id char(1) PRIMARY KEY, n bigint) ENGINE=InnoDB")
            .await
            .expect("a table");
        let mut n = 1_u64;
        while !stop.is_cancelled() {
            let write = format!("REPLACE INTO `system`.pair VALUES ('a', {n}), ('b', {n})");
            conn.query_drop(write).await.expect("write");
            n += 1;
        }
    }

    async fn pair(&self) -> (u64, u64) {
        let mut get = [0, 0];
        for (slot, id) in get.iter_mut().zip(["a", "b"]) {
            let n = self.0.value(&format!("SELECT n FROM `system`.pair WHERE id = '{id}'")).await;
            *slot = n.map_or(0, |n| n.parse().expect("a number"));
        }
        (get[0], get[1])
    }

    fn vanish(&mut self) {
        self.0.kill9();
    }

    async fn come_back(&mut self) {
        self.0.restart().await;
    }

    fn leftovers(&self) -> Vec<String> {
        super::names(self.0.scratch(), |n| n.contains("keepsake") || n.ends_with(".cnf") && n.starts_with("client"))
    }
}
