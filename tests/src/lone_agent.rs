//! One agent in this process, on a fake engine and a real socket, with a repository in a folder.

use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::app::{Running, start_with};
use keepsake_agent::config::{Allow, Config, Stores};
use keepsake_agent::operation::Limits;
use keepsake_core::id::RunKey;
use keepsake_core::id::{ArtifactName, Epoch, RunId, SetId, StepId};
use keepsake_core::repository::writer::Place;
use keepsake_core::repository::{Budget, Store};
use keepsake_proto::client::Dialer;
use keepsake_proto::tls::TlsFiles;
use keepsake_proto::v1::agent_client::AgentClient;
use keepsake_proto::v1::{self, watch_response::Event};
use tonic::transport::Channel;

use crate::fake_engine::{Data, FakeEngine};
use crate::scratch::Scratch;

/// Its installation.
pub const INSTALLATION: &str = "prod";
/// Its component.
pub const COMPONENT: &str = "system-mysql";
/// The name that its certificate must carry.
pub const NAME: &str = "system-mysql.prod";
/// No test waits longer for an end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent.
#[derive(Debug)]
pub struct LoneAgent {
    /// Its engine.
    pub engine: Arc<FakeEngine>,
    /// Its repository.
    pub store: Store,
    /// The agent itself.
    pub running: Running,
    /// Where repository and scratch folder are.
    pub scratch: Scratch,
}

/// All that Watch told.
#[derive(Debug)]
pub struct Told {
    /// Progress in order.
    pub progress: Vec<v1::Progress>,
    /// Segments in order, with their artifact's name.
    pub segments: Vec<(String, v1::Segment)>,
    /// The end.
    pub last: Event,
}

/// Two artifacts, a large and a small one.
pub fn data() -> Data {
    let large = (0..2_500_000_u32).map(|n| u8::try_from(n % 251).expect("below 251")).collect();
    let name = |n: &str| ArtifactName::new(n).expect("a name");
    [(name("dump.sql"), large), (name("users.sql"), b"nobody".to_vec())].into()
}

impl LoneAgent {
    /// In the clear.
    pub async fn start() -> Self {
        Self::start_with(Limits::default(), None).await
    }

    /// With this patience; with TLS for those who are allowed (`read=NAME`).
    pub async fn start_with(limits: Limits, tls: Option<(TlsFiles, &[&str])>) -> Self {
        Self::start_on(FakeEngine::with(data()), limits, tls).await
    }

    /// As [`LoneAgent::start_with`], on an engine that was prepared.
    pub async fn start_on(engine: Arc<FakeEngine>, limits: Limits, tls: Option<(TlsFiles, &[&str])>) -> Self {
        Self::start_in(Scratch::new(), engine, limits, tls).await
    }

    /// Where another one was before, and on its engine.
    pub async fn start_in(
        scratch: Scratch,
        engine: Arc<FakeEngine>,
        limits: Limits,
        tls: Option<(TlsFiles, &[&str])>,
    ) -> Self {
        let repository = scratch.folder("repository", 0o700);
        let store = Store::open(&format!("file://{}", repository.display())).expect("a repository");
        let local = "127.0.0.1:0".parse().expect("an address");
        let (tls, allow) = tls.map_or((None, [].as_slice()), |(files, allow)| (Some(files), allow));
        let config = Config {
            installation: INSTALLATION.parse().expect("a name"),
            component: COMPONENT.parse().expect("a name"),
            engine_name: "fake".to_owned(),
            engine: engine.clone(),
            listen: local,
            admin: local,
            tls,
            allow: allow.iter().map(|a| a.parse::<Allow>().expect("ROLE=NAME")).collect(),
            stores: Some(Stores { put: store.clone(), read: store.clone(), opened_by: None }),
            budget: Budget::default(),
            scratch: scratch.folder("agent", 0o700),
        };
        let running = start_with(config, limits).await.expect("start the agent");
        Self { engine, store, running, scratch }
    }

    /// A client in the clear.
    pub fn client(&self) -> AgentClient<Channel> {
        client_at(self.running.address)
    }

    /// A client with a certificate, which expects the agent's right name.
    pub fn client_as(&self, files: &TlsFiles) -> AgentClient<Channel> {
        Dialer::new(&format!("https://{}", self.running.address), NAME, Some(files.clone()))
            .and_then(|dialer| dialer.client())
            .expect("a client")
    }
}

/// A client in the clear at this address.
pub fn client_at(address: std::net::SocketAddr) -> AgentClient<Channel> {
    Dialer::new(&format!("http://{address}"), NAME, None).and_then(|dialer| dialer.client()).expect("a client")
}

/// A new run with this number.
pub fn run(epoch: u64) -> RunKey {
    RunKey { run: RunId::generate(), installation: INSTALLATION.parse().expect("a name"), epoch: Epoch(epoch) }
}

/// A step of a run.
pub fn key(run: &RunKey, step: &str) -> v1::OperationKey {
    keepsake_proto::convert::key_to_wire(run, &StepId::new(step).expect("a step"))
}

/// Where a set of the agent's is.
pub fn place(set: SetId) -> Place {
    Place { installation: INSTALLATION.parse().expect("a name"), set, component: COMPONENT.parse().expect("a name") }
}

/// A dump that is not sealed.
pub fn dump_request(run: &RunKey, step: &str, set: SetId) -> v1::StartDumpRequest {
    v1::StartDumpRequest {
        key: Some(key(run, step)),
        component: COMPONENT.to_owned(),
        set: set.to_string(),
        sealing: Some(v1::Sealing { how: Some(v1::sealing::How::None(v1::Unsealed {})) }),
        hold: String::new(),
    }
}

/// Watches an operation to its end.
///
/// # Panics
/// When the stream fails or ends before the operation does.
pub async fn watch(client: &mut AgentClient<Channel>, key: v1::OperationKey) -> Told {
    try_watch(client, key).await.expect("watch to the end")
}

/// As [`watch`], but a failing stream is an error.
///
/// # Errors
/// The stream's.
pub async fn try_watch(client: &mut AgentClient<Channel>, key: v1::OperationKey) -> Result<Told, tonic::Status> {
    let watching = async {
        let mut stream = client.watch(v1::WatchRequest { key: Some(key) }).await?.into_inner();
        let (mut progress, mut segments, mut last) = (Vec::new(), Vec::new(), None);
        while let Some(message) = stream.message().await? {
            assert!(last.is_none(), "something came after the end: {message:?}");
            match message.event.expect("an event") {
                Event::Progress(p) => progress.push(p),
                Event::Segments(batch) => {
                    segments.extend(batch.segments.into_iter().map(|s| (batch.artifact.clone(), s)));
                }
                end => last = Some(end),
            }
        }
        let last = last.ok_or_else(|| tonic::Status::unknown("the stream ended without an end"))?;
        Ok(Told { progress, segments, last })
    };
    tokio::time::timeout(PATIENCE, watching).await.expect("the operation does not end")
}

/// Watches an operation that must fail; gives the kind's name and the text.
pub async fn failure(client: &mut AgentClient<Channel>, key: v1::OperationKey) -> (String, String) {
    match watch(client, key).await.last {
        Event::Failed(failure) => (failure.kind, failure.text),
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Describes the agent.
pub async fn describe(client: &mut AgentClient<Channel>) -> v1::DescribeResponse {
    client.describe(v1::DescribeRequest::default()).await.expect("describe").into_inner()
}

/// The kind of failure behind a status, and its text.
pub fn told(status: &tonic::Status) -> (keepsake_core::Kind, String) {
    let error = keepsake_proto::status::from_status(status);
    (error.kind(), error.chain())
}
