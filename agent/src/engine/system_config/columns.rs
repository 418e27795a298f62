//! The columns of a row, in the order in which they were asked for.

use keepsake_core::error::{Error, Kind, Result};

/// One row: texts as the server tells them in UTF-8; `None` for NULL.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::engine) struct Columns(pub(in crate::engine) Vec<Option<Vec<u8>>>);

impl Columns {
    /// A text.
    ///
    /// # Errors
    /// `Corrupt` when it is NULL or not UTF-8.
    pub(super) fn text(&self, n: usize) -> Result<&str> {
        self.opt(n)?.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("column {n} of a row is NULL, which System does not write"))
        })
    }

    /// A text or NULL.
    ///
    /// # Errors
    /// `Corrupt` when it is not UTF-8, `Internal` when it was not asked for.
    pub(super) fn opt(&self, n: usize) -> Result<Option<&str>> {
        let column = self.0.get(n).ok_or_else(|| Error::new(Kind::Internal, format!("a row has no column {n}")))?;
        let text = column.as_deref().map(std::str::from_utf8).transpose();
        text.map_err(|e| Error::caused(Kind::Corrupt, format!("column {n} of a row is not UTF-8"), e))
    }

    /// As [`Self::text`], with NULL as an empty text: where System treats both alike.
    pub(super) fn or_empty(&self, n: usize) -> Result<&str> {
        Ok(self.opt(n)?.unwrap_or_default())
    }

    /// Yes or no, asked for as 1 or 0.
    ///
    /// # Errors
    /// `Internal` for anything else.
    pub(super) fn flag(&self, n: usize) -> Result<bool> {
        match self.text(n)? {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(Error::new(Kind::Internal, format!("column {n} of a row is neither 1 nor 0"))),
        }
    }
}

/// Rows hold secrets.
impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Columns({})", self.0.len())
    }
}
