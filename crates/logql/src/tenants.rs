//! Queries for several tenants: each runs the query with its name as the label `__tenant_id__`.

use skald_model::{MatchOp, Matcher};

use crate::ast::{Expr, LabelFormat, LabelFormatValue, LogExpr, MetricExpr, Stage};

/// The label that names the tenant of an entry or a series.
pub const TENANT_LABEL: &str = "__tenant_id__";

/// The query as it is for one of several tenants: matchers of `__tenant_id__` are applied to its name, and its entries get
/// the label. A selector that the name does not pass finds nothing.
#[must_use]
pub fn for_tenant(expr: &Expr, tenant: &str) -> Expr {
    match expr {
        Expr::Log(log) => Expr::Log(log_for(log, tenant)),
        Expr::Metric(metric) => Expr::Metric(metric_for(metric, tenant)),
    }
}

/// [`for_tenant`] of a log query.
#[must_use]
pub fn log_for(log: &LogExpr, tenant: &str) -> LogExpr {
    let mut out = log.clone();
    let is_ours = |m: &Matcher| &*m.name == TENANT_LABEL;
    let passes = out.selector.matchers.iter().filter(|m| is_ours(m)).all(|m| m.matches(tenant));
    out.selector.matchers.retain(|m| !is_ours(m));
    if !passes {
        // No stored stream has the label.
        out.selector.matchers.extend(Matcher::new(TENANT_LABEL, MatchOp::Equal, tenant));
    }
    let label = LabelFormat { name: TENANT_LABEL.into(), value: LabelFormatValue::Template(tenant.into()) };
    out.stages.insert(0, Stage::LabelFormat(vec![label]));
    out
}

/// [`for_tenant`] of a metric query.
#[must_use]
pub fn metric_for(metric: &MetricExpr, tenant: &str) -> MetricExpr {
    let mut out = metric.clone();
    rewrite(&mut out, tenant);
    out
}

fn rewrite(expr: &mut MetricExpr, tenant: &str) {
    match expr {
        MetricExpr::Range(range) => range.log = log_for(&range.log, tenant),
        MetricExpr::Vector(v) => rewrite(&mut v.of, tenant),
        MetricExpr::Binary(b) => {
            rewrite(&mut b.left, tenant);
            rewrite(&mut b.right, tenant);
        }
        MetricExpr::LabelReplace(r) => rewrite(&mut r.of, tenant),
        MetricExpr::Literal(_) | MetricExpr::VectorOf(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{canonical, parse};

    #[track_caller]
    fn check(query: &str, expected: &str) {
        let expr = for_tenant(&parse(query).unwrap(), "a");
        assert_eq!(canonical(&expr), expected);
        assert_eq!(canonical(&parse(&canonical(&expr)).unwrap()), expected, "it is read alike");
    }

    #[test]
    fn the_tenant_is_a_label_and_its_matchers_are_applied() {
        check(r#"{app="x"} |= "y""#, r#"{app="x"} | label_format __tenant_id__="a" |= "y""#);
        check(
            r#"sum by (__tenant_id__) (rate({app="x", __tenant_id__=~"a|b"}[1m]))"#,
            r#"sum by (__tenant_id__)(rate({app="x"} | label_format __tenant_id__="a"[1m]))"#,
        );
        check(
            r#"{app="x", __tenant_id__!="a"}"#,
            r#"{app="x", __tenant_id__="a"} | label_format __tenant_id__="a""#,
        );
    }
}
