//! Where the lexer stands between two bytes.

/// Where the lexer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// In the first bytes, so many of which are those of [`super::SANDBOX`].
    Head(usize),
    /// In a line that is skipped whole.
    SkippedLine,
    /// Outside of everything below.
    Code,
    /// In a text that this quote ends.
    Quoted(u8),
    /// After a backslash in such a text.
    Escaped(u8),
    /// In a name in backticks.
    Name,
    /// In a comment up to the end of the line.
    LineComment,
    /// In a comment that the server ignores.
    BlockComment,
    /// After a star in it.
    BlockCommentStar,
    /// After `/`.
    Slash,
    /// After `/*`.
    SlashStar,
    /// After `/*M`.
    SlashStarM,
    /// In the digits after `/*!`.
    Version,
    /// After a star in an executable comment, whose end it may be.
    Star,
    /// After `-`.
    Dash,
    /// After `--`.
    DashDash,
    /// After a backslash outside of any text.
    Backslash,
    /// So many bytes of the delimiter were seen.
    Delimiter(usize),
    /// In the line of a `DELIMITER` command.
    DelimiterLine,
}
