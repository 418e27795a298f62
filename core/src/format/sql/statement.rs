//! The statement being read: its beginning, its rows, its length.

use super::split::Sides;
use super::summary::Summary;
use super::words;

/// How much of a statement's beginning is kept: more than the longest definer, name and sql_mode need.
const KEPT: usize = 2048;

/// The statement being read.
#[derive(Debug, Default)]
pub(super) struct Current {
    /// Where its first byte stands; `None` before it.
    begun: Option<u64>,
    /// Its beginning, executable comments opened up.
    beginning: Vec<u8>,
    /// How long its first word is, once it has ended.
    first_word: Option<usize>,
    /// It puts rows into a table.
    insert: bool,
    /// Its `VALUES` was read: what follows are rows.
    in_rows: bool,
    /// The word being read, as long as it may be `VALUES`.
    word: Vec<u8>,
    /// Open parentheses.
    depth: u32,
    /// Rows so far.
    rows: u64,
    /// Its first byte is that of an executable comment.
    in_comment: bool,
}

impl Current {
    /// Whether its first byte was read.
    pub(super) fn started(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether the bytes to come are rows.
    pub(super) fn in_rows(&self) -> bool {
        self.in_rows
    }

    /// Its first byte stands there.
    pub(super) fn begin(&mut self, offset: u64) {
        self.begun.get_or_insert(offset);
    }

    /// Its first byte, if this is it, begins an executable comment.
    pub(super) fn begin_in_comment(&mut self, offset: u64) {
        if !self.started() {
            self.in_comment = true;
            self.begin(offset);
        }
    }

    /// Whether enough of it was read to tell what it is.
    pub(super) fn is_known(&self) -> bool {
        self.in_rows || self.beginning.len() >= KEPT
    }

    /// Where it belongs, and whether it names a schema before its table.
    ///
    /// # Errors
    /// No dump tool writes it.
    pub(super) fn sides(&self) -> Result<(Sides, bool), &'static str> {
        let found = words::classify(&self.beginning)?;
        Ok((found.sides(self.in_comment), found.foreign_schema.is_some()))
    }

    /// Takes bytes of a text or a name.
    pub(super) fn text(&mut self, bytes: &[u8]) {
        if !self.in_rows {
            let room = KEPT.saturating_sub(self.beginning.len());
            self.beginning.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        }
    }

    /// Takes a byte of code; whether the first word has just ended.
    pub(super) fn code(&mut self, byte: u8, offset: u64) -> bool {
        if !self.started() {
            if byte.is_ascii_whitespace() {
                return false;
            }
            self.begin(offset);
        }
        if self.beginning.is_empty() && byte.is_ascii_whitespace() {
            return false;
        }
        if !self.in_rows && self.beginning.len() < KEPT {
            self.beginning.push(byte);
        }
        if self.insert {
            self.insert_code(byte);
        }
        if self.first_word.is_none() && !byte.is_ascii_alphabetic() {
            self.end_first_word();
            return true;
        }
        false
    }

    fn end_first_word(&mut self) {
        let length = self.beginning.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        self.first_word = Some(length);
        self.insert = self.is_first_word(b"INSERT") || self.is_first_word(b"REPLACE");
    }

    fn is_first_word(&self, word: &[u8]) -> bool {
        self.beginning.get(..self.first_word.unwrap_or_default()).is_some_and(|w| w.eq_ignore_ascii_case(word))
    }

    /// A byte of code of a statement that puts rows into a table.
    fn insert_code(&mut self, byte: u8) {
        match byte {
            b'(' => {
                self.rows += u64::from(self.in_rows && self.depth == 0);
                self.depth = self.depth.saturating_add(1);
            }
            b')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.in_rows {
            return;
        }
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            if self.word.len() < 8 {
                self.word.push(byte.to_ascii_uppercase());
            }
            // The word may be directly before a parenthesis, which is a row's then: so it counts as soon as it is read.
            self.in_rows = self.depth == 0 && self.word == b"VALUES";
        } else {
            self.word.clear();
        }
    }

    /// Takes bytes of rows up to one that may end them or begin a text; how many.
    pub(super) fn rows_run(&mut self, bytes: &[u8], delimiter: u8, executable: bool) -> usize {
        let mut used = 0;
        for byte in bytes {
            match *byte {
                b if b == delimiter => break,
                b'\'' | b'"' | b'`' | b'#' | b'/' | b'-' | b'\\' => break,
                b'*' if executable => break,
                b'(' => {
                    self.rows += u64::from(self.depth == 0);
                    self.depth = self.depth.saturating_add(1);
                }
                b')' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            used += 1;
        }
        used
    }

    /// Whether it is the client's own `DELIMITER`.
    pub(super) fn is_delimiter_command(&self) -> bool {
        self.is_first_word(b"DELIMITER")
    }

    /// Whether a dump tool writes statements with this first word.
    pub(super) fn may_begin(&self) -> bool {
        words::KNOWN.iter().any(|word| self.is_first_word(word))
    }

    /// Adds the whole statement to the summary; says as [`Self::sides`] where it belongs.
    pub(super) fn end(
        &mut self,
        end: u64,
        summary: &mut Summary,
        no_backslash_escapes: &mut bool,
    ) -> Result<(Sides, bool), &'static str> {
        let Some(begun) = self.begun else { return Ok((Sides::NONE, false)) };
        summary.longest_statement = summary.longest_statement.max(end.saturating_sub(begun));
        if self.beginning.is_empty() {
            return Ok((Sides::NONE, false));
        }
        if self.first_word.is_none() {
            self.end_first_word();
            if !self.may_begin() {
                return Err("a statement that no dump tool writes");
            }
        }
        let found = words::classify(&self.beginning)?;
        if let words::Statement::Mode { no_backslash_escapes: now } = found.statement {
            *no_backslash_escapes = now;
        }
        let sides = (found.sides(self.in_comment), found.foreign_schema.is_some());
        summary.add(found, self.rows)?;
        Ok(sides)
    }

    /// Makes ready for the next one.
    pub(super) fn forget(&mut self) {
        self.begun = None;
        self.beginning.clear();
        self.first_word = None;
        self.insert = false;
        self.in_rows = false;
        self.word.clear();
        self.depth = 0;
        self.rows = 0;
        self.in_comment = false;
    }
}
