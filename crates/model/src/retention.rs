//! Retention: how long entries of a stream are kept.

use crate::labels::LabelsRef;
use crate::limits::Limits;
use crate::matcher::Selector;
use crate::removal::NEVER;
use crate::time::{SECOND, Timestamp};

/// The shortest time that a rule for single streams may have, as in Loki.
pub const STREAM_PERIOD_MIN: i64 = 24 * 3600 * SECOND;

/// Cut-offs are whole multiples of this: then all queries of a minute share remembered answers.
const GRAIN: i64 = 60 * SECOND;

/// The rules of one tenant, compiled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retention {
    /// In order of precedence: the first that matches counts.
    rules: Vec<Rule>,
    /// For streams that no rule matches, nanoseconds; 0 is for ever.
    period: i64,
}

/// A rule for some streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which streams.
    pub selector: Selector,
    /// How long they are kept, nanoseconds.
    pub period: i64,
}

impl Retention {
    /// The rules of a tenant. Loki's order: the highest priority first, of equal ones the shortest period.
    ///
    /// # Errors
    /// Names the rule that is wrong, in Loki's words where it has some.
    pub fn of(limits: &Limits) -> Result<Self, String> {
        if limits.retention_period < 0 {
            return Err(format!(
                "retention_period is {}; it must not be negative (0 keeps everything)",
                seconds(limits.retention_period)
            ));
        }
        let mut rules = limits.retention_stream.iter().collect::<Vec<_>>();
        rules.sort_by_key(|r| (std::cmp::Reverse(r.priority), r.period));
        let rule = |r: &&crate::limits::StreamRetention| {
            let named = |e: &dyn std::fmt::Display| format!("retention_stream: selector {}: {e}", r.selector);
            let selector = crate::label_text::parse_selector(&r.selector)
                .map_err(|e| named(&format!("invalid labels matchers: {e}")))?;
            if r.period < STREAM_PERIOD_MIN {
                let period = seconds(r.period);
                return Err(named(&format!("retention period must be >= 24h was {period}")));
            }
            Ok(Rule { selector, period: r.period })
        };
        Ok(Self { rules: rules.iter().map(rule).collect::<Result<_, _>>()?, period: limits.retention_period })
    }

    /// Whether nothing ever expires.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.period == 0
    }

    /// The rules for single streams, in order of precedence.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How long streams are kept that no rule matches, nanoseconds; 0 is for ever.
    pub fn period(&self) -> i64 {
        self.period
    }

    /// How long entries of a stream with `labels` are kept, nanoseconds; 0 is for ever.
    pub fn period_of(&self, labels: LabelsRef<'_>) -> i64 {
        self.rules.iter().find(|r| r.selector.matches(labels)).map_or(self.period, |r| r.period)
    }
}

/// Before which time entries have expired at `now` that are kept for `period`; [`NEVER`] for 0. It moves once a minute.
pub fn cutoff(now: Timestamp, period: i64) -> Timestamp {
    match period {
        0 => NEVER,
        period => now.div_euclid(GRAIN).saturating_mul(GRAIN).saturating_sub(period),
    }
}

fn seconds(nanos: i64) -> String {
    format!("{}s", nanos as f64 / SECOND as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;
    use crate::limits::StreamRetention;

    const HOUR: i64 = 3600 * SECOND;

    fn rule(selector: &str, priority: i64, hours: i64) -> StreamRetention {
        StreamRetention { selector: selector.into(), priority, period: hours * HOUR }
    }

    fn hours(rules: &[StreamRetention], default: i64, labels: &[(&str, &str)]) -> i64 {
        let limits = Limits {
            retention_period: default * HOUR,
            retention_stream: rules.to_vec(),
            ..Limits::default()
        };
        let labels = Labels::from_pairs(labels.iter().copied());
        Retention::of(&limits).unwrap().period_of(labels.as_ref()) / HOUR
    }

    #[test]
    fn the_highest_priority_counts_then_the_shortest_then_the_tenants() {
        let rules =
            [rule(r#"{app="a"}"#, 1, 30), rule(r#"{env="dev"}"#, 2, 90), rule(r#"{env=~"d.*"}"#, 2, 48)];
        for (labels, expected) in [
            (&[("app", "a")][..], 30),
            (&[("app", "a"), ("env", "dev")], 48),
            (&[("env", "dev")], 48),
            (&[("env", "prod")], 100),
        ] {
            assert_eq!(hours(&rules, 100, labels), expected, "{labels:?}");
        }
        assert_eq!(hours(&rules, 0, &[("env", "prod")]), 0, "for ever");
        assert_eq!(hours(&[rule("{}", 0, 24)], 0, &[("env", "prod")]), 24, "the empty selector is all");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |period: i64, rules: &[StreamRetention]| {
            let limits =
                Limits { retention_period: period, retention_stream: rules.to_vec(), ..Limits::default() };
            Retention::of(&limits).unwrap_err()
        };
        assert!(error(-SECOND, &[]).contains("retention_period is -1s"));
        let short = error(0, &[rule(r#"{app="a"}"#, 0, 5)]);
        assert!(
            short.contains("retention period must be >= 24h was 18000s") && short.contains("{app="),
            "{short}"
        );
        assert!(error(0, &[rule(r#"{app="a"}"#, 0, -48)]).contains("was -172800s"));
        assert!(error(0, &[rule("{app=a", 0, 48)]).contains("invalid labels matchers"));
        assert!(error(0, &[rule(r#"{app="a"} |= "x""#, 0, 48)]).contains("invalid labels matchers"));
    }

    #[test]
    fn cutoffs_move_once_a_minute_and_do_not_overflow() {
        assert_eq!(cutoff(61 * SECOND, 0), NEVER);
        assert_eq!(cutoff(61 * SECOND, 10 * SECOND), 50 * SECOND);
        assert_eq!(cutoff(119 * SECOND, 10 * SECOND), 50 * SECOND);
        assert_eq!(cutoff(i64::MIN, i64::MAX), i64::MIN);
    }
}
