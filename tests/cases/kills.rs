//! Kill loops over a whole installation: some of all blows here, spread over all events; all of them in `make prove-engines`.

use keepsake_tests::kills::{Arena, BLOWS, Operation, Tally, stride};

/// How far apart the blows are that are tried here. No multiple of the number of blows, so that each blow has its turn.
const APART: usize = 19;

async fn some_blows(operation: Operation, stride: usize) -> Tally {
    let mut arena = Arena::open(operation).await;
    let tally = arena.strike_all(&BLOWS, 1, stride).await;
    println!("{operation:?}: {} of {} runs were struck", tally.struck, tally.runs);
    tally
}

#[tokio::test]
async fn installation_survives_blows_at_the_events_of_a_backup() {
    let tally = some_blows(Operation::Backup, stride(APART)).await;
    assert!(tally.struck * 2 >= tally.runs, "{tally:?}: were they struck at all?");
}

#[tokio::test]
async fn installation_survives_blows_at_the_events_of_a_restore() {
    let tally = some_blows(Operation::Restore, stride(APART * 2 + 1)).await;
    assert!(tally.struck * 2 >= tally.runs, "{tally:?}: were they struck at all?");
}
