//! `pki`: a CA and leaf certificates.

use std::path::PathBuf;

use clap::Subcommand;
use keepsake_core::error::Result;

use super::args::Args;
use super::output;
use crate::exit::Exit;
use crate::pki;

/// `pki`
#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Make a CA. Whoever has its key can make certificates that every agent accepts.
    Ca {
        /// The folder for ca.crt and ca.key.
        #[arg(long)]
        out: PathBuf,
        /// Its name.
        #[arg(long, default_value = "keepsake")]
        name: String,
        /// Days until it expires.
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Make a certificate: `<component>.<installation>` for an agent, any DNS name for a coordinator.
    Issue {
        /// The CA's folder.
        #[arg(long)]
        ca: PathBuf,
        /// A DNS name; may be repeated.
        #[arg(long = "name", required = true)]
        names: Vec<String>,
        /// The folder for tls.crt, tls.key and ca.crt.
        #[arg(long)]
        out: PathBuf,
        /// Days until it expires.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

/// Runs the command.
pub(super) fn run(args: &Args, command: &Pki) -> Result<Exit> {
    let out = match command {
        Pki::Ca { out, name, days } => {
            pki::make_ca(out, name, *days)?;
            out
        }
        Pki::Issue { ca, names, out, days } => {
            pki::issue(ca, out, names, *days)?;
            out
        }
    };
    output::result(args, &serde_json::json!({ "folder": out }), || format!("written to {}\n", out.display()))?;
    Ok(Exit::Done)
}
