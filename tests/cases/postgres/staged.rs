//! Loads beside the live database: what is kept, what takes whose place, who is in the way, and how it is undone.

use keepsake_agent::engine::Staged;
use keepsake_tests::root::Root;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// The one column of a query, as texts, asked where nothing is swapped.
pub(super) async fn texts(server: &PostgresServer, sql: &str) -> Vec<String> {
    server.client("postgres").await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Everything that PostgreSQL keeps of the live database itself.
async fn surroundings(server: &PostgresServer) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', pg_get_userbyid(datdba), datallowconn, datconnlimit, datistemplate, datacl::text, pg_encoding_to_char(encoding), \
               datcollate, coalesce(shobj_description(oid, 'pg_database'), '-'), \
               (SELECT string_agg(coalesce(r.rolname, '') || ' ' || c, ', ' ORDER BY 1) FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole, \
               unnest(setconfig) c WHERE setdatabase = d.oid)) FROM pg_database d WHERE datname = 'zync_production'";
    texts(server, sql).await
}

async fn oid(server: &PostgresServer) -> Vec<String> {
    texts(server, "SELECT oid::text FROM pg_database WHERE datname = 'zync_production'").await
}

/// Databases of loads.
pub(super) async fn left(server: &PostgresServer) -> Vec<String> {
    texts(server, "SELECT datname::text FROM pg_database WHERE left(datname::text, 9) = '_keepsake'").await
}

/// Rows of every table as they are after a load.
pub(super) async fn rows(server: &PostgresServer) -> std::collections::BTreeMap<String, String> {
    let mut rows = server.digests(DATABASE).await;
    rows.insert("public.que_lockers".to_owned(), "0 ".to_owned());
    rows
}

async fn run_all(server: &PostgresServer, statements: &[&str]) {
    let statements: Vec<String> = statements.iter().map(|s| (*s).to_owned()).collect();
    server.run_as("postgres", DATABASE, &statements).await;
}

pub(super) async fn stage(engine: &Arc<dyn Engine>, made: &(DumpReport, Vec<u8>)) -> RunKey {
    let key = run();
    let staged = engine.stage(&key, source(made.0.clone(), made.1.clone()), &context()).await;
    assert_eq!(staged.unwrap_or_else(|e| panic!("stage: {}", e.chain())).counts, made.0.counts);
    key
}

pub(super) async fn commit(engine: &Arc<dyn Engine>, key: &RunKey) {
    engine.commit(key, &context()).await.unwrap_or_else(|e| panic!("commit: {}", e.chain()));
}

/// A filled server, a dump of it, and then other data and settings in it.
pub(super) async fn dumped(
    settings: &[String],
    user: &str,
) -> (PostgresServer, Arc<dyn Engine>, (DumpReport, Vec<u8>)) {
    let server = PostgresServer::start_with(&Root::host(), settings).await;
    owned(&server, "zync", DATABASE).await;
    server.run_as("zync", DATABASE, &zync::statements(1, Size::TINY)).await;
    let engine = engine(&server, user);
    let made = dump(&engine).await;
    server.run_as("zync", DATABASE, &zync::wreck()).await;
    (server, engine, made)
}

