//! From Go's RE2 syntax to that of the `regex` crates.
//!
//! The languages are close, but not equal: here perl classes and word boundaries are ASCII, `{` may be literal,
//! names of groups may repeat and begin with a digit, sets have no operators, and errors have Go's words. The
//! translation checks the expression as Go's parser does and writes it in the other syntax.

use std::fmt::Write as _;

/// A checked expression in the syntax of the `regex` crates.
#[derive(Debug)]
pub(super) struct Translated {
    pub text: String,
    /// Names of the capture groups, from group 1.
    pub groups: Vec<Option<String>>,
}

/// The greatest count of a repetition.
const MAX_REPEAT: u32 = 1000;
/// The deepest nesting of groups.
const MAX_DEPTH: usize = 1000;

const MISSING_PAREN: &str = "missing closing )";
const UNEXPECTED_PAREN: &str = "unexpected )";
const MISSING_BRACKET: &str = "missing closing ]";
const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const NESTED_REPEAT: &str = "invalid nested repetition operator";
const REPEAT_COUNT: &str = "invalid repeat count";
const PERL_SYNTAX: &str = "invalid or unsupported Perl syntax";
const NAMED_CAPTURE: &str = "invalid named capture";
const CLASS_RANGE: &str = "invalid character class range";
const ESCAPE: &str = "invalid escape sequence";
const TRAILING_BACKSLASH: &str = "trailing backslash at end of expression";
const TOO_DEEP: &str = "expression nests too deeply";

/// Translates `pattern`; the error is Go's text.
pub(super) fn translate(pattern: &str) -> Result<Translated, String> {
    Translator {
        pattern,
        rest: pattern,
        out: String::with_capacity(pattern.len() + 8),
        groups: vec![],
        depth: 0,
    }
    .run()
}

struct Translator<'a> {
    pattern: &'a str,
    rest: &'a str,
    out: String,
    groups: Vec<Option<String>>,
    depth: usize,
}

fn error(code: &str, snippet: &str) -> String {
    format!("error parsing regexp: {code}: `{snippet}`")
}

impl<'a> Translator<'a> {
    fn run(mut self) -> Result<Translated, String> {
        // What a repetition operator would apply to, and the text of a repetition just before.
        let mut has_argument = false;
        let mut last_repeat: Option<&'a str> = None;
        while let Some(c) = self.rest.chars().next() {
            let before = self.rest;
            let mut repeated = false;
            match c {
                '(' => {
                    has_argument = self.open()?;
                }
                ')' => {
                    self.depth = match self.depth.checked_sub(1) {
                        Some(d) => d,
                        None => return Err(error(UNEXPECTED_PAREN, self.pattern)),
                    };
                    self.copy(1);
                    has_argument = true;
                }
                '|' => {
                    self.copy(1);
                    has_argument = false;
                }
                '*' | '+' | '?' => {
                    let operator = &before[..1];
                    self.rest = &before[1..];
                    self.repeat(operator, operator, has_argument, last_repeat)?;
                    repeated = true;
                }
                '{' => match parse_repeat(before) {
                    Some((min, max, len)) => {
                        let operator = &before[..len];
                        if min > MAX_REPEAT || max.is_some_and(|m| m > MAX_REPEAT || m < min) {
                            return Err(error(REPEAT_COUNT, operator));
                        }
                        self.rest = &before[len..];
                        let text = match max {
                            Some(max) if max == min => format!("{{{min}}}"),
                            Some(max) => format!("{{{min},{max}}}"),
                            None => format!("{{{min},}}"),
                        };
                        self.repeat(&text, operator, has_argument, last_repeat)?;
                        repeated = true;
                    }
                    None => {
                        self.rest = &before[1..];
                        self.literal('{');
                        has_argument = true;
                    }
                },
                '[' => {
                    self.class()?;
                    has_argument = true;
                }
                '\\' => {
                    has_argument = self.escape()? || has_argument;
                }
                '^' | '$' | '.' => {
                    self.copy(1);
                    has_argument = true;
                }
                c => {
                    self.rest = &before[c.len_utf8()..];
                    self.literal(c);
                    has_argument = true;
                }
            }
            last_repeat = repeated.then_some(before);
        }
        if self.depth > 0 {
            return Err(error(MISSING_PAREN, self.pattern));
        }
        Ok(Translated { text: self.out, groups: self.groups })
    }

