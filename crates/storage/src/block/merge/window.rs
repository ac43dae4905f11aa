//! Parts of an input that are gone through one after the other.

use std::ops::Range;

use super::Kept;
use crate::block::stream_index::StreamInfo;
use crate::block::writer::StreamPart;

/// Which rows of a block a cursor goes through.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// The rows.
    pub(super) rows: Range<u32>,
    /// The stream of the first one.
    pub(super) first: u32,
    /// Which of them are read.
    pub(super) wanted: Wanted,
}

/// Which rows of a window are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of which any may stay.
    Staying,
    /// Those about which the stream alone does not tell what is to be known if all of them stay: whether they do, and what
    /// part they are of a stream of which something else goes.
    Unknown,
}

/// What a block has of a stream in a window.
pub(super) struct Part {
    pub(super) info: StreamInfo,
    pub(super) rows: Range<u32>,
    pub(super) kept: Kept,
    /// Whether every row of the stream stays, also of those outside of the window.
    pub(super) whole: bool,
}

impl Part {
    /// Whether the stream has rows outside of the window.
    pub(super) fn crosses(&self) -> bool {
        self.rows != self.info.rows
    }

    /// The whole stream, if it stays and has rows outside of the window.
    pub(super) fn crossing_whole(&self) -> Option<StreamPart> {
        (self.whole && self.crosses()).then(|| StreamPart::of(&self.info))
    }

    /// Whether rows have to be read, even if all of them stay.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.kept, Kept::Rows(_)) || (self.crosses() && !self.whole)
    }
}
