//! Line filters lowered to what storage understands.

use std::sync::Arc;

use regex_syntax::hir::{Hir, HirKind};
use skald_model::LineFilter;
use skald_model::line_filter::{CustomFilter, LineRegex, Needle};
use skald_model::regex::{Mode, Regex};

use super::ip::IpMatcher;
use super::pattern::Pattern;
use crate::ast::{self, LineOp, LineOperand};
use crate::syntax::text::to_bytes;

/// Alternatives of literals beyond which a regular expression is left to its own engine.
const MAX_LITERALS: usize = 8;
/// Shorter literals exclude too little to be looked for.
const MIN_REQUIRED_BYTES: usize = 2;

/// Lowers a filter to conditions that must all hold; the error has Loki's words.
pub(crate) fn lower(filter: &ast::LineFilter) -> Result<Vec<LineFilter>, String> {
    let negative = filter.op.is_negative();
    let mut out = vec![];
    for operand in &filter.alternatives {
        out.extend(match (operand, filter.op) {
            (LineOperand::Ip(pattern), _) => {
                vec![custom(LineCondition::Ip(IpMatcher::new(pattern)?), negative)]
            }
            (LineOperand::Text(text), LineOp::Contains | LineOp::NotContains) => {
                vec![literal(&to_bytes(text), negative)]
            }
            (LineOperand::Text(text), LineOp::Matches | LineOp::NotMatches) => regex(text, negative)?,
            (LineOperand::Text(text), LineOp::Pattern | LineOp::NotPattern) => {
                let pattern = Pattern::filter(text)?;
                let alone = filter.alternatives.len() == 1;
                // A single pattern's literals are conditions that storage can prune by.
                let mut all: Vec<LineFilter> = if alone && !negative {
                    pattern.literals().map(|l| literal(l, false)).collect()
                } else {
                    vec![]
                };
                all.push(custom(LineCondition::Pattern(pattern), negative));
                all
            }
        });
    }
    // One of the alternatives must match; of a negative filter none may, so that each is a condition of its own.
    if negative || filter.alternatives.len() == 1 {
        return Ok(out);
    }
    Ok(vec![LineFilter::Any(out)])
}

fn literal(bytes: &[u8], negative: bool) -> LineFilter {
    let needle = Needle::new(bytes);
    if negative { LineFilter::NotContains(needle) } else { LineFilter::Contains(needle) }
}

fn custom(condition: LineCondition, negative: bool) -> LineFilter {
    LineFilter::Custom(Arc::new(Custom { condition, negative }))
}

/// A condition that storage cannot look into.
#[derive(Debug)]
struct Custom {
    condition: LineCondition,
    negative: bool,
}

#[derive(Debug)]
enum LineCondition {
    Ip(IpMatcher),
    Pattern(Pattern),
}

impl CustomFilter for Custom {
    fn matches(&self, line: &[u8]) -> bool {
        self.negative
            != match &self.condition {
                LineCondition::Ip(ip) => ip.find(line),
                LineCondition::Pattern(pattern) => pattern.matches(line),
            }
    }
}

/// Lowers a regular expression: one that is only literals becomes a substring search, any other carries the literals
/// that its matches contain.
fn regex(text: &str, negative: bool) -> Result<Vec<LineFilter>, String> {
    let regex = Regex::new(text, Mode::Search)?;
    let hir = regex_syntax::ParserBuilder::new().utf8(false).build().parse(regex.translated()).ok();
    let hir = hir.as_ref().map(trim);
    if let Some(literals) = hir.as_ref().and_then(literals) {
        let mut needles: Vec<LineFilter> = literals.iter().map(|l| literal(l, negative)).collect();
        return Ok(match needles.len() {
            1 => needles,
            _ if negative => needles,
            0 => vec![],
            _ => vec![LineFilter::Any(std::mem::take(&mut needles))],
        });
    }
    let (mut required, mut small): (Clauses, Clauses) = (vec![], vec![]);
    if let Some(hir) = &hir {
        clauses(hir, &mut required);
        if folds_case(hir) {
            folded_clauses(hir, &mut small);
        }
    }
    let required = required.iter().map(|c| c.iter().map(|l| Needle::new(l)).collect()).collect();
    let folded = small.into_iter().map(|c| c.into_iter().map(Vec::into_boxed_slice).collect()).collect();
    let regex = LineRegex { regex, required, folded };
    Ok(vec![if negative { LineFilter::NotMatches(regex) } else { LineFilter::Matches(regex) }])
}

