//! Wiring: from the topology to a repository that is trusted, its runs, and the agents.

use std::path::{Path, PathBuf};

use keepsake_core::error::{Context, Error, Kind, Result, ResultExt};
use keepsake_core::repository::runs::Runs;
use keepsake_core::repository::seal::Identities;
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::repository::trust::Trust;
use keepsake_core::repository::{Repository, Store};
use keepsake_core::secret::Secret;

use crate::fleet::grpc::GrpcFleet;
use crate::fleet::whole::WholeFleet;
use crate::platform::kubernetes::Kubernetes;
use crate::platform::kubernetes::agents::Expect;
use crate::platform::kubernetes::objects::Objects;
use crate::topology::{InstallationSettings, Told, Topology};

/// What every command starts from.
#[derive(Debug)]
pub struct App {
    /// The topology.
    pub topology: Topology,
    pin: PathBuf,
}

impl App {
    /// Reads the topology, which may leave to `told` where the repository is. `trust` names the pin file; by default it stands beside the topology.
    ///
    /// # Errors
    /// As [`Topology::read`].
    pub fn load(topology: &Path, trust: Option<&Path>, told: &Told) -> Result<Self> {
        let pin = trust.map_or_else(|| topology.with_extension("trust.json"), Path::to_path_buf);
        Ok(Self { topology: Topology::read(topology, told)?, pin })
    }

    /// The store of the repository.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn store(&self) -> Result<Store> {
        Store::open_with(&self.topology.repository.url, &self.topology.repository.s3)
    }

    /// The repository, compared with what is trusted. At first use, what it says is pinned and told.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub async fn repository(&self) -> Result<Repository> {
        let store = self.store()?;
        let trust = match &self.topology.repository.trust {
            Some(trust) => trust.clone(),
            None => self.pinned(&store).await?,
        };
        Repository::open(store, &trust).await
    }

    async fn pinned(&self, store: &Store) -> Result<Trust> {
        match std::fs::read(&self.pin) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .or_kind(Kind::Invalid, format!("the pin file {} cannot be read", self.pin.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let trust = Repository::trust_at_first_use(store).await?;
                self.pin(&trust)?;
                tracing::warn!(
                    "first use of {}: from now on its signers {} and recipients {} are trusted (pinned in {}). Compare them with what `keepsake \
                     init` printed",
                    store.url(),
                    trust.signers.join(", "),
                    if trust.recipients.is_empty() {
                        "(none: not encrypted)".to_owned()
                    } else {
                        trust.recipients.join(", ")
                    },
                    self.pin.display()
                );
                Ok(trust)
            }
            Err(e) => Err(Error::io(format!("read the pin file {}", self.pin.display()), e)),
        }
    }

    /// Writes the pin file, whole or not at all, and never over another one.
    ///
    /// # Errors
    /// It exists, or its folder cannot be written.
    pub fn pin(&self, trust: &Trust) -> Result<()> {
        let what = || format!("write the pin file {} (name a writable place with --trust)", self.pin.display());
        let mut bytes = serde_json::to_vec_pretty(trust).or_kind(Kind::Internal, "write what is trusted")?;
        bytes.push(b'\n');
        let folder = self.pin.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io(what(), e))?;
        std::io::Write::write_all(&mut file, &bytes).map_err(|e| Error::io(what(), e))?;
        file.as_file().sync_all().map_err(|e| Error::io(what(), e))?;
        file.persist_noclobber(&self.pin).map_err(|e| Error::io(what(), e.error))?;
        Ok(())
    }

    /// Where trust is pinned.
    pub fn pin_path(&self) -> &Path {
        &self.pin
    }

    /// The runs: in the repository, or where the topology's `state` says.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn runs(&self) -> Result<Runs> {
        let settings = &self.topology.repository;
        let url = settings.state.as_ref().unwrap_or(&settings.url);
        Ok(Runs::new(Store::open_with(url, &settings.s3)?))
    }

    /// The installation with the addresses of all its agents: as it is or, where the topology leaves some out, with those that are found in its cluster.
    ///
    /// # Errors
    /// `Invalid` outside of that cluster, with what to do; everything that [`Kubernetes::find_agents`] finds wrong: never fewer components than are expected.
    pub async fn reached(
        &self,
        installation: &InstallationSettings,
        expect: Expect<'_>,
    ) -> Result<InstallationSettings> {
        if installation.is_complete() {
            return Ok(installation.clone());
        }
        let settings = installation.kubernetes.clone().ok_or_else(|| {
            Error::new(Kind::Internal, format!("agents of {} are to be found in no cluster", installation.name))
        })?;
        let cluster = Kubernetes::new(settings);
        if !cluster.is_inside().await? {
            return Err(installation.not_reached_from_outside());
        }
        Box::pin(cluster.find_agents(installation, expect)).await?.complete(installation)
    }

    /// The agents of an installation that is complete, and its cluster's objects.
    ///
    /// # Errors
    /// The certificates cannot be read, or an address is refused.
    pub fn fleet(&self, installation: &InstallationSettings) -> Result<WholeFleet> {
        // Else a component without an address would be passed over.
        if !installation.is_complete() {
            let text = format!("the agents of {} were not looked for", installation.name);
            return Err(Error::new(Kind::Internal, text));
        }
        let agents = GrpcFleet::new(installation, self.topology.tls.as_ref())?;
        let objects = match &installation.kubernetes {
            Some(settings) if settings.objects => {
                let cluster = Kubernetes::new(settings.clone());
                Some(Objects::new(cluster, installation.name.clone(), self.store()?))
            }
            Some(_) | None => None,
        };
        Ok(WholeFleet::new(agents, objects))
    }

    /// The signing key.
    ///
    /// # Errors
    /// `Invalid` when the topology names none; the file cannot be read.
    pub fn signing_key(&self) -> Result<SigningKey> {
        let path = self.topology.repository.signing_key.as_ref().ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "the topology names no `repository.signing_key`; make one with `keepsake keys generate`",
            )
        })?;
        SigningKey::from_file(path)
    }
}

/// Reads identity files.
///
/// # Errors
/// A file cannot be read or holds no identity.
pub fn identities(files: &[PathBuf]) -> Result<Option<Identities>> {
    let mut all: Option<Identities> = None;
    for path in files {
        let found = Identities::parse(&Secret::whole_file(path)?)
            .with_context(|| format!("identity file {}", path.display()))?;
        match &mut all {
            Some(all) => all.extend(found),
            None => all = Some(found),
        }
    }
    Ok(all)
}
