//! The grammar of LogQL: tokens in the order in which errors list them, and productions.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::lalr::{Precedence, Rule, Symbol, Tables};

/// A terminal.
pub(crate) type Token = Symbol;

/// What to make of a production's parts; see `super::build`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// The first part that carries anything.
    Pass,
    /// A list that is begun or gets one more.
    List,
    Nothing,
    LogQuery,
    TrailingRange,
    Selector,
    Matcher,
    LineFilter,
    LineOr,
    LineOperand,
    Parser,
    Extraction,
    LabelComparison,
    LabelAnd,
    LabelOr,
    LineFormat,
    LabelFormats,
    LabelFormat,
    Decolorize,
    Pick,
    Drop,
    Keep,
    Unwrap,
    UnwrapFilter,
    LogRange,
    RangeAggregation,
    VectorAggregation,
    Binary,
    Literal,
    LabelReplace,
    Vector,
    Grouping,
    Modifier,
    Offset,
}

/// Words that are tokens only where they are called, and how errors name them.
const FUNCTIONS: &[(&str, &str)] = &[
    ("count_over_time", "COUNT_OVER_TIME"),
    ("rate", "RATE"),
    ("rate_counter", "RATE_COUNTER"),
    ("sum", "SUM"),
    ("sort", "SORT"),
    ("sort_desc", "SORT_DESC"),
    ("avg", "AVG"),
    ("max", "MAX"),
    ("min", "MIN"),
    ("count", "COUNT"),
    ("stddev", "STDDEV"),
    ("stdvar", "STDVAR"),
    ("bottomk", "BOTTOMK"),
    ("topk", "TOPK"),
    ("approx_topk", "APPROX_TOPK"),
    ("bytes_over_time", "BYTES_OVER_TIME"),
    ("bytes_rate", "BYTES_RATE"),
    ("bytes", "BYTES_CONV"),
    ("duration", "DURATION_CONV"),
    ("duration_seconds", "DURATION_SECONDS_CONV"),
    ("first_over_time", "FIRST_OVER_TIME"),
    ("last_over_time", "LAST_OVER_TIME"),
    ("absent_over_time", "ABSENT_OVER_TIME"),
    ("avg_over_time", "AVG_OVER_TIME"),
    ("sum_over_time", "SUM_OVER_TIME"),
    ("min_over_time", "MIN_OVER_TIME"),
    ("max_over_time", "MAX_OVER_TIME"),
    ("stdvar_over_time", "STDVAR_OVER_TIME"),
    ("stddev_over_time", "STDDEV_OVER_TIME"),
    ("quantile_over_time", "QUANTILE_OVER_TIME"),
    ("label_replace", "LABEL_REPLACE"),
    ("vector", "VECTOR"),
    ("ip", "ip"),
];

/// All tokens in the order of error texts; words in lower case that are no functions are keywords.
const TOKENS: &str = "$end IDENTIFIER STRING NUMBER FUNCTION_FLAG DURATION RANGE BYTES \
    = =~ !~ !> { } [ ] , . |~ |= |> ( ) by without COUNT_OVER_TIME RATE RATE_COUNTER SUM SORT SORT_DESC AVG MAX MIN \
    COUNT STDDEV STDVAR BOTTOMK TOPK APPROX_TOPK BYTES_OVER_TIME BYTES_RATE bool json regexp logfmt | line_format \
    label_format unwrap AVG_OVER_TIME SUM_OVER_TIME MIN_OVER_TIME MAX_OVER_TIME STDVAR_OVER_TIME STDDEV_OVER_TIME \
    QUANTILE_OVER_TIME BYTES_CONV DURATION_CONV DURATION_SECONDS_CONV FIRST_OVER_TIME LAST_OVER_TIME \
    ABSENT_OVER_TIME VECTOR LABEL_REPLACE unpack offset pattern ip on ignoring group_left group_right decolorize \
    drop keep or and unless == != < <= > >= + - * / % ^";