#[tokio::test]
async fn what_is_staged_takes_the_place_of_the_live_database_and_gives_it_back() {
    for user in ["postgres", "zync"] {
        let server = zync_server().await;
        run_all(
            &server,
            &[
                "ALTER DATABASE zync_production SET work_mem = '5MB'",
                "ALTER ROLE zync IN DATABASE zync_production SET lock_timeout = '7s'",
                "COMMENT ON DATABASE zync_production IS 'it''s zync''s'",
                "CREATE ROLE reader",
                "REVOKE ALL ON DATABASE zync_production FROM PUBLIC",
                "GRANT CONNECT ON DATABASE zync_production TO reader WITH GRANT OPTION",
                "GRANT TEMPORARY ON DATABASE zync_production TO PUBLIC",
                "ALTER DATABASE zync_production CONNECTION LIMIT 17",
            ],
        )
        .await;
        let engine = engine(&server, user);
        let made = dump(&engine).await;
        let (full, schema, like_full) = (rows(&server).await, server.schema(DATABASE), surroundings(&server).await);
        server.run_as("zync", DATABASE, &zync::wreck()).await;
        run_all(
            &server,
            &[
                "ALTER DATABASE zync_production RESET ALL",
                "ALTER DATABASE zync_production SET statement_timeout = '11s'",
                "COMMENT ON DATABASE zync_production IS 'another'",
            ],
        )
        .await;
        let (old, old_schema, like_old) =
            (server.digests(DATABASE).await, server.schema(DATABASE), surroundings(&server).await);
        let before = oid(&server).await;

        let described = engine.describe().await.unwrap();
        assert_eq!((described.undo, described.loads.len()), (Ok(()), 0));
        assert_eq!(described.staging_free.is_some(), user == "postgres", "only a superuser sees the data directory");
        let key = stage(&engine, &made).await;
        assert_eq!(engine.staged(&key).await.unwrap(), Staged::Staged);
        assert_eq!(engine.describe().await.unwrap().loads, [(key.run, Staged::Staged)]);
        assert_eq!((server.digests(DATABASE).await, surroundings(&server).await), (old.clone(), like_old.clone()));
        // A resumed run has a higher epoch, and its stage is checked again, not made again.
        let resumed = RunKey { epoch: Epoch(9), ..key.clone() };
        let shadow = texts(&server, "SELECT oid::text FROM pg_database WHERE datname LIKE '%new'").await;
        let again = engine.stage(&resumed, source(made.0.clone(), made.1.clone()), &context()).await.unwrap();
        assert_eq!((again.bytes, again.counts), (made.1.len() as u64, made.0.counts.clone()));
        assert_eq!(texts(&server, "SELECT oid::text FROM pg_database WHERE datname LIKE '%new'").await, shadow);

        // Twice there and back: an engine that knows nothing of it goes on.
        for _ in 0..2 {
            let done = engine.commit(&resumed, &context()).await.unwrap_or_else(|e| panic!("{user}: {}", e.chain()));
            assert_eq!((done.counts, done.warnings), (made.0.counts.clone(), Vec::new()), "as {user}");
            assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committed);
            assert_eq!(engine.describe().await.unwrap().loads, [(key.run, Staged::Committed)]);
            assert_eq!((server.digests(DATABASE).await, server.schema(DATABASE)), (full.clone(), schema.clone()));
            assert_eq!(surroundings(&server).await, like_full, "as {user}");
            assert_ne!(oid(&server).await, before);
            engine.commit(&key, &context()).await.expect("a commit of what is committed");
            engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{user}: {}", e.chain()));
            engine.rollback(&key, &context()).await.expect("a rollback of nothing");
            assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
            assert_eq!((server.digests(DATABASE).await, server.schema(DATABASE)), (old.clone(), old_schema.clone()));
            assert_eq!(
                (oid(&server).await, surroundings(&server).await),
                (before.clone(), like_old.clone()),
                "as {user}"
            );
            assert_eq!(left(&server).await, Vec::<String>::new());
            engine.finalize(&key, &context()).await.expect("nothing is there to be finalized");
            engine.stage(&key, source(made.0.clone(), made.1.clone()), &context()).await.unwrap();
        }
        let early = engine.finalize(&key, &context()).await.unwrap_err();
        assert_eq!(early.kind(), Kind::Conflict, "{}", early.chain());
        commit(&engine, &key).await;
        engine.finalize(&key, &context()).await.unwrap();
        engine.finalize(&key, &context()).await.expect("finalized already");
        assert_eq!(left(&server).await, Vec::<String>::new());
        assert_eq!((rows(&server).await, surroundings(&server).await), (full, like_full), "as {user}");
    }
}

