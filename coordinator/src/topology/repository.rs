//! Where backups are: as the topology says it, or as flags do.

use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::repository::S3Settings;
use keepsake_core::repository::trust::Trust;
use serde::Deserialize;

/// Where backups are and what is trusted of it.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// `file:///path` or `s3://bucket/prefix`.
    pub url: String,
    /// How an S3 repository is reached.
    pub s3: S3Settings,
    /// Where runs are journalled; the repository itself if absent.
    pub state: Option<String>,
    /// The coordinator's signing key (PKCS#8 PEM, Ed25519); needed to back up.
    pub signing_key: Option<PathBuf>,
    /// What is trusted; if absent, the pin file written at first use counts.
    pub trust: Option<Trust>,
}

/// What flags say of the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// As in [`RepositorySettings`].
    pub url: Option<String>,
    /// The same; its paths are relative to the working directory.
    pub s3: S3Settings,
}

/// The mapping `repository` of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRepository {
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    s3: Option<S3Settings>,
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    signing_key: Option<PathBuf>,
    #[serde(default)]
    trust: Option<Trust>,
}

impl RawRepository {
    /// With what flags say, and paths relative to this folder. An address that is said twice must be the same: else agents would write elsewhere than the
    /// coordinator looks.
    ///
    /// # Errors
    /// `Invalid` when nobody says where it is, or both do and differ.
    pub(super) fn settle(self, folder: &Path, told: &Told) -> Result<RepositorySettings> {
        let invalid = |text: String| Err(Error::new(Kind::Invalid, text));
        let mut own = self.s3.unwrap_or_default();
        own.relative_to(folder);
        let (url, s3) = match (self.url, &told.url) {
            (Some(url), None) if told.s3 == S3Settings::default() => (url, own),
            (_, None) if told.s3 != S3Settings::default() => {
                return invalid("KEEPSAKE_S3_… (--s3-…) goes with KEEPSAKE_REPOSITORY (--repository)".to_owned());
            }
            (Some(url), Some(other)) if url != *other || own != told.s3 => {
                return invalid(format!(
                    "repository: the topology says {url}, and KEEPSAKE_REPOSITORY or --repository {other}, or one of both reaches it in another way: leave `url` and `s3` \
                     out of the topology, so that it is said once"
                ));
            }
            (None, Some(_)) if own != S3Settings::default() => {
                return invalid(
                    "repository: `s3` without `url`, which KEEPSAKE_REPOSITORY or --repository says: say that by KEEPSAKE_S3_…, too"
                        .to_owned(),
                );
            }
            (_, Some(url)) => (url.clone(), told.s3.clone()),
            (_, None) => {
                return invalid(
                    "repository: `url` is missing: write `url: s3://bucket/prefix` or `url: file:///path`, or say KEEPSAKE_REPOSITORY (--repository)"
                        .to_owned(),
                );
            }
        };
        let signing_key = self.signing_key.map(|key| folder.join(key));
        Ok(RepositorySettings { url, s3, state: self.state, signing_key, trust: self.trust })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Topology;

    const FILE: &str = "
repository: { url: 's3://mine/3scale', s3: { endpoint: 'https://s3', credentials: credentials }, signing_key: signing.pem }
installations: [{ name: prod, platform: kubernetes, kubernetes: { namespace: a } }]
tls: { ca: a, cert: b, key: c }
";
    const ADDRESS: &str = "url: 's3://mine/3scale', s3: { endpoint: 'https://s3', credentials: credentials }, ";

    fn told(url: Option<&str>, endpoint: Option<&str>, credentials: Option<&str>) -> Told {
        let s3 = S3Settings {
            endpoint: endpoint.map(str::to_owned),
            credentials: credentials.map(PathBuf::from),
            ..S3Settings::default()
        };
        Told { url: url.map(str::to_owned), s3 }
    }

    fn settled(text: &str, told: &Told) -> Result<RepositorySettings> {
        assert!(FILE.contains(ADDRESS));
        Topology::parse_with(text, Path::new("/etc/keepsake"), told).map(|t| t.repository)
    }

    #[test]
    fn the_address_is_said_once_or_twice_the_same() {
        let (endpoint, credentials) = (Some("https://s3"), Some("/etc/keepsake/credentials"));
        let same = told(Some("s3://mine/3scale"), endpoint, credentials);
        let alone = settled(FILE, &Told::default()).unwrap();
        let bare = FILE.replace(ADDRESS, "");
        for (text, told) in [(bare.as_str(), &same), (FILE, &same)] {
            let found = settled(text, told).unwrap();
            assert_eq!((&found.url, &found.s3), (&alone.url, &alone.s3));
            assert_eq!(found.signing_key.as_deref(), Some(Path::new("/etc/keepsake/signing.pem")));
        }
        for (text, told, word) in [
            (FILE, told(Some("s3://other/3scale"), endpoint, credentials), "s3://other/3scale"),
            (FILE, told(Some("s3://mine/3scale"), Some("https://elsewhere"), credentials), "so that it is said once"),
            (FILE, told(None, endpoint, None), "goes with KEEPSAKE_REPOSITORY"),
            (&bare, Told::default(), "`url` is missing"),
            (&FILE.replace("url: 's3://mine/3scale', ", ""), same, "`s3` without `url`"),
        ] {
            let why = settled(text, &told).unwrap_err().chain();
            assert!(why.contains(word), "{word}: {why}");
        }
    }
}