    fn copy(&mut self, len: usize) {
        self.out.push_str(&self.rest[..len]);
        self.rest = &self.rest[len..];
    }

    fn literal(&mut self, c: char) {
        write_literal(&mut self.out, c);
    }

    /// Writes a repetition, whose operator has just been read, with its laziness.
    fn repeat(
        &mut self,
        text: &str,
        operator: &str,
        has_argument: bool,
        last_repeat: Option<&'a str>,
    ) -> Result<(), String> {
        if !has_argument {
            return Err(error(MISSING_ARGUMENT, operator));
        }
        let lazy = self.rest.starts_with('?');
        if lazy {
            self.rest = &self.rest[1..];
        }
        if let Some(last) = last_repeat {
            // The operators of one term cannot be stacked; Go shows both.
            return Err(error(NESTED_REPEAT, &last[..last.len() - self.rest.len()]));
        }
        self.out.push_str(text);
        if lazy {
            self.out.push('?');
        }
        Ok(())
    }

    /// `(`, `(?P<name>`, `(?flags)`, `(?flags:`. Returns whether a repetition may follow: never directly.
    fn open(&mut self) -> Result<bool, String> {
        let group = self.rest;
        if self.depth >= MAX_DEPTH {
            return Err(error(TOO_DEEP, self.pattern));
        }
        if !group.starts_with("(?") {
            self.groups.push(None);
            self.depth += 1;
            self.copy(1);
            return Ok(false);
        }
        let name_at = if group.starts_with("(?P<") {
            Some(4)
        } else if group.starts_with("(?<") {
            Some(3)
        } else {
            None
        };
        if let Some(start) = name_at {
            let Some(end) = group.find('>') else { return Err(error(NAMED_CAPTURE, group)) };
            let name = &group[start..end];
            if name.is_empty() || !name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                return Err(error(NAMED_CAPTURE, &group[..=end]));
            }
            self.groups.push(Some(name.to_owned()));
            self.depth += 1;
            self.out.push('(');
            self.rest = &group[end + 1..];
            return Ok(false);
        }
        let mut negative = false;
        let mut saw_flag = false;
        for (at, c) in group.char_indices().skip(2) {
            let end = at + c.len_utf8();
            match c {
                'i' | 'm' | 's' | 'U' => saw_flag = true,
                '-' if !negative => {
                    negative = true;
                    saw_flag = false;
                }
                ':' | ')' if !negative || saw_flag => {
                    let flags = &group[2..at];
                    // The `regex` crates reject an empty `(?)` and repeated flags; neither means anything.
                    let mut unique = String::new();
                    for f in flags.chars() {
                        if !unique.contains(f) {
                            unique.push(f);
                        }
                    }
                    if c == ':' {
                        self.depth += 1;
                        let _ = write!(self.out, "(?{unique}:");
                    } else if !unique.is_empty() {
                        let _ = write!(self.out, "(?{unique})");
                    }
                    self.rest = &group[end..];
                    return Ok(false);
                }
                _ => return Err(error(PERL_SYNTAX, &group[..end])),
            }
        }
        Err(error(MISSING_PAREN, self.pattern))
    }

    /// An escape outside of a class. Returns whether it gave something that can be repeated.
    fn escape(&mut self) -> Result<bool, String> {
        let rest = self.rest;
        match rest[1..].chars().next() {
            Some('A') => self.replace(2, "\\A"),
            Some('z') => self.replace(2, "\\z"),
            Some('b') => self.replace(2, "(?-u:\\b)"),
            Some('B') => self.replace(2, "(?-u:\\B)"),
            Some('Q') => {
                let body = &rest[2..];
                let (quoted, after) = match body.find("\\E") {
                    Some(end) => (&body[..end], &body[end + 2..]),
                    None => (body, ""),
                };
                for c in quoted.chars() {
                    self.literal(c);
                }
                self.rest = after;
                return Ok(!quoted.is_empty());
            }
            Some('E') => {
                // Go passes over a stray \E only after \Q; alone it is an unknown escape.
                return Err(error(ESCAPE, "\\E"));
            }
            Some('p' | 'P') => {
                let (class, len) = unicode_class(rest)?;
                self.replace(len, &class);
            }
            Some(c) if perl_class(c).is_some() => {
                let (negative, set) = perl_class(c).unwrap_or_default();
                let text = format!("[{}{set}]", if negative { "^" } else { "" });
                self.replace(2, &text);
            }
            _ => {
                let (c, len) = escaped_char(rest)?;
                self.literal(c);
                self.rest = &rest[len..];
            }
        }
        Ok(true)
    }

    fn replace(&mut self, len: usize, with: &str) {
        self.out.push_str(with);
        self.rest = &self.rest[len..];
    }

    /// A bracketed class.
    fn class(&mut self) -> Result<(), String> {
        let class = self.rest;
        let mut t = &class[1..];
        self.out.push('[');
        if let Some(after) = t.strip_prefix('^') {
            self.out.push('^');
            t = after;
        }
        let mut first = true;
        while first || !t.starts_with(']') {
            if t.is_empty() {
                return Err(error(MISSING_BRACKET, class));
            }
            first = false;
            if let Some(end) = posix_end(t) {
                let name = &t[..end];
                if !POSIX_CLASSES.contains(&name[2..end - 2].trim_start_matches('^')) {
                    return Err(error(CLASS_RANGE, name));
                }
                self.out.push_str(name);
                t = &t[end..];
                continue;
            }
            if t.starts_with("\\p") || t.starts_with("\\P") {
                let (text, len) = unicode_class(t)?;
                self.out.push_str(&text);
                t = &t[len..];
                continue;
            }
            if t.starts_with('\\')
                && let Some((negative, set)) = t[1..].chars().next().and_then(perl_class)
            {
                let _ = write!(self.out, "[{}{set}]", if negative { "^" } else { "" });
                t = &t[2..];
                continue;
            }
            let range = t;
            let (low, len) = class_char(t, class)?;
            t = &t[len..];
            let mut high = low;
            if t.len() >= 2 && t.starts_with('-') && !t[1..].starts_with(']') {
                let (h, len) = class_char(&t[1..], class)?;
                t = &t[1 + len..];
                high = h;
                if high < low {
                    return Err(error(CLASS_RANGE, &range[..range.len() - t.len()]));
                }
            }
            write_literal(&mut self.out, low);
            if high != low {
                self.out.push('-');
                write_literal(&mut self.out, high);
            }
        }
        self.out.push(']');
        self.rest = &t[1..];
        Ok(())
    }
}

