//! How agent and coordinator talk: generated messages, their conversions, the table of status codes, mutual TLS.

pub mod client;
pub mod convert;
pub mod server;
pub mod status;
pub mod tls;

/// Messages and stubs generated from `keepsake/agent/v1/agent.proto`.
#[expect(missing_docs, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("keepsake.agent.v1");

    /// Holds a secret: nothing of it is ever printed.
    impl std::fmt::Debug for Unsealing {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Unsealing(..)")
        }
    }

    /// As above.
    impl std::fmt::Debug for unsealing::How {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("How(..)")
        }
    }
}

/// The compiled descriptors of what is served, for the compatibility test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.binpb"));
