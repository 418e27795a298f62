//! Holds of every engine on its real server.

mod in_the_way;

use keepsake_tests::holds::{Redis, mysql, postgres};
use keepsake_tests::root::Root;
use keepsake_tests::servers::redis::RedisServer;

macro_rules! holds {
    ($($name:ident: $server:expr;)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test]
            async fn writers_wait_and_readers_do_not() {
                keepsake_tests::holds::writers_wait_and_readers_do_not($server).await;
            }

            #[tokio::test]
            async fn the_datastore_ends_a_hold_that_nobody_asks_for() {
                keepsake_tests::holds::the_datastore_ends_a_hold_that_nobody_asks_for($server).await;
            }

            #[tokio::test]
            async fn a_hold_that_is_not_had_in_time_leaves_nobody_waiting() {
                keepsake_tests::holds::a_hold_that_is_not_had_in_time_leaves_nobody_waiting($server).await;
            }
        })*
    };
}

holds! {
    of_mysql: mysql(&Root::host()).await;
    of_postgres: postgres().await;
    of_redis: Redis(RedisServer::start(&[]).await);
}
