//! The field of a JSON or logfmt line that holds the level.
//!
//! Lines are not parsed: the names of fields are searched for, and what is found is checked to be a field by what stands
//! around it. Only a name behind nested objects makes it necessary to count braces.

use aho_corasick::packed::{Config, MatchKind, Searcher};
use aho_corasick::{AhoCorasick, Span};

/// Finds the value of the first field with one of the names.
#[derive(Debug)]
pub(super) struct FieldFinder {
    /// `"name"`, as keys of JSON.
    json: Option<Finder>,
    /// `name=`, as in logfmt.
    logfmt: Option<Finder>,
    /// How deep in JSON; 0 is no limit.
    depth_max: usize,
}

/// Finds the first of some texts.
#[derive(Debug)]
enum Finder {
    /// Many bytes at a time, where the processor can and the texts are few.
    Packed(Searcher),
    Automaton(Box<AhoCorasick>),
}

impl Finder {
    /// `None` without texts.
    fn new(texts: &[String]) -> Option<Self> {
        if texts.is_empty() {
            return None;
        }
        let packed = Config::new().match_kind(MatchKind::LeftmostLongest).builder().extend(texts).build();
        match packed {
            Some(searcher) => Some(Self::Packed(searcher)),
            None => AhoCorasick::builder()
                .match_kind(aho_corasick::MatchKind::LeftmostLongest)
                .build(texts)
                .ok()
                .map(|a| Self::Automaton(Box::new(a))),
        }
    }

    fn find(&self, line: &[u8], from: usize) -> Option<(usize, usize)> {
        let found = match self {
            Finder::Packed(searcher) => searcher.find_in(line, Span { start: from, end: line.len() }),
            Finder::Automaton(automaton) => automaton.find(aho_corasick::Input::new(line).range(from..)),
        };
        found.map(|m| (m.start(), m.end()))
    }
}

impl FieldFinder {
    pub(super) fn new(names: &[String], depth_max: usize) -> Self {
        let names: Vec<&String> = names.iter().filter(|n| !n.is_empty()).collect();
        let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
        let assigned: Vec<String> = names.iter().map(|n| format!("{n}=")).collect();
        Self { json: Finder::new(&quoted), logfmt: Finder::new(&assigned), depth_max }
    }

    /// The value of the first such field; `None` if there is none or the line is neither JSON nor logfmt.
    pub(super) fn value<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let line = line.trim_ascii();
        match line.first()? {
            b'{' if line.last() == Some(&b'}') => self.of_json(line),
            _ if is_logfmt(line) => self.of_logfmt(line),
            _ => None,
        }
    }

    fn of_json<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let finder = self.json.as_ref()?;
        let mut from = 1;
        while let Some((start, end)) = finder.find(line, from) {
            from = end - 1;
            // Quotes inside of texts have a backslash in front, so what follows a brace or a comma is a key.
            let before = line[..start].trim_ascii_end().last();
            if !matches!(before, Some(b'{' | b',')) {
                continue;
            }
            let Some(value) = line[end..].trim_ascii_start().strip_prefix(b":") else { continue };
            if self.depth_max == 0 || depth_of(&line[..start]).is_some_and(|d| d <= self.depth_max) {
                return Some(scalar(value.trim_ascii_start()));
            }
        }
        None
    }

    fn of_logfmt<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let finder = self.logfmt.as_ref()?;
        let mut from = 0;
        while let Some((start, end)) = finder.find(line, from) {
            from = end;
            let begins = start == 0 || line[start - 1].is_ascii_whitespace();
            // Between an odd quote and the next one lies a value.
            if !begins || memchr::memchr_iter(b'"', &line[..start]).count() % 2 == 1 {
                continue;
            }
            let value = &line[end..];
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            let len = value.iter().take_while(|b| !matches!(b, b' ' | b'\t' | b'"')).count();
            return Some(&value[..len]);
        }
        None
    }
}

/// Whether a line begins with `name=`.
fn is_logfmt(line: &[u8]) -> bool {
    memchr::memchr2(b'=', b' ', line).is_some_and(|at| at > 0 && line[at] == b'=')
}

/// The text at the start of `rest` without its quotes, or whatever else stands there up to the next comma or brace.
fn scalar(rest: &[u8]) -> &[u8] {
    let (rest, ends): (&[u8], &[u8]) = match rest.strip_prefix(b"\"") {
        Some(text) => (text, b"\""),
        None => (rest, b",} \t"),
    };
    &rest[..rest.iter().take_while(|b| !ends.contains(b)).count()]
}

/// How many objects are open at the end of the beginning of a JSON text; `None` inside of an array.
fn depth_of(beginning: &[u8]) -> Option<usize> {
    // Braces in texts come in pairs; where they do not, it has to be done thoroughly.
    let (objects, arrays) = open_braces(beginning);
    if arrays == 0 && (1..=2).contains(&objects) { Some(objects as usize) } else { exact_depth(beginning) }
}

/// Opening less closing braces, and the same of brackets, texts included. Written so that it is done many bytes at a time.
fn open_braces(bytes: &[u8]) -> (i32, i32) {
    let (mut objects, mut arrays) = (0, 0);
    // Counters of eight bits cannot overflow in so short a chunk.
    for chunk in bytes.chunks(127) {
        let (mut o, mut a) = (0i8, 0i8);
        for b in chunk {
            o += i8::from(*b == b'{') - i8::from(*b == b'}');
            a += i8::from(*b == b'[') - i8::from(*b == b']');
        }
        objects += i32::from(o);
        arrays += i32::from(a);
    }
    (objects, arrays)
}

fn exact_depth(beginning: &[u8]) -> Option<usize> {
    let (mut objects, mut arrays, mut at) = (0usize, 0usize, 0);
    while let Some(b) = beginning.get(at) {
        at += 1;
        match b {
            b'{' => objects += 1,
            b'}' => objects = objects.saturating_sub(1),
            b'[' => arrays += 1,
            b']' => arrays = arrays.saturating_sub(1),
            b'"' => at += text_len(&beginning[at..]),
            _ => {}
        }
    }
    (arrays == 0).then_some(objects)
}

/// Length of a text after its first quote, the last quote included.
fn text_len(rest: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = memchr::memchr2(b'"', b'\\', &rest[at..]) {
        at += next + 1;
        if rest[at - 1] == b'"' {
            return at;
        }
        at = (at + 1).min(rest.len());
    }
    rest.len()
}
