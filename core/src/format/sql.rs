//! Reads a dump as it passes, in bounded memory: a lexer of the SQL that dump tools write.
//!
//! It counts rows per table, triggers, routines, events and views, measures the longest statement, notes which schemas are
//! named and which accounts define what, and insists on the end marker as the last line. It buffers no statement: only a
//! short beginning of each, enough to know what it is. Where it splits statements it follows the rules of the command line
//! client, because that is who will read the dump. Any bytes at all give a [`Summary`] or an error, never a panic, and the
//! same one however they are cut into chunks.

mod scan;
mod split;
mod state;
mod statement;
mod summary;
mod words;

use crate::error::{Error, Kind, Result};

pub use split::{Pieces, Sides, Splitter};
use state::State;
use statement::Current;
pub use summary::Summary;

/// How MariaDB's dumps begin since 2024. Other clients do not understand it.
pub const SANDBOX: &[u8] = br"/*M!999999\-";
/// How the last line of a whole dump begins.
const END: &[u8] = b"-- Dump completed";
/// Longer delimiters are not a dump tool's.
const DELIMITER_BYTES: usize = 16;

/// Reads one dump from its beginning.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// Bytes read.
    offset: u64,
    delimiter: Vec<u8>,
    new_delimiter: Vec<u8>,
    /// In the text of `/*! … */`, which is code.
    executable: bool,
    /// A backslash in a text stands for itself.
    no_backslash_escapes: bool,
    /// The beginning of the comment line being read, when it stands outside of any statement.
    comment: Vec<u8>,
    /// The end marker was the last thing read.
    complete: bool,
    current: Current,
    /// Where the statement that has just ended belongs, until it is asked for.
    ended: Option<(Sides, bool)>,
    summary: Summary,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self {
            state: State::Head(0),
            offset: 0,
            delimiter: vec![b';'],
            new_delimiter: Vec::new(),
            executable: false,
            no_backslash_escapes: false,
            comment: Vec::new(),
            complete: false,
            current: Current::default(),
            ended: None,
            summary: Summary::default(),
        }
    }

    /// Whether anything but settings was read: the tool has asked the server for definitions then, so its snapshot is open.
    pub fn past_header(&self) -> bool {
        self.summary.objects
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// `Corrupt` when no dump tool writes this; the text never holds any of the bytes. Do not go on after it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.advance(rest)?;
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads some of the next bytes, none of them beyond the end of a statement; how many. None when the state changed before the first.
    fn advance(&mut self, rest: &[u8]) -> Result<usize> {
        let Some(first) = rest.first() else { return Ok(0) };
        let used = self.run(rest);
        let used = if used == 0 { usize::from(self.step(*first)?) } else { used };
        self.offset += used as u64;
        Ok(used)
    }

    /// Says that there are no more bytes.
    ///
    /// # Errors
    /// `Corrupt` when the dump stops before its end marker.
    pub fn finish(self) -> Result<Summary> {
        let where_it_ends = match self.state {
            _ if self.complete && self.state == State::Code => {
                return Ok(Summary { bytes: self.offset, ..self.summary });
            }
            State::Quoted(_) | State::Escaped(_) => "inside a text",
            _ if self.current.started() => "inside a statement",
            _ => "without the line `-- Dump completed`",
        };
        Err(Error::new(
            Kind::Corrupt,
            format!("the dump ends {where_it_ends}, after {} bytes: it is not whole", self.offset),
        ))
    }

    /// Takes the bytes that change nothing but the text they stand in; how many. None is a byte for [`Self::step`].
    fn run(&mut self, rest: &[u8]) -> usize {
        match self.state {
            State::Quoted(quote) => {
                let n = scan::find2(rest, quote, if self.no_backslash_escapes { quote } else { b'\\' });
                self.current.text(rest.get(..n).unwrap_or_default());
                n
            }
            State::Name => {
                let n = scan::find2(rest, b'`', b'`');
                self.current.text(rest.get(..n).unwrap_or_default());
                n
            }
            State::SkippedLine => scan::find2(rest, b'\n', b'\n'),
            State::LineComment => {
                let n = scan::find2(rest, b'\n', b'\n');
                let room = END.len().saturating_sub(self.comment.len());
                self.comment.extend_from_slice(rest.get(..n.min(room)).unwrap_or_default());
                n
            }
            State::BlockComment => scan::find2(rest, b'*', b'*'),
            State::Code if self.current.in_rows() => {
                let delimiter = self.delimiter.first().copied().unwrap_or(b';');
                self.current.rows_run(rest, delimiter, self.executable)
            }
            _ => 0,
        }
    }

    /// Takes one byte; false when it is to be looked at again in the new state.
    fn step(&mut self, byte: u8) -> Result<bool> {
        match self.state {
            State::Head(seen) => return self.head(seen, byte),
            State::SkippedLine => self.state = State::Code,
            State::Code => return self.code(byte),
            State::Quoted(quote) => {
                self.current.text(&[byte]);
                self.state = if byte == quote { State::Code } else { State::Escaped(quote) };
            }
            State::Escaped(quote) => {
                self.current.text(&[byte]);
                self.state = State::Quoted(quote);
            }
            State::Name => {
                self.current.text(&[byte]);
                self.state = State::Code;
            }
            State::LineComment => {
                self.complete = self.comment.as_slice() == END && !self.current.started();
                self.comment.clear();
                self.state = State::Code;
                // The end of the line separates words as any space does.
                self.plain(b'\n')?;
            }
            State::BlockComment => self.state = State::BlockCommentStar,
            State::BlockCommentStar if byte == b'*' => {}
            State::BlockCommentStar if byte == b'/' => {
                self.state = State::Code;
                self.plain(b' ')?;
            }
            State::BlockCommentStar => self.state = State::BlockComment,
            State::Slash if byte == b'*' => {
                self.complete = false;
                self.state = State::SlashStar;
            }
            State::Slash => return self.again(b"/"),
            State::SlashStar if byte == b'!' => self.executable_comment(2),
            State::SlashStar if byte == b'M' => self.state = State::SlashStarM,
            State::SlashStarM if byte == b'!' => self.executable_comment(3),
            State::SlashStar | State::SlashStarM => {
                self.state = State::BlockComment;
                return Ok(false);
            }
            State::Version if byte.is_ascii_digit() => {}
            State::Version => {
                self.state = State::Code;
                return Ok(false);
            }
            State::Star if byte == b'/' => {
                self.executable = false;
                self.state = State::Code;
                self.plain(b' ')?;
            }
            State::Star => return self.again(b"*"),
            State::Dash if byte == b'-' => self.state = State::DashDash,
            State::Dash => return self.again(b"-"),
            State::DashDash if byte.is_ascii_whitespace() || byte.is_ascii_control() => {
                if !self.current.started() {
                    self.comment.extend_from_slice(b"--");
                }
                self.state = State::LineComment;
                return Ok(false);
            }
            State::DashDash => return self.again(b"--"),
            State::Backslash if byte == b'N' => {
                self.state = State::Code;
                self.plain(b'N')?;
            }
            State::Backslash => return Err(self.strange("a command of the client, which no dump has there")),
            State::Delimiter(seen) => return self.delimiter(seen, byte),
            State::DelimiterLine => self.delimiter_line(byte)?,
        }
        Ok(true)
    }

    /// One of the first bytes, which may announce the sandbox: that line is a command of MariaDB's client.
    fn head(&mut self, seen: usize, byte: u8) -> Result<bool> {
        if SANDBOX.get(seen) == Some(&byte) {
            self.state = if seen + 1 == SANDBOX.len() { State::SkippedLine } else { State::Head(seen + 1) };
            return Ok(true);
        }
        self.state = State::Code;
        // A prefix of the announcement is `/*M!` and digits at most: none of it starts something that a replay would miss.
        for earlier in SANDBOX.get(..seen).unwrap_or_default() {
            while !self.step(*earlier)? {}
        }
        Ok(false)
    }

    /// One byte outside of texts and comments.
    fn code(&mut self, byte: u8) -> Result<bool> {
        if self.delimiter.first() == Some(&byte) {
            self.state = State::Delimiter(1);
            return if self.delimiter.len() == 1 { self.end_statement().map(|()| true) } else { Ok(true) };
        }
        self.special(byte).map(|()| true)
    }

    /// One byte that is not the delimiter's.
    fn special(&mut self, byte: u8) -> Result<()> {
        match byte {
            b'\'' | b'"' => {
                self.plain(byte)?;
                self.state = State::Quoted(byte);
            }
            b'`' => {
                self.plain(byte)?;
                self.state = State::Name;
            }
            b'#' => {
                self.comment.push(byte);
                self.state = State::LineComment;
            }
            b'/' => self.state = State::Slash,
            b'*' if self.executable => self.state = State::Star,
            b'-' => self.state = State::Dash,
            b'\\' => self.state = State::Backslash,
            _ => self.plain(byte)?,
        }
        Ok(())
    }

    /// The byte before was not the beginning of what it might have been: it is code, and this one is to be looked at.
    fn again(&mut self, before: &[u8]) -> Result<bool> {
        self.state = State::Code;
        for byte in before {
            self.plain(*byte)?;
        }
        Ok(false)
    }

    /// One byte of code with no other meaning.
    fn plain(&mut self, byte: u8) -> Result<()> {
        if !byte.is_ascii_whitespace() {
            self.complete = false;
        }
        let word_ended = self.current.code(byte, self.offset);
        if !word_ended {
            return Ok(());
        }
        if self.current.is_delimiter_command() {
            self.current.forget();
            self.new_delimiter.clear();
            self.state = State::DelimiterLine;
            if byte == b'\n' {
                return Err(self.strange("a DELIMITER command without a delimiter"));
            }
            return Ok(());
        }
        if !self.current.may_begin() {
            return Err(self.strange("a statement that no dump tool writes"));
        }
        Ok(())
    }

    fn executable_comment(&mut self, back: u64) {
        self.complete = false;
        self.executable = true;
        self.current.begin_in_comment(self.offset.saturating_sub(back));
        self.state = State::Version;
    }

    fn delimiter(&mut self, seen: usize, byte: u8) -> Result<bool> {
        if self.delimiter.get(seen) == Some(&byte) {
            if seen + 1 == self.delimiter.len() {
                self.end_statement()?;
            } else {
                self.state = State::Delimiter(seen + 1);
            }
            return Ok(true);
        }
        // Only its first bytes: they are what they would be without a delimiter that begins like them.
        self.state = State::Code;
        let before = self.delimiter.get(..seen).unwrap_or_default().to_vec();
        match before.as_slice() {
            [one] => self.special(*one)?,
            more => {
                for byte in more {
                    self.plain(*byte)?;
                }
            }
        }
        Ok(false)
    }

    fn delimiter_line(&mut self, byte: u8) -> Result<()> {
        match byte {
            b'\n' if self.new_delimiter.is_empty() => {
                return Err(self.strange("a DELIMITER command without a delimiter"));
            }
            b'\n' => {
                self.delimiter = std::mem::take(&mut self.new_delimiter);
                self.state = State::Code;
                self.ended = Some((Sides::ALL, false));
            }
            byte if byte.is_ascii_whitespace() => {}
            _ if self.new_delimiter.len() == DELIMITER_BYTES => {
                return Err(self.strange("a DELIMITER command with a long delimiter"));
            }
            byte => self.new_delimiter.push(byte),
        }
        Ok(())
    }

    fn end_statement(&mut self) -> Result<()> {
        self.state = State::Code;
        self.executable = false;
        self.complete = false;
        let before = (self.delimiter.len() as u64).saturating_sub(1);
        let end = self.offset.saturating_sub(before);
        let taken = self.current.end(end, &mut self.summary, &mut self.no_backslash_escapes);
        self.current.forget();
        self.ended = Some(taken.map_err(|what| self.strange(what))?);
        Ok(())
    }

    fn strange(&self, what: &str) -> Error {
        Error::new(
            Kind::Corrupt,
            format!("at byte {} of the dump stands {what}: damaged, or not a dump of mysqldump's kind", self.offset),
        )
    }
}

#[cfg(test)]
mod tests;
