//! Where 3scale keeps the files that rows of its system database name. Pure.
//!
//! The application (porta) keeps them by Paperclip below one folder, which is what system-storage is: `<prefix of the provider>/…`. Sizes that it
//! makes of a picture can be made again; only what was uploaded or generated once counts here.

use serde::{Deserialize, Serialize};

/// The fact by which a dump says that it can tell which files its rows name, and how many rows do.
pub const ATTACHMENTS: &str = "attachments";

/// A row that names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// Of `cms_files`: something uploaded for the developer portal.
    CmsFile {
        /// When it was uploaded, `YYYY/MM/DD` in UTC.
        date: &'a str,
        /// What keeps its address from being guessed.
        secret: &'a str,
    },
    /// Of `invoices`: the PDF of one.
    Invoice {
        /// The invoice.
        id: &'a str,
    },
    /// Of `profiles`: the logo of an account.
    Logo {
        /// The account.
        account: &'a str,
    },
}

/// What was found when the files that rows name were looked for among those that were dumped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowsWithoutFile {
    /// How many rows there are whose file is missing.
    pub total: u64,
    /// The first of them by path, at most [`RowsWithoutFile::MOST`].
    #[serde(default)]
    pub rows: Vec<RowWithoutFile>,
    /// Why it is not known, or not of all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl RowsWithoutFile {
    /// How many are listed.
    pub const MOST: usize = 1000;
}

/// A row and the file that it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowWithoutFile {
    /// Where the file should be, below the volume's root.
    pub path: String,
    /// Table and id, for example `cms_files 17`.
    pub row: String,
}

/// The path of a row's file below the folder; `None` when it cannot be told.
///
/// `prefix` is `s3_prefix` of the provider's account, `name` the file's name as the row has it.
pub fn path(prefix: &str, name: &str, row: Row<'_>) -> Option<String> {
    let prefix = parameterized(prefix)?;
    let (base, extension) = halves(name);
    let below = match row {
        Row::CmsFile { date, secret } => format!("{date}/{base}-{secret}.{extension}"),
        Row::Invoice { id } => format!("invoices/{id}/pdfs/original/{base}.{extension}"),
        Row::Logo { account } => format!("{account}/profiles/logos/original/{base}.{extension}"),
    };
    let safe = !name.is_empty() && below.split('/').all(|step| !matches!(step, "" | "." | "..")) && !name.contains('/');
    safe.then(|| if prefix.is_empty() { below } else { format!("{prefix}/{below}") })
}

/// As Rails makes part of an address of a text. Of letters beyond ASCII it makes others, by tables that are not here.
fn parameterized(text: &str) -> Option<String> {
    if !text.is_ascii() {
        return None;
    }
    let mut out = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let kept = if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
        if kept != '-' || !out.ends_with('-') {
            out.push(kept);
        }
    }
    Some(out.trim_matches('-').to_owned())
}

/// A file's name without its extension, and that, as Ruby sees them: dots at the beginning begin none.
fn halves(name: &str) -> (&str, &str) {
    let start = name.len() - name.trim_start_matches('.').len();
    match name.rfind('.') {
        Some(dot) if dot > start => (name.get(..dot).unwrap_or(name), name.get(dot + 1..).unwrap_or_default()),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_paperclip() {
        let file = Row::CmsFile { date: "2026/04/14", secret: "dc0b26879824b015" };
        for (prefix, name, expected) in [
            ("tenant1", "my logo.png", "tenant1/2026/04/14/my logo-dc0b26879824b015.png"),
            ("tenant1", "a.tar.gz", "tenant1/2026/04/14/a.tar-dc0b26879824b015.gz"),
            ("tenant1", "日本語 ファイル.pdf", "tenant1/2026/04/14/日本語 ファイル-dc0b26879824b015.pdf"),
            // Paperclip writes the dot, whether or not there is something behind it.
            ("tenant1", "README", "tenant1/2026/04/14/README-dc0b26879824b015."),
            ("tenant1", ".hidden", "tenant1/2026/04/14/.hidden-dc0b26879824b015."),
            ("tenant1", "..b.c", "tenant1/2026/04/14/..b-dc0b26879824b015.c"),
            ("", "x.css", "2026/04/14/x-dc0b26879824b015.css"),
            ("-My Tenant!.2_", "x.css", "my-tenant-2_/2026/04/14/x-dc0b26879824b015.css"),
        ] {
            assert_eq!(path(prefix, name, file).as_deref(), Some(expected), "{prefix} {name}");
        }
        let pdf = path("tenant3", "invoice-10.pdf", Row::Invoice { id: "10" });
        assert_eq!(pdf.as_deref(), Some("tenant3/invoices/10/pdfs/original/invoice-10.pdf"));
        let logo = path("tenant1", "logo.png", Row::Logo { account: "2" });
        assert_eq!(logo.as_deref(), Some("tenant1/2/profiles/logos/original/logo.png"));
    }

    #[test]
    fn what_cannot_be_a_path_is_none() {
        assert_eq!(path("größe", "x", Row::Invoice { id: "1" }), None);
        for name in ["", "../x", "a/b"] {
            assert_eq!(path("t", name, Row::Invoice { id: "1" }), None, "{name}");
        }
        assert_eq!(path("t", "x", Row::CmsFile { date: "../..", secret: "s" }), None);
    }
}
