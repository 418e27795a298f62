//! Several dump tools at once under a hold: the same as by one, of one instant, whole or nothing.

use std::time::Duration;

use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::error::Kind;
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::steps::{self, held_dump as held, try_held_dump as try_held};
use mysql_async::prelude::Queryable;

use super::faults::{client, dump_program, ends, filled};
use super::round_trip::odd_server;
use super::*;

fn engine(server: &MysqlServer, processes: u8) -> Arc<dyn Engine> {
    let mut settings = server.settings();
    settings.mysql_dump_processes = processes;
    settings.open(server.scratch().to_owned()).unwrap()
}

fn names(source: &MemorySource) -> Vec<&str> {
    source.artifacts.keys().map(ArtifactName::as_str).collect()
}

fn named(name: &str) -> ArtifactName {
    ArtifactName::new(name).unwrap()
}

#[tokio::test]
async fn the_same_comes_back_as_by_one() {
    let server = odd_server().await;
    if server.value("SELECT VERSION()").await.unwrap().contains("MariaDB") {
        // It can be made only after the sequence.
        server.run(&["CREATE TABLE system.a_numbered (id bigint DEFAULT NEXT VALUE FOR system.seq, n int)"]).await;
        server.run(&["INSERT INTO system.a_numbered (n) VALUES (1), (2)"]).await;
    }
    let state = (server.checksums("system").await, server.schema_digest("system").await);
    let by_one = steps::dump(&engine(&server, 4)).await;
    assert_eq!(names(&by_one), ["dump.sql"], "without a hold");
    assert_eq!(names(&held(&engine(&server, 1)).await), ["dump.sql"], "one tool");
    for processes in [2, 3, 16] {
        let engine = engine(&server, processes);
        let made = held(&engine).await;
        let groups = names(&made).iter().filter(|n| n.starts_with("data-")).count();
        assert_eq!(groups, usize::from(processes).min(8), "{:?}", names(&made));
        assert_eq!(made.artifacts.len(), groups + 2);
        assert!(made.artifacts.values().all(|b| !contains(b, PASSWORD.as_bytes())));
        let (one, several) = (by_one.recorded.as_ref().unwrap(), made.recorded.as_ref().unwrap());
        assert_eq!(several.counts, one.counts);
        for fact in ["definers", "altered_schemas", "longest_statement", "collations"] {
            assert_eq!(several.facts.get(fact), one.facts.get(fact), "{fact}");
        }
        let keys_apart = ["a_child", "zz_parent"].map(|table| {
            let made_by = format!("CREATE TABLE `{table}`");
            made.artifacts.iter().find(|(_, b)| contains(b, made_by.as_bytes())).unwrap().0.clone()
        });
        assert!(processes < 16 || keys_apart[0] != keys_apart[1], "no foreign key leads from group to group");
        server
            .run(&[
                "ALTER DATABASE system CHARACTER SET latin1",
                "DROP TABLE system.odd, system.emoji, system.a_child",
                "DROP VIEW system.a_view",
                "CREATE TABLE system.extra (id int)",
            ])
            .await;
        steps::must_restore(&engine, &made).await;
        assert_eq!((server.checksums("system").await, server.schema_digest("system").await), state, "{processes}");
        server.run(&["SELECT * FROM system.a_view", "CALL system.`p``1`(1)"]).await;
    }
    // What several wrote loads with one client at a time as well, and what one wrote with several allowed.
    let several = held(&engine(&server, 3)).await;
    steps::must_restore(&engine(&server, 1), &several).await;
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), state);
    // One stream would lock each table that it fills, so that MariaDB refused it the sequence of a default (error 1100).
    steps::must_restore(&engine(&server, 3), &steps::dump(&engine(&server, 3)).await).await;
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), state);
}

