//! Two servers with GTIDs, one the replica of the other.

use super::MysqlServer;
use crate::root::Root;

/// The replica with its source.
#[derive(Debug)]
pub struct Replica {
    /// Where it gets everything from.
    pub source: MysqlServer,
    /// The replica itself; it may be written to.
    pub server: MysqlServer,
    is_mysql: bool,
}

impl Replica {
    /// Both, with nothing in them.
    pub async fn start(root: &Root) -> Self {
        let is_mysql = MysqlServer::program(root).ends_with("mysqld");
        let gtid: &[&str] = if is_mysql {
            &["--log-bin=bin", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
        } else {
            &["--log-bin=bin", "--gtid-strict-mode=ON", "--log-slave-updates=ON"]
        };
        let start = async |id: &str| MysqlServer::start_in(root, &[gtid, &[id]].concat()).await;
        let (source, server) = (start("--server-id=1").await, start("--server-id=2").await);
        let port = source.port();
        source
            .run(&[
                "CREATE USER copies@'%' IDENTIFIED BY 'canary-copies'",
                "GRANT REPLICATION SLAVE ON *.* TO copies@'%'",
            ])
            .await;
        let (point, begin) = if is_mysql {
            (
                format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'copies', \
                     SOURCE_PASSWORD = 'canary-copies', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1"
                ),
                "START REPLICA",
            )
        } else {
            (
                format!(
                    "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'copies', \
                     MASTER_PASSWORD = 'canary-copies', MASTER_USE_GTID = slave_pos, MASTER_SSL = 0"
                ),
                "START SLAVE",
            )
        };
        server.run(&[&point, begin]).await;
        Self { source, server, is_mysql }
    }

    /// Waits until it has everything that the source has.
    pub async fn has_everything(&self) {
        let position = if self.is_mysql { "@@GLOBAL.gtid_executed" } else { "@@GLOBAL.gtid_binlog_pos" };
        let position = self.source.value(&format!("SELECT {position}")).await.expect("a position").replace('\n', "");
        let wait = if self.is_mysql {
            format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', 60)")
        } else {
            format!("SELECT MASTER_GTID_WAIT('{position}', 60)")
        };
        let waited = self.server.value(&wait).await;
        if waited.as_deref() != Some("0") {
            panic!("the replica has not got to {position}: {waited:?}, {:?}", self.status().await);
        }
    }

    async fn status(&self) -> String {
        let sql = if self.is_mysql { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" };
        format!("{:?}", self.server.rows(sql).await)
    }

    /// Stops it, still a replica.
    pub async fn stop(&self) {
        self.server.run(&[if self.is_mysql { "STOP REPLICA" } else { "STOP SLAVE" }]).await;
    }

    /// Makes it a server of its own.
    pub async fn promote(&self) {
        self.server.run(&[if self.is_mysql { "RESET REPLICA ALL" } else { "RESET SLAVE ALL" }]).await;
    }
}
