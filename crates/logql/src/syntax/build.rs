//! From productions to the tree.
//!
//! Errors of meaning (a wrong operand, an invalid expression) are kept until the whole text is known to be well
//! formed; then the first one is reported.

use skald_model::regex::{Mode, Regex};
use skald_model::{MatchOp, Matcher, Selector};

use super::MAX_DEPTH;
use super::grammar::{Grammar, Make};
use super::lex::{Lexeme, Value};
use crate::ast::*;
use crate::error::ParseError;
use crate::metric::fold_literals;
use crate::units;

/// What stands on the parser's stack.
enum Node {
    Nothing,
    /// A keyword, operator, identifier, number or flag: how errors call it, and its text.
    Word(&'static str, String),
    Text(String),
    Duration(i64),
    Bytes(u64),
    List(Vec<Node>),
    Expr(Expr),
    Log(LogExpr),
    Selector(Selector),
    Matcher(Matcher),
    Stage(Stage),
    LineFilter(LineFilter),
    LineOperand(LineOperand),
    Extraction(Extraction),
    LabelFilter(LabelFilter),
    LabelFormat(LabelFormat),
    Pick(LabelPick),
    Unwrap(Unwrap),
    Offset(i64),
    Range(LogRange),
    Grouping(Grouping),
    Modifier(bool, Matching),
    Literal(f64),
}

struct LogRange {
    log: LogExpr,
    unwrap: Option<Unwrap>,
    interval: i64,
    offset: i64,
}

/// The parser's stack of values.
pub(super) struct Builder<'a> {
    grammar: &'a Grammar,
    /// Round byte sizes as Loki does.
    rounds_bytes: bool,
    stack: Vec<(Node, u32)>,
    error: Option<ParseError>,
}

/// The parts of a production, taken from the left.
struct Parts(std::vec::IntoIter<Node>);

const SHAPE: &str = "the grammar gives this part";

impl Parts {
    fn next_where<T>(&mut self, pick: impl Fn(Node) -> Option<T>) -> Option<T> {
        self.0.find_map(pick)
    }
    /// The next identifier, string or number.
    fn text(&mut self) -> Option<String> {
        self.next_where(|n| match n {
            Node::Text(t) => Some(t),
            Node::Word("IDENTIFIER" | "NUMBER", t) => Some(t),
            _ => None,
        })
    }
    fn word(&mut self) -> (&'static str, String) {
        self.next_where(|n| if let Node::Word(name, text) = n { Some((name, text)) } else { None })
            .expect(SHAPE)
    }
    fn list(&mut self) -> Vec<Node> {
        self.next_where(|n| if let Node::List(list) = n { Some(list) } else { None }).unwrap_or_default()
    }
    fn metric(&mut self) -> MetricExpr {
        self.next_where(|n| match n {
            Node::Expr(Expr::Metric(m)) => Some(m),
            Node::Literal(v) => Some(MetricExpr::Literal(v)),
            _ => None,
        })
        .expect(SHAPE)
    }
    fn label_filter(&mut self) -> LabelFilter {
        self.next_where(|n| match n {
            Node::LabelFilter(f) => Some(f),
            Node::Matcher(m) => Some(LabelFilter::Text(m)),
            _ => None,
        })
        .expect(SHAPE)
    }
}

fn texts(nodes: Vec<Node>) -> Vec<String> {
    nodes.into_iter().filter_map(|n| if let Node::Word(_, t) = n { Some(t) } else { None }).collect()
}

impl<'a> Builder<'a> {
    pub(super) fn new(grammar: &'a Grammar, rounds_bytes: bool) -> Self {
        Self { grammar, rounds_bytes, stack: Vec::new(), error: None }
    }

