//! How an S3 repository is reached: endpoint, credentials, certificates. The requests themselves are object_store's.
//!
//! object_store's own repeating is switched off: it would hide an answer that was lost, and [`super::store::Store`] must know of it to
//! tell "created now" from "created by the try before".

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum, S3ConditionalPut};
use object_store::client::CredentialProvider;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;

use crate::error::{Context, Error, Kind, Result, ResultExt};
use crate::secret::Secret;

/// What an `s3://bucket/prefix` URL does not say. All of it may be absent on AWS, where the environment says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// `https://host:port` of a server that is not AWS; also taken from `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// The region; also taken from `AWS_REGION`.
    pub region: Option<String>,
    /// A file in the format of `~/.aws/credentials`, section `[default]`. Read again at every request, so it may be replaced.
    pub credentials: Option<PathBuf>,
    /// That file may come later: until then nothing can be asked of the bucket.
    #[serde(skip)]
    pub may_come_later: bool,
    /// Credentials in exchange for a token that the cluster renews.
    pub web_identity: Option<WebIdentity>,
    /// Who may have signed the server's certificate (PEM); the system's list if absent.
    pub ca: Option<PathBuf>,
    /// The bucket is part of the host name, not of the path.
    pub virtual_hosted: bool,
}

/// `AssumeRoleWithWebIdentity`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebIdentity {
    /// The role to assume.
    pub role_arn: String,
    /// The token's file, read again at each exchange.
    pub token_file: PathBuf,
    /// The token service, `https://…`; AWS' own of the region if absent.
    #[serde(default)]
    pub sts_endpoint: Option<String>,
}

impl S3Settings {
    /// Paths relative to a folder, as in a topology.
    pub fn relative_to(&mut self, folder: &std::path::Path) {
        let token = self.web_identity.as_mut().map(|w| &mut w.token_file);
        for path in [self.credentials.as_mut(), self.ca.as_mut(), token].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    /// Opens `s3://bucket` or `s3://bucket/prefix`. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// `Invalid` for a URL without a bucket, for two kinds of credentials or none, for certificates that cannot be read.
    pub(super) fn open(&self, url: &str) -> Result<Arc<dyn ObjectStore>> {
        let invalid = |what: &str| Err(Error::new(Kind::Invalid, format!("{url}: {what}")));
        let place = url.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return invalid("an S3 URL names a bucket, as in s3://bucket/prefix");
        }
        let Ok(prefix) = Path::parse(prefix.trim_end_matches('/')) else {
            return invalid("the prefix is not one: no empty part and no . or .. is allowed in it");
        };
        let from_environment = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        let endpoint = self.endpoint.clone().or_else(|| from_environment("AWS_ENDPOINT_URL"));
        let mut builder = match (&self.credentials, &self.web_identity) {
            (Some(_), Some(_)) => {
                return invalid("credentials from a file and from a web identity exclude each other: name one");
            }
            (Some(file), None) => {
                if self.may_come_later && matches!(file.try_exists(), Ok(false)) {
                    tracing::info!(
                        "{}: there is no such file yet; nothing can be read with it until it is there",
                        file.display()
                    );
                } else {
                    // Read once now, so that a wrong path is an error of the start and not of the first backup.
                    read_credentials(file)?;
                }
                AmazonS3Builder::new().with_credentials(Arc::new(CredentialsFile(file.clone())))
            }
            (None, Some(identity)) => {
                Secret::whole_file(&identity.token_file)?;
                web_identity(identity)
            }
            (None, None) => {
                let sources =
                    ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
                if !sources.iter().any(|name| from_environment(name).is_some()) {
                    return invalid(
                        "there are no S3 credentials: name a credentials file or a web identity (agent: --s3-credentials or --s3-role-arn with \
                         --s3-web-identity-token-file; topology: repository.s3), or set AWS' own variables",
                    );
                }
                AmazonS3Builder::from_env()
            }
        };
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &endpoint {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return invalid(&format!("the endpoint {endpoint:?} is not of the form https://host:port"));
            }
            builder = builder.with_endpoint(endpoint);
        }
        let is_http = endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
        // Images of databases may have no certificates of public authorities. Without them nothing can be opened that would ask for them.
        let is_own_authority = (is_http || self.ca.is_some()) && self.credentials.is_some();
        let mut client = ClientOptions::new()
            .with_no_system_certificates(is_own_authority)
            // Every request has the store's deadline; a second one below it would only make its outcome harder to tell.
            .with_timeout_disabled()
            // In the clear only where the administrator wrote so: what is stored is sealed, and the signature hides the secret key.
            .with_allow_http(is_http);
        if let Some(path) = &self.ca {
            let what = || format!("read the certificates {}", path.display());
            let pem = std::fs::read(path).map_err(|e| Error::io(what(), e))?;
            for certificate in Certificate::from_pem_bundle(&pem).or_kind(Kind::Invalid, what())? {
                client = client.with_root_certificate(certificate);
            }
        }
        let objects = builder
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // A bucket with a default retention (object lock) refuses a put without a checksum header.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_client_options(client)
            .with_retry(RetryConfig { max_retries: 0, backoff: BackoffConfig::default(), ..RetryConfig::default() })
            .build()
            .or_kind(
                Kind::Invalid,
                format!("{url}: the S3 settings cannot be used (where a system has no CA certificates, name some: the S3 CA, or SSL_CERT_FILE)"),
            )?;
        Ok(if prefix.as_ref().is_empty() { Arc::new(objects) } else { Arc::new(PrefixStore::new(objects, prefix)) })
    }
}

