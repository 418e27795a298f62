//! All cases in one binary, so that it links once.

mod files;
mod installation;
mod mysql;
mod postgres;
mod redis;
mod runs;
mod tls;
mod wire;
