//! `sets`, `show`, `verify`.

use std::time::Duration;

use keepsake_core::attachments::RowsWithoutFile;
use keepsake_core::error::Result;
use keepsake_core::record::{ComponentRecord, Cut, Record};
use serde::Serialize;

use super::args::{Args, OneSet, Which};
use super::backup::looked_at;
use super::output;
use crate::app::App;
use crate::catalog;
use crate::exit::Exit;

/// Lists sets.
pub(super) async fn list(args: &Args, app: &App, command: &Which) -> Result<Exit> {
    let repository = app.repository().await?;
    let mut lines = Vec::new();
    for installation in looked_at(&app.topology, command)? {
        lines.extend(catalog::sets(&repository, &installation.name).await?);
    }
    output::result(args, &lines, || {
        let dash = || "-".to_owned();
        let rows: Vec<_> = lines
            .iter()
            .map(|l| {
                vec![
                    l.installation.clone(),
                    l.epoch.map_or_else(dash, |e| e.to_string()),
                    l.set.clone(),
                    if l.latest { format!("{} (latest)", l.status) } else { l.status.to_owned() },
                    l.finished.map_or_else(dash, |t| format!("{t:.0}")),
                    l.bytes.map_or_else(dash, output::bytes),
                    l.stored.map_or_else(dash, output::bytes),
                    l.note.clone(),
                ]
            })
            .collect();
        output::table(&["INSTALLATION", "EPOCH", "SET", "STATUS", "FINISHED", "BYTES", "STORED", "NOTE"], &rows)
    })?;
    Ok(Exit::Done)
}

/// Shows one set.
pub(super) async fn show(args: &Args, app: &App, command: &OneSet) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let repository = app.repository().await?;
    let record = catalog::find(&repository, &installation.name, &command.set).await?;
    output::result(args, &record, || told(&record))?;
    Ok(Exit::Done)
}

fn told(record: &Record) -> String {
    let mut out = format!(
        "set           {}\ninstallation  {}\nepoch         {}\nstatus        {}\nfinished      {}\nbytes         {} stored as {}\nkeepsake      {}\n",
        record.set,
        record.installation,
        record.epoch,
        catalog::status_word(record.status),
        record.finished,
        output::bytes(record.plain_bytes()),
        output::bytes(record.stored_bytes()),
        record.keepsake_version,
    );
    let note = catalog::what_is_missing(record);
    if !note.is_empty() {
        out.push_str(&format!("note          {note}\n"));
    }
    match (&record.cut, &record.no_cut) {
        (Some(proof), _) => out.push_str(&cut(proof)),
        (None, Some(why)) => out.push_str(&format!("no cut        {why}\n")),
        (None, None) => {}
    }
    if let Some(found) = &record.rows_without_file {
        out.push_str(&rows_without_file(found));
    }
    for entry in &record.components {
        out.push_str(&component(entry));
    }
    out
}

/// Rows of the system database whose file the set lacks.
fn rows_without_file(found: &RowsWithoutFile) -> String {
    let mut out = format!("without file  {} rows name a file that is not in the set\n", found.total);
    for row in &found.rows {
        out.push_str(&format!("              {:16} {}\n", row.row, row.path.escape_debug()));
    }
    let more = found.total.saturating_sub(found.rows.len() as u64);
    if more > 0 {
        out.push_str(&format!("              and {more} more, which the record does not list\n"));
    }
    if let Some(why) = &found.unknown {
        out.push_str(&format!("              not known of all: {why}\n"));
    }
    out
}

/// The proof of a cut, as a person checks it.
fn cut(proof: &Cut) -> String {
    let millis = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    let mut out = format!(
        "cut           {} of {}\n              attempt {}, writers waited at most {:.1} ms ({:.1} ms in all attempts), lease {} ms\n",
        proof.at,
        proof.components.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        proof.attempt,
        millis(proof.pause_us),
        millis(proof.pauses_us),
        proof.lease_us / 1000,
    );
    for moment in &proof.sequence {
        out.push_str(&format!(
            "              {:>8.1} ms  {:14} {}\n",
            millis(moment.at_us),
            moment.what,
            moment.component
        ));
    }
    for void in &proof.void {
        out.push_str(&format!("              void: {void}\n"));
    }
    out
}

fn component(entry: &ComponentRecord) -> String {
    use std::fmt::Write;
    let mut out = format!("\n{} ({})\n", entry.component, entry.engine);
    // Writing to a string cannot fail.
    if let Some(failure) = &entry.failure {
        let _infallible = writeln!(out, "  FAILED: {}", failure.text);
    }
    let Some(dump) = &entry.dump else { return out };
    let _infallible = writeln!(out, "  server    {}", dump.report.server);
    for tool in &dump.report.tools {
        let _infallible =
            writeln!(out, "  tool      {}, status {}, {}", tool.version, tool.exit_status, tool.end_marker);
    }
    if let Some(position) = &dump.report.position {
        let _infallible = writeln!(out, "  position  {position}");
    }
    for artifact in &dump.artifacts {
        let stored: u64 = artifact.segments.iter().map(|s| s.stored).sum();
        let _infallible = writeln!(
            out,
            "  artifact  {}: {} in {} segments, stored as {}",
            artifact.artifact,
            output::bytes(artifact.length),
            artifact.segments.len(),
            output::bytes(stored)
        );
    }
    for warning in &dump.report.warnings {
        let _infallible = writeln!(out, "  warning   {warning}");
    }
    out
}

#[derive(Debug, Serialize)]
struct Verified {
    installation: String,
    set: String,
    segments: u64,
    bytes: u64,
    damaged: Vec<Damaged>,
    strays: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Damaged {
    artifact: String,
    segment: usize,
    key: String,
    why: String,
}

/// Verifies one set.
pub(super) async fn verify(args: &Args, app: &App, command: &OneSet) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let repository = app.repository().await?;
    let record = catalog::find(&repository, &installation.name, &command.set).await?;
    let found = repository.verify(&record, |_| {}).await?;
    let damaged = found
        .damaged
        .into_iter()
        .map(|d| Damaged { artifact: d.artifact, segment: d.segment, key: d.key, why: d.failure.text })
        .collect();
    let done = Verified {
        installation: installation.name.to_string(),
        set: record.set.to_string(),
        segments: found.segments,
        bytes: found.bytes,
        damaged,
        strays: found.strays,
    };
    output::result(args, &done, || {
        let mut out = String::new();
        for d in &done.damaged {
            out.push_str(&format!("DAMAGED {} segment {} ({}): {}\n", d.artifact, d.segment, d.key, d.why));
        }
        let word = if done.damaged.is_empty() { "every stored byte is as recorded" } else { "the set is DAMAGED" };
        out.push_str(&format!(
            "set {}: {} segments, {} read: {word}\n",
            done.set,
            done.segments,
            output::bytes(done.bytes)
        ));
        if !done.strays.is_empty() {
            out.push_str(&format!(
                "{} objects of given-up attempts lie beside it; they are harmless\n",
                done.strays.len()
            ));
        }
        out
    })?;
    Ok(if done.damaged.is_empty() { Exit::Done } else { Exit::Found })
}
