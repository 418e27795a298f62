//! Without room: a clear error before anything is touched, and the old data is there.

use keepsake_tests::own_mounts::{fill as fill_up, make_room, may_mount, mount, unmount};
use keepsake_tests::threescale::Numbers;

use super::*;

/// A server with so many bytes that do not compress.
async fn server_with(bytes: usize, seed: u64) -> RedisServer {
    let server = RedisServer::start(&[]).await;
    let mut numbers = Numbers::new(seed);
    let mut connection = server.client().get_multiplexed_async_connection().await.unwrap();
    for n in 0..bytes / 100_000 {
        let mut set = redis::cmd("SET");
        set.arg(format!("big:{n}")).arg(numbers.bytes(100_000));
        set.query_async::<()>(&mut connection).await.unwrap();
    }
    server
}

#[tokio::test]
async fn redis_without_room_for_a_stage_or_a_safety_copy_keeps_its_data() {
    if !may_mount("redis::staged::room::redis_without_room_for_a_stage_or_a_safety_copy_keeps_its_data") {
        return;
    }
    let from = server_with(2 << 20, 1).await;
    let (report, rdb) = dump(&from).await;
    let new = from.digest().await;
    for folder in [true, false] {
        let mut to = server_with(4 << 20, 2).await;
        let before = to.digest().await;
        // The data folder, or the agent's own, is small.
        let small = if folder { to.data().to_owned() } else { to.scratch().join("small") };
        if folder {
            to.ask::<()>(&["SAVE"]).await;
            let saved = std::fs::read(small.join("dump.rdb")).unwrap();
            to.kill9();
            mount(&small, "40m");
            std::fs::write(small.join("dump.rdb"), saved).unwrap();
            keepsake_tests::child::give_to_servers(&small);
            to.restart().await;
        } else {
            mount(&small, "40m");
        }
        assert_eq!(to.digest().await, before);
        let open = || {
            let data = folder.then(|| small.clone());
            let scratch = if folder { to.scratch().to_owned() } else { small.clone() };
            Settings { redis_data_dir: data, ..settings(&to) }.open(scratch).unwrap()
        };
        let ours = || {
            let names = std::fs::read_dir(&small).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            names.filter(|n| n.starts_with(".keepsake") || n.starts_with("temp-")).collect::<Vec<_>>()
        };
        let set = || source(Some(report.clone()), rdb.clone());

        let key = run();
        fill_up(&small, 1 << 20);
        assert!(open().describe().await.unwrap().staging_free.unwrap() <= 1 << 20);
        let refused = open().stage(&key, set(), &context()).await.unwrap_err();
        assert!(refused.kind() == Kind::Busy && refused.chain().contains("make room before"), "{}", refused.chain());
        assert_eq!((to.digest().await, ours()), (before.clone(), vec![]));
        make_room(&small);

        // Room for the stage, and gone when what is live is to be saved: by the estimate, and in the middle of it.
        open().stage(&key, set(), &context()).await.unwrap();
        for leave in [1 << 20, 3 << 20] {
            fill_up(&small, leave);
            let refused = open().commit(&key, &context()).await.unwrap_err();
            assert!(refused.kind().retry() && refused.chain().contains("make room"), "{}", refused.chain());
            assert_eq!(to.digest().await, before, "{folder} {leave}");
            assert_eq!(open().staged(&key).await.unwrap(), Staged::Staged, "{folder} {leave}");
            let part = small.join(format!(".keepsake-{}/safety.rdb.part", key.run));
            assert!(!part.try_exists().unwrap(), "what was written of the safety copy takes room");
            make_room(&small);
        }
        open().commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(to.digest().await, new);
        if !folder {
            // Going back is not kept back by the few blocks that it writes down.
            fill_up(&small, 0);
        }
        open().rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        if !folder {
            make_room(&small);
        }
        assert_eq!((to.digest().await, ours()), (before, vec![]));
        to.kill9();
        unmount(&small);
    }
}
