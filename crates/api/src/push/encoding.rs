//! What the headers of a push say about its body, and the way from the body to the message in it.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use http::{HeaderMap, header};
use skald_model::Error;

use crate::body::too_large;

/// How the message of a push is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, as text.
    Json,
    /// Protobuf in one raw snappy block.
    SnappyProtobuf,
}

/// What a body has to be freed of before it can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    None,
    /// gzip, one member or several.
    Gzip,
    /// Raw deflate, without zlib's header: that is what Loki takes it for.
    Deflate,
    /// Zstandard frames.
    Zstd,
    /// LZ4 frames.
    Lz4,
}

/// About how many bytes a body takes once it is decoded, besides itself.
pub(crate) fn decoded_len(headers: &HeaderMap, body: &[u8], limit: usize) -> usize {
    let compression = match headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |v| v.as_bytes()) {
        b"gzip" => Compression::Gzip,
        b"deflate" => Compression::Deflate,
        b"zstd" => Compression::Zstd,
        b"lz4" => Compression::Lz4,
        _ => Compression::None,
    };
    let message = match compression {
        // Of a snappy block the length stands in front; anything else gives nonsense, which the limit bounds.
        Compression::None => snap::raw::decompress_len(body).ok().filter(|n| *n <= limit).unwrap_or(0),
        other => other.inflated_len(body, limit),
    };
    // Lines that were unescaped take about as much as the message that they stood in; where they lie, a quarter.
    let lines = message.max(body.len());
    lines.saturating_add(lines / 4)
}

impl Compression {
    /// About how many bytes a body of this kind will have, for a share of the memory before it is known.
    pub(crate) fn inflated_len(self, body: &[u8], limit: usize) -> usize {
        let guess = match self {
            Compression::None => 0,
            // The trailer holds the length modulo 2^32.
            Compression::Gzip => {
                let hint = body.last_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b) as usize);
                hint.min(body.len().saturating_mul(64))
            }
            Compression::Deflate | Compression::Zstd | Compression::Lz4 => body.len().saturating_mul(8),
        };
        guess.min(limit)
    }
}

/// The name of the setting for the size of a decompressed push.
const DECOMPRESSED: &str = "max_decompressed_size";

/// Reads the headers, in Loki's order: first the encoding, then the type.
///
/// # Errors
/// In the words of Loki and of Go's `mime` package.
pub fn of_headers(headers: &HeaderMap) -> Result<(Format, Compression), Error> {
    let compression = match headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |v| v.as_bytes()) {
        b"" | b"snappy" => Compression::None,
        b"gzip" => Compression::Gzip,
        b"deflate" => Compression::Deflate,
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Error::invalid(format!("Content-Encoding \"{other}\" not supported")));
        }
    };
    let format = match media_type(headers)?.as_str() {
        "application/json" => Format::Json,
        // Whatever else it calls itself; Loki expects protobuf then.
        _ => Format::SnappyProtobuf,
    };
    Ok((format, compression))
}

/// The media type of a request in lower case, without its parameters.
///
/// # Errors
/// When there is none or it is malformed, in the words of Go's `mime` package.
pub fn media_type(headers: &HeaderMap) -> Result<String, Error> {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    parse_media_type(&String::from_utf8_lossy(value)).map_err(|e| Error::invalid(format!("mime: {e}")))
}

fn parse_media_type(value: &str) -> Result<String, &'static str> {
    let (base, parameters) = value.split_once(';').map_or((value, ""), |(b, p)| (b, p));
    let base = base.trim();
    let kind = token(base);
    if kind.is_empty() {
        return Err("no media type");
    }
    if kind.len() < base.len() {
        let Some(rest) = base[kind.len()..].strip_prefix('/') else {
            return Err("expected slash after first token");
        };
        let subtype = token(rest);
        if subtype.is_empty() {
            return Err("expected token after slash");
        }
        if subtype.len() < rest.len() {
            return Err("unexpected content after media subtype");
        }
    }
    check_parameters(parameters)?;
    Ok(base.to_ascii_lowercase())
}

fn check_parameters(mut rest: &str) -> Result<(), &'static str> {
    const INVALID: &str = "invalid media parameter";
    let mut names: Vec<String> = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(());
        }
        let name = token(rest);
        rest = rest[name.len()..].trim_start().strip_prefix('=').ok_or(INVALID)?.trim_start();
        let value_len = match rest.strip_prefix('"') {
            Some(quoted) => quoted_len(quoted).ok_or(INVALID)? + 1,
            None => token(rest).len(),
        };
        if name.is_empty() || value_len == 0 {
            return Err(INVALID);
        }
        let name = name.to_ascii_lowercase();
        if names.contains(&name) {
            return Err("duplicate parameter name");
        }
        names.push(name);
        rest = rest[value_len..].trim_start();
        match rest.strip_prefix(';') {
            Some(more) => rest = more,
            None if rest.is_empty() => {}
            None => return Err(INVALID),
        }
    }
}

