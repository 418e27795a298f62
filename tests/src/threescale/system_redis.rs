//! system-redis: sidekiq's queues and porta's locks in database 1, and every type and encoding that Redis has.

use super::{Numbers, Size};

/// Fills database 1.
///
/// # Errors
/// The server refuses a command.
pub async fn fill(client: &redis::Client, seed: u64, size: Size) -> redis::RedisResult<()> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut numbers = Numbers::new(seed ^ 0x515);
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(1).ignore();
    pipe.sadd("queues", &["default", "low", "critical", "zync"]).ignore();
    for n in 0..size.applications {
        let job = format!("{{\"class\":\"BackendMetricWorker\",\"jid\":\"{}\",\"args\":[{n}]}}", numbers.key());
        pipe.lpush(format!("queue:{}", ["default", "low", "critical", "zync"][(n % 4) as usize]), job).ignore();
    }
    for n in 0..40 {
        pipe.zadd("schedule", format!("{{\"jid\":\"{}\"}}", numbers.key()), 2_082_758_400 + n).ignore();
    }
    pipe.incr("stat:processed", 123_456).ignore();
    pipe.hset("cron_job:purge", "cron", "0 5 * * *").ignore();
    pipe.set("webhooks:failures:provider-2", "3").ignore();
    pipe.cmd("EXPIREAT").arg("webhooks:failures:provider-2").arg(2_082_758_400).ignore();
    // One of each type and encoding.
    pipe.sadd("odd:intset", &[1, 2, 3, i64::MAX]).ignore();
    pipe.zadd_multiple("odd:zset", &[(f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf"), (0.1, "0.1")]).ignore();
    pipe.set("odd:big", numbers.bytes(300_000)).ignore();
    pipe.set(&b"odd:\0\xff\r\n"[..], &b"\0\xff"[..]).ignore();
    pipe.cmd("XADD").arg("odd:stream").arg("1-1").arg("field").arg("value").ignore();
    pipe.cmd("XGROUP").arg("CREATE").arg("odd:stream").arg("group").arg("0").ignore();
    for n in 0..1_000 {
        pipe.hset("odd:hash", n, numbers.key()).ignore();
    }
    pipe.cmd("SELECT").arg(0).ignore();
    pipe.query_async(&mut connection).await
}

/// Destroys what is there.
///
/// # Errors
/// The server refuses a command.
pub async fn wreck(client: &redis::Client) -> redis::RedisResult<()> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHALL").query_async(&mut connection).await
}
