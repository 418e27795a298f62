//! A load that is torn at every statement, and goes on or back by another agent: all of the old data, or all of the new.

use std::sync::Arc;

use keepsake_agent::engine::{Engine, Staged};
use keepsake_core::Kind;
use keepsake_core::id::{Epoch, RunId, RunKey};

use super::MysqlServer;
use super::line::{Line, Moment};
use crate::memory::MemorySource;
use crate::root::Root;
use crate::steps::{context, dump};

/// What is there before the load.
const OLD: &[&str] = &[
    "CREATE DATABASE `system` CHARACTER SET latin1 COLLATE latin1_german1_ci",
    "USE `system`",
    "CREATE USER IF NOT EXISTS 'ow`ner'@'10.%'",
    "CREATE TABLE zz_parent (id bigint PRIMARY KEY AUTO_INCREMENT) AUTO_INCREMENT = 5000",
    "CREATE TABLE both_have (id int PRIMARY KEY AUTO_INCREMENT, parent bigint, next int, note text, \
     CONSTRAINT up FOREIGN KEY (parent) REFERENCES zz_parent (id), FOREIGN KEY (next) REFERENCES both_have (id)) AUTO_INCREMENT = 77",
    "INSERT INTO zz_parent VALUES (1), (2)",
    "INSERT INTO both_have VALUES (1, 1, NULL, 'old'), (2, 2, 1, 'old')",
    "CREATE TABLE only_old (id int, sum int AS (id + 1) STORED) ENGINE = MyISAM",
    "INSERT INTO only_old (id) VALUES (1), (2)",
    "CREATE TABLE a_view (id int)",
    "SET NAMES latin1 COLLATE latin1_swedish_ci",
    "CREATE DEFINER = 'ow`ner'@'10.%' TRIGGER first BEFORE INSERT ON both_have FOR EACH ROW SET @a = '\u{e9}', @b = 'old; one'",
    "SET NAMES utf8mb4",
    "CREATE TRIGGER a_second BEFORE INSERT ON both_have FOR EACH ROW FOLLOWS first SET @a = 'old; two'",
    "CREATE PROCEDURE only_old() COMMENT 'it''s' BEGIN SELECT 'old'; END",
    "CREATE FUNCTION f(a int) RETURNS varchar(10) DETERMINISTIC RETURN CONCAT('old', a)",
    "CREATE VIEW z_on AS SELECT id, f(id) AS f, '\u{e9}' AS e FROM both_have",
    "CREATE DEFINER = 'ow`ner'@'10.%' SQL SECURITY INVOKER VIEW v AS SELECT * FROM z_on",
    "CREATE TABLE gone (x int, y int)",
    "CREATE VIEW broken AS SELECT g.x, b.note FROM gone g JOIN both_have b ON b.id = g.y",
    "DROP TABLE gone",
    "SET time_zone = '+05:00'",
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DISABLE DO SET @a = 'old'",
    // Made under another collation of the database.
    "ALTER DATABASE `system` COLLATE latin1_bin",
    "CREATE TRIGGER other_collation AFTER DELETE ON zz_parent FOR EACH ROW SET @a = 'old'",
    "CREATE EVENT other_collation ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DISABLE DO SET @a = 'old'",
    "ALTER DATABASE `system` COLLATE latin1_german1_ci",
];

/// What is loaded.
const NEW: &[&str] = &[
    "CREATE DATABASE `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin",
    "USE `system`",
    "CREATE TABLE zz_parent (id bigint PRIMARY KEY AUTO_INCREMENT) AUTO_INCREMENT = 9000",
    "CREATE TABLE both_have (id int PRIMARY KEY AUTO_INCREMENT, parent bigint, CONSTRAINT up FOREIGN KEY (parent) REFERENCES zz_parent (id))",
    "INSERT INTO zz_parent VALUES (5)",
    "INSERT INTO both_have VALUES (1, 5)",
    "CREATE TABLE only_new (id int)",
    "INSERT INTO only_new VALUES (1), (2), (3)",
    "CREATE TRIGGER first BEFORE INSERT ON both_have FOR EACH ROW SET @a = 'new; one'",
    "CREATE FUNCTION f(a int) RETURNS varchar(10) DETERMINISTIC RETURN CONCAT('new', a)",
    "CREATE VIEW z_on AS SELECT id, f(id) AS f FROM only_new",
    "CREATE VIEW a_view AS SELECT * FROM z_on",
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DISABLE DO SET @a = 'new'",
    "ALTER DATABASE `system` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TRIGGER other_collation AFTER DELETE ON zz_parent FOR EACH ROW SET @a = 'new'",
    "ALTER DATABASE `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin",
];

/// What is torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The tables are loaded beside the live ones.
    Stage,
    /// They are put in their place.
    Commit,
    /// That is undone.
    Rollback,
    /// What that would need is dropped.
    Finalize,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The agent.
    Agent(Moment),
    /// The server, while it works on the statement.
    Server,
}

type State = [std::collections::BTreeMap<String, String>; 2];

/// A server with old data, and a dump of new.
struct World<'a> {
    server: MysqlServer,
    tools: &'a Root,
    made: MemorySource,
    old: State,
    new: State,
}

impl<'a> World<'a> {
    async fn build(root: &'a Root) -> Self {
        let server = MysqlServer::start_in(root, &["--log-bin=bin", "--server-id=1"]).await;
        server.run(NEW).await;
        let (new, made) = (server.state().await, dump(&server.engine_with(root, |_| {})).await);
        server.run(&["DROP DATABASE `system`"]).await;
        server.run(OLD).await;
        let old = server.state().await;
        Self { server, tools: root, made, old, new }
    }