#[tokio::test]
async fn a_tool_that_fails_fails_the_dump_and_leaves_no_other() {
    let server = filled(&[]).await;
    let pid = |name: &str| server.scratch().join(format!("{name}.pid"));
    // A tool is told which tables to leave out. The other one would never end.
    let killed = r#"case " $* " in
*"=system.small "*) until [ -s "$0.pid" ]; do read -r -t 0.05 <> <(:); done; "$real" "$@" | head -c 300000; kill -9 $$;;
*) echo $$ >"$0.pid"; "$real" "$@"; exec sleep 1000;;
esac"#;
    let error = try_held(&dump_program(&server, "killed", killed)).await.unwrap_err();
    assert!(told(&error).contains("signal: 9") && error.chain().contains("data-0.sql"), "{}", error.chain());
    ends(pid("killed")).await;
    let objects = r#"case " $* " in *" --no-create-info "*) exit 3;; *) exec "$real" "$@";; esac"#;
    let error = try_held(&dump_program(&server, "objects", objects)).await.unwrap_err();
    assert!(told(&error).contains("exit status: 3") && error.chain().contains("objects.sql"), "{}", error.chain());
    let less = r#"exec "$real" "${@/#--ignore-table=system.small/--ignore-table=system.big}""#;
    let error = try_held(&dump_program(&server, "less", less)).await.unwrap_err();
    assert!(told(&error).contains("two artifacts"), "{}", error.chain());
    let made = held(&server.engine()).await;
    assert_eq!(names(&made), ["data-0.sql", "data-1.sql", "objects.sql"]);
}

#[tokio::test]
async fn a_client_that_fails_ends_the_others_and_the_stage_can_be_repeated() {
    let server = filled(&[]).await;
    let state = (server.checksums("system").await, server.schema_digest("system").await);
    let made = held(&server.engine()).await;
    // The first fails once the second is there, which would never end.
    let script = r#"[ -e "$0.well" ] && exec "$real" "$@"
if mkdir "$0.first" 2>/dev/null; then
until [ -s "$0.pid" ]; do read -r -t 0.05 <> <(:); done; exit 7; else echo $$ >"$0.pid"; cat >/dev/null; exec sleep 1000; fi"#;
    let engine = client(&server, "loading", script);
    let (key, (cx, _)) = (key(), context());
    let error = engine.stage(&key, Arc::new(made.clone()), &cx).await.unwrap_err();
    assert!(told(&error).contains("exit status: 7") && error.chain().contains("data-"), "{}", error.chain());
    ends(server.scratch().join("loading.pid")).await;
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), state);
    std::fs::write(server.scratch().join("loading.well"), "").unwrap();
    engine.stage(&key, Arc::new(made), &cx).await.unwrap_or_else(|e| panic!("stage: {}", e.chain()));
    engine.commit(&key, &cx).await.unwrap_or_else(|e| panic!("commit: {}", e.chain()));
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), state);
}