#[tokio::test]
async fn another_runs_stage_goes_and_its_commit_stays() {
    let (server, engine, made) = dumped(&[], "zync").await;
    let old = server.digests(DATABASE).await;
    let first = stage(&engine, &made).await;
    let second = stage(&engine, &made).await;
    assert_eq!(engine.staged(&first).await.unwrap(), Staged::Absent);
    assert_eq!(engine.commit(&first, &context()).await.unwrap_err().kind(), Kind::Conflict);
    commit(&engine, &second).await;
    let (third, from) = (run(), source(made.0.clone(), made.1.clone()));
    let refused = engine.stage(&third, from.clone(), &context()).await.unwrap_err();
    let told = refused.chain();
    assert!(refused.kind() == Kind::Conflict && told.contains(&second.run.to_string()), "{told}");
    assert!(told.contains("keepsake finalize") && told.contains("keepsake rollback"), "{told}");
    engine.rollback(&third, &context()).await.unwrap();
    assert_eq!(engine.staged(&second).await.unwrap(), Staged::Committed);
    // It can be dumped meanwhile, and its dump is of what is live.
    assert_eq!(dump(&engine).await.0.counts, made.0.counts);
    engine.rollback(&second, &context()).await.unwrap();
    assert_eq!(server.digests(DATABASE).await, old);
    // Another database of the same server is loaded by the same run without meeting this one.
    owned(&server, "other", "other").await;
    let elsewhere = Settings { postgres_database: "other".to_owned(), ..settings(&server, "other") };
    let elsewhere = elsewhere.open(server.scratch().to_owned()).unwrap();
    let theirs = dump(&elsewhere).await;
    let key = stage(&engine, &made).await;
    elsewhere.stage(&key, source(theirs.0, theirs.1), &context()).await.unwrap();
    commit(&elsewhere, &key).await;
    assert_eq!(engine.describe().await.unwrap().loads, [(key.run, Staged::Staged)]);
    commit(&engine, &key).await;
    for engine in [&elsewhere, &engine] {
        engine.finalize(&key, &context()).await.unwrap();
    }
    assert_eq!(left(&server).await, Vec::<String>::new());
}

#[tokio::test]
async fn while_it_is_half_made_nothing_is_dumped_and_either_end_is_reached() {
    let (server, engine, made) = dumped(&[], "zync").await;
    let old = server.digests(DATABASE).await;
    // As an agent leaves it that dies after it has closed the live database.
    let half = async || {
        let key = stage(&engine, &made).await;
        let client = server.client("postgres").await;
        let shadow = left(&server).await.pop().unwrap();
        let sql = format!(
            "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE {shadow} IS %L', (SELECT replace(shobj_description(oid, 'pg_database'), \
             '\"staged\"', '\"committing\"') FROM pg_database WHERE datname = '{shadow}')); END $$"
        );
        client.batch_execute(&sql).await.unwrap();
        let open = engine.dump(None, &MemorySink::default(), &context()).await.unwrap_err();
        assert!(open.kind() == Kind::Conflict && open.chain().contains("half made"), "{}", open.chain());
        client.batch_execute("ALTER DATABASE zync_production ALLOW_CONNECTIONS false").await.unwrap();
        key
    };
    let key = half().await;
    let closed = engine.dump(None, &MemorySink::default(), &context()).await.unwrap_err();
    assert!(closed.kind() == Kind::Conflict && closed.chain().contains("restore"), "{}", closed.chain());
    let described = engine.describe().await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(described.loads, [(key.run, Staged::Committing)]);
    assert!(described.problems.iter().any(|p| p.contains("half made")), "{:?}", described.problems);
    let other = engine.stage(&run(), source(made.0.clone(), made.1.clone()), &context()).await.unwrap_err();
    assert!(other.kind() == Kind::Conflict && other.chain().contains(&key.run.to_string()), "{}", other.chain());
    assert_eq!(engine.finalize(&key, &context()).await.unwrap_err().kind(), Kind::Conflict);
    engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(server.digests(DATABASE).await, old);
    assert_eq!(left(&server).await, Vec::<String>::new());

    let key = half().await;
    commit(&engine, &key).await;
    assert_eq!(dump(&engine).await.0.counts, made.0.counts);
    engine.finalize(&key, &context()).await.unwrap();
    assert_eq!(left(&server).await, Vec::<String>::new());
}

