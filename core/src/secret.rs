//! Secrets are values without `Debug` or `Display`, read from files at the moment of use.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Kind, Result};

/// A password, key or identity. It cannot be printed; [`Secret::expose`] is the only way to the text.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes over a text; the memory is wiped on drop.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The first line of a file, without its line end. A file is re-read at each use, so that a mounted Secret may change.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is larger than 64 KiB.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = Self::whole_file(path)?;
        Ok(Self::new(text.expose().lines().next().unwrap_or_default()))
    }

    /// A whole file, as for PEM or an age identity file.
    ///
    /// # Errors
    /// As [`Secret::from_file`].
    pub fn whole_file(path: &Path) -> Result<Self> {
        let what = || format!("read the secret file {}", path.display());
        let size = std::fs::metadata(path).map_err(|e| Error::io(what(), e))?.len();
        if size > 64 * 1024 {
            return Err(Error::new(Kind::Invalid, format!("{} has {size} bytes: not a secret file", path.display())));
        }
        Ok(Self::new(std::fs::read_to_string(path).map_err(|e| Error::io(what(), e))?))
    }

    /// The text itself. Each call is a place to look at in review.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
