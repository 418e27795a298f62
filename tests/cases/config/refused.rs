//! Databases that say less than they should. What they do not say would be deleted from Backend, so they are not believed.

use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::config_source::Entries;
use keepsake_agent::engine::config_target::ExpectedEnd;
use keepsake_agent::engine::postgres::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{Context, Engine};
use keepsake_core::config::{AlertLevels, ConfigEntry};
use keepsake_core::{Error, Kind, Result};
use keepsake_tests::config_source::{by_key, expected};
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use super::rules::{Server, base, changes};

async fn refused(server: &Server) -> Error {
    match expected(&server.engine(), AlertLevels::Expected).await {
        Ok((entries, _)) => panic!("{} entries are expected", entries.len()),
        Err(e) => e,
    }
}

#[tokio::test]
async fn a_database_without_a_system_expects_nothing_and_is_not_believed() {
    for server in Server::all().await {
        // Every table is there, but nobody is in it any more: first no service with a key, then no master, then no provider.
        for emptied in [
            "DELETE FROM cinstances WHERE service_id = 1",
            "UPDATE accounts SET master = NULL",
            "UPDATE accounts SET provider = FALSE",
            "DELETE FROM accounts",
        ] {
            server.run(emptied).await;
            let error = refused(&server).await;
            assert_eq!(error.kind(), Kind::Corrupt, "{emptied}: {}", error.chain());
        }
        for table in ["backend_apis", "accounts"] {
            server.run(&format!("DROP TABLE {table}")).await;
            let error = refused(&server).await;
            assert!(error.chain().contains(table), "{}", error.chain());
        }
    }
}

#[tokio::test]
async fn a_provider_without_its_key_is_no_provider_without_services() {
    for server in Server::all().await {
        for blank in ["NULL", "''", "'  '"] {
            server.run(&format!("UPDATE cinstances SET user_key = {blank} WHERE id = 1001")).await;
            assert_eq!(refused(&server).await.kind(), Kind::Corrupt, "{blank}");
        }
    }
}

/// Does something when the first entries come.
struct Meanwhile<F> {
    act: Option<F>,
    entries: Vec<ConfigEntry>,
}

#[async_trait]
impl<F: Future<Output = ()> + Send> Entries for Meanwhile<F> {
    async fn tell(&mut self, entries: Vec<ConfigEntry>) -> Result<()> {
        self.entries.extend(entries);
        if let Some(act) = self.act.take() {
            act.await;
        }
        Ok(())
    }
}

async fn while_it_tells(
    engine: &Arc<dyn Engine>,
    act: impl Future<Output = ()> + Send,
) -> (Vec<ConfigEntry>, Result<ExpectedEnd>) {
    let mut out = Meanwhile { act: Some(act), entries: Vec::new() };
    let cx = Context::new(CancellationToken::new()).0;
    let end = engine.config_source().unwrap().expected(AlertLevels::Expected, &mut out, &cx).await;
    (out.entries, end)
}