/// A client that connects again as soon as it is thrown out.
fn comes_back(server: &PostgresServer) -> AbortOnDropHandle<()> {
    let port = server.port();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if let Ok(client) = keepsake_tests::servers::postgres::connect(port, DATABASE).await {
                while client.batch_execute("SELECT 1").await.is_ok() {
                    tokio::task::yield_now().await;
                }
            }
            tokio::task::yield_now().await;
        }
    }))
}

#[tokio::test]
async fn connections_that_come_back_do_not_stop_a_superuser() {
    let (server, engine, made) = dumped(&[], "postgres").await;
    let (old, full) = (server.digests(DATABASE).await, made.0.counts.clone());
    let _clients = [(); 4].map(|()| comes_back(&server));
    for _ in 0..3 {
        let key = stage(&engine, &made).await;
        let done = engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(done.counts, full);
        engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(server.digests(DATABASE).await, old);
    }
    assert_eq!(left(&server).await, Vec::<String>::new());
}

#[tokio::test]
async fn who_may_not_be_thrown_out_is_named_and_everything_is_as_it_was() {
    let prepared = ["max_prepared_transactions=5".to_owned()];
    let (server, engine, made) = dumped(&prepared, "zync").await;
    let (old, was) = (server.digests(DATABASE).await, surroundings(&server).await);
    let key = stage(&engine, &made).await;
    let open = server.client(DATABASE).await;
    let refused = engine.commit(&key, &context()).await.expect_err("somebody is there");
    let told = refused.chain();
    assert!(refused.kind() == Kind::Busy && told.contains("of postgres") && told.contains("may not end"), "{told}");
    assert!(told.contains("as it was"), "{told}");
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Staged);
    assert_eq!(surroundings(&server).await, was);
    open.batch_execute("SELECT 1").await.expect("it was not ended");
    drop(open);
    run_all(&server, &["BEGIN; CREATE TABLE in_between (id int); PREPARE TRANSACTION 'two phases'"]).await;
    let refused = engine.commit(&key, &context()).await.expect_err("a prepared transaction is there");
    assert!(refused.kind() == Kind::Busy && refused.chain().contains("\"two phases\""), "{}", refused.chain());
    run_all(&server, &["ROLLBACK PREPARED 'two phases'"]).await;
    // Cancelled before the swap, it is as if it had not begun.
    let (cx, mut progress) = Context::new(CancellationToken::new());
    let open = server.client(DATABASE).await;
    let stop = async {
        progress.wait_for(|p| p.phase == "swapping").await.unwrap();
        cx.cancel.cancel();
    };
    let (cancelled, ()) = tokio::join!(engine.commit(&key, &cx), stop);
    assert_eq!(cancelled.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!((surroundings(&server).await, server.digests(DATABASE).await), (was, old));
    drop(open);
    commit(&engine, &key).await;
    // The same of a rollback: what was loaded stays, and is open.
    let open = server.client(DATABASE).await;
    let refused = engine.rollback(&key, &context()).await.expect_err("somebody is there");
    assert!(refused.kind() == Kind::Busy && refused.chain().contains("of postgres"), "{}", refused.chain());
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Committed);
    drop(open);
    assert_eq!(dump(&engine).await.0.counts, made.0.counts);
    engine.finalize(&key, &context()).await.unwrap();
}
