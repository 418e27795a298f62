//! `keepsake-agent`: dumps and loads the datastore it stands beside.

use std::process::ExitCode;

use keepsake_agent::{allocator, app, config};
use keepsake_core::{Error, Kind, Result};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};

fn main() -> ExitCode {
    allocator::ensure_bounded();
    // Whatever this process creates is its user's alone; a set's identity passes through its memory, so no core dump.
    umask(Mode::RWXG | Mode::RWXO);
    let _lowering_is_always_allowed = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let matches = match config::command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            let _nobody_reads = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{}", e.chain());
            ExitCode::from(if e.kind() == Kind::Invalid { 2 } else { 1 })
        }
    }
}

fn run(matches: &clap::ArgMatches) -> Result<()> {
    let global = config::Global::read(matches)?;
    keepsake_core::telemetry::start(&global.log, global.log_format)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Error::new(Kind::Internal, "another crypto provider is installed"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|e| Error::io("start the runtime", e))?;
    runtime.block_on(async {
        let config = config::Config::new(global, matches)?;
        app::start(config).await?.until_signalled().await
    })
}
