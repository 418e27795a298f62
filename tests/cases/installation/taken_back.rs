//! What becomes of the old data: the library's cases, a test each. All of them, at every event, in `make prove-restore`.

use keepsake_tests::kills::stride;
use keepsake_tests::taken_back::{Deed, Ground};

/// How far apart the events are at which the coordinator is killed here.
const APART: usize = 6;

#[tokio::test]
async fn installation_comes_back_from_the_safety_set_of_a_restore() {
    Ground::open().await.comes_back_from_its_safety_set().await;
}

#[tokio::test]
async fn installation_whose_old_data_is_kept_drops_it_or_puts_it_back() {
    let ground = Ground::open().await;
    ground.is_put_back().await;
    ground.is_dropped().await;
}

#[tokio::test]
async fn installation_whose_coordinator_is_killed_while_it_drops_old_data() {
    let struck = Ground::open().await.is_struck(Deed::Finalize, 2, stride(APART)).await;
    assert!(struck >= 2, "killed only {struck} times");
}

#[tokio::test]
async fn installation_whose_coordinator_is_killed_while_it_puts_old_data_back() {
    let struck = Ground::open().await.is_struck(Deed::Rollback, 3, stride(APART + 1)).await;
    assert!(struck >= 2, "killed only {struck} times");
}
