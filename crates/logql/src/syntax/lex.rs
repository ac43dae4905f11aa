//! The lexer: Go's `text/scanner` with LogQL's tokens on top, positions included.
//!
//! A token that is read on past the scanner (durations, byte sizes, ranges, operators of several characters) reports
//! line 0, as in Loki, whose error texts show the line.

use super::grammar::{Grammar, Token};
use super::text;
use crate::error::ParseError;
use crate::units;

/// A token with its place and value.
#[derive(Clone, Debug)]
pub(crate) struct Lexeme<'a> {
    pub token: Token,
    pub line: usize,
    pub column: usize,
    pub value: Value<'a>,
}

/// What a token carries.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    /// Nothing but its kind, or its text: identifiers, numbers and flags.
    Text(&'a str),
    /// An unquoted string.
    String(String),
    /// Nanoseconds.
    Duration(i64),
    /// A byte size.
    Bytes(u64),
}

/// Reads tokens from a text.
pub(crate) struct Lexer<'a> {
    grammar: &'a Grammar,
    source: &'a str,
    at: usize,
    line: usize,
    /// Characters read on this line.
    column: usize,
}

/// Kinds of tokens of the scanner below.
enum Scanned {
    End,
    Identifier,
    Number,
    String,
    Other,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(grammar: &'a Grammar, source: &'a str) -> Self {
        Self { grammar, source, at: 0, line: 1, column: 0 }
    }

