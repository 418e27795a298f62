//! Sets of very many members, and very many sets.

use super::*;

#[tokio::test]
async fn config_sets_that_are_too_large_to_hold_are_compared_in_parts() {
    let server = RedisServer::start(&[]).await;
    let ids: Vec<String> = (0..5_300).map(|n| format!("app/{n:06}")).collect();
    let key = "service_id:7/applications";
    let entries: Vec<_> = ids.iter().map(|id| member(ConfigKind::Application, "7", key, id)).collect();
    write(&server, &entries).await;
    assert!(differences(&server, &entries).await.is_empty());
    let before = server.digest().await;
    for mutation in [&["SREM", key, "app/000000", "app/001000", "app/005299"][..], &["SADD", key, "gone", "app/5299"]] {
        server.ask::<redis::Value>(mutation).await;
    }
    let found = differences(&server, &entries).await;
    let mut told: Vec<_> =
        found.iter().map(|d| short(d).replace("application Different service_id:7/applications: ", "")).collect();
    told.sort();
    assert_eq!(told, ["add app/000000", "add app/001000", "add app/005299", "remove app/5299", "remove gone"]);
    let mut tally = Tally::default();
    for difference in &found {
        tally.take(difference);
    }
    assert_eq!(tally.total(), Wrongs { different: 1, ..Wrongs::default() });
    applied(&server, found, Counters::default()).await.unwrap();
    assert_eq!(server.digest().await, before);
    // All of it is gone, and all of it is surplus.
    server.ask::<()>(&["DEL", key]).await;
    let found = differences(&server, &entries).await;
    assert!(found.len() == 5_300 && found.iter().all(|d| d.wrong == Wrong::Missing));
    applied(&server, found, Counters::default()).await.unwrap();
    assert_eq!(server.digest().await, before);
    // Few are expected of what is a large set.
    let few = &entries[..3];
    let found = differences(&server, few).await;
    assert_eq!(found.len(), 5_297);
    applied(&server, found, Counters::default()).await.unwrap();
    assert_eq!(server.ask::<Vec<String>>(&["SORT", key, "ALPHA"]).await, &ids[..3]);
}

#[tokio::test]
async fn config_keys_that_are_surplus_by_the_thousand_are_all_found_and_nothing_else() {
    let server = RedisServer::start(&[]).await;
    let applications: Vec<String> = (0..2_000).map(|n| format!("{n:08x}")).collect();
    let all = service(7, &applications);
    let some = service(7, &applications[..1_000]);
    write(&server, &all).await;
    write_others(&server).await;
    let found = differences(&server, &some).await;
    applied(&server, found, Counters::default()).await.unwrap();
    assert!(differences(&server, &some).await.is_empty());
    let kept = server.digests(0, &[]).await;
    let other = RedisServer::start(&[]).await;
    write(&other, &some).await;
    write_others(&other).await;
    assert_eq!(kept, other.digests(0, &[]).await);
}

#[tokio::test]
async fn config_is_read_no_faster_than_it_may_be() {
    let server = RedisServer::start(&[]).await;
    let applications: Vec<String> = (0..200).map(|n| format!("{n:08x}")).collect();
    let entries = service(7, &applications);
    write(&server, &entries).await;
    let engine = engine(&server);
    let (mut given, mut told) = (Given::all(&entries, 100), Told::default());
    let began = std::time::Instant::now();
    let done = engine.config_target().unwrap().compare(&mut given, &mut told, 2_000, &context()).await.unwrap();
    // Read once and listed once; what is under way at the end is not waited for.
    let least = std::time::Duration::from_millis((done.keys - 300) / 2);
    assert!(began.elapsed() >= least && told.0.is_empty(), "{} keys in {:?}", done.keys, began.elapsed());
}