const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// The length of the `[:name:]` that a class goes on with. A name longer than any is none, and then the bracket is a
/// character like others.
fn posix_end(text: &str) -> Option<usize> {
    let head = text.strip_prefix("[:")?;
    let reach = head.char_indices().nth(32).map_or(head.len(), |(i, _)| i);
    head[..reach].find(":]").map(|end| end + 4)
}

fn write_literal(out: &mut String, c: char) {
    // Not all punctuation: `\<` would be the beginning of a word.
    if regex_syntax::is_meta_character(c) {
        out.push('\\');
        out.push(c);
    } else if c.is_ascii_control() {
        let _ = write!(out, "\\x{{{:x}}}", c as u32);
    } else {
        out.push(c);
    }
}

/// A `{min}`, `{min,}` or `{min,max}`: the counts and the length of the text. Anything else is literal.
fn parse_repeat(text: &str) -> Option<(u32, Option<u32>, usize)> {
    // No counts are longer than this, and a text of many braces is not to be searched again for each.
    let reach = text.char_indices().nth(32).map_or(text.len(), |(i, _)| i);
    let body = &text[1..text[..reach].find('}')?];
    let len = body.len() + 2;
    let number = |t: &str| {
        let ok =
            !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()) && (t.len() == 1 || !t.starts_with('0'));
        // A count beyond any limit need not be exact.
        ok.then(|| t.parse().unwrap_or(u32::MAX))
    };
    match body.split_once(',') {
        None => number(body).map(|n| (n, Some(n), len)),
        Some((min, "")) => number(min).map(|n| (n, None, len)),
        Some((min, max)) => Some((number(min)?, Some(number(max)?), len)),
    }
}

