//! The agent or the server dies between every two sub-steps of a staged load. Another agent then brings it to either end: all of the old data or all of
//! the new, and nothing else left.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use keepsake_agent::engine::Staged;
use keepsake_tests::poll::wait_for;

use super::staged::{left, rows};
use super::strikes::{Line, Place, Side};
use super::*;

/// What changes something in the server. Of what psql runs, some.
const SUB_STEPS: &[&str] = &[
    "CREATE DATABASE",
    "COMMENT ON DATABASE",
    "ALTER DATABASE",
    "ALTER ROLE",
    "BEGIN",
    "DROP DATABASE",
    "ANALYZE",
    "REVOKE",
    "GRANT",
    "CREATE TABLE public.models",
    "COPY public.models",
    "ALTER TABLE ONLY public.notifications",
];

const BOTH: [Side; 2] = [Side::Before, Side::After];

/// What is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Stage,
    Commit,
    Rollback,
    Finalize,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Server,
}

/// A server with two data sets that take turns: one is live, the other one is loaded.
struct Arena {
    server: PostgresServer,
    sets: [(DumpReport, Vec<u8>); 2],
    contents: [BTreeMap<String, String>; 2],
    live: usize,
}

impl Arena {
    async fn open() -> Self {
        let server = zync_server().await;
        let engine = engine(&server, "zync");
        let mut sets = Vec::new();
        for words in ["one", "two"] {
            let settings = [
                format!("COMMENT ON DATABASE {DATABASE} IS '{words}'"),
                format!("ALTER DATABASE {DATABASE} SET application_name = '{words}'"),
                "REVOKE ALL ON DATABASE zync_production FROM PUBLIC".to_owned(),
            ];
            server.run_as("zync", DATABASE, &settings).await;
            let set = dump(&engine).await;
            // Loaded once, its sequences stand where a crash leaves them.
            restore(&engine, source(set.0.clone(), set.1.clone())).await.unwrap();
            sets.push((set, Self::look(&server).await));
            let other = [
                "UPDATE models SET record_type = 'Other'",
                "DELETE FROM que_jobs",
                "CREATE TABLE IF NOT EXISTS more (id int)",
            ];
            server.run_as("zync", DATABASE, &other.map(str::to_owned)).await;
        }
        let [(one, first), (two, second)] = <[_; 2]>::try_from(sets).unwrap();
        restore(&engine, source(one.0.clone(), one.1.clone())).await.unwrap();
        let arena = Self { server, sets: [one, two], contents: [first, second], live: 0 };
        arena.must_be(0, "at first").await;
        arena
    }

    /// Rows, settings, comment, rights.
    async fn look(server: &PostgresServer) -> BTreeMap<String, String> {
        let mut all = rows(server).await;
        let sql = "SELECT concat_ws(' ', datallowconn, datacl::text, shobj_description(d.oid, 'pg_database'), setconfig::text) FROM pg_database d \
                   LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid WHERE datname = 'zync_production'";
        let rows = server.client("postgres").await.query(sql, &[]).await.unwrap();
        all.insert("the database".to_owned(), rows.iter().map(|row| row.get::<_, String>(0)).collect());
        all
    }

    async fn must_be(&self, which: usize, what: &str) {
        let there = Self::look(&self.server).await;
        assert_eq!(there, self.contents[which], "{what}: is it all of set {which}?");
    }

    fn source(&self) -> Arc<MemorySource> {
        let (report, archive) = self.sets[1 - self.live].clone();
        source(report, archive)
    }

