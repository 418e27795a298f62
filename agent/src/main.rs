//! `keepsake-agent`: dumps and loads the datastore it stands beside.

use std::process::ExitCode;

use keepsake_agent::ending::Ending;
use keepsake_agent::{allocator, app, config, patience};
use keepsake_core::{Error, Kind, Result};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    allocator::ensure_bounded();
    // Whatever this process creates is its user's alone; a set's identity passes through its memory, so no core dump.
    umask(Mode::RWXG | Mode::RWXO);
    let _lowering_is_always_allowed = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Before anything is said: who has seen a word of it may ask it to end.
    let begun = begin();
    let matches = match config::command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            let _nobody_reads = e.print();
            if e.use_stderr() && std::env::var("KEEPSAKE_PATIENT").is_ok_and(|v| v == "true") {
                return ended(stand_by(&e.to_string(), begun));
            }
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    ended(run(&matches, begun))
}

fn ended(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{}", e.chain());
            ExitCode::from(if e.kind() == Kind::Invalid { 2 } else { 1 })
        }
    }
}

fn run(matches: &clap::ArgMatches, begun: Result<(Runtime, Ending)>) -> Result<()> {
    let global = config::Global::read(matches)?;
    if let Err(e) = keepsake_core::telemetry::start(&global.log, global.log_format) {
        if !global.patient {
            return Err(e);
        }
        keepsake_core::telemetry::start("info", global.log_format)?;
        tracing::error!("--log: {}; what is said is that of info", e.chain());
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Error::new(Kind::Internal, "another crypto provider is installed"))?;
    let (runtime, mut end) = begun?;
    runtime.block_on(async {
        if global.patient {
            return patience::run(global, matches, &mut end).await;
        }
        let config = config::Config::new(global, matches)?;
        app::start(config).await?.until_asked(&mut end).await
    })
}

/// What cannot be read of the command line is told now and then, while the database beside it is left in peace.
fn stand_by(why: &str, begun: Result<(Runtime, Ending)>) -> Result<()> {
    keepsake_core::telemetry::start("info", keepsake_core::telemetry::LogFormat::Text)?;
    let (runtime, mut end) = begun?;
    runtime.block_on(patience::stand_by(patience::admin_address()?, why, &mut end))
}

/// The runtime, and whoever hears in it that the process is to end, from now on until it has.
fn begin() -> Result<(Runtime, Ending)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|e| Error::io("start the runtime", e))?;
    let end = {
        let _entered = runtime.enter();
        Ending::listen()?
    };
    Ok((runtime, end))
}
