//! `inspect`.

use jiff::Timestamp;
use keepsake_core::clock;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::Installation;
use keepsake_core::repository::Repository;
use keepsake_core::repository::seal::Identities;
use serde::Serialize;

use super::args::{Args, Inspect};
use super::backup::looked_at;
use super::output;
use crate::app::{self, App};
use crate::catalog;
use crate::exit::Exit;

#[derive(Debug, Serialize)]
struct Inspected {
    installation: String,
    set: String,
    /// When it was read.
    at: Timestamp,
    artifacts: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    component: String,
    artifact: String,
    bytes: u64,
    /// What is wrong with it.
    failure: Option<String>,
}

/// Inspects one set, or the newest of each installation.
pub(super) async fn run(args: &Args, app: &App, command: &Inspect) -> Result<Exit> {
    let installations = looked_at(&app.topology, &command.which)?;
    if command.set != "latest" && installations.len() > 1 {
        return Err(Error::new(Kind::Invalid, "a set is of one installation: name it with --installation"));
    }
    let identities = app::identities(&command.identities)?;
    let repository = app.repository().await?;
    let mut done = Vec::new();
    for installation in installations {
        let name = &installation.name;
        let inspected = one(&repository, name, &command.set, identities.as_ref()).await;
        done.push(inspected.with_context(|| format!("inspect installation {name}"))?);
    }
    let bad = done.iter().flat_map(|i| &i.artifacts).any(|a| a.failure.is_some());
    output::result(args, &done, || done.iter().map(told).collect())?;
    Ok(if bad { Exit::Found } else { Exit::Done })
}

async fn one(
    repository: &Repository,
    installation: &Installation,
    set: &str,
    identities: Option<&Identities>,
) -> Result<Inspected> {
    let record = catalog::find(repository, installation, set).await?;
    let (unsealer, _) = repository.unsealer(&record, identities).await?;
    let artifacts = repository.inspect(&record, &unsealer, |_| {}).await.into_iter().map(|a| Line {
        component: a.component.to_string(),
        artifact: a.artifact.to_string(),
        bytes: a.bytes,
        failure: a.failure.map(|f| f.text),
    });
    Ok(Inspected {
        installation: installation.to_string(),
        set: record.set.to_string(),
        artifacts: artifacts.collect(),
        at: clock::now(),
    })
}

fn told(inspected: &Inspected) -> String {
    let mut out = String::new();
    for line in &inspected.artifacts {
        match &line.failure {
            Some(failure) => out.push_str(&format!("BAD  {failure}\n")),
            None => {
                out.push_str(&format!("good {}/{}: {}\n", line.component, line.artifact, output::bytes(line.bytes)));
            }
        }
    }
    let bad = inspected.artifacts.iter().filter(|a| a.failure.is_some()).count();
    let word = if bad == 0 {
        "every dump is whole and holds what was dumped".to_owned()
    } else {
        format!("{bad} of its dumps cannot be restored")
    };
    out.push_str(&format!("{} set {}: {word}\n", inspected.installation, inspected.set));
    out
}