/// Length of a quoted string after its first quote, the last quote included.
fn quoted_len(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// The longest token (RFC 1521) that `text` begins with.
fn token(text: &str) -> &str {
    let len = text.bytes().take_while(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(b)).count();
    &text[..len]
}

/// Inflates `body`, never into more than `limit` bytes.
///
/// # Errors
/// `TooLarge`, or `InvalidArgument` when the body is not what its encoding says.
pub fn inflate(body: Bytes, compression: Compression, limit: usize) -> Result<Bytes, Error> {
    match compression {
        Compression::None => Ok(body),
        Compression::Gzip => {
            check_gzip_header(&body)?;
            // The trailer holds the length modulo 2^32; it is a hint that a liar pays for with his own error.
            let hint = body.last_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b) as usize);
            read_bounded(MultiGzDecoder::new(&body[..]), hint.min(body.len() * 64), limit)
        }
        Compression::Deflate => read_bounded(DeflateDecoder::new(&body[..]), body.len() * 4, limit),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&body[..])
                .map_err(|e| Error::internal(format!("failed to start a zstd decoder: {e}")))?;
            read_bounded(decoder, body.len() * 4, limit)
        }
        Compression::Lz4 => {
            read_bounded(lz4_flex::frame::FrameDecoder::new(&body[..]), body.len() * 4, limit)
        }
    }
}

fn check_gzip_header(body: &[u8]) -> Result<(), Error> {
    let text = match body {
        [] => "EOF",
        [0x1f, 0x8b, 8, ..] if body.len() >= 10 => return Ok(()),
        _ if body.len() < 10 => "unexpected EOF",
        _ => "gzip: invalid header",
    };
    Err(Error::invalid(text))
}

