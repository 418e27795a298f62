//! All cases in one binary, so that it links once.

mod by_hand;
mod files;
mod installation;
mod mysql;
mod postgres;
mod redis;
mod runs;
