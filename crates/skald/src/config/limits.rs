//! `limits_config`: the limits of `skald-model`, with durations and sizes as text.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use skald_model::label_text::parse_selector;
use skald_model::limits::AttributeRule;
use skald_model::regex::{Mode, Regex};
use skald_model::{Limits, Retention};
use skald_runtime::units;

/// Limits whose value is a duration; `Limits` has them in nanoseconds.
const DURATIONS: [&str; 8] = [
    "reject_old_samples_max_age",
    "creation_grace_period",
    "max_query_length",
    "max_query_lookback",
    "max_query_range",
    "query_timeout",
    "split_queries_by_interval",
    "retention_period",
];

/// Limits whose value is a size; `Limits` has them in bytes.
const SIZES: [&str; 8] = [
    "max_line_size",
    "max_structured_metadata_size",
    "per_stream_rate_limit",
    "per_stream_rate_limit_burst",
    "max_query_bytes_read",
    "max_querier_bytes_read",
    "shard_streams.desired_rate",
    "retention_bytes",
];

/// A list of rules that have a duration called `period` each.
const PERIODS: &str = "retention_stream";

/// Limits whose value is a point in time, or a map of such; `Limits` has them in nanoseconds since the Unix epoch.
const TIMES: [&str; 2] = ["block_ingestion_until", "block_ingestion_policy_until"];

/// Limits that are sections: single keys of them can be changed.
const SECTIONS: [&str; 2] = ["shard_streams", "otlp_config"];

/// The limits that hold for tenants without their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LimitsSection(pub(crate) Arc<Limits>);

impl LimitsSection {
    /// These limits with some of them changed, given as they stand in a file.
    ///
    /// # Errors
    /// Names the limit whose value is wrong.
    pub(crate) fn with(&self, changes: &Map<String, Value>) -> Result<Limits, String> {
        let mut all = to_text(&self.0);
        for (key, value) in changes {
            match all.get_mut(key) {
                Some(section) if SECTIONS.contains(&key.as_str()) => merge(section, value),
                _ => drop(all.insert(key.clone(), value.clone())),
            }
        }
        from_text(all)
    }

    /// These limits as they stand in a file.
    pub(crate) fn to_text(limits: &Limits) -> Map<String, Value> {
        to_text(limits)
    }
}

impl Serialize for LimitsSection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_text(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LimitsSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Map::<String, Value>::deserialize(deserializer)?;
        from_text(given).map(|l| Self(Arc::new(l))).map_err(serde::de::Error::custom)
    }
}

/// Puts `changes` over `value`, key by key.
fn merge(value: &mut Value, changes: &Value) {
    match (value, changes) {
        (Value::Object(map), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(map.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change.clone(),
    }
}

/// The value of a key, which may have a dot.
fn at<'a>(all: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        Some((section, key)) => all.get_mut(section)?.get_mut(key),
        None => all.get_mut(key),
    }
}

fn to_text(limits: &Limits) -> Map<String, Value> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(limits) else { return Map::new() };
    for key in DURATIONS {
        if let Some(value) = at(&mut all, key) {
            *value = value.as_i64().map(units::format_nanos).into();
        }
    }
    for key in SIZES {
        if let Some(value) = at(&mut all, key) {
            *value = value.as_u64().map(units::format_bytes).into();
        }
    }
    for period in periods(&mut all) {
        *period = period.as_i64().map(units::format_nanos).into();
    }
    for key in TIMES {
        match all.get_mut(key) {
            Some(Value::Object(times)) => times.values_mut().for_each(time_to_text),
            Some(time) => time_to_text(time),
            None => {}
        }
    }
    all
}

/// A time as RFC 3339; none is Go's zero time, as in Loki.
fn time_to_text(value: &mut Value) {
    let text = match value.as_i64().unwrap_or_default() {
        0 => "0001-01-01T00:00:00Z".to_owned(),
        nanos => DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::AutoSi, true),
    };
    *value = text.into();
}

fn parse_time(text: &str) -> Result<Value, String> {
    let time = DateTime::parse_from_rfc3339(text.trim())
        .map_err(|_| format!("{text:?} is not a time; expected for example 2026-01-31T12:00:00Z"))?;
    if time.timestamp() <= 0 {
        return Ok(0.into());
    }
    let nanos = time.timestamp_nanos_opt();
    nanos.map(Value::from).ok_or_else(|| format!("{text:?} is after the year 2262"))
}

