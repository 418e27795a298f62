//! Stage, commit, rollback, finalize, from a set in the repository.

use keepsake_core::Kind;
use keepsake_core::id::{RunKey, SetId};
use keepsake_proto::v1::{self, watch_response::Event};
use keepsake_tests::fake_engine::{Data, Step};
use keepsake_tests::lone_agent::{COMPONENT, LoneAgent, dump_request, failure, key, run, told, watch};
use tonic::transport::Channel;

/// Spoils a request.
type Change = fn(&mut v1::StartLoadRequest);
type Client = v1::agent_client::AgentClient<Channel>;

/// Dumps, and gives the request that loads it again.
pub(super) async fn dumped(client: &mut Client, dump: &RunKey, load: &RunKey) -> v1::StartLoadRequest {
    let set = SetId::generate();
    client.start_dump(dump_request(dump, "dump", set)).await.unwrap();
    let told = watch(client, key(dump, "dump")).await;
    let Event::Dumped(mut done) = told.last else { panic!("{:?}", told.last) };
    for artifact in &mut done.artifacts {
        let own = told.segments.iter().filter(|(name, _)| *name == artifact.artifact);
        artifact.segments = own.map(|(_, s)| s.clone()).collect();
    }
    v1::StartLoadRequest {
        key: Some(key(load, "stage")),
        component: COMPONENT.to_owned(),
        set: set.to_string(),
        unsealing: Some(v1::Unsealing { how: Some(v1::unsealing::How::None(v1::Unsealed {})) }),
        report: done.report,
        artifacts: done.artifacts,
        queues: 0,
        in_place: false,
    }
}

async fn commit(client: &mut Client, run: &RunKey) {
    client.commit(v1::CommitRequest { key: Some(key(run, "commit")) }).await.unwrap();
}

async fn rollback(client: &mut Client, run: &RunKey) {
    client.rollback(v1::RollbackRequest { key: Some(key(run, "rollback")) }).await.unwrap();
}

/// Something else than what was dumped.
fn other() -> Data {
    [("dump.sql".parse().unwrap(), b"other".to_vec())].into()
}

#[tokio::test]
async fn a_set_is_staged_committed_and_finalized() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    let request = dumped(&mut client, &run, &run).await;
    let before = agent.engine.live();
    agent.engine.put(other());

    assert!(!client.start_load(request.clone()).await.unwrap().into_inner().attached);
    let staged = watch(&mut client, key(&run, "stage")).await.last;
    let Event::Staged(staged) = staged else { panic!("{staged:?}") };
    assert_eq!((staged.bytes, staged.counts["bytes:dump.sql"]), (2_500_006, 2_500_000));
    assert_eq!(agent.engine.live(), other(), "a stage touches nothing");
    assert!(client.start_load(request).await.unwrap().into_inner().attached);
    assert_eq!(agent.engine.calls(Step::Stage), 1);

    commit(&mut client, &run).await;
    let committed = watch(&mut client, key(&run, "commit")).await.last;
    let Event::Committed(committed) = committed else { panic!("{committed:?}") };
    assert_eq!(committed.warnings, ["a warning on purpose"]);
    assert_eq!(agent.engine.live(), before);

    client.finalize(v1::FinalizeRequest { key: Some(key(&run, "finalize")) }).await.unwrap();
    assert_eq!(watch(&mut client, key(&run, "finalize")).await.last, Event::Finalized(v1::Nothing {}));
}

#[tokio::test]
async fn a_commit_in_place_cannot_be_rolled_back_and_a_stage_can() {
    let agent = LoneAgent::start().await;
    let (mut client, first, second) = (agent.client(), run(1), run(2));
    let request = dumped(&mut client, &first, &first).await;
    client.start_load(request.clone()).await.unwrap();
    watch(&mut client, key(&first, "stage")).await;
    rollback(&mut client, &first).await;
    assert_eq!(watch(&mut client, key(&first, "rollback")).await.last, Event::RolledBack(v1::Nothing {}));
    commit(&mut client, &first).await;
    let (kind, text) = failure(&mut client, key(&first, "commit")).await;
    assert!(kind == "conflict" && text.contains("nothing is staged"), "{kind}: {text}");

    client.start_load(v1::StartLoadRequest { key: Some(key(&second, "stage")), ..request }).await.unwrap();
    watch(&mut client, key(&second, "stage")).await;
    commit(&mut client, &second).await;
    watch(&mut client, key(&second, "commit")).await;
    rollback(&mut client, &second).await;
    let (kind, text) = failure(&mut client, key(&second, "rollback")).await;
    assert!(kind == "unsupported" && text.contains("restore another set"), "{kind}: {text}");
}

