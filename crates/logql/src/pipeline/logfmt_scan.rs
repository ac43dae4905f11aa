//! Walking over logfmt text, with the errors of the library Loki uses.

/// A scanner over one line.
pub(crate) struct Scanner<'l> {
    line: &'l [u8],
    at: usize,
    /// The last error, in the library's words.
    error: Option<Problem>,
}

/// A syntax error: where, from 1, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    position: usize,
    kind: ProblemKind,
}

#[derive(Clone, Copy, Debug)]
enum ProblemKind {
    Unexpected(u8),
    InvalidKey,
    Unterminated,
    InvalidQuoted,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "logfmt syntax error at pos {} : ", self.position)?;
        match self.kind {
            ProblemKind::Unexpected(b) => write!(f, "unexpected '{}'", b as char),
            ProblemKind::InvalidKey => f.write_str("invalid key"),
            ProblemKind::Unterminated => f.write_str("unterminated quoted value"),
            ProblemKind::InvalidQuoted => f.write_str("invalid quoted value"),
        }
    }
}

/// A value: as it stands, or quoted with escapes (quotes cut).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'l> {
    Plain(&'l [u8]),
    Escaped(&'l [u8]),
}

/// Bytes that end a key or a plain value: `=`, `"`, and all up to the space.
static ENDS: [bool; 256] = {
    let mut ends = [false; 256];
    let mut b = 0;
    while b <= b' ' as usize {
        ends[b] = true;
        b += 1;
    }
    ends[b'=' as usize] = true;
    ends[b'"' as usize] = true;
    ends
};

/// The index of what ends the key or plain value that `start` lies in.
#[inline]
pub(super) fn end_of_word(line: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < line.len() && !ENDS[line[at] as usize] {
        at += 1;
    }
    at
}

impl<'l> Scanner<'l> {
    pub(crate) fn new(line: &'l [u8]) -> Self {
        Self { line, at: 0, error: None }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.line.len()
    }

    pub(crate) fn error(&self) -> Option<&Problem> {
        self.error.as_ref()
    }

    fn fail(&mut self, kind: ProblemKind) -> Option<(&'l [u8], Value<'l>)> {
        self.error = Some(Problem { position: self.at + 1, kind });
        // Go on after the next space, if the caller does.
        let rest = &self.line[self.at.min(self.line.len())..];
        self.at += rest.iter().position(|b| *b <= b' ').unwrap_or(rest.len());
        None
    }

    /// The next key and value; `None` at the end and after an error.
    pub(crate) fn next(&mut self) -> Option<(&'l [u8], Value<'l>)> {
        let line = self.line;
        while self.at < line.len() && line[self.at] <= b' ' {
            self.at += 1;
        }
        if self.is_done() {
            return None;
        }
        let start = self.at;
        self.at = end_of_word(line, start);
        let key = &line[start..self.at];
        let stop = line.get(self.at).copied();
        if stop == Some(b'"') {
            return self.fail(ProblemKind::Unexpected(b'"'));
        }
        if !key.is_ascii() && !is_clean(key) {
            return self.fail(ProblemKind::InvalidKey);
        }
        if stop != Some(b'=') {
            return Some((key, Value::Plain(b"")));
        }
        if key.is_empty() {
            return self.fail(ProblemKind::Unexpected(b'='));
        }
        self.at += 1;
        match line.get(self.at) {
            None => Some((key, Value::Plain(b""))),
            Some(b'"') => self.quoted(key),
            Some(_) => {
                let start = self.at;
                self.at = end_of_word(line, start);
                match line.get(self.at) {
                    Some(b @ (b'=' | b'"')) => self.fail(ProblemKind::Unexpected(*b)),
                    _ => Some((key, Value::Plain(&line[start..self.at]))),
                }
            }
        }
    }

    fn quoted(&mut self, key: &'l [u8]) -> Option<(&'l [u8], Value<'l>)> {
        let start = self.at + 1;
        let mut from = start;
        let mut escaped = false;
        loop {
            match memchr::memchr2(b'"', b'\\', &self.line[from.min(self.line.len())..]) {
                None => {
                    self.at = self.line.len();
                    return self.fail(ProblemKind::Unterminated);
                }
                Some(at) if self.line[from + at] == b'\\' => {
                    escaped = true;
                    from += at + 2;
                }
                Some(at) => {
                    let end = from + at;
                    self.at = end + 1;
                    let body = &self.line[start..end];
                    if !escaped {
                        return Some((key, Value::Plain(body)));
                    }
                    let mut scratch = Vec::new();
                    if !super::json_scan::unescape(body, &mut scratch) {
                        return self.fail(ProblemKind::InvalidQuoted);
                    }
                    return Some((key, Value::Escaped(body)));
                }
            }
        }
    }
}

/// Whether a key is UTF-8 and holds no replacement characters.
fn is_clean(key: &[u8]) -> bool {
    std::str::from_utf8(key).is_ok_and(|k| !k.contains(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(line: &str) -> (Vec<String>, Option<String>) {
        let mut s = Scanner::new(line.as_bytes());
        let (mut out, mut error) = (vec![], None);
        while !s.is_done() {
            match s.next() {
                Some((k, Value::Plain(v) | Value::Escaped(v))) => {
                    out.push(format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v)));
                }
                None => error = error.or(s.error().map(|e| e.to_string())),
            }
        }
        (out, error)
    }

    #[test]
    fn goes_on_after_errors() {
        assert_eq!(scan("a=1 b= c").0, ["a=1", "b=", "c="]);
        assert_eq!(
            scan("url=http://h/?a=b&c=d n=5"),
            (vec!["n=5".into()], Some("logfmt syntax error at pos 16 : unexpected '='".into()))
        );
        assert_eq!(
            scan("\"quoted key\"=1 ok=2"),
            (vec!["ok=2".into()], Some("logfmt syntax error at pos 1 : unexpected '\"'".into()))
        );
        assert_eq!(
            scan("level=info msg=\"unterminated"),
            (
                vec!["level=info".into()],
                Some("logfmt syntax error at pos 29 : unterminated quoted value".into())
            )
        );
        assert_eq!(scan("key=\"a\"b=c").0, ["key=a", "b=c"]);
        assert_eq!(scan("=novalue level=warn").0, ["level=warn"]);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_walked_to_its_end(line in "[a=\" \\\\ü\n]{0,30}") {
            let _ = scan(&line);
        }
    }
}
