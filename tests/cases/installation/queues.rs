//! The policy for queues through the real command line, real agents, real servers.

use keepsake_tests::house::{House, State};
use keepsake_tests::threescale::Size;

#[tokio::test]
async fn installation_is_restored_without_old_jobs() {
    let house = House::new(&["prod"], Size::TINY).await;
    let before = State::of(&house.installations[0]).await;
    house.must(&["backup"]);
    let servers = &house.installations[0];
    // Since the dump the old jobs ran, and others came.
    for (server, db, old, new) in [
        (&servers.backend, 1_u32, "resque:queue:priority", "resque:queue:stats"),
        (&servers.system_redis, 1, "queue:default", "queue:mailers"),
    ] {
        let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(db).ignore().del(old).ignore().rpush(new, "live").ignore();
        pipe.set("surplus", "data").ignore().query_async::<()>(&mut connection).await.unwrap();
    }
    let asked = ["--queues", "backend-redis=keep", "--queues", "system-redis=drop"];
    let plan = house.must(&[&["plan", "restore"][..], &asked].concat());
    for line in [
        "stage backend-redis (queues: keep)",
        "12 jobs (resque:queue:priority 12) of the set are left out; the live",
        "stage system-redis (queues: drop)",
        "(schedule 40, ",
    ] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
    let plan = house.must(&["plan", "restore"]);
    assert!(plan.contains("backend-redis: 12 jobs (resque:queue:priority 12) of the set will run again"), "{plan}");
    let refused = house.keepsake(&["plan", "restore", "--queues", "system-redis=flush"]);
    assert_eq!(refused.status.code(), Some(2));
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("`restore`, `keep` or `drop`"), "{refused}");

    let identity = house.path("identity-1");
    house.must(&[&["restore", "--yes", "prod", "--identity", &identity][..], &asked].concat());
    let now = State::of(servers).await;
    assert_eq!(
        now.differences(&before, "backend-redis")
            .iter()
            .map(|d| d.split(':').take(3).collect::<Vec<_>>().join(":"))
            .collect::<Vec<_>>(),
        ["1 resque:queue:priority", "1 resque:queue:stats"]
    );
    let mut gone = now.differences(&before, "system-redis");
    gone.retain(|d| {
        !d.starts_with("1 queue:") && !d.starts_with("1 queues: None") && !d.starts_with("1 schedule: None")
    });
    assert_eq!(gone, Vec::<String>::new());
    for queue in ["queue:default", "queue:mailers", "queues", "schedule"] {
        let mut connection = servers.system_redis.client().get_multiplexed_async_connection().await.unwrap();
        let (there,): (u64,) = redis::pipe()
            .cmd("SELECT")
            .arg(1)
            .ignore()
            .cmd("EXISTS")
            .arg(queue)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(there, 0, "{queue}");
    }
    for component in ["system-mysql", "zync-database", "system-storage"] {
        assert_eq!(now.differences(&before, component), Vec::<String>::new());
    }
}
