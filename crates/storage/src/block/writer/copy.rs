//! Takes in row groups of other blocks as they are.

use std::io::Write;

use super::{BlockWriter, StreamPart};
use crate::block::error::{Error, Result, corrupt};
use crate::block::footer::WrittenRowGroup;
use crate::block::format::BLOCK_ROWS;
use crate::block::groups::StoredGroup;
use crate::block::meta::BlockMeta;

impl<W: Write> BlockWriter<W> {
    /// Begins a row group that is `group` of the block `from`, whose filters have been read: its bytes are to follow by
    /// [`BlockWriter::copy_bytes`], its rows by [`BlockWriter::copied_rows`].
    pub(crate) fn copy_group(&mut self, group: &StoredGroup, from: &BlockMeta) -> Result<()> {
        self.flush_group()?;
        let rows = group.written.rows;
        if self.rows + rows > BLOCK_ROWS {
            let (what, value) = ("the number of rows", self.rows + rows);
            return Err(Error::TooLarge { what, value, limit: BLOCK_ROWS });
        }
        let pages = group.line_pages.clone();
        if let Some(filter) = &mut self.filter {
            let source = from.filter().ok_or_else(|| corrupt("line filter", "it was not read"))?;
            filter.add_pages(source, pages.clone());
        }
        if let Some(words) = &mut self.words {
            let source = from.words().ok_or_else(|| corrupt("word index", "it was not read"))?;
            words.add_pages(source, pages);
        }
        let shift = |offset: u64| offset - group.bytes.start + self.position;
        let mut chunks = group.written.chunks.clone();
        for chunk in &mut chunks {
            chunk.dictionary_offset = chunk.dictionary_offset.map(shift);
            chunk.pages.iter_mut().for_each(|page| page.offset = shift(page.offset));
        }
        self.groups.push(WrittenRowGroup { rows, chunks });
        self.rows += rows;
        Ok(())
    }

    /// Adds rows to the stream begun last that are in the row group which is being copied.
    pub(crate) fn copied_rows(&mut self, part: &StreamPart) -> Result<()> {
        let stream = self.stream.as_mut();
        let stream = stream.ok_or_else(|| Error::Order("rows before the first stream".into()))?;
        stream.part.add(part);
        Ok(())
    }

    /// Says what there was of the stream begun last in all. So hashes of its rows do not count, and of those copied the number
    /// is enough; if some are [gone](BlockWriter::tell_gone), the times too.
    pub(crate) fn tell_whole(&mut self, whole: StreamPart) {
        if let Some(stream) = &mut self.stream {
            stream.whole = Some(whole);
        }
    }

    /// Says which rows of the stream begun last, of which was told what there was in all, do not come.
    pub(crate) fn tell_gone(&mut self, gone: &StreamPart) {
        if let Some(stream) = &mut self.stream {
            stream.whole = stream.whole.map(|whole| whole.without(gone, &stream.part));
        }
    }

    /// Writes the next bytes of the row group that is being copied. `metadata_bytes` are those of the packed structured
    /// metadata in them.
    pub(crate) fn copy_bytes(&mut self, bytes: &[u8], metadata_bytes: u64) -> Result<()> {
        self.output.write_all(bytes)?;
        self.position += bytes.len() as u64;
        self.metadata_bytes += metadata_bytes;
        Ok(())
    }
}
