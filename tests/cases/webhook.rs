//! The webhook: what becomes of pods as the operator makes them, and how it is called.

mod https;
mod pods;
