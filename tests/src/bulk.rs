//! Much data, for benches: about so many megabytes, of which compression can take about half.

use crate::house::Installation;
use crate::servers::redis::RedisServer;

/// Tables that it is spread over, so that several tools have something to do.
const TABLES: u64 = 4;

/// Fills a store. `component` is one of [`crate::house::COMPONENTS`]; to be called once.
///
/// # Panics
/// When the store does not take it.
pub async fn fill(installation: &Installation, component: &str, megabytes: u64) {
    match component {
        "backend-redis" => redis(&installation.backend, megabytes).await,
        "system-redis" => redis(&installation.system_redis, megabytes).await,
        "system-mysql" => mysql(installation, megabytes).await,
        "zync-database" => {
            let rows = megabytes * 1000;
            let hashes = (0..32).map(|n| format!("md5((i * 32 + {n})::text)")).collect::<Vec<_>>().join(" || ");
            let sql =
                format!("CREATE TABLE bench AS SELECT i AS id, {hashes} AS t FROM generate_series(1, {rows}) AS i");
            installation.zync.run_as("zync", "zync_production", &[sql, "ANALYZE bench".to_owned()]).await;
        }
        _ => {
            let folder = installation.storage.join("bench");
            std::fs::create_dir(&folder).expect("make a folder");
            for n in 0..megabytes * 4 {
                let block: String = (0..4096_u64)
                    .map(|i| format!("{:016x}", (n * 4096 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                    .collect();
                std::fs::write(folder.join(format!("{n}")), block.repeat(4)).expect("write a file");
            }
        }
    }
}

async fn redis(server: &RedisServer, megabytes: u64) {
    let script = "for i = 1, ARGV[1] do local h = ''; for j = 1, 25 do h = h .. redis.sha1hex(i .. ':' .. j) end; \
                  redis.call('SET', 'bench:' .. ARGV[2] .. ':' .. i, h) end";
    for n in 0..megabytes {
        server.ask::<()>(&["EVAL", script, "0", "1000", &n.to_string()]).await;
    }
}

async fn mysql(installation: &Installation, megabytes: u64) {
    let row = ["SHA2(RAND(), 512)"; 8].join(", ");
    for table in 1..=TABLES {
        let create =
            format!("CREATE TABLE bench_{table} (id bigint PRIMARY KEY AUTO_INCREMENT, t text CHARACTER SET latin1)");
        let rows = megabytes * 1000 / TABLES;
        let insert = format!("INSERT INTO bench_{table} (t) SELECT CONCAT({row}) FROM system.seq_1_to_{rows}");
        installation.mysql.run(&["USE `system`", "SET SESSION unique_checks = 0", &create, &insert]).await;
    }
}
