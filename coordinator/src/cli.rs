//! The command line: data on stdout, everything else on stderr.

mod args;
mod backup;
mod cancel;
mod carry;
mod config;
mod doctor;
mod in_cluster;
mod inspect;
mod keys;
mod objects;
mod output;
mod pki;
mod reach;
mod rebuild;
mod report;
mod restore;
mod resume;
mod runs;
mod sets;
mod take_back;
mod webhook;

use std::ffi::OsString;

use clap::Parser;
use keepsake_core::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use args::{Args, Command};

use crate::app::App;
use crate::exit::Exit;

/// Parses the arguments, does what they say, and prints what came of it.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(e) => {
            // Help and version go to stdout and are no error; a wrong use goes to stderr. Clap knows which.
            let _nobody_reads = e.print();
            return if e.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    output::logging(&args);
    match Box::pin(dispatch(&args)).await {
        Ok(exit) => exit,
        Err(e) => {
            output::error(&args, &e);
            Exit::of(&e)
        }
    }
}

async fn dispatch(args: &Args) -> Result<Exit> {
    if args.cluster.in_cluster && !in_cluster::can(&args.command) {
        return Err(in_cluster::refused());
    }
    if let Command::Pki(command) = &args.command {
        return pki::run(args, command);
    }
    if let Command::Keys(keys::Keys::Generate(generate)) = &args.command {
        return keys::generate(args, generate);
    }
    if let Command::Webhook(command) = &args.command {
        return webhook::run(command).await;
    }
    args.cluster.ensure_sound()?;
    let app = App::load(&args.topology, args.trust.as_deref(), &args.repository.told())?;
    if args.cluster.in_cluster {
        return in_cluster::run(args, &app).await;
    }
    match &args.command {
        Command::Init(init) => keys::init(args, &app, init).await,
        Command::Backup(command) => backup::run(args, &app, command).await,
        Command::Restore(command) => restore::run(args, &app, command).await,
        Command::Plan(args::PlanCommand::Backup(command)) => {
            backup::run(args, &app, &args::Backup { dry_run: true, ..command.clone() }).await
        }
        Command::Plan(args::PlanCommand::Restore(command)) => {
            restore::run(args, &app, &args::Restore { dry_run: true, ..command.clone() }).await
        }
        Command::Plan(args::PlanCommand::Rebuild(command)) => {
            rebuild::run(args, &app, &args::Rebuild { dry_run: true, ..command.clone() }).await
        }
        Command::Sets(command) => sets::list(args, &app, command).await,
        Command::Show(command) => sets::show(args, &app, command).await,
        Command::Verify(command) => sets::verify(args, &app, command).await,
        Command::Inspect(command) => inspect::run(args, &app, command).await,
        Command::Objects(command) => objects::run(args, &app, command).await,
        Command::Runs(command) => runs::list(args, &app, command).await,
        Command::Cancel(command) => cancel::run(args, &app, command).await,
        Command::Rebuild(command) => rebuild::run(args, &app, command).await,
        Command::Resume(command) => resume::run(args, &app, command).await,
        Command::Finalize(command) => take_back::finalize(args, &app, command).await,
        Command::Rollback(command) => Box::pin(take_back::rollback(args, &app, command)).await,
        Command::Check(command) => config::check(args, &app, command).await,
        Command::Resync(command) => config::resync(args, &app, command).await,
        Command::Keys(command) => keys::run(args, &app, command).await,
        Command::Pki(command) => pki::run(args, command),
        Command::Webhook(command) => webhook::run(command).await,
        Command::Doctor(command) => doctor::run(args, &app, command).await,
    }
}

/// A token that Ctrl-C, SIGTERM or a terminal that goes away cancels; the run then ends in an orderly way.
fn cancel_on_signal() -> CancellationToken {
    on_signal("asked to stop: what is going on is brought to an orderly end")
}

/// The same with other words.
fn on_signal(said: &'static str) -> CancellationToken {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let Ok(mut stream) = signal(kind) else {
            tracing::warn!("a signal cannot be listened for; stop the run with `keepsake cancel`");
            continue;
        };
        let token = token.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                output::say(said);
                token.cancel();
            }
        });
    }
    token
}
