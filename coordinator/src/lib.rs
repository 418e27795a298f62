//! How many agents are driven as one: backup and restore of whole installations.
//!
//! `cli` parses and prints, `app` wires, `plan` decides (pure), `run` does and journals, `fleet` talks to the agents, `catalog`
//! reads what is there.

pub mod app;
pub mod catalog;
pub mod cli;
pub mod doctor;
pub mod exit;
pub mod fleet;
pub mod inventory;
pub mod pki;
pub mod plan;
pub mod run;
pub mod topology;
