//! Loads for other tooling that did not come to their end: nobody but the agent knows their runs, so it ends them.

use std::time::Duration;

use keepsake_agent::operation::Limits;
use keepsake_core::Kind;
use keepsake_tests::fake_engine::Step;
use keepsake_tests::lone_agent::{LoneAgent, data, told};
use keepsake_tests::poll::wait_for;

use super::streams::{artifact, load, other};

/// An agent whose load has failed, and could not be taken back.
async fn stuck() -> LoneAgent {
    let agent = LoneAgent::start().await;
    agent.engine.fail_at(Step::Commit, Kind::Unavailable);
    agent.engine.fail_at(Step::Rollback, Kind::Denied);
    let (kind, text) = told(&load(&mut agent.client(), artifact("dump.sql", b"other")).await.unwrap_err());
    assert!(kind == Kind::Unavailable && text.contains("Commit fails on purpose"), "{kind}: {text}");
    assert_eq!(agent.engine.calls(Step::Rollback), 1);
    assert_eq!(agent.engine.calls(Step::Finalize), 0, "what a rollback needs was dropped");
    agent.engine.go_on_at(Step::Commit);
    agent
}

#[tokio::test]
async fn what_a_load_has_left_is_ended_before_another_begins() {
    let agent = stuck().await;
    let (kind, text) = told(&load(&mut agent.client(), artifact("dump.sql", b"other")).await.unwrap_err());
    assert!(kind == Kind::Denied && text.contains("comes before anything else is loaded"), "{kind}: {text}");
    assert_eq!(agent.engine.calls(Step::Stage), 1, "another load was begun");
    agent.engine.go_on_at(Step::Rollback);
    load(&mut agent.client(), artifact("dump.sql", b"other")).await.unwrap();
    assert_eq!(agent.engine.calls(Step::Rollback), 3);
    assert_eq!(agent.engine.calls(Step::Finalize), 1);
    assert_eq!(agent.engine.live(), other());
}

#[tokio::test]
async fn what_a_load_has_left_is_ended_by_the_next_agent() {
    let LoneAgent { engine, running, scratch, .. } = stuck().await;
    running.stop().await.unwrap();
    engine.go_on_at(Step::Rollback);
    let agent = LoneAgent::start_in(scratch, engine, Limits::default(), None).await;
    wait_for("what was left to be ended", Duration::from_secs(20), async || {
        // What this engine keeps of a source is the engine's own; here it outlives its agent.
        let left = agent.scratch.path().join("agent/streamed-load.json").try_exists().unwrap();
        match (agent.engine.calls(Step::Rollback), left) {
            (2, false) => Ok(()),
            other => Err(format!("rollbacks, whether something is left: {other:?}")),
        }
    })
    .await;
    assert_eq!(agent.engine.live(), data());
    assert_eq!(agent.engine.calls(Step::Finalize), 0);
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_ends_its_load_first() {
    let LoneAgent { engine, running, scratch, .. } = {
        let agent = LoneAgent::start().await;
        let gate = agent.engine.wait_at(Step::Commit);
        let mut client = agent.client();
        let loading = tokio::spawn(async move { load(&mut client, artifact("dump.sql", b"other")).await });
        gate.reached().await;
        loading.abort();
        gate.open();
        agent
    };
    // Whether the commit has ended by now or not, what comes after it is not cut short.
    running.stop().await.unwrap();
    assert_eq!(engine.live(), other());
    assert_eq!(engine.calls(Step::Finalize), 1);
    assert_eq!(std::fs::read_dir(scratch.path().join("agent")).unwrap().count(), 0, "something is left");
}
