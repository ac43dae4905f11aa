//! The `pattern` stage and the pattern filters `|>` and `!>`.

use memchr::memmem;

/// A compiled pattern: captures between literals.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
    /// Names of the captures in order; `_` ones are not stored.
    names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(Vec<u8>),
    /// A capture; the number of its name, if it has one.
    Capture(Option<usize>),
}

/// Splits a pattern into literals and captures (`None` for `<_>`).
fn split(text: &str) -> Vec<(Option<String>, Vec<u8>)> {
    // Each element: a capture's name with its brackets cut, or a literal.
    let mut out: Vec<(Option<String>, Vec<u8>)> = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(name) = capture_name(rest) {
            if !literal.is_empty() {
                out.push((None, std::mem::take(&mut literal)));
            }
            out.push((Some(name.to_owned()), vec![]));
            rest = &rest[name.len() + 2..];
            continue;
        }
        let c = rest.chars().next().map_or(1, char::len_utf8);
        literal.extend_from_slice(&crate::syntax::text::to_bytes(&rest[..c]));
        rest = &rest[c..];
    }
    if !literal.is_empty() {
        out.push((None, literal));
    }
    out
}

/// The name of the capture that `text` begins with.
fn capture_name(text: &str) -> Option<&str> {
    let body = text.strip_prefix('<')?;
    let len = body.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    let valid = len > 0 && !body.starts_with(|c: char| c.is_ascii_digit()) && body[len..].starts_with('>');
    valid.then(|| &body[..len])
}

impl Pattern {
    /// Compiles the pattern of a `pattern` stage.
    pub(crate) fn parser(text: &str) -> Result<Self, String> {
        let pattern = Self::compile(text)?;
        if pattern.names.is_empty() {
            return Err("at least one capture is required".into());
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(name) = pattern.names.iter().find(|n| !seen.insert(n.as_str())) {
            return Err(format!("duplicate capture name ({name}): invalid expression"));
        }
        Ok(pattern)
    }

    /// Compiles the pattern of a line filter.
    pub(crate) fn filter(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self { parts: vec![], names: vec![] });
        }
        let pattern = Self::compile(text)?;
        match pattern.names.first() {
            Some(name) => Err(format!("named captures are not allowed: found '<{name}>'")),
            None => Ok(pattern),
        }
    }

    fn compile(text: &str) -> Result<Self, String> {
        let pieces = split(text);
        if pieces.is_empty() {
            return Err(
                "parse error at line 1, col 1: syntax error: unexpected $end, expecting IDENTIFIER or LITERAL".into()
            );
        }
        for pair in pieces.windows(2) {
            if let [(Some(a), _), (Some(b), _)] = pair {
                return Err(format!("found consecutive capture '<{a}><{b}>': invalid expression"));
            }
        }
        let mut names = vec![];
        let parts = pieces
            .into_iter()
            .map(|(capture, literal)| match capture {
                None => Part::Literal(literal),
                Some(name) if name == "_" => Part::Capture(None),
                Some(name) => {
                    names.push(name);
                    Part::Capture(Some(names.len() - 1))
                }
            })
            .collect();
        Ok(Self { parts, names })
    }

    /// Names of the captures.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Calls `found` with the number and value of each capture in turn until the line stops to match or `found`
    /// returns false.
    pub(crate) fn captures<'l>(&self, line: &'l [u8], mut found: impl FnMut(usize, &'l [u8]) -> bool) {
        let mut rest = line;
        let mut parts = self.parts.iter().peekable();
        // The first literal must stand at the beginning.
        if let Some(Part::Literal(l)) = parts.peek() {
            match rest.strip_prefix(&l[..]) {
                Some(after) => rest = after,
                None => return,
            }
            parts.next();
        }
        while let Some(part) = parts.next() {
            let Part::Capture(name) = part else { continue };
            let value = match parts.next() {
                Some(Part::Literal(l)) => match memmem::find(rest, l) {
                    Some(at) => {
                        let value = &rest[..at];
                        rest = &rest[at + l.len()..];
                        value
                    }
                    // What is left belongs to the capture, and nothing is left for the others.
                    None => {
                        let value = std::mem::take(&mut rest);
                        if let Some(name) = name {
                            found(*name, value);
                        }
                        return;
                    }
                },
                _ => std::mem::take(&mut rest),
            };
            if let Some(name) = name
                && !found(*name, value)
            {
                return;
            }
        }
    }

    /// Whether the whole line has this form; a capture stands for at least one byte.
    pub(crate) fn matches(&self, line: &[u8]) -> bool {
        let mut rest = line;
        let mut open = false;
        for (i, part) in self.parts.iter().enumerate() {
            match part {
                Part::Capture(_) => open = true,
                Part::Literal(l) if !open => match rest.strip_prefix(&l[..]) {
                    Some(after) => rest = after,
                    None => return false,
                },
                Part::Literal(l) => {
                    if i + 1 == self.parts.len() {
                        return rest.len() > l.len() && rest.ends_with(l);
                    }
                    // The capture takes at least one byte.
                    match rest.get(1..).and_then(|r| memmem::find(r, l)) {
                        Some(at) => rest = &rest[1 + at + l.len()..],
                        None => return false,
                    }
                    open = false;
                }
            }
        }
        if open { !rest.is_empty() } else { rest.is_empty() }
    }

    /// The literals of the pattern, all of which a matching line contains.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter_map(|p| if let Part::Literal(l) = p { Some(&l[..]) } else { None })
    }
}
