//! Watching over a line that is held and cut.

use keepsake_core::Kind;
use keepsake_core::id::SetId;
use keepsake_proto::v1::{self, watch_response::Event};
use keepsake_tests::fake_engine::Step;
use keepsake_tests::lone_agent::{LoneAgent, client_at, dump_request, key, run, told, watch};
use keepsake_tests::proxy::Proxy;

#[tokio::test]
async fn a_watch_that_was_cut_goes_on_to_the_report() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let (mut client, run) = (client_at(proxy.address), run(1));
    let gate = agent.engine.wait_at(Step::Dump);
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let request = || v1::WatchRequest { key: Some(key(&run, "dump")) };
    let mut stream = client.watch(request()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Progress(_))), "{first:?}");
    gate.reached().await;

    proxy.cut();
    let status = loop {
        match stream.message().await {
            Ok(Some(message)) => assert!(matches!(message.event, Some(Event::Progress(_))), "{message:?}"),
            Ok(None) => panic!("a line that was cut looks like an end"),
            Err(status) => break status,
        }
    };
    let (kind, text) = told(&status);
    assert!(kind.retry(), "{kind}: {text}");
    proxy.close(true);
    assert!(client.watch(request()).await.is_err(), "nobody answers");
    proxy.close(false);

    // The same client, which connects anew.
    gate.open();
    let last = watch(&mut client, key(&run, "dump")).await.last;
    assert!(matches!(last, Event::Dumped(_)), "{last:?}");
    assert_eq!(agent.engine.calls(Step::Dump), 1);
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_attached_to() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let (mut client, run, set) = (client_at(proxy.address), run(1), SetId::generate());
    client.describe(v1::DescribeRequest::default()).await.unwrap();
    let gate = agent.engine.wait_at(Step::Dump);
    proxy.cut_after(1);
    let lost = client.start_dump(dump_request(&run, "dump", set)).await;
    let (kind, text) = told(&lost.expect_err("the answer was lost"));
    assert!(kind.retry(), "{kind}: {text}");
    let again = client.start_dump(dump_request(&run, "dump", set)).await.unwrap().into_inner();
    gate.open();
    watch(&mut client, key(&run, "dump")).await;
    assert_eq!(agent.engine.calls(Step::Dump), 1, "attached: {}", again.attached);
}

#[tokio::test]
async fn a_line_that_is_held_delays_and_loses_nothing() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let (mut client, run) = (client_at(proxy.address), run(1));
    let gate = agent.engine.wait_at(Step::Dump);
    client.start_dump(dump_request(&run, "dump", SetId::generate())).await.unwrap();
    let watching = tokio::spawn({
        let (mut client, key) = (client.clone(), key(&run, "dump"));
        async move { watch(&mut client, key).await.last }
    });
    gate.reached().await;
    proxy.hold(true);
    gate.open();
    // It ends while nothing can be told.
    let direct = watch(&mut agent.client(), key(&run, "dump")).await.last;
    assert!(!watching.is_finished());
    proxy.hold(false);
    assert_eq!(watching.await.unwrap(), direct);
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_may_be_made_again() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let mut client = client_at(proxy.address);
    client.describe(v1::DescribeRequest::default()).await.unwrap();
    proxy.hold(true);
    let mut request = tonic::Request::new(v1::DescribeRequest::default());
    request.set_timeout(std::time::Duration::from_millis(100));
    let (kind, text) = told(&client.describe(request).await.unwrap_err());
    assert_eq!(kind, Kind::Timeout, "{text}");
}

#[tokio::test]
async fn an_operation_that_is_not_known_is_told_so() {
    let agent = LoneAgent::start().await;
    let request = v1::WatchRequest { key: Some(key(&run(1), "dump")) };
    let (kind, text) = told(&agent.client().watch(request).await.unwrap_err());
    assert!(kind == Kind::NotFound && text.contains("restarted"), "{kind}: {text}");
}

#[tokio::test]
async fn the_segments_told_add_up_to_what_was_dumped() {
    use keepsake_core::id::ArtifactName;
    let agent = LoneAgent::start().await;
    let (mut client, run, set) = (agent.client(), run(1), SetId::generate());
    client.start_dump(dump_request(&run, "dump", set)).await.unwrap();
    let told = watch(&mut client, key(&run, "dump")).await;
    let Event::Dumped(done) = told.last else { panic!("{:?}", told.last) };
    for artifact in done.artifacts {
        let name: ArtifactName = artifact.artifact.parse().unwrap();
        let lengths = told.segments.iter().filter(|(n, _)| *n == artifact.artifact).map(|(_, s)| s.length);
        assert_eq!(lengths.sum::<u64>(), artifact.length);
        assert_eq!(artifact.length, agent.engine.live()[&name].len() as u64);
    }
    assert!(told.progress.iter().all(|p| p.bytes <= 2_500_006), "{:?}", told.progress);
}
