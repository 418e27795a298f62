//! What `make prove-cut` claims: one instant over all stores, and nobody left waiting.

use keepsake_coordinator::run::event::Outcome;

use super::{Break, Case, Claim, Finding, LONG, SHORT};
use crate::causality::{self, WRITERS, Writers, quantile, restored, taken};
use crate::holds::{self, Redis, Server, mysql, postgres};
use crate::house::House;
use crate::root::Root;
use crate::servers::redis::RedisServer;
use crate::struck::{Arena, VICTIMS, blows};
use crate::threescale::Size;

/// Sets that are taken and restored in one case; five cases make fifty.
const SETS: usize = 10;
const CASES: usize = 5;

/// All claims.
pub fn claims() -> Vec<Claim> {
    vec![one_instant(), last_step(), nobody_waits(), holds_of_every_engine()]
}

/// A house with this of its consistency in the topology.
async fn house(consistency: &str) -> House {
    let mut house = House::new(&["prod"], Size::TINY).await;
    consistency.clone_into(&mut house.consistency);
    house.write_topology();
    house
}

fn one_instant() -> Claim {
    let cases = (1..=CASES).map(|n| {
        Case::telling(format!("sets-{n}"), LONG, || async {
            let house = house("").await;
            let (sets, mut felt) = taken(&house, SETS).await;
            let found = restored(&house, &sets).await;
            assert!(found.is_empty(), "not of one instant: {}", found.join("; "));
            let (half, most) = (quantile(&mut felt, 0.5), quantile(&mut felt, 0.99));
            Finding::Holds(format!("{SETS} sets, writers felt p50 {half:?}, p99 {most:?}"))
        })
    });
    let without = Case::new("without-a-cut", LONG, || async {
        let house = house("    consistency: none\n").await;
        let (sets, _) = taken(&house, 2).await;
        let found = restored(&house, &sets).await;
        assert!(found.is_empty(), "not of one instant: {}", found.join("; "));
    });
    Claim {
        name: "one-instant",
        says: "in every set that is taken while writers write, no later store is ahead of an earlier one, nor behind by more than one",
        cases: cases.collect(),
        breaks: vec![Break { case: without, seen: "not of one instant" }],
    }
}

/// A backup with an agent that looks at its clock too late, its last step switched off or not; what was found in the set, if there is one.
async fn late(proves_nothing: bool) -> Vec<String> {
    let house = house("    cut: { lease_ms: 10000, attempts: 1 }\n").await;
    causality::prepare(&house.installations[0], WRITERS).await;
    let writers = Writers::start(&house.installations[0], WRITERS);
    let (outcome, note, set) = crate::unproven::back_up(&house, &writers, proves_nothing).await;
    writers.stop();
    match outcome {
        Outcome::Completed => restored(&house, &[set.to_string()]).await,
        _ => {
            assert!(note.contains("prove the hold of"), "it failed for another reason: {note}");
            Vec::new()
        }
    }
}

fn last_step() -> Claim {
    let tried = |proves_nothing: bool| async move {
        let found = late(proves_nothing).await;
        assert!(found.is_empty(), "not of one instant: {}", found.join("; "));
    };
    Claim {
        name: "last-step",
        says: "an agent that is stopped beyond its lease and opens its snapshot late is noticed by the final renewal",
        cases: vec![Case::new("late-agent", SHORT, move || tried(false))],
        breaks: vec![Break {
            case: Case::new("without-the-last-step", SHORT, move || tried(true)),
            seen: "not of one instant",
        }],
    }
}

fn nobody_waits() -> Claim {
    let cases = VICTIMS.into_iter().map(|victim| {
        Case::telling(format!("struck-{}", victim.replace(' ', "-")), LONG, move || async move {
            let mut arena = Arena::open().await;
            let mut struck = 0;
            for blow in blows().into_iter().filter(|b| b.victim == victim) {
                arena.strike(blow).await;
                struck += 1;
            }
            arena.every_claim_is_true().await;
            Finding::Holds(format!("{struck} blows, {} sets claim a cut", arena.claims()))
        })
    });
    let somebody_holds = Case::new("somebody-holds-for-ever", SHORT, || async {
        let mut arena = Arena::open().await;
        arena.somebody_holds = true;
        arena.strike(blows()[0]).await;
    });
    Claim {
        name: "nobody-waits",
        says: "coordinator and agents are killed and stopped between every two steps of a cut: writers go on within the lease, nothing remains",
        cases: cases.collect(),
        breaks: vec![Break { case: somebody_holds, seen: "the writers to go on" }],
    }
}

fn holds_of_every_engine() -> Claim {
    let mut cases = Vec::new();
    for root in ["host", "bullseye-mariadb", "sid-mariadb", "sid-mysql"] {
        cases.push(Case::telling(format!("mysql-of-{root}"), SHORT, move || async move {
            let Some(found) = (if root == "host" { Some(Root::host()) } else { Root::unpacked(root) }) else {
                return Finding::Skipped(format!("{root} is not unpacked (make test-matrix)"));
            };
            holds::writers_wait_and_readers_do_not(mysql(&found).await).await;
            holds::the_datastore_ends_a_hold_that_nobody_asks_for(mysql(&found).await).await;
            holds::a_hold_that_is_not_had_in_time_leaves_nobody_waiting(mysql(&found).await).await;
            Finding::Holds(String::new())
        }));
    }
    cases.push(Case::telling("redis-of-bullseye", SHORT, || async {
        let Some(root) = Root::unpacked("bullseye-redis") else {
            return Finding::Skipped("bullseye-redis is not unpacked (make test-matrix)".to_owned());
        };
        holds::stopped::altogether(&root).await;
        Finding::Holds(String::new())
    }));
    cases.push(Case::new("postgres", SHORT, || async {
        all(postgres().await, postgres().await, postgres().await).await
    }));
    cases.push(Case::new("redis", SHORT, || async {
        let start = async || Redis(RedisServer::start(&[]).await);
        all(start().await, start().await, start().await).await;
    }));
    // A hold that is ended behind its holder's back, and a holder that is not told.
    let ended = Case::new("ended-by-somebody", SHORT, || async {
        let server = Redis(RedisServer::start(&[]).await);
        let unpausing = async {
            loop {
                server.0.ask::<()>(&["CLIENT", "UNPAUSE"]).await;
            }
        };
        tokio::select! {
            () = unpausing => {}
            () = holds::writers_wait_on(&server) => {}
        }
    });
    Claim {
        name: "holds",
        says: "on every engine writers wait while it is held and no longer, readers never, and the datastore ends a hold that nobody asks for",
        cases,
        breaks: vec![Break { case: ended, seen: "a write was let through" }],
    }
}

async fn all<S: Server>(one: S, two: S, three: S) {
    holds::writers_wait_and_readers_do_not(one).await;
    holds::the_datastore_ends_a_hold_that_nobody_asks_for(two).await;
    holds::a_hold_that_is_not_had_in_time_leaves_nobody_waiting(three).await;
}
