//! What `make prove-restore` claims: a restore never leaves anybody worse off than before it.

use keepsake_agent::engine::redis::LoadMethod;

use super::engines::mounting;
use super::flaws::{Flaw, Flawed};
use super::{Break, Case, Claim, Finding, LONG, SHORT, suite};
use crate::fake_world::journal::Strike;
use crate::fake_world::judge::seen_of;
use crate::fake_world::lab::Lab;
use crate::full;
use crate::refused;
use crate::root::Root;
use crate::servers::mysql::line::Moment;
use crate::servers::mysql::torn::{Operation, Victim, every_statement, every_statement_by};
use crate::taken_back::{self, Deed};

/// All claims.
pub fn claims() -> Vec<Claim> {
    vec![crash_loop(), sub_steps(), refused(), in_the_way(), installation()]
}

/// Tests of the suite that strike at every place, at least so many.
fn tests(name: &'static str, filters: &'static [&'static str], least: usize) -> Case {
    Case::telling(name, LONG, move || async move { suite::soaked(filters, least, "1", "0") })
}

/// A test that strikes at every second place, which are the odd ones or the even ones.
fn part(name: &'static str, test: &'static str, first: &'static str) -> Case {
    Case::telling(name, LONG, move || async move { suite::soaked(&[test], 1, "2", first) })
}

/// A test of pairs of places: every fourth first one, from this on, with every second one.
fn quarter(name: &'static str, test: &'static str, first: &'static str) -> Case {
    Case::telling(name, LONG, move || async move { suite::soaked(&[test], 1, "4", first) })
}

fn crash_loop() -> Claim {
    // Nothing in the fake world waits for a clock.
    let unannounced = Case::new("started-is-not-durable", SHORT, || async {
        tokio::time::pause();
        let lab = Lab::new().await;
        let found = seen_of(&lab, crate::fake_world::Flaw::StartedIsNotDurable, &[], Strike::Crash).await;
        assert!(found.is_empty(), "a run that was struck: {}", found.join("; "));
    });
    let two_at_once = Case::new("agents-do-not-fence", SHORT, || async {
        tokio::time::pause();
        let lab = Lab::new().await;
        let found = seen_of(&lab, crate::fake_world::Flaw::AgentsDoNotFence, &[], Strike::Sleep).await;
        assert!(found.is_empty(), "a run that was struck: {}", found.join("; "));
    });
    Claim {
        name: "crash-loop",
        says: "whatever step fails in whatever way, and wherever its coordinator is struck, once or twice: all components or none, and nothing stays stopped",
        cases: vec![
            tests("nobody-is-struck", &["crash_loop_begins_with_what_happens"], 1),
            tests("every-place", &["crash_loop_strikes_every_plan_at_every_place"], 1),
            part("steps-that-go-wrong-even", "crash_loop_strikes_runs_of_which_a_step_goes_wrong", "0"),
            part("steps-that-go-wrong-odd", "crash_loop_strikes_runs_of_which_a_step_goes_wrong", "1"),
            // Every pair of places, in quarters.
            quarter("twice-and-on-the-way-back-1", "crash_loop_strikes_runs_twice", "0"),
            quarter("twice-and-on-the-way-back-2", "crash_loop_strikes_runs_twice", "1"),
            quarter("twice-and-on-the-way-back-3", "crash_loop_strikes_runs_twice", "2"),
            quarter("twice-and-on-the-way-back-4", "crash_loop_strikes_runs_twice", "3"),
            tests("past-the-point", &["crash_loop_strikes_restores_that_are_taken_back"], 1),
        ],
        breaks: vec![
            Break { case: unannounced, seen: "and the journal does not know" },
            Break { case: two_at_once, seen: "a run that was struck: " },
        ],
    }
}

/// What MySQL and MariaDB are torn by: a word, the operation, who dies, from which statement on, and how often at least.
const TORN: [(&str, Operation, Victim, u64, u64); 11] = [
    ("stage-before", Operation::Stage, Victim::Agent(Moment::Before), 0, 15),
    ("stage-while", Operation::Stage, Victim::Agent(Moment::While), 0, 15),
    ("stage-server", Operation::Stage, Victim::Server, 0, 15),
    ("commit-before", Operation::Commit, Victim::Agent(Moment::Before), 0, 40),
    ("commit-after", Operation::Commit, Victim::Agent(Moment::After), 0, 40),
    ("commit-server", Operation::Commit, Victim::Server, 0, 40),
    ("rollback-before", Operation::Rollback, Victim::Agent(Moment::Before), 0, 30),
    ("rollback-after", Operation::Rollback, Victim::Agent(Moment::After), 0, 30),
    ("rollback-server", Operation::Rollback, Victim::Server, 0, 30),
    ("finalize-after", Operation::Finalize, Victim::Agent(Moment::After), 0, 4),
    ("finalize-server", Operation::Finalize, Victim::Server, 0, 4),
];

/// On MariaDB at every statement. MySQL starts and answers several times as slowly: there agents die before and after every second one, which is once between
/// every two, and the server at every third.
fn torn(root: &'static str, (word, operation, victim, first, least): (&str, Operation, Victim, u64, u64)) -> Case {
    let stride = match (root, operation, victim) {
        ("host", ..) | (_, Operation::Finalize, _) => 1,
        (_, _, Victim::Agent(_)) => 2,
        (_, _, Victim::Server) => 3,
    };
    Case::telling(format!("{root}-{word}"), LONG, move || async move {
        let Some(found) = (if root == "host" { Some(Root::host()) } else { Root::unpacked(root) }) else {
            return Finding::Skipped(format!("{root} is not unpacked (make test-matrix)"));
        };
        let torn = every_statement(&found, operation, victim, first, stride).await;
        assert!(torn >= least / stride, "torn only {torn} times");
        Finding::Holds(format!("torn {torn} times"))
    })
}

fn sub_steps() -> Claim {
    let mut cases: Vec<Case> = ["sid-mysql", "host"].iter().flat_map(|root| TORN.map(|t| torn(root, t))).collect();
    cases.extend([
        tests("postgres-stage-before", &["postgres::kills::a_stage_survives_every_death_before"], 1),
        tests("postgres-stage-after", &["postgres::kills::a_stage_survives_every_death_after"], 1),
        tests("postgres-commit-before", &["postgres::kills::a_commit_survives_every_death_before"], 1),
        tests("postgres-commit-after", &["postgres::kills::a_commit_survives_every_death_after"], 1),
        tests("postgres-rollback", &["postgres::kills::a_rollback"], 1),
        tests("postgres-finalize", &["postgres::kills::a_finalize", "postgres::kills::sub_steps_are"], 2),
        tests("redis-replication", &["redis_killed_by_replication"], 4),
        tests("redis-reload", &["redis_killed_by_reload"], 2),
        tests("redis-restart", &["redis_killed_by_restart"], 2),
        tests("files", &["files::killed::an_agent_that", "files::killed::states_are"], 2),
        tests("files-that-may-not-be-changed", &["files::killed::a_change_that"], 1),
        // One after the other, the second at every other step: all pairs take more than a case may.
        part("files-twice", "files::killed::agents_that", "0"),
    ]);
    let rolls_nothing_back = Case::new("rolls-nothing-back", LONG, || async {
        let commit = (Operation::Commit, Victim::Agent(Moment::After));
        every_statement_by(&Root::host(), commit, 30, 1, |engine| Flaw::RollsNothingBack.of(engine)).await;
    });
    Claim {
        name: "sub-steps",
        says: "agent and server are killed between every two sub-steps of stage, commit, rollback and finalize: all of the old data or all of the new, and nothing else",
        cases,
        breaks: vec![Break { case: rolls_nothing_back, seen: "found and expected differ" }],
    }
}

fn refused() -> Claim {
    let all = Case::telling("table", LONG, || async {
        let ground = refused::Ground::open().await;
        let refusals = ground.refusals(true);
        for refusal in &refusals {
            ground.must_refuse(refusal).await;
        }
        ground.must_restore().await;
        Finding::Holds(format!("{} refused", refusals.len()))
    });
    let believed = Case::new("edited-by-a-signer", SHORT, || async {
        let ground = refused::Ground::open().await;
        ground.must_refuse(&ground.changed_by_a_signer()).await;
    });
    Claim {
        name: "refused",
        says: "what is damaged, missing, cut, swapped, foreign, forged, of another key, format or release is refused by name before any store is touched",
        cases: vec![all],
        breaks: vec![Break { case: believed, seen: "it was not refused" }],
    }
}

fn in_the_way() -> Claim {
    let name = "in-the-way";
    let middle = |word: &'static str, method| {
        mounting(name, word, move || async move {
            let filled = full::redis_load(method, |redis| redis).await;
            assert!(filled >= 10, "filled up only {filled} times");
        })
    };
    let unchecked = mounting(name, "calls-failure-success", || async {
        full::redis_load(LoadMethod::Replication, |redis| Flawed::new(redis, Flaw::CommitsNothing)).await;
    });
    Claim {
        name,
        says: "without room, without connections, with somebody in the way: an error that says what to do, and the old data is there",
        cases: vec![
            tests("mysql", &["mysql::staged::without_connections", "mysql::staged::a_client_in_the_way"], 2),
            tests("postgres", &["postgres::limits::", "postgres::staged::connections_that_come_back"], 4),
            tests("postgres-somebody", &["postgres::staged::who_may_not_be_thrown_out"], 1),
            tests("redis", &["redis_without_room_for_a_stage", "redis_staged_commit_whose_server_refuses"], 2),
            tests("redis-memory", &["redis_ways_that_do_not_fit_are_refused"], 1),
            middle("redis-in-the-middle", LoadMethod::Replication),
            middle("redis-in-the-middle-of-a-reload", LoadMethod::Reload),
            mounting(name, "volume", full::volume),
            tests("files", &["files::mounts::a_set_that_does_not_fit"], 1),
        ],
        breaks: vec![Break { case: unchecked, seen: "differ" }],
    }
}

