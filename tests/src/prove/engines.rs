//! What `make prove-engines` claims: every engine, every fault.

use keepsake_core::error::Result;
use peak_alloc::PeakAlloc;

use super::flaws::{Flaw, Flawed};
use super::{Break, Case, Claim, Finding, LONG, SHORT, matrix, run};
use crate::kills::{Arena, BLOWS, Blow, Operation, Victim, stride};
use crate::s3::{conforms, faults, patient_store};
use crate::scratch::Scratch;
use crate::servers::s3::{Oddity, S3Server};
use crate::stand::{Files, Mysql, Postgres, Redis, Stand};
use crate::{conformance, full, fuzz, own_mounts};

/// Inputs of each of the readers: more than a million in all.
const FUZZ_INPUTS: u64 = 170_000;

/// All claims. `memory` is the program's allocator.
pub fn claims(memory: &'static PeakAlloc) -> Vec<Claim> {
    vec![
        servers(),
        kills(),
        no_room(),
        s3(),
        engine(
            "redis",
            || Redis::start(true),
            ("loses-the-tail", "the RDB ends early", || async {
                conformance::round_trip(Flawed::new(Redis::start(true).await, Flaw::LosesTheTail)).await;
            }),
        ),
        engine(
            "redis-over-the-network",
            || Redis::start(false),
            ("commits-nothing", "over changed data: these differ", || async {
                conformance::round_trip(Flawed::new(Redis::start(false).await, Flaw::CommitsNothing)).await;
            }),
        ),
        engine(
            "mysql",
            Mysql::start,
            ("calls-failure-success", "called a success", || async {
                conformance::blows_to_a_dump(Flawed::new(Mysql::start().await, Flaw::CallsFailureSuccess)).await;
            }),
        ),
        engine(
            "postgres",
            Postgres::start,
            ("stages-unchecked", "was staged", || async {
                let stand = Flawed::new(Postgres::start().await, Flaw::StagesUnchecked);
                conformance::refused_before_anything_is_touched(stand).await;
            }),
        ),
        engine(
            "files",
            || std::future::ready(Files::start()),
            ("overlooks-a-file", "over changed data: these differ", || async {
                let stand = Files::start();
                let overlooked = stand.root().join("large-7");
                conformance::round_trip(Flawed::new(stand, Flaw::Overlooks(overlooked))).await;
            }),
        ),
        fuzzing(memory),
    ]
}

/// The conformance cases of an engine, and a flaw that they must see.
fn engine<S, F, B>(
    name: &'static str,
    start: impl Fn() -> F + Copy + Sync + 'static,
    (flaw, seen, broken): (&'static str, &'static str, impl Fn() -> B + Sync + 'static),
) -> Claim
where
    S: Stand + 'static,
    F: Future<Output = S> + 'static,
    B: Future<Output = ()> + 'static,
{
    let case = |name: &str, work: Box<dyn Fn() -> super::Work + Sync>| Case {
        name: name.to_owned(),
        limit: SHORT,
        alone: false,
        work,
    };
    macro_rules! cases {
        ($($function:ident),*) => {
            vec![$(case(stringify!($function), Box::new(move || Box::pin(async move {
                conformance::$function(start().await).await;
                Finding::Holds(String::new())
            })))),*]
        };
    }
    Claim {
        name,
        says: "the engine does on its real server what every engine must, whatever strikes it",
        cases: cases![
            describe,
            round_trip,
            under_write_load,
            refused_before_anything_is_touched,
            in_place_is_refused_beside_what_can_be_taken_back,
            blows_to_a_dump,
            blows_to_a_load
        ],
        breaks: vec![Break { case: Case::new(flaw, SHORT, broken), seen }],
    }
}

fn kills() -> Claim {
    let mut cases = Vec::new();
    for operation in [Operation::Restore, Operation::Backup] {
        for (victim, blow) in BLOWS {
            // A restore has so many events that all of them take one case too long. Tools run after few of them, and the others are passed over.
            let parts = if operation == Operation::Restore && victim != Victim::Tool { 2 } else { 1 };
            for part in 0..parts {
                let name = format!("{operation:?}-{victim:?}-{blow:?}-{}-of-{parts}", part + 1).to_lowercase();
                let limit = if operation == Operation::Restore { LONG + SHORT } else { LONG };
                cases.push(Case::telling(name, limit, move || async move {
                    let mut arena = Arena::open(operation).await;
                    let stride = stride(1);
                    let tally = arena.strike_all(&[(victim, blow)], part * stride, parts * stride).await;
                    assert!(tally.struck > 0, "nobody was struck in {} runs", tally.runs);
                    let told =
                        format!("struck {} times in {} runs, {} events", tally.struck, tally.runs, arena.events());
                    // Fewer than all is not what is claimed.
                    if stride == 1 {
                        Finding::Holds(told)
                    } else {
                        Finding::Skipped(format!("{told}: KEEPSAKE_SOAK is {stride}"))
                    }
                }));
            }
        }
    }
    // Where the coordinator waits for an agent that is frozen and that nobody replaces.
    for (operation, event) in [(Operation::Backup, 3), (Operation::Restore, 2)] {
        let name = format!("{operation:?}-frozen-agent-cancelled").to_lowercase();
        cases.push(Case::new(name, SHORT, move || async move {
            let mut arena = Arena::open(operation).await;
            arena.strike(event, Victim::Agent, Blow::StopUntilCancelled).await;
        }));
    }
    let record_without_data = Case::new("record-without-its-data", SHORT, || async {
        let mut arena = Arena::open(Operation::Backup).await;
        arena.sabotage(crate::kills::lose_a_segment);
        arena.strike(0, Victim::Agent, Blow::StopForAWhile).await;
    });
    Claim {
        name: "kills",
        says: "agent, tool and coordinator are killed and stopped at every event of a backup and of a restore: never a record without its data",
        cases,
        breaks: vec![Break { case: record_without_data, seen: "it is missing from the repository" }],
    }
}

fn s3() -> Claim {
    macro_rules! cases {
        ($($function:ident),*) => { vec![$(Case::new(stringify!($function), SHORT, faults::$function)),*] };
    }
    let mut cases = cases![
        put_that_goes_wrong_once_is_made_good,
        get_that_goes_wrong_once_is_made_good,
        storm_that_does_not_end_is_an_error_and_no_artifact,
        document_whose_answer_was_lost_is_created_once,
        listing_that_stalls_or_fails_is_repeated,
        probe_whose_creates_are_not_answered_is_tried_again,
        server_that_overwrites_is_refused
    ];
    cases.push(Case::new("conforms", SHORT, || conforms_with(Oddity::None)));
    Claim {
        name: "s3",
        says: "whatever the server or the network does, nothing is called stored that is not",
        cases,
        breaks: vec![Break {
            case: Case::new("store-that-overwrites", SHORT, || conforms_with(Oddity::IgnoresIfNoneMatch)),
            seen: "this store overwrites",
        }],
    }
}

async fn conforms_with(oddity: Oddity) {
    let server = S3Server::start(oddity);
    conforms(&patient_store(&server, &Scratch::new())).await;
}

/// A case that mounts: it runs itself again where it may.
pub(super) fn mounting<F: Future<Output = ()> + 'static>(
    claim: &'static str,
    name: &'static str,
    work: impl Fn() -> F + Sync + 'static,
) -> Case {
    Case::telling(name, LONG, move || {
        let work = work();
        async move {
            match own_mounts::enter(&[run::CASE, claim, name]) {
                own_mounts::Place::Inside => work.await,
                own_mounts::Place::Outside(done) => {
                    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                }
                own_mounts::Place::Forbidden(why) => return Finding::Skipped(why),
            }
            Finding::Holds(String::new())
        }
    })
}