fn perl_class(c: char) -> Option<(bool, &'static str)> {
    Some(match c {
        'd' => (false, "0-9"),
        'D' => (true, "0-9"),
        's' => (false, r"\t\n\x0C\r "),
        'S' => (true, r"\t\n\x0C\r "),
        'w' => (false, "0-9A-Za-z_"),
        'W' => (true, "0-9A-Za-z_"),
        _ => return None,
    })
}

/// `\pN`, `\p{Greek}`, `\P…`, `\p{^…}`: the class in the other syntax, and its length here.
fn unicode_class(text: &str) -> Result<(String, usize), String> {
    let mut negative = text.starts_with("\\P");
    let Some(c) = text[2..].chars().next() else { return Err(error(CLASS_RANGE, text)) };
    let (name, len) = if c == '{' {
        let Some(end) = text.find('}') else { return Err(error(CLASS_RANGE, text)) };
        (&text[3..end], end + 1)
    } else {
        (&text[2..2 + c.len_utf8()], 2 + c.len_utf8())
    };
    let bare = match name.strip_prefix('^') {
        Some(bare) => {
            negative = !negative;
            bare
        }
        None => name,
    };
    let class = format!("\\{}{{{bare}}}", if negative { 'P' } else { 'p' });
    if regex_syntax::parse(&class).is_err() {
        return Err(error(CLASS_RANGE, &text[..len]));
    }
    Ok((class, len))
}

fn class_char(text: &str, class: &str) -> Result<(char, usize), String> {
    match text.chars().next() {
        None => Err(error(MISSING_BRACKET, class)),
        Some('\\') => escaped_char(text),
        Some(c) => Ok((c, c.len_utf8())),
    }
}

/// An escape that stands for one character: the character and the length of the escape.
fn escaped_char(text: &str) -> Result<(char, usize), String> {
    let mut chars = text.char_indices().skip(1);
    let Some((at, c)) = chars.next() else { return Err(error(TRAILING_BACKSLASH, "")) };
    let len = at + c.len_utf8();
    let plain = |c: char| Ok((c, len));
    let octal = |from: usize| {
        let digits = text[from..].bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
        let value = u32::from_str_radix(&text[from..from + digits], 8).unwrap_or(0);
        (char::from_u32(value).unwrap_or('\0'), from + digits)
    };
    match c {
        '0' => Ok(octal(1)),
        // One digit alone would be a back reference.
        '1'..='7' if text[len..].starts_with(|c: char| ('0'..='7').contains(&c)) => Ok(octal(1)),
        'x' => {
            let body = &text[2..];
            let (digits, total) = match body.strip_prefix('{') {
                Some(inner) => match inner.find('}') {
                    Some(end) => (&inner[..end], 2 + end + 2),
                    None => return Err(error(ESCAPE, text)),
                },
                None => match body.get(..2) {
                    Some(two) => (two, 4),
                    None => return Err(error(ESCAPE, text)),
                },
            };
            let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16)
                .ok()
                .filter(|_| valid)
                .and_then(char::from_u32)
                .map(|c| (c, total))
                .ok_or_else(|| error(ESCAPE, &text[..total.min(text.len())]))
        }
        'a' => plain('\x07'),
        'f' => plain('\x0c'),
        'n' => plain('\n'),
        'r' => plain('\r'),
        't' => plain('\t'),
        'v' => plain('\x0b'),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => plain(c),
        _ => Err(error(ESCAPE, &text[..len])),
    }
}
