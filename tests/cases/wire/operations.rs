//! One dump: its report, its failures, its end.

use std::time::Duration;

use keepsake_agent::operation::Limits;
use keepsake_core::Kind;
use keepsake_core::id::{Component, SetId};
use keepsake_core::repository::Budget;
use keepsake_core::repository::reader::ArtifactReader;
use keepsake_core::repository::seal::{SetKey, Unsealer};
use keepsake_proto::convert::{artifact_from_parts, unsealer_from_wire, unsealing_to_wire};
use keepsake_proto::v1::watch_response::Event;
use keepsake_proto::v1::{self, sealing::How};
use keepsake_tests::fake_engine::{Data, Step};
use keepsake_tests::lone_agent::{
    COMPONENT, INSTALLATION, LoneAgent, Told, describe, dump_request, failure, key, place, run, told, watch,
};
use keepsake_tests::poll::wait_for;

/// What is in the repository, read as the report says.
async fn stored(agent: &LoneAgent, set: SetId, told: Told, unsealer: Unsealer) -> Data {
    let Event::Dumped(done) = told.last else { panic!("it did not dump: {:?}", told.last) };
    let mut data = Data::new();
    for artifact in done.artifacts {
        let own = told.segments.iter().filter(|(name, _)| *name == artifact.artifact);
        let own = own.map(|(_, segment)| segment.clone()).collect();
        let record = artifact_from_parts(&place(set), artifact, own).expect("an artifact");
        let component: Component = COMPONENT.parse().expect("a name");
        let name = record.artifact.clone();
        let mut reader =
            ArtifactReader::new(agent.store.clone(), Budget::default(), unsealer.clone(), component, record);
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.read().await.expect("read what was stored") {
            bytes.extend_from_slice(&chunk);
        }
        data.insert(name, bytes);
    }
    data
}

#[tokio::test]
async fn describe_tells_what_it_is_and_what_it_does() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let request = v1::DescribeRequest { probe_repository: true, ready_to_hold: false };
    let told = client.describe(request).await.unwrap().into_inner();
    assert_eq!((told.installation.as_str(), told.component.as_str()), (INSTALLATION, COMPONENT));
    assert_eq!((told.engine.as_str(), told.server.as_str(), told.position.as_str()), ("fake", "Fake 1.0", "p1"));
    assert_eq!(told.tools, [v1::ToolVersion { tool: "fakedump".to_owned(), version: "1.0".to_owned() }]);
    assert_eq!(told.size_bytes, 2_500_006);
    assert_eq!(told.facts["colour"], "blue");
    assert_eq!(told.problems, ["a problem on purpose"]);
    assert!(!told.cannot_hold.is_empty() && !told.cannot_undo.is_empty() && told.now.is_some());
    assert_eq!(told.cannot_store, "");
    assert!(told.operations.is_empty());
    assert_eq!(told.epoch, 0);

    let gate = agent.engine.wait_at(Step::Dump);
    let run = run(7);
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    gate.reached().await;
    let told = describe(&mut client).await;
    assert_eq!(told.epoch, 7);
    let [operation] = told.operations.as_slice() else { panic!("{:?}", told.operations) };
    assert_eq!(operation.key, Some(key(&run, "dump")));
    let progress = operation.progress.clone().unwrap();
    assert!(progress.snapshot_open && progress.bytes == 1_250_000, "{progress:?}");
    gate.open();
}

#[tokio::test]
async fn describe_tells_what_is_wrong() {
    let agent = LoneAgent::start().await;
    agent.engine.fail_at(Step::Describe, Kind::Unavailable);
    let repository = agent.scratch.path().join("repository");
    std::fs::remove_dir(&repository).or_else(|_| std::fs::remove_dir_all(&repository)).unwrap();
    std::fs::write(&repository, "no folder").unwrap();
    let request = v1::DescribeRequest { probe_repository: true, ready_to_hold: false };
    let told = agent.client().describe(request).await.unwrap().into_inner();
    assert_eq!(told.problems, ["Describe fails on purpose"]);
    assert_ne!(told.cannot_store, "");
}

#[tokio::test]
async fn a_dump_is_stored_as_its_report_says() {
    let agent = LoneAgent::start().await;
    let (mut client, run, set) = (agent.client(), run(1), SetId::generate());
    assert!(!client.start_dump(dump_request(&run, "dump", set)).await.unwrap().into_inner().attached);
    let told = watch(&mut client, key(&run, "dump")).await;
    let Event::Dumped(v1::DumpDone { report: Some(report), artifacts }) = &told.last else { panic!("{told:?}") };
    assert_eq!(report.server, "Fake 1.0");
    assert_eq!(report.counts["bytes:dump.sql"], 2_500_000);
    assert_eq!(report.tools[0].end_marker, "done");
    assert!(artifacts.iter().all(|a| a.segments.is_empty()), "segments come in batches");
    assert_eq!(stored(&agent, set, told, Unsealer::none()).await, agent.engine.live());
}