fn from_text(mut given: Map<String, Value>) -> Result<Limits, String> {
    for key in DURATIONS {
        convert(&mut given, key, |text| units::parse_nanos(text).map(Value::from))?;
    }
    for key in SIZES {
        convert(&mut given, key, |text| units::parse_bytes(text).map(Value::from))?;
    }
    for period in periods(&mut given) {
        if let Value::String(text) = &*period {
            *period = signed_nanos(text).map_err(|e| format!("{PERIODS}: period: {e}"))?.into();
        }
    }
    for key in TIMES {
        match given.get_mut(key) {
            Some(Value::Object(times)) => {
                let policies: Vec<String> = times.keys().cloned().collect();
                for policy in policies {
                    convert(times, &policy, parse_time).map_err(|e| format!("{key}.{e}"))?;
                }
            }
            _ => convert(&mut given, key, parse_time)?,
        }
    }
    let limits = read(given)?;
    check(&limits)?;
    Ok(limits)
}

fn read(given: Map<String, Value>) -> Result<Limits, String> {
    let defaults = serde_json::to_value(Limits::default()).map_err(|e| e.to_string())?;
    let mut all = defaults.clone();
    for (key, value) in &given {
        match all.get_mut(key) {
            Some(section) if SECTIONS.contains(&key.as_str()) => merge(section, value),
            Some(slot) => *slot = value.clone(),
            None => {}
        }
    }
    if let Ok(limits) = Limits::deserialize(&all) {
        return Ok(limits);
    }
    // Key by key, so that an error can say which.
    for (key, value) in given {
        let mut one = defaults.clone();
        let Some(slot) = one.get_mut(&key) else { continue };
        let before = std::mem::replace(slot, value.clone());
        if let Err(e) = Limits::deserialize(&one) {
            return Err(format!("{key} is {value}: {e}; a value like {before} is expected"));
        }
    }
    serde_json::from_value(all).map_err(|e| e.to_string())
}

/// The periods of the rules of a list.
fn periods(all: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    let rules = all.get_mut(PERIODS).and_then(Value::as_array_mut);
    rules.into_iter().flatten().filter_map(|rule| rule.get_mut("period"))
}

/// A duration that may be negative, to be refused by the rule that it breaks.
fn signed_nanos(text: &str) -> Result<i64, String> {
    match text.trim().strip_prefix('-') {
        Some(positive) => units::parse_nanos(positive).map(|n| -n),
        None => units::parse_nanos(text),
    }
}

/// What types do not tell.
fn check(limits: &Limits) -> Result<(), String> {
    for (policy, selectors) in &limits.policy_stream_mapping {
        for s in selectors {
            parse_selector(&s.selector)
                .map_err(|e| format!("policy_stream_mapping.{policy}: selector {}: {e}", s.selector))?;
        }
    }
    Retention::of(limits)?;
    let status = limits.block_ingestion_status_code;
    if !(200..600).contains(&status) {
        return Err(format!("block_ingestion_status_code is {status}; it lies between 200 and 599"));
    }
    let otlp = &limits.otlp_config;
    let rules = |key: &'static str, rules: &[AttributeRule]| {
        let regexes = rules.iter().filter(|r| !r.regex.is_empty());
        regexes.map(move |r| (key, r.regex.clone())).collect::<Vec<_>>()
    };
    let mut regexes = rules(
        "otlp_config.resource_attributes.attributes_config",
        &otlp.resource_attributes.attributes_config,
    );
    regexes.extend(rules("otlp_config.scope_attributes", &otlp.scope_attributes));
    regexes.extend(rules("otlp_config.log_attributes", &otlp.log_attributes));
    let blocked = limits.blocked_queries.iter().filter(|b| b.regex);
    regexes.extend(blocked.map(|b| ("blocked_queries", b.pattern.clone())));
    for (key, regex) in regexes {
        Regex::new(&regex, Mode::Anchored).map_err(|e| format!("{key}: regex {regex:?}: {e}"))?;
    }
    Ok(())
}

