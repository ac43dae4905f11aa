//! Errors of parsing and of evaluation.

use std::fmt;

use skald_model::Kind;

/// Why a text is not a LogQL query; shows as Loki words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
    /// Line of the offending token, from 1; 0 where Loki does not know it.
    pub line: usize,
    /// Column of the offending token in characters, from 1; 0 where Loki does not know it.
    pub column: usize,
}

impl ParseError {
    /// An error at a place in the text.
    pub(crate) fn at(message: impl Into<String>, line: usize, column: usize) -> Self {
        Self { message: message.into(), line, column }
    }
    /// An error of the meaning, which has no place.
    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Self::at(message, 0, 0)
    }
    /// An error that shows without the words "parse error".
    pub(crate) fn bare(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: 0, column: usize::MAX }
    }
    /// An error of a pipeline stage, which Loki finds when the stage is first used.
    pub(crate) fn stage(stage: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::whole(format!("stage '{stage}' : {reason}"))
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.column == usize::MAX {
            f.write_str(&self.message)
        } else if self.line == 0 && self.column == 0 {
            write!(f, "parse error : {}", self.message)
        } else {
            write!(f, "parse error at line {}, col {}: {}", self.line, self.column, self.message)
        }
    }
}

impl From<ParseError> for skald_model::Error {
    fn from(e: ParseError) -> Self {
        skald_model::Error::new(Kind::InvalidArgument, e.to_string())
    }
}
