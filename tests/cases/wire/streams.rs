//! Dump and Load as streams, for other tooling.

use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::StreamExt;
use keepsake_core::Kind;
use keepsake_core::id::SetId;
use keepsake_proto::v1::{self, dump_response, load_request::Part};
use keepsake_tests::fake_engine::{Data, Step};
use keepsake_tests::lone_agent::{LoneAgent, client_at, data, dump_request, key, run, told, watch};
use keepsake_tests::poll::wait_for;
use keepsake_tests::proxy::Proxy;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

type Client = v1::agent_client::AgentClient<Channel>;

/// What a whole `Dump` stream gave, in order.
async fn dump(client: &mut Client, artifact: &str) -> Result<Vec<dump_response::Part>, tonic::Status> {
    let request = v1::DumpRequest { artifact: artifact.to_owned() };
    let mut stream = client.dump(request).await?.into_inner();
    let mut parts = Vec::new();
    while let Some(message) = stream.message().await? {
        parts.push(message.part.expect("a part"));
    }
    Ok(parts)
}

fn back(part: dump_response::Part) -> Part {
    match part {
        dump_response::Part::Header(header) => Part::Header(header),
        dump_response::Part::Chunk(chunk) => Part::Chunk(chunk),
        dump_response::Part::Trailer(trailer) => Part::Trailer(trailer),
        dump_response::Part::Report(report) => Part::Report(report),
    }
}

pub(super) async fn load(client: &mut Client, parts: Vec<Part>) -> Result<v1::LoadResponse, tonic::Status> {
    let messages = parts.into_iter().map(|part| v1::LoadRequest { part: Some(part) });
    client.load(futures_util::stream::iter(messages)).await.map(tonic::Response::into_inner)
}

/// One artifact as it should come.
pub(super) fn artifact(name: &str, bytes: &[u8]) -> Vec<Part> {
    let sha256 = Bytes::copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    let mut parts = vec![Part::Header(v1::StreamHeader { artifact: name.to_owned() })];
    parts.extend(bytes.chunks(100_000).map(|c| Part::Chunk(Bytes::copy_from_slice(c))));
    parts.push(Part::Trailer(v1::StreamTrailer { length: bytes.len() as u64, sha256 }));
    parts
}

pub(super) fn other() -> Data {
    [("dump.sql".parse().unwrap(), b"other".to_vec())].into()
}

