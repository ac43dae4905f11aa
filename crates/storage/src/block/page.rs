//! Single pages: header, checksum, compression.

use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer};

use super::error::{Error, Result, corrupt};
use super::format::Encoding;
use super::thrift::{Reader, Writer};

const DATA_PAGE: i32 = 0;
const DICTIONARY_PAGE: i32 = 2;

/// Largest page that is decompressed: twice the longest line.
const PAGE_BYTES: usize = 1 << 31;

/// What a page holds besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHead {
    /// Whether it is a dictionary.
    pub(crate) dictionary: bool,
    /// Values in it; of a repeated column also the empty places.
    pub(crate) values: usize,
    pub(crate) encoding: i32,
    /// Bytes before and after compression, without the header.
    pub(crate) raw_len: usize,
    pub(crate) stored_len: usize,
    pub(crate) crc: Option<u32>,
}

/// Appends a page: header and `body`, which is `raw_len` bytes when decompressed. Returns the bytes appended.
pub(crate) fn write(
    out: &mut Vec<u8>,
    dictionary: bool,
    encoding: Encoding,
    values: usize,
    raw_len: usize,
    body: &[u8],
) -> usize {
    let start = out.len();
    Writer::write(out, |w| {
        w.i32(1, if dictionary { DICTIONARY_PAGE } else { DATA_PAGE });
        w.i32(2, raw_len as i32);
        w.i32(3, body.len() as i32);
        w.i32(4, crc32fast::hash(body) as i32);
        if dictionary {
            w.structure(7, |w| {
                w.i32(1, values as i32);
                w.i32(2, encoding as i32);
            });
        } else {
            w.structure(5, |w| {
                w.i32(1, values as i32);
                w.i32(2, encoding as i32);
                w.i32(3, Encoding::Rle as i32);
                w.i32(4, Encoding::Rle as i32);
            });
        }
    });
    out.extend_from_slice(body);
    out.len() - start
}

/// Reads the page at the start of `bytes`: its header and its body as stored, with the checksum verified.
pub(crate) fn read(bytes: &[u8]) -> Result<(PageHead, &[u8])> {
    let mut r = Reader::new(bytes);
    let mut head =
        PageHead { dictionary: false, values: 0, encoding: -1, raw_len: 0, stored_len: 0, crc: None };
    let mut last = 0;
    while let Some(f) = r.field(last)? {
        last = f.id;
        match f.id {
            1 => match r.i32(f)? {
                DATA_PAGE => {}
                DICTIONARY_PAGE => head.dictionary = true,
                other => return Err(corrupt("page header", format!("a page of type {other}"))),
            },
            2 => head.raw_len = r.size(f)?,
            3 => head.stored_len = r.size(f)?,
            4 => head.crc = Some(r.i32(f)? as u32),
            5 | 7 => {
                let mut last = 0;
                while let Some(f) = r.field(last)? {
                    last = f.id;
                    match f.id {
                        1 => head.values = r.size(f)?,
                        2 => head.encoding = r.i32(f)?,
                        _ => r.skip(f)?,
                    }
                }
            }
            _ => r.skip(f)?,
        }
    }
    let body = bytes[r.position()..]
        .get(..head.stored_len)
        .ok_or_else(|| corrupt("page", "its bytes reach beyond the page's place in the file"))?;
    if head.crc != Some(crc32fast::hash(body)) {
        return Err(corrupt("page", "the checksum does not match"));
    }
    Ok((head, body))
}

/// A zstd compressor and its output buffer, used again for every page.
pub(crate) struct Compressor {
    context: CCtx<'static>,
    buffer: Vec<u8>,
}

