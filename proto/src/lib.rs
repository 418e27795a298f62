//! How agent and coordinator talk: generated messages, their conversions, the table of status codes, mutual TLS.

/// Messages and stubs generated from `keepsake/agent/v1/agent.proto`.
#[expect(missing_docs, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("keepsake.agent.v1");
}

/// The compiled descriptors of what is served, for the compatibility test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.binpb"));
