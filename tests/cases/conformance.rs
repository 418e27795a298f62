//! What every engine must do, the same for all, on its real server: the library's cases, a test each.

use keepsake_tests::conformance;
use keepsake_tests::stand::{Files, Mysql, Postgres, Redis};

/// The cases of one engine.
macro_rules! conformance {
    ($engine:ident, $stand:expr) => {
        mod $engine {
            use super::*;

            #[tokio::test]
            async fn describe() {
                conformance::describe($stand).await;
            }

            #[tokio::test]
            async fn round_trip() {
                conformance::round_trip($stand).await;
            }

            #[tokio::test]
            async fn under_write_load() {
                conformance::under_write_load($stand).await;
            }

            #[tokio::test]
            async fn refused_before_anything_is_touched() {
                conformance::refused_before_anything_is_touched($stand).await;
            }

            #[tokio::test]
            async fn in_place_is_refused_beside_what_can_be_taken_back() {
                conformance::in_place_is_refused_beside_what_can_be_taken_back($stand).await;
            }

            #[tokio::test]
            async fn blows_to_a_dump() {
                conformance::blows_to_a_dump($stand).await;
            }

            #[tokio::test]
            async fn blows_to_a_load() {
                conformance::blows_to_a_load($stand).await;
            }
        }
    };
}

conformance!(redis, Redis::start(true).await);
conformance!(redis_over_the_network, Redis::start(false).await);
conformance!(mysql, Mysql::start().await);
conformance!(postgres, Postgres::start().await);
conformance!(files, Files::start());
