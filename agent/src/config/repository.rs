//! Where dumps go and loads come from, and with whose credentials.

use std::path::PathBuf;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::repository::{S3Settings, Store, WebIdentity};

/// The flags.
#[derive(Debug, Clone, clap::Args)]
pub struct RepositoryArgs {
    /// The repository: `file:///path` or `s3://bucket/prefix`.
    #[arg(long, env = "KEEPSAKE_REPOSITORY", global = true)]
    pub repository: Option<String>,
    /// The S3 server, if it is not AWS': `https://host:port`.
    #[arg(long, env = "KEEPSAKE_S3_ENDPOINT", global = true)]
    pub s3_endpoint: Option<String>,
    /// Its region.
    #[arg(long, env = "KEEPSAKE_S3_REGION", global = true)]
    pub s3_region: Option<String>,
    /// Credentials that may put below `sets/<installation>/`: a file in the format of `~/.aws/credentials`, section `[default]`; it is read
    /// again at every request.
    #[arg(long, env = "KEEPSAKE_S3_CREDENTIALS", global = true)]
    pub s3_credentials: Option<PathBuf>,
    /// Credentials that may read, for a restore; the same file format. The file may come when there is something to restore. Without this flag the first file must allow both.
    #[arg(long, env = "KEEPSAKE_S3_READ_CREDENTIALS", global = true)]
    pub s3_read_credentials: Option<PathBuf>,
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

/// The repository as this agent meets it.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Where dumps go.
    pub put: Store,
    /// Where loads come from.
    pub read: Store,
    /// A file without which nobody may load, or have data in the clear: it is there while somebody restores.
    pub opened_by: Option<PathBuf>,
}

impl RepositoryArgs {
    /// Opens it; `None` when no repository is named.
    ///
    /// # Errors
    /// As [`Store::open_with`], and `Invalid` when S3 flags stand without an S3 repository.
    pub(super) fn open(self, patient: bool) -> Result<Option<Stores>> {
        let web_identity = self
            .s3_role_arn
            .zip(self.s3_web_identity_token_file)
            .map(|(role_arn, token_file)| WebIdentity { role_arn, token_file, sts_endpoint: self.s3_sts_endpoint });
        let settings = S3Settings {
            endpoint: self.s3_endpoint,
            region: self.s3_region,
            credentials: self.s3_credentials,
            web_identity,
            may_come_later: false,
            ca: self.s3_ca,
            virtual_hosted: self.s3_virtual_hosted,
        };
        let for_s3 = self.repository.as_deref().is_some_and(|url| url.starts_with("s3://"));
        if !for_s3 && (settings != S3Settings::default() || self.s3_read_credentials.is_some()) {
            return Err(Error::new(Kind::Invalid, "flags --s3-… go with --repository s3://bucket/prefix"));
        }
        let Some(url) = self.repository else { return Ok(None) };
        let put = Store::open_with(&url, &settings).context("--repository")?;
        let opened_by = self.s3_read_credentials.clone().filter(|_| patient);
        let read = match self.s3_read_credentials {
            Some(file) => {
                let settings =
                    S3Settings { credentials: Some(file), may_come_later: patient, web_identity: None, ..settings };
                Store::open_with(&url, &settings).context("--repository, to read")?
            }
            None => put.clone(),
        };
        Ok(Some(Stores { put, read, opened_by }))
    }
}
