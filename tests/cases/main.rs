//! All cases in one binary, so that it links once.

mod architecture;
mod asked_to_end;
mod attachments;
mod by_hand;
mod config;
mod conformance;
mod crash;
mod cut;
mod files;
mod full;
mod holds;
mod installation;
mod instant;
mod kills;
mod manifests;
mod mysql;
mod postgres;
mod python;
mod queues;
mod redis;
mod resync;
mod runs;
mod s3;
mod tls;
mod webhook;
mod wire;
