//! The coordinator's own client over a line that is cut: a run does not fail for it.

use keepsake_coordinator::fleet::grpc::GrpcFleet;
use keepsake_coordinator::fleet::{DumpOrder, Fleet, OpKey};
use keepsake_coordinator::plan::CutLimits;
use keepsake_coordinator::topology::{ComponentSettings, Consistency, InstallationSettings};
use keepsake_core::Kind;
use keepsake_core::id::SetId;
use keepsake_core::queues::{WORKED_OFF, Waiting};
use keepsake_core::record::Sealing;
use keepsake_tests::fake_engine::Step;
use keepsake_tests::lone_agent::{COMPONENT, INSTALLATION, LoneAgent, run, watch};
use keepsake_tests::proxy::Proxy;

/// A fleet of this one agent, dialled through the proxy.
fn fleet(proxy: &Proxy) -> GrpcFleet {
    let settings = InstallationSettings {
        name: INSTALLATION.parse().unwrap(),
        consistency: Consistency::None,
        cut: CutLimits::default(),
        hooks: None,
        kubernetes: None,
        files_external: false,
        all_of_cluster: false,
        components: vec![ComponentSettings {
            name: COMPONENT.parse().unwrap(),
            engine: "mysql".parse().unwrap(),
            agent: Some(format!("http://{}", proxy.address)),
        }],
    };
    GrpcFleet::new(&settings, None).unwrap()
}

#[tokio::test]
async fn a_dump_whose_watch_is_cut_again_and_again_is_done_once() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let gate = agent.engine.wait_at(Step::Dump);
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let dumping = tokio::spawn({
        let fleet = fleet(&proxy);
        async move {
            let key = OpKey { run: run(1), step: "dump-system-mysql".parse().unwrap() };
            let progress = move |_| {
                let _nobody_listens = heard.send(());
            };
            let (component, set, sealing) = (COMPONENT.parse().unwrap(), SetId::generate(), Sealing::None);
            let order = DumpOrder { component: &component, key, set, sealing: &sealing, hold: None };
            fleet.dump(&order, &progress).await
        }
    });
    gate.reached().await;
    for _ in 0..3 {
        hears.recv().await.expect("it is watched");
        proxy.cut();
        while hears.try_recv().is_ok() {}
    }
    gate.open();
    let record = dumping.await.unwrap().expect("a cut line is no failure");
    assert_eq!(record.report.counts["bytes:dump.sql"], 2_500_000);
    assert_eq!(agent.engine.calls(Step::Dump), 1);
    assert!(proxy.accepted() > 1, "nothing was cut");
}

#[tokio::test]
async fn a_failure_of_the_engine_is_not_tried_again() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    agent.engine.fail_at(Step::Dump, Kind::Unavailable);
    let key = OpKey { run: run(1), step: "dump-system-mysql".parse().unwrap() };
    let component = COMPONENT.parse().unwrap();
    let (set, sealing) = (SetId::generate(), Sealing::None);
    let order = DumpOrder { component: &component, key, set, sealing: &sealing, hold: None };
    let done = fleet(&proxy).dump(&order, &|_| {}).await.unwrap_err();
    assert_eq!(done.kind(), Kind::Unavailable);
    assert_eq!(agent.engine.calls(Step::Dump), 1);
}

/// The kernel of a frozen agent makes connections for it, and nobody ever shakes hands: without a limit a backup would hang before it began.
#[tokio::test]
async fn an_agent_that_is_frozen_is_out_of_reach_soon() {
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scratch = keepsake_tests::scratch::Scratch::new();
    let files = keepsake_tests::certs::Authority::new("ca").issue(scratch.path(), "coordinator.keepsake");
    let component: keepsake_core::id::Component = COMPONENT.parse().unwrap();
    let settings = InstallationSettings {
        name: INSTALLATION.parse().unwrap(),
        consistency: Consistency::None,
        cut: CutLimits::default(),
        hooks: None,
        kubernetes: None,
        files_external: false,
        all_of_cluster: false,
        components: vec![ComponentSettings {
            name: component.clone(),
            engine: "mysql".parse().unwrap(),
            agent: Some(format!("https://{}", frozen.local_addr().unwrap())),
        }],
    };
    let tls = keepsake_coordinator::topology::TlsFiles { ca: files.ca, cert: files.cert, key: files.key };
    let fleet = GrpcFleet::new(&settings, Some(&tls)).unwrap();
    let asked = tokio::time::timeout(std::time::Duration::from_secs(20), fleet.describe(&component)).await;
    let error = asked.expect("it waits for ever").expect_err("nobody is there");
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{:?} {}", error.kind(), error.chain());
}

