//! Queues left out and kept on servers of other releases, and jobs counted in the forms in which each writes its lists.

use keepsake_core::queues::{QueuePolicy, jobs};
use keepsake_tests::memory::WithQueues;

use super::*;
use keepsake_tests::steps::context;

/// Commands in database 1.
async fn in_one(server: &RedisServer, commands: &redis::Pipeline) -> Vec<redis::Value> {
    let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SELECT").arg(1).query_async::<()>(&mut connection).await.unwrap();
    commands.query_async(&mut connection).await.unwrap()
}

/// Queues by hand, over the names that these tests use.
async fn queues(server: &RedisServer) -> Vec<Vec<u8>> {
    let found = in_one(server, redis::pipe().cmd("KEYS").arg("*")).await;
    let mut keys: Vec<Vec<u8>> = redis::from_redis_value(found.into_iter().next().unwrap()).unwrap();
    keys.retain(|k| k.starts_with(b"resque:") || k.starts_with(b"queue:") || k == b"queues" || k == b"schedule");
    keys
}

/// Every queue is as long as the facts say.
async fn jobs_are_told(server: &RedisServer, facts: &keepsake_core::record::Facts) {
    let told = jobs(facts).unwrap();
    let mut total = 0;
    for (queue, jobs) in &told.queues {
        let length = if queue == "schedule" { "ZCARD" } else { "LLEN" };
        let found = in_one(server, redis::pipe().cmd(length).arg(queue)).await;
        assert_eq!(found, [redis::Value::Int(i64::try_from(*jobs).unwrap())], "{queue}");
        total += jobs;
    }
    assert_eq!(total, told.total);
    assert!(told.queues.len() >= 6 && total > 6_000, "{told}");
}

async fn load(engine: &Arc<dyn Engine>, source: &MemorySource, queues: QueuePolicy) {
    use keepsake_core::id::{Epoch, RunId, RunKey};
    let key = RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) };
    let source = Arc::new(WithQueues { source: Arc::new(source.clone()), queues });
    engine.stage(&key, source, &context()).await.unwrap_or_else(|e| panic!("{queues}: {}", e.chain()));
    engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{queues}: {}", e.chain()));
    engine.finalize(&key, &context()).await.unwrap();
}

async fn left_out_and_kept(from: &str, to: &str) {
    let (Some(from_root), Some(to_root)) = (root(from), root(to)) else {
        return begin("redis", &format!("{from} → {to}"), "queues").not_tried();
    };
    let finding = begin("redis", &format!("{} → {}", label(&from_root), label(&to_root)), "queues");
    let (server, engine) = start(&from_root, &[]).await;
    fill(&server).await;
    fill_with_novelties(&server).await;
    let mut many = redis::pipe();
    for n in 0..6_000 {
        many.rpush("queue:mailers", format!("{{\"class\":\"Job\",\"args\":[{n}]}}"));
    }
    in_one(&server, &many).await;
    let made = dump(&engine).await;
    jobs_are_told(&server, &made.recorded.as_ref().unwrap().facts).await;
    let novel = novelties(&server).await;
    // What must be there afterwards is made by the first server itself.
    in_one(&server, redis::pipe().del(queues(&server).await)).await;
    for policy in [QueuePolicy::Drop, QueuePolicy::Keep] {
        let mut live = redis::pipe();
        live.rpush("queue:live", &["1", "2"]).zadd("schedule", "live", 7).cmd("PEXPIREAT").arg("schedule").arg(LATER);
        if policy == QueuePolicy::Keep {
            in_one(&server, &live).await;
        }
        let want = contents(&server).await;
        let (mut other, other_engine) = start(&to_root, &["--appendonly", "yes"]).await;
        in_one(&other, live.set("surplus", "1")).await;
        load(&other_engine, &made, policy).await;
        assert_eq!(contents(&other).await, want, "{policy}");
        other.kill9();
        other.restart().await;
        assert_eq!(contents(&other).await, want, "{policy}, after a kill");
        if from == to {
            assert_eq!(novelties(&other).await, novel, "{policy}");
        }
    }
    finding.works();
}

const LATER: u64 = 2_082_758_400_000;

macro_rules! pairs {
    ($($name:ident: $from:literal => $to:literal;)*) => {
        $(#[tokio::test]
        async fn $name() { left_out_and_kept($from, $to).await; })*
    };
}

pairs! {
    host: "host" => "host";
    redis_6: "bullseye-redis" => "bullseye-redis";
    redis_8: "sid-redis" => "sid-redis";
    valkey_8: "trixie-valkey" => "trixie-valkey";
    valkey_9: "sid-valkey" => "sid-valkey";
    redis_6_to_8: "bullseye-redis" => "sid-redis";
    redis_7_to_valkey_9: "host" => "sid-valkey";
    valkey_8_to_9: "trixie-valkey" => "sid-valkey";
}