fn web_identity(identity: &WebIdentity) -> AmazonS3Builder {
    use object_store::aws::AmazonS3ConfigKey as Key;
    let builder = AmazonS3Builder::new()
        .with_config(Key::RoleArn, &identity.role_arn)
        .with_config(Key::WebIdentityTokenFile, identity.token_file.to_string_lossy())
        .with_config(Key::RoleSessionName, "keepsake");
    match &identity.sts_endpoint {
        Some(endpoint) => builder.with_config(Key::StsEndpoint, endpoint),
        None => builder,
    }
}

/// Credentials as they stand in a file at the moment of each request.
#[derive(Debug)]
struct CredentialsFile(PathBuf);

#[async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        read_credentials(&self.0)
            .map(Arc::new)
            .map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })
    }
}

/// The section `[default]` of a shared credentials file. The format is that of the AWS tools ("Configuration and credential file
/// settings"): sections in brackets, `name = value`, comments after `#` or `;` at the start of a line.
fn read_credentials(file: &std::path::Path) -> Result<AwsCredential> {
    let text = Secret::whole_file(file).context("S3 credentials")?;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut inside = false;
    for line in text.expose().lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').trim() == "default";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';'])) {
            let value = Some(value.trim().to_owned());
            match name.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("{} has no section [default] with aws_access_key_id and aws_secret_access_key", file.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_section_counts_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let text = "[other]\naws_access_key_id = no\naws_secret_access_key = no\n# a comment = with a sign\n[default]\n\
                    aws_access_key_id=AKID\n  aws_secret_access_key = a/b+c=\n#aws_session_token = old\n[third]\naws_session_token = no\n";
        std::fs::write(&file, text).unwrap();
        let found = read_credentials(&file).unwrap();
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str(), found.token), ("AKID", "a/b+c=", None));

        std::fs::write(&file, "[default]\naws_access_key_id = AKID\n").unwrap();
        let error = read_credentials(&file).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(!error.chain().contains("AKID"), "{}", error.chain());
    }

    #[test]
    fn bad_settings_are_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
        let good = S3Settings { credentials: Some(file.clone()), ..S3Settings::default() };
        assert!(good.open("s3://bucket").is_ok());
        assert!(good.open("s3://bucket/a/b/").is_ok());
        let identity = WebIdentity { role_arn: "r".into(), token_file: file, sts_endpoint: None };
        for (settings, url, word) in [
            (good.clone(), "s3://", "names a bucket"),
            (good.clone(), "s3://bucket/a//b", "prefix"),
            (S3Settings { web_identity: Some(identity), ..good.clone() }, "s3://bucket", "exclude"),
            (
                S3Settings { endpoint: Some("localhost:9000".into()), ..good.clone() },
                "s3://bucket",
                "https://host:port",
            ),
            (S3Settings { credentials: Some(folder.path().join("no")), ..good.clone() }, "s3://bucket", "credentials"),
            (S3Settings { ca: Some(folder.path().join("no")), ..good }, "s3://bucket", "certificates"),
        ] {
            let error = settings.open(url).expect_err(word);
            assert!(error.chain().contains(word), "{}", error.chain());
        }
    }
}
