//! Each server in full: what its database is set to, encodings, TLS.

use keepsake_core::id::{Epoch, RunId, RunKey};
use keepsake_tests::certs::Authority;
use keepsake_tests::child::give_to_servers;
use keepsake_tests::scratch::Scratch;
use keepsake_tests::steps::context;

use super::*;

async fn settings_and_comment(name: &str) {
    let Some((root, _, finding)) = server(name, "settings and comment") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let all = async || {
        let sql = "SELECT setrole::regrole::text || ' ' || c FROM pg_db_role_setting, unnest(setconfig) c UNION ALL \
                   SELECT coalesce(shobj_description(oid, 'pg_database'), '-') FROM pg_database WHERE datname = current_database() ORDER BY 1";
        let rows = server.client(DATABASE).await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let statements = [
        "ALTER DATABASE zync_production SET search_path = \"$user\", public, \"odd, name\"",
        "ALTER DATABASE zync_production SET statement_timeout = '10min'",
        "ALTER DATABASE zync_production SET idle_in_transaction_session_timeout = '1ms'",
        "ALTER ROLE zync IN DATABASE zync_production SET work_mem = '5MB'",
        "COMMENT ON DATABASE zync_production IS 'It''s zync''s'",
    ];
    server.run_as("postgres", DATABASE, &statements.map(str::to_owned)).await;
    let (expected, rows) = (all().await, rows(&server).await);
    for user in ["postgres", ROLE] {
        let engine = engine(&server, &root, user);
        let full = dump(&engine).await;
        let wreck = ["ALTER DATABASE zync_production RESET ALL", "COMMENT ON DATABASE zync_production IS NULL"];
        server.run_as("postgres", DATABASE, &wreck.map(str::to_owned)).await;
        server.run_as(ROLE, DATABASE, &zync::wreck()).await;
        must_restore(&engine, &full).await;
        assert_eq!(all().await, expected, "as {user}");
        assert_eq!(server.digests(DATABASE).await, rows, "as {user}");
    }
    finding.works();
}

async fn other_encodings(name: &str) {
    let Some((root, _, finding)) = server(name, "other encodings") else { return };
    let server = start(&root).await;
    for how in ["ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"] {
        let client = server.client("postgres").await;
        client.batch_execute(&format!("DROP DATABASE {DATABASE}")).await.unwrap();
        client
            .batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE} TEMPLATE template0 {how}"))
            .await
            .unwrap();
        let fill = [
            "CREATE TABLE words (word text)",
            "INSERT INTO words VALUES (convert_from('\\xe9ff', getdatabaseencoding()))",
        ];
        server.run_as(ROLE, DATABASE, &fill.map(str::to_owned)).await;
        let (rows, schema) = (server.digests(DATABASE).await, server.schema(DATABASE));
        let engine = engine(&server, &root, ROLE);
        let full = dump(&engine).await;
        server.run_as(ROLE, DATABASE, &["DROP TABLE words".to_owned()]).await;
        must_restore(&engine, &full).await;
        assert_eq!((server.digests(DATABASE).await, server.schema(DATABASE)), (rows, schema), "{how}");
    }
    finding.works();
}

/// The role gets in by TLS only; a server of another certificate is refused.
async fn tls(name: &str) {
    let Some(root) = root(name) else { return begin("postgres", &format!("TLS on {name}"), "TLS").not_tried() };
    let finding = begin("postgres", &format!("TLS on {}", label(&root)), "TLS");
    let folder = Scratch::new();
    let file = |name: &str| folder.path().join(name);
    let made = Authority::new("ca").issue(&file("server"), "localhost");
    std::fs::copy(&made.ca, file("ca.pem")).unwrap();
    std::fs::copy(Authority::new("ca").issue(&file("other"), "localhost").ca, file("other.pem")).unwrap();
    let hba = format!("host all postgres 127.0.0.1/32 scram-sha-256\nhostssl all {ROLE} 127.0.0.1/32 scram-sha-256\n");
    std::fs::write(file("hba"), hba).unwrap();
    give_to_servers(&file("server"));
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", made.cert.display()),
        format!("ssl_key_file={}", made.key.display()),
        format!("hba_file={}", file("hba").display()),
    ];
    let server = PostgresServer::start_with(&root, &settings).await;
    server.create_owner_and_database(ROLE, DATABASE).await;
    server.run_as("postgres", "postgres", &[format!("ALTER ROLE {ROLE} CREATEDB")]).await;
    fill(&server, 1).await;
    let rows = rows(&server).await;
    let over_tls = |ca: Option<&str>| {
        let ca = ca.map(file);
        engine_with(&server, &root, ROLE, |s| {
            "localhost".clone_into(&mut s.postgres_host);
            s.postgres_ca_file = ca;
        })
    };
    let engine = over_tls(Some("ca.pem"));
    let full = dump(&engine).await;
    server.run_as(ROLE, DATABASE, &zync::wreck()).await;
    must_restore(&engine, &full).await;
    assert_eq!(server.digests(DATABASE).await, rows);
    for (ca, words) in [(Some("other.pem"), "certificate"), (None, "--postgres-ca-file")] {
        let why = over_tls(ca).describe().await.expect_err("a refusal").chain();
        assert!(why.contains(words), "{ca:?}: {why}");
    }
    finding.works();
}

/// A staged load is put in place, taken back, put in place again and ended.
async fn there_and_back(name: &str) {
    let Some((root, _, finding)) = server(name, "staged load there and back") else { return };
    let server = start(&root).await;
    fill(&server, 1).await;
    let full = rows(&server).await;
    let engine = engine(&server, &root, ROLE);
    let made = Arc::new(dump(&engine).await);
    server.run_as(ROLE, DATABASE, &zync::wreck()).await;
    let (old, cx) = (server.digests(DATABASE).await, context());
    let key = RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) };
    for finally in [false, true] {
        engine.stage(&key, made.clone(), &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        engine.commit(&key, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(server.digests(DATABASE).await, full);
        if finally {
            engine.finalize(&key, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        } else {
            engine.rollback(&key, &cx).await.unwrap_or_else(|e| panic!("{}", e.chain()));
            assert_eq!(server.digests(DATABASE).await, old);
        }
        assert_eq!(engine.describe().await.unwrap().loads, []);
    }
    assert_eq!(server.digests(DATABASE).await, full);
    finding.works();
}

macro_rules! trials {
    ($($name:ident: $root:literal,)*) => {
        $(mod $name {
            #[tokio::test]
            async fn settings_and_comment() { super::settings_and_comment($root).await; }
            #[tokio::test]
            async fn other_encodings() { super::other_encodings($root).await; }
            #[tokio::test]
            async fn tls() { super::tls($root).await; }
            #[tokio::test]
            async fn there_and_back() { super::there_and_back($root).await; }
        })*
    };
}

trials! {
    host: "host",
    of_bullseye: "bullseye-postgres",
    of_sid: "sid-postgres",
}
