//! No room: in the repository, in a volume that is loaded, in a Redis' data folder. What cannot be done is an error that says so; nothing
//! counts as done that is not, the old data stays, and with room the next time works.
//!
//! All of it mounts: run it where [`own_mounts::enter`](crate::own_mounts::enter) says that one may.

mod redis_load;

use keepsake_agent::engine::Context;
use keepsake_core::Kind;
use keepsake_core::error::Error;
use tokio_util::sync::CancellationToken;

pub use self::redis_load::redis_load;
use crate::conformance::{context, dump, must_load, nothing_is_left, run, same, source};
use crate::house::{House, RepositoryAt};
use crate::memory::MemorySink;
use crate::own_mounts::{fill, make_room, mount};
use crate::scratch::Scratch;
use crate::stand::{Contents, Files, Redis, Stand};
use crate::threescale::Size;

/// The error tells that there is no room, and that somebody must make some.
fn tells_of_room(error: &Error, what: &str) {
    let told = error.chain();
    assert!(told.contains("make room"), "{what}: {told}");
    assert!(matches!(error.kind(), Kind::Busy | Kind::Unavailable), "{what}: {:?} {told}", error.kind());
}

/// A repository on a full filesystem; each time with so many bytes left.
///
/// It takes half a minute each time and more: the store is asked again and again whether there is room by now.
pub async fn repository(lefts: &[u64]) {
    let scratch = Scratch::new();
    let at = scratch.path().join("repository");
    mount(&at, "96m");
    std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("close the repository");
    let url = format!("file://{}", at.display());
    let at_full = RepositoryAt { url, topology: String::new(), agents: Vec::new() };
    let house = House::with(&["prod"], Size::TINY, scratch, at_full).await;
    house.must(&["backup"]);
    let complete = || {
        let sets = house.must_json(&["sets"]);
        sets.as_array().expect("sets").iter().filter(|s| s["status"] == "complete").count()
    };
    for left in lefts.iter().copied() {
        let before = complete();
        fill(&house.repository(), left);
        let done = house.keepsake(&["backup"]);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(matches!(done.status.code(), Some(1 | 4)), "{left} bytes left: {}: {told}", done.status);
        assert!(told.contains("make room"), "{left} bytes left: {told}");
        assert_eq!(complete(), before, "{left} bytes left: a set was called complete: {told}");
        house.must(&["verify"]);
        make_room(&house.repository());
        // Where the journal could not be written either, nobody has ended the run.
        crate::kills::end_for_it(&house, "a full repository");
        house.must(&["backup"]);
        house.must(&["verify"]);
        assert_eq!(complete(), before + 1, "{left} bytes were left");
    }
}

/// What a volume holds besides the folder of a load.
fn without_ours(mut contents: Contents) -> Contents {
    contents.retain(|path, _| !path.starts_with(".keepsake-"));
    contents
}

/// A volume without room for what is loaded.
pub async fn volume() {
    let stand = Files::start();
    mount(stand.root(), "16m");
    stand.fill().await;
    let full = stand.contents().await;
    let (report, bytes) = dump(&stand).await;
    stand.change().await;
    for left in [0, 100_000, 1_500_000] {
        let what = format!("{left} bytes left in the volume");
        let (engine, key) = (stand.engine(), run());
        // Foreseen …
        fill(stand.root(), left);
        let refused = engine.stage(&key, source(&stand, &report, bytes.clone()), &context()).await.expect_err(&what);
        tells_of_room(&refused, &what);
        make_room(stand.root());
        // … and filled by somebody else in between: what is staged needs no more room.
        for committed in [false, true] {
            let staged = engine.stage(&key, source(&stand, &report, bytes.clone()), &context()).await;
            staged.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            let before = stand.contents().await;
            fill(stand.root(), left);
            if committed {
                engine.commit(&key, &context()).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            }
            engine.rollback(&key, &context()).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
            make_room(stand.root());
            same(&stand.contents().await, &without_ours(before), &what);
            nothing_is_left(&stand, &what).await;
        }
    }
    must_load(&stand, &report, &bytes).await;
    same(&stand.contents().await, &full, "with room");
}

/// A Redis whose data folder has no room for a save. `flawed` may put something between.
pub async fn redis_data_folder<S: Stand>(flawed: impl Fn(Redis) -> S) {
    let redis = Redis::start(true).await;
    let data = redis.data().to_owned();
    let mut stand = flawed(redis);
    stand.vanish();
    mount(&data, "24m");
    crate::child::give_to_servers(&data);
    stand.come_back().await;
    // The first save is small, so that the agent cannot foresee that the second has no room.
    dump(&stand).await;
    stand.fill().await;
    let full = stand.contents().await;
    for unforeseen in [true, false] {
        let what =
            format!("no room for a save, {}", if unforeseen { "as only the save finds out" } else { "foreseen" });
        fill(&data, 500_000);
        let sink = MemorySink::default();
        let (cx, _) = Context::new(CancellationToken::new());
        let engine = stand.engine();
        let error = engine.dump(None, &sink, &cx).await.map(drop).expect_err(&what);
        tells_of_room(&error, &what);
        assert!(sink.finished().is_empty(), "{what}: a dump that failed has an artifact");
        nothing_is_left(&stand, &what).await;
        make_room(&data);
        let (report, bytes) = dump(&stand).await;
        same(&stand.contents().await, &full, &what);
        must_load(&stand, &report, &bytes).await;
        same(&stand.contents().await, &full, &what);
    }
}
