//! What goes wrong is told, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepsake_agent::engine::Staged;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::error::Kind;
use keepsake_tests::poll::wait_for;
use keepsake_tests::servers::mysql::MysqlServer;
use mysql_async::prelude::Queryable;

use super::*;

/// A database of a few megabytes.
pub(super) async fn filled(extra: &[&str]) -> MysqlServer {
    let server = MysqlServer::with(extra).await;
    server
        .run(&[
            "CREATE DATABASE system CHARACTER SET utf8mb3 COLLATE utf8mb3_bin",
            "CREATE TABLE system.big (id bigint PRIMARY KEY AUTO_INCREMENT, pad varchar(4000))",
            "INSERT INTO system.big (pad) SELECT REPEAT('row', 1300) FROM information_schema.columns LIMIT 1500",
            "CREATE TABLE system.small (id int PRIMARY KEY, note varchar(100))",
            "INSERT INTO system.small VALUES (1, 'one'), (2, 'two')",
        ])
        .await;
    server
}

/// A program of the test's own in place of a tool; `$@` is what the engine gave.
pub(super) fn program(server: &MysqlServer, name: &str, script: &str) -> String {
    let path = server.scratch().join(name);
    std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The test's dump program: answers as the real one, and does what `script` says when it is to dump.
pub(super) fn dump_program(server: &MysqlServer, name: &str, script: &str) -> Arc<dyn Engine> {
    let real = r#"real=$(command -v mariadb-dump || command -v mysqldump)
case " $* " in *" --version "*|*" --help "*) exec "$real" "$@";; esac"#;
    let mut settings = server.settings();
    settings.mysql_dump_program = Some(program(server, name, &format!("{real}\n{script}")));
    settings.open(server.scratch().to_owned()).unwrap()
}

/// The same for the client.
pub(super) fn client(server: &MysqlServer, name: &str, script: &str) -> Arc<dyn Engine> {
    let mut settings = server.settings();
    settings.mysql_program = Some(client_program(server, name, script));
    settings.open(server.scratch().to_owned()).unwrap()
}

fn is_alive(pid: &Path) -> bool {
    let Ok(pid) = std::fs::read_to_string(pid) else { return false };
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z"))
}

pub(super) async fn ends(pid: PathBuf) {
    wait_for("the tool's end", Duration::from_secs(10), async || if is_alive(&pid) { Err("it lives") } else { Ok(()) })
        .await;
}

