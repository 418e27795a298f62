//! What a database has beside its tables and rows, and what databases there are.

use keepsake_agent::engine::CommitReport;

use super::*;

/// As [`restore`], with what the load tells.
async fn load(engine: &Arc<dyn Engine>, report: &DumpReport, archive: &[u8]) -> (Vec<String>, CommitReport) {
    let key = run();
    let from = source(report.clone(), archive.to_vec());
    let staged = engine.stage(&key, from, &context()).await.unwrap_or_else(|e| panic!("stage: {}", e.chain()));
    let committed = engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("commit: {}", e.chain()));
    engine.finalize(&key, &context()).await.unwrap();
    (staged.warnings, committed)
}

/// The one column of a query, as texts.
async fn texts(server: &PostgresServer, sql: &str) -> Vec<String> {
    server.client(DATABASE).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn run_all(server: &PostgresServer, statements: &[&str]) {
    let statements: Vec<String> = statements.iter().map(|s| (*s).to_owned()).collect();
    server.run_as("postgres", DATABASE, &statements).await;
}

const SETTINGS: &str =
    "SELECT setrole::regrole::text || ' ' || c FROM pg_db_role_setting, unnest(setconfig) c ORDER BY 1";
const COMMENT: &str =
    "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";

#[tokio::test]
async fn settings_and_comment_of_the_database_come_back_or_are_told() {
    let server = zync_server().await;
    let alter = "ALTER DATABASE zync_production";
    run_all(
        &server,
        &[
            &format!("{alter} SET work_mem = '5MB'"),
            &format!("{alter} SET search_path = \"$user\", public, \"odd, \"\"name\""),
            &format!("{alter} SET app.note = E'it''s \\\\ a, b'"),
            &format!("{alter} SET idle_in_transaction_session_timeout = '1ms'"),
            &format!("{alter} SET statement_timeout = '10min'"),
            "ALTER ROLE zync IN DATABASE zync_production SET lock_timeout = '7s'",
            "COMMENT ON DATABASE zync_production IS 'It''s zync''s'",
        ],
    )
    .await;
    let (settings, comment) = (texts(&server, SETTINGS).await, texts(&server, COMMENT).await);
    assert_eq!(settings.len(), 6, "{settings:?}");
    let wreck = [
        &format!("{alter} RESET ALL"),
        "ALTER ROLE zync IN DATABASE zync_production SET lock_timeout = '8s'",
        &format!("{alter} SET work_mem = '6MB'"),
        &format!("{alter} SET max_parallel_workers = 3"),
        "COMMENT ON DATABASE zync_production IS NULL",
    ];
    // The timeout ends no dump: pg_dump's snapshot is held by a session that does nothing meanwhile.
    for user in ["postgres", "zync"] {
        let engine = engine(&server, user);
        let (report, archive) = dump(&engine).await;
        run_all(&server, &wreck).await;
        assert_ne!(texts(&server, SETTINGS).await, settings);
        let (_, loaded) = load(&engine, &report, &archive).await;
        assert_eq!(texts(&server, COMMENT).await, comment, "as {user}");
        if user == "zync" {
            // The database is a new one. Who may set a parameter that no program has declared, nobody knows: since 15 only a superuser may.
            let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
            let (_, statement) = warning.split_once("run `").unwrap();
            run_all(&server, &[statement.split_once("` as a superuser").unwrap().0]).await;
        } else {
            assert_eq!(loaded.warnings, Vec::<String>::new());
        }
        assert_eq!(texts(&server, SETTINGS).await, settings, "as {user}");
    }
    // What only a superuser may set is told to whoever is none, and the load is whole all the same.
    run_all(&server, &[&format!("{alter} SET log_statement = 'ddl'")]).await;
    let owner = engine(&server, "zync");
    let (report, archive) = dump(&owner).await;
    run_all(&server, &[&format!("{alter} RESET log_statement")]).await;
    let (_, loaded) = load(&owner, &report, &archive).await;
    let [note, log] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert!(note.contains("SET \"app.note\""), "{note}");
    assert!(
        log.contains("run `ALTER DATABASE zync_production SET \"log_statement\" TO 'ddl'` as a superuser"),
        "{log}"
    );
    let expected: Vec<_> = settings.into_iter().filter(|s| !s.contains("app.note")).collect();
    assert_eq!(texts(&server, SETTINGS).await, expected);
}

#[tokio::test]
async fn comments_unlogged_tables_and_large_objects_come_back() {
    let server = zync_server().await;
    let statements = [
        "CREATE UNLOGGED TABLE fast (id integer PRIMARY KEY, note text)",
        "INSERT INTO fast SELECT n, repeat('x', n) FROM generate_series(1, 50) n",
        "COMMENT ON COLUMN fast.note IS 'of the column; it''s'",
        "COMMENT ON INDEX index_models_on_record IS 'of the index'",
        "COMMENT ON FUNCTION que_job_notify() IS E'of the\\nfunction'",
        "COMMENT ON TRIGGER que_job_notify ON que_jobs IS 'of the trigger'",
        "COMMENT ON CONSTRAINT queue_length ON que_jobs IS 'of the constraint'",
        "SELECT lo_from_bytea(4711, decode(repeat('00ff5c270a', 50000), 'hex'))",
        "SELECT lo_from_bytea(4712, '')",
        "COMMENT ON LARGE OBJECT 4711 IS 'of the large object'",
        "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
    ];
    server.run_as("zync", DATABASE, &statements.map(str::to_owned)).await;
    let large = "SELECT m.oid::text || ' ' || lomowner::regrole || ' ' || coalesce(lomacl::text, '') || ' ' || md5(lo_get(m.oid)) || ' ' || \
                 coalesce(obj_description(m.oid, 'pg_largeobject'), '') FROM pg_largeobject_metadata m ORDER BY 1";
    let kept = "SELECT relname || ' ' || relpersistence::text || ' ' || coalesce(obj_description(oid), '') FROM pg_class WHERE relkind = 'r' \
                AND relname IN ('fast', 'que_jobs', 'que_lockers') ORDER BY 1";
    let (objects, tables) = (texts(&server, large).await, texts(&server, kept).await);
    assert_eq!(tables, ["fast u ", "que_jobs p 5", "que_lockers u "]);
    assert!(objects.len() == 2 && objects[0].contains("of the large object"), "{objects:?}");
    let (mut rows, schema) = (server.digests(DATABASE).await, server.schema(DATABASE));
    rows.insert("public.que_lockers".to_owned(), "0 ".to_owned());
    for user in ["postgres", "zync"] {
        let engine = engine(&server, user);
        let (report, archive) = dump(&engine).await;
        assert_eq!([report.counts["rows:public.fast"], report.counts["large_objects"]], [50, 2]);
        run_all(
            &server,
            &[
                "COMMENT ON TABLE que_jobs IS '4'",
                "ALTER TABLE fast SET LOGGED",
                "SELECT lo_unlink(4711)",
                "SELECT lo_put(4712, 0, 'other')",
                "DELETE FROM fast",
            ],
        )
        .await;
        load(&engine, &report, &archive).await;
        assert_eq!(server.digests(DATABASE).await, rows, "as {user}");
        assert_eq!(server.schema(DATABASE), schema, "as {user}");
        assert_eq!(
            (texts(&server, large).await, texts(&server, kept).await),
            (objects.clone(), tables.clone()),
            "as {user}"
        );
    }
}

#[tokio::test]
async fn databases_of_other_encodings_and_locales() {
    let server = PostgresServer::start().await;
    owned(&server, "zync", "elsewhere").await;
    let make = async |how: &str| {
        let client = server.client("postgres").await;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE}")).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER zync TEMPLATE template0 {how}")).await.unwrap();
    };
    let mut made = Vec::new();
    for (how, value) in [
        ("ENCODING 'LATIN1' LOCALE 'C'", "chr(233) || chr(255)"),
        // Bytes of no encoding at all.
        ("ENCODING 'SQL_ASCII' LOCALE 'C'", "convert_from('\\xe9ff', 'SQL_ASCII')"),
        ("ENCODING 'EUC_JP' LOCALE 'C'", "convert_from('\\xe6bca2e5ad97', 'UTF8')"),
        ("ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LOCALE 'C.UTF-8'", "'ä🦀'"),
        ("ENCODING 'UTF8' LOCALE 'C.UTF-8'", "'ä🦀'"),
    ] {
        make(how).await;
        let fill = [
            "CREATE TABLE words (id integer PRIMARY KEY, word text)".to_owned(),
            format!("INSERT INTO words VALUES (1, {value})"),
        ];
        server.run_as("zync", DATABASE, &fill).await;
        let engine = engine(&server, "zync");
        assert_eq!(engine.describe().await.unwrap().problems, Vec::<String>::new(), "{how}");
        let (report, archive) = dump(&engine).await;
        made.push((how, report, archive, server.digests(DATABASE).await, server.schema(DATABASE), like(&server).await));
    }
    // The database is UTF8 and C.UTF-8 now. Beside it each is made as it was …
    for (how, report, archive, rows, schema, was) in &made {
        let engine = engine(&server, "zync");
        let (warnings, _) = load(&engine, report, archive).await;
        assert_eq!(warnings, Vec::<String>::new(), "{how}");
        assert_eq!((&server.digests(DATABASE).await, &server.schema(DATABASE)), (rows, schema), "{how}");
        assert_eq!(&like(&server).await, was, "{how}");
    }
    // … and in its place only what has its encoding can be loaded.
    let before = server.digests(DATABASE).await;
    for (how, report, archive, ..) in made {
        let (engine, key) = (engine(&server, "zync"), run());
        let staged = engine.stage(&key, in_place(source(report, archive)), &context()).await;
        if how.contains("icu") {
            let warnings = staged.unwrap_or_else(|e| panic!("{how}: {}", e.chain())).warnings;
            let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
            assert!(warning.contains("another locale") && warning.contains("de-u-co-phonebk"), "{warning}");
        } else if !how.contains("UTF8") {
            let refused = staged.unwrap_err();
            assert_eq!(refused.kind(), Kind::Unsupported, "{how}: {}", refused.chain());
            assert!(refused.chain().contains("create the database with the dump's encoding"), "{}", refused.chain());
        }
        engine.rollback(&key, &context()).await.unwrap();
        assert_eq!(server.digests(DATABASE).await, before);
    }
}