fn read_bounded(mut source: impl Read, hint: usize, limit: usize) -> Result<Bytes, Error> {
    let mut out = vec![0; hint.clamp(4096, limit.max(4096))];
    let mut len = 0;
    loop {
        if len == out.len() {
            // One byte over the limit is enough to know.
            let more = out.len().min((limit + 1).saturating_sub(out.len()));
            if more == 0 {
                return Err(too_large(len as u64, limit, DECOMPRESSED));
            }
            out.resize(len + more, 0);
        }
        match source.read(&mut out[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // Loki's JSON decoder finds nothing to decode and says so.
            Err(_) if len == 0 => return Err(Error::invalid("EOF")),
            Err(e) => return Err(Error::invalid(format!("the compressed body is corrupt: {e}"))),
        }
    }
    if len > limit {
        return Err(too_large(len as u64, limit, DECOMPRESSED));
    }
    out.truncate(len);
    Ok(Bytes::from(out))
}

/// Decompresses one raw snappy block after a look at the length that it declares.
///
/// # Errors
/// `TooLarge`, or `InvalidArgument` in Go's words.
pub fn unsnap(block: &[u8], limit: usize) -> Result<Bytes, Error> {
    let corrupt = || Error::invalid("snappy: corrupt input");
    // An empty block has no length, which the codec lets pass.
    if block.is_empty() {
        return Err(corrupt());
    }
    let len = snap::raw::decompress_len(block).map_err(|_| corrupt())?;
    // No element makes more than 64 bytes of two: a short block that declares a long body is a lie.
    if len / 64 > block.len() {
        return Err(corrupt());
    }
    if len > limit {
        return Err(too_large(len as u64, limit, DECOMPRESSED));
    }
    snap::raw::Decoder::new().decompress_vec(block).map(Bytes::from).map_err(|_| corrupt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use skald_model::Kind;
    use std::io::Write as _;

    #[track_caller]
    fn check(kind: Option<&str>, encoding: Option<&str>, expected: Result<(Format, Compression), &str>) {
        let mut headers = HeaderMap::new();
        if let Some(v) = kind {
            headers.insert(header::CONTENT_TYPE, v.parse().unwrap());
        }
        if let Some(v) = encoding {
            headers.insert(header::CONTENT_ENCODING, v.parse().unwrap());
        }
        assert_eq!(of_headers(&headers).map_err(|e| e.message), expected.map_err(str::to_owned), "{kind:?}");
    }

    #[test]
    fn headers_decide() {
        use Compression::{Deflate, Gzip, None as Plain};
        use Format::*;
        check(Some("application/json"), None, Ok((Json, Plain)));
        check(Some("APPLICATION/JSON; charset=utf-8"), Some("gzip"), Ok((Json, Gzip)));
        check(Some("application/json;"), Some("deflate"), Ok((Json, Deflate)));
        check(Some("application/json; charset=\"a;\\\"b\" ; x=y"), None, Ok((Json, Plain)));
        check(Some("application/x-protobuf"), Some("snappy"), Ok((SnappyProtobuf, Plain)));
        check(Some("text"), Some(""), Ok((SnappyProtobuf, Plain)));
        check(Some("application/json"), Some("br"), Err("Content-Encoding \"br\" not supported"));
        check(None, None, Err("mime: no media type"));
        check(Some("; charset=utf-8"), None, Err("mime: no media type"));
        check(Some("a b"), None, Err("mime: expected slash after first token"));
        check(Some("garbage/;;"), None, Err("mime: expected token after slash"));
        check(Some("a/b/c"), None, Err("mime: unexpected content after media subtype"));
        check(Some("a/b; c"), None, Err("mime: invalid media parameter"));
        check(Some("a/b; c=1; C=2"), None, Err("mime: duplicate parameter name"));
    }

    fn gzip(data: &[u8]) -> Bytes {
        let mut e = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(data).unwrap();
        e.finish().unwrap().into()
    }

    #[test]
    fn inflating_stops_at_the_limit() {
        let data = vec![b'a'; 100_000];
        let zipped = gzip(&data);
        assert_eq!(inflate(zipped.clone(), Compression::Gzip, 100_000).unwrap(), data);
        assert_eq!(inflate(zipped.clone(), Compression::Gzip, 99_999).unwrap_err().kind, Kind::TooLarge);
        assert_eq!(inflate(zipped.clone(), Compression::Gzip, 10).unwrap_err().kind, Kind::TooLarge);
        let two = Bytes::from([&zipped[..], &gzip(b"b")].concat());
        assert_eq!(inflate(two, Compression::Gzip, 1 << 20).unwrap().len(), 100_001);
        let mut e = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(&data).unwrap();
        assert_eq!(inflate(e.finish().unwrap().into(), Compression::Deflate, 1 << 20).unwrap(), data);
        let mut e = lz4_flex::frame::FrameEncoder::new(Vec::new());
        e.write_all(&data).unwrap();
        let frames = Bytes::from(e.finish().unwrap());
        assert_eq!(inflate(frames.clone(), Compression::Lz4, 1 << 20).unwrap(), data);
        assert_eq!(inflate(frames, Compression::Lz4, 99_999).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn corrupt_bodies_are_refused() {
        let text = |r: Result<Bytes, Error>| r.unwrap_err().message;
        assert_eq!(text(inflate(Bytes::new(), Compression::Gzip, 99)), "EOF");
        assert_eq!(text(inflate(Bytes::from_static(b"\x1f\x8b"), Compression::Gzip, 99)), "unexpected EOF");
        assert_eq!(
            text(inflate(Bytes::from_static(b"{\"streams\":[]}"), Compression::Gzip, 99)),
            "gzip: invalid header"
        );
        let whole = gzip(&[b'x'; 9999]);
        let cut = whole.slice(..whole.len() - 9);
        assert_eq!(inflate(cut, Compression::Gzip, 1 << 20).unwrap_err().kind, Kind::InvalidArgument);
        let mut e = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(b"{}").unwrap();
        assert_eq!(text(inflate(e.finish().unwrap().into(), Compression::Deflate, 99)), "EOF");
    }

    #[test]
    fn snappy_blocks_are_measured_first() {
        let data = vec![b'a'; 100_000];
        let block = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        assert_eq!(unsnap(&block, 100_000).unwrap(), data);
        assert_eq!(unsnap(&block, 99_999).unwrap_err().kind, Kind::TooLarge);
        for bad in
            [&b""[..], b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\x7f\0", &block[..block.len() - 1], b"\x8a8"]
        {
            let e = unsnap(bad, 1 << 30).unwrap_err();
            assert_eq!((e.kind, e.message.as_str()), (Kind::InvalidArgument, "snappy: corrupt input"));
        }
        assert_eq!(unsnap(&[0], 9).unwrap(), Bytes::new());
    }
}
