//! The first word of a line that names a level.

use aho_corasick::packed::{Config, MatchKind, Searcher};

use super::Level;

/// What the words that name levels begin with.
const BEGINNINGS: [&str; 10] = ["tra", "trc", "deb", "dbg", "inf", "war", "wrn", "err", "cri", "fat"];

/// Looks for words that name a level: letters with neither letter, digit nor underscore beside them.
#[derive(Debug)]
pub(super) struct WordFinder {
    /// Finds beginnings many bytes at a time; `None` where the processor cannot.
    beginnings: Option<Searcher>,
}

impl WordFinder {
    pub(super) fn new() -> Self {
        let mut builder = Config::new().match_kind(MatchKind::LeftmostFirst).builder();
        for beginning in BEGINNINGS {
            // In the three ways that people write them; others, such as `wArN`, are not looked for.
            let mut title = beginning.to_owned();
            title[..1].make_ascii_uppercase();
            builder.add(beginning).add(beginning.to_ascii_uppercase()).add(title);
        }
        Self { beginnings: builder.build() }
    }

    /// The level that the first such word names.
    pub(super) fn first(&self, line: &[u8]) -> Option<Level> {
        let Some(searcher) = &self.beginnings else { return first_slowly(line) };
        let mut from = 0;
        while let Some(found) = searcher.find_in(line, aho_corasick::Span { start: from, end: line.len() }) {
            let start = found.start();
            if let Some(level) = level_at(line, start) {
                return Some(level);
            }
            from = start + 1;
        }
        None
    }
}

/// The level that the word at `start` names, if a word begins there.
fn level_at(line: &[u8], start: usize) -> Option<Level> {
    if start > 0 && is_word_byte(line[start - 1]) {
        return None;
    }
    let rest = &line[start..];
    // A word of more than eleven letters names none.
    let len = rest.iter().take(12).take_while(|b| is_word_byte(**b)).count();
    Level::of_word(&rest[..len])
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// The same, byte by byte.
fn first_slowly(line: &[u8]) -> Option<Level> {
    let is_beginning = |at: &usize| {
        line.get(*at..at + 3).is_some_and(|b| BEGINNINGS.iter().any(|n| b.eq_ignore_ascii_case(n.as_bytes())))
    };
    (0..line.len()).filter(is_beginning).find_map(|at| level_at(line, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_find_the_same(line in "(INFO|info|Info|ERR|err|error|warning|fatal|in|fo|x|_| |:|=|trace|é|Critical){0,40}") {
            prop_assert_eq!(WordFinder::new().first(line.as_bytes()), first_slowly(line.as_bytes()));
        }
    }
}
