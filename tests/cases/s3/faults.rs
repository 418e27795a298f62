//! Whatever the server or the network does, nothing is called stored that is not: the library's cases, a test each.

use keepsake_tests::s3::faults;

#[tokio::test]
async fn s3_put_that_goes_wrong_once_is_made_good() {
    faults::put_that_goes_wrong_once_is_made_good().await;
}

#[tokio::test]
async fn s3_get_that_goes_wrong_once_is_made_good() {
    faults::get_that_goes_wrong_once_is_made_good().await;
}

#[tokio::test]
async fn s3_storm_that_does_not_end_is_an_error_and_no_artifact() {
    faults::storm_that_does_not_end_is_an_error_and_no_artifact().await;
}

#[tokio::test]
async fn s3_document_whose_answer_was_lost_is_created_once() {
    faults::document_whose_answer_was_lost_is_created_once().await;
}

#[tokio::test]
async fn s3_listing_that_stalls_or_fails_is_repeated() {
    faults::listing_that_stalls_or_fails_is_repeated().await;
}

#[tokio::test]
async fn s3_probe_whose_creates_are_not_answered_is_tried_again() {
    faults::probe_whose_creates_are_not_answered_is_tried_again().await;
}

#[tokio::test]
async fn s3_server_that_overwrites_is_refused() {
    faults::server_that_overwrites_is_refused().await;
}