/// Without what may match nothing at either end: `.*abc.*` is found where `abc` is.
fn trim(hir: &Hir) -> Hir {
    fn optional(h: &Hir) -> bool {
        matches!(h.kind(), HirKind::Repetition(r) if r.min == 0) || matches!(h.kind(), HirKind::Empty)
    }
    match hir.kind() {
        HirKind::Repetition(r) if r.min == 0 => Hir::empty(),
        HirKind::Capture(c) => trim(&c.sub),
        HirKind::Concat(parts) => {
            let start = parts.iter().position(|p| !optional(p)).unwrap_or(parts.len());
            let end = parts.iter().rposition(|p| !optional(p)).map_or(start, |p| p + 1);
            Hir::concat(parts[start..end].to_vec())
        }
        _ => hir.clone(),
    }
}

/// The literals that the expression is an alternation of, if it is nothing else.
fn literals(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let out = match hir.kind() {
        HirKind::Empty => vec![vec![]],
        HirKind::Literal(l) => vec![l.0.to_vec()],
        HirKind::Capture(c) => literals(&c.sub)?,
        HirKind::Alternation(parts) => {
            let mut out = vec![];
            for part in parts {
                out.extend(literals(part)?);
            }
            out
        }
        HirKind::Class(class) => class.literal().map(|l| vec![l]).or_else(|| small_class(hir))?,
        HirKind::Concat(parts) => {
            let mut out: Vec<Vec<u8>> = vec![vec![]];
            for part in parts {
                let tails = literals(part)?;
                if out.len() * tails.len() > MAX_LITERALS {
                    return None;
                }
                out = out.iter().flat_map(|h| tails.iter().map(move |t| [&h[..], t].concat())).collect();
            }
            out
        }
        HirKind::Look(_) | HirKind::Repetition(_) => return None,
    };
    (out.len() <= MAX_LITERALS).then_some(out)
}

/// The few characters of a class such as `[78]`, each as a literal. Not those of a folded letter: the engine searches
/// for all spellings at once, which is faster than one search for each.
fn small_class(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else { return None };
    let mut out = vec![];
    for range in class.ranges() {
        for c in range.start()..=range.end() {
            if c.is_alphabetic() {
                return None;
            }
            out.push(c.to_string().into_bytes());
            // More would make too many alternatives of a longer literal.
            if out.len() > 4 {
                return None;
            }
        }
    }
    Some(out)
}

/// Of each of these one literal occurs in every match.
type Clauses = Vec<Vec<Vec<u8>>>;

/// Adds clauses of literals: of each clause one occurs in every match. Literals are case-sensitive bytes; letters that
/// the expression folds are classes and end a literal.
fn clauses(hir: &Hir, out: &mut Clauses) {
    match hir.kind() {
        HirKind::Literal(l) => add(vec![l.0.to_vec()], out),
        HirKind::Capture(c) => clauses(&c.sub, out),
        HirKind::Repetition(r) if r.min > 0 => clauses(&r.sub, out),
        HirKind::Alternation(parts) => {
            // The best clause of each alternative makes one of the whole.
            let mut union = vec![];
            for part in parts {
                let mut own = vec![];
                clauses(part, &mut own);
                match own.into_iter().max_by_key(|c| c.iter().map(Vec::len).min()) {
                    Some(clause) => union.extend(clause),
                    None => return,
                }
            }
            add(union, out);
        }
        HirKind::Concat(parts) => {
            // Neighbours that are literals or small sets of them join.
            let mut run: Vec<Vec<u8>> = vec![vec![]];
            for part in parts {
                let next = literals(part).filter(|l| l.len() * run.len() <= 8);
                match next {
                    Some(tails) => {
                        run = run
                            .iter()
                            .flat_map(|h| tails.iter().map(move |t| [&h[..], t].concat()))
                            .collect();
                    }
                    None => {
                        add(std::mem::replace(&mut run, vec![vec![]]), out);
                        clauses(part, out);
                    }
                }
            }
            add(run, out);
        }
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) => {}
    }
}

