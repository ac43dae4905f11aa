//! Regular expressions of label filters that Loki replaces by comparisons of texts.
//!
//! Loki does it with the code that it has for line filters, where nothing is anchored. So `=~ "err.*"` passes every
//! value that *contains* `err`, although `=~ "err[a-z]*"` has to match the whole value, and alternatives that begin
//! alike (`warn|write`, which its parser reads as `w(arn|rite)`) are looked for anywhere too. Answers depend on it, so
//! it is done here in the same way: see the conformance case `label-filters-075`.

use regex_syntax::ast::{self, Ast, GroupKind, RepetitionKind};

/// Alternatives of which one must hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reduced(Vec<Condition>);

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Always,
    NotEmpty,
    Equals(String),
    Contains(String),
}

/// An expression as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Empty,
    Literal(String),
    AnyStar,
    AnyPlus,
    Concat(Vec<Part>),
    Alternate(Vec<Part>),
    Other,
}

impl Reduced {
    /// What Loki makes of an expression, if it replaces it.
    pub(crate) fn of(expression: &str) -> Option<Self> {
        // Only plain text, `.`, `*`, `+`, `|` and groups can be replaced, and they mean the same in either syntax.
        if expression.contains("(?") || expression.contains('\\') {
            return None;
        }
        let ast = ast::parse::Parser::new().parse(expression).ok()?;
        reduce(&part(&ast)).map(Self)
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        self.0.iter().any(|c| match c {
            Condition::Always => true,
            Condition::NotEmpty => !value.is_empty(),
            Condition::Equals(text) => value == text,
            Condition::Contains(text) => value.contains(text.as_str()),
        })
    }
}

fn part(ast: &Ast) -> Part {
    match ast {
        Ast::Empty(_) => Part::Empty,
        Ast::Literal(l) => Part::Literal(l.c.to_string()),
        Ast::Group(g) => match &g.kind {
            GroupKind::CaptureIndex(_) => part(&g.ast),
            _ => Part::Other,
        },
        Ast::Repetition(r) if matches!(*r.ast, Ast::Dot(_)) && r.greedy => match r.op.kind {
            RepetitionKind::ZeroOrMore => Part::AnyStar,
            RepetitionKind::OneOrMore => Part::AnyPlus,
            _ => Part::Other,
        },
        Ast::Concat(c) => {
            let mut parts: Vec<Part> = vec![];
            for p in c.asts.iter().map(part) {
                match (parts.last_mut(), p) {
                    (Some(Part::Literal(a)), Part::Literal(b)) => a.push_str(&b),
                    (_, Part::Concat(inner)) => parts.extend(inner),
                    (_, p) => parts.push(p),
                }
            }
            if parts.len() == 1 { parts.remove(0) } else { Part::Concat(parts) }
        }
        Ast::Alternation(a) => alternate(a.asts.iter().map(part).collect()),
        _ => Part::Other,
    }
}

/// The text that an alternative begins with.
fn leading(part: &Part) -> &str {
    match part {
        Part::Literal(text) => text,
        Part::Concat(parts) => parts.first().map_or("", |p| if let Part::Literal(t) = p { t } else { "" }),
        _ => "",
    }
}

fn without_leading(part: Part, len: usize) -> Part {
    match part {
        Part::Literal(text) if text.len() == len => Part::Empty,
        Part::Literal(text) => Part::Literal(text[len..].to_owned()),
        Part::Concat(mut parts) => {
            match without_leading(parts.remove(0), len) {
                Part::Empty => {}
                first => parts.insert(0, first),
            }
            if parts.len() == 1 { parts.remove(0) } else { Part::Concat(parts) }
        }
        other => other,
    }
}

fn common_len(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((i, _), _)| i)
}

