//! The mysql engine on a real server.
