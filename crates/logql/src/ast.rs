//! The tree of a query.

use skald_model::{Matcher, Selector};

/// A whole query.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Gives entries.
    Log(LogExpr),
    /// Gives numbers.
    Metric(MetricExpr),
}

/// A selector with the stages that its entries run through.
#[derive(Clone, Debug, PartialEq)]
pub struct LogExpr {
    /// Which streams.
    pub selector: Selector,
    /// What happens to each entry, in order.
    pub stages: Vec<Stage>,
    /// A trailing `[range]` in nanoseconds: only the last part before the end. Not part of Loki's language.
    pub range: Option<i64>,
}

/// One stage of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// `|= "a" or "b"` and its relatives.
    LineFilter(LineFilter),
    /// `| json`, with the labels to extract if it names some.
    Json(Vec<Extraction>),
    /// `| logfmt`.
    Logfmt {
        /// `--strict`: malformed pairs are errors.
        strict: bool,
        /// `--keep-empty`: keys without a value are kept.
        keep_empty: bool,
        /// The labels to extract; empty for all.
        extractions: Vec<Extraction>,
    },
    /// `| regexp "…"`.
    Regexp(String),
    /// `| pattern "…"`.
    Pattern(String),
    /// `| unpack`.
    Unpack,
    /// `| level="error" and …`.
    LabelFilter(LabelFilter),
    /// `| line_format "…"`.
    LineFormat(String),
    /// `| label_format a=b, c="…"`.
    LabelFormat(Vec<LabelFormat>),
    /// `| decolorize`.
    Decolorize,
    /// `| drop a, b="x"`.
    Drop(Vec<LabelPick>),
    /// `| keep a, b="x"`.
    Keep(Vec<LabelPick>),
}

/// The operators of line filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineOp {
    /// `|=`
    Contains,
    /// `!=`
    NotContains,
    /// `|~`
    Matches,
    /// `!~`
    NotMatches,
    /// `|>`
    Pattern,
    /// `!>`
    NotPattern,
}

impl LineOp {
    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            LineOp::Contains => "|=",
            LineOp::NotContains => "!=",
            LineOp::Matches => "|~",
            LineOp::NotMatches => "!~",
            LineOp::Pattern => "|>",
            LineOp::NotPattern => "!>",
        }
    }
    /// Whether lines that match are dropped.
    pub fn is_negative(self) -> bool {
        matches!(self, LineOp::NotContains | LineOp::NotMatches | LineOp::NotPattern)
    }
}

/// A line filter with its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct LineFilter {
    /// Operator.
    pub op: LineOp,
    /// What to look for; one of them, or none of them for a negative operator. Never empty.
    pub alternatives: Vec<LineOperand>,
}

/// What a line filter looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOperand {
    /// A text, expression or pattern; see [`crate::syntax::text`] for bytes that are not UTF-8.
    Text(String),
    /// `ip("…")`.
    Ip(String),
}

/// `name="expression"` of a `json` or `logfmt` stage; a bare `name` has itself as its expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extraction {
    /// The label to make.
    pub name: String,
    /// Where to find its value.
    pub expression: String,
    /// Whether the expression was left out.
    pub bare: bool,
}

/// One assignment of `label_format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFormat {
    /// The label to set.
    pub name: String,
    /// What to.
    pub value: LabelFormatValue,
}

/// The right side of a `label_format` assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelFormatValue {
    /// Takes the value of this label and removes it.
    Rename(String),
    /// A template.
    Template(String),
}

/// What `drop` and `keep` name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelPick {
    /// Every label of this name.
    Name(String),
    /// The label, if its value passes.
    Matcher(Matcher),
}

/// Comparisons of label filters with numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=` or `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

impl Comparison {
    /// The operator as Loki prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Comparison::Equal => "==",
            Comparison::NotEqual => "!=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
        }
    }
    /// Applies it.
    pub fn compare<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Comparison::Equal => a == b,
            Comparison::NotEqual => a != b,
            Comparison::Greater => a > b,
            Comparison::GreaterOrEqual => a >= b,
            Comparison::Less => a < b,
            Comparison::LessOrEqual => a <= b,
        }
    }
}

/// A condition on labels.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelFilter {
    /// `level=~"err.*"`
    Text(Matcher),
    /// `status >= 500`
    Number(String, Comparison, f64),
    /// `latency > 250ms`, in nanoseconds.
    Duration(String, Comparison, i64),
    /// `size > 5MB`, in bytes.
    Bytes(String, Comparison, u64),
    /// `addr = ip("10.0.0.0/8")`
    Ip {
        /// Label name.
        name: String,
        /// `!=` instead of `=`.
        negative: bool,
        /// Address, range or network.
        pattern: String,
    },
    /// Both.
    And(Box<LabelFilter>, Box<LabelFilter>),
    /// Either.
    Or(Box<LabelFilter>, Box<LabelFilter>),
}

/// `| unwrap …` with the filters that follow it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unwrap {
    /// The label whose value is the sample.
    pub label: String,
    /// How to read it.
    pub conversion: Conversion,
    /// Filters on the labels after unwrapping.
    pub filters: Vec<LabelFilter>,
}

/// How `unwrap` reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// As a number.
    Number,
    /// `duration()`: as a duration, in seconds.
    Duration,
    /// `duration_seconds()`: the same.
    DurationSeconds,
    /// `bytes()`: as a byte size.
    Bytes,
}

