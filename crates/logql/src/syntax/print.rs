//! The tree as text: Loki's `format_query`, and a canonical form that loses nothing.

use std::fmt::{self, Write as _};

use super::text::quote;
use crate::ast::*;
use crate::units::{
    format_bytes, format_float, format_float_short, format_go_duration, format_prometheus_duration,
};

/// Formats a query as Loki does: on one line up to 100 characters, else broken and indented.
pub fn format_query(expr: &Expr) -> String {
    let printer = Printer { exact: false };
    match expr {
        Expr::Log(log) => printer.pretty_log(log, 0),
        Expr::Metric(metric) => printer.pretty(metric, 0),
    }
}

/// The query in one form whatever way it was written, and without the roundings of [`format_query`]: parsing it gives
/// the same tree. For cache keys, and for sending queries between nodes.
pub fn canonical(expr: &Expr) -> String {
    let printer = Printer { exact: true };
    match expr {
        Expr::Log(log) => printer.log(log),
        Expr::Metric(metric) => printer.metric(metric),
    }
}

impl fmt::Display for Stage {
    /// The stage as Loki shows it in errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Printer { exact: false }.stage(self))
    }
}

#[derive(Clone, Copy)]
struct Printer {
    /// Byte sizes and durations in full instead of rounded.
    exact: bool,
}

/// Lines longer than this are broken.
const MAX_LINE: usize = 100;

fn indent(level: usize) -> String {
    "  ".repeat(level)
}

impl Printer {
    fn log(self, log: &LogExpr) -> String {
        let mut out = selector(&log.selector);
        for stage in &log.stages {
            out.push(' ');
            out.push_str(&self.stage(stage));
        }
        if let Some(range) = log.range {
            let _ = write!(out, " [{}]", format_prometheus_duration(range));
        }
        out
    }

    fn stage(self, stage: &Stage) -> String {
        match stage {
            Stage::LineFilter(filter) => line_filter(filter),
            Stage::Json(extractions) if extractions.is_empty() => "| json".into(),
            Stage::Json(list) => format!("| json {}", extractions(list)),
            Stage::Logfmt { strict, keep_empty, extractions: list } => {
                let mut out = String::from("| logfmt");
                if *strict {
                    out.push_str(" --strict");
                }
                if *keep_empty {
                    out.push_str(" --keep-empty");
                }
                if !list.is_empty() {
                    let _ = write!(out, " {}", extractions(list));
                }
                out
            }
            Stage::Regexp(e) => format!("| regexp {}", quote(e)),
            Stage::Pattern(e) => format!("| pattern {}", quote(e)),
            Stage::Unpack => "| unpack".into(),
            Stage::LabelFilter(filter) => format!("| {}", self.label_filter(filter)),
            Stage::LineFormat(template) => format!("| line_format {}", quote(template)),
            Stage::LabelFormat(formats) => {
                let list: Vec<String> = formats
                    .iter()
                    .map(|f| match &f.value {
                        LabelFormatValue::Rename(source) => format!("{}={source}", f.name),
                        LabelFormatValue::Template(template) => format!("{}={}", f.name, quote(template)),
                    })
                    .collect();
                format!("| label_format {}", list.join(","))
            }
            Stage::Decolorize => "| decolorize".into(),
            Stage::Drop(list) => format!("| drop {}", picks(list)),
            Stage::Keep(list) => format!("| keep {}", picks(list)),
        }
    }

    fn label_filter(self, filter: &LabelFilter) -> String {
        match filter {
            LabelFilter::Text(m) => matcher(m),
            LabelFilter::Number(name, op, v) => format!("{name}{}{}", op.as_str(), format_float(*v)),
            LabelFilter::Duration(name, op, v) => format!("{name}{}{}", op.as_str(), format_go_duration(*v)),
            LabelFilter::Bytes(name, op, v) if self.exact => format!("{name}{}{v}B", op.as_str()),
            LabelFilter::Bytes(name, op, v) => format!("{name}{}{}", op.as_str(), format_bytes(*v)),
            LabelFilter::Ip { name, negative, pattern } => {
                format!("{name}{}ip({})", if *negative { "!=" } else { "=" }, quote(pattern))
            }
            LabelFilter::And(a, b) => format!("( {} , {} )", self.label_filter(a), self.label_filter(b)),
            LabelFilter::Or(a, b) => format!("( {} or {} )", self.label_filter(a), self.label_filter(b)),
        }
    }