    pub(super) fn shift(&mut self, lexeme: Lexeme<'_>) {
        let node = match lexeme.value {
            Value::Text(text) => Node::Word(self.grammar.name(lexeme.token), text.to_owned()),
            Value::String(text) => Node::Text(text),
            Value::Duration(nanos) => Node::Duration(nanos),
            // Loki's frontend prints the query and its queriers parse it again; printing rounds byte sizes, so that
            // `77GiB` means 83 GB there.
            Value::Bytes(bytes) if self.rounds_bytes => {
                Node::Bytes(units::parse_bytes(&units::format_bytes(bytes)).unwrap_or(bytes))
            }
            Value::Bytes(bytes) => Node::Bytes(bytes),
        };
        self.stack.push((node, 0));
    }

    pub(super) fn finish(mut self) -> Result<Expr, ParseError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.stack.pop() {
            Some((Node::Expr(expr), _)) => Ok(expr),
            Some((Node::Literal(v), _)) => Ok(Expr::Metric(MetricExpr::Literal(v))),
            _ => Err(ParseError::whole("syntax error: unexpected $end")),
        }
    }

    pub(super) fn reduce(&mut self, rule: u16, len: usize) -> Result<(), ParseError> {
        let make = self.grammar.makes[rule as usize];
        let parts = self.stack.split_off(self.stack.len() - len);
        let deeper = matches!(
            make,
            Make::Binary | Make::VectorAggregation | Make::LabelReplace | Make::LabelAnd | Make::LabelOr
        );
        let depth = parts.iter().map(|(_, d)| *d).max().unwrap_or(0) + u32::from(deeper);
        if depth > MAX_DEPTH {
            return Err(ParseError::whole(format!("the query is nested too deeply (limit {MAX_DEPTH})")));
        }
        let parts: Vec<Node> = parts.into_iter().map(|(n, _)| n).collect();
        let node = self.make(make, parts);
        self.stack.push((node, depth));
        Ok(())
    }

    /// Keeps the first error of meaning.
    fn fail(&mut self, message: impl Into<String>) {
        self.error.get_or_insert(ParseError::whole(message));
    }

    fn make(&mut self, make: Make, nodes: Vec<Node>) -> Node {
        if let Make::Pass = make {
            return pass(nodes);
        }
        if let Make::List = make {
            return list(nodes);
        }
        if let Make::LogRange | Make::LogQuery | Make::TrailingRange = make {
            return log(make, nodes);
        }
        let mut parts = Parts(nodes.into_iter());
        match make {
            Make::Pass
            | Make::List
            | Make::LogRange
            | Make::LogQuery
            | Make::TrailingRange
            | Make::Nothing => Node::Nothing,
            Make::Selector => {
                let of = |n| if let Node::Matcher(m) = n { Some(m) } else { None };
                Node::Selector(Selector { matchers: parts.list().into_iter().filter_map(of).collect() })
            }
            Make::Matcher => self.matcher(parts),
            Make::LineFilter | Make::LineOr | Make::LineOperand => line_filter(make, parts),
            Make::Parser => self.parser(parts),
            Make::Extraction => {
                let name = parts.text().expect(SHAPE);
                let expression = parts.text();
                let bare = expression.is_none();
                Node::Extraction(Extraction {
                    expression: expression.unwrap_or_else(|| name.clone()),
                    name,
                    bare,
                })
            }
            Make::LabelComparison => label_comparison(parts),
            Make::LabelAnd => {
                Node::LabelFilter(LabelFilter::And(parts.label_filter().into(), parts.label_filter().into()))
            }
            Make::LabelOr => {
                Node::LabelFilter(LabelFilter::Or(parts.label_filter().into(), parts.label_filter().into()))
            }
            Make::LineFormat => Node::Stage(Stage::LineFormat(parts.text().expect(SHAPE))),
            Make::Decolorize => Node::Stage(Stage::Decolorize),
            Make::LabelFormats => {
                let of = |n| if let Node::LabelFormat(f) = n { Some(f) } else { None };
                Node::Stage(Stage::LabelFormat(parts.list().into_iter().filter_map(of).collect()))
            }
            Make::LabelFormat => label_format(parts),
            Make::Pick => Node::Pick(match parts.0.next() {
                Some(Node::Matcher(m)) => LabelPick::Matcher(m),
                Some(Node::Word(_, name)) => LabelPick::Name(name),
                _ => LabelPick::Name(String::new()),
            }),
            Make::Drop | Make::Keep => {
                let of = |n| if let Node::Pick(p) = n { Some(p) } else { None };
                let picks = parts.list().into_iter().filter_map(of).collect();
                Node::Stage(if make == Make::Drop { Stage::Drop(picks) } else { Stage::Keep(picks) })
            }
            Make::Unwrap => unwrap(parts),
            Make::UnwrapFilter => {
                let mut unwrap =
                    parts.next_where(|n| if let Node::Unwrap(u) = n { Some(u) } else { None }).expect(SHAPE);
                unwrap.filters.push(parts.label_filter());
                Node::Unwrap(unwrap)
            }
            Make::Offset => Node::Offset(
                parts.next_where(|n| if let Node::Duration(d) = n { Some(d) } else { None }).expect(SHAPE),
            ),
            Make::RangeAggregation => self.range_aggregation(parts),
            Make::VectorAggregation => self.vector_aggregation(parts),
            Make::Binary => self.binary(parts),
            Make::Literal => self.literal(parts),
            Make::LabelReplace => self.label_replace(parts),
            Make::Vector => {
                let text = parts.0.find_map(|n| match n {
                    Node::Word("NUMBER", t) => Some(t),
                    _ => None,
                });
                Node::Expr(Expr::Metric(MetricExpr::VectorOf(self.number(&text.expect(SHAPE)))))
            }
            Make::Grouping => {
                let (keyword, _) = parts.word();
                Node::Grouping(Grouping { without: keyword == "without", labels: texts(parts.list()) })
            }
            Make::Modifier => modifier(parts),
        }
    }

    fn number(&mut self, text: &str) -> f64 {
        units::parse_go_float(text).unwrap_or_else(|e| {
            self.fail(format!("unable to parse literal as a float: {e}"));
            0.0
        })
    }

    fn literal(&mut self, mut parts: Parts) -> Node {
        let (name, text) = parts.word();
        Node::Literal(match name {
            "NUMBER" => self.number(&text),
            sign => {
                let (_, text) = parts.word();
                let value = self.number(&text);
                if sign == "-" { -value } else { value }
            }
        })
    }

    fn matcher(&mut self, mut parts: Parts) -> Node {
        let (_, name) = parts.word();
        let op = match parts.word().0 {
            "=" => MatchOp::Equal,
            "!=" => MatchOp::NotEqual,
            "=~" => MatchOp::Match,
            _ => MatchOp::NotMatch,
        };
        let value = parts.text().expect(SHAPE);
        Node::Matcher(Matcher::new(&name, op, &value).unwrap_or_else(|e| {
            self.fail(e);
            Matcher::new(&name, MatchOp::Equal, &value).expect("equality has no expression to fail")
        }))
    }

    fn parser(&mut self, mut parts: Parts) -> Node {
        let (name, _) = parts.word();
        let extractions = |nodes: Vec<Node>| -> Vec<Extraction> {
            nodes
                .into_iter()
                .filter_map(|n| if let Node::Extraction(e) = n { Some(e) } else { None })
                .collect()
        };
        Node::Stage(match name {
            "json" => Stage::Json(extractions(parts.list())),
            "unpack" => Stage::Unpack,
            "logfmt" => {
                let (mut strict, mut keep_empty) = (false, false);
                let mut found = vec![];
                for node in parts.0.by_ref() {
                    let Node::List(list) = node else { continue };
                    if let Some(Node::Word(..)) = list.first() {
                        let flags = texts(list);
                        strict = flags.iter().any(|f| f == "--strict");
                        keep_empty = flags.iter().any(|f| f == "--keep-empty");
                    } else {
                        found = extractions(list);
                    }
                }
                Stage::Logfmt { strict, keep_empty, extractions: found }
            }
            "regexp" => {
                let text = parts.text().expect(SHAPE);
                if let Err(e) = crate::pipeline::check_regexp(&text) {
                    self.fail(format!("invalid regexp parser: {e}"));
                }
                Stage::Regexp(text)
            }
            _ => {
                let text = parts.text().expect(SHAPE);
                if let Err(e) = crate::pipeline::check_pattern(&text) {
                    self.fail(format!("invalid pattern parser: {e}"));
                }
                Stage::Pattern(text)
            }
        })
    }

    fn range_aggregation(&mut self, mut parts: Parts) -> Node {
        let op = match parts.word().0 {
            "RATE" => RangeOp::Rate,
            "RATE_COUNTER" => RangeOp::RateCounter,
            "COUNT_OVER_TIME" => RangeOp::Count,
            "BYTES_RATE" => RangeOp::BytesRate,
            "BYTES_OVER_TIME" => RangeOp::Bytes,
            "AVG_OVER_TIME" => RangeOp::Avg,
            "SUM_OVER_TIME" => RangeOp::Sum,
            "MIN_OVER_TIME" => RangeOp::Min,
            "MAX_OVER_TIME" => RangeOp::Max,
            "STDVAR_OVER_TIME" => RangeOp::Stdvar,
            "STDDEV_OVER_TIME" => RangeOp::Stddev,
            "QUANTILE_OVER_TIME" => RangeOp::Quantile,
            "FIRST_OVER_TIME" => RangeOp::First,
            "LAST_OVER_TIME" => RangeOp::Last,
            _ => RangeOp::Absent,
        };
        let (mut parameter, mut range, mut grouping) = (None, None, None);
        for node in parts.0 {
            match node {
                Node::Word("NUMBER", text) => parameter = Some(text),
                Node::Range(r) => range = Some(r),
                Node::Grouping(g) => grouping = Some(g),
                _ => {}
            }
        }
        let LogRange { log, unwrap, interval, offset } = range.expect(SHAPE);
        let name = op.as_str();
        let quantile = op == RangeOp::Quantile;
        let groupable = matches!(
            op,
            RangeOp::Avg
                | RangeOp::Stddev
                | RangeOp::Stdvar
                | RangeOp::Quantile
                | RangeOp::Max
                | RangeOp::Min
                | RangeOp::First
                | RangeOp::Last
        );
        let of_lines = matches!(
            op,
            RangeOp::Bytes | RangeOp::BytesRate | RangeOp::Count | RangeOp::Rate | RangeOp::Absent
        );
        let of_values = !matches!(op, RangeOp::Bytes | RangeOp::BytesRate | RangeOp::Count);
        match &parameter {
            Some(text) if !quantile => {
                self.fail(format!("parameter {text} not supported for operation {name}"));
            }
            None if quantile => self.fail(format!("parameter required for operation {name}")),
            _ if grouping.is_some() && !groupable => {
                self.fail(format!("grouping not allowed for {name} aggregation"));
            }
            _ if unwrap.is_some() && !of_values => {
                self.fail(format!("invalid aggregation {name} with unwrap"))
            }
            _ if unwrap.is_none() && !of_lines => {
                self.fail(format!("invalid aggregation {name} without unwrap"))
            }
            _ => {}
        }
        let parameter = parameter.map(|text| {
            units::parse_go_float(&text).unwrap_or_else(|e| {
                self.fail(format!("invalid parameter for operation {name}: {e}"));
                0.0
            })
        });
        let range = RangeAggregation { op, parameter, log, unwrap, interval, offset, grouping };
        Node::Expr(Expr::Metric(MetricExpr::Range(range.into())))
    }

    fn vector_aggregation(&mut self, mut parts: Parts) -> Node {
        let op = match parts.word().0 {
            "SUM" => VectorOp::Sum,
            "AVG" => VectorOp::Avg,
            "MAX" => VectorOp::Max,
            "MIN" => VectorOp::Min,
            "COUNT" => VectorOp::Count,
            "STDDEV" => VectorOp::Stddev,
            "STDVAR" => VectorOp::Stdvar,
            "BOTTOMK" => VectorOp::Bottomk,
            "TOPK" => VectorOp::Topk,
            "APPROX_TOPK" => VectorOp::ApproxTopk,
            "SORT" => VectorOp::Sort,
            _ => VectorOp::SortDesc,
        };
        let (mut parameter, mut of, mut grouping) = (None, None, None);
        for node in parts.0 {
            match node {
                Node::Word("NUMBER", text) => parameter = Some(text),
                Node::Expr(Expr::Metric(m)) => of = Some(m),
                Node::Literal(v) => of = Some(MetricExpr::Literal(v)),
                Node::Grouping(g) => grouping = Some(g),
                _ => {}
            }
        }
        let name = op.as_str();
        let mut count = None;
        if matches!(op, VectorOp::Topk | VectorOp::Bottomk | VectorOp::ApproxTopk) {
            match parameter.as_ref().map(|t| (t, t.parse::<i64>())) {
                None => self.fail(format!("parameter required for operation {name}")),
                Some((text, Err(_))) => self.fail(format!("invalid parameter {name}({text},")),
                Some((text, Ok(k))) if k <= 0 => {
                    self.fail(format!("invalid parameter (must be greater than 0) {name}({text}"));
                }
                Some((_, Ok(k))) => count = Some(k),
            }
            if op == VectorOp::ApproxTopk && grouping.is_some() {
                self.fail(format!("grouping not allowed for {name} aggregation"));
            }
        } else if let Some(text) = parameter {
            self.fail(format!("unsupported parameter for operation {name}({text},"));
        }
        let vector = VectorAggregation { op, parameter: count, of: of.expect(SHAPE), grouping };
        Node::Expr(Expr::Metric(MetricExpr::Vector(vector.into())))
    }

    fn binary(&mut self, parts: Parts) -> Node {
        let (mut op, mut modifier, mut sides) = (None, None, vec![]);
        for node in parts.0 {
            match node {
                Node::Word(name, _) => op = Some(name),
                Node::Modifier(returns_bool, matching) => modifier = Some((returns_bool, matching)),
                Node::Expr(e) => sides.push(e),
                Node::Literal(v) => sides.push(Expr::Metric(MetricExpr::Literal(v))),
                _ => {}
            }
        }
        let name = op.expect(SHAPE);
        let op = binary_op(name);
        let (right, left) = (sides.pop().expect(SHAPE), sides.pop().expect(SHAPE));
        let mut side = |expr: Expr, which: &str| match expr {
            Expr::Metric(MetricExpr::Literal(v)) if op.is_set() => {
                self.fail(format!(
                    "unexpected literal for {which} leg of logical/set binary operation ({name}): {v:.6}"
                ));
                MetricExpr::Literal(v)
            }
            Expr::Metric(m) => m,
            Expr::Log(log) => {
                let kind = if log.stages.is_empty() { "MatchersExpr" } else { "PipelineExpr" };
                self.fail(format!(
                    "unexpected type for {which} leg of binary operation ({name}): *syntax.{kind}"
                ));
                MetricExpr::Literal(0.0)
            }
        };
        let (left, right) = (side(left, "left"), side(right, "right"));
        if let (MetricExpr::Literal(a), MetricExpr::Literal(b)) = (&left, &right) {
            return Node::Literal(fold_literals(op, *a, *b));
        }
        let (returns_bool, matching) = modifier.unwrap_or_default();
        let binary = Binary { op, returns_bool, matching, left, right };
        Node::Expr(Expr::Metric(MetricExpr::Binary(binary.into())))
    }

    fn label_replace(&mut self, mut parts: Parts) -> Node {
        let of = parts.metric();
        let mut text = || parts.text().expect(SHAPE);
        let (destination, replacement, source, expression) = (text(), text(), text(), text());
        let regex = Regex::new(&expression, Mode::Anchored).unwrap_or_else(|e| {
            // Loki compiles the expression with its anchors, and its error shows them.
            let shown = Regex::new(&format!("^(?:{expression})$"), Mode::Search).err().unwrap_or(e);
            self.fail(format!("invalid regex in label_replace: {shown}"));
            Regex::new("", Mode::Anchored).expect("the empty expression is valid")
        });
        let replace = LabelReplace { of, destination, replacement, source, expression, regex };
        Node::Expr(Expr::Metric(MetricExpr::LabelReplace(replace.into())))
    }
}

