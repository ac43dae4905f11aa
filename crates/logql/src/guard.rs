//! Whether a query is allowed by what its text shows.

use skald_model::{Error, Limits, Result, Selector};

use crate::ast::Expr;
use crate::syntax::{each_range, each_selector};
use crate::units::format_prometheus_duration;

/// Checks matchers and ranges of a query against the limits, in Loki's words.
///
/// # Errors
/// `InvalidArgument` for `max_streams_matchers_per_query`, `required_labels`, `minimum_labels_number` and
/// `max_query_range`.
pub fn check(expr: &Expr, limits: &Limits) -> Result<()> {
    each_selector(expr, &mut |selector| check_selector(selector, limits))?;
    let Expr::Metric(metric) = expr else { return Ok(()) };
    each_range(metric, &mut |range| {
        if limits.max_query_range > 0 && range.interval > limits.max_query_range {
            return Err(Error::invalid(format!(
                "[interval] value exceeds limit: [{}] > [{}]",
                format_prometheus_duration(range.interval),
                format_prometheus_duration(limits.max_query_range)
            )));
        }
        Ok(())
    })
}

fn check_selector(selector: &Selector, limits: &Limits) -> Result<()> {
    let (count, max) = (selector.matchers.len(), limits.max_streams_matchers_per_query);
    if max > 0 && count > max {
        return Err(Error::invalid(format!(
            "max streams matchers per query exceeded, matchers-count > limit ({count} > {max})"
        )));
    }
    let present = || {
        let names: Vec<&str> = selector.matchers.iter().map(|m| &*m.name).collect();
        names.join(", ")
    };
    let missing: Vec<&str> = limits
        .required_labels
        .iter()
        .map(String::as_str)
        .filter(|name| !selector.matchers.iter().any(|m| &*m.name == *name))
        .collect();
    if !missing.is_empty() {
        return Err(Error::invalid(format!(
            "stream selector is missing required matchers [{}], labels present in the query were [{}]",
            missing.join(", "),
            present()
        )));
    }
    if count < limits.minimum_labels_number {
        return Err(Error::invalid(format!(
            "stream selector has less label matchers than required: (present: [{}], number_label_matchers: {count}, \
             required_number_label_matchers: {})",
            present(),
            limits.minimum_labels_number
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(query: &str, limits: &Limits, expected: &str) {
        let error = check(&crate::parse(query).unwrap(), limits).unwrap_err();
        assert_eq!(error.message, expected);
    }

    #[test]
    fn matchers_and_ranges_are_held_to_the_limits() {
        let query = r#"sum(rate({app="a", env="b"}[2h])) / sum(rate({app="a"}[1m]))"#;
        assert!(check(&crate::parse(query).unwrap(), &Limits::default()).is_ok());
        refused(
            query,
            &Limits { max_query_range: 3_600_000_000_000, ..Limits::default() },
            "[interval] value exceeds limit: [2h] > [1h]",
        );
        refused(
            query,
            &Limits { required_labels: vec!["env".into()], ..Limits::default() },
            "stream selector is missing required matchers [env], labels present in the query were [app]",
        );
        refused(
            query,
            &Limits { minimum_labels_number: 2, ..Limits::default() },
            "stream selector has less label matchers than required: (present: [app], number_label_matchers: 1, \
             required_number_label_matchers: 2)",
        );
        refused(
            query,
            &Limits { max_streams_matchers_per_query: 1, ..Limits::default() },
            "max streams matchers per query exceeded, matchers-count > limit (2 > 1)",
        );
    }
}