#[tokio::test]
async fn what_is_written_meanwhile_is_not_seen() {
    for server in Server::all().await {
        let written = async {
            server.run("DELETE FROM usage_limits").await;
            server.run("DELETE FROM metrics").await;
            server.run("INSERT INTO backend_events VALUES (9999, '{}')").await;
        };
        let (entries, end) = while_it_tells(&server.engine(), written).await;
        assert_eq!(changes(&base(), &by_key(&entries)), [""; 0]);
        assert_eq!(end.unwrap().at_least.events, 1299);
        assert!(server.expected().await.len() < base().len());
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_is_no_end() {
    for server in Server::all().await {
        let lost = async {
            match &server {
                Server::Mysql(server) => {
                    let mut conn = server.conn().await;
                    let others = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND command <> 'Daemon' AND user = 'root'";
                    for id in conn.query::<u64, _>(others).await.unwrap() {
                        conn.query_drop(format!("KILL {id}")).await.unwrap();
                    }
                }
                Server::Postgres(server) => {
                    let client = server.client("system").await;
                    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'keepsake-agent'";
                    assert_eq!(client.query(others, &[]).await.unwrap().len(), 1);
                }
            }
        };
        let (entries, end) = while_it_tells(&server.engine(), lost).await;
        assert!(!entries.is_empty() && end.is_err(), "{} entries and an end", entries.len());
    }
}

#[tokio::test]
async fn limits_of_the_server_make_no_answer_shorter() {
    // Each of these cuts or stops an answer of a session that does not mind.
    let limits = [
        "--sql-select-limit=3",
        "--max-join-size=2",
        "--net-write-timeout=1",
        "--max-sort-length=8",
        "--sql-mode=ORACLE",
    ];
    let server = Server::mysql(&[]).await;
    let Server::Mysql(mysql) = &server else { unreachable!() };
    let mut conn = mysql.conn().await;
    for limit in limits {
        let (name, value) = limit.trim_start_matches("--").split_once('=').unwrap();
        let value = if value.parse::<f64>().is_ok() { value.to_owned() } else { format!("'{value}'") };
        let set = conn.query_drop(format!("SET GLOBAL {} = {value}", name.replace('-', "_"))).await;
        // ORACLE is a mode of MariaDB's.
        assert!(set.is_ok() || name == "sql-mode", "{name}: {set:?}");
    }
    drop(conn);
    assert_eq!(server.changes().await, [""; 0]);
}

#[tokio::test]
async fn a_table_without_snapshots_is_refused() {
    let server = Server::mysql(&[]).await;
    server.run("ALTER TABLE metrics ENGINE = MyISAM").await;
    let error = refused(&server).await;
    assert!(error.kind() == Kind::Unsupported && error.chain().contains("metrics (MyISAM)"), "{}", error.chain());
    // Another table does not matter.
    server.run("ALTER TABLE metrics ENGINE = InnoDB").await;
    server.run("CREATE TABLE other (id int) ENGINE = MyISAM").await;
    assert_eq!(server.changes().await, [""; 0]);
}

#[tokio::test]
async fn rows_that_a_policy_hides_are_an_error() {
    let server = Server::postgres().await;
    let Server::Postgres(postgres) = &server else { unreachable!() };
    postgres.create_owner_and_database("reader", "unused").await;
    server.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; ALTER TABLE metrics ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON metrics USING (id < 500)").await;
    let settings = Settings {
        postgres_port: postgres.port(),
        postgres_password_file: Some(postgres.password_file().to_owned()),
        postgres_database: "system".to_owned(),
        postgres_user: "reader".to_owned(),
        ..Settings::default()
    };
    let engine = settings.open(postgres.scratch().to_owned()).unwrap();
    let error = expected(&engine, AlertLevels::Expected).await.map(|(entries, _)| entries.len()).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{}", error.chain());
    // Without the policy it may.
    server.run("ALTER TABLE metrics DISABLE ROW LEVEL SECURITY").await;
    let told = expected(&engine, AlertLevels::Expected).await.unwrap().0;
    assert_eq!(changes(&base(), &by_key(&told)), [""; 0]);
}

#[tokio::test]
async fn a_load_over_the_live_data_that_did_not_end_is_no_source() {
    let server = Server::mysql(&[]).await;
    let Server::Mysql(mysql) = &server else { unreachable!() };
    let state = keepsake_agent::engine::in_place::InPlace::new(mysql.scratch());
    let key = keepsake_core::id::RunKey {
        run: keepsake_core::id::RunId::generate(),
        installation: "prod".parse().unwrap(),
        epoch: keepsake_core::id::Epoch(1),
    };
    state.touching(&key).unwrap();
    let error = refused(&server).await;
    assert!(error.kind() == Kind::Conflict && error.chain().contains(&key.run.to_string()), "{}", error.chain());
    state.finalize(&key).unwrap();
    assert_eq!(server.changes().await, [""; 0]);
}
