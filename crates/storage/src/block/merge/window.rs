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

/// How a stream stands that has rows outside of a window, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All of it stays.
    Whole,
    /// Of each row group rows may stay: what is left of the stream is what there was without the rows that go, which are all
    /// read.
    Less,
    /// Whole row groups of it go unread: what is left has to be counted.
    Counted,
}

/// What a block has of a stream in a window.
pub(super) struct Part {
    pub(super) info: StreamInfo,
    pub(super) rows: Range<u32>,
    pub(super) kept: Kept,
    /// Whether the stream has rows outside of the window, and how it stands then.
    pub(super) crossing: Option<Standing>,
}

impl Part {
    /// What there was of the stream, if it has rows outside of the window, and that tells what is left.
    pub(super) fn crossing_whole(&self) -> Option<StreamPart> {
        let tells = matches!(self.crossing, Some(Standing::Whole | Standing::Less));
        tells.then(|| StreamPart::of(&self.info))
    }

    /// Whether rows have to be read, even if all of them stay.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.kept, Kept::Rows(_))
            || matches!(self.crossing, Some(Standing::Less | Standing::Counted))
    }
}
