//! The redis engine on a real server.
