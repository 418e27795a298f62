//! PostgreSQL of other releases.
