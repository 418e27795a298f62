//! The agent's calls: streams that are cut, changed on the way, of the wrong run or the wrong component.

use keepsake_agent::app::{Running, start_with};
use keepsake_agent::config::Config;
use keepsake_agent::operation::Limits;
use keepsake_core::config::{AlertLevels, Change, ConfigEnd, Digest};
use keepsake_core::id::RunKey;
use keepsake_core::repository::Budget;
use keepsake_proto::convert;
use keepsake_proto::v1::{
    self, config_apply_request as apply, config_compare_request as compare, config_compare_response,
};
use keepsake_tests::lone_agent::{INSTALLATION, client_at, key, run, told};
use tokio_stream::iter;

use super::*;

const COMPONENT: &str = "backend-redis";

async fn agent(server: &RedisServer) -> Running {
    let local = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        installation: INSTALLATION.parse().unwrap(),
        component: COMPONENT.parse().unwrap(),
        engine_name: "redis".to_owned(),
        engine: engine(server),
        listen: local,
        admin: local,
        tls: None,
        allow: Vec::new(),
        stores: None,
        budget: Budget::default(),
        scratch: server.scratch().to_owned(),
    };
    start_with(config, Limits::default()).await.unwrap()
}

fn begin(run: &RunKey, component: &str) -> compare::Part {
    let key = Some(key(run, "resync"));
    compare::Part::Begin(v1::ConfigCompareBegin {
        key,
        component: component.to_owned(),
        keys_per_second: 0,
        of_a_run: true,
    })
}

fn batch(entries: &[ConfigEntry]) -> compare::Part {
    compare::Part::Batch(v1::ConfigBatch {
        entries: entries.iter().cloned().map(convert::config_entry_to_wire).collect(),
    })
}

fn end(entries: &[ConfigEntry]) -> compare::Part {
    let mut digest = Digest::default();
    entries.iter().for_each(|e| digest.take(e));
    let (entries, digest) = digest.finish();
    let digest = Bytes::copy_from_slice(&digest);
    let kinds = ConfigKind::ALL.to_vec();
    compare::Part::End(convert::config_end_to_wire(&ConfigEnd {
        entries,
        digest,
        kinds,
        at_least: Counters::default(),
    }))
}

/// Differences, and whether it came to its end.
async fn compared(
    agent: &Running,
    parts: Vec<compare::Part>,
) -> (Vec<String>, std::result::Result<v1::ConfigCompared, (Kind, String)>) {
    let requests: Vec<_> = parts.into_iter().map(|part| v1::ConfigCompareRequest { part: Some(part) }).collect();
    let mut differences = Vec::new();
    let mut answers = client_at(agent.address).config_compare(iter(requests)).await.unwrap().into_inner();
    loop {
        match answers.message().await {
            Err(status) => return (differences, Err(told(&status))),
            Ok(None) => panic!("it ended without a word"),
            Ok(Some(answer)) => match answer.told.unwrap() {
                config_compare_response::Told::Differences(some) => {
                    differences.extend(
                        some.differences.into_iter().map(|d| short(&convert::difference_from_wire(d).unwrap())),
                    );
                }
                config_compare_response::Told::Compared(compared) => return (differences, Ok(compared)),
                config_compare_response::Told::Progress(_) => {}
            },
        }
    }
}

