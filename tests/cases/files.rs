//! The files engine on a real server.
