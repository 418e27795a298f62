//! A set's objects: read, and on somebody's disk, as files for `kubectl apply`, and for installations from a template the parameters of `oc new-app`.

pub mod parameters;
mod text;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::objects::{LARGEST, Object};
use keepsake_core::id::Component;
use keepsake_core::record::DumpRecord;
use keepsake_core::repository::reader::ArtifactReader;
use keepsake_core::repository::seal::Unsealer;
use keepsake_core::repository::{Budget, Store};

use self::parameters::Parameters;

/// The parameter file's name.
pub const PARAMETERS: &str = "new-app.env";

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// Parameters that cannot stand in a file that every `oc` reads as it was written.
    pub by_hand: Vec<&'static str>,
}

/// Reads the objects of a set.
///
/// # Errors
/// `Corrupt`, naming the artifact, when one is not what its name says; as [`ArtifactReader::read`].
pub async fn read(
    store: &Store,
    budget: &Budget,
    unsealer: &Unsealer,
    component: &Component,
    dump: &DumpRecord,
) -> Result<Vec<Object>> {
    let mut found = Vec::new();
    for artifact in &dump.artifacts {
        let (store, budget) = (store.clone(), budget.clone());
        let reader = ArtifactReader::new(store, budget, unsealer.clone(), component.clone(), artifact.clone());
        let what = || format!("{component}/{}", artifact.artifact);
        let object = Object::parse(&reader.read_at_most(LARGEST).await.with_context(what)?).with_context(what)?;
        if object.artifact()? != artifact.artifact {
            let text = format!("{} holds the {} {}", what(), object.kind(), object.name());
            return Err(Error::new(Kind::Corrupt, text));
        }
        found.push(object);
    }
    Ok(found)
}

/// Writes each object into a folder of its kind, and the parameters if there is no APIManager. Nothing is written over; only the owner may read what is written.
///
/// # Errors
/// `Exists` when a file is there already; the folder cannot be written.
pub fn write(folder: &Path, objects: &[Object]) -> Result<Written> {
    let mut written = Written::default();
    for object in objects {
        let path = folder.join(format!("{}.json", object.artifact()?));
        create(&path, &object.to_bytes()?)?;
        written.files.push(path);
    }
    if !objects.iter().any(|o| o.kind() == "APIManager") {
        let Parameters { text, by_hand } = parameters::of(&values(objects));
        let path = folder.join(PARAMETERS);
        create(&path, text.as_bytes())?;
        written.files.push(path);
        written.by_hand = by_hand;
    }
    Ok(written)
}

fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| Error::io(what(), e))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io(what(), e))?;
    file.write_all(bytes).map_err(|e| Error::io(what(), e))?;
    file.sync_all().map_err(|e| Error::io(what(), e))
}

/// What Secrets and ConfigMaps say, by kind and name and key. What is no text says nothing.
fn values(objects: &[Object]) -> BTreeMap<(String, String, String), String> {
    let mut values = BTreeMap::new();
    for object in objects {
        let is_secret = object.kind() == "Secret";
        let mut say = |key: &str, value: String| {
            values.insert((object.kind().to_owned(), object.name().to_owned(), key.to_owned()), value);
        };
        for (key, value) in object.body().get("data").and_then(serde_json::Value::as_object).into_iter().flatten() {
            let Some(value) = value.as_str() else { continue };
            let plain = if is_secret { text::of_base64(value) } else { Some(value.to_owned()) };
            if let Some(plain) = plain {
                say(key, plain);
            }
        }
        let labels = object.body().get("metadata").and_then(|m| m.get("labels"));
        if let Some(app) = labels.and_then(|l| l.get("app")).and_then(serde_json::Value::as_str) {
            say(parameters::LABEL_APP, app.to_owned());
        }
    }
    values
}

/// Of the objects of a set only these are wanted.
///
/// # Errors
/// `NotFound` when the set has none.
pub fn ensure_some(objects: &[Object]) -> Result<()> {
    if objects.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            "the set has no objects of a cluster: it was made without `platform: kubernetes`",
        ));
    }
    Ok(())
}
