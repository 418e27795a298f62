//! Making an object what it is to be, or gone, whatever it is now: asked again until it is so.

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::objects::Object;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, ObjectList};
use serde_json::Value;

use super::super::api::{Cluster, Pace};
use super::kept::Kept;
use super::strip;

impl Cluster {
    /// A list with its version.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn whole_list(&self, kind: &ApiResource, namespace: &str) -> Result<ObjectList<DynamicObject>> {
        let api = self.objects(kind, namespace);
        let params = kube::api::ListParams::default();
        let what = format!("list {} in namespace {namespace}", kind.plural);
        self.ask(&what, || api.list(&params)).await
    }

    /// Creates an object.
    ///
    /// # Errors
    /// `Exists` when there is one, also when that is this one and its answer was lost.
    pub(super) async fn create(&self, kind: &ApiResource, namespace: &str, body: &Value) -> Result<DynamicObject> {
        self.post(kind, namespace, body, false).await
    }

    async fn post(&self, kind: &ApiResource, namespace: &str, body: &Value, dry: bool) -> Result<DynamicObject> {
        let object = dynamic(body)?;
        let api = self.objects(kind, namespace);
        let params = PostParams { dry_run: dry, ..PostParams::default() };
        let name = object.metadata.name.clone().unwrap_or_default();
        let what = format!("create {} {name} in namespace {namespace}", kind.plural);
        self.ask(&what, || api.create(&params, &object)).await
    }

    /// Puts another body in the place of the version that it names.
    ///
    /// # Errors
    /// `Conflict` when there is another version, also when that is this one and its answer was lost.
    pub(super) async fn replace(
        &self,
        kind: &ApiResource,
        namespace: &str,
        name: &str,
        body: &Value,
    ) -> Result<DynamicObject> {
        self.put(kind, namespace, name, body, false).await
    }

    async fn put(
        &self,
        kind: &ApiResource,
        namespace: &str,
        name: &str,
        body: &Value,
        dry: bool,
    ) -> Result<DynamicObject> {
        let object = dynamic(body)?;
        let api = self.objects(kind, namespace);
        let params = PostParams { dry_run: dry, ..PostParams::default() };
        let what = format!("replace {} {name} in namespace {namespace}", kind.plural);
        self.ask(&what, || api.replace(name, &params, &object)).await
    }

    /// Makes an object of ours gone.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub(super) async fn remove(&self, kind: &ApiResource, namespace: &str, name: &str) -> Result<()> {
        let api = self.objects(kind, namespace);
        let params = DeleteParams::background();
        let what = format!("delete {} {name} in namespace {namespace}", kind.plural);
        match self.ask(&what, || api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Asks whether the server would take it, and writes nothing.
    ///
    /// # Errors
    /// Why it would not.
    pub(super) async fn would_take(&self, kind: &ApiResource, namespace: &str, wanted: &Object) -> Result<()> {
        match self.get(kind, namespace, wanted.name()).await? {
            None => self.post(kind, namespace, &Value::Object(wanted.body().clone()), true).await.map(drop),
            Some(live) => self.put(kind, namespace, wanted.name(), &over(&live, wanted), true).await.map(drop),
        }
    }

    /// Makes the object what is wanted, as long as the load is ours.
    ///
    /// # Errors
    /// The server's word on why not.
    pub(super) async fn ensure_object(&self, kind: &ApiResource, kept: &Kept<'_>, wanted: &Object) -> Result<()> {
        let mut pace = Pace::new(self.patience);
        loop {
            kept.ensure_ours().await?;
            let done = match self.get(kind, kept.namespace, wanted.name()).await? {
                Some(live) if strip::are_same(&strip::stripped(kind, live.clone())?, wanted) => return Ok(()),
                Some(live) => self.write_over(kind, kept.namespace, &live, wanted).await,
                None => self.make(kind, kept.namespace, wanted).await,
            };
            match done {
                Ok(()) => return Ok(()),
                // It is another one than it was a moment ago.
                Err(e) if is_another(&e) => {
                    if !pace.go_on().await {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Puts what is wanted in the place of this very version.
    ///
    /// # Errors
    /// As [`Cluster::replace`].
    pub(super) async fn write_over(
        &self,
        kind: &ApiResource,
        namespace: &str,
        live: &DynamicObject,
        wanted: &Object,
    ) -> Result<()> {
        self.replace(kind, namespace, wanted.name(), &over(live, wanted)).await.map(drop)
    }

    /// Makes it where there is none.
    ///
    /// # Errors
    /// As [`Cluster::create`].
    pub(super) async fn make(&self, kind: &ApiResource, namespace: &str, wanted: &Object) -> Result<()> {
        self.create(kind, namespace, &Value::Object(wanted.body().clone())).await.map(drop)
    }

    /// Makes an object that was not there before gone again, as long as the load is ours.
    ///
    /// # Errors
    /// `Busy` when somebody keeps it from going.
    pub(super) async fn ensure_gone(&self, kind: &ApiResource, kept: &Kept<'_>, name: &str) -> Result<()> {
        let mut pace = Pace::new(self.patience);
        let namespace = kept.namespace;
        let api = self.objects(kind, namespace);
        loop {
            kept.ensure_ours().await?;
            let Some(live) = self.get(kind, namespace, name).await? else { return Ok(()) };
            if live.metadata.deletion_timestamp.is_none() {
                let only = Preconditions { uid: live.metadata.uid.clone(), ..Preconditions::default() };
                let params = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
                let what = format!("delete {} {name} in namespace {namespace}", kind.plural);
                match self.ask(&what, || api.delete(name, &params)).await {
                    Ok(_) => {}
                    Err(e) if is_another(&e) => {}
                    Err(e) => return Err(e),
                }
            }
            if !pace.go_on().await {
                let holders = live.metadata.finalizers.unwrap_or_default().join(", ");
                let text = format!("{} {name} is being deleted and does not go: finalizers {holders}", kind.plural);
                return Err(Error::new(Kind::Busy, text));
            }
        }
    }
}

/// Whether it is another one than was looked at, or none any more.
pub(super) fn is_another(e: &Error) -> bool {
    matches!(e.kind(), Kind::Exists | Kind::Conflict | Kind::NotFound)
}

fn dynamic(body: &Value) -> Result<DynamicObject> {
    // What serde says of it may quote it.
    serde_json::from_value(body.clone())
        .map_err(|_| Error::new(Kind::Corrupt, "its metadata is not of the form of an object\'s"))
        .context("make an object of what is stored")
}

/// What is wanted, in the place of what is live: whose it is, and who must agree when it goes, stay.
fn over(live: &DynamicObject, wanted: &Object) -> Value {
    let mut body = wanted.body().clone();
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        let old = &live.metadata;
        metadata.insert("resourceVersion".to_owned(), old.resource_version.clone().into());
        metadata.insert("uid".to_owned(), old.uid.clone().into());
        metadata.insert("finalizers".to_owned(), old.finalizers.clone().into());
        let owners = serde_json::to_value(&old.owner_references).unwrap_or_default();
        metadata.insert("ownerReferences".to_owned(), owners);
    }
    Value::Object(body)
}
