//! `skald block inspect`

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use skald_storage::block;

/// Describes the block in `file`. Only its end is read, however large it is.
pub(crate) fn describe(file: &Path) -> Result<String> {
    let name = file.display();
    let mut open = File::open(file).with_context(|| format!("failed to open {name}"))?;
    let size = open.metadata().with_context(|| format!("failed to read {name}"))?.len();
    let mut start = size.saturating_sub(block::TAIL_GUESS);
    loop {
        open.seek(SeekFrom::Start(start)).with_context(|| format!("failed to read {name}"))?;
        let mut tail = Vec::new();
        open.read_to_end(&mut tail).with_context(|| format!("failed to read {name}"))?;
        match block::inspect(&Bytes::from(tail), size) {
            Err(block::Error::NeedTail { offset }) if offset < start => start = offset,
            described => return described.with_context(|| format!("{name} is not a block of Skald's")),
        }
    }
}