fn convert(
    given: &mut Map<String, Value>,
    key: &str,
    read: impl Fn(&str) -> Result<Value, String>,
) -> Result<(), String> {
    let Some(value) = at(given, key) else { return Ok(()) };
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Ok(()),
    };
    *value = read(&text).map_err(|e| format!("{key}: {e}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(changes: &Value) -> Result<Limits, String> {
        LimitsSection::default().with(changes.as_object().unwrap())
    }

    #[test]
    fn every_key_with_a_unit_is_a_limit() {
        let Value::Object(mut all) = serde_json::to_value(Limits::default()).unwrap() else { unreachable!() };
        for key in DURATIONS.iter().chain(&SIZES) {
            assert!(at(&mut all, key).is_some_and(|v| v.is_number()), "{key}");
        }
        for key in TIMES.iter().chain(&SECTIONS) {
            assert!(all.contains_key(*key), "{key}");
        }
    }

    #[test]
    fn durations_and_sizes_are_text_outside_and_numbers_inside() {
        let limits =
            with(&json!({"max_line_size": "1MB", "query_timeout": "5m", "max_query_length": 0})).unwrap();
        assert_eq!((limits.max_line_size, limits.query_timeout), (1 << 20, 300_000_000_000));
        assert_eq!(limits.max_query_length, 0);
        let text = serde_json::to_value(LimitsSection(Arc::new(limits.clone()))).unwrap();
        assert_eq!(text["query_timeout"], "5m");
        let back: LimitsSection = serde_json::from_value(text).unwrap();
        assert_eq!(*back.0, limits);
    }

    #[test]
    fn limits_with_parts_can_be_changed_and_read_again() {
        let limits = with(&json!({
            "shard_streams": {"desired_rate": "3MB"},
            "block_ingestion_until": "2030-01-01T00:00:00Z",
            "block_ingestion_policy_until": {"p": "2030-01-01T01:00:00+01:00"},
            "policy_stream_mapping": {"p": [{"selector": "{app=\"x\"}", "priority": 3}]},
            "blocked_queries": [{"pattern": ".*rate.*", "regex": true, "types": "metric, filter"}],
            "otlp_config": {"log_attributes": [{"action": "drop", "regex": "secret.*"}]},
            "retention_period": "31d",
            "retention_bytes": "5GB",
            "retention_stream": [{"selector": "{app=\"x\"}", "priority": 2, "period": "2d"}],
            "deletion_mode": "filter-only",
        }))
        .unwrap();
        assert!(!limits.shard_streams.enabled && limits.shard_streams.desired_rate == 3 << 20);
        assert_eq!(limits.block_ingestion_until, 1_893_456_000_000_000_000);
        assert_eq!(limits.block_ingestion_policy_until["p"], limits.block_ingestion_until);
        assert_eq!(limits.blocked_queries[0].types, ["metric", "filter"]);
        assert_eq!(
            (limits.retention_stream[0].period, limits.retention_bytes),
            (172_800_000_000_000, 5 << 30)
        );
        assert_eq!(to_text(&limits)["retention_stream"][0]["period"], "48h");
        let again = LimitsSection::default().with(&to_text(&limits)).unwrap();
        assert_eq!(again, limits);
        assert_eq!(to_text(&Limits::default())["block_ingestion_until"], "0001-01-01T00:00:00Z");
    }

    #[test]
    fn what_cannot_be_applied_is_named() {
        for (wrong, key) in [
            (json!({"policy_stream_mapping": {"p": [{"selector": "{app}"}]}}), "policy_stream_mapping.p"),
            (json!({"block_ingestion_until": "soon"}), "block_ingestion_until"),
            (json!({"block_ingestion_policy_until": {"p": "soon"}}), "block_ingestion_policy_until.p"),
            (json!({"block_ingestion_status_code": 99}), "block_ingestion_status_code"),
            (
                json!({"otlp_config": {"log_attributes": [{"action": "drop", "regex": "("}]}}),
                "log_attributes",
            ),
            (json!({"otlp_config": {"log_attributes": [{"action": "keep"}]}}), "otlp_config"),
            (json!({"shard_streams": {"desired_rte": 1}}), "shard_streams"),
            (json!({"ingestion_rate_strategy": "none"}), "ingestion_rate_strategy"),
            (json!({"blocked_queries": [{"pattern": "(", "regex": true}]}), "blocked_queries"),
            (
                json!({"retention_stream": [{"selector": "{app}", "period": "48h"}]}),
                "invalid labels matchers",
            ),
            (
                json!({"retention_stream": [{"selector": "{a=\"b\"}", "period": "5h"}]}),
                "retention period must be >= 24h was",
            ),
            (json!({"retention_stream": [{"selector": "{a=\"b\"}", "period": "-48h"}]}), "retention_stream"),
            (json!({"retention_stream": [{"selector": "{a=\"b\"}", "period": "soon"}]}), "retention_stream"),
            (json!({"retention_stream": [{"selectr": "{a=\"b\"}", "period": "48h"}]}), "retention_stream"),
            (json!({"retention_period": "-1h"}), "retention_period"),
            (json!({"deletion_mode": "sometimes"}), "deletion_mode"),
        ] {
            let error = with(&wrong).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_is_named() {
        let error = with(&json!({"max_query_series": "many"})).unwrap_err();
        assert!(
            error.contains("max_query_series") && error.contains("many") && error.contains("500"),
            "{error}"
        );
        let error = with(&json!({"query_timeout": "soon"})).unwrap_err();
        assert!(error.contains("query_timeout") && error.contains("30s"), "{error}");
    }
}