fn installation() -> Claim {
    let struck = |name: &'static str, deed: Deed, first: usize| {
        Case::telling(name, LONG, move || async move {
            // Two cases share the events, so that none takes too long.
            let struck = taken_back::Ground::open().await.is_struck(deed, first, 2).await;
            assert!(struck >= 5, "killed only {struck} times");
            Finding::Holds(format!("killed {struck} times"))
        })
    };
    let hasty = Case::new("applications-that-nobody-stops", SHORT, || async {
        taken_back::Ground::with_hasty_applications().await.is_put_back().await;
    });
    Claim {
        name: "installation",
        says: "old data comes back from the safety set, is dropped, or is put back, also when the coordinator is killed at any event: all five stores, and nothing is left",
        cases: vec![
            Case::new("safety-set", SHORT, || async {
                taken_back::Ground::open().await.comes_back_from_its_safety_set().await;
            }),
            Case::new("kept", SHORT, || async {
                let ground = taken_back::Ground::open().await;
                ground.is_put_back().await;
                ground.is_dropped().await;
            }),
            struck("finalize-even", Deed::Finalize, 0),
            struck("finalize-odd", Deed::Finalize, 1),
            struck("rollback-even", Deed::Rollback, 0),
            struck("rollback-odd", Deed::Rollback, 1),
        ],
        breaks: vec![Break { case: hasty, seen: "differs" }],
    }
}
