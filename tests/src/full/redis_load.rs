//! A Redis whose folder is filled up by somebody else in the middle of a load: at each of its sub-steps in turn.

use keepsake_agent::engine::redis::LoadMethod;
use keepsake_agent::engine::{Context, Progress, Staged};
use keepsake_core::Kind;
use keepsake_core::error::Result;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::conformance::{context, dump, nothing_is_left, run, same, source};
use crate::own_mounts::{fill, make_room, mount};
use crate::stand::{Redis, Stand};

/// So many bytes are left: less than is written at any sub-step that writes data, and enough for a note of how far it is.
const LEFT: u64 = 100_000;

/// What is being done when the room goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Stage,
    Commit,
    Rollback,
}

/// Does the work, and the deed once, when the sub-step of this number begins. Gives what came of the work, and the sub-step if it came so far.
async fn meanwhile<T>(
    nth: usize,
    mut progress: watch::Receiver<Progress>,
    work: impl Future<Output = T>,
    deed: impl FnOnce(),
) -> (T, Option<String>) {
    let mut work = Box::pin(work);
    let (mut deed, mut seen, mut last) = (Some(deed), 0, String::new());
    let mut place = None;
    let done = std::future::poll_fn(|task| {
        let polled = work.as_mut().poll(task);
        let phase = progress.borrow_and_update().phase.clone();
        if polled.is_pending() && phase != last {
            last = phase;
            seen += 1;
            if let Some(deed) = deed.take_if(|_| seen > nth) {
                deed();
                place = Some(last.clone());
            }
        }
        polled
    })
    .await;
    (done, place)
}

/// At every sub-step of stage, commit and rollback: it goes on all the same, or says that there is no room; the old data is live or kept, and with room the
/// rollback brings it back. Gives how often it was done. `flawed` may put something between.
///
/// # Panics
/// When anything is otherwise.
pub async fn redis_load<S: Stand>(method: LoadMethod, flawed: impl Fn(Redis) -> S) -> usize {
    let redis = Redis::start_by(method).await;
    let data = redis.data().to_owned();
    let mut stand = flawed(redis);
    stand.vanish();
    mount(&data, "32m");
    crate::child::give_to_servers(&data);
    stand.come_back().await;
    stand.fill().await;
    let new = stand.contents().await;
    let (report, bytes) = dump(&stand).await;
    stand.change().await;
    let old = stand.contents().await;
    let mut filled = 0;
    for operation in [Operation::Stage, Operation::Commit, Operation::Rollback] {
        for nth in 0.. {
            let (engine, key) = (stand.engine(), run());
            let from = || source(&stand, &report, bytes.clone());
            let before: &[Operation] = match operation {
                Operation::Stage => &[],
                Operation::Commit => &[Operation::Stage],
                Operation::Rollback => &[Operation::Stage, Operation::Commit],
            };
            for earlier in before {
                let done = match earlier {
                    Operation::Stage => engine.stage(&key, from(), &context()).await.map(drop),
                    Operation::Commit | Operation::Rollback => engine.commit(&key, &context()).await.map(drop),
                };
                done.unwrap_or_else(|e| panic!("{operation:?}, before: {}", e.chain()));
            }
            let (cx, progress) = Context::new(CancellationToken::new());
            let work = async {
                match operation {
                    Operation::Stage => engine.stage(&key, from(), &cx).await.map(drop),
                    Operation::Commit => engine.commit(&key, &cx).await.map(drop),
                    Operation::Rollback => engine.rollback(&key, &cx).await,
                }
            };
            let (done, place) = meanwhile(nth, progress, work, || fill(&data, LEFT)).await;
            let what = format!("{operation:?} by {method:?}, no room from {place:?} on");
            let ended = done.is_ok();
            println!("{what}: {}", done.as_ref().err().map_or("done".to_owned(), |e| e.chain()));
            told(done, &what);
            let live = stand.contents().await;
            let kept = engine.staged(&key).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            match (operation, ended) {
                (Operation::Commit, true) => same(&live, &new, &what),
                (Operation::Rollback, true) | (Operation::Stage, _) => same(&live, &old, &what),
                // What is not live any more is kept, whole, until a rollback was told to be done.
                (_, false) if kept == Staged::Committing => {}
                (Operation::Commit, false) => same(&live, &old, &what),
                (Operation::Rollback, false) => same(&live, &new, &what),
            }
            if place.is_some() {
                make_room(&data);
                filled += 1;
            }
            engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{what}, with room: {}", e.chain()));
            same(&stand.contents().await, &old, &format!("{what}, with room"));
            nothing_is_left(&stand, &what).await;
            survives_a_kill(&mut stand, &old, &what).await;
            if place.is_none() {
                assert!(ended, "{what}: it failed with room");
                break;
            }
        }
    }
    filled
}

/// An error that somebody who makes room can do something about.
fn told(done: Result<()>, what: &str) {
    let Err(e) = done else { return };
    let told = e.chain();
    assert!(told.contains("make room") || told.contains("Make room"), "{what}: {told}");
    assert!(matches!(e.kind(), Kind::Busy | Kind::Unavailable), "{what}: {:?} {told}", e.kind());
}

async fn survives_a_kill<S: Stand>(stand: &mut S, expected: &crate::stand::Contents, what: &str) {
    stand.vanish();
    stand.come_back().await;
    same(&stand.contents().await, expected, &format!("{what}, after a kill"));
}