/// Operators by how tightly they bind; the last is right associative.
const PRECEDENCE: &[&str] = &["or", "and unless", "== != < <= > >=", "+ -", "* / %", "^"];

use Make::*;

/// Left side, alternatives, and what to make of them. `X?` is short for two alternatives.
const RULES: &[(&str, &str, Make)] = &[
    ("Query", "Expr", Pass),
    ("Expr", "Log", LogQuery),
    ("Expr", "Metric", Pass),
    ("Log", "Selector", Pass),
    ("Log", "Selector Pipeline", LogRange),
    ("Log", "( Log )", Pass),
    ("Metric", "RangeAggregation", Pass),
    ("Metric", "VectorAggregation", Pass),
    ("Metric", "Binary", Pass),
    ("Metric", "Literal", Pass),
    ("Metric", "Replaced", Pass),
    ("Metric", "Vector", Pass),
    ("Metric", "( Metric )", Pass),
    // Ranges of entries. The range may come before or after the pipeline.
    ("LogRange", "Selector RANGE Offset?", LogRange),
    ("LogRange", "( Selector ) RANGE Offset?", LogRange),
    ("LogRange", "Selector RANGE Offset? Unwrap", LogRange),
    ("LogRange", "( Selector ) RANGE Offset? Unwrap", LogRange),
    ("LogRange", "Selector Unwrap RANGE Offset?", LogRange),
    ("LogRange", "( Selector Unwrap ) RANGE Offset?", LogRange),
    ("LogRange", "Selector Pipeline RANGE Offset?", LogRange),
    ("LogRange", "( Selector Pipeline ) RANGE Offset?", LogRange),
    ("LogRange", "Selector Pipeline Unwrap RANGE Offset?", LogRange),
    ("LogRange", "( Selector Pipeline Unwrap ) RANGE Offset?", LogRange),
    ("LogRange", "Selector RANGE Offset? Pipeline", LogRange),
    ("LogRange", "Selector RANGE Offset? Pipeline Unwrap", LogRange),
    ("LogRange", "( LogRange )", Pass),
    ("Unwrap", "| unwrap IDENTIFIER", Unwrap),
    ("Unwrap", "| unwrap Conversion ( IDENTIFIER )", Unwrap),
    ("Unwrap", "Unwrap | LabelFilter", UnwrapFilter),
    ("Conversion", "BYTES_CONV", Pass),
    ("Conversion", "DURATION_CONV", Pass),
    ("Conversion", "DURATION_SECONDS_CONV", Pass),
    ("Offset", "offset DURATION", Offset),
    ("RangeAggregation", "RangeOp ( LogRange )", RangeAggregation),
    ("RangeAggregation", "RangeOp ( NUMBER , LogRange )", RangeAggregation),
    ("RangeAggregation", "RangeOp ( LogRange ) Grouping", RangeAggregation),
    ("RangeAggregation", "RangeOp ( NUMBER , LogRange ) Grouping", RangeAggregation),
    ("VectorAggregation", "VectorOp ( Metric )", VectorAggregation),
    ("VectorAggregation", "VectorOp Grouping ( Metric )", VectorAggregation),
    ("VectorAggregation", "VectorOp ( Metric ) Grouping", VectorAggregation),
    ("VectorAggregation", "VectorOp ( NUMBER , Metric )", VectorAggregation),
    ("VectorAggregation", "VectorOp ( NUMBER , Metric ) Grouping", VectorAggregation),
    ("VectorAggregation", "VectorOp Grouping ( NUMBER , Metric )", VectorAggregation),
    ("Replaced", "LABEL_REPLACE ( Metric , STRING , STRING , STRING , STRING )", LabelReplace),
    ("Selector", "{ Matchers }", Selector),
    ("Selector", "{ }", Selector),
    ("Matchers", "Matcher", List),
    ("Matchers", "Matchers , Matcher", List),
    ("Matcher", "IDENTIFIER = STRING", Matcher),
    ("Matcher", "IDENTIFIER != STRING", Matcher),
    ("Matcher", "IDENTIFIER =~ STRING", Matcher),
    ("Matcher", "IDENTIFIER !~ STRING", Matcher),
    ("Pipeline", "Stage", List),
    ("Pipeline", "Pipeline Stage", List),
    ("Stage", "LineFilters", Pass),
    ("Stage", "| Parser", Pass),
    ("Stage", "| Logfmt", Pass),
    ("Stage", "| LabelFilter", Pass),
    ("Stage", "| line_format STRING", LineFormat),
    ("Stage", "| decolorize", Decolorize),
    ("Stage", "| label_format LabelFormats", LabelFormats),
    ("Stage", "| drop Picks", Drop),
    ("Stage", "| keep Picks", Keep),
    // Line filters side by side belong together before anything else, so that `or` continues the last one.
    ("LineFilters", "LineFilter", List),
    ("LineFilters", "LineFilters LineFilter", List),
    ("LineFilter", "LineOp LineOperand", LineFilter),
    ("LineFilter", "LineFilter or LineOperand", LineOr),
    ("LineOperand", "STRING", LineOperand),
    ("LineOperand", "ip ( STRING )", LineOperand),
    ("LineOp", "|~", Pass),
    ("LineOp", "|=", Pass),
    ("LineOp", "|>", Pass),
    ("LineOp", "!~", Pass),
    ("LineOp", "!=", Pass),
    ("LineOp", "!>", Pass),
    ("Parser", "json", Parser),
    ("Parser", "json Extractions", Parser),
    ("Parser", "unpack", Parser),
    ("Parser", "regexp STRING", Parser),
    ("Parser", "pattern STRING", Parser),
    ("Logfmt", "logfmt", Parser),
    ("Logfmt", "logfmt Flags", Parser),
    ("Logfmt", "logfmt Extractions", Parser),
    ("Logfmt", "logfmt Flags Extractions", Parser),
    ("Flags", "FUNCTION_FLAG", List),
    ("Flags", "Flags FUNCTION_FLAG", List),
    ("Extractions", "Extraction", List),
    ("Extractions", "Extractions , Extraction", List),
    ("Extraction", "IDENTIFIER = STRING", Extraction),
    ("Extraction", "IDENTIFIER", Extraction),
    ("LabelFilter", "Matcher", Pass),
    ("LabelFilter", "LabelComparison", Pass),
    ("LabelFilter", "( LabelFilter )", Pass),
    ("LabelFilter", "LabelFilter LabelFilter", LabelAnd),
    ("LabelFilter", "LabelFilter and LabelFilter", LabelAnd),
    ("LabelFilter", "LabelFilter , LabelFilter", LabelAnd),
    ("LabelFilter", "LabelFilter or LabelFilter", LabelOr),
    ("LabelComparison", "IDENTIFIER = ip ( STRING )", LabelComparison),
    ("LabelComparison", "IDENTIFIER != ip ( STRING )", LabelComparison),
    ("LabelComparison", "IDENTIFIER > Quantity", LabelComparison),
    ("LabelComparison", "IDENTIFIER >= Quantity", LabelComparison),
    ("LabelComparison", "IDENTIFIER < Quantity", LabelComparison),
    ("LabelComparison", "IDENTIFIER <= Quantity", LabelComparison),
    ("LabelComparison", "IDENTIFIER != Quantity", LabelComparison),
    ("LabelComparison", "IDENTIFIER = Quantity", LabelComparison),
    ("LabelComparison", "IDENTIFIER == Quantity", LabelComparison),
    ("Quantity", "Literal", Pass),
    ("Quantity", "DURATION", Pass),
    ("Quantity", "BYTES", Pass),
    ("LabelFormats", "LabelFormat", List),
    ("LabelFormats", "LabelFormats , LabelFormat", List),
    ("LabelFormat", "IDENTIFIER = IDENTIFIER", LabelFormat),
    ("LabelFormat", "IDENTIFIER = STRING", LabelFormat),
    ("Picks", "Pick", List),
    ("Picks", "Picks , Pick", List),
    ("Pick", "IDENTIFIER", Pick),
    ("Pick", "Matcher", Pick),
    ("Binary", "Expr or Modifier Expr", Binary),
    ("Binary", "Expr and Modifier Expr", Binary),
    ("Binary", "Expr unless Modifier Expr", Binary),
    ("Binary", "Expr + Modifier Expr", Binary),
    ("Binary", "Expr - Modifier Expr", Binary),
    ("Binary", "Expr * Modifier Expr", Binary),
    ("Binary", "Expr / Modifier Expr", Binary),
    ("Binary", "Expr % Modifier Expr", Binary),
    ("Binary", "Expr ^ Modifier Expr", Binary),
    ("Binary", "Expr == Modifier Expr", Binary),
    ("Binary", "Expr != Modifier Expr", Binary),
    ("Binary", "Expr > Modifier Expr", Binary),
    ("Binary", "Expr >= Modifier Expr", Binary),
    ("Binary", "Expr < Modifier Expr", Binary),
    ("Binary", "Expr <= Modifier Expr", Binary),
    ("Bool", "", Nothing),
    ("Bool", "bool", Modifier),
    ("OnOrIgnoring", "Bool ignoring ( Labels )", Modifier),
    ("OnOrIgnoring", "Bool ignoring ( )", Modifier),
    ("OnOrIgnoring", "Bool on ( Labels )", Modifier),
    ("OnOrIgnoring", "Bool on ( )", Modifier),
    ("Modifier", "Bool", Pass),
    ("Modifier", "OnOrIgnoring", Pass),
    ("Modifier", "OnOrIgnoring group_left", Modifier),
    ("Modifier", "OnOrIgnoring group_left ( )", Modifier),
    ("Modifier", "OnOrIgnoring group_left ( Labels )", Modifier),
    ("Modifier", "OnOrIgnoring group_right", Modifier),
    ("Modifier", "OnOrIgnoring group_right ( )", Modifier),
    ("Modifier", "OnOrIgnoring group_right ( Labels )", Modifier),
    ("Literal", "NUMBER", Literal),
    ("Literal", "+ NUMBER", Literal),
    ("Literal", "- NUMBER", Literal),
    ("Vector", "VECTOR ( NUMBER )", Vector),
    ("VectorOp", "SUM", Pass),
    ("VectorOp", "AVG", Pass),
    ("VectorOp", "COUNT", Pass),
    ("VectorOp", "MAX", Pass),
    ("VectorOp", "MIN", Pass),
    ("VectorOp", "STDDEV", Pass),
    ("VectorOp", "STDVAR", Pass),
    ("VectorOp", "BOTTOMK", Pass),
    ("VectorOp", "TOPK", Pass),
    ("VectorOp", "APPROX_TOPK", Pass),
    ("VectorOp", "SORT", Pass),
    ("VectorOp", "SORT_DESC", Pass),
    ("RangeOp", "COUNT_OVER_TIME", Pass),
    ("RangeOp", "RATE", Pass),
    ("RangeOp", "RATE_COUNTER", Pass),
    ("RangeOp", "BYTES_OVER_TIME", Pass),
    ("RangeOp", "BYTES_RATE", Pass),
    ("RangeOp", "AVG_OVER_TIME", Pass),
    ("RangeOp", "SUM_OVER_TIME", Pass),
    ("RangeOp", "MIN_OVER_TIME", Pass),
    ("RangeOp", "MAX_OVER_TIME", Pass),
    ("RangeOp", "STDVAR_OVER_TIME", Pass),
    ("RangeOp", "STDDEV_OVER_TIME", Pass),
    ("RangeOp", "QUANTILE_OVER_TIME", Pass),
    ("RangeOp", "FIRST_OVER_TIME", Pass),
    ("RangeOp", "LAST_OVER_TIME", Pass),
    ("RangeOp", "ABSENT_OVER_TIME", Pass),
    ("Labels", "IDENTIFIER", List),
    ("Labels", "Labels , IDENTIFIER", List),
    ("Grouping", "by ( Labels )", Grouping),
    ("Grouping", "without ( Labels )", Grouping),
    ("Grouping", "by ( )", Grouping),
    ("Grouping", "without ( )", Grouping),
];

