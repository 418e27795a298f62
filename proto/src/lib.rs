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

    /// Messages that hold secrets: nothing of them is ever printed.
    macro_rules! says_nothing {
        ($($message:ty),*) => {$(
            impl std::fmt::Debug for $message {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(concat!(stringify!($message), "(..)"))
                }
            }
        )*};
    }
    says_nothing!(Unsealing, unsealing::How, ConfigString, ConfigField, ConfigSet);
    says_nothing!(ConfigEntry, config_entry::Must, ConfigDifference, config_difference::Change);
}

/// The compiled descriptors of what is served, for the compatibility test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.binpb"));
