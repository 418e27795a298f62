//! Loads over the live data of which the database itself tells whether they were committed: to any agent, however the one that made them ended, and
//! wherever in the COMMIT.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use keepsake_agent::engine::Staged;
use keepsake_core::error::{Error, Result};
use keepsake_tests::poll::wait_for;

use super::staged::{rows, texts};
use super::strikes::{Line, Place, Side};
use super::*;

/// Where a load in place is struck: before its COMMIT, at it, and behind it.
const STATEMENTS: &[&str] = &[
    "SELECT pg_catalog.pg_advisory_xact_lock",
    "DO $keepsake$",
    "COPY public.models",
    "COMMENT ON DATABASE",
    "COMMIT;",
    "ANALYZE",
    "ALTER DATABASE",
];
/// The COMMIT alone.
const COMMIT: &[&str] = &["COMMIT;"];
const AT_THE_COMMIT: usize = 0;

type Contents = BTreeMap<String, String>;

/// A server with two data sets that take turns: one is live, the other one is loaded.
struct Ground {
    server: PostgresServer,
    sets: [(DumpReport, Vec<u8>); 2],
    contents: [Contents; 2],
    live: usize,
}

/// What the live database has as its comment.
async fn comment(server: &PostgresServer) -> String {
    let sql =
        "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = 'zync_production'";
    texts(server, sql).await.remove(0)
}

fn must<T>(done: Result<T>, what: &str) -> T {
    done.unwrap_or_else(|e| panic!("{what}: {}", e.chain()))
}

fn kind<T: std::fmt::Debug>(done: Result<T>, what: &str) -> Kind {
    done.map_err(|e| e.kind()).expect_err(what)
}

/// An agent that nobody has told anything: its scratch folder is a new one.
fn stranger(settings: Settings) -> (Arc<dyn Engine>, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    (settings.open(scratch.path().to_owned()).unwrap(), scratch)
}

impl Ground {
    async fn open() -> Self {
        let server = zync_server().await;
        let engine = engine(&server, "zync");
        let mut sets = Vec::new();
        for words in ["it's öne 🦀", "twö"] {
            let own = [
                format!("COMMENT ON DATABASE {DATABASE} IS '{}'", words.replace('\'', "''")),
                format!("ALTER DATABASE {DATABASE} SET application_name = '{}'", words.len()),
                // With a snapshot from before a wait, the COMMIT that was waited for would not be seen.
                format!("ALTER DATABASE {DATABASE} SET default_transaction_isolation = 'repeatable read'"),
            ];
            server.run_as("zync", DATABASE, &own).await;
            sets.push((dump(&engine).await, Self::look(&server).await));
            let other = [
                "UPDATE models SET record_type = 'Other'",
                "DROP TABLE IF EXISTS que_jobs",
                "CREATE TABLE IF NOT EXISTS more (id int)",
            ];
            server.run_as("zync", DATABASE, &other.map(str::to_owned)).await;
        }
        let [(one, first), (two, second)] = <[_; 2]>::try_from(sets).unwrap();
        must(restore(&engine, in_place(source(one.0.clone(), one.1.clone()))).await, "at first");
        let ground = Self { server, sets: [one, two], contents: [first, second], live: 0 };
        ground.must_be(0, "at first").await;
        assert_eq!(comment(&ground.server).await, "it's öne 🦀");
        ground
    }

    /// Rows and settings; the comment is looked at apart.
    async fn look(server: &PostgresServer) -> Contents {
        let mut all = rows(server).await;
        let sql = "SELECT setconfig::text FROM pg_db_role_setting";
        all.insert("settings".to_owned(), texts(server, sql).await.concat());
        all
    }

    async fn must_be(&self, which: usize, what: &str) {
        assert_eq!(Self::look(&self.server).await, self.contents[which], "{what}: is it all of set {which}?");
    }

    /// The set that is not live.
    fn other(&self) -> Arc<dyn Source> {
        let (report, archive) = self.sets[1 - self.live].clone();
        in_place(source(report, archive))
    }

    fn comment_of(&self, set: usize) -> &str {
        &self.sets[set].0.facts["comment"]
    }

    fn stranger(&self) -> (Arc<dyn Engine>, tempfile::TempDir) {
        stranger(settings(&self.server, "zync"))
    }

