//! PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::Engine;
use keepsake_agent::engine::postgres::Settings;
use keepsake_agent::engine::registry::Settings as _;
use tokio_util::sync::CancellationToken;

use super::{Contents, SIZE, Stand};
use crate::servers::postgres::{PostgresServer, programs};
use crate::threescale::zync;

const DATABASE: &str = "zync_production";
const ROLE: &str = "zync";

/// A server with zync's database, owned by a role that is no superuser and may make databases.
#[derive(Debug)]
pub struct Postgres(PostgresServer);

impl Postgres {
    /// With an empty database.
    pub async fn start() -> Self {
        let server = PostgresServer::start().await;
        server.create_owner_and_database(ROLE, DATABASE).await;
        let may = format!("ALTER ROLE {ROLE} CREATEDB");
        server.client("postgres").await.batch_execute(&may).await.expect("let the role make databases");
        Self(server)
    }
}

#[async_trait(?Send)]
impl Stand for Postgres {
    fn engine(&self) -> Arc<dyn Engine> {
        let settings = Settings {
            postgres_host: "127.0.0.1".to_owned(),
            postgres_port: self.0.port(),
            postgres_user: ROLE.to_owned(),
            postgres_password_file: Some(self.0.password_file().to_owned()),
            postgres_database: DATABASE.to_owned(),
            postgres_bin_dir: Some(programs()),
            ..Settings::default()
        };
        settings.open(self.0.scratch().to_owned()).expect("an engine")
    }

    fn artifact(&self) -> &'static str {
        "dump.pgc"
    }

    fn tools(&self) -> &'static [&'static str] {
        &["pg_dump", "pg_restore", "psql"]
    }

    fn keeps_old_data(&self) -> bool {
        true
    }

    async fn fill(&self) {
        self.0.run_as(ROLE, DATABASE, &zync::statements(1, SIZE)).await;
    }

    async fn change(&self) {
        self.0.run_as(ROLE, DATABASE, &zync::wreck()).await;
    }

    async fn contents(&self) -> Contents {
        let mut all = self.0.digests(DATABASE).await;
        all.insert("schema".to_owned(), self.0.schema(DATABASE));
        // Its rows name live processes; they are not dumped.
        all.remove("public.que_lockers");
        all
    }

    async fn write_pairs(&self, stop: CancellationToken) {
        let table = "CREATE TABLE IF NOT EXISTS pair (id text PRIMARY KEY, n bigint)".to_owned();
        self.0.run_as(ROLE, DATABASE, &[table]).await;
        let client = self.0.client(DATABASE).await;
        let mut n = 1_u64;
        while !stop.is_cancelled() {
            let write =
                format!("INSERT INTO pair VALUES ('a', {n}), ('b', {n}) ON CONFLICT (id) DO UPDATE SET n = excluded.n");
            client.batch_execute(&write).await.expect("write");
            n += 1;
        }
    }

    async fn pair(&self) -> (u64, u64) {
        let client = self.0.client(DATABASE).await;
        let mut get = [0, 0];
        for (slot, id) in get.iter_mut().zip(["a", "b"]) {
            let row = client.query_opt("SELECT n FROM pair WHERE id = $1", &[&id]).await.expect("read");
            *slot = row.map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).expect("a number"));
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
        super::names(self.0.scratch(), |n| n.contains("keepsake") || n.contains("pgpass"))
    }
}
