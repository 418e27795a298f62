//! The engines against servers and clients of other releases. Part of `make test-matrix` only: `unpack` beside this file gets them.
//!
//! A server that is not there is *not tried*, and its tests pass without trying anything: the table that `table` prints at the end tells them apart.

mod mysql;
mod postgres;
mod redis;
mod report;
