//! A realistic System beside a realistic Backend, when they are there.

use std::path::{Path, PathBuf};

use keepsake_agent::engine::Context;
use keepsake_agent::engine::redis::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_core::config::{AlertLevels, Counters, Tally, Wrongs};
use keepsake_tests::child::tool_command;
use keepsake_tests::config_source::expected;
use keepsake_tests::config_target::{Given, Told};
use keepsake_tests::servers::mysql::MysqlServer;
use keepsake_tests::servers::redis::RedisServer;
use tokio_util::sync::CancellationToken;

fn fixtures() -> Option<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    if fixtures.join("system.sql.zst").is_file() {
        return Some(fixtures);
    }
    eprintln!("SKIPPED: the fixtures are not there ({})", fixtures.display());
    None
}

async fn compared(fixtures: &Path, server: &MysqlServer, name: &str, levels: AlertLevels) -> (Tally, u64) {
    let (entries, mut end) = expected(&server.engine(), levels).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(end.at_least, Counters { events: 1299, alerts: 900_024 });
    let folder = tempfile::tempdir().unwrap();
    let rdb = folder.path().join("dump.rdb");
    let mut zstd = tool_command("zstd");
    zstd.args(["-q", "-d", "-o"]).arg(&rdb).arg(fixtures.join(format!("{name}.rdb.zst")));
    assert!(zstd.status().unwrap().success());
    let redis = RedisServer::start_with_rdb(&[], Some(&rdb)).await;
    let settings = Settings {
        redis_url: redis.url(),
        redis_password_file: Some(redis.password_file().to_owned()),
        redis_data_dir: Some(redis.data().to_owned()),
        ..Settings::default()
    };
    let engine = settings.open(redis.scratch().to_owned()).unwrap();
    let mut given = Given::all(&entries, 97);
    std::mem::swap(given.end.as_mut().unwrap(), &mut end);
    let mut told = Told::default();
    let cx = Context::new(CancellationToken::new()).0;
    let compared = engine.config_target().unwrap().compare(&mut given, &mut told, 0, &cx).await.unwrap();
    let mut tally = Tally::default();
    told.0.iter().for_each(|difference| {
        tally.take(difference);
    });
    (tally, compared.keys)
}

#[tokio::test]
async fn a_realistic_backend_is_what_its_system_says() {
    let Some(fixtures) = fixtures() else { return };
    let server = MysqlServer::start().await;
    server.run(&["CREATE DATABASE system DEFAULT COLLATE utf8mb3_bin"]).await;
    server.run_script("system", &fixtures.join("system.sql.zst"));
    for levels in [AlertLevels::Expected, AlertLevels::LeftAlone] {
        let (tally, keys) = compared(&fixtures, &server, "backend-redis", levels).await;
        assert_eq!(tally.total(), Wrongs::default(), "{:#?}", tally.wrongs);
        let of_levels = if levels == AlertLevels::Expected { 0 } else { 47_845 - keys };
        assert_eq!(keys + of_levels, 47_845);
        assert!(of_levels < 41, "{of_levels}");
    }
    let (tally, _) = compared(&fixtures, &server, "backend-redis-stale", AlertLevels::Expected).await;
    assert_eq!(tally.total(), Wrongs { missing: 188, different: 38, surplus: 43 }, "{:#?}", tally.wrongs);
}
