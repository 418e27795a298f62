//! Printing: results on stdout, words on stderr. The only file that prints. Nobody may be listening any more: a restore does not end because its
//! terminal did.

use std::io::{IsTerminal, Write};

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use serde::Serialize;

use super::args::{Args, Output};

/// Starts logging on stderr.
pub(super) fn logging(args: &Args) {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second call in one process (tests) keeps the first.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// Prints a result: as JSON for machines, otherwise as the text.
///
/// # Errors
/// The result cannot be written as JSON: a defect.
pub(super) fn result(args: &Args, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match args.output {
        Output::Json => {
            let json = serde_json::to_string_pretty(value).or_kind(Kind::Internal, "write the result as JSON")?;
            let _nobody_listens = writeln!(std::io::stdout(), "{json}");
        }
        Output::Text => {
            let _nobody_listens = write!(std::io::stdout(), "{}", text());
        }
    }
    let _nobody_listens = std::io::stdout().flush();
    Ok(())
}

/// Prints an error with all its causes.
pub(super) fn error(args: &Args, error: &Error) {
    say(&format!("keepsake: {}", error.chain()));
    if args.output == Output::Json {
        let value = serde_json::json!({ "error": { "kind": error.kind(), "text": error.chain() } });
        let _nobody_listens = writeln!(std::io::stdout(), "{value:#}");
    }
}

/// One line for the person at the terminal.
pub(super) fn say(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "{line}");
}

/// A table with left-aligned columns, the header first.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Bytes as people read them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = UNITS[0];
    for next in UNITS {
        unit = next;
        if value < 1024.0 || next == "TiB" {
            break;
        }
        value /= 1024.0;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     b\nlong  c\n");
    }
}
