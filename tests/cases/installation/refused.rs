//! What must not be restored: the library's table as a test. With every component's segments in `make prove-restore`.

use keepsake_tests::kills::stride;
use keepsake_tests::refused::Ground;

#[tokio::test]
async fn installation_is_not_restored_from_what_is_damaged_forged_or_foreign() {
    let ground = Ground::open().await;
    let refusals = ground.refusals(stride(2) == 1);
    for refusal in &refusals {
        ground.must_refuse(refusal).await;
    }
    println!("{} refused", refusals.len());
    assert!(refusals.len() >= 20, "only {} were tried", refusals.len());
    ground.must_restore().await;
}
