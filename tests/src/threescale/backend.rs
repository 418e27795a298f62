//! backend-redis: Config, usages and queues under apisonator's keys.

use super::{Numbers, Size, application_id};

/// A key's name as Backend writes it: every space is a plus.
fn encode(key: &str) -> String {
    key.replace(' ', "+")
}

/// Fills database 0 with Config and usages and database 1 with queues.
///
/// # Errors
/// The server refuses a command.
pub async fn fill(client: &redis::Client, seed: u64, size: Size) -> redis::RedisResult<()> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut numbers = Numbers::new(seed ^ 0xbac);
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(0).ignore();
    let token = numbers.key();
    let provider_key = numbers.key();
    for (key, value) in [
        ("service/id:2/provider_key".to_owned(), provider_key.clone()),
        ("service/id:2/backend_version".to_owned(), "1".to_owned()),
        ("service/id:2/referrer_filters_required".to_owned(), "1".to_owned()),
        (format!("service/provider_key:{provider_key}/id"), "2".to_owned()),
        ("metric/service_id:2/id:1/name".to_owned(), "hits".to_owned()),
        ("metric/service_id:2/name:hits/id".to_owned(), "1".to_owned()),
        ("usage_limit/service_id:2/plan_id:1/metric_id:1/day".to_owned(), "9223372036854775807".to_owned()),
        ("events/id".to_owned(), "17".to_owned()),
        ("alerts/current_id".to_owned(), "4".to_owned()),
        ("liveness-probe".to_owned(), "now".to_owned()),
    ] {
        pipe.set(key, value).ignore();
    }
    pipe.sadd(format!("service/provider_key:{provider_key}/ids"), "2").ignore();
    pipe.sadd("services_set", "2").ignore();
    pipe.sadd("provider_keys_set", &provider_key).ignore();
    pipe.sadd("metrics/service_id:2/ids", &["1", "2"]).ignore();
    pipe.hset(format!("service_token/token:{token}/service_id:2"), "permissions", "").ignore();
    pipe.sadd("alerts/service_id:2/allowed_set", &["50", "100"]).ignore();
    pipe.zadd("events/queue", "{\"id\":17}", 17).ignore();
    pipe.rpush("errors/service_id:2", "{\"code\":\"metric_invalid\"}").ignore();
    pipe.set("alerts/service_id:2/app_id:x/50/already_notified", "1").ignore();
    // Far away, so that nothing expires while a test compares.
    pipe.cmd("EXPIREAT").arg("alerts/service_id:2/app_id:x/50/already_notified").arg(2_082_758_400).ignore();
    for n in 1..=size.applications {
        let id = application_id(n);
        let base = encode(&format!("application/service_id:2/id:{id}"));
        pipe.sadd("service_id:2/applications", &id).ignore();
        pipe.set(format!("{base}/state"), ["active", "active", "active", "suspended", "pending"][(n % 5) as usize])
            .ignore();
        pipe.set(format!("{base}/plan_id"), "1").ignore();
        pipe.set(format!("{base}/plan_name"), "Basic").ignore();
        if n % 3 == 0 {
            pipe.sadd(format!("{base}/keys"), numbers.key()).ignore();
        }
    }
    pipe.query_async::<()>(&mut connection).await?;
    usages(&mut connection, &mut numbers, size).await?;

    let mut queues = redis::pipe();
    queues.cmd("SELECT").arg(1).ignore();
    queues.sadd("resque:queues", &["priority", "main"]).ignore();
    for n in 0..12 {
        queues.rpush("resque:queue:priority", format!("{{\"class\":\"ReportJob\",\"args\":[{n}]}}")).ignore();
    }
    queues.cmd("SELECT").arg(0).ignore();
    queues.query_async(&mut connection).await
}

async fn usages(
    connection: &mut redis::aio::MultiplexedConnection,
    numbers: &mut Numbers,
    size: Size,
) -> redis::RedisResult<()> {
    let counters: Vec<u32> = (0..size.counters).collect();
    for batch in counters.chunks(2_000) {
        let mut pipe = redis::pipe();
        for n in batch {
            let day = 20_260_101 + n % 28;
            let app = application_id(n / 28 % size.applications.max(1) + 1);
            let key = encode(&format!("stats/{{service:2}}/cinstance:{app}/metric:1/day:{day}/{n}"));
            pipe.set(key, numbers.draw() % 100_000).ignore();
        }
        pipe.query_async::<()>(connection).await?;
    }
    Ok(())
}

/// Destroys and changes what is there.
///
/// # Errors
/// The server refuses a command.
pub async fn wreck(client: &redis::Client) -> redis::RedisResult<()> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::pipe()
        .cmd("FLUSHDB")
        .ignore()
        .set("left_by_an_attacker", "1")
        .ignore()
        .cmd("SELECT")
        .arg(1)
        .ignore()
        .del("resque:queue:priority")
        .ignore()
        .cmd("SELECT")
        .arg(5)
        .ignore()
        .set("also", "here")
        .ignore()
        .cmd("SELECT")
        .arg(0)
        .ignore()
        .query_async(&mut connection)
        .await
}
