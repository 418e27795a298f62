//! Loads that are torn at every statement: the library's loop, a test for each operation and victim.

use keepsake_tests::root::Root;
use keepsake_tests::servers::mysql::line::Moment;
use keepsake_tests::servers::mysql::torn::{Operation, Victim, every_statement};

/// A test of one operation: from which statement on, each so many, and how many it must be torn at, at least.
macro_rules! torn {
    ($name:ident, $operation:ident, $victim:expr, $first:literal, $stride:literal, $least:literal) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let torn = every_statement(&Root::host(), Operation::$operation, $victim, $first, $stride).await;
            println!("torn {torn} times");
            assert!(torn >= $least, "torn only {torn} times");
        }
    };
}

torn!(a_commit_before_each_statement, Commit, Victim::Agent(Moment::Before), 0, 1, 40);
torn!(a_commit_after_each_statement, Commit, Victim::Agent(Moment::After), 0, 1, 40);
torn!(a_commit_by_a_server_that_dies, Commit, Victim::Server, 1, 3, 10);
torn!(a_rollback_before_each_statement, Rollback, Victim::Agent(Moment::Before), 0, 1, 30);
torn!(a_rollback_after_each_statement, Rollback, Victim::Agent(Moment::After), 0, 1, 30);
torn!(a_rollback_by_a_server_that_dies, Rollback, Victim::Server, 1, 3, 10);
torn!(a_stage_before_statements, Stage, Victim::Agent(Moment::Before), 0, 2, 8);
torn!(a_stage_while_they_run, Stage, Victim::Agent(Moment::While), 1, 2, 8);
torn!(a_stage_by_a_server_that_dies, Stage, Victim::Server, 1, 3, 5);
torn!(a_finalize_after_each_statement, Finalize, Victim::Agent(Moment::After), 0, 1, 4);
torn!(a_finalize_by_a_server_that_dies, Finalize, Victim::Server, 0, 1, 4);