impl Compressor {
    pub(crate) fn new(level: i32) -> Result<Self> {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_error)?;
        Ok(Self { context, buffer: Vec::new() })
    }

    /// The compressed form of `raw`, valid until the next call.
    pub(crate) fn compress(&mut self, raw: &[u8]) -> Result<&[u8]> {
        self.reserve(raw.len());
        let n = self.context.compress2(&mut self.buffer[..], raw).map_err(zstd_error)?;
        Ok(&self.buffer[..n])
    }

    /// The compressed form of `numbers` and `text` together. Both begin blocks of their own inside the one frame, so
    /// that packed numbers, which look like noise, do not spoil the statistics of the text: pages of lines are 1.5 %
    /// smaller for it.
    pub(crate) fn compress_parts(&mut self, numbers: &[u8], text: &[u8]) -> Result<&[u8]> {
        let raw_len = numbers.len() + text.len();
        // Each flush may add a block header.
        self.reserve(raw_len + 64);
        self.context.set_pledged_src_size(Some(raw_len as u64)).map_err(zstd_error)?;
        let mut out = OutBuffer::around(&mut self.buffer[..]);
        for (part, end) in [(numbers, ZSTD_EndDirective::ZSTD_e_flush), (text, ZSTD_EndDirective::ZSTD_e_end)]
        {
            let mut part = InBuffer::around(part);
            while self.context.compress_stream2(&mut out, &mut part, end).map_err(zstd_error)? > 0 {}
        }
        let n = out.pos();
        Ok(&self.buffer[..n])
    }

    fn reserve(&mut self, raw_len: usize) {
        let bound = zstd_safe::compress_bound(raw_len);
        if self.buffer.len() < bound {
            self.buffer.resize(bound, 0);
        }
    }
}

/// A zstd decompressor, used again for every page.
pub(crate) struct Decompressor {
    context: DCtx<'static>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self { context: DCtx::create() }
    }
}

impl Decompressor {
    /// Decompresses `stored` into `out`, which then holds exactly `raw_len` bytes.
    pub(crate) fn decompress(&mut self, stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
        if raw_len > PAGE_BYTES {
            return Err(Error::TooLarge { what: "a page", value: raw_len as u64, limit: PAGE_BYTES as u64 });
        }
        // A wrong length in the header must not make us ask for gigabytes.
        let content = zstd_safe::get_frame_content_size(stored).ok().flatten();
        if content.is_some_and(|n| n != raw_len as u64) {
            return Err(corrupt("page", format!("{content:?} bytes compressed, {raw_len} expected")));
        }
        // The buffer keeps its length, so that it is not filled with zeros for every page.
        if out.len() < raw_len {
            out.resize(raw_len, 0);
        }
        let n = self.context.decompress(&mut out[..raw_len], stored).map_err(zstd_error)?;
        if n != raw_len {
            return Err(corrupt("page", format!("{n} bytes after decompression, {raw_len} expected")));
        }
        out.truncate(raw_len);
        Ok(())
    }
}

fn zstd_error(code: usize) -> Error {
    corrupt("compressed page", zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_round_trips_and_the_checksum_is_verified() {
        let mut out = vec![];
        let n = write(&mut out, false, Encoding::DeltaLengthByteArray, 7, 100, b"body");
        assert_eq!(n, out.len());
        let (head, body) = read(&out).unwrap();
        assert_eq!((head.values, head.encoding, head.raw_len, body), (7, 6, 100, &b"body"[..]));
        *out.last_mut().unwrap() ^= 1;
        assert!(matches!(read(&out), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn compression_round_trips_with_reused_buffers() {
        let (mut c, mut d, mut out) = (Compressor::new(1).unwrap(), Decompressor::default(), vec![]);
        for raw in [&b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..], b"", b"xyz"] {
            let stored = c.compress(raw).unwrap().to_vec();
            d.decompress(&stored, raw.len(), &mut out).unwrap();
            assert_eq!(out, raw);
            assert!(d.decompress(&stored, raw.len() + 1, &mut out).is_err());
            let (numbers, text) = raw.split_at(raw.len() / 2);
            let stored = c.compress_parts(numbers, text).unwrap().to_vec();
            d.decompress(&stored, raw.len(), &mut out).unwrap();
            assert_eq!(out, raw);
        }
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic(b in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&b);
        }
    }
}
