//! No room, in the repository and in a datastore: the library's cases, a test each.

use keepsake_agent::engine::redis::LoadMethod;
use keepsake_tests::full;
use keepsake_tests::own_mounts::may_mount;

#[tokio::test]
async fn installation_whose_repository_is_full() {
    if may_mount("full::installation_whose_repository_is_full") {
        // Room for the journal, and for one of the dumps.
        full::repository(&[150_000]).await;
    }
}

#[tokio::test]
async fn volume_that_is_full() {
    if may_mount("full::volume_that_is_full") {
        full::volume().await;
    }
}

#[tokio::test]
async fn redis_data_folder_that_is_full() {
    if may_mount("full::redis_data_folder_that_is_full") {
        full::redis_data_folder(|redis| redis).await;
    }
}

#[tokio::test]
async fn redis_data_folder_that_fills_up_in_the_middle_of_a_load() {
    if may_mount("full::redis_data_folder_that_fills_up_in_the_middle_of_a_load") {
        let filled = full::redis_load(LoadMethod::Replication, |redis| redis).await;
        assert!(filled >= 10, "filled up only {filled} times");
    }
}

#[tokio::test]
async fn redis_data_folder_that_fills_up_in_the_middle_of_a_reload() {
    if may_mount("full::redis_data_folder_that_fills_up_in_the_middle_of_a_reload") {
        let filled = full::redis_load(LoadMethod::Reload, |redis| redis).await;
        assert!(filled >= 10, "filled up only {filled} times");
    }
}
