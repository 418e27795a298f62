//! All cases in one binary, so that it links once.

mod architecture;
mod by_hand;
mod conformance;
mod files;
mod installation;
mod mysql;
mod postgres;
mod python;
mod queues;
mod redis;
mod runs;
mod s3;
mod tls;
mod wire;