fn add(clause: Vec<Vec<u8>>, out: &mut Clauses) {
    if clause.len() <= 2 * MAX_LITERALS && clause.iter().all(|l| l.len() >= MIN_REQUIRED_BYTES) {
        out.push(clause);
    }
}

/// Whether the expression has a letter of either case.
fn folds_case(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(_) => folded_letter(hir).is_some(),
        HirKind::Capture(c) => folds_case(&c.sub),
        HirKind::Repetition(r) => folds_case(&r.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(folds_case),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) => false,
    }
}

/// The small letter of a class of one ASCII letter in either case. Not of those that other characters fold to (the
/// Kelvin sign to k, the long s to s), as these would have to be looked for, too.
fn folded_letter(hir: &Hir) -> Option<u8> {
    let HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else { return None };
    let [large, small] = class.ranges() else { return None };
    let single = large.len() == 1 && small.len() == 1;
    let letter = small.start();
    (single && letter.is_ascii_lowercase() && large.start() == letter.to_ascii_uppercase())
        .then_some(letter as u8)
}

/// The text in small letters that the expression is, if it is nothing else.
fn folded_literal(hir: &Hir) -> Option<Vec<u8>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![]),
        HirKind::Literal(l) => Some(l.0.to_ascii_lowercase()),
        HirKind::Class(_) => folded_letter(hir).map(|letter| vec![letter]),
        HirKind::Capture(c) => folded_literal(&c.sub),
        HirKind::Concat(parts) => {
            parts.iter().map(folded_literal).collect::<Option<Vec<_>>>().map(|p| p.concat())
        }
        HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => None,
    }
}