/// Alternatives as Go's parser leaves them: neighbours that begin alike share their beginning, and neighbours of one
/// character become a class.
fn alternate(parts: Vec<Part>) -> Part {
    let mut out: Vec<Part> = vec![];
    let mut run: Vec<Part> = vec![];
    let mut shared = 0;
    let close = |run: &mut Vec<Part>, shared: usize, out: &mut Vec<Part>| match run.len() {
        0 => {}
        1 => out.extend(run.pop()),
        _ => {
            let prefix = leading(&run[0])[..shared].to_owned();
            let tails = run.drain(..).map(|p| without_leading(p, shared)).collect();
            out.push(Part::Concat(vec![Part::Literal(prefix), alternate(tails)]));
        }
    };
    for p in parts {
        let common = match run.first() {
            None => leading(&p).len(),
            Some(first) => common_len(&leading(first)[..shared], leading(&p)),
        };
        if run.is_empty() || common == 0 {
            close(&mut run, shared, &mut out);
            shared = leading(&p).len();
        } else {
            shared = common;
        }
        run.push(p);
    }
    close(&mut run, shared, &mut out);
    let single = |p: &Part| matches!(p, Part::Literal(t) if t.chars().count() == 1);
    if out.windows(2).any(|w| single(&w[0]) && single(&w[1])) {
        return Part::Other;
    }
    out.dedup_by(|a, b| matches!((a, b), (Part::Empty, Part::Empty)));
    if out.len() == 1 { out.remove(0) } else { Part::Alternate(out) }
}

fn reduce(part: &Part) -> Option<Vec<Condition>> {
    Some(match part {
        Part::Empty | Part::AnyStar => vec![Condition::Always],
        Part::AnyPlus => vec![Condition::NotEmpty],
        Part::Literal(text) => vec![Condition::Equals(text.clone())],
        Part::Alternate(parts) => {
            let mut out = vec![];
            for p in parts {
                out.extend(reduce(p)?);
            }
            out
        }
        Part::Concat(parts) => concat(parts, "")?,
        Part::Other => return None,
    })
}

/// A literal with `.*` around it, or before alternatives.
fn concat(parts: &[Part], base: &str) -> Option<Vec<Condition>> {
    let parts: Vec<&Part> = parts.iter().filter(|p| **p != Part::Empty).collect();
    if parts.len() > 3 {
        return None;
    }
    let mut literal: Option<String> = (!base.is_empty()).then(|| base.to_owned());
    let mut own = false;
    let mut found: Option<Vec<Condition>> = None;
    for p in parts {
        match p {
            Part::Literal(_) if own => return None,
            Part::Literal(text) => {
                own = true;
                literal.get_or_insert_default().push_str(text);
            }
            Part::Alternate(tails) if literal.is_some() => {
                let literal = literal.as_deref().unwrap_or_default();
                let found = found.get_or_insert_default();
                for tail in tails {
                    match tail {
                        Part::Empty | Part::AnyStar => found.push(Condition::Contains(literal.to_owned())),
                        Part::Literal(text) => found.push(Condition::Contains(format!("{literal}{text}"))),
                        Part::Concat(parts) => found.extend(concat(parts, literal)?),
                        _ => return None,
                    }
                }
            }
            Part::AnyStar => {}
            _ => return None,
        }
    }
    found.or_else(|| literal.map(|l| vec![Condition::Contains(l)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, value: &str, want: Option<bool>) {
        assert_eq!(Reduced::of(expression).map(|r| r.matches(value)), want, "{expression} on {value}");
    }

    #[test]
    fn reduces_what_loki_reduces() {
        check("0.*", "9018", Some(true));
        check("err.*|warn", "stderr", Some(true));
        check("err.*|warn", "warning", Some(false));
        check("warn|error", "error", Some(true));
        check("warn|error", "errors", Some(false));
        check("warn|write", "unwarned", Some(true));
        check(".*a.*", "bab", Some(true));
        check(".*", "", Some(true));
        check(".+", "", Some(false));
        check("a[0-9]", "a1", None);
        check("a|b", "a", None);
        check("a.*b", "ab", None);
        check(r"a\.b", "a.b", None);
        check("(s|w).*", "x", None);
    }
}
