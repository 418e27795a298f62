//! What Backend's Config must be, as System's database says it: every rule, on every server that may serve it.

mod fixture;
mod refused;
mod rules;
mod switched_off;
