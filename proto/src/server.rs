//! Serving: windows, limits and keepalive, set on purpose and the same on both ends.

use std::time::Duration;

use tonic::transport::Server;

/// Bytes that may be on the way in one stream before the receiver has taken them. The default of 64 KiB makes 1 MB/s of a line of 64 ms; 2 MiB makes 32 MB/s.
pub const STREAM_WINDOW: u32 = 2 << 20;
/// The same for all streams of a connection: a few at full speed.
pub const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest message. `StartLoad` carries 50 bytes a segment of 4 MiB, so this is enough for an artifact of two terabytes; chunks have at most 1 MiB.
pub const MESSAGE_BYTES: usize = 32 << 20;
/// An idle connection is tried this often, so that one that was cut in the middle is noticed.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
/// How long the answer to that may take.
pub const KEEPALIVE_LIMIT: Duration = Duration::from_secs(10);
/// Calls at the same moment on one connection: an agent has few and long ones.
const CALLS: usize = 64;

/// A server with these settings.
pub fn builder() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
        .concurrency_limit_per_connection(CALLS)
        .tcp_nodelay(true)
}