/// The bytes of the only word, and what the database is made like.
async fn like(server: &PostgresServer) -> Vec<String> {
    let mut all =
        texts(server, "SELECT encode(convert_to(word, getdatabaseencoding()), 'hex') || length(word) FROM words").await;
    let made = "SELECT concat_ws(' ', pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider, daticulocale, pg_get_userbyid(datdba)) \
                FROM pg_database WHERE datname = current_database()";
    all.extend(texts(server, made).await);
    all
}

#[tokio::test]
async fn an_archive_of_a_newer_tool_is_refused_before_anything_is_touched() {
    let server = zync_server().await;
    let engine = engine(&server, "zync");
    let (report, archive) = dump(&engine).await;
    let before = server.digests(DATABASE).await;
    // The format's version follows the magic word: major, minor, revision.
    let mut newer = archive.clone();
    assert_eq!(newer[5], 1);
    newer[6] = 99;
    let refused = restore(&engine, source(report.clone(), newer)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.chain());
    assert!(refused.chain().contains("newer"), "{}", refused.chain());
    assert_eq!(server.digests(DATABASE).await, before);
    restore(&engine, source(report, archive)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}

/// porta on PostgreSQL: its tenant triggers and procedures are in PL/pgSQL, its role may make no database.
#[tokio::test]
async fn a_system_database_comes_back_by_a_role_that_may_make_none() {
    let server = PostgresServer::start().await;
    server.create_owner_and_database("system", "system_enterprise").await;
    let rights: bool = server
        .client("postgres")
        .await
        .query_one("SELECT rolcreatedb OR rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = 'system'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!rights);
    let mut statements: Vec<String> = [
        "CREATE TABLE schema_migrations (version varchar NOT NULL PRIMARY KEY)",
        "INSERT INTO schema_migrations VALUES ('20260101000000')",
        "CREATE TABLE accounts (id bigserial PRIMARY KEY, org_name varchar(255) NOT NULL DEFAULT '', provider boolean DEFAULT false, \
         extra_fields text, paid_at timestamp(0), tenant_id bigint, created_at timestamp(0) NOT NULL DEFAULT '2020-02-02')",
        "CREATE TABLE cinstances (id bigserial PRIMARY KEY, plan_id bigint NOT NULL, user_key varchar(256), tenant_id bigint, \
         account_id bigint REFERENCES accounts ON DELETE CASCADE)",
        "CREATE UNIQUE INDEX index_cinstances_on_lower_key ON cinstances (lower(user_key)) WHERE user_key IS NOT NULL",
        "CREATE TABLE policies (id bigserial PRIMARY KEY, name varchar NOT NULL, schema bytea, tenant_id bigint)",
        "CREATE TABLE invoices (id bigserial PRIMARY KEY, friendly_id varchar NOT NULL DEFAULT 'fix', cost numeric(20, 4))",
        "CREATE FUNCTION tp_cinstances_tenant_id() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.tenant_id IS NULL THEN \
         SELECT tenant_id INTO NEW.tenant_id FROM accounts WHERE id = NEW.account_id; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER cinstances_tenant_id BEFORE INSERT OR UPDATE ON cinstances FOR EACH ROW EXECUTE FUNCTION tp_cinstances_tenant_id()",
        "CREATE PROCEDURE sp_invoices_friendly_id(invoice bigint) LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE invoices SET friendly_id = 'done' WHERE id = invoice; END $$",
        "CREATE VIEW live AS SELECT id, user_key FROM cinstances",
        "INSERT INTO accounts (org_name, tenant_id) SELECT 'Tenant ' || n, n FROM generate_series(1, 20) n",
        "INSERT INTO cinstances (plan_id, user_key, account_id) SELECT 1, md5(n::text), 1 + n % 20 FROM generate_series(1, 500) n",
        "INSERT INTO policies (name, schema) SELECT 'p' || n, decode(md5(n::text), 'hex') FROM generate_series(1, 9) n",
        "INSERT INTO invoices (cost) VALUES (12.3400), (0.0001)",
        "SELECT setval('cinstances_id_seq', 2100000)",
    ]
    .map(str::to_owned)
    .to_vec();
    // It may have que's tables too, when zync's database and this are one server's.
    statements.push("COMMENT ON TABLE cinstances IS 'applications'".to_owned());
    server.run_as("system", "system_enterprise", &statements).await;
    let (rows, schema) = (server.digests("system_enterprise").await, server.schema("system_enterprise"));
    let mut settings = settings(&server, "system");
    settings.postgres_database = "system_enterprise".to_owned();
    let engine = settings.open(server.scratch().to_owned()).unwrap();
    let described = engine.describe().await.unwrap();
    assert_eq!(described.problems, Vec::<String>::new());
    let why = described.undo.expect_err("a load that could be undone");
    assert!(why.contains("ALTER ROLE \"system\" CREATEDB"), "{why}");
    let (report, archive) = dump(&engine).await;
    assert_eq!(["rows:public.cinstances", "triggers", "functions", "views"].map(|k| report.counts[k]), [500, 1, 2, 1]);
    let wreck = [
        "DROP TABLE invoices",
        "DROP FUNCTION tp_cinstances_tenant_id() CASCADE",
        "UPDATE cinstances SET user_key = NULL",
    ];
    server.run_as("system", "system_enterprise", &wreck.map(str::to_owned)).await;
    assert_ne!(server.digests("system_enterprise").await, rows);
    let refused = restore(&engine, source(report.clone(), archive.clone())).await.expect_err("a database beside it");
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.chain().contains("CREATEDB") && refused.chain().contains("in place"), "{}", refused.chain());
    restore(&engine, in_place(source(report, archive))).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(server.digests("system_enterprise").await, rows);
    assert_eq!(server.schema("system_enterprise"), schema);
}