/// The part of a production that carries something: an operator or word only if there is nothing else.
fn pass(nodes: Vec<Node>) -> Node {
    let mut word = Node::Nothing;
    for node in nodes {
        match node {
            Node::Nothing => {}
            Node::Word(..) => word = node,
            node => return node,
        }
    }
    word
}

fn list(nodes: Vec<Node>) -> Node {
    let mut nodes = nodes.into_iter();
    match (nodes.next(), nodes.next_back()) {
        // `items , item` and `items item`
        (Some(Node::List(mut items)), Some(item)) => {
            items.push(item);
            Node::List(items)
        }
        (Some(item), _) => Node::List(vec![item]),
        _ => Node::List(vec![]),
    }
}

/// Selector, pipeline, unwrap, range and offset in any order that the grammar allows.
fn log(make: Make, nodes: Vec<Node>) -> Node {
    let mut log = LogExpr { selector: Selector::default(), stages: vec![], range: None };
    let (mut unwrap, mut interval, mut offset) = (None, None, 0);
    for node in nodes {
        match node {
            Node::Log(l) => log = l,
            Node::Selector(s) => log.selector = s,
            Node::List(items) => log.stages = stages(items),
            Node::Unwrap(u) => unwrap = Some(u),
            Node::Duration(d) => interval = Some(d),
            Node::Offset(o) => offset = o,
            _ => {}
        }
    }
    match (make, interval) {
        (Make::LogQuery, _) => Node::Expr(Expr::Log(log)),
        (Make::TrailingRange, range) => Node::Expr(Expr::Log(LogExpr { range, ..log })),
        (_, Some(interval)) => Node::Range(LogRange { log, unwrap, interval, offset }),
        _ => Node::Log(log),
    }
}

