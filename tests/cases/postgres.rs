//! The postgres engine on a real server.
