//! How many agents are driven as one: backup and restore of whole installations.
//!
//! `cli` parses and prints, `app` wires, `plan` decides (pure), `run` does and journals, `fleet` talks to the agents, `platform` to what runs the
//! applications, `config` makes Backend's Config equal to System's, `catalog` reads what is there. `webhook` is apart from all of it: it puts agents into pods.

pub mod app;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod exit;
pub mod fleet;
pub mod inventory;
pub mod objects;
pub mod pki;
pub mod plan;
pub mod platform;
pub mod run;
pub mod topology;
pub mod webhook;

/// Identities pass through this process's memory: no core dump may hold them.
pub fn forbid_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit cannot be refused; if it were, there would be nothing to do about it.
    let _lowered = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}