fn stages(nodes: Vec<Node>) -> Vec<Stage> {
    let mut out = vec![];
    for node in nodes {
        match node {
            Node::Stage(s) => out.push(s),
            Node::LabelFilter(f) => out.push(Stage::LabelFilter(f)),
            Node::Matcher(m) => out.push(Stage::LabelFilter(LabelFilter::Text(m))),
            Node::LineFilter(f) => out.push(Stage::LineFilter(f)),
            Node::List(list) => out.extend(stages(list)),
            _ => {}
        }
    }
    out
}

fn line_filter(make: Make, mut parts: Parts) -> Node {
    let operands = |nodes: Vec<Node>| {
        nodes.into_iter().filter_map(|n| if let Node::LineOperand(o) = n { Some(o) } else { None })
    };
    match make {
        Make::LineOperand => match parts.0.next() {
            Some(Node::Text(text)) => Node::LineOperand(LineOperand::Text(text)),
            _ => Node::LineOperand(LineOperand::Ip(parts.text().expect(SHAPE))),
        },
        Make::LineFilter => {
            let op = match parts.word().0 {
                "|=" => LineOp::Contains,
                "!=" => LineOp::NotContains,
                "|~" => LineOp::Matches,
                "!~" => LineOp::NotMatches,
                "|>" => LineOp::Pattern,
                _ => LineOp::NotPattern,
            };
            Node::LineFilter(LineFilter { op, alternatives: operands(parts.0.collect()).collect() })
        }
        _ => {
            let mut filter =
                parts.next_where(|n| if let Node::LineFilter(f) = n { Some(f) } else { None }).expect(SHAPE);
            filter.alternatives.extend(operands(parts.0.collect()));
            Node::LineFilter(filter)
        }
    }
}