    /// Agents that know nothing say how it is, and that is how it is; then the load is ended, or undone. Gives whether it was committed.
    async fn ask_and_end(&mut self, key: &RunKey, what: &str) -> bool {
        let (next, _scratch) = self.stranger();
        let is_committed = match must(next.staged(key).await, what) {
            Staged::Committed => true,
            Staged::Absent => false,
            other => panic!("{what}: {other:?}"),
        };
        let new = 1 - self.live;
        let expected = if is_committed { new } else { self.live };
        let found = rows(&self.server).await;
        let same = |set: &Contents| found.iter().all(|(name, value)| set.get(name) == Some(value));
        assert!(same(&self.contents[expected]), "{what}: committed: {is_committed}, and the data is other: {found:?}");
        if !is_committed {
            assert_eq!(kind(next.commit(key, &context()).await, what), Kind::Conflict);
            must(next.rollback(key, &context()).await, what);
            self.must_be(self.live, what).await;
            assert_eq!(comment(&self.server).await, self.comment_of(self.live), "{what}");
            return false;
        }
        assert_eq!(kind(next.rollback(key, &context()).await, what), Kind::Unsupported);
        // Nobody has staged again.
        let done = must(next.commit(key, &context()).await, what);
        assert_eq!((done.counts, done.warnings), (self.sets[new].0.counts.clone(), Vec::new()), "{what}");
        self.must_be(new, what).await;
        // A dump has the database's own comment, and is made.
        assert!(comment(&self.server).await.contains(&key.run.to_string()), "{what}");
        assert_eq!(dump(&next).await.0.facts["comment"], self.comment_of(new), "{what}");
        let (third, _scratch) = self.stranger();
        assert_eq!(must(third.commit(key, &context()).await, what).counts, self.sets[new].0.counts, "{what}");
        must(third.finalize(key, &context()).await, what);
        assert_eq!(must(third.staged(key).await, what), Staged::Absent);
        must(third.finalize(key, &context()).await, what);
        assert_eq!(comment(&self.server).await, self.comment_of(new), "{what}");
        self.must_be(new, what).await;
        self.live = new;
        true
    }

    /// Stages and begins to commit through the line; gives the commit when the line stops, or nothing when it is over before.
    async fn struck(&self, line: &Line, key: &RunKey) -> Option<(Struck, String)> {
        let (before, scratch) = stranger(Settings { postgres_port: line.port(), ..settings(&self.server, "zync") });
        must(before.stage(key, self.other(), &context()).await, "stage");
        let (engine, of) = (before.clone(), key.clone());
        let mut running: Running =
            Box::pin(
                async move { engine.commit(&of, &context()).await.map(|report| assert!(!report.counts.is_empty())) },
            );
        let statement = tokio::select! {
            done = &mut running => { must(done, "undisturbed"); return None }
            statement = line.reached() => statement,
        };
        Some((Struck { running, engine: before, _scratch: scratch }, statement))
    }
}

type Running = Pin<Box<dyn Future<Output = Result<()>>>>;

/// A commit that is stopped by the line.
struct Struck {
    running: Running,
    engine: Arc<dyn Engine>,
    _scratch: tempfile::TempDir,
}

#[tokio::test]
async fn a_load_in_place_survives_every_death_of_its_agent_and_the_next_one_tells_the_truth() {
    let mut ground = Ground::open().await;
    let (mut committed, mut undone, mut waited) = (0, 0, 0);
    for number in 0_usize.. {
        let side = [Side::Before, Side::After][number % 2];
        let line = Line::start(ground.server.port(), STATEMENTS, Some(Place { statement: number / 2, side })).await;
        let key = run();
        let Some((struck, statement)) = ground.struck(&line, &key).await else {
            assert!(ground.ask_and_end(&key, "undisturbed").await);
            break;
        };
        // With its tools, where it stands. What it has sent may still be on its way.
        drop(struck);
        let what = format!("the agent dies {side:?} {}", statement.chars().take(60).collect::<String>());
        if statement.starts_with("COMMIT;") && side == Side::Before {
            let (next, _scratch) = ground.stranger();
            assert_eq!(kind(next.rollback(&key, &context()).await, &what), Kind::Busy);
            assert_eq!(kind(next.staged(&key).await, &what), Kind::Busy);
            waited += 1;
        }
        line.cut();
        let is_committed = ground.ask_and_end(&key, &what).await;
        println!("{what}: committed: {is_committed}");
        *(if is_committed { &mut committed } else { &mut undone }) += 1;
    }
    assert!(
        committed >= 4 && undone >= 6 && waited == 1,
        "{committed} were committed, {undone} undone, {waited} waited"
    );
}