    fn unwrap(self, unwrap: &Unwrap) -> String {
        let mut out = match unwrap.conversion {
            Conversion::Number => format!("| unwrap {}", unwrap.label),
            Conversion::Duration => format!("| unwrap duration({})", unwrap.label),
            Conversion::DurationSeconds => format!("| unwrap duration_seconds({})", unwrap.label),
            Conversion::Bytes => format!("| unwrap bytes({})", unwrap.label),
        };
        for filter in &unwrap.filters {
            let _ = write!(out, " | {}", self.label_filter(filter));
        }
        out
    }

    fn range(self, range: &RangeAggregation) -> String {
        let mut out = format!("{}(", range.op.as_str());
        if let Some(p) = range.parameter {
            let _ = write!(out, "{},", format_float_short(p));
        }
        out.push_str(&self.log(&range.log));
        if let Some(unwrap) = &range.unwrap {
            let _ = write!(out, " {}", self.unwrap(unwrap));
        }
        let _ = write!(out, "[{}]", format_prometheus_duration(range.interval));
        if range.offset != 0 {
            let _ = write!(out, " offset {}", format_go_duration(range.offset));
        }
        out.push(')');
        if let Some(grouping) = &range.grouping {
            out.push_str(&self::grouping(grouping));
        }
        out
    }

    fn metric(self, expr: &MetricExpr) -> String {
        match expr {
            MetricExpr::Range(range) => self.range(range),
            MetricExpr::Vector(v) => {
                let mut out = String::from(v.op.as_str());
                if let Some(grouping) = &v.grouping {
                    out.push_str(&self::grouping(grouping));
                }
                out.push('(');
                if let Some(p) = v.parameter {
                    let _ = write!(out, "{p},");
                }
                let _ = write!(out, "{})", self.metric(&v.of));
                out
            }
            MetricExpr::Binary(b) => {
                format!("({} {} {})", self.metric(&b.left), operator(b), self.metric(&b.right))
            }
            // "-0" alone would be read as a duration.
            MetricExpr::Literal(v) if *v == 0.0 && v.is_sign_negative() => "-0.0".into(),
            // Nor can what no literal stands for be read again, but it can be computed.
            MetricExpr::Literal(v) if self.exact && v.is_nan() => "(0 / 0)".into(),
            MetricExpr::Literal(v) if self.exact && v.is_infinite() => {
                if *v > 0.0 {
                    "(2 ^ 1024)".into()
                } else {
                    "(-2 ^ 1025)".into()
                }
            }
            MetricExpr::Literal(v) => format_float_short(*v),
            MetricExpr::LabelReplace(r) => format!(
                "label_replace({},{},{},{},{})",
                self.metric(&r.of),
                quote(&r.destination),
                quote(&r.replacement),
                quote(&r.source),
                quote(&r.expression)
            ),
            MetricExpr::VectorOf(v) if self.exact => format!("vector({})", format_float_short(*v)),
            MetricExpr::VectorOf(v) => format!("vector({v:.6})"),
        }
    }

    fn pretty_log(self, log: &LogExpr, level: usize) -> String {
        let flat = self.log(log);
        if flat.len() <= MAX_LINE || log.stages.is_empty() {
            return indent(level) + &flat;
        }
        let mut out = indent(level) + &selector(&log.selector);
        for stage in &log.stages {
            let _ = write!(out, "\n{}{}", indent(level + 1), self.stage(stage));
        }
        if let Some(range) = log.range {
            let _ = write!(out, " [{}]", format_prometheus_duration(range));
        }
        out
    }