/// A query that gives numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricExpr {
    /// `rate({…}[5m])`
    Range(Box<RangeAggregation>),
    /// `sum by (a) (…)`
    Vector(Box<VectorAggregation>),
    /// `a + b`
    Binary(Box<Binary>),
    /// `5`
    Literal(f64),
    /// `label_replace(…)`
    LabelReplace(Box<LabelReplace>),
    /// `vector(5)`
    VectorOf(f64),
}

/// Aggregations over the entries of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as in LogQL")]
pub enum RangeOp {
    Rate,
    RateCounter,
    Count,
    BytesRate,
    Bytes,
    Avg,
    Sum,
    Min,
    Max,
    Stdvar,
    Stddev,
    Quantile,
    First,
    Last,
    Absent,
}

impl RangeOp {
    /// The name as written.
    pub fn as_str(self) -> &'static str {
        match self {
            RangeOp::Rate => "rate",
            RangeOp::RateCounter => "rate_counter",
            RangeOp::Count => "count_over_time",
            RangeOp::BytesRate => "bytes_rate",
            RangeOp::Bytes => "bytes_over_time",
            RangeOp::Avg => "avg_over_time",
            RangeOp::Sum => "sum_over_time",
            RangeOp::Min => "min_over_time",
            RangeOp::Max => "max_over_time",
            RangeOp::Stdvar => "stdvar_over_time",
            RangeOp::Stddev => "stddev_over_time",
            RangeOp::Quantile => "quantile_over_time",
            RangeOp::First => "first_over_time",
            RangeOp::Last => "last_over_time",
            RangeOp::Absent => "absent_over_time",
        }
    }
}

/// An aggregation over the entries of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeAggregation {
    /// Which.
    pub op: RangeOp,
    /// The quantile.
    pub parameter: Option<f64>,
    /// The entries.
    pub log: LogExpr,
    /// What to take as the sample, if not the entry itself.
    pub unwrap: Option<Unwrap>,
    /// Length of the range in nanoseconds.
    pub interval: i64,
    /// How far back the range is shifted, in nanoseconds; may be negative.
    pub offset: i64,
    /// Labels of the result.
    pub grouping: Option<Grouping>,
}

/// `by (…)` or `without (…)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// `without` instead of `by`.
    pub without: bool,
    /// Label names as written.
    pub labels: Vec<String>,
}

/// Aggregations over series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as in LogQL")]
pub enum VectorOp {
    Sum,
    Avg,
    Max,
    Min,
    Count,
    Stddev,
    Stdvar,
    Bottomk,
    Topk,
    ApproxTopk,
    Sort,
    SortDesc,
}

impl VectorOp {
    /// The name as written.
    pub fn as_str(self) -> &'static str {
        match self {
            VectorOp::Sum => "sum",
            VectorOp::Avg => "avg",
            VectorOp::Max => "max",
            VectorOp::Min => "min",
            VectorOp::Count => "count",
            VectorOp::Stddev => "stddev",
            VectorOp::Stdvar => "stdvar",
            VectorOp::Bottomk => "bottomk",
            VectorOp::Topk => "topk",
            VectorOp::ApproxTopk => "approx_topk",
            VectorOp::Sort => "sort",
            VectorOp::SortDesc => "sort_desc",
        }
    }
}

/// An aggregation over series.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorAggregation {
    /// Which.
    pub op: VectorOp,
    /// How many, for topk and its relatives.
    pub parameter: Option<i64>,
    /// The series.
    pub of: MetricExpr,
    /// Labels of the result.
    pub grouping: Option<Grouping>,
}

/// Binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as in LogQL")]
pub enum BinaryOp {
    Or,
    And,
    Unless,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl BinaryOp {
    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Or => "or",
            BinaryOp::And => "and",
            BinaryOp::Unless => "unless",
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterOrEqual => ">=",
            BinaryOp::Less => "<",
            BinaryOp::LessOrEqual => "<=",
        }
    }
    /// Whether it works on sets of series.
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::Or | BinaryOp::And | BinaryOp::Unless)
    }
    /// Whether it compares.
    pub fn is_comparison(self) -> bool {
        !self.is_set()
            && !matches!(
                self,
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Pow
            )
    }
}

/// Which side of a binary operation may have several series for one of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    /// Neither.
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
}

/// How the series of both sides are matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// `on` or `ignoring` was given.
    pub explicit: bool,
    /// `on` instead of `ignoring`.
    pub on: bool,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// `group_left` and `group_right`.
    pub cardinality: Cardinality,
    /// Labels to take over from the "one" side.
    pub include: Vec<String>,
}

impl Default for Matching {
    fn default() -> Self {
        Self {
            explicit: false,
            on: false,
            labels: vec![],
            cardinality: Cardinality::OneToOne,
            include: vec![],
        }
    }
}

/// A binary operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// Operator.
    pub op: BinaryOp,
    /// `bool`: comparisons give 0 and 1 instead of filtering.
    pub returns_bool: bool,
    /// Matching of series.
    pub matching: Matching,
    /// Left side.
    pub left: MetricExpr,
    /// Right side.
    pub right: MetricExpr,
}

/// `label_replace(of, destination, replacement, source, expression)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelReplace {
    /// The series.
    pub of: MetricExpr,
    /// The label to set.
    pub destination: String,
    /// What to, with `$1` for groups.
    pub replacement: String,
    /// The label to match.
    pub source: String,
    /// The expression, anchored.
    pub expression: String,
    /// It again, compiled.
    pub regex: skald_model::regex::Regex,
}
