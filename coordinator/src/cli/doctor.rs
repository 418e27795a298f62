//! `doctor`.

use keepsake_core::error::Result;

use super::args::{Args, Which};
use super::backup::looked_at;
use super::output;
use crate::app::App;
use crate::doctor;
use crate::exit::Exit;

/// Looks at everything and tells.
pub(super) async fn run(args: &Args, app: &App, command: &Which) -> Result<Exit> {
    let mut findings = doctor::repository(app).await;
    findings.extend(doctor::own_certificate(app));
    for installation in looked_at(&app.topology, command)? {
        findings.extend(doctor::installation(app, installation).await);
    }
    output::result(args, &findings, || {
        let rows: Vec<_> = findings
            .iter()
            .map(|f| {
                vec![if f.good { "ok" } else { "BAD" }.to_owned(), f.what.clone(), f.check.to_owned(), f.found.clone()]
            })
            .collect();
        output::table(&["", "WHAT", "CHECK", "FOUND"], &rows)
    })?;
    Ok(if findings.iter().all(|f| f.good) { Exit::Done } else { Exit::Found })
}
