//! Regular expressions in Go's RE2 syntax, as LogQL has them, on the `regex-automata` engine.
//!
//! `\d`, `\w`, `\s` and `\b` are ASCII, `(?i)` folds Unicode, and errors have the words of Go's `regexp` package.

mod translate;

use std::sync::Arc;

use regex_automata::meta;
use regex_automata::util::syntax;

/// A compiled expression over bytes. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Regex {
    pattern: Arc<str>,
    translated: Arc<str>,
    groups: Arc<[Option<String>]>,
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
    /// Compiles `pattern`. The error is Go's: "error parsing regexp: missing closing ): `(`".
    pub fn new(pattern: &str, mode: Mode) -> Result<Self, String> {
        let translated = translate::translate(pattern)?;
        let text = match mode {
            Mode::Anchored => format!("\\A(?s:{})\\z", translated.text),
            Mode::Search => translated.text,
        };
        let engine = meta::Builder::new()
            .configure(meta::Config::new().nfa_size_limit(Some(SIZE_LIMIT)).utf8_empty(false))
            .syntax(syntax::Config::new().utf8(false))
            .build(&text)
            .map_err(|_| format!("error parsing regexp: expression too large: `{pattern}`"))?;
        Ok(Self {
            pattern: pattern.into(),
            translated: text.into(),
            groups: translated.groups.into(),
            engine,
        })
    }

    /// The expression as it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The same expression in the syntax of the `regex` crates, anchors included: for extracting literals.
    /// It is to be parsed with UTF-8 mode off.
    pub fn translated(&self) -> &str {
        &self.translated
    }

    /// The names of the capture groups; the first one is that of group 1. Names may repeat.
    pub fn groups(&self) -> &[Option<String>] {
        &self.groups
    }

    /// Whether it matches in `haystack`.
    pub fn is_match(&self, haystack: &[u8]) -> bool {
        self.engine.is_match(haystack)
    }

    /// The engine, for captures and iteration.
    pub fn engine(&self) -> &meta::Regex {
        &self.engine
    }

    /// Appends `template` with `$1`, `${1}`, `$name` and `${name}` replaced by what the groups matched, and `$$` by
    /// `$`, as Go's `Regexp.Expand`.
    pub fn expand(
        &self,
        template: &str,
        haystack: &[u8],
        captures: &regex_automata::util::captures::Captures,
        out: &mut Vec<u8>,
    ) {
        let mut rest = template;
        while let Some(at) = rest.find('$') {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push(b'$');
                rest = after;
                continue;
            }
            let (name, after) = match rest.strip_prefix('{') {
                Some(body) => {
                    let len = name_len(body);
                    match body[len..].strip_prefix('}') {
                        Some(after) if len > 0 => (&body[..len], after),
                        _ => ("", rest),
                    }
                }
                None => rest.split_at(name_len(rest)),
            };
            if name.is_empty() {
                out.push(b'$');
                continue;
            }
            rest = after;
            let group = |g: usize| captures.get_group(g).map(|span| &haystack[span.start..span.end]);
            let digits =
                name.bytes().all(|b| b.is_ascii_digit()) && (name.len() == 1 || !name.starts_with('0'));
            let value = if digits {
                name.parse().ok().and_then(group)
            } else {
                let named = self.groups.iter().enumerate().filter(|(_, g)| g.as_deref() == Some(name));
                named.map(|(i, _)| i + 1).find_map(group)
            };
            out.extend_from_slice(value.unwrap_or_default());
        }
        out.extend_from_slice(rest.as_bytes());
    }
}

fn name_len(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}
impl Eq for Regex {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, matches: bool) {
        let r = Regex::new(pattern, Mode::Search).unwrap();
        assert_eq!(r.is_match(text.as_bytes()), matches, "{pattern} on {text:?} as {}", r.translated());
    }

    #[test]
    fn follows_re2_and_not_the_crate() {
        check(r"^\d$", "٣", false);
        check(r"^\w$", "é", false);
        check(r"\bé", "aé", true);
        check(r"(?i)k", "\u{212a}", true);
        check(r"a{,2}", "a{,2}", true);
        check(r"x{", "x{", true);
        check(r"\Qa.b\E+", "a.bb", true);
        check(r"\Qa.b\E", "axb", false);
        check(r"[a&&b]", "&", true);
        check(r"[[a]", "[", true);
        check(r"[]a]", "]", true);
        check(r"[\d-]", "-", true);
        check(r"^[a-c-e]$", "-", true);
        check(r"[[:^alpha:]]", "1", true);
        check(r"[^\D]", "5", true);
        check(r"\<[<>]", "a<>b", true);
        check(r"\pN", "٣", true);
        check(r"\p{^N}", "5", false);
        check(r"a.b", "a\nb", false);
        check(r"(?s)a.b", "a\nb", true);
        check(r"a\z", "a", true);
        check(r"\012", "\n", true);
        check("a b # c", "a b # c", true);
        let r = Regex::new("(?P<1a>x)(?P<1a>y)(z)", Mode::Search).unwrap();
        assert_eq!(r.groups(), [Some("1a".to_owned()), Some("1a".to_owned()), None]);
        assert!(Regex::new("new.line", Mode::Anchored).unwrap().is_match(b"new\nline"));
        assert!(!Regex::new("a|b", Mode::Anchored).unwrap().is_match(b"ab"));
    }

    #[test]
    fn errors_have_go_words() {
        for (pattern, text) in [
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("[z", "missing closing ]: `[z`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            (r"\d(?!b)", "invalid or unsupported Perl syntax: `(?!`"),
            ("(?P<a-b>x)", "invalid named capture: `(?P<a-b>`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            (r"\y", "invalid escape sequence: `\\y`"),
            (r"\1", "invalid escape sequence: `\\1`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("[z-a]", "invalid character class range: `z-a`"),
            (r"\p{Foo}", "invalid character class range: `\\p{Foo}`"),
        ] {
            let got = Regex::new(pattern, Mode::Search).unwrap_err();
            assert_eq!(got, format!("error parsing regexp: {text}"), "{pattern}");
        }
    }

    #[test]
    fn expands_templates() {
        let r = Regex::new(r"(?P<num>\d)(x)?", Mode::Search).unwrap();
        let mut captures = r.engine().create_captures();
        r.engine().captures("a5", &mut captures);
        let mut out = vec![];
        r.expand("$1-${num}-$2-$nosuch-$$-$ 1", b"a5", &captures, &mut out);
        assert_eq!(out, b"5-5---$-$ 1");
    }
}