fn label_comparison(mut parts: Parts) -> Node {
    let (_, name) = parts.word();
    let (operator, _) = parts.word();
    let comparison = match operator {
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        "!=" => Comparison::NotEqual,
        _ => Comparison::Equal,
    };
    let filter = parts.next_where(|n| match n {
        Node::Literal(v) => Some(LabelFilter::Number(name.clone(), comparison, v)),
        Node::Duration(d) => Some(LabelFilter::Duration(name.clone(), comparison, d)),
        Node::Bytes(b) => Some(LabelFilter::Bytes(name.clone(), comparison, b)),
        Node::Text(pattern) => {
            Some(LabelFilter::Ip { name: name.clone(), negative: operator == "!=", pattern })
        }
        _ => None,
    });
    Node::LabelFilter(filter.expect(SHAPE))
}

fn label_format(mut parts: Parts) -> Node {
    let (_, name) = parts.word();
    let value = parts.next_where(|n| match n {
        Node::Text(t) => Some(LabelFormatValue::Template(t)),
        Node::Word("IDENTIFIER", source) => Some(LabelFormatValue::Rename(source)),
        _ => None,
    });
    Node::LabelFormat(LabelFormat { name, value: value.expect(SHAPE) })
}

fn unwrap(parts: Parts) -> Node {
    let mut conversion = Conversion::Number;
    let mut label = String::new();
    for node in parts.0 {
        match node {
            Node::Word("BYTES_CONV", _) => conversion = Conversion::Bytes,
            Node::Word("DURATION_CONV", _) => conversion = Conversion::Duration,
            Node::Word("DURATION_SECONDS_CONV", _) => conversion = Conversion::DurationSeconds,
            Node::Word("IDENTIFIER", name) => label = name,
            _ => {}
        }
    }
    Node::Unwrap(Unwrap { label, conversion, filters: vec![] })
}