    /// Nothing of ours is there: no database, no connection, no tool, and no folder of a database that is not there.
    async fn nothing_is_left(&self, what: &str) {
        assert_eq!(left(&self.server).await, Vec::<String>::new(), "{what}");
        let client = self.server.client("postgres").await;
        wait_for("connections and tools to go", Duration::from_secs(20), async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('psql', 'pg_restore', 'keepsake-agent')";
            let there: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
            if there == 0 { Ok(()) } else { Err(format!("{what}: {there}")) }
        })
        .await;
        let known: Vec<String> = client
            .query("SELECT oid::text FROM pg_database", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let base = std::fs::read_dir(self.server.scratch().join("data/base")).unwrap();
        let folders = base.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let orphans: Vec<_> = folders.filter(|name| name != "pgsql_tmp" && !known.contains(name)).collect();
        assert_eq!(orphans, Vec::<String>::new(), "{what}: folders of no database");
    }

    /// Processes of a server that was killed see that by and by; until then no other starts on its data.
    async fn all_processes_are_gone(&self) {
        let data = self.server.scratch().join("data");
        wait_for("the server's processes to end", Duration::from_secs(30), async || {
            let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
            let there = all.filter(|path| std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == data)).count();
            if there == 0 { Ok(()) } else { Err(there) }
        })
        .await;
    }

    /// One blow. Gives the statement, or nothing when the operation was over before.
    async fn strike(&mut self, operation: Operation, place: Place, victim: Victim, forward: bool) -> Option<String> {
        let (old, key, began) = (self.live, run(), Instant::now());
        let before = engine(&self.server, "zync");
        if operation != Operation::Stage {
            before.stage(&key, self.source(), &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        }
        if matches!(operation, Operation::Rollback | Operation::Finalize) {
            before.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        }
        drop(before);
        let line = Line::start(self.server.port(), SUB_STEPS, Some(place)).await;
        let through = Settings { postgres_port: line.port(), ..settings(&self.server, "zync") };
        let through = through.open(self.server.scratch().to_owned()).unwrap();
        let (cx, from) = (context(), self.source());
        let running = async {
            match operation {
                Operation::Stage => through.stage(&key, from, &cx).await.map(drop),
                Operation::Commit => through.commit(&key, &cx).await.map(drop),
                Operation::Rollback => through.rollback(&key, &cx).await,
                Operation::Finalize => through.finalize(&key, &cx).await,
            }
        };
        let mut running: Pin<Box<dyn Future<Output = keepsake_core::Result<()>>>> = Box::pin(running);
        let statement = tokio::select! {
            done = &mut running => {
                done.unwrap_or_else(|e| panic!("{operation:?}: {}", e.chain()));
                None
            }
            statement = line.reached() => Some(statement),
        };
        match (&statement, victim) {
            (None, _) => {}
            // It is dropped where it stands, with its tools.
            (Some(_), Victim::Agent) => drop(running),
            // The agent ends by itself, with an error.
            (Some(_), Victim::Server) => {
                self.server.kill9();
                line.cut();
                running.await.expect_err("an operation whose server died was called done");
                self.all_processes_are_gone().await;
                self.server.restart().await;
            }
        }
        line.cut();
        let told = statement.clone().unwrap_or_default();
        let what =
            format!("{victim:?} dies {place:?} of {operation:?} ({})", told.chars().take(60).collect::<String>());
        self.end(operation, &key, forward, &what).await;
        self.nothing_is_left(&what).await;
        println!("{what}: forward {forward}, set {old} then {}, {:.1} s", self.live, began.elapsed().as_secs_f64());
        statement
    }

    /// An agent that knows nothing brings it to an end.
    async fn end(&mut self, operation: Operation, key: &RunKey, forward: bool, what: &str) {
        let next = engine(&self.server, "zync");
        let must = |done: keepsake_core::Result<()>| done.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        let state = next.staged(key).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        let described = next.describe().await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        let expected: Vec<_> = (state != Staged::Absent).then_some((key.run, state)).into_iter().collect();
        assert_eq!(described.loads, expected, "{what}");
        // What is live is all old or all new at any time; where nobody gets in, it is the swap's moment.
        if state != Staged::Committing {
            let live = Self::look(&self.server).await;
            assert!(self.contents.contains(&live), "{what}: neither old nor new: {live:?}");
        }
        // What was rolled back or finalized to the end has but one end.
        let forward = match operation {
            Operation::Rollback if matches!(state, Staged::Absent | Staged::Partial) => false,
            Operation::Finalize => true,
            Operation::Stage | Operation::Commit | Operation::Rollback => forward,
        };
        if !forward {
            must(next.rollback(key, &context()).await);
            return self.must_be(self.live, what).await;
        }
        if operation != Operation::Finalize {
            if matches!(state, Staged::Absent | Staged::Partial | Staged::Staged) {
                must(next.stage(key, self.source(), &context()).await.map(drop));
            }
            must(next.commit(key, &context()).await.map(drop));
        }
        must(next.finalize(key, &context()).await);
        self.live = 1 - self.live;
        self.must_be(self.live, what).await;
    }

    /// A blow before and after every sub-step of an operation. Agent and server die in turn, and both ends are tried after each; all of
    /// them at every place where `KEEPSAKE_SOAK` is 1.
    async fn strike_all(operation: Operation, sides: &[Side], least: usize) {
        let mut arena = Self::open().await;
        let soak = std::env::var("KEEPSAKE_SOAK").is_ok_and(|every| every == "1");
        let mut struck = 0;
        for (number, side) in sides.iter().cycle().enumerate() {
            let statement = number / sides.len();
            let place = Place { statement, side: *side };
            let turn = if sides.len() == 1 { number % 4 } else { (statement + number) % 4 };
            let all = [(Victim::Agent, true), (Victim::Server, true), (Victim::Agent, false), (Victim::Server, false)];
            let chosen = if soak { all.to_vec() } else { vec![all[turn]] };
            for (victim, forward) in chosen {
                if arena.strike(operation, place, victim, forward).await.is_none() {
                    println!("{operation:?}: {struck} blows");
                    assert!(
                        struck >= least * sides.len(),
                        "only {struck} blows at a {operation:?}: were there fewer sub-steps?"
                    );
                    return;
                }
                struck += 1;
            }
        }
    }
}

