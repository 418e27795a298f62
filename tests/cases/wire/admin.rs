//! Health over gRPC, probes over HTTP, and the limit on messages.

use std::net::SocketAddr;
use std::time::Duration;

use keepsake_agent::operation::Limits;
use keepsake_core::Kind;
use keepsake_core::id::SetId;
use keepsake_proto::server::MESSAGE_BYTES;
use keepsake_proto::v1::agent_client::AgentClient;
use keepsake_tests::fake_engine::{FakeEngine, Step};
use keepsake_tests::lone_agent::{LoneAgent, data, describe, dump_request, run, told};
use keepsake_tests::poll::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn health_is_served_for_the_whole_and_for_the_service() {
    let agent = LoneAgent::start().await;
    let channel = Endpoint::from_shared(format!("http://{}", agent.running.address)).unwrap().connect_lazy();
    let mut client = HealthClient::new(channel);
    for service in ["", "keepsake.agent.v1.Agent"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "keepsake.agent.v9.Agent".to_owned() };
    assert_eq!(client.check(request).await.unwrap_err().code(), tonic::Code::NotFound);
}

/// Status code and body of an answer.
async fn http(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, body.to_owned())
}

#[tokio::test]
async fn the_admin_port_answers_probes_and_nothing_else() {
    let agent = LoneAgent::start().await;
    let admin = agent.running.admin;
    assert_eq!(http(admin, "GET", "/healthz").await, (200, "ok\n".to_owned()));
    wait_for("the agent to be ready", Duration::from_secs(20), async || {
        let (status, body) = http(admin, "GET", "/readyz").await;
        if (status, body.as_str()) == (200, "ready\n") { Ok(()) } else { Err(format!("{status} {body}")) }
    })
    .await;
    for path in ["/", "/metrics", "/healthz/x", "/readyz/", "/keepsake.agent.v1.Agent/Describe", "/debug/pprof"] {
        assert_eq!(http(admin, "GET", path).await, (404, String::new()), "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(http(admin, method, "/healthz").await.0, 405, "{method}");
    }
}

#[tokio::test]
async fn readyz_says_that_the_datastore_does_not_answer_and_nothing_of_it() {
    let engine = FakeEngine::with(data());
    engine.fail_at(Step::Describe, Kind::Denied);
    let agent = LoneAgent::start_on(engine, Limits::default(), None).await;
    let admin = agent.running.admin;
    wait_for("the agent to have asked", Duration::from_secs(20), async || {
        let (status, body) = http(admin, "GET", "/readyz").await;
        if status == 503 && body.contains("denied") { Ok(()) } else { Err(format!("{status} {body}")) }
    })
    .await;
    let (_, body) = http(admin, "GET", "/readyz").await;
    assert!(!body.contains("on purpose"), "{body}");
    assert_eq!(http(admin, "GET", "/healthz").await.0, 200);
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_with_a_clear_status() {
    let agent = LoneAgent::start().await;
    // As other tooling would send it.
    let channel = Endpoint::from_shared(format!("http://{}", agent.running.address)).unwrap().connect_lazy();
    let mut client = AgentClient::new(channel);
    let mut request = dump_request(&run(1), "dump", SetId::generate());
    request.component = "x".repeat(MESSAGE_BYTES + 1);
    let status = client.start_dump(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    assert!(status.message().contains(&MESSAGE_BYTES.to_string()), "{status:?}");
    assert_eq!(told(&status).0, Kind::Invalid);
    let (kind, text) = told(&agent.client().start_dump(request).await.unwrap_err());
    assert!(kind == Kind::Invalid && text.contains(&MESSAGE_BYTES.to_string()), "the project's client: {kind}: {text}");
    assert_eq!(describe(&mut agent.client()).await.epoch, 0);
    assert_eq!(agent.engine.calls(Step::Dump), 0);
}
