//! Label sets as text, `{a="b", c="d"}`, as pushes carry them.
//!
//! The grammar and the words of its errors are those of Prometheus' parser of metrics, which Loki runs label text
//! through: double quotes, single quotes and backticks, a trailing comma, a metric name in front (ignored).

use std::fmt;

use crate::labels::{Labels, LabelsBuilder, write_go_quoted};
use crate::matcher::{MatchOp, Matcher, Selector};

/// Why text is not a label set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelTextError {
    /// It does not parse. The text says where: `1:5: parse error: …`.
    #[error("{0}")]
    Syntax(String),
    /// A name occurs twice.
    #[error("stream '{}' has duplicate label name: '{name}'", Pairs(pairs))]
    Duplicate {
        /// All pairs, sorted by name.
        pairs: Vec<(String, String)>,
        /// The name.
        name: String,
    },
}

/// Parses a label set. Empty values and the metric name (`__name__`) are left out; no text at all is the empty set.
///
/// # Errors
/// In Loki's words, without its `couldn't parse labels: ` in front of syntax errors.
pub fn parse_label_set(text: &str) -> Result<Labels, LabelTextError> {
    let mut pairs = Parser { text, at: 0 }.metric().map_err(|e| LabelTextError::Syntax(e.at(text)))?;
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(twice) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
        let name = twice[0].0.clone();
        return Err(LabelTextError::Duplicate { pairs, name });
    }
    let mut labels = LabelsBuilder::default();
    for (name, value) in pairs.iter().filter(|(name, _)| name != "__name__") {
        labels.set(name, value);
    }
    Ok(labels.build())
}

/// Parses a selector, `{a="b", c=~"d.*"}`: for settings that name streams. (Queries are read by the parser of LogQL.)
///
/// # Errors
/// Says where and what was expected, or what is wrong with a regular expression.
pub fn parse_selector(text: &str) -> Result<Selector, String> {
    let mut parser = Parser { text, at: 0 };
    let mut matchers = Vec::new();
    let add = |name, operator, value| matchers.push((name, operator, value));
    parser.selector(add).map_err(|fault| fault.at(text))?;
    let matcher = |(name, operator, value): (String, &str, String)| {
        let op = match operator {
            "=" => MatchOp::Equal,
            "!=" => MatchOp::NotEqual,
            "=~" => MatchOp::Match,
            _ => MatchOp::NotMatch,
        };
        Matcher::new(&name, op, &value)
    };
    Ok(Selector { matchers: matchers.into_iter().map(matcher).collect::<Result<_, _>>()? })
}

/// Whether `name` is a label name as Prometheus has them: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(is_name_start) && bytes.all(is_name_part)
}

fn is_name_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_'
}

fn is_name_part(b: u8) -> bool {
    is_name_start(b) || b.is_ascii_digit()
}

/// Writes pairs as Loki prints a label set.
struct Pairs<'a>(&'a [(String, String)]);

impl fmt::Display for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            write!(f, "{name}=")?;
            write_go_quoted(f, value)?;
        }
        f.write_str("}")
    }
}