#[tokio::test]
async fn a_load_in_place_whose_way_to_the_server_is_lost_asks_whether_it_was_committed() {
    let mut ground = Ground::open().await;
    let place = |side| Some(Place { statement: AT_THE_COMMIT, side });

    // The server has done it, and the answer is lost: the agent asks again, and goes on.
    let (line, key) = (Line::start(ground.server.port(), COMMIT, place(Side::After)).await, run());
    let (struck, _) = ground.struck(&line, &key).await.expect("a COMMIT");
    line.sever();
    must(struck.running.await, "it was committed");
    assert!(ground.ask_and_end(&key, "answer lost").await);

    // It has never seen it: that is known, too, and the same agent can try again.
    let (line, key) = (Line::start(ground.server.port(), COMMIT, place(Side::Before)).await, run());
    let (struck, _) = ground.struck(&line, &key).await.expect("a COMMIT");
    line.sever();
    let lost = struck.running.await.expect_err("it was not committed");
    assert!(lost.kind() == Kind::Unavailable && lost.chain().contains("old data is in place"), "{}", lost.chain());
    ground.must_be(ground.live, "rolled back").await;
    assert_eq!(must(struck.engine.staged(&key).await, "staged"), Staged::Staged);
    must(struck.engine.commit(&key, &context()).await, "again");
    assert!(ground.ask_and_end(&key, "again").await);

    // Nobody can be asked: only then it is not known, and whoever asks later is told.
    for (side, is_committed) in [(Side::After, true), (Side::Before, false)] {
        let (line, key) = (Line::start(ground.server.port(), COMMIT, place(side)).await, run());
        let (struck, _) = ground.struck(&line, &key).await.expect("a COMMIT");
        line.cut();
        let unknown = struck.running.await.expect_err("nobody could say that it was committed");
        assert!(unknown.kind() == Kind::Unavailable && unknown.chain().contains("not known"), "{}", unknown.chain());
        assert_eq!(ground.ask_and_end(&key, "asked later").await, is_committed);
    }
}

#[tokio::test]
async fn a_commit_that_the_server_is_still_at_is_waited_for_and_not_called_undone() {
    let mut ground = Ground::open().await;
    let client = ground.server.client("postgres").await;
    for is_waited_for in [false, true] {
        let key = run();
        let (before, _scratch) = ground.stranger();
        must(before.stage(&key, ground.other(), &context()).await, "stage");
        // The COMMIT waits for a standby that never comes: it is in the log, and nobody sees it yet.
        let waits = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
        client.batch_execute(waits).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let cx = context();
        let mut running = before.commit(&key, &cx);
        let reached = wait_for("the COMMIT to wait", Duration::from_secs(60), async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            let n: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
            if n == 1 { Ok(()) } else { Err(n) }
        });
        tokio::select! {
            _ = &mut running => panic!("it does not wait"),
            () = reached => {}
        }
        drop(running);
        let (next, _scratch) = ground.stranger();
        let ends = async || {
            client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
            client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        };
        if is_waited_for {
            let asks = async {
                let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
                wait_for("the next agent to wait", Duration::from_secs(20), async || {
                    let n: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
                    if n == 1 { Ok(()) } else { Err(n) }
                })
                .await;
                ends().await;
            };
            let cx = context();
            let (rolled_back, ()) = tokio::join!(next.rollback(&key, &cx), asks);
            assert_eq!(kind(rolled_back, "it was committed meanwhile"), Kind::Unsupported);
        } else {
            assert_eq!(kind(next.rollback(&key, &context()).await, "it is not over"), Kind::Busy);
            assert_eq!(kind(next.staged(&key).await, "it is not over"), Kind::Busy);
            ends().await;
        }
        assert!(ground.ask_and_end(&key, "when the server was through").await);
    }
}