#[tokio::test]
async fn a_commit_that_broke_half_way_cannot_be_rolled_back_and_can_be_repeated() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    let request = dumped(&mut client, &run, &run).await;
    let before = agent.engine.live();
    agent.engine.put(other());
    client.start_load(request).await.unwrap();
    watch(&mut client, key(&run, "stage")).await;
    agent.engine.fail_at(Step::Commit, Kind::Unavailable);
    commit(&mut client, &run).await;
    assert_eq!(failure(&mut client, key(&run, "commit")).await.0, "unavailable");
    rollback(&mut client, &run).await;
    assert_eq!(failure(&mut client, key(&run, "rollback")).await.0, "unsupported");
    agent.engine.go_on_at(Step::Commit);
    client.commit(v1::CommitRequest { key: Some(key(&run, "commit-again")) }).await.unwrap();
    let last = watch(&mut client, key(&run, "commit-again")).await.last;
    assert!(matches!(last, Event::Committed(_)), "{last:?}");
    assert_eq!(agent.engine.live(), before);
}

#[tokio::test]
async fn a_commit_is_not_dropped_when_it_is_cancelled() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    let request = dumped(&mut client, &run, &run).await;
    client.start_load(request).await.unwrap();
    watch(&mut client, key(&run, "stage")).await;
    let gate = agent.engine.wait_at(Step::Commit);
    commit(&mut client, &run).await;
    gate.reached().await;
    client.cancel(v1::CancelRequest { key: Some(key(&run, "commit")) }).await.unwrap();
    assert_eq!(agent.engine.busy(), 1);
    gate.open();
    let last = watch(&mut client, key(&run, "commit")).await.last;
    assert!(matches!(last, Event::Committed(_)), "{last:?}");
}

#[tokio::test]
async fn a_damaged_segment_fails_the_stage() {
    let agent = LoneAgent::start().await;
    let (mut client, run) = (agent.client(), run(1));
    let mut request = dumped(&mut client, &run, &run).await;
    let segment = &mut request.artifacts[0].segments[0];
    segment.sha256 = vec![0; 32].into();
    client.start_load(request).await.unwrap();
    assert_eq!(failure(&mut client, key(&run, "stage")).await.0, "corrupt");
    commit(&mut client, &run).await;
    assert_eq!(failure(&mut client, key(&run, "commit")).await.0, "conflict");
    assert_eq!(agent.engine.live(), keepsake_tests::lone_agent::data());
}

#[tokio::test]
async fn a_load_that_cannot_be_understood_starts_nothing() {
    let agent = LoneAgent::start().await;
    let (mut client, first) = (agent.client(), run(1));
    let good = dumped(&mut client, &first, &first).await;
    let changes: [(&str, Change); 5] = [
        ("report", |r| r.report = None),
        ("unsealing", |r| r.unsealing = None),
        ("add up", |r| r.artifacts[0].length += 1),
        ("32 bytes", |r| r.artifacts[0].segments[0].sha256 = vec![1].into()),
        ("attempt", |r| r.artifacts[0].attempt = "../..".to_owned()),
    ];
    for (what, change) in changes {
        let mut request = good.clone();
        change(&mut request);
        let (kind, text) = told(&client.start_load(request).await.unwrap_err());
        assert!(kind == Kind::Invalid && text.contains(what), "{what}: {kind} {text}");
    }
    assert_eq!(agent.engine.calls(Step::Stage), 0);
}

#[tokio::test]
async fn the_policy_for_queues_is_answered_and_an_unknown_one_refused() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let request = dumped(&mut client, &run(1), &run(2)).await;
    // Nothing said, as an older coordinator does, means that they come back.
    for (epoch, asked, answered) in [(3, 0, 1), (4, 1, 1), (5, 2, 2), (6, 3, 3)] {
        let key = key(&run(epoch), "stage");
        let wanted = v1::StartLoadRequest { key: Some(key.clone()), queues: asked, ..request.clone() };
        assert_eq!(client.start_load(wanted).await.unwrap().into_inner().queues, answered);
        watch(&mut client, key).await;
    }
    let unknown = v1::StartLoadRequest { key: Some(key(&run(7), "stage")), queues: 4, ..request };
    let refused = client.start_load(unknown).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused:?}");
}
