//! What a server is set up with: definers, collations, replicas, the case of names.

use keepsake_core::error::Kind;
use keepsake_tests::root::Root;
use keepsake_tests::servers::mysql::{MysqlServer, trials};
use keepsake_tests::steps;

#[tokio::test]
async fn objects_of_other_definers_need_a_privilege() {
    trials::definers(&Root::host()).await;
}

#[tokio::test]
async fn triggers_of_another_collation_come_back_with_it() {
    trials::another_collation(&Root::host()).await;
}

#[tokio::test]
async fn a_load_reaches_the_replica_and_a_replica_is_refused() {
    trials::gtids_and_a_replica(&Root::host()).await;
}

#[tokio::test]
async fn a_statement_that_does_not_fit_is_told_and_refused() {
    trials::long_statements(&Root::host()).await;
}

#[tokio::test]
async fn a_server_of_another_name_case_is_refused() {
    let lower = MysqlServer::with(&["--lower-case-table-names=1"]).await;
    let exact = MysqlServer::start().await;
    for server in [&lower, &exact] {
        server.run(&["CREATE DATABASE system", "CREATE TABLE system.Mixed (id int)"]).await;
    }
    let engines = [lower.engine(), exact.engine()];
    for (from, to, server) in [(0, 1, &exact), (1, 0, &lower)] {
        let (made, before) = (steps::dump(&engines[from]).await, server.state().await);
        let error = steps::restore(&engines[to], &made).await.unwrap_err();
        assert!(
            error.kind() == Kind::Unsupported && error.chain().contains("lower_case_table_names"),
            "{}",
            error.chain()
        );
        assert_eq!(server.state().await, before);
        steps::must_restore(&engines[from], &made).await;
    }
}