fn no_room() -> Claim {
    let name = "no-room";
    Claim {
        name,
        says: "without room nothing counts as done, the error says what to do, and with room it works again",
        cases: vec![
            mounting(name, "repository", || full::repository(&[0, 150_000])),
            mounting(name, "volume", full::volume),
            mounting(name, "redis-data-folder", || full::redis_data_folder(|redis| redis)),
        ],
        breaks: vec![Break {
            case: mounting(name, "calls-failure-success", || {
                full::redis_data_folder(|redis| Flawed::new(redis, Flaw::CallsFailureSuccess))
            }),
            seen: "as only the save finds out: ()",
        }],
    }
}

fn servers() -> Claim {
    // Begun first, and alone in taking so long.
    let case = |name: &'static str| Case::telling(name, LONG * 4, move || async move { matrix::engine(name) });
    Claim {
        name: "servers",
        says: "the engines work on servers of other releases, or refuse them in words",
        cases: ["mysql", "redis", "postgres"].into_iter().map(case).collect(),
        breaks: vec![Break {
            case: Case::telling("mislabelled", LONG, || async { matrix::mislabelled() }),
            seen: "of another server: it was loaded",
        }],
    }
}

fn fuzzing(memory: &'static PeakAlloc) -> Claim {
    let cases =
        fuzz::FORMATS.iter().map(|format| {
            Case::telling(format.name, SHORT, move || async move {
                Finding::Holds(fuzz::run(format, FUZZ_INPUTS, 1, memory))
            })
        });
    let broken = |name: &'static str, seen, read: fn(&[u8]) -> Result<()>| {
        let case = Case::new(name, SHORT, move || async move {
            fuzz::run(
                &fuzz::Format { name: "dump.rdb", file: "dump.rdb", read, memory: 2 << 20 },
                FUZZ_INPUTS,
                1,
                memory,
            );
        });
        Break { case, seen }
    };
    Claim {
        name: "fuzz",
        says: "a million inputs that no dump tool wrote: no panic, no memory without bound",
        cases: cases.collect(),
        breaks: vec![
            broken("reader-that-panics", "it panicked", |bytes| {
                assert!(bytes.len() < 100_000 && !bytes.ends_with(&[0xff; 4]), "on purpose");
                keepsake_core::format::rdb::walk(bytes).map(drop)
            }),
            broken("reader-that-believes-lengths", "bytes for an input of", |bytes| {
                let believed = bytes.iter().take(4).fold(0_usize, |n, b| n << 8 | usize::from(*b)) % (64 << 20);
                drop(Vec::<u8>::with_capacity(if bytes.starts_with(b"REDIS") { 0 } else { believed }));
                keepsake_core::format::rdb::walk(bytes).map(drop)
            }),
        ],
    }
}