#[tokio::test]
async fn what_is_written_of_a_load_gives_way_to_the_next_and_keeps_the_databases_own_comment() {
    let mut ground = Ground::open().await;
    let (first, _scratch) = ground.stranger();
    let (never_ended, after) = (run(), run());
    must(first.stage(&never_ended, ground.other(), &context()).await, "stage");
    must(first.commit(&never_ended, &context()).await, "commit");
    ground.live = 1 - ground.live;
    // A source without a record: the comment stays what it is, and that is not what the load before has written.
    let (next, _scratch) = ground.stranger();
    let archive = ground.sets[1 - ground.live].1.clone();
    let bare = Arc::new(MemorySource {
        artifacts: [(ArtifactName::new("dump.pgc").unwrap(), archive)].into(),
        recorded: None,
    });
    must(next.stage(&after, in_place(bare), &context()).await, "over what was not ended");
    must(next.commit(&after, &context()).await, "over what was not ended");
    assert_eq!(must(next.staged(&after).await, "the later one"), Staged::Committed);
    assert_eq!(must(next.staged(&never_ended).await, "the earlier one"), Staged::Absent);
    must(next.finalize(&never_ended, &context()).await, "the earlier one");
    assert_eq!(must(next.staged(&after).await, "the later one"), Staged::Committed);
    // Written to since: told, and no failure, because it was proven before.
    ground.server.run_as("zync", DATABASE, &["DELETE FROM notifications".to_owned()]).await;
    must(next.commit(&after, &context()).await, "again");
    must(next.finalize(&after, &context()).await, "the later one");
    assert_eq!(comment(&ground.server).await, ground.comment_of(ground.live));
}

#[tokio::test]
async fn who_has_heard_of_a_commit_knows_it_when_somebody_has_written_over_the_mark() {
    let ground = Ground::open().await;
    let (engine, _scratch) = ground.stranger();
    let key = run();
    must(engine.stage(&key, ground.other(), &context()).await, "stage");
    must(engine.commit(&key, &context()).await, "commit");
    ground.server.run_as("zync", DATABASE, &[format!("COMMENT ON DATABASE {DATABASE} IS 'mine'")]).await;
    assert_eq!(kind(engine.rollback(&key, &context()).await, "it is in"), Kind::Unsupported);
}

#[tokio::test]
async fn a_load_that_is_not_what_was_recorded_is_no_success_when_it_is_asked_for_again() {
    let ground = Ground::open().await;
    let (engine, _scratch) = ground.stranger();
    let (mut report, archive) = ground.sets[1].clone();
    report.counts.insert("views".to_owned(), 77);
    let key = run();
    must(engine.stage(&key, in_place(source(report, archive)), &context()).await, "stage");
    assert_eq!(kind(engine.commit(&key, &context()).await, "counted"), Kind::Corrupt);
    let (next, _scratch) = ground.stranger();
    for engine in [engine, next] {
        assert_eq!(kind(engine.commit(&key, &context()).await, "counted again"), Kind::Corrupt);
        assert_eq!(kind(engine.rollback(&key, &context()).await, "it is in"), Kind::Unsupported);
    }
}

#[tokio::test]
async fn who_may_not_write_on_the_database_remembers_by_itself_and_says_so() {
    let server = zync_server().await;
    let made = dump(&engine(&server, "zync")).await;
    assert!(engine(&server, "zync").describe().await.unwrap().in_place_is_told);
    let another = ["ALTER DATABASE zync_production OWNER TO postgres", "GRANT CREATE ON SCHEMA public TO zync"];
    server.run_as("postgres", DATABASE, &another.map(str::to_owned)).await;
    let engine = engine(&server, "zync");
    let described = engine.describe().await.unwrap();
    let why = described.undo.expect_err("it may not rename it");
    assert!(!described.in_place_is_told && why.contains("nor write on it"), "{why}");
    server.run_as("zync", DATABASE, &["DELETE FROM notifications".to_owned()]).await;
    let key = run();
    must(engine.stage(&key, in_place(source(made.0.clone(), made.1.clone())), &context()).await, "stage");
    assert_eq!(must(engine.commit(&key, &context()).await, "commit").counts, made.0.counts);
    assert_eq!((must(engine.staged(&key).await, "staged"), comment(&server).await.as_str()), (Staged::Committed, ""));
    let touched = server.scratch().join("touched-by-runs");
    assert!(std::fs::read_to_string(&touched).unwrap().contains(&key.run.to_string()));
    let next = super::engine(&server, "zync");
    assert_eq!(kind(next.rollback(&key, &context()).await, "it is written down"), Kind::Unsupported);
    // Its owner's load puts another in the place of what was touched.
    let owner = super::engine(&server, "postgres");
    must(restore(&owner, in_place(source(made.0, made.1))).await, "by the owner");
    assert!(!touched.try_exists().unwrap());
    must::<()>(next.rollback(&key, &context()).await.map_err(|e: Error| e), "it is another's data now");
}
