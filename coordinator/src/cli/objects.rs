//! `objects`: a set's objects of the cluster, as files.

use keepsake_core::error::Result;
use keepsake_core::format::objects::COMPONENT;
use keepsake_core::repository::Budget;
use serde::Serialize;

use super::args::{Args, Objects};
use super::output;
use crate::app::{App, identities};
use crate::catalog;
use crate::exit::Exit;
use crate::objects;

#[derive(Debug, Serialize)]
struct Done {
    installation: String,
    set: String,
    files: Vec<String>,
    /// Parameters that have to be passed by hand.
    by_hand: Vec<&'static str>,
}

/// Writes them.
pub(super) async fn run(args: &Args, app: &App, command: &Objects) -> Result<Exit> {
    let installation = app.topology.installation(command.set.installation.as_ref())?;
    let repository = app.repository().await?;
    let record = catalog::find(&repository, &installation.name, &command.set.set).await?;
    let (unsealer, _) = repository.unsealer(&record, identities(&command.identities)?.as_ref()).await?;
    let mut found = Vec::new();
    for entry in record.components.iter().filter(|c| c.component.as_str() == COMPONENT) {
        let Some(dump) = &entry.dump else { continue };
        let (store, budget) = (repository.store(), Budget::default());
        found.extend(objects::read(store, &budget, &unsealer, &entry.component, dump).await?);
    }
    objects::ensure_some(&found)?;
    let written = objects::write(&command.into, &found)?;
    let done = Done {
        installation: installation.name.to_string(),
        set: record.set.to_string(),
        files: written.files.iter().map(|f| f.display().to_string()).collect(),
        by_hand: written.by_hand,
    };
    output::result(args, &done, || {
        let mut out = done.files.join("\n");
        out.push('\n');
        if !done.by_hand.is_empty() {
            let names = done.by_hand.join(", ");
            out.push_str(&format!("not every `oc` reads back the values of {names}: pass them with -p\n"));
        }
        out.push_str("these files hold passwords and keys: remove them when you have used them\n");
        out
    })?;
    Ok(Exit::Done)
}
