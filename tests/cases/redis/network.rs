//! Without a shared folder, over TLS, as another user: what an agent that has only the network can do.

use keepsake_tests::certs::Authority;
use keepsake_tests::scratch::{Scratch, free_port};

use super::*;

fn over_network(server: &RedisServer) -> Settings {
    Settings { redis_data_dir: None, ..settings(server) }
}

async fn dump_with(settings: Settings, server: &RedisServer) -> keepsake_core::Result<(DumpReport, Vec<u8>)> {
    let sink = MemorySink::default();
    let report = settings.open(server.scratch().to_owned())?.dump(None, &sink, &context()).await?;
    Ok((report, sink.finished().pop_first().unwrap().1))
}

#[tokio::test]
async fn redis_dump_over_the_network_is_what_the_folder_would_give() {
    for diskless in ["yes", "no"] {
        // A delay that a dump must not wait for.
        let from = RedisServer::start(&["--repl-diskless-sync", diskless, "--repl-diskless-sync-delay", "600"]).await;
        fill(&from).await;
        let (by_folder, _) = dump(&from).await;
        let (report, rdb) = dump_with(over_network(&from), &from).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(report.counts, by_folder.counts);
        assert_eq!(report.tools[0].tool, "PSYNC");
        let to = RedisServer::start(&["--appendonly", "yes"]).await;
        let engine = over_network(&to).open(to.scratch().to_owned()).unwrap();
        let key = run();
        engine.stage(&key, source(Some(report), rdb), &context()).await.unwrap();
        engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(to.digest().await, from.digest().await);
        // It is a replica of ours no longer.
        let info: String = from.ask(&["INFO", "replication"]).await;
        assert!(info.contains("connected_slaves:0"), "{info}");
    }
}

#[tokio::test]
async fn redis_dump_over_the_network_under_write_load_is_whole_and_never_older_than_it_was_asked_for() {
    let server = RedisServer::start(&[]).await;
    fill(&server).await;
    let client = server.client();
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let mut n = 0_u64;
            while !stop.is_cancelled() {
                let write = redis::pipe().atomic().set("a", n).ignore().set("b", n).ignore().clone();
                write.query_async::<()>(&mut connection).await.unwrap();
                n += 1;
            }
        }
    });
    for _ in 0..5 {
        let asked: u64 = server.ask::<Option<u64>>(&["GET", "a"]).await.unwrap_or(0);
        let (report, rdb) = dump_with(over_network(&server), &server).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        let to = RedisServer::start(&[]).await;
        restore(&to, source(Some(report), rdb)).await.unwrap();
        let (a, b): (u64, u64) = (to.ask(&["GET", "a"]).await, to.ask(&["GET", "b"]).await);
        assert_eq!(a, b);
        assert!(a >= asked, "the dump has {a}, when it was asked for there was {asked}");
    }
    stop.cancel();
    writer.await.unwrap();
}

#[tokio::test]
async fn redis_dump_over_the_network_that_is_cut_is_no_dump() {
    let mut server = RedisServer::start(&["--rdb-key-save-delay", "5000"]).await;
    fill(&server).await;
    let engine = over_network(&server).open(server.scratch().to_owned()).unwrap();
    let (cx, mut progress) = Context::new(CancellationToken::new());
    let sink = MemorySink::default();
    let kill = async {
        progress.wait_for(|p| p.snapshot_open).await.unwrap();
        server.kill9();
    };
    let (done, ()) = tokio::join!(engine.dump(None, &sink, &cx), kill);
    let error = done.unwrap_err();
    assert!(error.kind().retry(), "{:?} {}", error.kind(), error.chain());
    assert!(sink.finished().is_empty());
}