#[tokio::test]
async fn a_sealed_dump_opens_with_the_sets_identity_only() {
    let agent = LoneAgent::start().await;
    let (mut client, run, set, secret) = (agent.client(), run(1), SetId::generate(), SetKey::generate());
    let mut request = dump_request(&run, "dump", set);
    request.sealing = Some(v1::Sealing { how: Some(How::AgeRecipient(secret.recipient().to_owned())) });
    client.start_dump(request).await.unwrap();
    let told = watch(&mut client, key(&run, "dump")).await;
    let unsealer = unsealer_from_wire(Some(unsealing_to_wire(Some(secret.identity())))).unwrap();
    assert_eq!(stored(&agent, set, told, unsealer).await, agent.engine.live());
    for (path, _) in agent.store.tree("").await.unwrap() {
        let bytes = agent.store.read(&path).await.unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"nobody"), "{path} is in the clear");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_understood_starts_nothing() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let good = || dump_request(&run(1), "dump", SetId::generate());
    let mut bad = Vec::new();
    let mut refuse = |what: &str, change: fn(&mut v1::StartDumpRequest)| {
        let mut request = good();
        change(&mut request);
        bad.push((what.to_owned(), request));
    };
    refuse("key", |r| r.key = None);
    refuse("key.epoch", |r| r.key.as_mut().unwrap().epoch = 0);
    refuse("key.run", |r| r.key.as_mut().unwrap().run = "x".to_owned());
    refuse("installation", |r| r.key.as_mut().unwrap().installation = "another".to_owned());
    refuse("zync", |r| r.component = "zync".to_owned());
    refuse("set", |r| r.set = "../x".to_owned());
    refuse("sealing", |r| r.sealing = None);
    refuse("sealing.how", |r| r.sealing = Some(v1::Sealing { how: None }));
    for (what, request) in bad {
        let (kind, text) = told(&client.start_dump(request).await.unwrap_err());
        assert!(kind == Kind::Invalid && text.contains(&what), "{what}: {kind} {text}");
    }
    assert_eq!(agent.engine.calls(Step::Dump), 0);
    assert_eq!(describe(&mut client).await.epoch, 0, "a refused request fences nobody");
}

#[tokio::test]
async fn cancel_ends_an_operation_as_cancelled() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    let _never_opened = agent.engine.wait_at(Step::Dump);
    let cancel = || v1::CancelRequest { key: Some(key(&run, "dump")) };
    assert!(!client.cancel(cancel()).await.unwrap().into_inner().running, "there was nothing to cancel");
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    assert!(client.cancel(cancel()).await.unwrap().into_inner().running);
    let (kind, text) = failure(&mut client, key(&run, "dump")).await;
    assert_eq!(kind, "cancelled", "{text}");
    assert_eq!(agent.engine.busy(), 0, "the engine still dumps");
    assert!(!client.cancel(cancel()).await.unwrap().into_inner().running, "it has ended");
}

#[tokio::test]
async fn an_engine_that_fails_fails_the_operation_with_its_kind() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    agent.engine.fail_at(Step::Dump, Kind::Unsupported);
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let (kind, text) = failure(&mut client, key(&run, "dump")).await;
    assert_eq!((kind.as_str(), text.as_str()), ("unsupported", "Dump fails on purpose"));
}

#[tokio::test]
async fn an_engine_that_panics_fails_the_operation_and_the_agent_still_serves() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    agent.engine.panic_at(Step::Dump);
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let (kind, text) = failure(&mut client, key(&run, "dump")).await;
    assert!(kind == "internal" && text.contains("panicked"), "{kind}: {text}");
    agent.engine.go_on_at(Step::Dump);
    client.start_dump(dump_request(&run, "again", SetId::generate())).await.unwrap();
    let last = watch(&mut client, key(&run, "again")).await.last;
    assert!(matches!(last, Event::Dumped(_)), "{last:?}");
}

#[tokio::test]
async fn an_operation_that_nobody_asks_about_cancels_itself_and_a_watched_one_does_not() {
    let limits = Limits { unheard: Duration::from_millis(300), ..Limits::default() };
    let (watched, left) = tokio::join!(LoneAgent::start_with(limits, None), LoneAgent::start_with(limits, None));
    let (gate, _never_opened) = (watched.engine.wait_at(Step::Dump), left.engine.wait_at(Step::Dump));
    let (mut one, mut two, run) = (watched.client(), left.client(), run(1));
    // The watched one is begun first: it would be cancelled first.
    one.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let mut watcher = one.clone();
    let watching = tokio::spawn({
        let key = key(&run, "dump");
        async move { watch(&mut watcher, key).await.last }
    });
    gate.reached().await;
    two.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    wait_for("the operation that nobody asks about to end", Duration::from_secs(20), async || {
        // Describe is not to ask about it.
        let running = describe(&mut two).await.operations;
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    assert_eq!(failure(&mut two, key(&run, "dump")).await.0, "cancelled");
    assert_eq!(left.engine.busy(), 0);
    assert_eq!(describe(&mut one).await.operations.len(), 1, "the watched one was cancelled too");
    gate.open();
    let last = watching.await.unwrap();
    assert!(matches!(last, Event::Dumped(_)), "{last:?}");
}

#[test]
fn it_is_ten_minutes_that_an_operation_may_go_unheard() {
    assert_eq!(Limits::default().unheard, Duration::from_mins(10));
}

#[tokio::test]
async fn an_agent_that_is_stopped_cancels_what_runs() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let gate = agent.engine.wait_at(Step::Dump);
    client.start_dump(dump_request(&run(1), "dump", SetId::generate())).await.unwrap();
    gate.reached().await;
    agent.running.stop().await.unwrap();
    assert_eq!(agent.engine.busy(), 0);
}
