//! LogQL as text: lexer, grammar, parser and printer.

mod build;
mod grammar;
mod lalr;
mod lex;
mod print;
pub mod text;

pub use print::{canonical, format_query};

use skald_model::Selector;

use crate::ast::{Expr, LogExpr, MetricExpr};
use crate::error::ParseError;
use grammar::Grammar;
use lalr::Action;

/// The longest query in bytes.
pub const MAX_INPUT_BYTES: usize = 131_072;
/// The deepest nesting of a query's tree; parentheses that change nothing do not count.
pub const MAX_DEPTH: u32 = 600;

/// How to parse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// Refuse what Loki refuses: selectors that match everything, log queries with a trailing range. Byte sizes are
    /// rounded to two or three digits, because Loki does that on the way from its frontend to its queriers.
    pub loki_strict: bool,
}

/// Parses a query with Skald's additions to the language.
pub fn parse(query: &str) -> Result<Expr, ParseError> {
    parse_with(query, ParseOptions::default())
}

/// Parses a query.
pub fn parse_with(query: &str, options: ParseOptions) -> Result<Expr, ParseError> {
    if query.len() > MAX_INPUT_BYTES {
        return Err(ParseError::whole(format!("input size too long ({} > {MAX_INPUT_BYTES})", query.len())));
    }
    let grammar = if options.loki_strict { Grammar::strict() } else { Grammar::extended() };
    let expr = run(grammar, query, options)?;
    check_sorting(&expr)?;
    if options.loki_strict {
        each_selector(&expr, &mut |s| check_selector(s))?;
    }
    Ok(expr)
}

/// Parses a selector as the label and series endpoints take it: matchers only. Strict parsing refuses one that every
/// stream passes, except `{}` itself if `allow_empty`.
pub fn parse_selector(text: &str, options: ParseOptions, allow_empty: bool) -> Result<Selector, ParseError> {
    let relaxed = ParseOptions { loki_strict: false };
    match parse_with(text, relaxed)? {
        Expr::Log(LogExpr { selector, stages, range: None }) if stages.is_empty() => {
            if options.loki_strict && !(allow_empty && selector.matchers.is_empty()) {
                check_selector(&selector)?;
            }
            Ok(selector)
        }
        _ => Err(ParseError::bare("only label matchers are supported")),
    }
}

/// Runs the parser's tables over the text.
fn run(grammar: &Grammar, query: &str, options: ParseOptions) -> Result<Expr, ParseError> {
    let mut lexer = lex::Lexer::new(grammar, query);
    let mut builder = build::Builder::new(grammar, options.loki_strict);
    let mut states: Vec<u16> = vec![0];
    let mut lexeme = lexer.next()?;
    loop {
        let state = states.last().copied().unwrap_or(0);
        match grammar.tables.action(state, lexeme.token) {
            Some(Action::Shift(target)) => {
                states.push(target);
                builder.shift(lexeme);
                lexeme = lexer.next()?;
            }
            Some(Action::Reduce(rule)) => {
                let len = grammar.rules[rule as usize].right.len();
                states.truncate(states.len() - len);
                builder.reduce(rule, len)?;
                let from = states.last().copied().unwrap_or(0);
                states.push(grammar.tables.goto(from, grammar.rules[rule as usize].left));
            }
            Some(Action::Accept) => return builder.finish(),
            Some(Action::Default) | None => {
                let mut message = format!("syntax error: unexpected {}", grammar.name(lexeme.token));
                for (i, token) in grammar.tables.expected(state).into_iter().enumerate() {
                    message.push_str(if i == 0 { ", expecting " } else { " or " });
                    message.push_str(grammar.name(token));
                }
                return Err(ParseError::at(message, lexeme.line, lexeme.column));
            }
        }
    }
}

fn check_selector(selector: &Selector) -> Result<(), ParseError> {
    if selector.matchers.iter().any(|m| !m.matches_empty()) {
        return Ok(());
    }
    Err(ParseError::whole(
        "queries require at least one regexp or equality matcher that does not have an empty-compatible value. For \
         instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will",
    ))
}

/// Calls `f` with every selector of a query.
pub fn each_selector<E>(expr: &Expr, f: &mut impl FnMut(&Selector) -> Result<(), E>) -> Result<(), E> {
    match expr {
        Expr::Log(log) => f(&log.selector),
        Expr::Metric(metric) => each_range(metric, &mut |range| f(&range.log.selector)),
    }
}

/// Calls `f` with every range aggregation of a metric query, left before right.
pub fn each_range<'a, E>(
    expr: &'a MetricExpr,
    f: &mut impl FnMut(&'a crate::ast::RangeAggregation) -> Result<(), E>,
) -> Result<(), E> {
    match expr {
        MetricExpr::Range(range) => f(range),
        MetricExpr::Vector(v) => each_range(&v.of, f),
        MetricExpr::Binary(b) => {
            each_range(&b.left, f)?;
            each_range(&b.right, f)
        }
        MetricExpr::LabelReplace(r) => each_range(&r.of, f),
        MetricExpr::Literal(_) | MetricExpr::VectorOf(_) => Ok(()),
    }
}

fn check_sorting(expr: &Expr) -> Result<(), ParseError> {
    fn check(expr: &MetricExpr) -> Result<(), ParseError> {
        use crate::ast::VectorOp;
        match expr {
            MetricExpr::Vector(v) => {
                if matches!(v.op, VectorOp::Sort | VectorOp::SortDesc) && v.grouping.is_some() {
                    return Err(ParseError::whole("sort and sort_desc doesn't allow grouping by"));
                }
                check(&v.of)
            }
            MetricExpr::Binary(b) => check(&b.left).and_then(|()| check(&b.right)),
            MetricExpr::LabelReplace(r) => check(&r.of),
            _ => Ok(()),
        }
    }
    match expr {
        Expr::Log(_) => Ok(()),
        Expr::Metric(metric) => check(metric),
    }
}

#[cfg(test)]
mod tests;
