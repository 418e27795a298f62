//! One object of a cluster as it is stored: the JSON that its API server gives out, without what that server wrote into it by itself.

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result, ResultExt};
use crate::id::ArtifactName;
use crate::record::Counts;

/// The component of a cluster's objects. The coordinator itself dumps and loads it; it has no agent.
pub const COMPONENT: &str = "objects";
/// What stands in the place of its engine.
pub const ENGINE: &str = "objects";

/// An object larger than this is none: no API server takes a request of more than 3 MiB.
pub const LARGEST: u64 = 4 << 20;

/// An object, checked as far as its name.
#[derive(Clone, PartialEq)]
pub struct Object {
    kind: String,
    name: String,
    body: Map<String, Value>,
}

// What is in a Secret is nobody's to print.
impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Object {
    /// From JSON, as it is stored.
    ///
    /// # Errors
    /// `Corrupt` when it is not the JSON of a named object.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // What serde says of bytes that it does not understand may quote them.
        let value = serde_json::from_slice(bytes).map_err(|e| {
            Error::new(Kind::Corrupt, format!("it is not JSON: line {}, column {}", e.line(), e.column()))
        })?;
        Self::new(value)
    }

    /// From a value.
    ///
    /// # Errors
    /// `Corrupt` when it is not a named object.
    pub fn new(value: Value) -> Result<Self> {
        let corrupt = |what: &str| Error::new(Kind::Corrupt, format!("it is no object of a cluster: {what}"));
        let Value::Object(body) = value else { return Err(corrupt("it has no fields")) };
        let text = |field: Option<&Value>| field.and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        let kind = text(body.get("kind")).ok_or_else(|| corrupt("it has no kind"))?;
        text(body.get("apiVersion")).ok_or_else(|| corrupt("it has no apiVersion"))?;
        let name = body.get("metadata").and_then(|m| text(m.get("name"))).ok_or_else(|| corrupt("it has no name"))?;
        Ok(Self { kind, name, body })
    }

    /// Its kind, as `Secret`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its API group, empty for the core group, and version.
    pub fn group_and_version(&self) -> (&str, &str) {
        let whole = self.body.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        whole.split_once('/').unwrap_or(("", whole))
    }

    /// All of it.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// All of it.
    pub fn into_body(self) -> Map<String, Value> {
        self.body
    }

    /// How it is called in a set and in messages: `secret/system-seed`.
    ///
    /// # Errors
    /// `Unsupported` when its name cannot stand in a key of the store.
    pub fn artifact(&self) -> Result<ArtifactName> {
        ArtifactName::new(format!("{}/{}", self.kind.to_lowercase(), self.name))
            .or_kind(Kind::Unsupported, format!("a {} cannot be stored under its name", self.kind))
    }

    /// The bytes that are stored.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(&self.body).or_kind(Kind::Internal, "write an object as JSON")?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What it counts in a record.
    pub fn counts(&self) -> Counts {
        Counts::from([(format!("objects:{}", self.kind.to_lowercase()), 1)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let value = json!({ "apiVersion": "apps.3scale.net/v1alpha1", "kind": "APIManager", "metadata": { "name": "a" }, "spec": {} });
        let object = Object::new(value).unwrap();
        assert_eq!(Object::parse(&object.to_bytes().unwrap()).unwrap(), object);
        assert_eq!(object.artifact().unwrap().as_str(), "apimanager/a");
        assert_eq!(object.group_and_version(), ("apps.3scale.net", "v1alpha1"));
        assert_eq!(object.counts(), Counts::from([("objects:apimanager".to_owned(), 1)]));
    }

    #[test]
    fn what_is_no_object_is_refused_without_quoting_it() {
        for bad in [
            "",
            "[]",
            "{\"kind\": \"Secret\"",
            "{\"data\": {\"password\": \"hush\"}}",
            "{\"kind\": \"Secret\", \"apiVersion\": \"v1\", \"metadata\": {}}",
            "hush",
        ] {
            let told = Object::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(told.kind(), Kind::Corrupt, "{bad}");
            assert!(!told.chain().contains("hush"), "{}", told.chain());
        }
        let named = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "../x" } });
        assert_eq!(Object::new(named).unwrap().artifact().unwrap_err().kind(), Kind::Unsupported);
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a" }, "data": { "b": "hush" } });
        assert!(!format!("{:?}", Object::new(secret).unwrap()).contains("hush"));
    }
}