/// Adds clauses of literals in small letters; see [`LineRegex::folded`].
fn folded_clauses(hir: &Hir, out: &mut Clauses) {
    if let Some(literal) = folded_literal(hir) {
        return add(vec![literal], out);
    }
    match hir.kind() {
        HirKind::Capture(c) => folded_clauses(&c.sub, out),
        HirKind::Repetition(r) if r.min > 0 => folded_clauses(&r.sub, out),
        HirKind::Alternation(parts) => {
            let mut union = vec![];
            for part in parts {
                let mut own = vec![];
                folded_clauses(part, &mut own);
                match own.into_iter().max_by_key(|c| c.iter().map(Vec::len).min()) {
                    Some(clause) => union.extend(clause),
                    None => return,
                }
            }
            add(union, out);
        }
        HirKind::Concat(parts) => {
            let mut run = vec![];
            for part in parts {
                match folded_literal(part) {
                    Some(text) => run.extend(text),
                    None => {
                        add(vec![std::mem::take(&mut run)], out);
                        folded_clauses(part, out);
                    }
                }
            }
            add(vec![run], out);
        }
        HirKind::Empty
        | HirKind::Literal(_)
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Repetition(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lowered(text: &str) -> String {
        fn show(f: &LineFilter) -> String {
            let needles = |n: &[Vec<Needle>]| {
                n.iter()
                    .map(|c| {
                        c.iter().map(|n| String::from_utf8_lossy(n.bytes())).collect::<Vec<_>>().join("|")
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            match f {
                LineFilter::Contains(n) => format!("={}", String::from_utf8_lossy(n.bytes())),
                LineFilter::Any(any) => any.iter().map(show).collect::<Vec<_>>().join(" or "),
                LineFilter::Matches(r) => format!("~ {}", needles(&r.required)),
                other => format!("{other:?}"),
            }
        }
        regex(text, false).unwrap().iter().map(show).collect::<Vec<_>>().join(" and ")
    }

    #[test]
    fn literals_are_found_inside_expressions() {
        for (text, want) in [
            ("error", "=error"),
            (".*error.*", "=error"),
            ("", "="),
            ("error|warn", "=error or =warn"),
            ("stage [78]", "=stage 7 or =stage 8"),
            (r"task [0-9]+\.0 in stage", "~ task  .0 in stage"),
            (
                "(Executor|TaskSetManager): (Lost|Exception)",
                "=Executor: Lost or =Executor: Exception or =TaskSetManager: Lost or =TaskSetManager: Exception",
            ),
            ("(?i)error", "~ "),
            ("first.*last", "~ first last"),
            ("a+bcd", "~ bcd"),
            ("^abc$", "~ abc"),
            (r"took \d{4}ms", "~ took  ms"),
        ] {
            assert_eq!(lowered(text), want, "{text}");
        }
    }

    #[test]
    fn literals_are_found_without_regard_to_case() {
        let folded = |text: &str| {
            let LineFilter::Matches(r) = &regex(text, false).unwrap()[0] else { panic!("no expression") };
            let clause = |c: &Vec<Box<[u8]>>| {
                c.iter().map(|l| String::from_utf8_lossy(l)).collect::<Vec<_>>().join("|")
            };
            r.folded.iter().map(clause).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(folded("(?i)Error"), "error");
        assert_eq!(folded("(?i)error=TIMEOUT [0-9]+ end"), "error=timeout   end");
        assert_eq!(folded("(?i)(panic|fatal): x"), "panic|fatal : x");
        assert_eq!(folded("(?i)a disk read"), "a di  read", "other characters fold to s and k");
        assert_eq!(folded("(?i)error|[0-9]"), "");
        assert_eq!(folded("Error[0-9]+"), "", "nothing is folded");
    }

    proptest! {
        #[test]
        fn what_a_folding_expression_requires_is_in_every_match(
            pattern in "(ab|Bc|(ab|cde)|[abB]|1|k?|a+|(s|x)y| ){1,5}",
            line in "[abcdeABCDEksKSſ\u{212a}xyXY1 ]{0,16}",
        ) {
            for f in regex(&format!("(?i){pattern}"), false).unwrap() {
                let LineFilter::Matches(r) = &f else { continue };
                if f.matches(line.as_bytes()) {
                    let small = line.to_ascii_lowercase();
                    for clause in &r.folded {
                        let one = clause.iter().any(|l| memchr::memmem::find(small.as_bytes(), l).is_some());
                        prop_assert!(one, "{clause:?}");
                    }
                }
            }
        }

        #[test]
        fn what_an_expression_requires_is_in_every_match(
            pattern in "(a|b|ab|[ab]|a\\.|(a|bb)|a+|b*|\\.|(ab|ba)c|\\^|[.]){1,5}",
            line in "[abc.\n]{0,12}",
        ) {
            let plain = Regex::new(&pattern, Mode::Search).unwrap();
            let lowered = regex(&pattern, false).unwrap();
            let matches = lowered.iter().all(|f| f.matches(line.as_bytes()));
            prop_assert_eq!(plain.is_match(line.as_bytes()), matches);
            if matches {
                for f in &lowered {
                    if let LineFilter::Matches(r) = f {
                        for clause in &r.required {
                            prop_assert!(clause.iter().any(|n| n.finder().find(line.as_bytes()).is_some()));
                        }
                    }
                }
            }
        }
    }
}