/// A message and the byte that it is about.
struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    /// With line and column in front, both from 1, the column in bytes.
    fn at(&self, text: &str) -> String {
        let before = &text.as_bytes()[..self.at.min(text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = self.at + 1 - before.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
        format!("{line}:{column}: parse error: {}", self.message)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Identifier(String),
    /// As written and as meant.
    Text(String, String),
    Symbol(&'static str),
}

impl Token {
    /// How the messages name it.
    fn describe(&self) -> String {
        match self {
            Token::Identifier(name) => format!("identifier {}", quoted(name)),
            Token::Text(raw, _) if raw.chars().count() > 10 => {
                format!("string {}...", quoted(&raw.chars().take(10).collect::<String>()))
            }
            Token::Text(raw, _) => format!("string {}", quoted(raw)),
            Token::Symbol(operator @ ("=~" | "!=" | "!~")) => format!("<op:{operator}>"),
            Token::Symbol(symbol) => quoted(symbol),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    /// A metric name or none, then braces or none, then nothing.
    fn metric(&mut self) -> Result<Vec<(String, String)>, Fault> {
        self.skip_space();
        let name_len = self.rest().bytes().take_while(|b| is_name_part(*b) || *b == b':').count();
        if name_len > 0 && !self.rest().as_bytes()[0].is_ascii_digit() {
            self.at += name_len;
            self.skip_space();
        }
        let pairs = if self.rest().starts_with('{') {
            self.at += 1;
            self.braces()?
        } else {
            Vec::new()
        };
        self.skip_space();
        match self.rest().chars().next() {
            None => Ok(pairs),
            Some(c) => Err(Fault::new(self.at, self.outside(c))),
        }
    }

    /// Matchers in braces, then nothing.
    fn selector(&mut self, add: impl FnMut(String, &'static str, String)) -> Result<(), Fault> {
        self.skip_space();
        if !self.eat('{') {
            return Err(Fault::new(self.at, "expected \"{\""));
        }
        self.items(&["=", "!=", "=~", "!~"], "label matching operator", add)?;
        self.skip_space();
        match self.rest().chars().next() {
            None => Ok(()),
            Some(c) => Err(Fault::new(self.at, self.outside(c))),
        }
    }

    fn braces(&mut self) -> Result<Vec<(String, String)>, Fault> {
        let mut pairs = Vec::new();
        self.items(&["="], "\"=\"", |name, _, value| pairs.push((name, value)))?;
        Ok(pairs)
    }

    /// What stands in braces, one `name operator "value"` after the other.
    fn items(
        &mut self,
        operators: &[&str],
        expected: &str,
        mut add: impl FnMut(String, &'static str, String),
    ) -> Result<(), Fault> {
        loop {
            let (at, token) = self.token()?;
            let name = match token {
                Token::Symbol("}") => return Ok(()),
                Token::Identifier(name) => name,
                other => return Err(unexpected(at, &other, "identifier or \"}\"")),
            };
            let (at, token) = self.token()?;
            let operator = match token {
                Token::Symbol(symbol) if operators.contains(&symbol) => symbol,
                other => return Err(unexpected(at, &other, expected)),
            };
            let (at, token) = self.token()?;
            let Token::Text(_, value) = token else {
                return Err(unexpected(at, &token, "string"));
            };
            add(name, operator, value);
            let (at, token) = self.token()?;
            match token {
                Token::Symbol(",") => {}
                Token::Symbol("}") => return Ok(()),
                other => return Err(unexpected(at, &other, "\",\" or \"}\"")),
            }
        }
    }

    /// What the parser says about `c` where nothing may follow.
    fn outside(&self, c: char) -> String {
        let rest = self.rest();
        match c {
            '=' if rest[1..].starts_with('~') => "unexpected character after '=': '~'".to_owned(),
            '=' if rest[1..].starts_with('=') => "unexpected <op:==>".to_owned(),
            '{' | '}' | '=' | ',' | '(' | ')' | '[' | ']' => format!("unexpected \"{c}\""),
            '+' | '-' | '*' | '/' | '%' | '^' | '<' | '>' => format!("unexpected <op:{c}>"),
            c if c.is_ascii_alphabetic() || c == '_' || c == ':' => {
                let len = rest.bytes().take_while(|b| is_name_part(*b) || *b == b':').count();
                format!("unexpected identifier {}", quoted(&rest[..len]))
            }
            c if c.is_ascii_digit() => {
                let len = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
                format!("unexpected number {}", quoted(&rest[..len]))
            }
            c => format!("unexpected character: {}", rune(c)),
        }
    }

    fn token(&mut self) -> Result<(usize, Token), Fault> {
        self.skip_space();
        let start = self.at;
        let Some(c) = self.rest().chars().next() else {
            return Err(Fault::new(start, "unexpected end of input inside braces"));
        };
        self.at += c.len_utf8();
        let token = match c {
            c if c.is_ascii_alphabetic() || c == '_' => {
                self.at += self.rest().bytes().take_while(|b| is_name_part(*b)).count();
                Token::Identifier(self.text[start..self.at].to_owned())
            }
            '"' | '\'' => {
                let value = self.quoted_text(start, c)?;
                Token::Text(self.text[start..self.at].to_owned(), value)
            }
            '`' => {
                let Some(len) = self.rest().find('`') else {
                    return Err(Fault::new(start, "unterminated raw string"));
                };
                let value = self.rest()[..len].to_owned();
                self.at += len + 1;
                Token::Text(self.text[start..self.at].to_owned(), value)
            }
            ',' => Token::Symbol(","),
            '}' => Token::Symbol("}"),
            '=' if self.eat('~') => Token::Symbol("=~"),
            '=' => Token::Symbol("="),
            '!' if self.eat('~') => Token::Symbol("!~"),
            '!' if self.eat('=') => Token::Symbol("!="),
            '!' => {
                let next = self.rest().chars().next().map_or_else(|| "'\u{fffd}'".to_owned(), rune);
                let message = format!("unexpected character after '!' inside braces: {next}");
                return Err(Fault::new(start, message));
            }
            '{' => return Err(Fault::new(start, "unexpected left brace '{'")),
            c => {
                let message = format!("unexpected character inside braces: {}", rune(c));
                return Err(Fault::new(start, message));
            }
        };
        Ok((start, token))
    }

    /// The rest of a string with escapes; `start` is its first quote, which is behind us.
    fn quoted_text(&mut self, start: usize, quote: char) -> Result<String, Fault> {
        let mut value = Vec::new();
        loop {
            let c = match self.rest().chars().next() {
                None | Some('\n') => return Err(Fault::new(start, "unterminated quoted string")),
                Some(c) => c,
            };
            self.at += c.len_utf8();
            if c == quote {
                // Escapes of single bytes may make what is not UTF-8.
                return Ok(String::from_utf8(value)
                    .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()));
            }
            if c == '\\' {
                self.escape(start, quote, &mut value)?;
            } else {
                value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }

    /// One escape as Go has them; its backslash is behind us.
    fn escape(&mut self, start: usize, quote: char, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Some(c) = self.rest().chars().next() else {
            return Err(Fault::new(start, "escape sequence not terminated"));
        };
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            c if c == quote => Some(c as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            self.at += c.len_utf8();
            out.push(byte);
            return Ok(());
        }
        let (skip, digits, radix, max) = match c {
            '0'..='7' => (0, 3, 8, 255),
            'x' => (1, 2, 16, 255),
            'u' => (1, 4, 16, 0x10_ffff),
            'U' => (1, 8, 16, 0x10_ffff),
            c => return Err(Fault::new(start, format!("unknown escape sequence {}", code_point(c)))),
        };
        self.at += skip;
        let mut value = 0u32;
        for _ in 0..digits {
            let Some(d) = self.rest().chars().next() else {
                return Err(Fault::new(start, "escape sequence not terminated"));
            };
            let Some(v) = d.to_digit(radix) else {
                let message = format!("illegal character {} in escape sequence", code_point(d));
                return Err(Fault::new(start, message));
            };
            value = value.wrapping_mul(radix).wrapping_add(v);
            self.at += 1;
        }
        match char::from_u32(value) {
            Some(c) if value <= max && max > 255 => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                Ok(())
            }
            Some(_) if value <= max => {
                out.push(value as u8);
                Ok(())
            }
            _ => Err(Fault::new(start, "escape sequence is an invalid Unicode code point")),
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn eat(&mut self, c: char) -> bool {
        let there = self.rest().starts_with(c);
        self.at += if there { c.len_utf8() } else { 0 };
        there
    }

    fn skip_space(&mut self) {
        self.at += self.rest().bytes().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
    }
}

fn unexpected(at: usize, token: &Token, expected: &str) -> Fault {
    Fault::new(at, format!("unexpected {} in label set, expected {expected}", token.describe()))
}

fn quoted(s: &str) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_go_quoted(&mut out, s);
    out
}

/// A character as Go's `%q` prints it.
fn rune(c: char) -> String {
    match c {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        c => {
            let text = quoted(c.encode_utf8(&mut [0; 4]));
            format!("'{}'", &text[1..text.len() - 1])
        }
    }
}

/// A character as Go's `%#U` prints it.
fn code_point(c: char) -> String {
    format!("U+{:04X} '{c}'", c as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_have_four_operators() {
        let text = r#"{a="1", b!="2", c=~"x|y", d!~`z`}"#;
        assert_eq!(parse_selector(text).unwrap().to_string(), r#"{a="1", b!="2", c=~"x|y", d!~"z"}"#);
        assert!(parse_selector("{}").unwrap().matchers.is_empty());
        for wrong in ["", "a", "{a}", r#"{a="b"} |= "c""#, r#"{a=~"("}"#, r#"{a>"b"}"#] {
            assert!(parse_selector(wrong).is_err(), "{wrong}");
        }
    }
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let got = match parse_label_set(text) {
            Ok(labels) => labels.to_string(),
            Err(e) => e.to_string(),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn sets() {
        check("", "{}");
        check("{}", "{}");
        check(" { } ", "{}");
        check(r#"{b="2", a="1"}"#, r#"{a="1", b="2"}"#);
        check(r#"{a="1",}"#, r#"{a="1"}"#);
        check("{a=`x\\y`,b='it\\'s'}", r#"{a="x\\y", b="it's"}"#);
        check(r#"{a="", b="x"}"#, r#"{b="x"}"#);
        check(r#"up{__name__="v",a="1"}"#, r#"{a="1"}"#);
        check(r#"{v="esc \"q\" \n ü \u00fc \x41 \101"}"#, "{v=\"esc \\\"q\\\" \\n ü ü A A\"}");
        check(r#"{__reserved__="v"}"#, r#"{__reserved__="v"}"#);
    }

    #[test]
    fn errors_have_lokis_words() {
        let at = |n: usize, what: &str| format!("1:{n}: parse error: {what}");
        check(r#"conf="ingest",case="i115""#, &at(5, "unexpected \"=\""));
        check(r#"{conf="ingest",case="i116""#, &at(27, "unexpected end of input inside braces"));
        check(r#"{conf="ingest",case=~"i120"}"#, &at(20, "unexpected <op:=~> in label set, expected \"=\""));
        check(r#"{conf="ingest",case="i121"} |= "x""#, &at(29, "unexpected character: '|'"));
        check(r#"{bad-name="v"}"#, &at(5, "unexpected character inside braces: '-'"));
        check(r#"{="v"}"#, &at(2, "unexpected \"=\" in label set, expected identifier or \"}\""));
        check(r#"{ünï="v"}"#, &at(2, "unexpected character inside braces: 'ü'"));
        check(r#"{a}"#, &at(3, "unexpected \"}\" in label set, expected \"=\""));
        check(r#"{a=b}"#, &at(4, "unexpected identifier \"b\" in label set, expected string"));
        check(
            r#"{a="1" b="2"}"#,
            &at(8, "unexpected identifier \"b\" in label set, expected \",\" or \"}\""),
        );
        check(r#"{a="1"#, &at(4, "unterminated quoted string"));
        check("{a=`1", &at(4, "unterminated raw string"));
        check(r#"{a="\q"}"#, &at(4, "unknown escape sequence U+0071 'q'"));
        check("{\na=1}", "2:3: parse error: unexpected character inside braces: '1'");
        check(r#"{a="2", b="", a="1"}"#, r#"stream '{a="2", a="1", b=""}' has duplicate label name: 'a'"#);
    }

    proptest! {
        #[test]
        fn canonical_text_round_trips(m in proptest::collection::btree_map("[a-zA-Z_][a-z0-9_]{0,5}", ".{1,9}", 0..6)) {
            let labels = Labels::from_pairs(m.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            prop_assert_eq!(parse_label_set(&labels.to_string()), Ok(labels));
        }

        #[test]
        fn any_text_is_read_without_panic(text in r#"[{}a="'`\\u0x,!~ü|\n-]{0,24}"#) {
            let _ = parse_label_set(&text).map_err(|e| e.to_string());
        }
    }
}