#[tokio::test]
async fn what_is_cut_missing_or_swapped_is_refused_before_anything_is_touched() {
    let server = odd_server().await;
    let engine = engine(&server, 2);
    let made = held(&engine).await;
    server.run(&["DROP TABLE system.emoji"]).await;
    let before = (server.checksums("system").await, server.schema_digest("system").await);
    let mut bad: Vec<(String, MemorySource)> = Vec::new();
    let mut changed = |what: String, change: &dyn Fn(&mut MemorySource)| {
        let mut source = made.clone();
        change(&mut source);
        bad.push((what, source));
    };
    for name in made.artifacts.keys() {
        changed(format!("{name} missing"), &|s| {
            s.artifacts.remove(name);
        });
        changed(format!("{name} cut"), &|s| {
            s.artifacts.get_mut(name).unwrap().truncate(made.artifacts[name].len() / 2)
        });
        changed(format!("{name} empty"), &|s| s.artifacts.get_mut(name).unwrap().clear());
        for other in made.artifacts.keys().filter(|other| *other != name) {
            changed(format!("{name} in place of {other}"), &|s| {
                s.artifacts.insert(other.clone(), made.artifacts[name].clone());
            });
            let both_tables = name.as_str().starts_with("data-") && other.as_str().starts_with("data-");
            if name < other && !both_tables {
                changed(format!("{name} and {other} swapped"), &|s| {
                    s.artifacts.insert(other.clone(), made.artifacts[name].clone());
                    s.artifacts.insert(name.clone(), made.artifacts[other].clone());
                });
            }
        }
    }
    for surplus in ["dump.sql", "data-2.sql", "data-3.sql", "other.sql"] {
        changed(format!("{surplus} too many"), &|s| {
            s.artifacts.insert(named(surplus), made.artifacts[&named("data-0.sql")].clone());
        });
    }
    for (what, source) in bad {
        let (key, (cx, _)) = (key(), context());
        let refused = engine.stage(&key, Arc::new(source), &cx).await;
        let error = refused.err().unwrap_or_else(|| panic!("{what}: it was staged"));
        assert_eq!(error.kind(), Kind::Corrupt, "{what}: {}", told(&error));
        assert_eq!(engine.commit(&key, &cx).await.unwrap_err().kind(), Kind::Conflict, "{what}");
        engine.rollback(&key, &cx).await.unwrap();
    }
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), before);
    steps::must_restore(&engine, &made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_groups_are_of_one_instant_under_writes() {
    let server = MysqlServer::start().await;
    server
        .run(&[
            "CREATE DATABASE system",
            "CREATE TABLE system.a (id bigint PRIMARY KEY AUTO_INCREMENT, pad varchar(2000))",
            "CREATE TABLE system.m (id bigint PRIMARY KEY AUTO_INCREMENT, pad varchar(2000))",
            "CREATE TABLE system.z (id bigint PRIMARY KEY AUTO_INCREMENT)",
            "INSERT INTO system.m (pad) SELECT REPEAT('x', 2000) FROM information_schema.columns LIMIT 1500",
        ])
        .await;
    let stop = CancellationToken::new();
    let mut writers = Vec::new();
    for _ in 0..3 {
        let (mut conn, stopped) = (server.conn().await, stop.clone());
        writers.push(tokio::spawn(async move {
            while !stopped.is_cancelled() {
                for sql in
                    ["BEGIN", "INSERT INTO system.a (pad) VALUES ('')", "INSERT INTO system.z VALUES ()", "COMMIT"]
                {
                    conn.query_drop(sql).await.unwrap();
                }
            }
        }));
    }
    let engine = engine(&server, 3);
    let mut rows = 0;
    let mut last = None;
    for _ in 0..10 {
        let made = held(&engine).await;
        assert_eq!(names(&made), ["data-0.sql", "data-1.sql", "data-2.sql", "objects.sql"]);
        let counts = &made.recorded.as_ref().unwrap().counts;
        assert_eq!(counts["rows:a"], counts["rows:z"], "the groups are of two instants");
        assert!(counts["rows:a"] > rows, "nothing was written between two dumps");
        rows = counts["rows:a"];
        last = Some(made);
    }
    stop.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    steps::must_restore(&engine, &last.unwrap()).await;
}

#[tokio::test]
async fn no_more_tools_run_than_there_is_memory_for() {
    let server = filled(&[]).await;
    let limited = |mib: u64| {
        let mut settings = server.settings();
        settings.mysql_dump_processes = 2;
        settings.mysql_memory_limit = Some(mib);
        settings.open(server.scratch().to_owned()).unwrap()
    };
    assert_eq!(names(&held(&limited(64)).await).len(), 3, "small rows: two tools");
    server
        .run(&[
            "CREATE TABLE system.large (id int PRIMARY KEY, a mediumblob, b longtext)",
            "INSERT INTO system.large VALUES (1, REPEAT('a', 3000000), REPEAT('b', 1000000)), (2, NULL, NULL)",
        ])
        .await;
    assert_eq!(names(&held(&limited(64)).await), ["dump.sql"], "a row of 4 MB: one");
    let error = try_held(&limited(48)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.chain().contains("the largest row has 4 MiB"), "{}", error.chain());
    let error = steps::try_dump(&limited(48)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "without a hold too: {}", error.chain());
}

#[tokio::test]
async fn progress_tells_how_far_each_artifact_is() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let mut hold = engine.prepare_hold().await.unwrap();
    let prepared = hold.take(Duration::from_millis(500), Duration::from_secs(5)).await.unwrap();
    let (sink, (cx, progress)) = (MemorySink::default(), Context::new(CancellationToken::new()));
    engine.dump(Some(prepared), &sink, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    hold.release().await.unwrap();
    let told = progress.borrow().clone();
    let lengths: std::collections::BTreeMap<_, _> =
        sink.finished().into_iter().map(|(name, bytes)| (name, bytes.len() as u64)).collect();
    assert!(lengths.len() > 2, "{lengths:?}");
    assert_eq!(told.artifacts, lengths);
    assert_eq!(told.bytes, lengths.values().sum::<u64>());
}
