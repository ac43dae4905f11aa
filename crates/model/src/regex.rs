//! Regular expressions in RE2 syntax, as LogQL has them, on the `regex-automata` engine.

use regex_automata::meta;
use regex_automata::util::syntax;

/// A compiled expression over bytes.
#[derive(Clone, Debug)]
pub struct Regex {
    pattern: Box<str>,
    engine: meta::Regex,
}

/// Where and how an expression is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A label matcher: must match the whole value; `.` matches a newline.
    Anchored,
    /// A line filter: may match anywhere; `.` does not match a newline.
    Search,
}

/// Upper bound for the compiled size of one expression in bytes.
const SIZE_LIMIT: usize = 10 << 20;

impl Regex {
    /// Compiles `pattern`. The error is the reason in one line.
    pub fn new(pattern: &str, mode: Mode) -> Result<Self, String> {
        let text = match mode {
            Mode::Anchored => format!("^(?s:{pattern})$"),
            Mode::Search => pattern.to_owned(),
        };
        let engine = meta::Builder::new()
            .configure(meta::Config::new().nfa_size_limit(Some(SIZE_LIMIT)).utf8_empty(false))
            .syntax(syntax::Config::new().utf8(false))
            .build(&text)
            .map_err(|e| e.syntax_error().map_or_else(|| e.to_string(), |s| one_line(&s.to_string())))?;
        Ok(Self { pattern: pattern.into(), engine })
    }

    /// The expression as it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether it matches in `haystack`.
    pub fn is_match(&self, haystack: &[u8]) -> bool {
        self.engine.is_match(haystack)
    }

    /// The engine, for captures and iteration.
    pub fn engine(&self) -> &meta::Regex {
        &self.engine
    }
}

fn one_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ").to_owned()
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}
impl Eq for Regex {}
