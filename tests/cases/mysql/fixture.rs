//! The data of a realistic 3scale, when it is there.

use std::collections::BTreeMap;
use std::path::Path;

use keepsake_tests::servers::mysql::MysqlServer;

use super::*;

#[tokio::test]
async fn a_realistic_system_database_comes_back() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let script = fixtures.join("system.sql.zst");
    if !script.is_file() {
        eprintln!("SKIPPED: the fixtures are not there ({})", script.display());
        return;
    }
    let counts: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixtures.join("counts.json")).unwrap()).unwrap();
    let expected = |key: &str| -> BTreeMap<String, String> {
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        counts[key].as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v))).collect()
    };
    let rows = expected("system-mysql rows per table");
    let sums = expected("system-mysql CHECKSUM TABLE (MariaDB 10.11.19)");

    let server = MysqlServer::start().await;
    server.run(&["CREATE DATABASE system DEFAULT COLLATE utf8mb3_bin"]).await;
    server.run_script("system", &script);
    let schema = server.schema_digest("system").await;
    let engine = server.engine();
    let (bytes, report) = dump(&engine).await;
    for (table, expected) in &rows {
        assert_eq!(report.counts.get(&format!("rows:{table}")).map(u64::to_string).as_ref(), Some(expected), "{table}");
    }
    assert_eq!(["tables", "triggers", "routines"].map(|k| report.counts[k]), [91, 78, 1]);

    server
        .run(&[
            "DELETE FROM system.accounts WHERE id % 2 = 0",
            "DROP TABLE system.cinstances",
            "DROP PROCEDURE system.sp_invoices_friendly_id",
            "UPDATE system.annotations SET value = '?'",
            "CREATE TABLE system.surplus (id int)",
        ])
        .await;
    let loaded = load(&engine, source(&bytes, Some(&report))).await.unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(server.schema_digest("system").await, schema);
    let found = server.checksums("system").await;
    if server.value("SELECT VERSION()").await.unwrap().contains("MariaDB") {
        assert_eq!(found, sums);
    }
}