#[tokio::test]
async fn config_that_is_cut_or_changed_on_the_wire_is_never_surplus() {
    let server = RedisServer::start(&[]).await;
    let entries = filled(&server).await;
    let agent = agent(&server).await;
    let run = run(3);
    let (half, rest) = entries.split_at(entries.len() / 2);
    let whole = vec![begin(&run, COMPONENT), batch(half), batch(rest), end(&entries)];
    let (differences, done) = compared(&agent, whole.clone()).await;
    assert_eq!((differences, done.unwrap().differences), (vec![], 0));
    let mut other = entries.clone();
    other[3].service.push('9');
    let mut swapped = entries.clone();
    swapped.swap(0, 1);
    let cut: [(&str, Vec<compare::Part>, Kind); 8] = [
        ("without its end", whole[..3].to_vec(), Kind::Corrupt),
        ("with half of it", vec![begin(&run, COMPONENT), batch(half), end(&entries)], Kind::Corrupt),
        ("without any of it", vec![begin(&run, COMPONENT), end(&entries)], Kind::Corrupt),
        ("changed", vec![begin(&run, COMPONENT), batch(&other), end(&entries)], Kind::Corrupt),
        ("in another order", vec![begin(&run, COMPONENT), batch(&swapped), end(&entries)], Kind::Corrupt),
        (
            "with more",
            vec![begin(&run, COMPONENT), batch(&entries), batch(&entries[..1]), end(&entries)],
            Kind::Corrupt,
        ),
        ("without its beginning", whole[1..].to_vec(), Kind::Invalid),
        ("of another component", vec![begin(&run, "system-redis"), batch(&entries), end(&entries)], Kind::Invalid),
    ];
    for (what, parts, kind) in cut {
        let (differences, done) = compared(&agent, parts).await;
        let (found, text) = done.unwrap_err();
        assert_eq!(found, kind, "{what}: {text}");
        let surplus: Vec<_> = differences.iter().filter(|d| d.contains("Surplus") || d.contains("remove")).collect();
        assert!(surplus.is_empty(), "{what}: {surplus:?}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn config_changes_that_are_cut_or_of_a_run_that_is_over_are_refused() {
    let server = RedisServer::start(&[]).await;
    filled(&server).await;
    let agent = agent(&server).await;
    let run = run(5);
    let begin = |run: &RunKey| {
        let key = Some(key(run, "resync"));
        apply::Part::Begin(v1::ConfigApplyBegin {
            key,
            component: COMPONENT.to_owned(),
            keys_per_second: 0,
            durable: false,
        })
    };
    let change = |name: &'static str| {
        let (kind, key, wrong) = (ConfigKind::UserKey, Bytes::from_static(name.as_bytes()), Wrong::Surplus);
        let difference = Difference { kind, service: "7".to_owned(), key, wrong, change: Change::Delete };
        apply::Part::Changes(v1::ConfigDifferences { differences: vec![convert::difference_to_wire(difference)] })
    };
    let end = |changes| {
        apply::Part::End(v1::ConfigApplyEnd {
            changes,
            at_least: Some(convert::counters_to_wire(Counters { events: 99, alerts: 1 })),
        })
    };
    let applied = async |parts: Vec<apply::Part>| {
        let requests: Vec<_> = parts.into_iter().map(|part| v1::ConfigApplyRequest { part: Some(part) }).collect();
        let mut answers = client_at(agent.address).config_apply(iter(requests)).await.unwrap().into_inner();
        loop {
            match answers.message().await {
                Err(status) => return Err(told(&status)),
                Ok(Some(v1::ConfigApplyResponse { told: Some(v1::config_apply_response::Told::Applied(a)) })) => {
                    return Ok(a);
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
            }
        }
    };
    let first = "application/service_id:7/key:userkey0000000000000000000000001/id";
    let refused = applied(vec![begin(&run), change(first), end(2)]).await.unwrap_err();
    assert_eq!(refused.0, Kind::Corrupt, "{}", refused.1);
    let counters: Vec<Option<String>> = server.ask(&["MGET", "events/id", "alerts/current_id"]).await;
    assert_eq!(counters, [Some("17".to_owned()), Some("4".to_owned())], "they are raised only at the end");
    let done = applied(vec![begin(&run), change(first), end(1)]).await.unwrap();
    assert_eq!((done.made, done.after.unwrap()), (2, v1::ConfigCounters { events: 99, alerts: 4 }));
    // Another run has come: the one before changes nothing more, and does not even look.
    let later = keepsake_tests::lone_agent::run(6);
    applied(vec![begin(&later), end(0)]).await.unwrap();
    let refused = applied(vec![begin(&run), change(first), end(1)]).await.unwrap_err();
    assert_eq!(refused.0, Kind::Conflict, "{}", refused.1);
    let (_, looked) = compared(&agent, vec![self::begin(&run, COMPONENT)]).await;
    assert_eq!(looked.unwrap_err().0, Kind::Conflict);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn config_of_a_component_that_keeps_none_is_refused_by_name() {
    let agent = keepsake_tests::lone_agent::LoneAgent::start().await;
    let run = run(1);
    let (_, refused) = compared(&agent.running, vec![begin(&run, keepsake_tests::lone_agent::COMPONENT)]).await;
    let (kind, text) = refused.unwrap_err();
    assert!(kind == Kind::Unsupported && text.contains("keeps no Config"), "{text}");
    assert_eq!(convert::alert_levels_from_wire(0).unwrap(), AlertLevels::LeftAlone);
}