/// What Skald accepts beyond Loki: a range at the end of a log query.
const EXTENSIONS: &[(&str, &str, Make)] =
    &[("Query", "Selector RANGE", TrailingRange), ("Query", "Selector Pipeline RANGE", TrailingRange)];

/// The grammar with its tables.
pub(crate) struct Grammar {
    names: Vec<&'static str>,
    index: FxHashMap<&'static str, Symbol>,
    functions: FxHashMap<&'static str, Token>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) makes: Vec<Make>,
    pub(crate) tables: Tables,
}

impl Grammar {
    /// Loki's language.
    pub(crate) fn strict() -> &'static Grammar {
        static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| Grammar::build(RULES));
        &GRAMMAR
    }

    /// Loki's language and Skald's additions.
    pub(crate) fn extended() -> &'static Grammar {
        static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| Grammar::build(&[RULES, EXTENSIONS].concat()));
        &GRAMMAR
    }

    fn build(rules: &[(&'static str, &'static str, Make)]) -> Self {
        let mut names: Vec<&'static str> = TOKENS.split_whitespace().collect();
        let tokens = names.len();
        names.push("Start");
        for (left, _, _) in rules {
            if !names.contains(left) {
                names.push(left);
            }
        }
        let index: FxHashMap<&'static str, Symbol> =
            names.iter().enumerate().map(|(i, n)| (*n, i as Symbol)).collect();
        let mut precedence = vec![None; tokens];
        for (level, operators) in PRECEDENCE.iter().enumerate() {
            let right = level + 1 == PRECEDENCE.len();
            for operator in operators.split_whitespace() {
                precedence[index[operator] as usize] = Some(Precedence { level: level as u8, right });
            }
        }
        let mut built = vec![Rule { left: index["Start"], right: vec![index["Query"]], precedence: None }];
        let mut makes = vec![Make::Pass];
        for (left, right, make) in rules {
            let variants: &[bool] = if right.contains('?') { &[false, true] } else { &[true] };
            for optional in variants {
                let parts = right.split_whitespace().filter(|p| *optional || !p.ends_with('?'));
                let right: Vec<Symbol> = parts.map(|p| index[p.trim_end_matches('?')]).collect();
                let last = right.iter().rev().find(|s| (**s as usize) < tokens);
                let precedence = last.and_then(|s| precedence[*s as usize]);
                built.push(Rule { left: index[left], right, precedence });
                makes.push(*make);
            }
        }
        let tables = Tables::build(&built, tokens, names.len(), &precedence);
        let functions = FUNCTIONS.iter().map(|(word, token)| (*word, index[token])).collect();
        Self { names, index, functions, rules: built, makes, tables }
    }

    /// The token that errors call `name`.
    pub(crate) fn token(&self, name: &str) -> Token {
        self.index[name]
    }

    /// The operator or sign written `text`.
    pub(crate) fn find(&self, text: &str) -> Option<Token> {
        let sign = !text.is_empty() && text.bytes().all(|b| b.is_ascii_punctuation()) && text != "$end";
        self.index.get(text).copied().filter(|_| sign)
    }

    /// The function called `word`, in lower case.
    pub(crate) fn function(&self, word: &str) -> Option<Token> {
        self.functions.get(word).copied()
    }

    /// The keyword `word`, in lower case.
    pub(crate) fn keyword(&self, word: &str) -> Option<Token> {
        let is_word = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        self.index.get(word).copied().filter(|_| is_word)
    }

    /// How errors call a symbol.
    pub(crate) fn name(&self, symbol: Symbol) -> &'static str {
        self.names[symbol as usize]
    }
}
