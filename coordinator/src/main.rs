//! `keepsake`: backs up and restores whole 3scale installations.

use std::process::ExitCode;

use rustix::fs::Mode;

fn main() -> ExitCode {
    // Whatever this process creates is its user's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    keepsake_coordinator::forbid_core_dumps();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    ExitCode::from(runtime.block_on(keepsake_coordinator::cli::run(std::env::args_os())).code())
}
