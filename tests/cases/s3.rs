//! Repositories in S3: against a server in this process that can go wrong on purpose, and against any server that the environment names.

mod credentials;
mod faults;
mod installation;

use keepsake_core::id::SetId;
use keepsake_core::repository::{S3Settings, Store};
use keepsake_tests::s3::{conforms, patient_store};
use keepsake_tests::scratch::Scratch;
use keepsake_tests::servers::s3::{Oddity, S3Server};

#[tokio::test]
async fn s3_server_in_this_process_conforms() {
    let server = S3Server::start(Oddity::None);
    conforms(&patient_store(&server, &Scratch::new())).await;
}

/// `KEEPSAKE_TEST_S3_ENDPOINT`, `KEEPSAKE_TEST_S3_URL` (s3://bucket/prefix), `KEEPSAKE_TEST_S3_CREDENTIALS` (a file), and if need be
/// `KEEPSAKE_TEST_S3_REGION` and `KEEPSAKE_TEST_S3_CA`.
#[tokio::test]
async fn s3_server_of_the_environment_conforms() {
    let given = |name: &str| std::env::var(format!("KEEPSAKE_TEST_S3_{name}")).ok();
    let (Some(url), Some(credentials)) = (given("URL"), given("CREDENTIALS")) else {
        eprintln!("SKIPPED: no S3 server is named by KEEPSAKE_TEST_S3_URL and KEEPSAKE_TEST_S3_CREDENTIALS");
        return;
    };
    let settings = S3Settings {
        endpoint: given("ENDPOINT"),
        region: given("REGION"),
        credentials: Some(credentials.into()),
        ca: given("CA").map(Into::into),
        ..S3Settings::default()
    };
    let url = format!("{}/{}", url.trim_end_matches('/'), SetId::generate());
    conforms(&Store::open_with(&url, &settings).expect("a store")).await;
}
