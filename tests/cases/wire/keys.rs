//! Starting twice, conflicts, fences: what the key of an operation is for.

use keepsake_core::Kind;
use keepsake_core::id::SetId;
use keepsake_proto::v1::{self, watch_response::Event};
use keepsake_tests::fake_engine::Step;
use keepsake_tests::lone_agent::{LoneAgent, describe, dump_request, failure, key, run, told, watch};
use keepsake_tests::poll::wait_for;
use std::time::Duration;

#[tokio::test]
async fn starting_the_same_step_twice_attaches() {
    let agent = LoneAgent::start().await;
    let (mut client, run, set) = (agent.client(), run(1), SetId::generate());
    let gate = agent.engine.wait_at(Step::Dump);
    let mut attached = Vec::new();
    for _ in 0..2 {
        attached.push(client.start_dump(dump_request(&run, "dump", set)).await.unwrap().into_inner().attached);
    }
    gate.open();
    let first = watch(&mut client, key(&run, "dump")).await;
    // When it is done, too.
    attached.push(client.start_dump(dump_request(&run, "dump", set)).await.unwrap().into_inner().attached);
    assert_eq!(attached, [false, true, true]);
    let second = watch(&mut client, key(&run, "dump")).await;
    assert_eq!((first.last, first.segments), (second.last, second.segments), "it is one operation");
    assert_eq!(agent.engine.calls(Step::Dump), 1);
}

#[tokio::test]
async fn many_at_once_are_one_dump() {
    let agent = LoneAgent::start().await;
    let (run, set) = (run(1), SetId::generate());
    let starts = (0..16).map(|_| {
        let mut client = agent.client();
        let request = dump_request(&run, "dump", set);
        async move { client.start_dump(request).await.map(|r| r.into_inner().attached) }
    });
    let all = futures_util::future::join_all(starts).await;
    let new = all.iter().filter(|r| !*r.as_ref().expect("attached or begun")).count();
    assert_eq!(new, 1, "{all:?}");
    watch(&mut agent.client(), key(&run, "dump")).await;
    assert_eq!(agent.engine.calls(Step::Dump), 1);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_a_conflict() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let another = SetId::generate();
    let (kind, text) = told(&client.start_dump(dump_request(&run, "dump", another)).await.unwrap_err());
    assert!(kind == Kind::Conflict && text.contains(&another.to_string()), "{kind}: {text}");
    let commit = v1::CommitRequest { key: Some(key(&run, "dump")) };
    assert_eq!(told(&client.commit(commit).await.unwrap_err()).0, Kind::Conflict);
    assert_eq!(agent.engine.calls(Step::Commit), 0);
}

#[tokio::test]
async fn a_lower_run_is_fenced_and_hears_by_which() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let (old, new) = (run(4711), run(4712));
    client.start_dump(dump_request(&new, "dump", SetId::generate())).await.unwrap();
    watch(&mut client, key(&new, "dump")).await;
    let (kind, text) = told(&client.start_dump(dump_request(&old, "dump", SetId::generate())).await.unwrap_err());
    assert!(kind == Kind::Conflict && text.contains("4712"), "{kind}: {text}");
    let commit = v1::CommitRequest { key: Some(key(&old, "commit")) };
    assert_eq!(told(&client.commit(commit).await.unwrap_err()).0, Kind::Conflict);
    let (kind, text) = told(&client.start_dump(dump_request(&run(4712), "dump", SetId::generate())).await.unwrap_err());
    assert!(kind == Kind::Conflict && text.contains("4712"), "another run of the same number: {kind}: {text}");
    assert_eq!(agent.engine.calls(Step::Dump), 1);
    assert_eq!(describe(&mut client).await.epoch, 4712);
}

#[tokio::test]
async fn a_higher_run_cancels_what_a_lower_one_has_going() {
    let agent = LoneAgent::start().await;
    let (mut client, old, new) = (agent.client(), run(1), run(2));
    let gate = agent.engine.wait_at(Step::Dump);
    client.start_dump(dump_request(&old, "dump", SetId::generate())).await.unwrap();
    gate.reached().await;
    agent.engine.go_on_at(Step::Dump);
    client.start_dump(dump_request(&new, "dump", SetId::generate())).await.unwrap();
    assert_eq!(failure(&mut client, key(&old, "dump")).await.0, "cancelled");
    let last = watch(&mut client, key(&new, "dump")).await.last;
    assert!(matches!(last, Event::Dumped(_)), "{last:?}");
}

#[tokio::test]
async fn a_run_that_is_fenced_while_it_waits_starts_nothing() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let (one, two, three) = (run(1), run(2), run(3));
    // A rollback is not dropped when it is cancelled, so the others have to wait for it.
    let gate = agent.engine.wait_at(Step::Rollback);
    client.rollback(v1::RollbackRequest { key: Some(key(&one, "rollback")) }).await.unwrap();
    gate.reached().await;
    let start = |run: &keepsake_core::id::RunKey| {
        let (mut client, request) = (agent.client(), dump_request(run, "dump", SetId::generate()));
        tokio::spawn(async move { client.start_dump(request).await })
    };
    let mut seen = client.clone();
    let mut until_seen = async |epoch| {
        wait_for("the run to be seen", Duration::from_secs(20), async || {
            let now = describe(&mut seen).await.epoch;
            if now == epoch { Ok(()) } else { Err(format!("epoch {now}")) }
        })
        .await;
    };
    let second = start(&two);
    until_seen(2).await;
    let third = start(&three);
    until_seen(3).await;
    gate.open();
    let (kind, text) = told(&second.await.unwrap().expect_err("the fenced run has begun to dump"));
    assert!(kind == Kind::Conflict && text.contains("run 3"), "{kind}: {text}");
    assert!(!third.await.unwrap().unwrap().into_inner().attached);
    watch(&mut client, key(&three, "dump")).await;
    assert_eq!(agent.engine.calls(Step::Dump), 1);
}

#[tokio::test]
async fn a_second_operation_is_busy_and_hears_with_what() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    let gate = agent.engine.wait_at(Step::Dump);
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let rollback = || v1::RollbackRequest { key: Some(key(&run, "rollback")) };
    let (kind, text) = told(&client.rollback(rollback()).await.unwrap_err());
    assert!(kind == Kind::Busy && text.contains("dump into set"), "{kind}: {text}");
    let (kind, _) = told(&client.start_dump(dump_request(&run, "other", SetId::generate())).await.unwrap_err());
    assert_eq!(kind, Kind::Busy);
    let (kind, _) = told(&client.dump(v1::DumpRequest::default()).await.unwrap_err());
    assert_eq!(kind, Kind::Busy);
    gate.open();
    watch(&mut client, key(&run, "dump")).await;
    client.rollback(rollback()).await.expect("free again once the end was told");
}