    fn engine(&self, port: Option<u16>) -> Arc<dyn Engine> {
        self.server.engine_with(self.tools, |settings| settings.mysql_port = port.unwrap_or(settings.mysql_port))
    }

    async fn is(&self, expected: &State, what: &str) {
        let found = self.server.state().await;
        for (found, expected) in found.iter().zip(expected) {
            let keys: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
            let differ: Vec<_> = keys
                .into_iter()
                .filter(|k| found.get(*k) != expected.get(*k))
                .map(|k| (k, found.get(k), expected.get(k)))
                .take(3)
                .collect();
            assert!(differ.is_empty(), "{what}: found and expected differ: {differ:#?}");
        }
    }

    async fn nothing_is_left(&self, what: &str) {
        let left = self
            .server
            .value(
                "SELECT GROUP_CONCAT(schema_name) FROM information_schema.schemata WHERE schema_name LIKE '%keepsake%'",
            )
            .await;
        assert_eq!(left, None, "{what}");
    }
}

async fn done(
    engine: &Arc<dyn Engine>,
    operation: Operation,
    key: &RunKey,
    made: &MemorySource,
) -> keepsake_core::error::Result<()> {
    match operation {
        Operation::Stage => engine.stage(key, Arc::new(made.clone()), &context()).await.map(drop),
        Operation::Commit => engine.commit(key, &context()).await.map(drop),
        Operation::Rollback => engine.rollback(key, &context()).await,
        Operation::Finalize => engine.finalize(key, &context()).await,
    }
}

async fn must(engine: &Arc<dyn Engine>, operation: Operation, key: &RunKey, made: &MemorySource, what: &str) {
    done(engine, operation, key, made).await.unwrap_or_else(|e| panic!("{what}: then {operation:?}: {}", e.chain()));
}

/// Tears the operation at every `stride`th statement that changes something, from the `first` on, and lets another agent go on or back in turns; how often.
pub async fn every_statement(root: &Root, operation: Operation, victim: Victim, first: u64, stride: u64) -> u64 {
    every_statement_by(root, (operation, victim), first, stride, |engine| engine).await
}

/// As [`every_statement`]; something may be put between the agent that goes on and its engine.
pub async fn every_statement_by(
    root: &Root,
    (operation, victim): (Operation, Victim),
    first: u64,
    stride: u64,
    flawed: impl Fn(Arc<dyn Engine>) -> Arc<dyn Engine>,
) -> u64 {
    use Operation::{Commit, Finalize, Rollback, Stage};
    let mut world = World::build(root).await;
    let (mut at, mut torn) = (first, 0_u64);
    loop {
        let key = RunKey { run: RunId::generate(), installation: "test".parse().expect("a name"), epoch: Epoch(1) };
        let (direct, made) = (world.engine(None), world.made.clone());
        let before: &[Operation] = match operation {
            Stage => &[],
            Commit => &[Stage],
            Rollback | Finalize => &[Stage, Commit],
        };
        for step in before {
            must(&direct, *step, &key, &made, "the way there").await;
        }
        let moment = match victim {
            Victim::Agent(moment) => moment,
            Victim::Server => Moment::While,
        };
        let line = Line::ending(world.server.port(), at, moment).await;
        let struck = world.engine(Some(line.port));
        let result = done(&struck, operation, &key, &made).await;
        drop(struck);
        let what = match line.struck() {
            Some(statement) => format!("{operation:?} torn by {victim:?} at {at}: {statement}"),
            None => format!("{operation:?} of {at} statements"),
        };
        if line.struck().is_none() {
            result.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        } else {
            torn += 1;
            // A statement may be the last one, whose end nobody needs to hear.
            if let Err(e) = result {
                assert!(
                    matches!(e.kind(), Kind::Unavailable | Kind::Timeout | Kind::Internal),
                    "{what}: {}",
                    e.chain()
                );
            }
        }
        println!("{what}");
        if victim == Victim::Server {
            world.server.kill9();
            world.server.restart().await;
        }
        let next = flawed(world.engine(None));
        let state = next.staged(&key).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        if matches!(state, Staged::Absent | Staged::Partial | Staged::Staged) && operation != Finalize {
            world.is(&world.old, &format!("{what}: {state:?}")).await;
        }
        if state == Staged::Committing {
            let refused = next.dump(None, &crate::memory::MemorySink::default(), &context()).await.expect_err(&what);
            assert_eq!(refused.kind(), Kind::Conflict, "{what}: {}", refused.chain());
        }
        let forward = torn % 2 == 0;
        match operation {
            Finalize => {
                must(&next, Finalize, &key, &made, &what).await;
                world.is(&world.new, &what).await;
                world.nothing_is_left(&what).await;
                // As it was, for the next time.
                world.server.run(&["DROP DATABASE `system`"]).await;
                world.server.run(OLD).await;
            }
            _ if forward => {
                if matches!(state, Staged::Absent | Staged::Partial) {
                    must(&next, Stage, &key, &made, &what).await;
                }
                must(&next, Commit, &key, &made, &what).await;
                world.is(&world.new, &format!("{what}, forward")).await;
            }
            _ => {}
        }
        if operation != Finalize {
            must(&next, Rollback, &key, &made, &what).await;
            world.is(&world.old, &format!("{what}, back")).await;
            assert_eq!(next.staged(&key).await.expect("an answer"), Staged::Absent, "{what}");
        }
        world.nothing_is_left(&what).await;
        if line.struck().is_none() {
            return torn;
        }
        at += stride;
    }
}