/// Nothing runs and nothing was loaded.
async fn untouched(agent: &LoneAgent) {
    wait_for("the agent to be idle", Duration::from_secs(20), async || {
        match load(&mut agent.client(), Vec::new()).await {
            Err(status) if told(&status).0 == Kind::Invalid && agent.engine.busy() == 0 => Ok(()),
            other => Err(format!("{other:?}, {} calls", agent.engine.busy())),
        }
    })
    .await;
    assert_eq!(agent.engine.calls(Step::Commit), 0);
    assert_eq!(agent.engine.live(), data());
    let left: Vec<_> = std::fs::read_dir(agent.scratch.path().join("agent")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_was_dumped_is_loaded() {
    let agent = LoneAgent::start().await;
    let mut client = agent.client();
    let mut parts: Vec<_> = dump(&mut client, "").await.unwrap().into_iter().map(back).collect();
    let Some(Part::Report(_)) = parts.last() else { panic!("no report at the end") };
    let chunks = parts.iter().filter_map(|p| if let Part::Chunk(c) = p { Some(c.len()) } else { None });
    assert!(chunks.max().unwrap() <= 1 << 20);
    // The report may come first: the counts are checked then.
    let report = parts.pop().unwrap();
    parts.insert(0, report);
    agent.engine.put(other());
    let loaded = load(&mut client, parts).await.unwrap().report.unwrap();
    assert_eq!(loaded.counts["bytes:dump.sql"], 2_500_000);
    assert_eq!(agent.engine.live(), data());
}

#[tokio::test]
async fn one_artifact_alone_is_dumped() {
    let agent = LoneAgent::start().await;
    let parts = dump(&mut agent.client(), "users.sql").await.unwrap();
    let parts: Vec<_> = parts.into_iter().map(back).collect();
    let [header, one, two, trailer, Part::Report(_)] = parts.as_slice() else { panic!("{parts:?}") };
    let expected = artifact("users.sql", b"nobody");
    assert_eq!((header, trailer), (&expected[0], &expected[2]));
    assert_eq!([one, two], [&Part::Chunk("nob".into()), &Part::Chunk("ody".into())]);
}

#[tokio::test]
async fn a_dump_that_fails_half_way_is_an_error_and_never_an_end() {
    let agent = LoneAgent::start().await;
    agent.engine.fail_at(Step::Dump, Kind::Unavailable);
    let (kind, text) = told(&dump(&mut agent.client(), "").await.unwrap_err());
    assert!(kind == Kind::Unavailable && text.contains("on purpose"), "{kind}: {text}");
    agent.engine.panic_at(Step::Dump);
    let ended = dump(&mut agent.client(), "").await;
    assert!(ended.is_err(), "an engine that panicked looks like the end of a dump: {} parts", ended.unwrap().len());
    agent.engine.go_on_at(Step::Dump);
    dump(&mut agent.client(), "").await.expect("the agent still serves");
}

#[tokio::test]
async fn a_dump_over_a_line_that_is_cut_is_an_error() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    proxy.cut_after(1_000_000);
    let status = dump(&mut client_at(proxy.address), "").await.expect_err("a line that was cut looks like an end");
    let (kind, text) = told(&status);
    assert!(kind.retry(), "{kind}: {text}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_ends_the_dump() {
    let agent = LoneAgent::start().await;
    let gate = agent.engine.wait_at(Step::Dump);
    let mut client = agent.client();
    let mut stream = client.dump(v1::DumpRequest::default()).await.unwrap().into_inner();
    gate.reached().await;
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    wait_for("the dump to end", Duration::from_secs(20), async || match agent.engine.busy() {
        0 => Ok(()),
        n => Err(format!("{n} calls")),
    })
    .await;
    agent.engine.go_on_at(Step::Dump);
    // And the next may begin.
    wait_for("the agent to be free", Duration::from_secs(20), async || {
        dump(&mut client, "").await.map(drop).map_err(|s| s.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_ends_too_early_loads_nothing() {
    let agent = LoneAgent::start().await;
    let whole = artifact("dump.sql", b"some bytes");
    for until in 0..whole.len() {
        let mut parts = artifact("first.sql", b"a whole one before");
        parts.extend_from_slice(&whole[..until]);
        if until == 0 {
            parts.clear();
        }
        let (kind, text) = told(&load(&mut agent.client(), parts).await.unwrap_err());
        let expected = if until == 0 { Kind::Invalid } else { Kind::Corrupt };
        assert!(kind == expected && text.contains("nothing was touched"), "after {until} messages: {kind}: {text}");
    }
    assert_eq!(agent.engine.calls(Step::Stage), 0);
    untouched(&agent).await;
}

#[tokio::test]
async fn a_wrong_digest_or_length_loads_nothing() {
    let agent = LoneAgent::start().await;
    let with_trailer = |length, sha256: Vec<u8>| {
        let mut parts = artifact("dump.sql", b"some bytes");
        *parts.last_mut().unwrap() = Part::Trailer(v1::StreamTrailer { length, sha256: sha256.into() });
        parts
    };
    let right = digest::digest(&digest::SHA256, b"some bytes").as_ref().to_vec();
    for (what, parts) in [
        ("a wrong digest", with_trailer(10, vec![0; 32])),
        ("a short digest", with_trailer(10, right[..31].to_vec())),
        ("no digest", with_trailer(10, Vec::new())),
        ("too long", with_trailer(11, right.clone())),
        ("too short", with_trailer(9, right)),
    ] {
        let (kind, text) = told(&load(&mut agent.client(), parts).await.unwrap_err());
        assert!(kind == Kind::Corrupt && text.contains("nothing was touched"), "{what}: {kind}: {text}");
    }
    assert_eq!(agent.engine.calls(Step::Stage), 0);
    untouched(&agent).await;
}

#[tokio::test]
async fn messages_out_of_order_load_nothing() {
    let agent = LoneAgent::start().await;
    let whole = || artifact("dump.sql", b"some bytes");
    let header = || Part::Header(v1::StreamHeader { artifact: "dump.sql".to_owned() });
    let twice: Vec<_> = whole().into_iter().chain(whole()).collect();
    let large = Part::Chunk(vec![0; (1 << 20) + 1].into());
    let evil = Part::Header(v1::StreamHeader { artifact: "../evil".to_owned() });
    for (what, parts) in [
        ("a chunk first", whole().split_off(1)),
        ("two headers", vec![header(), header()]),
        ("a report within", vec![header(), Part::Report(v1::DumpReport::default())]),
        ("an artifact twice", twice),
        ("too large a chunk", vec![header(), large]),
        ("a name that is a path", vec![evil]),
    ] {
        let (kind, text) = told(&load(&mut agent.client(), parts).await.unwrap_err());
        assert_eq!(kind, Kind::Invalid, "{what}: {text}");
    }
    assert_eq!(agent.engine.calls(Step::Stage), 0);
    untouched(&agent).await;
}

#[tokio::test]
async fn counts_that_are_not_the_reports_load_nothing_and_leave_nothing_staged() {
    let agent = LoneAgent::start().await;
    let report = v1::DumpReport { counts: [("bytes:dump.sql".to_owned(), 11)].into(), ..v1::DumpReport::default() };
    let mut parts = vec![Part::Report(report)];
    parts.extend(artifact("dump.sql", b"some bytes"));
    let (kind, text) = told(&load(&mut agent.client(), parts).await.unwrap_err());
    assert!(kind == Kind::Corrupt && text.contains("nothing was touched"), "{kind}: {text}");
    assert_eq!(agent.engine.calls(Step::Rollback), 1, "nobody else knows this run and could drop what it staged");
    untouched(&agent).await;
}

#[tokio::test]
async fn a_load_over_a_line_that_is_cut_between_artifacts_loads_nothing() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let (sender, receiver) = mpsc::channel(64);
    let stream = ReceiverStream::new(receiver).map(|part| v1::LoadRequest { part: Some(part) });
    let mut client = client_at(proxy.address);
    let loading = tokio::spawn(async move { client.load(stream).await });
    for part in artifact("dump.sql", b"some bytes") {
        sender.send(part).await.unwrap();
    }
    // The whole artifact is there; what is missing is the end of the stream.
    wait_for("the artifact to arrive", Duration::from_secs(20), async || {
        let folder = std::fs::read_dir(agent.scratch.path().join("agent")).unwrap();
        match folder.map(|e| e.unwrap().metadata().map_or(0, |m| m.len())).max() {
            Some(10) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    proxy.cut();
    assert!(loading.await.unwrap().is_err());
    untouched(&agent).await;
    assert_eq!(agent.engine.calls(Step::Stage), 0, "half a stream was staged");
    drop(sender);
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_cut_a_load_in_half() {
    let agent = LoneAgent::start().await;
    let gate = agent.engine.wait_at(Step::Commit);
    let mut client = agent.client();
    let loading = tokio::spawn(async move { load(&mut client, artifact("dump.sql", b"other")).await });
    gate.reached().await;
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());
    gate.open();
    wait_for("the load to end", Duration::from_secs(20), async || {
        if agent.engine.live() == other() { Ok(()) } else { Err("the old data") }
    })
    .await;
}

#[tokio::test]
async fn a_load_and_an_operation_do_not_meet() {
    let agent = LoneAgent::start().await;
    let gate = agent.engine.wait_at(Step::Commit);
    let (mut client, run) = (agent.client(), run(1));
    let mut loader = agent.client();
    let loading = tokio::spawn(async move { load(&mut loader, artifact("dump.sql", b"other")).await });
    gate.reached().await;
    let request = || dump_request(&run, "dump", SetId::generate());
    let (kind, text) = told(&client.start_dump(request()).await.unwrap_err());
    assert!(kind == Kind::Busy && text.contains("a stream for other tooling"), "{kind}: {text}");
    gate.open();
    loading.await.unwrap().unwrap();
    client.start_dump(request()).await.unwrap();
    watch(&mut client, key(&run, "dump")).await;
}
