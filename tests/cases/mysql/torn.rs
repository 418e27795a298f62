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

// After one statement is before the next: tests of each second one, before and after it, meet every place between two.
torn!(a_commit_before_statements, Commit, Victim::Agent(Moment::Before), 0, 4, 15);
torn!(a_commit_before_others, Commit, Victim::Agent(Moment::Before), 2, 4, 15);
torn!(a_commit_after_statements, Commit, Victim::Agent(Moment::After), 0, 4, 15);
torn!(a_commit_after_others, Commit, Victim::Agent(Moment::After), 2, 4, 15);
torn!(a_commit_by_a_server_that_dies, Commit, Victim::Server, 1, 7, 8);
torn!(a_rollback_before_statements, Rollback, Victim::Agent(Moment::Before), 0, 4, 15);
torn!(a_rollback_before_others, Rollback, Victim::Agent(Moment::Before), 2, 4, 15);
torn!(a_rollback_after_statements, Rollback, Victim::Agent(Moment::After), 0, 4, 15);
torn!(a_rollback_after_others, Rollback, Victim::Agent(Moment::After), 2, 4, 15);
torn!(a_rollback_by_a_server_that_dies, Rollback, Victim::Server, 1, 9, 8);
torn!(a_stage_before_statements, Stage, Victim::Agent(Moment::Before), 0, 7, 10);
torn!(a_stage_while_they_run, Stage, Victim::Agent(Moment::While), 3, 7, 10);
torn!(a_stage_by_a_server_that_dies, Stage, Victim::Server, 1, 11, 6);
torn!(a_finalize_after_each_statement, Finalize, Victim::Agent(Moment::After), 0, 1, 5);
torn!(a_finalize_by_a_server_that_dies, Finalize, Victim::Server, 1, 2, 3);
