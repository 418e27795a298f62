//! Every rule: what all rows together expect, key by key, and for every rule one changed value with exactly what it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepsake_agent::engine::Engine;
use keepsake_agent::engine::postgres::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::config::{AlertLevels, ConfigKind, Counters};
use keepsake_tests::config_source::{by_key, expected};
use keepsake_tests::root::Root;
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::servers::postgres::PostgresServer;
use keepsake_tests::threescale::config::{For, rows, tables};

/// What the generator's rows expect, reviewed against the facts by a person.
const EXPECTED: &str = include_str!("expected.txt");

/// A server with System's database, filled.
pub(super) enum Server {
    Mysql(MysqlServer),
    Postgres(PostgresServer),
}

impl Server {
    /// MariaDB, or MySQL where that is what is installed; PostgreSQL; and MySQL of other releases where they are unpacked.
    pub(super) async fn all() -> Vec<Self> {
        let mut all = vec![Self::mysql(&[]).await, Self::postgres().await];
        for root in ["ubuntu-mysql-8.0", "sid-mysql"].into_iter().filter_map(Root::unpacked) {
            all.push(Self::mysql_in(&root, &[]).await);
        }
        all
    }

    pub(super) async fn mysql(options: &[&str]) -> Self {
        Self::mysql_in(&Root::host(), options).await
    }

    async fn mysql_in(root: &Root, options: &[&str]) -> Self {
        let server = MysqlServer::start_in(root, options).await;
        server.run(&["CREATE DATABASE `system` CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"]).await;
        Self::Mysql(server).filled().await
    }

    pub(super) async fn postgres() -> Self {
        let server = PostgresServer::start().await;
        server.client("postgres").await.batch_execute("CREATE DATABASE system").await.unwrap();
        Self::Postgres(server).filled().await
    }

    async fn filled(self) -> Self {
        let all = match self {
            Self::Mysql(_) => tables(For::Mysql),
            Self::Postgres(_) => tables(For::Postgres),
        };
        for sql in all.iter().chain(&rows()) {
            self.run(sql).await;
        }
        self
    }

    pub(super) async fn run(&self, sql: &str) {
        match self {
            Self::Mysql(server) => server.run(&["USE `system`", sql]).await,
            Self::Postgres(server) => {
                let client = server.client("system").await;
                client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            }
        }
    }

    pub(super) fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Mysql(server) => server.engine(),
            Self::Postgres(server) => {
                let settings = Settings {
                    postgres_port: server.port(),
                    postgres_password_file: Some(server.password_file().to_owned()),
                    postgres_database: "system".to_owned(),
                    ..Settings::default()
                };
                settings.open(server.scratch().to_owned()).unwrap()
            }
        }
    }

    /// What is other than all rows together expect.
    pub(super) async fn changes(&self) -> Vec<String> {
        changes(&base(), &self.expected().await)
    }

    pub(super) async fn expected(&self) -> BTreeMap<String, String> {
        let told = expected(&self.engine(), AlertLevels::Expected).await;
        by_key(&told.unwrap_or_else(|e| panic!("{}", e.chain())).0)
    }
}

pub(super) fn base() -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        (key.to_owned(), value.to_owned())
    };
    EXPECTED.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(line).collect()
}

/// What is other: `- key = value` for what was, `+ key = value` for what is.
pub(super) fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let gone = before.iter().filter(|(key, value)| after.get(*key) != Some(value)).map(|(k, v)| format!("- {k} = {v}"));
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(k, v)| format!("+ {k} = {v}"));
    gone.chain(new).collect()
}

#[test]
fn every_kind_of_key_is_among_what_is_expected() {
    let mut kinds: Vec<_> = base()
        .keys()
        .map(|key| keepsake_core::config::classify(key.as_bytes()).unwrap_or_else(|| panic!("{key}")).0)
        .collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), ConfigKind::ALL.len(), "{kinds:?}");
}

#[tokio::test]
async fn all_rows_together_expect_exactly_this() {
    for server in Server::all().await {
        let told = expected(&server.engine(), AlertLevels::Expected).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        let found = by_key(&told.0);
        assert!(changes(&base(), &found).is_empty(), "{:#?}", changes(&base(), &found));
        assert_eq!(told.1.at_least, Counters { events: 1299, alerts: 900 });
        assert_eq!(told.1.kinds, ConfigKind::ALL);
        // Alert levels are an option; left alone they are not among the kinds of which everything is named.
        let (without, end) = expected(&server.engine(), AlertLevels::LeftAlone).await.unwrap();
        let levels = |entry: &&keepsake_core::config::ConfigEntry| entry.kind == ConfigKind::AlertLevels;
        assert_eq!((without.iter().filter(levels).count(), end.kinds.len()), (0, ConfigKind::ALL.len() - 1));
        assert!(!end.kinds.contains(&ConfigKind::AlertLevels));
        assert_eq!(
            told.0.iter().filter(|entry| !levels(entry)).collect::<Vec<_>>(),
            without.iter().collect::<Vec<_>>()
        );
    }
}

/// One changed value, how it is put back, and what it changes.
pub(super) type Mutation = (&'static str, &'static str, &'static [&'static str]);

pub(super) const MUTATIONS: &[Mutation] = &include!("mutations.in");

#[tokio::test]
async fn one_value_changes_exactly_what_its_rule_says() {
    for server in Server::all().await {
        for (change, back, says) in MUTATIONS {
            server.run(change).await;
            assert_eq!(server.changes().await, *says, "{change}");
            server.run(back).await;
        }
        assert_eq!(server.changes().await, [""; 0], "after all was put back");
    }
}