/// How many jobs wait is told as it is; an agent whose engine has no queues says so, as one of before does.
#[tokio::test]
async fn the_jobs_that_wait_are_told_over_the_wire() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let (fleet, component) = (fleet(&proxy), COMPONENT.parse().unwrap());
    let error = fleet.waiting_jobs(&component).await.expect_err("it has none");
    assert_eq!(error.kind(), Kind::Unsupported, "{}", error.chain());
    let queues = [(WORKED_OFF[0].to_owned(), 12), (WORKED_OFF[1].to_owned(), 3)].into();
    let waiting = Waiting { queues, failed: 7 };
    agent.engine.waits(waiting.clone());
    assert_eq!(fleet.waiting_jobs(&component).await.unwrap(), waiting);
    let of_another = keepsake_proto::v1::WaitingJobsRequest { component: "backend-redis".to_owned() };
    let refused = agent.client().waiting_jobs(of_another).await.expect_err("it is another's");
    assert!(refused.message().contains("backend-redis"), "{refused}");
}

/// Whoever takes a run over has another epoch, and must see and stop what was begun under the one before.
#[tokio::test]
async fn what_an_earlier_epoch_began_is_seen_and_cancelled_by_the_next() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let gate = agent.engine.wait_at(Step::Dump);
    let first = run(1);
    let next = keepsake_core::id::RunKey { epoch: keepsake_core::id::Epoch(2), ..first.clone() };
    let component: keepsake_core::id::Component = COMPONENT.parse().unwrap();
    let dumping = tokio::spawn({
        let fleet = fleet(&proxy);
        let key = OpKey { run: first, step: "dump-system-mysql".parse().unwrap() };
        async move {
            let (component, set, sealing) = (COMPONENT.parse().unwrap(), SetId::generate(), Sealing::None);
            fleet.dump(&DumpOrder { component: &component, key, set, sealing: &sealing, hold: None }, &|_| {}).await
        }
    });
    gate.reached().await;
    let fleet = fleet(&proxy);
    let what = fleet.at_work(&component, &next).await.unwrap();
    assert!(what.as_ref().is_some_and(|what| what.contains("dump")), "{what:?}");
    assert_eq!(fleet.at_work(&component, &run(3)).await.unwrap(), None, "another run's work is not ours");
    assert_eq!(fleet.cancel_run(&component, &run(3)).await.unwrap(), 0, "another run's work is not ours");
    assert_eq!(fleet.cancel_run(&component, &next).await.unwrap(), 1);
    assert_eq!(dumping.await.unwrap().unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(fleet.at_work(&component, &next).await.unwrap(), None);
}

/// An agent that was started again knows nothing of the load that it had begun: that the new one has nothing to load says nothing of the live data.
#[tokio::test]
async fn a_commit_whose_agent_was_started_again_has_an_end_that_nobody_knows() {
    let agent = LoneAgent::start().await;
    let proxy = Proxy::start(agent.running.address).await;
    let gate = agent.engine.wait_at(Step::Commit);
    let run = run(1);
    let mut client = agent.client();
    let request = super::load::dumped(&mut client, &run, &run).await;
    client.start_load(request).await.unwrap();
    watch(&mut client, keepsake_tests::lone_agent::key(&run, "stage")).await;
    let committing = tokio::spawn({
        let fleet = fleet(&proxy);
        let key = OpKey { run, step: "commit-system-mysql".parse().unwrap() };
        async move { fleet.commit(&COMPONENT.parse().unwrap(), &key, &|_| {}).await }
    });
    gate.reached().await;
    // Another agent in its place, whose scratch folder is new.
    let other = LoneAgent::start().await;
    proxy.lead_to(other.running.address);
    proxy.cut();
    let error = committing.await.unwrap().expect_err("the other agent has nothing staged");
    assert!(matches!(error.kind(), Kind::NotFound | Kind::Unavailable), "{:?} {}", error.kind(), error.chain());
    assert!(error.chain().contains("started again"), "{}", error.chain());
    gate.open();
}
