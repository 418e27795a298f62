//! What an API server writes down of who asked it for what.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One thing that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// `get`, `list` …
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// With a subresource, as in a Role: `pods/log`.
    pub resource: String,
    /// Where.
    pub namespace: String,
    /// Whether it was allowed.
    pub allowed: bool,
}

pub(super) fn policy(folder: &Path) -> PathBuf {
    folder.join("audit-policy.yaml")
}

pub(super) fn log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

pub(super) fn write_policy(folder: &Path) {
    let policy_text =
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{ level: Metadata }]\n";
    std::fs::write(policy(folder), policy_text).expect("write the audit policy");
}

/// What a user asked for of resources in namespaces.
pub(super) fn read(folder: &Path, user: &str) -> BTreeSet<Asked> {
    let text = std::fs::read_to_string(log(folder)).expect("read the audit log");
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
    events.filter(|e| e["user"]["username"] == user).filter_map(|e| asked(&e)).collect()
}

fn asked(event: &Value) -> Option<Asked> {
    let object = event.get("objectRef")?;
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (resource, sub) = (text("resource"), text("subresource"));
    let namespace = text("namespace");
    // What is of no namespace is discovery, or asks what is allowed.
    (!namespace.is_empty()).then(|| Asked {
        verb: event["verb"].as_str().unwrap_or_default().to_owned(),
        group: text("apiGroup"),
        resource: if sub.is_empty() { resource } else { format!("{resource}/{sub}") },
        namespace,
        allowed: event["annotations"]["authorization.k8s.io/decision"] != "forbid",
    })
}
