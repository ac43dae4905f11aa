//! Label matchers and selectors.

use std::fmt;

use crate::labels::{LabelsRef, write_go_quoted};
use crate::regex::{Mode, Regex};

/// The four operators of a label matcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
}

impl MatchOp {
    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Match => "=~",
            MatchOp::NotMatch => "!~",
        }
    }
}

/// One label matcher. A label that is not there has the empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// Label name.
    pub name: Box<str>,
    /// Operator.
    pub op: MatchOp,
    /// Value or expression as written.
    pub value: Box<str>,
    regex: Option<Regex>,
}

impl Matcher {
    /// A matcher; fails with the regex engine's reason if `value` is not a valid expression.
    pub fn new(name: &str, op: MatchOp, value: &str) -> Result<Self, String> {
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Match | MatchOp::NotMatch => Some(Regex::new(value, Mode::Anchored)?),
        };
        Ok(Self { name: name.into(), op, value: value.into(), regex })
    }

    /// Whether a label with `value` passes; `""` stands for a missing label.
    pub fn matches(&self, value: &str) -> bool {
        match (&self.regex, self.op) {
            (Some(r), MatchOp::Match) => r.is_match(value.as_bytes()),
            (Some(r), _) => !r.is_match(value.as_bytes()),
            (None, MatchOp::Equal) => value == &*self.value,
            (None, _) => value != &*self.value,
        }
    }

    /// Whether a stream without the label passes.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.op.as_str())?;
        write_go_quoted(f, &self.value)
    }
}

/// Matchers that must all pass. The empty selector passes every stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The matchers in the order they were written.
    pub matchers: Vec<Matcher>,
}

impl Selector {
    /// Whether a stream with `labels` passes.
    pub fn matches(&self, labels: LabelsRef<'_>) -> bool {
        self.matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, m) in self.matchers.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            m.fmt(f)?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;

    #[track_caller]
    fn check(op: MatchOp, pattern: &str, value: &str, passes: bool) {
        let m = Matcher::new("a", op, pattern).unwrap();
        assert_eq!(m.matches(value), passes, "{m} on {value:?}");
    }

    #[test]
    fn four_operators() {
        check(MatchOp::Equal, "x", "x", true);
        check(MatchOp::Equal, "", "", true);
        check(MatchOp::NotEqual, "x", "", true);
        check(MatchOp::Match, "x|y", "xy", false);
        check(MatchOp::Match, "new.line", "new\nline", true);
        check(MatchOp::Match, "(?i)X", "x", true);
        check(MatchOp::NotMatch, "x.*", "xyz", false);
        check(MatchOp::NotMatch, ".+", "", true);
    }

    #[test]
    fn a_missing_label_is_empty() {
        let s = Selector { matchers: vec![Matcher::new("b", MatchOp::Equal, "").unwrap()] };
        assert!(s.matches(Labels::from_pairs([("a", "1")]).as_ref()));
        assert!(!s.matches(Labels::from_pairs([("b", "1")]).as_ref()));
    }
}
