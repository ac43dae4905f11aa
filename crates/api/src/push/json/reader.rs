//! A reader of JSON that makes no values: the caller asks for what it expects, and the rest is skipped.
//!
//! It is as strict as Go's decoders about what it reads: no raw control characters in strings, known escapes only,
//! surrogates in pairs.

use memchr::memchr2;
use skald_model::Timestamp;

/// Values that are skipped may nest this deep.
const DEPTH_MAX: u32 = 1000;

/// What was expected, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {at}: expected {what}")]
pub(crate) struct Fault {
    at: usize,
    what: &'static str,
}

impl Fault {
    pub(crate) fn expected(at: usize, what: &'static str) -> Self {
        Self { at, what }
    }
}

/// Stands at a place in a text that is valid UTF-8.
pub(crate) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The place, in bytes.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Length of the text in bytes.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Reads the bracket that opens `what`.
    pub(crate) fn open(&mut self, bracket: u8, what: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(bracket) {
            return Err(self.fault(what));
        }
        self.at += 1;
        Ok(())
    }

    /// Whether another element follows before `close`; reads the comma or the bracket.
    #[inline]
    pub(crate) fn more(&mut self, close: u8, first: &mut bool) -> Result<bool, Fault> {
        match self.peek() {
            Some(b) if b == close => {
                self.at += 1;
                Ok(false)
            }
            Some(_) if std::mem::take(first) => Ok(true),
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            _ => Err(self.fault("a comma or the closing bracket")),
        }
    }

    /// Reads the colon after a key.
    pub(crate) fn colon(&mut self) -> Result<(), Fault> {
        self.open(b':', "a colon")
    }

    /// Reads a `null` if one is here.
    pub(crate) fn null(&mut self) -> Result<bool, Fault> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal(b"null")?;
        Ok(true)
    }

    /// Whether a string is here.
    pub(crate) fn at_string(&mut self) -> Result<bool, Fault> {
        Ok(self.peek() == Some(b'"'))
    }

    /// Reads a string and appends its text to `out`.
    #[inline]
    pub(crate) fn string(&mut self, out: &mut Vec<u8>, what: &'static str) -> Result<(), Fault> {
        self.open(b'"', what)?;
        loop {
            let plain = self.plain()?;
            out.extend_from_slice(plain);
            if self.text[self.at - 1] == b'"' {
                return Ok(());
            }
            self.escape(out)?;
        }
    }

    /// The bytes up to the next quote or backslash, which is read too.
    #[inline]
    fn plain(&mut self) -> Result<&'a [u8], Fault> {
        let rest = &self.text[self.at..];
        let Some(len) = memchr2(b'"', b'\\', rest) else {
            self.at = self.text.len();
            return Err(self.fault("the end of a string"));
        };
        let plain = &rest[..len];
        // Without a branch per byte, so that it is vectorised.
        if plain.iter().fold(false, |found, b| found | (*b < 0x20)) {
            return Err(self.fault("no control character in a string"));
        }
        self.at += len + 1;
        Ok(plain)
    }

    /// One escape; its backslash is behind us.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let b = self.text.get(self.at).copied().ok_or(self.fault("an escape"))?;
        self.at += 1;
        let byte = match b {
            b'"' | b'\\' | b'/' => b,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode_escape(out),
            _ => return Err(self.fault("a known escape")),
        };
        out.push(byte);
        Ok(())
    }

    fn unicode_escape(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut code = self.hex()?;
        if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(self.fault("a pair of surrogates"));
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        let c = char::from_u32(code).ok_or(self.fault("a pair of surrogates"))?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(self.fault("four hexadecimal digits"))?;
        let mut code = 0;
        for d in digits {
            let v = (*d as char).to_digit(16).ok_or(self.fault("four hexadecimal digits"))?;
            code = code * 16 + v;
        }
        self.at += 4;
        Ok(code)
    }

    /// Reads a string that holds a decimal integer.
    #[inline]
    pub(crate) fn integer_text(&mut self, what: &'static str) -> Result<Timestamp, Fault> {
        self.open(b'"', what)?;
        let start = self.at;
        let negative = self.text.get(self.at) == Some(&b'-');
        self.at += usize::from(negative);
        let digits = self.at;
        let mut value = 0i64;
        while let Some(d) = self.text.get(self.at).filter(|b| b.is_ascii_digit()) {
            let digit = i64::from(d - b'0');
            value = value
                .checked_mul(10)
                .and_then(|v| if negative { v.checked_sub(digit) } else { v.checked_add(digit) })
                .ok_or(Fault::expected(start, what))?;
            self.at += 1;
        }
        if self.at == digits || self.text.get(self.at) != Some(&b'"') {
            return Err(Fault::expected(start, what));
        }
        self.at += 1;
        Ok(value)
    }

    /// Reads a value of any kind and returns it as written.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8], Fault> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Reads a value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        self.skip_nested(0)
    }

    fn skip_nested(&mut self, depth: u32) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(self.fault("less nesting"));
        }
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{') => {
                self.at += 1;
                let mut first = true;
                while self.more(b'}', &mut first)? {
                    if self.peek() != Some(b'"') {
                        return Err(self.fault("a key"));
                    }
                    self.skip_string()?;
                    self.colon()?;
                    self.skip_nested(depth + 1)?;
                }
                Ok(())
            }
            Some(b'[') => {
                self.at += 1;
                let mut first = true;
                while self.more(b']', &mut first)? {
                    self.skip_nested(depth + 1)?;
                }
                Ok(())
            }
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.fault("a value")),
        }
    }

    fn skip_string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        let mut sink = Vec::new();
        loop {
            self.plain()?;
            if self.text[self.at - 1] == b'"' {
                return Ok(());
            }
            self.escape(&mut sink)?;
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let digits = |this: &mut Self| {
            let rest = &this.text[this.at..];
            let len = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            this.at += len;
            if len == 0 { Err(this.fault("a digit")) } else { Ok(()) }
        };
        self.at += usize::from(self.text[self.at] == b'-');
        if self.text.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            digits(self)?;
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            digits(self)?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.text.get(self.at), Some(b'+' | b'-')));
            digits(self)?;
        }
        Ok(())
    }

    fn literal(&mut self, literal: &[u8]) -> Result<(), Fault> {
        if !self.text[self.at..].starts_with(literal) {
            return Err(self.fault("a value"));
        }
        self.at += literal.len();
        Ok(())
    }

    /// The next byte that is not white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let b = *self.text.get(self.at)?;
            if !matches!(b, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(b);
            }
            self.at += 1;
        }
    }

    fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }
}