fn modifier(parts: Parts) -> Node {
    let (mut returns_bool, mut matching) = (false, Matching::default());
    let mut grouped = false;
    for node in parts.0 {
        match node {
            Node::Modifier(b, m) => (returns_bool, matching) = (b, m),
            Node::Word("bool", _) => returns_bool = true,
            Node::Word(word @ ("on" | "ignoring"), _) => {
                matching.explicit = true;
                matching.on = word == "on";
            }
            Node::Word(word @ ("group_left" | "group_right"), _) => {
                grouped = true;
                matching.cardinality =
                    if word == "group_left" { Cardinality::ManyToOne } else { Cardinality::OneToMany };
            }
            Node::List(labels) if grouped => matching.include = texts(labels),
            Node::List(labels) => matching.labels = texts(labels),
            _ => {}
        }
    }
    Node::Modifier(returns_bool, matching)
}

fn binary_op(name: &str) -> BinaryOp {
    match name {
        "or" => BinaryOp::Or,
        "and" => BinaryOp::And,
        "unless" => BinaryOp::Unless,
        "+" => BinaryOp::Add,
        "-" => BinaryOp::Sub,
        "*" => BinaryOp::Mul,
        "/" => BinaryOp::Div,
        "%" => BinaryOp::Mod,
        "^" => BinaryOp::Pow,
        "==" => BinaryOp::Equal,
        "!=" => BinaryOp::NotEqual,
        ">" => BinaryOp::Greater,
        ">=" => BinaryOp::GreaterOrEqual,
        "<" => BinaryOp::Less,
        _ => BinaryOp::LessOrEqual,
    }
}
