//! Builds overlays as kustomize does, of what the manifests use: resources, components, JSON patches, namespace, images. Anything else is refused.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Files by their path below `manifests/`; a copy can be broken on purpose.
#[derive(Debug, Clone)]
pub struct Tree(pub BTreeMap<PathBuf, String>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    api_version: String,
    kind: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    resources: Vec<PathBuf>,
    #[serde(default)]
    components: Vec<PathBuf>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    images: Vec<Image>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: PathBuf,
    target: Target,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Target {
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    label_selector: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: String,
    path: String,
    #[serde(default)]
    value: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Image {
    name: String,
    new_name: String,
    #[serde(default)]
    new_tag: Option<String>,
    #[serde(default)]
    digest: Option<String>,
}

impl Tree {
    /// Every YAML file of the project's manifests.
    pub fn of_the_project() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's root").join("manifests");
        let mut files = BTreeMap::new();
        let mut pending = vec![root.clone()];
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(std::fs::read_dir(&path).expect("list a folder").map(|e| e.expect("an entry").path()));
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let name = path.strip_prefix(&root).expect("below the manifests").to_path_buf();
                files.insert(name, std::fs::read_to_string(&path).expect("read a manifest"));
            }
        }
        Self(files)
    }

    /// A copy in which this text of this file is another.
    pub fn with(&self, file: &str, from: &str, to: &str) -> Self {
        let mut copy = self.clone();
        let text = copy.0.get_mut(Path::new(file)).unwrap_or_else(|| panic!("there is no {file}"));
        assert!(text.contains(from), "{file} does not say {from:?}");
        *text = text.replace(from, to);
        copy
    }

    /// The documents of a file.
    pub fn read<T: DeserializeOwned>(&self, file: &Path) -> Result<Vec<T>, String> {
        let text = self.0.get(file).ok_or_else(|| format!("there is no {}", file.display()))?;
        serde_saphyr::from_multiple(text).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// An object that a JSON patch of this file has changed, as `kubectl patch --local` does it.
    pub fn patched(&self, file: &str, mut object: Value) -> Result<Value, String> {
        let operations: Vec<Operation> = self.read(Path::new(file))?.pop().ok_or("an empty patch")?;
        for operation in &operations {
            operation.apply(&mut object).map_err(|e| format!("{file}: {e}"))?;
        }
        Ok(object)
    }

    /// The objects of an overlay.
    pub fn build(&self, folder: &str) -> Result<Vec<Value>, String> {
        let objects = self.gather(Path::new(folder), "Kustomization", Vec::new())?;
        let mut names: Vec<_> = objects.iter().map(|o| (text(o, "/kind"), text(o, "/metadata/name"))).collect();
        names.sort_unstable();
        match names.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(format!("{:?} is there twice", two[0])),
            None => Ok(objects),
        }
    }

    /// What a folder makes of what was there before it: a component changes that, anything else begins with nothing.
    fn gather(&self, folder: &Path, kind: &str, before: Vec<Value>) -> Result<Vec<Value>, String> {
        let file = folder.join("kustomization.yaml");
        let own: Kustomization = self.read(&file)?.pop().ok_or_else(|| format!("{} is empty", file.display()))?;
        let version = if kind == "Component" { "v1alpha1" } else { "v1beta1" };
        if own.kind != kind || own.api_version != format!("kustomize.config.k8s.io/{version}") {
            return Err(format!("{} is a {} of {}, not a {kind}", file.display(), own.kind, own.api_version));
        }
        let mut objects = before;
        for resource in &own.resources {
            let path = plain(&folder.join(resource));
            objects.extend(if path.extension().is_some_and(|e| e == "yaml") {
                self.read(&path)?
            } else {
                self.gather(&path, "Kustomization", Vec::new())?
            });
        }
        for component in &own.components {
            objects = self.gather(&plain(&folder.join(component)), "Component", objects)?;
        }
        for patch in &own.patches {
            let path = folder.join(&patch.path);
            let operations: Vec<Operation> = self.read(&path)?.pop().ok_or("an empty patch")?;
            for object in objects.iter_mut().filter(|o| patch.target.meets(o)) {
                for operation in &operations {
                    operation.apply(object).map_err(|e| format!("{}: {e}", path.display()))?;
                }
            }
        }
        for object in &mut objects {
            if let Some(namespace) = &own.namespace {
                object["metadata"]["namespace"] = Value::from(namespace.as_str());
            }
            own.images.iter().for_each(|image| image.replace(object));
        }
        Ok(objects)
    }
}

impl Target {
    fn meets(&self, object: &Value) -> bool {
        let labelled = self.label_selector.as_ref().is_none_or(|selector| {
            let (key, value) = selector.split_once('=').expect("a selector of the form key=value");
            object["metadata"]["labels"][key] == value
        });
        object["kind"] == self.kind.as_str()
            && self.name.as_ref().is_none_or(|name| object["metadata"]["name"] == name.as_str())
            && labelled
    }
}

impl Operation {
    fn apply(&self, object: &mut Value) -> Result<(), String> {
        let (parent, last) = self.path.rsplit_once('/').ok_or("a path without /")?;
        let missing = || format!("there is no {}", self.path);
        let last = last.replace("~1", "/").replace("~0", "~");
        match (self.op.as_str(), object.pointer_mut(parent).ok_or_else(missing)?) {
            ("add", Value::Array(list)) if last == "-" => list.push(self.value.clone()),
            ("add", Value::Object(map)) => drop(map.insert(last, self.value.clone())),
            ("replace", Value::Object(map)) => *map.get_mut(&last).ok_or_else(missing)? = self.value.clone(),
            ("remove", Value::Object(map)) => drop(map.remove(&last).ok_or_else(missing)?),
            (op, _) => return Err(format!("{op} of {} is not understood", self.path)),
        }
        Ok(())
    }
}

impl Image {
    fn replace(&self, object: &mut Value) {
        for path in ["/spec/template/spec", "/spec/jobTemplate/spec/template/spec"] {
            let Some(pod) = object.pointer_mut(path) else { continue };
            for list in ["initContainers", "containers"] {
                for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    let named = container["image"].as_str().unwrap_or_default();
                    if named.split([':', '@']).next() == Some(&self.name) {
                        let tail = match (&self.new_tag, &self.digest) {
                            (_, Some(digest)) => format!("@{digest}"),
                            (Some(tag), None) => format!(":{tag}"),
                            (None, None) => String::new(),
                        };
                        container["image"] = Value::from(self.new_name.clone() + &tail);
                    }
                }
            }
        }
    }
}

/// Without `..` in it.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, part| {
        if part == Component::ParentDir {
            whole.pop();
        } else {
            whole.push(part);
        }
        whole
    })
}

/// The text there; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
