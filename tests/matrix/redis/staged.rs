//! Loads undone on servers of other releases, by every way.

use keepsake_agent::engine::redis::RestartedBy;
use keepsake_core::id::{Epoch, RunId, RunKey};
use keepsake_tests::poll::wait_for;
use keepsake_tests::steps::context;

use super::*;

fn by(server: &RedisServer, method: LoadMethod) -> Arc<dyn Engine> {
    let settings = Settings {
        redis_url: server.url(),
        redis_password_file: Some(server.password_file().to_owned()),
        redis_data_dir: Some(server.data().to_owned()),
        redis_load_method: Some(method),
        redis_restarted_by: (method == LoadMethod::Restart).then_some(RestartedBy::Supervisor),
        ..Settings::default()
    };
    settings.open(server.scratch().to_owned()).unwrap()
}

/// Does it beside somebody who starts the server again when it has shut down.
async fn supervised<T>(server: &mut RedisServer, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let supervise = async {
        wait_for("the server to shut down", std::time::Duration::from_secs(120), async || {
            if server.runs() { Err("it runs") } else { Ok(()) }
        })
        .await;
        server.start_again().await;
    };
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = supervise => {}
    }
    work.await
}

async fn undone_by_every_way(name: &str) {
    let Some((root, _, finding)) = server(name, "load undone") else { return };
    let (from, from_engine) = start(&root, &[]).await;
    fill(&from).await;
    fill_with_novelties(&from).await;
    let made = dump(&from_engine).await;
    let (want, novel) = (from.digest().await, novelties(&from).await);
    for method in [LoadMethod::Replication, LoadMethod::Reload, LoadMethod::Restart] {
        for appendonly in ["yes", "no"] {
            let what = format!("{method:?}, appendonly {appendonly}");
            let (mut to, _) = start(&root, &["--appendonly", appendonly]).await;
            backend::fill(&to.client(), 7, Size::TINY).await.unwrap();
            fill_with_novelties(&to).await;
            to.ask::<()>(&["SET", "old", "1"]).await;
            let (before, functions) = (to.digest().await, novelties(&to).await);
            let key = RunKey { run: RunId::generate(), installation: "test".parse().unwrap(), epoch: Epoch(1) };
            let (engine, cx) = (by(&to, method), context());
            let staged = engine.stage(&key, Arc::new(made.clone()), &cx).await;
            staged.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            let done = supervised(&mut to, engine.commit(&key, &cx)).await;
            done.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            assert_eq!((to.digest().await, novelties(&to).await), (want.clone(), novel.clone()), "{what}");
            let done = supervised(&mut to, engine.rollback(&key, &cx)).await;
            done.unwrap_or_else(|e| panic!("{what}, back: {}", e.chain()));
            assert_eq!((to.digest().await, novelties(&to).await), (before.clone(), functions), "{what}, back");
            to.kill9();
            to.restart().await;
            assert_eq!(to.digest().await, before, "{what}, after a kill");
            let names = std::fs::read_dir(to.data()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = names.filter(|n| n.starts_with(".keepsake")).collect();
            assert_eq!(left, Vec::<String>::new(), "{what}");
        }
    }
    finding.works();
}

macro_rules! servers {
    ($($name:ident: $root:literal;)*) => {
        $(#[tokio::test]
        async fn $name() { undone_by_every_way($root).await; })*
    };
}

servers! {
    host: "host";
    redis_6: "bullseye-redis";
    redis_8: "sid-redis";
    valkey_8: "trixie-valkey";
    valkey_9: "sid-valkey";
}
