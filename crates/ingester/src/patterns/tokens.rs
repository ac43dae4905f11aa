//! Lines as words, gaps and variables.
//!
//! The tokens of a line lie next to each other and cover it as a whole, none is empty. So a template that replaces some of
//! them by `<_>`, which stands for one or more bytes, matches the line.

use std::hash::Hasher as _;

use memchr::memmem;
use rustc_hash::FxHasher;

/// Part of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) kind: Kind,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Letters and what belongs to them.
    Word,
    /// Space and punctuation between words.
    Gap,
    /// What differs from line to line: numbers, times, ids.
    Variable,
}

/// Most tokens of a line; the rest is one variable.
pub(super) const TOKENS_MAX: usize = 96;
/// Most bytes of a line that are looked at; the rest is one variable.
const BYTES_MAX: usize = 1024;
/// Longer words are taken for encoded data.
const WORD_BYTES_MAX: usize = 64;
/// Words of a letter and up to two more characters keep their digits: `v1`, `p99`, `s3`.
const NAME_BYTES_MAX: usize = 3;

/// Fields of JSON lines that hold the text for people, as in Loki.
const MESSAGE_KEYS: [&str; 5] = ["\"message\"", "\"msg\"", "\"msg_\"", "\"_msg\"", "\"content\""];

/// Splits lines; keeps its buffer.
#[derive(Debug)]
pub(super) struct Tokens {
    tokens: Vec<Token>,
    message_keys: Vec<memmem::Finder<'static>>,
}

impl Default for Tokens {
    fn default() -> Self {
        let message_keys = MESSAGE_KEYS.iter().map(memmem::Finder::new).collect();
        Self { tokens: Vec::with_capacity(TOKENS_MAX + 4), message_keys }
    }
}

impl Tokens {
    /// The tokens of a line that is not empty.
    pub(super) fn split(&mut self, line: &[u8]) -> &[Token] {
        self.tokens.clear();
        match self.message(line) {
            Some((key, text, text_end)) => {
                self.push(0, key, Kind::Variable);
                self.push(key, text, Kind::Gap);
                self.scan(line, text, text_end);
                self.push(text_end, text_end + 1, Kind::Gap);
                self.push(text_end + 1, line.len(), Kind::Variable);
            }
            None => self.scan(line, 0, line.len()),
        }
        &self.tokens
    }

    /// Where the key of a JSON line's text for people begins, where the text begins, and where it ends.
    fn message(&self, line: &[u8]) -> Option<(usize, usize, usize)> {
        if line.first() != Some(&b'{') {
            return None;
        }
        let looked_at = &line[..line.len().min(4 * BYTES_MAX)];
        self.message_keys.iter().find_map(|finder| {
            let key = finder.find(looked_at)?;
            let mut at = key + finder.needle().len();
            at += blanks(&line[at..]);
            (line.get(at) == Some(&b':')).then_some(())?;
            at += 1 + blanks(&line[at + 1..]);
            (line.get(at) == Some(&b'"')).then_some(())?;
            let text = at + 1;
            let mut end = text;
            loop {
                end += memchr::memchr2(b'"', b'\\', line.get(end..)?)?;
                if line[end] == b'"' {
                    return Some((key, text, end));
                }
                end += 2;
            }
        })
    }

    /// Adds the tokens of `line[at..end]`.
    fn scan(&mut self, line: &[u8], mut at: usize, end: usize) {
        let start = at;
        while at < end {
            if self.tokens.len() >= TOKENS_MAX || at - start >= BYTES_MAX || line[at] == b'\n' {
                return self.push(at, end, Kind::Variable);
            }
            let placeholder = placeholder_len(&line[at..end]);
            if placeholder > 0 {
                self.push(at, at + placeholder, Kind::Variable);
                at += placeholder;
                continue;
            }
            let class = CLASSES[usize::from(line[at])];
            let mut digits = class & DIGIT;
            let mut to = at + 1;
            while to < end && CLASSES[usize::from(line[to])] & GAP == class & GAP {
                let b = line[to];
                if b == b'\n' || b == b'<' && placeholder_len(&line[to..end]) > 0 {
                    break;
                }
                digits |= CLASSES[usize::from(b)] & DIGIT;
                to += 1;
            }
            let kind = match class & GAP != 0 {
                true => Kind::Gap,
                false if to - at > WORD_BYTES_MAX => Kind::Variable,
                false if digits == 0 => Kind::Word,
                false if to - at <= NAME_BYTES_MAX && line[at].is_ascii_alphabetic() => Kind::Word,
                false => Kind::Variable,
            };
            self.push(at, to, kind);
            at = to;
        }
    }

    /// Adds a token. Variables one behind the other are one.
    fn push(&mut self, start: usize, end: usize, kind: Kind) {
        if start == end {
            return;
        }
        let token = Token { start: start as u32, end: end as u32, kind };
        if kind == Kind::Variable
            && let Some(last) = self.tokens.last_mut()
            && last.kind == Kind::Variable
        {
            last.end = token.end;
            return;
        }
        self.tokens.push(token);
    }
}

/// A hash of what two lines of one template have in common: equal for lines that differ in variables only.
pub(super) fn shape(line: &[u8], tokens: &[Token]) -> u64 {
    let mut hasher = FxHasher::default();
    // Zeros at the beginning would leave no trace in this hasher.
    hasher.write_u32(tokens.len() as u32 + 1);
    for token in tokens {
        match token.kind {
            Kind::Variable => hasher.write_u8(0xff),
            _ => hasher.write(&line[token.start as usize..token.end as usize]),
        }
    }
    hasher.finish()
}

fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| **b == b' ').count()
}

/// The length of a `<name>` at the beginning: in a pattern it would be read as a placeholder.
fn placeholder_len(bytes: &[u8]) -> usize {
    let Some(b'<') = bytes.first() else { return 0 };
    let name = bytes[1..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let is_name = name > 0 && !bytes[1].is_ascii_digit() && bytes.get(name + 1) == Some(&b'>');
    if is_name { name + 2 } else { 0 }
}

const GAP: u8 = 1;
const DIGIT: u8 = 2;

/// Whether a byte is part of a gap or a digit. Whatever stands inside of names, numbers and addresses is part of a word,
/// and so is all of UTF-8 beyond ASCII: tokens end at characters.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut b = 0;
    while b < 128 {
        let byte = b as u8;
        if byte.is_ascii_digit() {
            classes[b] = DIGIT;
        }
        if byte <= b' ' || byte == 127 {
            classes[b] = GAP;
        }
        b += 1;
    }
    let gaps = b"\"'`\\()[]{}<>=,;:/|?&!";
    let mut i = 0;
    while i < gaps.len() {
        classes[gaps[i] as usize] = GAP;
        i += 1;
    }
    classes
};
