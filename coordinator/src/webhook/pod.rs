//! What of a pod is looked at. Everything else of it may be whatever it wants.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A pod that is about to be made.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Pod {
    #[serde(default)]
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

/// Its names and labels.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) generate_name: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// What runs in it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) init_containers: Option<Vec<Container>>,
    #[serde(default)]
    pub(super) volumes: Option<Vec<Volume>>,
    #[serde(default)]
    pub(super) host_network: Option<bool>,
}

/// One container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default)]
    pub(super) image: Option<String>,
    #[serde(default)]
    pub(super) image_pull_policy: Option<String>,
    #[serde(default)]
    pub(super) ports: Option<Vec<Port>>,
    #[serde(default)]
    pub(super) volume_mounts: Option<Vec<Mount>>,
}

/// One of its ports.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) container_port: i32,
}

/// Where it has a volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) name: String,
    #[serde(rename = "mountPath")]
    pub(super) path: String,
    #[serde(default)]
    pub(super) sub_path: Option<String>,
    #[serde(default)]
    pub(super) sub_path_expr: Option<String>,
}

/// One volume.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(default)]
    empty_dir: Option<IgnoredAny>,
    #[serde(default)]
    ephemeral: Option<IgnoredAny>,
}

impl Pod {
    /// What it is called, as far as it has a name yet.
    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().or(self.metadata.generate_name.as_deref()).unwrap_or("without a name")
    }

    /// The value of a label.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The value of an annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// All its containers, the first ones too.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().flatten().chain(&self.spec.containers)
    }

    /// Its volumes.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.spec.volumes.iter().flatten()
    }
}

impl Container {
    /// Where it has this volume at this place.
    pub(super) fn mount(&self, volume: &str, path: &str) -> Option<&Mount> {
        // Written with a slash at the end it is the same.
        let is = |m: &&Mount| m.name == volume && m.path.trim_end_matches('/') == path;
        self.volume_mounts.iter().flatten().find(is)
    }
}

impl Volume {
    /// Whether what is in it is gone with the pod.
    pub(super) fn ends_with_the_pod(&self) -> bool {
        self.empty_dir.is_some() || self.ephemeral.is_some()
    }
}
