//! Where the repository is, if the topology leaves that to flags: in a cluster agents and coordinator have these variables from one ConfigMap, so that
//! nobody has to write the same address twice.

use std::path::PathBuf;

use keepsake_core::repository::{S3Settings, WebIdentity};

use crate::topology::Told;

/// The flags: those of the agent, by the same names.
#[derive(Debug, Clone, clap::Args)]
pub struct RepositoryFlags {
    /// The repository, if the topology does not say: `file:///path` or `s3://bucket/prefix`.
    #[arg(long, env = "KEEPSAKE_REPOSITORY", global = true)]
    pub repository: Option<String>,
    /// The S3 server, if it is not AWS': `https://host:port`.
    #[arg(long, env = "KEEPSAKE_S3_ENDPOINT", global = true)]
    pub s3_endpoint: Option<String>,
    /// Its region.
    #[arg(long, env = "KEEPSAKE_S3_REGION", global = true)]
    pub s3_region: Option<String>,
    /// Credentials that may list, get and put: a file in the format of `~/.aws/credentials`, section `[default]`; it is read again at every request.
    #[arg(long, env = "KEEPSAKE_S3_CREDENTIALS", global = true)]
    pub s3_credentials: Option<PathBuf>,
    /// Assume this role with a web identity, instead of a credentials file.
    #[arg(long, env = "KEEPSAKE_S3_ROLE_ARN", requires = "s3_web_identity_token_file", global = true)]
    pub s3_role_arn: Option<String>,
    /// The web identity's token.
    #[arg(long, env = "KEEPSAKE_S3_WEB_IDENTITY_TOKEN_FILE", requires = "s3_role_arn", global = true)]
    pub s3_web_identity_token_file: Option<PathBuf>,
    /// The token service, if it is not AWS': `https://host:port`.
    #[arg(long, env = "KEEPSAKE_S3_STS_ENDPOINT", requires = "s3_role_arn", global = true)]
    pub s3_sts_endpoint: Option<String>,
    /// Who may have signed the S3 server's certificate (PEM); the system's list if absent.
    #[arg(long, env = "KEEPSAKE_S3_CA", global = true)]
    pub s3_ca: Option<PathBuf>,
    /// The bucket is part of the S3 server's host name, not of the path.
    #[arg(long, env = "KEEPSAKE_S3_VIRTUAL_HOSTED", global = true)]
    pub s3_virtual_hosted: bool,
}

impl RepositoryFlags {
    /// What they say.
    pub fn told(&self) -> Told {
        let flags = self.clone();
        let web_identity = flags
            .s3_role_arn
            .zip(flags.s3_web_identity_token_file)
            .map(|(role_arn, token_file)| WebIdentity { role_arn, token_file, sts_endpoint: flags.s3_sts_endpoint });
        let s3 = S3Settings {
            endpoint: flags.s3_endpoint,
            region: flags.s3_region,
            credentials: flags.s3_credentials,
            web_identity,
            may_come_later: false,
            ca: flags.s3_ca,
            virtual_hosted: flags.s3_virtual_hosted,
        };
        Told { url: flags.repository, s3 }
    }
}
