//! The agent's service on a real socket.

mod admin;
mod coordinator;
mod cut_loads;
mod keys;
mod load;
mod operations;
mod streams;
mod watching;