#[tokio::test]
async fn sub_steps_are_those_that_are_struck() {
    let arena = Arena::open().await;
    let line = Line::start(arena.server.port(), SUB_STEPS, None).await;
    let through = Settings { postgres_port: line.port(), ..settings(&arena.server, "zync") };
    let through = through.open(arena.server.scratch().to_owned()).unwrap();
    let key = run();
    through.stage(&key, arena.source(), &context()).await.unwrap();
    through.commit(&key, &context()).await.unwrap();
    through.rollback(&key, &context()).await.unwrap();
    let heads: Vec<String> = line.statements().iter().map(|s| s.chars().take(16).collect()).collect();
    for head in ["CREATE DATABASE ", "COPY public.mode", "BEGIN; ALTER DAT", "DROP DATABASE IF", "COMMENT ON DATAB"] {
        assert!(heads.iter().any(|h| h == head), "{head}: {heads:#?}");
    }
}

#[tokio::test]
async fn a_stage_survives_every_death_before_a_sub_step() {
    Arena::strike_all(Operation::Stage, &[Side::Before], 12).await;
}

#[tokio::test]
async fn a_stage_survives_every_death_after_a_sub_step() {
    Arena::strike_all(Operation::Stage, &[Side::After], 12).await;
}

#[tokio::test]
async fn a_commit_survives_every_death_before_a_sub_step() {
    Arena::strike_all(Operation::Commit, &[Side::Before], 4).await;
}

#[tokio::test]
async fn a_commit_survives_every_death_after_a_sub_step() {
    Arena::strike_all(Operation::Commit, &[Side::After], 4).await;
}

#[tokio::test]
async fn a_rollback_survives_every_death() {
    Arena::strike_all(Operation::Rollback, &BOTH, 5).await;
}

#[tokio::test]
async fn a_finalize_survives_every_death() {
    Arena::strike_all(Operation::Finalize, &BOTH, 3).await;
}
