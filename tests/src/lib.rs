//! How we know: a harness that runs real servers as child processes in temporary folders on free ports.
//!
//! Nothing here outlives the test that made it: every child dies with its handle, and with the test's process should that be
//! killed. Nothing sleeps: [`poll::wait_for`] waits on a condition and names its last status when it gives up.

pub mod bulk;
pub mod by_hand;
pub mod causality;
pub mod certs;
pub mod child;
pub mod cluster;
pub mod config_source;
pub mod config_target;
pub mod conformance;
pub mod fake_engine;
pub mod fake_fleet;
pub mod fake_world;
pub mod full;
pub mod fuzz;
pub mod gate;
pub mod holds;
pub mod house;
pub mod http;
pub mod kills;
pub mod kustomize;
pub mod log;
pub mod lone_agent;
pub mod manifest;
pub mod memory;
pub mod node;
pub mod own_mounts;
pub mod poll;
pub mod prove;
pub mod proxy;
pub mod refused;
pub mod root;
pub mod s3;
pub mod scratch;
pub mod servers;
pub mod stand;
pub mod steps;
pub mod struck;
pub mod taken_back;
pub mod template;
pub mod threescale;
pub mod unproven;
pub mod webhook;