    fn pretty(self, expr: &MetricExpr, level: usize) -> String {
        let flat = self.metric(expr);
        let margin = indent(level);
        if flat.len() <= MAX_LINE {
            return margin + &flat;
        }
        let inner = indent(level + 1);
        match expr {
            MetricExpr::Range(range) => {
                let mut out = format!("{margin}{}(\n", range.op.as_str());
                if let Some(p) = range.parameter {
                    let _ = writeln!(out, "{inner}{},", format_float_short(p));
                }
                out.push_str(&self.pretty_log(&range.log, level + 1));
                if let Some(unwrap) = &range.unwrap {
                    let _ = write!(out, "\n{}{}", indent(level + 2), self.unwrap(unwrap));
                }
                let _ = write!(out, " [{}]", format_prometheus_duration(range.interval));
                if range.offset != 0 {
                    let _ = write!(out, " offset {}", format_prometheus_offset(range.offset));
                }
                let _ = write!(out, "\n{margin})");
                out.push_str(&range.grouping.as_ref().map(pretty_grouping).unwrap_or_default());
                out
            }
            MetricExpr::Vector(v) => {
                let grouping = v.grouping.as_ref().map(pretty_grouping).unwrap_or_default();
                let mut out = format!("{margin}{}{grouping}(\n", v.op.as_str());
                if let Some(p) = v.parameter {
                    let _ = writeln!(out, "{inner}{p},");
                }
                let _ = write!(out, "{}\n{margin})", self.pretty(&v.of, level + 1));
                out
            }
            MetricExpr::Binary(b) => format!(
                "{}\n{margin}{}\n{}",
                self.pretty(&b.left, level + 1),
                operator(b),
                self.pretty(&b.right, level + 1)
            ),
            MetricExpr::LabelReplace(r) => {
                let arguments = [&r.destination, &r.replacement, &r.source, &r.expression]
                    .map(|a| format!(",\n{inner}{}", quote(a)))
                    .concat();
                format!("{margin}label_replace(\n{}{arguments}\n{margin})", self.pretty(&r.of, level + 1))
            }
            MetricExpr::Literal(_) | MetricExpr::VectorOf(_) => margin + &flat,
        }
    }
}

fn format_prometheus_offset(nanos: i64) -> String {
    match nanos {
        0.. => format_prometheus_duration(nanos),
        _ => format!("-{}", format_prometheus_duration(nanos.saturating_neg())),
    }
}

fn selector(selector: &skald_model::Selector) -> String {
    let list: Vec<String> = selector.matchers.iter().map(matcher).collect();
    format!("{{{}}}", list.join(", "))
}

fn matcher(m: &skald_model::Matcher) -> String {
    format!("{}{}{}", m.name, m.op.as_str(), quote(&m.value))
}

fn line_filter(filter: &LineFilter) -> String {
    let alternatives: Vec<String> = filter
        .alternatives
        .iter()
        .map(|a| match a {
            LineOperand::Text(text) => quote(text),
            LineOperand::Ip(pattern) => format!("ip({})", quote(pattern)),
        })
        .collect();
    format!("{} {}", filter.op.as_str(), alternatives.join(" or "))
}

fn extractions(list: &[Extraction]) -> String {
    let list: Vec<String> = list
        .iter()
        .map(|e| if e.bare { e.name.clone() } else { format!("{}={}", e.name, quote(&e.expression)) })
        .collect();
    list.join(",")
}

fn picks(list: &[LabelPick]) -> String {
    let list: Vec<String> = list
        .iter()
        .map(|p| match p {
            LabelPick::Name(name) => name.clone(),
            LabelPick::Matcher(m) => matcher(m),
        })
        .collect();
    list.join(",")
}

fn grouping(g: &Grouping) -> String {
    format!(" {} ({})", if g.without { "without" } else { "by" }, g.labels.join(","))
}

fn pretty_grouping(g: &Grouping) -> String {
    format!(" {} ({})", if g.without { "without" } else { "by" }, g.labels.join(", "))
}

/// The operator of a binary operation with its modifiers.
fn operator(b: &Binary) -> String {
    let mut out = String::from(b.op.as_str());
    if b.returns_bool {
        out.push_str(" bool");
    }
    if b.matching.explicit {
        let keyword = if b.matching.on { "on" } else { "ignoring" };
        let _ = write!(out, " {keyword} ({})", b.matching.labels.join(","));
    }
    let group = match b.matching.cardinality {
        Cardinality::OneToOne => return out,
        Cardinality::ManyToOne => "group_left",
        Cardinality::OneToMany => "group_right",
    };
    let _ = write!(out, " {group} ({})", b.matching.include.join(","));
    out
}