#[tokio::test]
async fn redis_over_tls_is_dumped_and_loaded_and_a_stranger_is_refused() {
    let scratch = Scratch::new();
    let authority = Authority::new("redis");
    let files = authority.issue(&scratch.path().join("server"), "localhost");
    for path in [&files.ca, &files.cert, &files.key] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    let port = free_port().to_string();
    let text = |path: &Path| path.display().to_string();
    let (ca, cert, key) = (text(&files.ca), text(&files.cert), text(&files.key));
    let options = [
        "--tls-port",
        &port,
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "yes",
        "--tls-replication",
        "yes",
    ];
    let server = RedisServer::start(&options).await;
    fill(&server).await;
    let want = server.digest().await;
    let over_tls = Settings {
        redis_url: format!("rediss://localhost:{port}"),
        redis_ca: Some(files.ca.clone()),
        redis_cert: Some(files.cert.clone()),
        redis_key: Some(files.key.clone()),
        ..settings(&server)
    };
    for data_dir in [Some(server.data().to_owned()), None] {
        let over_tls = Settings { redis_data_dir: data_dir, ..over_tls.clone() };
        let (report, rdb) = dump_with(over_tls.clone(), &server).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        server.ask::<()>(&["FLUSHALL"]).await;
        let engine = over_tls.open(server.scratch().to_owned()).unwrap();
        let run = run();
        engine.stage(&run, source(Some(report), rdb), &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        engine.commit(&run, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(server.digest().await, want);
        // Put back after the load.
        assert_eq!(server.ask::<Vec<String>>(&["CONFIG", "GET", "tls-replication"]).await[1], "yes");
    }
    let stranger = Authority::new("stranger").issue(&scratch.path().join("stranger"), "localhost");
    let refused = Settings { redis_ca: Some(stranger.ca), ..over_tls.clone() }.open(PathBuf::new()).unwrap();
    let refused = refused.describe().await.unwrap_err();
    assert!(refused.chain().contains("ertificate"), "{}", refused.chain());
    let without = Settings { redis_cert: None, redis_key: None, ..over_tls };
    assert!(dump_with(without, &server).await.is_err(), "a client without a certificate was let in");
}

#[tokio::test]
async fn redis_acl_user_is_enough_and_one_without_rights_is_told_what_it_lacks() {
    let server = RedisServer::start(&["--masterauth", "canary-masterauth"]).await;
    fill(&server).await;
    let want = server.digest().await;
    let rules = [
        "+info",
        "+config|get",
        "+config|set",
        "+bgsave",
        "+bgrewriteaof",
        "+psync",
        "+replconf",
        "+replicaof",
        "+slaveof",
        "+command|info",
        "+exists",
        "+select",
        "+ping",
    ];
    let mut words = vec!["ACL", "SETUSER", "keepsake", "on", ">canary-acl-password", "~liveness-probe"];
    words.extend(rules);
    server.ask::<()>(&words).await;
    let file = server.scratch().join("acl-password");
    std::fs::write(&file, "canary-acl-password\n").unwrap();
    let user =
        Settings { redis_username: Some("keepsake".into()), redis_password_file: Some(file), ..settings(&server) };
    for data_dir in [Some(server.data().to_owned()), None] {
        let user = Settings { redis_data_dir: data_dir, ..user.clone() };
        let (report, rdb) = dump_with(user.clone(), &server).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        server.ask::<()>(&["FLUSHALL"]).await;
        let engine = user.open(server.scratch().to_owned()).unwrap();
        let run = run();
        engine.stage(&run, source(Some(report), rdb), &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        engine.commit(&run, &context()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(server.digest().await, want);
        assert_eq!(server.ask::<Vec<String>>(&["CONFIG", "GET", "masterauth"]).await[1], "canary-masterauth");
    }
    for (rule, word) in [("-bgsave", "bgsave"), ("-info", "INFO")] {
        server.ask::<()>(&["ACL", "SETUSER", "keepsake", rule]).await;
        let refused = dump_with(user.clone(), &server).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
        assert!(refused.chain().to_lowercase().contains(&word.to_lowercase()), "{}", refused.chain());
        assert!(!refused.chain().contains("canary"), "{}", refused.chain());
    }
}

#[tokio::test]
async fn redis_of_a_kind_that_is_not_served_is_refused() {
    let cluster = RedisServer::start(&["--cluster-enabled", "yes"]).await;
    for settings in [settings(&cluster), over_network(&cluster)] {
        let refused = dump_with(settings, &cluster).await.unwrap_err();
        assert!(refused.kind() == Kind::Unsupported && refused.chain().contains("cluster"), "{}", refused.chain());
    }
}