#[tokio::test]
async fn a_dump_that_fails_is_no_artifact() {
    let mut server = filled(&[]).await;
    let refused = async |engine: Arc<dyn Engine>, sink: MemorySink| {
        let error = engine.dump(None, &sink, &context().0).await.unwrap_err();
        assert!(sink.finished().is_empty(), "{}", error.chain());
        (error.kind(), told(&error))
    };
    // The tool is killed, ends early with status 0, leaves triggers out, fails after all was written.
    let (_, text) =
        refused(dump_program(&server, "killed", r#""$real" "$@" | head -c 300000; kill -9 $$"#), MemorySink::default())
            .await;
    assert!(text.contains("signal: 9"), "{text}");
    let (kind, text) =
        refused(dump_program(&server, "short", r#""$real" "$@" | head -c 300000"#), MemorySink::default()).await;
    assert_eq!(kind, Kind::Corrupt);
    assert!(text.contains("inside a text"), "{text}");
    let (_, text) = refused(
        dump_program(&server, "less", r#""$real" "$1" --ignore-table=system.small "${@:2}""#),
        MemorySink::default(),
    )
    .await;
    assert!(text.contains("2 tables") && text.contains("has 1"), "{text}");
    let (_, text) = refused(dump_program(&server, "failed", r#""$real" "$@"; exit 3"#), MemorySink::default()).await;
    assert!(text.contains("exit status: 3"), "{text}");
    // The sink fails.
    let mut full = MemorySink::default();
    full.fail_after = Some(200_000);
    let (kind, text) = refused(server.engine(), full).await;
    assert_eq!(kind, Kind::Unavailable);
    assert!(text.contains("on purpose"), "{text}");
    // A definition changes while it runs.
    // The tool has listed the tables once it writes rows: only then is it told to wait.
    let changing = r#""$real" "$@" | { head -c 100000; mkfifo "$0.go"; read -r _ <"$0.go"; cat; }"#;
    let engine = dump_program(&server, "changing", changing);
    let go = server.scratch().join("changing.go");
    let change =
        async {
            wait_for("the tool", Duration::from_secs(10), async || {
                if go.try_exists().unwrap() { Ok(()) } else { Err("no fifo") }
            })
            .await;
            server.run(&["CREATE TABLE system.born (id int)"]).await;
            tokio::fs::write(&go, "go\n").await.unwrap();
        };
    let ((kind, text), ()) = tokio::join!(refused(engine, MemorySink::default()), change);
    assert_eq!(kind, Kind::Busy, "{text}");
    assert!(text.contains("definitions changed") && text.contains("tables"), "{text}");
    // The server is killed in the middle.
    let engine = dump_program(
        &server,
        "orphaned",
        &changing.replace(r#""$real" "$@""#, r#""$real" "$1" --net-buffer-length=16384 "${@:2}""#),
    );
    let go = server.scratch().join("orphaned.go");
    let sink = MemorySink::default();
    let (cx, _progress) = context();
    let kill =
        async {
            wait_for("the tool", Duration::from_secs(10), async || {
                if go.try_exists().unwrap() { Ok(()) } else { Err("no fifo") }
            })
            .await;
            server.kill9();
            tokio::fs::write(&go, "go\n").await.unwrap();
        };
    let (dumped, ()) = tokio::join!(engine.dump(None, &sink, &cx), kill);
    told(&dumped.unwrap_err());
    assert!(sink.finished().is_empty());
    server.restart().await;
    dump(&server.engine()).await;
}

#[tokio::test]
async fn a_wrong_password_or_account_is_told_without_it() {
    let server = filled(&[]).await;
    let wrong = server.scratch().join("wrong");
    std::fs::write(&wrong, "canary-wrong\n").unwrap();
    let mut settings = server.settings();
    settings.mysql_password_file = Some(wrong.clone());
    let engine = settings.open(server.scratch().to_owned()).unwrap();
    for error in [
        engine.describe().await.unwrap_err(),
        engine.dump(None, &MemorySink::default(), &context().0).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Denied);
        assert!(told(&error).contains("--mysql-password-file"), "{}", error.chain());
    }
    // The file is read again: no restart after a rotation.
    std::fs::copy(server.password_file(), &wrong).unwrap();
    engine.describe().await.unwrap();

    // Without TRIGGER the server would just not show any.
    server
        .run(&[
            "CREATE USER poor@'%'",
            "GRANT SELECT ON *.* TO poor@'%'",
            "GRANT ALL ON system.* TO half@'%' IDENTIFIED BY ''",
        ])
        .await;
    let as_user = |user: &str| {
        let mut settings = server.settings();
        settings.mysql_user = user.to_owned();
        settings.mysql_password_file = None;
        settings.open(server.scratch().to_owned()).unwrap()
    };
    let error = as_user("poor").dump(None, &MemorySink::default(), &context().0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.chain().contains("TRIGGER, EVENT"), "{}", error.chain());
    let error = as_user("half").dump(None, &MemorySink::default(), &context().0).await.unwrap_err();
    assert!(error.chain().contains("routines"), "{}", error.chain());
    // Objects of another definer need a privilege: asked for before anything is touched.
    server
        .run(&["CREATE DEFINER = root@'%' TRIGGER system.t BEFORE INSERT ON system.small FOR EACH ROW SET @a = 1"])
        .await;
    let (bytes, report) = dump(&server.engine()).await;
    let error = as_user("half").stage(&key(), source(&bytes, Some(&report)), &context().0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.chain().contains(r"GRANT ALL ON `\_keepsake\_%`.*"), "{}", error.chain());
    server.run(&["GRANT SELECT ON *.* TO half@'%'"]).await;
    assert!(as_user("half").describe().await.unwrap().undo.unwrap_err().contains("_keepsake"));
    server.run(&[r"GRANT ALL ON `\_keepsake\_%`.* TO half@'%'"]).await;
    assert_eq!(as_user("half").describe().await.unwrap().undo, Ok(()));
    // What is live could not be put back either.
    let error = as_user("half").stage(&key(), source(&bytes, Some(&report)), &context().0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.chain().contains("run as root@%") && error.chain().contains("put back"), "{}", error.chain());
    server.run(&["DROP TRIGGER system.t"]).await;
    let error = as_user("half").stage(&key(), source(&bytes, Some(&report)), &context().0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.chain().contains("run as root@%"), "{}", error.chain());
    assert_eq!(server.value("SHOW DATABASES LIKE '%keepsake%'").await, None);
    // One that does not exist is told.
    server
        .run(&["CREATE DEFINER = gone@'%' TRIGGER system.t BEFORE INSERT ON system.small FOR EACH ROW SET @a = 1"])
        .await;
    let (bytes, report) = dump(&server.engine()).await;
    let loaded = load(&server.engine(), source(&bytes, Some(&report))).await.unwrap();
    assert!(loaded.warnings.iter().any(|w| w.contains("gone@%") && w.contains("1449")), "{:?}", loaded.warnings);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_before_anything_is_touched() {
    let server = filled(&[]).await;
    let engine = server.engine();
    let (bytes, report) = dump(&engine).await;
    let before = (server.checksums("system").await, server.schema_digest("system").await);
    let refused = async |bytes: &[u8], report: &DumpReport, words: &str| {
        let (key, (cx, _)) = (key(), context());
        let error = engine.stage(&key, source(bytes, Some(report)), &cx).await.unwrap_err();
        assert!(told(&error).contains(words), "{words}: {}", error.chain());
        assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
        assert_eq!(server.value("SHOW DATABASES LIKE '%keepsake%'").await, None, "{words}");
        assert_eq!(engine.commit(&key, &cx).await.unwrap_err().kind(), Kind::Conflict);
        engine.rollback(&key, &cx).await.unwrap();
        error.kind()
    };
    let changed = |f: &dyn Fn(&mut DumpReport)| {
        let mut report = report.clone();
        f(&mut report);
        report
    };
    let fact = |key: &str, value: &str| {
        changed(&|r| {
            r.facts.insert(key.to_owned(), value.to_owned());
        })
    };
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert_eq!(refused(&bytes[..bytes.len() / 2], &report, "not whole").await, Kind::Corrupt);
    assert_eq!(refused(&bytes[..bytes.len() - 1], &report, "-- Dump completed").await, Kind::Corrupt);
    assert_eq!(refused(b"", &report, "not whole").await, Kind::Corrupt);
    let quote = text.replacen("'rowrow", "rowrow", 1);
    assert_eq!(refused(quote.as_bytes(), &report, "").await, Kind::Corrupt);
    let fewer = text.replace("(2,'two')", "").replace("'one'),", "'one')");
    assert_eq!(refused(fewer.as_bytes(), &report, "rows:small: the record 2, the dump 1").await, Kind::Corrupt);
    let command = text.replacen("UNLOCK TABLES;", "UNLOCK TABLES;\n\\! touch /tmp/canary\n", 1);
    assert_eq!(refused(command.as_bytes(), &report, "a command of the client").await, Kind::Corrupt);
    let elsewhere = text.replacen("UNLOCK TABLES;", "UNLOCK TABLES;\nUSE mysql;", 1);
    assert_eq!(refused(elsewhere.as_bytes(), &report, "names the database mysql").await, Kind::Unsupported);
    let other = if report.facts["family"] == "mariadb" { "mysql" } else { "mariadb" };
    assert_eq!(refused(&bytes, &fact("family", other), "--mysql-allow-cross-family").await, Kind::Unsupported);
    assert_eq!(refused(&bytes, &fact("lower_case_table_names", "1"), "lower_case").await, Kind::Unsupported);
    assert_eq!(refused(&bytes, &fact("collations", "utf8mb4_from_mars"), "utf8mb4_from_mars").await, Kind::Unsupported);
    assert_eq!(refused(&bytes, &fact("storage_engines", "InnoDB,Mars"), "Mars").await, Kind::Unsupported);
    server.run(&["SET GLOBAL max_allowed_packet = 65536"]).await;
    assert_eq!(refused(&bytes, &report, "SET GLOBAL max_allowed_packet = ").await, Kind::Unsupported);
    server.run(&["SET GLOBAL max_allowed_packet = 67108864"]).await;
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), before);

    // A client in the way: told, and nothing dropped.
    let mut holder = server.conn().await;
    for sql in ["USE system", "BEGIN", "SELECT * FROM small"] {
        holder.query_drop(sql).await.unwrap();
    }
    let (key, (cx, _)) = (key(), context());
    engine.stage(&key, source(&bytes, Some(&report)), &cx).await.unwrap();
    let error = engine.commit(&key, &cx).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(told(&error).contains(&format!("connection {}", holder.id())), "{}", error.chain());
    assert_eq!(engine.staged(&key).await.unwrap(), Staged::Staged);
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), before);
    drop(holder);
    engine.commit(&key, &cx).await.unwrap();
    assert_eq!((server.checksums("system").await, server.schema_digest("system").await), before);
}

#[tokio::test]
async fn a_client_that_does_not_get_in_is_told_before_anything_is_dropped() {
    let server = filled(&[]).await;
    let (bytes, report) = dump(&server.engine()).await;
    let before = (server.checksums("system").await, server.schema_digest("system").await);
    for (name, script, words) in [
        (
            "lacks-a-plugin",
            "echo \"ERROR 2059 (HY000): Authentication plugin 'caching_sha2_password' cannot be loaded\" >&2; exit 1",
            "2059",
        ),
        ("says-nothing", "exit 0", "without the answer"),
    ] {
        let settings = {
            let versions = r#"case " $* " in *" --version "*|*" --help "*) exec mariadb "$@";; esac"#;
            let mut settings = server.settings();
            settings.mysql_program = Some(program(&server, name, &format!("{versions}\n{script}")));
            settings
        };
        let engine = settings.open(server.scratch().to_owned()).unwrap();
        let problems = engine.describe().await.unwrap().problems;
        assert!(problems.iter().any(|p| p.contains(words) && p.contains("--mysql-program")), "{problems:?}");
        let error = engine.stage(&key(), source(&bytes, Some(&report)), &context().0).await.unwrap_err();
        assert!(told(&error).contains(words), "{}", error.chain());
        assert_eq!((server.checksums("system").await, server.schema_digest("system").await), before);
    }
}

/// What must not be there: schemas of a load.
pub(super) async fn no_schema_is_left(server: &MysqlServer) {
    assert_eq!(server.value("SHOW DATABASES LIKE '%keepsake%'").await, None);
}

#[tokio::test]
async fn a_load_that_fails_tells_no_row_and_leaves_the_old_data() {
    let server = filled(&[]).await;
    let (bytes, report) = dump(&server.engine()).await;
    server.run(&["UPDATE system.small SET note = 'old'"]).await;
    let before = server.state().await;
    let refused = async |engine: &Arc<dyn Engine>, bytes: &[u8]| {
        let (key, (cx, _)) = (key(), context());
        let error = engine.stage(&key, source(bytes, Some(&report)), &cx).await.unwrap_err();
        assert_eq!(engine.staged(&key).await.unwrap(), Staged::Absent);
        no_schema_is_left(&server).await;
        assert_eq!(server.state().await, before);
        told(&error)
    };
    let text = String::from_utf8(bytes.clone()).unwrap();
    // MariaDB's client prints the whole statement that fails, and some messages quote it.
    for (bad, number) in [
        ("(1,'one','canary-row')", "error 1136"),
        ("(1,'one' 'canary-row' canary)", "error 1064"),
        ("(2,'canary-row')", "error 1"),
    ] {
        let broken = text.replace("(1,'one')", bad);
        let text = refused(&server.engine(), broken.as_bytes()).await;
        let line = broken.lines().position(|line| line.contains(bad)).unwrap();
        let at = text.split("at line ").nth(1).and_then(|t| t.split([':', ' ']).next()).unwrap_or_default().to_owned();
        // The client counts from where the statement begins.
        let near = at.parse::<usize>().is_ok_and(|at| (line..=line + 1).contains(&at));
        assert!(text.contains(number) && near, "line {line}: {text}");
    }
    // The client says yes, but part is missing: counting finds it.
    let half = client(&server, "half", r#"sed '/^INSERT INTO `small`/,/;$/d' | "$real" "$@""#);
    let text = refused(&half, &bytes).await;
    assert!(text.contains("rows:small: the dump 2, the staged copy 0"), "{text}");
    // The client ends without reading, and well.
    refused(&client(&server, "lazy", "exit 0"), &bytes).await;
    load(&server.engine(), source(&bytes, Some(&report))).await.unwrap();
    assert_ne!(server.state().await, before);
}

#[tokio::test]
async fn cancelling_leaves_no_child_and_no_file() {
    let server = filled(&[]).await;
    let (bytes, report) = dump(&server.engine()).await;
    let files = || {
        std::fs::read_dir(server.scratch())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let cancelled_at = async |cx: Context, pid: &Path, what: &str| {
        wait_for(what, Duration::from_secs(10), async || if is_alive(pid) { Ok(()) } else { Err("not started") }).await;
        cx.cancel.cancel();
    };
    let stuck = r#"echo $$ >"$0.pid"; sleep 1000 & wait"#;
    let (dumper, loader) = (dump_program(&server, "dumper", stuck), client(&server, "loader", stuck));

    let sink = MemorySink::default();
    let (cx, _) = context();
    let pid = server.scratch().join("dumper.pid");
    let (done, ()) = tokio::join!(dumper.dump(None, &sink, &cx), cancelled_at(cx.clone(), &pid, "the dump"));
    assert_eq!(done.unwrap_err().kind(), Kind::Cancelled);
    ends(pid).await;
    assert!(sink.finished().is_empty());

    let before = files();
    let (key, (cx, _)) = (key(), context());
    let pid = server.scratch().join("loader.pid");
    let staging = loader.stage(&key, source(&bytes, Some(&report)), &cx);
    let (done, ()) = tokio::join!(staging, cancelled_at(cx.clone(), &pid, "the load"));
    assert_eq!(done.unwrap_err().kind(), Kind::Cancelled);
    ends(pid.clone()).await;
    std::fs::remove_file(pid).unwrap();
    assert_eq!(files(), before);
    assert_eq!(loader.staged(&key).await.unwrap(), Staged::Partial);
    loader.rollback(&key, &context().0).await.unwrap();
    no_schema_is_left(&server).await;

    let (key, (cx, _)) = (super::key(), context());
    loader.stage(&key, Arc::new(InPlace(source(&bytes, Some(&report)))), &cx).await.unwrap();
    let pid = server.scratch().join("loader.pid");
    let (done, ()) = tokio::join!(loader.commit(&key, &cx), cancelled_at(cx.clone(), &pid, "the load in place"));
    assert_eq!(done.unwrap_err().kind(), Kind::Cancelled);
    ends(pid.clone()).await;
    std::fs::remove_file(pid).unwrap();
    // What stays is the word that this run has touched the data.
    let left = files();
    assert_eq!(left.difference(&before).collect::<Vec<_>>(), ["touched-by-runs"]);
    assert_eq!(loader.staged(&key).await.unwrap(), Staged::Staged);
    // Before it began.
    let (cx, _) = context();
    cx.cancel.cancel();
    assert_eq!(server.engine().stage(&key, source(&bytes, None), &cx).await.unwrap_err().kind(), Kind::Cancelled);
    load(&server.engine(), source(&bytes, Some(&report))).await.unwrap();
}