    /// The next token; the end of the text is a token too.
    pub(crate) fn next(&mut self) -> Result<Lexeme<'a>, ParseError> {
        loop {
            self.skip_space_and_comments()?;
            let (line, column) = if self.source.is_empty() { (0, 0) } else { (self.line, self.column + 1) };
            let start = self.at;
            let scanned = self.scan().map_err(|m| ParseError::at(m, line, column))?;
            let text = &self.source[start..self.at];
            let done = |token: &str, line: usize, value: Value<'a>| {
                Ok(Lexeme { token: self.grammar.token(token), line, column, value })
            };
            match scanned {
                Scanned::End => return done("$end", line, Value::Text("")),
                Scanned::String => {
                    let value =
                        text::unquote(text).ok_or_else(|| ParseError::at("invalid syntax", line, column))?;
                    return done("STRING", line, Value::String(value));
                }
                Scanned::Number => {
                    if let Some((len, nanos)) = self.duration_after(text) {
                        self.advance(len);
                        return Ok(self.lexeme("DURATION", 0, column, Value::Duration(nanos)));
                    }
                    if let Some((len, bytes)) = self.bytes_after(text) {
                        self.advance(len);
                        return Ok(self.lexeme("BYTES", 0, column, Value::Bytes(bytes)));
                    }
                    return done("NUMBER", line, Value::Text(text));
                }
                Scanned::Identifier => {
                    let token = self.word(text);
                    return Ok(Lexeme { token, line, column, value: Value::Text(text) });
                }
                Scanned::Other => {}
            }
            match text {
                "#" => {
                    let len = self.rest().find('\n').unwrap_or(self.rest().len());
                    self.advance(len);
                    continue;
                }
                "[" => return self.range(column),
                "-" => {
                    if let Some(flag) =
                        ["--strict", "--keep-empty"].into_iter().find(|f| self.flag_follows(f))
                    {
                        self.advance(flag.len() - 1);
                        return Ok(self.lexeme("FUNCTION_FLAG", 0, column, Value::Text(flag)));
                    }
                    if let Some((len, nanos)) = self.duration_after(text) {
                        self.advance(len);
                        return Ok(self.lexeme("DURATION", 0, column, Value::Duration(nanos)));
                    }
                }
                _ => {}
            }
            if let Some(next) = self.rest().chars().next() {
                let end = self.at + next.len_utf8();
                let longer = &self.source[start..end];
                if longer.len() == 2 && self.grammar.find(longer).is_some() {
                    self.advance(next.len_utf8());
                    return Ok(self.lexeme(longer, 0, column, Value::Text(longer)));
                }
            }
            // Characters that LogQL has no use for count as identifiers.
            let token = self.grammar.find(text).unwrap_or_else(|| self.grammar.token("IDENTIFIER"));
            return Ok(Lexeme { token, line, column, value: Value::Text(text) });
        }
    }

    fn lexeme(&self, token: &str, line: usize, column: usize, value: Value<'a>) -> Lexeme<'a> {
        Lexeme { token: self.grammar.token(token), line, column, value }
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.column = 0;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    /// Reads `len` bytes.
    fn advance(&mut self, len: usize) {
        let end = self.at + len;
        while self.at < end && self.bump().is_some() {}
    }

    fn skip_while(&mut self, accept: impl Fn(char) -> bool) -> usize {
        let start = self.at;
        while self.peek().is_some_and(&accept) {
            self.bump();
        }
        self.at - start
    }

    fn skip_space_and_comments(&mut self) -> Result<(), ParseError> {
        loop {
            self.skip_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            if self.rest().starts_with("//") {
                self.skip_while(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                let (line, column) = (self.line, self.column + 1);
                match self.rest()[2..].find("*/") {
                    Some(len) => self.advance(len + 4),
                    None => return Err(ParseError::at("comment not terminated", line, column)),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn scan(&mut self) -> Result<Scanned, String> {
        let Some(c) = self.peek() else { return Ok(Scanned::End) };
        match c {
            c if c == '_' || c.is_alphabetic() => {
                self.skip_while(|c| c == '_' || c.is_alphanumeric());
                Ok(Scanned::Identifier)
            }
            '0'..='9' => self.number().map(|()| Scanned::Number),
            '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                self.number().map(|()| Scanned::Number)
            }
            '"' => self.quoted('"').map(|_| Scanned::String),
            '\'' => match self.quoted('\'')? {
                1 => Ok(Scanned::Other),
                _ => Err("invalid char literal".into()),
            },
            '`' => {
                self.bump();
                self.skip_while(|c| c != '`');
                self.bump().map(|_| Scanned::String).ok_or_else(|| "literal not terminated".into())
            }
            '\0' => Err("invalid character NUL".into()),
            _ => {
                self.bump();
                Ok(Scanned::Other)
            }
        }
    }

    /// A string or character literal; returns the number of characters in it.
    fn quoted(&mut self, quote: char) -> Result<usize, String> {
        self.bump();
        let mut count = 0;
        loop {
            match self.peek() {
                None | Some('\n') => return Err("literal not terminated".into()),
                Some(c) if c == quote => {
                    self.bump();
                    return Ok(count);
                }
                Some('\\') => {
                    self.bump();
                    let escape = self.peek();
                    let (digits, base) = match escape {
                        Some('0'..='7') => (3, 8),
                        Some('x') => (2, 16),
                        Some('u') => (4, 16),
                        Some('U') => (8, 16),
                        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => (0, 10),
                        Some(c) if c == quote => (0, 10),
                        _ => return Err("invalid char escape".into()),
                    };
                    if base != 8 {
                        self.bump();
                    }
                    for _ in 0..digits {
                        if !self.peek().is_some_and(|c| c.is_digit(base)) {
                            return Err("invalid char escape".into());
                        }
                        self.bump();
                    }
                }
                Some(_) => {
                    self.bump();
                }
            }
            count += 1;
        }
    }

    /// A number in Go's syntax, with the errors of Go's scanner.
    fn number(&mut self) -> Result<(), String> {
        let start = self.at;
        let mut base = 10;
        let mut name = "decimal literal";
        let mut has_digits = false;
        if self.peek() == Some('0') {
            self.bump();
            (base, name, has_digits) = match self.peek() {
                Some('x' | 'X') => (16, "hexadecimal literal", false),
                Some('o' | 'O') => (8, "octal literal", false),
                Some('b' | 'B') => (2, "binary literal", false),
                _ => (8, "octal literal", true),
            };
            if !has_digits {
                self.bump();
            }
        }
        let prefixed = base != 10 && !has_digits;
        let digit = |c: char| if base == 16 { c.is_ascii_hexdigit() } else { c.is_ascii_digit() } || c == '_';
        let whole = self.at;
        self.skip_while(digit);
        let mut invalid = self.source[whole..self.at]
            .chars()
            .find(|c| base < 10 && c.to_digit(base).is_none() && *c != '_');
        has_digits |= self.source[whole..self.at].contains(|c| c != '_');
        let mut float = false;
        if self.peek() == Some('.') {
            self.bump();
            float = true;
            if prefixed && base != 16 {
                return Err(format!("invalid radix point in {name}"));
            }
            let fraction = self.at;
            self.skip_while(digit);
            has_digits |= self.source[fraction..self.at].contains(|c| c != '_');
        }
        if !has_digits {
            return Err(format!("{name} has no digits"));
        }
        match self.peek() {
            Some(e @ ('e' | 'E')) if prefixed => {
                return Err(format!("'{e}' exponent requires decimal mantissa"));
            }
            Some(e @ ('p' | 'P')) if base != 16 => {
                return Err(format!("'{e}' exponent requires hexadecimal mantissa"));
            }
            Some('e' | 'E' | 'p' | 'P') => {
                self.bump();
                float = true;
                if matches!(self.peek(), Some('+' | '-')) {
                    self.bump();
                }
                if self.skip_while(|c| c.is_ascii_digit() || c == '_') == 0 {
                    return Err("exponent has no digits".into());
                }
            }
            _ if base == 16 && float => return Err("hexadecimal mantissa requires a 'p' exponent".into()),
            _ => {}
        }
        if float {
            invalid = None;
        }
        if let Some(c) = invalid {
            return Err(format!("invalid digit '{c}' in {name}"));
        }
        let text = &self.source[start..self.at];
        if text.contains("__") || text.ends_with('_') || text.contains("_.") || text.contains("._") {
            return Err("'_' must separate successive digits".into());
        }
        Ok(())
    }

    /// The duration that `number` and what follows it directly make, with the length of the latter.
    fn duration_after(&self, number: &str) -> Option<(usize, i64)> {
        let rest = self.rest();
        let part = |c: char| {
            c.is_numeric() || matches!(c, 'n' | 'u' | 'µ' | 'm' | 's' | 'h' | 'd' | 'w' | 'y' | '.')
        };
        let len = rest.find(|c: char| !part(c)).unwrap_or(rest.len());
        if len == 0 {
            return None;
        }
        units::parse_literal_duration(&format!("{number}{}", &rest[..len])).map(|nanos| (len, nanos))
    }

    /// The byte size that `number` and what follows it directly make, with the length of the latter.
    fn bytes_after(&self, number: &str) -> Option<(usize, u64)> {
        let rest = self.rest();
        let part = |c: char| {
            c.is_numeric()
                || matches!(c, 'B' | 'i' | 'k' | 'K' | 'M' | 'g' | 'G' | 't' | 'T' | 'p' | 'P' | '.')
        };
        let len = rest.find(|c: char| !part(c)).unwrap_or(rest.len());
        if len == 0 {
            return None;
        }
        units::parse_bytes(&format!("{number}{}", &rest[..len])).ok().map(|bytes| (len, bytes))
    }

    fn flag_follows(&self, flag: &str) -> bool {
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_alphabetic() && c != '-').unwrap_or(rest.len());
        rest[..len] == flag[1..]
    }

    /// `[5m]`, after the bracket.
    fn range(&mut self, column: usize) -> Result<Lexeme<'a>, ParseError> {
        let Some(len) = self.rest().find(']') else {
            self.advance(self.rest().len());
            return Err(ParseError::at("missing closing ']' in duration", 0, column));
        };
        let text = &self.rest()[..len];
        self.advance(len + 1);
        let nanos = units::parse_prometheus_duration(text).map_err(|m| ParseError::at(m, 0, column))?;
        Ok(self.lexeme("RANGE", 0, column, Value::Duration(nanos)))
    }

    /// A word: a function if it is called, else a keyword, else an identifier.
    fn word(&self, text: &str) -> Token {
        let lower = text.to_lowercase();
        if let Some(token) = self.grammar.function(&lower) {
            return if self.is_called() { token } else { self.grammar.token("IDENTIFIER") };
        }
        self.grammar.keyword(&lower).unwrap_or_else(|| self.grammar.token("IDENTIFIER"))
    }

    /// Whether `(`, `by (` or `without (` follows.
    fn is_called(&self) -> bool {
        let rest = self.rest().trim_start();
        if rest.starts_with('(') {
            return true;
        }
        ["by", "without"].into_iter().any(|word| {
            rest.get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word))
                && rest[word.len()..].trim_start().starts_with('(')
        })
    }
}
